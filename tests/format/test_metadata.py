"""Metadata keep their exact encoding, and give decoded values when asked."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguftool.errors import UsageError
from gguftool.format.metadata import Metadata, MetaValue, ValueType

RANGES = {
    ValueType.U8: (0, 2**8 - 1),
    ValueType.I8: (-(2**7), 2**7 - 1),
    ValueType.U16: (0, 2**16 - 1),
    ValueType.I16: (-(2**15), 2**15 - 1),
    ValueType.U32: (0, 2**32 - 1),
    ValueType.I32: (-(2**31), 2**31 - 1),
    ValueType.U64: (0, 2**64 - 1),
    ValueType.I64: (-(2**63), 2**63 - 1),
}


@pytest.mark.parametrize("type", RANGES)
def test_integers_fill_their_type_and_no_more(type: ValueType) -> None:
    low, high = RANGES[type]
    for value in (low, high):
        assert MetaValue.of(value, type).value == value
    for value in (low - 1, high + 1):
        with pytest.raises(UsageError, match="cannot be stored"):
            MetaValue.of(value, type)


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (1.5, ValueType.U32),
        ("1", ValueType.I32),
        (True, ValueType.U8),
        (1, ValueType.BOOL),
        (1e300, ValueType.F32),
        (7, ValueType.STRING),
        ("\ud800", ValueType.STRING),
        ([1], ValueType.U32),
    ],
)
def test_a_value_of_another_kind_is_refused(value: Any, type: ValueType) -> None:
    with pytest.raises(UsageError, match="cannot be stored"):
        MetaValue.of(value, type)


def test_arrays_need_a_plain_element_type() -> None:
    for element in (None, ValueType.ARRAY):
        with pytest.raises(UsageError, match="element type"):
            MetaValue.of([], ValueType.ARRAY, element)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_strings_survive(texts: list[str]) -> None:
    value = MetaValue.of(texts, ValueType.ARRAY, ValueType.STRING)
    assert value.value == texts
    assert value.count == len(texts)
    assert value.head(2) == texts[:2]


@given(st.binary())
def test_bytes_that_are_no_text_survive(raw: bytes) -> None:
    value = MetaValue(ValueType.STRING, struct.pack("<Q", len(raw)) + raw)
    assert MetaValue.of(value.value, ValueType.STRING) == value


@given(st.lists(st.floats(width=32)))
def test_floats_survive(values: list[float]) -> None:
    value = MetaValue.of(values, ValueType.ARRAY, ValueType.F32)
    assert MetaValue.of(value.value, ValueType.ARRAY, ValueType.F32).count == len(values)
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, value.value, strict=True))


def test_only_arrays_have_a_head() -> None:
    with pytest.raises(UsageError, match="no elements"):
        MetaValue.of(1, ValueType.U8).head(1)


def test_edits_keep_places_and_append_new_keys() -> None:
    one, two, three = (MetaValue.of(n, ValueType.U32) for n in (1, 2, 3))
    before = Metadata.of([("a", one), ("b", two), ("c", three)])
    after = before.replaced({"b": three, "d": one, "a": None, "absent": None})
    assert list(after.items()) == [("b", 3), ("c", 3), ("d", 1)]
    assert list(before) == ["a", "b", "c"]
    assert after.entry("d") is one
    assert "a" not in after
    assert before == Metadata.of(before.entries()) != after
