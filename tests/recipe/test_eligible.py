"""Which tensors may be converted."""

from __future__ import annotations

import pytest
from support_recipe import tensor

from gguftool.format.quanttypes import unknown_type
from gguftool.recipe.eligible import why_kept
from gguftool.recipe.facts import TensorFacts


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q.weight",
        "output.weight",
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "blk.0.ffn_down_exps.weight",
        "mm.0.weight",
        "v.blk.3.attn_q.weight",
        "enc.blk.0.ffn_up.weight",
        "blk.0.attn_q.weight.lora_a",
        "blk.0.attn_q.weight.lora_b",
        "blk.0.ssm_x.weight",
        "made.up.name.weight",
    ],
)
def test_what_may_be_converted(name: str) -> None:
    assert why_kept(tensor(name, 8, 256)) is None


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_norm.weight",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ffn_gate_tid2eid.weight",
        "blk.0.altup_proj.weight",
        "blk.0.laurel_l.weight",
        "per_layer_model_proj.weight",
        "blk.0.ssm_conv1d.weight",
        "blk.0.shortconv.conv.weight",
        "blk.0.indexer.k_proj.weight",
        "blk.0.indexer.q_proj.weight",
        "blk.0.time_mix_first.weight",
        "blk.0.time_mix_w1.weight",
        "blk.0.time_mix_g2.weight",
        "blk.0.time_mix_decay_w1.weight",
        "blk.0.time_mix_lerp_fused.weight",
        "enc.blk.0.attn_rel_b.weight",
        "v.position_embd.weight",
        "position_embd.weight",
        "token_types.weight",
        "v.patch_embd.weight",
        "sam.pos_embd.weight",
        "mm.a.code_embd.weight",
        "abcde",
        "blk.0.attn_q.bias",
        "blk.0.weights",
        "blk.0.weight_scale",
    ],
)
def test_what_never_is_by_name(name: str) -> None:
    assert why_kept(tensor(name, 8, 256)) is not None


def test_shapes_and_types_that_are_never_converted() -> None:
    assert why_kept(tensor("a.weight", 256)) == "one-dimensional"
    assert why_kept(tensor("a.weight", 1, 1, 256)) == "one-dimensional"
    assert why_kept(tensor("a.weight", 2, 1)) is None
    assert why_kept(tensor("a.weight", 4, 256, type_name="i32")) == "integers are never converted"
    assert "can only be copied" in str(why_kept(TensorFacts("a.weight", (4, 256), unknown_type(77))))


def test_what_depends_on_the_recipe() -> None:
    assert why_kept(tensor("output.weight", 8, 256), leave_output_tensor=True) == "--leave-output-tensor"
    assert why_kept(tensor("blk.0.ssm_x.weight", 8, 256), family="ik") is not None
    assert why_kept(tensor("blk.0.ffn_gate_inp.weight", 8, 256), router=True) is None
