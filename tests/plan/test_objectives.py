"""Which objective a tensor gets when nobody says."""

from __future__ import annotations

import pytest

from gguftool.format.quanttypes import type_by_name
from gguftool.plan.objectives import objective_for


@pytest.mark.parametrize(
    ("name", "kind", "objective"),
    [
        ("blk.3.ffn_gate.weight", "q2_K", "unbiased"),
        ("blk.3.ffn_gate_exps.weight", "q3_K", "unbiased"),
        ("blk.3.attn_q.weight", "iq1_m", "unbiased"),
        ("blk.3.ffn_up_exps.weight", "iq4_xs", "unbiased"),
        ("blk.3.ffn_down_exps.weight", "iq3_s", "imatrix"),
        ("blk.3.ffn_down.weight", "iq2_xs", "imatrix"),
        ("blk.3.ffn_up.weight", "tq2_0", "imatrix"),
        ("token_embd.weight", "q2_K", "unbiased"),
        ("blk.3.attn_v.weight", "q2_K", "imatrix"),
        ("blk.3.attn_output.weight", "q3_K", "imatrix"),
        ("blk.3.attn_v.weight", "q6_K", "imatrix"),
        ("blk.3.ffn_gate.weight", "q4_K", "imatrix"),
        ("blk.3.ffn_gate.weight", "iq4_kss", "unbiased"),
        ("blk.3.ffn_down.weight", "iq4_ks", "imatrix"),
    ],
)
def test_small_types_keep_their_gain_but_for_linear_outputs(name: str, kind: str, objective: str) -> None:
    assert objective_for(name, type_by_name(kind)) == objective
