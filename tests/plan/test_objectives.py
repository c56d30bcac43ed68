"""Which objective a tensor gets when nobody says."""

from __future__ import annotations

import pytest

from gguftool.format.quanttypes import type_by_name
from gguftool.plan.objectives import objective_for


@pytest.mark.parametrize(
    ("name", "kind", "objective"),
    [
        ("blk.3.ffn_gate.weight", "q2_K", "unbiased"),
        ("blk.3.ffn_down_exps.weight", "q3_K", "unbiased"),
        ("token_embd.weight", "q2_K", "unbiased"),
        ("blk.3.attn_v.weight", "q2_K", "imatrix"),
        ("blk.3.attn_output.weight", "q3_K", "imatrix"),
        ("blk.3.attn_v.weight", "q6_K", "imatrix"),
        ("blk.3.ffn_gate.weight", "q4_K", "imatrix"),
    ],
)
def test_two_and_three_bits_keep_their_gain_but_for_averages(name: str, kind: str, objective: str) -> None:
    assert objective_for(name, type_by_name(kind)) == objective
