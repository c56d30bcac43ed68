"""--override-kv: what each spelling means, and what means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gguftool.errors import UsageError
from gguftool.format.metadata import ValueType
from gguftool.plan.overrides import parse_overrides


@pytest.mark.parametrize(
    ("item", "key", "value", "kind"),
    [
        ("a.b=int:7", "a.b", 7, ValueType.U32),
        ("a=int:-7", "a", -7, ValueType.I32),
        ("a=int:4294967296", "a", 1 << 32, ValueType.U64),
        ("a=int:-2147483649", "a", -(1 << 31) - 1, ValueType.I64),
        ("a=float:0.5", "a", 0.5, ValueType.F32),
        ("a=bool:true", "a", True, ValueType.BOOL),
        ("a=str:x=y:z", "a", "x=y:z", ValueType.STRING),
        ("a=str:", "a", "", ValueType.STRING),
        ("\udcff=int:1", "\udcff", 1, ValueType.U32),
        ("a=str:" + "é" * 300, "a", "é" * 300, ValueType.STRING),
    ],
)
def test_values(item: str, key: str, value: Any, kind: ValueType) -> None:
    ((found, entry),) = parse_overrides([item]).items()
    assert (found, entry.value, entry.type) == (key, value, kind)


@pytest.mark.parametrize(
    "item",
    ["", "a", "a=7", "=int:7", "a=int:7x", "a=int:", "a=float:x", "a=float:1e39", "a=bool:1", "a=arr:1", "a=INT:7",
     "a=int:18446744073709551616", "split.count=int:2", "split.no=int:0", "k" * 128 + "=int:1"],
)  # fmt: skip
def test_nonsense(item: str) -> None:
    with pytest.raises(UsageError, match="--override-kv"):
        parse_overrides([item])


def test_the_last_one_counts() -> None:
    assert parse_overrides(["a=int:1", "a=int:2"])["a"].value == 2
