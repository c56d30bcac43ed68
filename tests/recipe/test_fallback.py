"""Substitutes for types whose blocks do not fill the rows."""

from __future__ import annotations

import pytest

from gguftool.format.quanttypes import TYPES, type_by_name
from gguftool.recipe.fallback import fitting_type


@pytest.mark.parametrize(
    ("wished", "n_cols", "family", "given"),
    [
        ("q4_K", 512, "mainline", "q4_K"),
        ("iq1_m", 96, "mainline", "iq4_nl"),
        ("iq4_xs", 96, "mainline", "iq4_nl"),
        ("q2_K", 96, "mainline", "q4_0"),
        ("q2_0", 96, "mainline", "q4_0"),
        ("tq2_0", 96, "mainline", "q4_0"),
        ("q4_K", 96, "mainline", "q5_0"),
        ("q5_K", 96, "mainline", "q5_1"),
        ("q6_K", 96, "mainline", "q8_0"),
        ("q4_K", 40, "mainline", "f16"),
        ("q8_0", 48, "mainline", "f16"),
        ("q4_0", 40, "mainline", "f16"),
        ("mxfp4", 40, "mainline", "f16"),
        ("iq4_kss", 96, "mainline", "iq4_nl"),
        ("iq5_k", 96, "mainline", "q6_0"),
        ("iq6_k", 96, "ik", "q8_0"),
        ("iq5_ks", 96, "ik", "q5_0"),
        ("q5_K", 96, "ik", "q6_0"),
        ("q2_K", 96, "ik", "iq4_nl"),
        ("iq2_bn", 96, "ik", "f16"),
        ("q8_KV", 40, "ik", "f16"),
    ],
)
def test_substitutes(wished: str, n_cols: int, family: str, given: str) -> None:
    assert fitting_type(type_by_name(wished), n_cols, family).name == given


@pytest.mark.parametrize("family", ["mainline", "ik"])
def test_every_target_ends_in_a_type_that_fits(family: str) -> None:
    for wished in filter(lambda t: t.is_target, TYPES):
        for n_cols in (1, 32, 40, 64, 96, 256, 320):
            assert n_cols % fitting_type(wished, n_cols, family).block_size == 0
