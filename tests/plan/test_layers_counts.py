"""Counts, numbers of layers that mean something, hybrids, shared keys and values, and tensors with a slab per layer."""

from __future__ import annotations

import pytest
from support_prune import Described, described, edited, refusal, tensor

from gguftool.errors import PlanError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.plan.layers import TensorSlice, prune_layers

SWP, SW = "attention.sliding_window_pattern", "attention.sliding_window"


@pytest.mark.parametrize(
    ("dropped", "left"), [((0,), 2), ((3,), 3), ((0, 1, 2), 0), ((2, 3), 2), ((4, 5), 3), ((0, 1, 2, 3, 4), 0)]
)
def test_leading_layers_are_counted_down(dropped: tuple[int, ...], left: int) -> None:
    keys = {"leading_dense_block_count": 3, "hash_layer_count": 3}
    after = described("deepseek4", 6, keys)[0].replaced(prune_layers(*described("deepseek4", 6, keys), dropped).edits)
    assert after["deepseek4.leading_dense_block_count"] == after["deepseek4.hash_layer_count"] == left


def test_the_order_of_dense_and_expert_layers_is_noted() -> None:
    notes = prune_layers(*described("glm4moe", 6, {"leading_dense_block_count": 2}), (0,)).notes
    assert "order of feed-forward: 2 dense, 4 MoE becomes 1 dense, 4 MoE" in notes


def test_next_token_layers_go_only_when_asked_for_and_from_the_end() -> None:
    model = described("glm4moe", 8, {"nextn_predict_layers": 2, "leading_dense_block_count": 1})
    assert "layer 6 is a next-token layer" in refusal(model, 1, 6)
    assert "--prune-nextn" in refusal(model, 7)
    assert edited(prune_layers(*model, (1, 7), prune_nextn=True)) == {
        "glm4moe.block_count": 6,
        "glm4moe.nextn_predict_layers": 1,
    }
    assert edited(prune_layers(*model, (6, 7), prune_nextn=True))["glm4moe.nextn_predict_layers"] == 0
    assert "layer 7 (then 6) would change its layer from next-token 2 to next-token 1" in refusal(
        model, 6, prune_nextn=True
    )
    assert "only next-token layers would be left" in refusal(model, *range(6), prune_nextn=True)


def test_ernie_is_consistent_with_step_one_alone() -> None:
    keys = {"leading_dense_block_count": 1, "interleave_moe_layer_step": 1}
    assert edited(prune_layers(*described("ernie4_5-moe", 6, keys), (0, 3))) == {
        "ernie4_5-moe.block_count": 4,
        "ernie4_5-moe.leading_dense_block_count": 0,
    }
    text = refusal(described("ernie4_5-moe", 6, {**keys, "interleave_moe_layer_step": 2}), 2)
    assert "layer 3 (then 2) would change its feed-forward from MoE to dense" in text


def test_rwkv6_layers_stay_between_the_same_halvings() -> None:
    model = described("rwkv6", 12, {"rescale_every_n_layers": 6})
    assert prune_layers(*model, (7, 11)).kept == (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)
    assert "layer 6 (then 5) would change its residual from after 1 halvings to after 0" in refusal(model, 2)
    assert prune_layers(*described("rwkv6", 12, {"rescale_every_n_layers": 0}), (2,)).kept[2] == 3


@pytest.mark.parametrize("arch", ["qwen3vl", "qwen3vlmoe"])
def test_layers_that_take_vision_features_stay(arch: str) -> None:
    model = described(arch, 6, {"n_deepstack_layers": 3})
    assert prune_layers(*model, (3, 5)).kept == (0, 1, 2, 4)
    assert "layer 1 cannot go: it takes vision features" in refusal(model, 1)
    assert "layer 2 cannot go" in refusal(model, 2, 3, 4, 5)


def test_vision_inputs_of_a_mapping_must_not_vanish() -> None:
    model = described("granite", 5, {"deepstack_mapping": [0, -1, 1, -1, 1]})
    assert edited(prune_layers(*model, (1, 2)))["granite.deepstack_mapping"] == [0, -1, 1]
    assert "would lose vision input 0" in refusal(model, 0)


# --- numbers of layers that mean something ---------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dropped", "fine"), [(32, 1, False), (40, 2, False), (33, 1, False), (30, 2, True)])
def test_baichuan_reads_its_positions_off_the_number_of_layers(n: int, dropped: int, fine: bool) -> None:
    model = described("baichuan", n)
    if fine:
        assert prune_layers(*model, range(dropped))
    else:
        assert "position encoding" in refusal(model, *range(dropped))


@pytest.mark.parametrize(
    ("n", "vocab", "dropped", "fine"),
    [(27, 100, 1, True), (27, 100, 2, False), (28, 100, 1, False), (48, 128256, 1, False), (48, 100, 1, True)],
)
def test_deepseek2_is_lite_by_number_of_layers(n: int, vocab: int, dropped: int, fine: bool) -> None:
    model = described("deepseek2", n, {"vocab_size": vocab, "leading_dense_block_count": 0, "expert_gating_func": 1})
    if fine:
        assert prune_layers(*model, range(dropped))
    else:
        assert "form (lite with 26 or 27 layers)" in refusal(model, *range(dropped))


def test_deepseek2_gating_is_written_out_where_the_default_would_change() -> None:
    keys = {"vocab_size": 154880}
    assert edited(prune_layers(*described("deepseek2", 47, keys), (3,)))["deepseek2.expert_gating_func"] == 2
    assert edited(prune_layers(*described("deepseek2", 49, keys), (3,)))["deepseek2.expert_gating_func"] == 1
    assert "deepseek2.expert_gating_func" not in prune_layers(*described("deepseek2", 48, keys), (3,)).edits
    named = described("deepseek2", 47, {**keys, "expert_gating_func": 1})
    assert "deepseek2.expert_gating_func" not in prune_layers(*named, (3,)).edits


def test_minicpm_residual_scale_is_written_out() -> None:
    pruning = prune_layers(*described("minicpm", 40), (3,))
    assert edited(pruning)["minicpm.residual_scale"] == pytest.approx(1.4 / 40**0.5)
    assert "minicpm.residual_scale" not in prune_layers(*described("minicpm", 40, {"residual_scale": 0.2}), (3,)).edits


def test_a_built_in_table_of_glm_dsa_is_cut_at_its_end_only() -> None:
    keys = {"context_length": 1 << 20, "nextn_predict_layers": 1}
    model = described("glm-dsa", 8, keys)
    assert prune_layers(*model, (5, 6)).kept == (0, 1, 2, 3, 4, 7)
    assert "built-in table" in refusal(model, 2)
    assert prune_layers(*described("glm-dsa", 8, {**keys, "context_length": 4096}), (2,))


def test_rwkv7_needs_its_first_layer() -> None:
    assert "layer 0 cannot go" in refusal(described("rwkv7", 6), 0)
    assert prune_layers(*described("rwkv7", 6), (1,))


# --- hybrids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch", ["lfm2", "lfm2moe", "jamba", "plamo2", "granitehybrid", "kimi-linear", "bailingmoe3", "kimi-k3"]
)
def test_a_hybrid_keeps_both_of_its_kinds(arch: str) -> None:
    model = described(arch, 5, {"attention.head_count_kv": [0, 2, 0, 0, 2]})
    assert edited(prune_layers(*model, (0, 4)))[f"{arch}.attention.head_count_kv"] == [2, 0, 0]
    assert "no attention layer would be left" in refusal(model, 1, 4)
    assert "no recurrent layer would be left" in refusal(model, 0, 2, 3)


@pytest.mark.parametrize("arch", ["nemotron_h", "nemotron_h_moe"])
def test_nemotron_h_tells_three_kinds_by_two_arrays(arch: str) -> None:
    model = described(
        arch, 6, {"attention.head_count_kv": [0, 0, 4, 0, 0, 4], "feed_forward_length": [0, 9, 0, 0, 9, 0]}
    )
    pruning = prune_layers(*model, (1, 2))
    assert edited(pruning)[f"{arch}.attention.head_count_kv"] == [0, 0, 0, 4]
    assert edited(pruning)[f"{arch}.feed_forward_length"] == [0, 0, 9, 0]
    assert prune_layers(*model, (1, 4))  # no feed-forward layer left: that runs
    assert "no attention layer" in refusal(model, 2, 5)
    assert "no recurrent layer" in refusal(model, 0, 3)


def test_kimi_k3_mixes_residuals_at_block_starts() -> None:
    keys = {"attention.head_count_kv": [0, 0, 0, 2] * 3, "attn_res.block_size": 4}
    model = described("kimi-k3", 12, keys)
    assert prune_layers(*model, (4, 5, 6, 7))
    assert prune_layers(*model, (10, 11))
    assert "layer 4 (then 3) would change its residual from mixes to adds" in refusal(model, 1)


# --- shared keys and values, and tensors with a slab per layer -------------------------------------------------


def gemma3n(n: int = 30) -> Described:
    extra = [tensor("per_layer_token_embd.weight", (100, 16 * n)), tensor("per_layer_model_proj.weight", (16 * n, 8))]
    return described("gemma3n", n, {SW: 512, "embedding_length_per_layer_input": 16}, extra)


def test_gemma3n_loses_layers_from_20_on_alone() -> None:
    pruning = prune_layers(*gemma3n(), (25, 26, 27, 28, 29))
    assert pruning.slices == (
        TensorSlice("per_layer_token_embd.weight", 1, ((0, 400),)),
        TensorSlice("per_layer_model_proj.weight", 0, ((0, 400),)),
    )
    pruning = prune_layers(*gemma3n(), range(20, 25))
    assert pruning.slices[0].kept == ((0, 320), (400, 480))
    assert "would change its attention from full to sliding" in refusal(gemma3n(), 22)
    assert "nearest allowed: 29" in refusal(gemma3n(), 22)
    assert "layer 15 cannot go" in refusal(gemma3n(), 15, 16, 17, 18, 19)
    assert "layer 19 cannot go" in refusal(gemma3n(20), 19)


def test_slabs_that_do_not_fit_the_layers_are_refused() -> None:
    metadata, tensors = gemma3n()
    wrong = metadata.replaced({"gemma3n.embedding_length_per_layer_input": MetaValue.of(17, ValueType.U32)})
    with pytest.raises(PlanError, match=r"per_layer_token_embd\.weight has 480 entries"):
        prune_layers(wrong, tensors, (29,))


#: owners: S S F S S F, borrowers: S F S
GEMMA4 = {SW: 8, SWP: [True, True, False, True, True, False, True, False, True], "attention.shared_kv_layers": 3}


def test_gemma4_borrowers_go_freely() -> None:
    pruning = prune_layers(*described("gemma4", 9, GEMMA4), (7, 8))
    assert edited(pruning)["gemma4.attention.shared_kv_layers"] == 1
    assert edited(pruning)[f"gemma4.{SWP}"] == GEMMA4[SWP][:7]


def test_gemma4_keeps_a_sliding_and_a_full_owner_last() -> None:
    model = described("gemma4", 9, GEMMA4)
    pruning = prune_layers(*model, (0, 2))
    assert "gemma4.attention.shared_kv_layers" not in pruning.edits
    assert not any("borrow" in note for note in pruning.notes)
    replaced = prune_layers(*model, (3, 4, 5))
    assert any("now borrow keys and values of layer 1 instead of 4" in note for note in replaced.notes)
    text = refusal(model, 5)
    assert "would change its KV cache from reuses a full layer of 0 KV heads to reuses a sliding layer" in text
    assert prune_layers(*model, (5, 7))  # no borrower with full attention is left, and 3 slides like 4
    assert prune_layers(*model, (6, 7, 8, 5))


def test_gemma4_owners_are_compared_by_their_heads_as_well() -> None:
    heads = {"attention.head_count_kv": [4, 4, 2, 8, 8, 2, 8, 2, 8]}
    assert "of 8 KV heads to reuses a sliding layer of 4 KV heads" in refusal(
        described("gemma4", 9, {**GEMMA4, **heads}), 3, 4, 5
    )
