"""Patterns for sets of layer numbers: exact, and short."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguftool.recipe.numbers import number_pattern

_LAYERS = st.sets(st.integers(0, 200), min_size=1)


def matched(pattern: str, numbers: set[int]) -> set[int]:
    compiled = re.compile(pattern)
    return {n for n in numbers if compiled.fullmatch(str(n))}


@pytest.mark.parametrize(
    ("numbers", "pattern"),
    [
        ({7}, "7"),
        ({3, 7}, "[37]"),
        ({3, 4, 5}, "[3-5]"),
        ({*range(10), 10, 11, 12, 15, 17, 31}, "([0-9]|1[0-257]|31)"),
        ({0, 1, *range(20, 30), 30, 31}, "([01]|2[0-9]|3[01])"),
        ({100, 101, 110, 111}, "1[01][01]"),
    ],
)
def test_sets_as_a_person_would_spell_them(numbers: set[int], pattern: str) -> None:
    assert number_pattern(numbers, (), {999}) == pattern


def test_all_layers_are_any_number() -> None:
    assert number_pattern(set(range(40))) == "[0-9]+"


def test_no_number_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        number_pattern(set())


def test_random_subsets_of_two_hundred_layers_are_matched_exactly() -> None:
    rng = random.Random(7)
    every = set(range(201))
    for _ in range(400):
        wanted = set(rng.sample(range(201), rng.randint(1, 200)))
        assert matched(number_pattern(wanted, (), every - wanted), every) == wanted


@given(_LAYERS, _LAYERS, st.sampled_from([12, 40, 80, 200]))
def test_all_that_must_is_matched_and_nothing_else_but_what_may(must: set[int], may: set[int], last: int) -> None:
    every = set(range(last + 1)) | must | may
    others = every - must - may
    found = matched(number_pattern(must, may, others), every)
    assert must <= found
    assert not found & others


@given(_LAYERS, _LAYERS)
def test_what_may_be_matched_never_makes_it_longer(must: set[int], may: set[int]) -> None:
    others = set(range(201)) - must - may
    assert len(number_pattern(must, may, others)) <= len(number_pattern(must, (), others | {999}))


@given(_LAYERS)
def test_patterns_hold_nothing_that_a_dialect_reads_in_a_way_of_its_own(numbers: set[int]) -> None:
    assert re.fullmatch(r"[0-9\[\]|()?+-]+", number_pattern(numbers, (), {999}))
