"""Lists of layers, arrays, counts, shared keys and values, hybrids, several stacks, and what is always refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_prune import Described, described, tensor

from gguftool.errors import PlanError, UsageError
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.plan.layers import LayerPruning, TensorSlice, parse_layers, prune_layers, ranges

SWP, SW = "attention.sliding_window_pattern", "attention.sliding_window"


def edited(pruning: LayerPruning) -> dict[str, Any]:
    return {name: None if value is None else value.value for name, value in pruning.edits.items()}


def refusal(model: Described, *layers: int, **allowed: bool) -> str:
    with pytest.raises(PlanError) as caught:
        prune_layers(*model, layers, **allowed)
    return str(caught.value)


# --- lists -----------------------------------------------------------------------------------------------------


def test_lists_of_layers_are_sorted_and_each_named_once() -> None:
    assert parse_layers("7,3, 10-14,3,11") == (3, 7, 10, 11, 12, 13, 14)
    assert parse_layers("0") == (0,)
    assert parse_layers("5-5") == (5,)


@pytest.mark.parametrize(
    "text", ["", ",", "3,", "3,,4", "3x", "x", "-1", "1-", "-", "1-2-3", "14-10", "1.5", "+3", "\u00b2", "\uff13"]
)
def test_nonsense_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(UsageError, match="layers to prune"):
        parse_layers(text)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_the_short_form_reads_back(layers: set[int]) -> None:
    assert parse_layers(ranges(sorted(layers))) == tuple(sorted(layers))


# --- numbers and names -----------------------------------------------------------------------------------------


def test_survivors_are_renumbered_in_order() -> None:
    pruning = prune_layers(*described("llama", 6), (1, 4))
    assert (pruning.dropped, pruning.kept) == ((1, 4), (0, 2, 3, 5))
    assert dict(pruning.renumber) == {0: 0, 2: 1, 3: 2, 5: 3}
    assert edited(pruning) == {"llama.block_count": 4}
    assert pruning.new_name("blk.5.ffn_down.weight") == "blk.3.ffn_down.weight"
    assert pruning.new_name("blk.4.ffn_down.weight") is None
    assert pruning.new_name("output.weight") == "output.weight"
    assert not pruning.slices


def test_the_count_keeps_its_type() -> None:
    metadata, tensors = described("llama", 6)
    for kind in (ValueType.I32, ValueType.U16, ValueType.U64):
        typed = metadata.replaced({"llama.block_count": MetaValue.of(6, kind)})
        value = prune_layers(typed, tensors, (0,)).edits["llama.block_count"]
        assert value == MetaValue.of(5, kind)


def test_nothing_to_prune_changes_nothing() -> None:
    pruning = prune_layers(*described("gpt-oss", 6), ())
    assert pruning.kept == tuple(range(6)) and not pruning.edits and not pruning.dropped


def test_layers_must_exist_and_one_must_stay() -> None:
    model = described("llama", 6)
    assert "this llama model has blk.0 to blk.5" in refusal(model, 2, 6, 7)
    assert "6-7" in refusal(model, 2, 6, 7)
    assert "all 6 layers" in refusal(model, *range(6))


def test_an_unknown_architecture_gets_the_plain_rule_and_a_warning() -> None:
    pruning = prune_layers(*described("novel", 4, {"attention.head_count": [1, 2, 3, 4]}), (1,))
    assert edited(pruning) == {"novel.block_count": 3, "novel.attention.head_count": [1, 3, 4]}
    assert any("nothing is known of the architecture novel" in note for note in pruning.notes)
    assert not any("nothing is known" in note for note in prune_layers(*described("llama", 4), (1,)).notes)


def test_a_period_that_nobody_explains_must_not_shift() -> None:
    model = described("novel", 8, {SWP: 4})
    assert "place in the period from place 2 of 4 to place 1 of 4" in refusal(model, 1)
    assert "nearest allowed: 7" in refusal(model, 1)
    assert prune_layers(*model, (0, 1, 2, 3)).kept == (4, 5, 6, 7)


def test_no_note_claims_that_the_model_is_the_same() -> None:
    pruning = prune_layers(*described("gemma3", 12, {SW: 64}), (0, 6))
    assert not any(word in note.lower() for note in pruning.notes for word in ("equivalent", "lossless", "identical"))


# --- arrays ----------------------------------------------------------------------------------------------------


def array(kind: ValueType, *values: float) -> MetaValue:
    return MetaValue.of(list(values), ValueType.ARRAY, kind)


@pytest.mark.parametrize("kind", [ValueType.I32, ValueType.U32, ValueType.U8, ValueType.I64])
@pytest.mark.parametrize(
    "key", ["attention.head_count", "attention.head_count_kv", "feed_forward_length", "attention.indexer.types"]
)
def test_arrays_lose_the_entries_of_pruned_layers_and_keep_their_type(key: str, kind: ValueType) -> None:
    pruning = prune_layers(*described("openelm", 6, {key: array(kind, 1, 2, 3, 4, 5, 6)}), (0, 3))
    assert pruning.edits[f"openelm.{key}"] == array(kind, 2, 3, 5, 6)


@pytest.mark.parametrize("key", ["swiglu_clamp_exp", "swiglu_clamp_shexp", "activation_sparsity_scale"])
def test_arrays_of_floats_too(key: str) -> None:
    pruning = prune_layers(*described("novel", 4, {key: array(ValueType.F32, 0.5, 1.5, 2.5, 3.25)}), (2,))
    assert pruning.edits[f"novel.{key}"] == array(ValueType.F32, 0.5, 1.5, 3.25)


def test_entries_keep_bytes_that_no_number_has() -> None:
    odd = MetaValue(ValueType.ARRAY, struct.pack("<iQ4B", ValueType.BOOL, 4, 0, 2, 1, 255), ValueType.BOOL, 4)
    cut = prune_layers(*described("mimo2", 4, {SW: 8, SWP: odd}), (2,)).edits[f"mimo2.{SWP}"]
    assert cut is not None and cut.raw == struct.pack("<iQ3B", ValueType.BOOL, 3, 0, 2, 255)


def test_xielu_keys_carry_no_architecture() -> None:
    keys = {f"/xielu.{name}": [0.25, 0.5, 0.75] for name in ("alpha_n", "alpha_p", "beta")} | {"/xielu.eps": 1e-6}
    pruning = prune_layers(*described("apertus", 3, keys), (1,))
    assert edited(pruning) == {
        "apertus.block_count": 2,
        **{f"xielu.{name}": [0.25, 0.75] for name in ("alpha_n", "alpha_p", "beta")},
    }


def test_both_lengths_are_cut_by_the_original_number() -> None:
    keys = {
        "nextn_predict_layers": 2,
        "context_length": 4096,
        "attention.head_count": [10, 11, 12, 13, 14, 15],
        "attention.indexer.types": [True, False, False, True],
    }
    pruning = prune_layers(*described("glm-dsa", 6, keys), (0, 2))
    assert edited(pruning) == {
        "glm-dsa.block_count": 4,
        "glm-dsa.attention.head_count": [11, 13, 14, 15],
        "glm-dsa.attention.indexer.types": [False, True],
    }
    last = prune_layers(*described("glm-dsa", 6, keys), (5,), prune_nextn=True)
    assert edited(last)["glm-dsa.attention.head_count"] == [10, 11, 12, 13, 14]
    assert edited(last)["glm-dsa.attention.indexer.types"] == [True, False, False, True]
    assert edited(last)["glm-dsa.nextn_predict_layers"] == 1


def test_arrays_of_other_lengths_where_loaders_take_them() -> None:
    ratios = prune_layers(*described("deepseek4", 4, {"attention.compress_ratios": [0, 4, 128, 4, 7, 8]}), (1,))
    assert edited(ratios)["deepseek4.attention.compress_ratios"] == [0, 128, 4, 7, 8]
    longer = {SW: 8, SWP: [True, False, True, True, False, False, False], "attention.rope_pattern": [1, 0, 0, 1, 1, 1]}
    pruning = prune_layers(*described("granite_swa", 5, longer), (0,))
    assert edited(pruning)["granite_swa.attention.sliding_window_pattern"] == [False, True, True, False]
    assert edited(pruning)["granite_swa.attention.rope_pattern"] == [0, 0, 1, 1]
    shorter = prune_layers(*described("granite_swa", 5, {SW: 8, SWP: [True, False, True]}), (1, 4))
    assert edited(shorter)["granite_swa.attention.sliding_window_pattern"] == [True, True]


def test_a_known_array_of_impossible_length_is_refused() -> None:
    assert "has 5 entries for 6 layers" in refusal(described("openelm", 6, {"attention.head_count": [1] * 5}), 0)


def test_unknown_arrays_of_these_lengths_are_refused_unless_allowed() -> None:
    keys = {"novel_thing": [1, 2, 3, 4], "shorter": ["a", "b", "c"], "nextn_predict_layers": 1, "other": [1, 2]}
    model = described("llama", 4, keys)
    text = refusal(model, 1)
    assert "llama.novel_thing" in text and "llama.shorter" in text and "llama.other" not in text
    assert edited(prune_layers(*model, (1,), allow_unknown_arrays=True)) == {
        "llama.block_count": 3,
        "llama.novel_thing": [1, 3, 4],
        "llama.shorter": ["a", "c"],
    }


def test_arrays_that_have_nothing_to_do_with_layers_are_left_alone() -> None:
    keys = {
        "rope.dimension_sections": [1, 2, 3, 4],
        "target_layers": [1, 2, 3, 4],
        "classifier.output_labels": ["a", "b", "c", "d"],
        "adapters.token_ids_activate": [1, 2, 3, 4],
        "/tokenizer.ggml.tokens": ["a", "b", "c", "d"],
        "/general.tags": ["a", "b", "c", "d"],
        "/clip.vision.feature_layers": [1, 2, 3, 4],
    }
    assert edited(prune_layers(*described("qwen2vl", 4, keys), (1,))) == {"qwen2vl.block_count": 3}


def test_keys_that_number_layers_in_unknown_ways_are_refused() -> None:
    assert "qwen4exp.ple.layers" in refusal(described("qwen4exp", 4, {"ple.layers": [0, 2]}), 1)


# --- arrays and periods for attention --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch", ["gemma4", "mimo2", "step35", "granite-swa", "dots3note", "dflash", "cohere2moe", "mellum"]
)
def test_an_array_of_windows_follows_any_list(arch: str) -> None:
    keys = {SW: 8, SWP: [True, True, False, True, False, True]}
    pruning = prune_layers(*described(arch, 6, keys), (1, 2))
    assert edited(pruning) == {f"{arch}.block_count": 4, f"{arch}.{SWP}": [True, True, False, True]}


@pytest.mark.parametrize("arch", ["gemma4", "mimo2", "step35", "granite-swa", "dots3note", "dflash", "cohere2moe"])
def test_an_array_without_sliding_layers_cannot_be_run(arch: str) -> None:
    model = described(arch, 4, {SW: 8, SWP: [True, False, True, False]})
    assert "only layers with full attention would be left" in refusal(model, 0, 2)


def test_an_array_beside_next_token_layers_has_one_entry_per_main_layer() -> None:
    keys = {SW: 8, "nextn_predict_layers": 1}
    pruning = prune_layers(*described("muse-glimmer", 9, keys), (1,))
    assert pruning.edits[f"muse-glimmer.{SWP}"] == array(ValueType.BOOL, 1, 1, 0, 1, 1, 1, 0)
    mellum = prune_layers(*described("mellum", 9, {SW: 8}), (1,))
    assert mellum.edits[f"mellum.{SWP}"] == array(ValueType.BOOL, 1, 1, 0, 1, 1, 1, 0, 1)


def test_an_array_that_older_programs_ignore_stays_an_array() -> None:
    pruning = prune_layers(*described("gemma3", 6, {SW: 8, SWP: [True, False, True, True, False, True]}), (0,))
    assert edited(pruning)[f"gemma3.{SWP}"] == [False, True, True, False, True]
    assert any("programs before autumn 2026 ignore" in note for note in pruning.notes)


def test_an_array_that_says_what_older_programs_assume_must_go_on_doing_so() -> None:
    keys = {SW: 8, SWP: [True, True, True, True, True, False, True, True]}
    fitting = prune_layers(*described("gemma3", 8, keys), (1, 2))
    assert fitting.edits[f"gemma3.{SWP}"] == MetaValue.of(4, ValueType.U32)
    assert "no value of gemma3.attention.sliding_window_pattern" in refusal(
        described("gemma3", 12, {SW: 8, SWP: [(i + 1) % 6 != 0 for i in range(12)]}), 0
    )


def test_recurrent_layers_become_an_array_where_no_interval_fits() -> None:
    pruning = prune_layers(*described("qwen3next", 9, {"nextn_predict_layers": 1}), (1,))
    assert pruning.edits["qwen3next.attention.recurrent_layers"] == array(ValueType.BOOL, 1, 1, 0, 1, 1, 1, 0, 0)
    fitting = prune_layers(*described("qwen3next", 9, {"nextn_predict_layers": 1}), (1, 5))
    assert edited(fitting)["qwen3next.full_attention_interval"] == 3


# --- counts ----------------------------------------------------------------------------------------------------


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


# --- other kinds of files --------------------------------------------------------------------------------------


def test_files_without_layers_of_a_language_model_are_refused() -> None:
    metadata, _ = described("clip", 4)
    vision = [tensor(f"v.blk.{i}.ln1.weight", (8,)) for i in range(4)]
    assert "not a language model" in refusal((metadata, vision), 1)
    assert "not a language model" in refusal(described("llama", 4, {"/general.type": "adapter"}), 1)
    assert "not a language model" in refusal(described("qwen2vl", 4, {"/general.type": "mmproj"}), 1)
    assert "no tensor" in refusal((described("llama", 4)[0], vision), 1)
    assert "block_count is missing" in refusal(
        (described("llama", 4)[0].replaced({"llama.block_count": None}), described("llama", 4)[1]), 1
    )
    assert "general.architecture" in refusal((Metadata.of([]), []), 1)
    assert "there is a tensor of blk.4" in refusal(
        (described("llama", 4)[0], [tensor("blk.4.attn_norm.weight", (8,))]), 1
    )


def test_a_vision_tower_inside_the_file_keeps_its_numbers() -> None:
    metadata, tensors = described("cogvlm", 4, extra=[tensor(f"v.blk.{i}.ln1.weight", (8,)) for i in range(6)])
    assert prune_layers(metadata, tensors, (1,)).new_name("v.blk.1.ln1.weight") == "v.blk.1.ln1.weight"


def t5(encoder: int, decoder: int | None) -> Described:
    metadata, _ = described("t5", encoder, {} if decoder is None else {"decoder_block_count": decoder})
    names = [f"enc.blk.{i}.attn_norm.weight" for i in range(encoder)]
    names += [f"dec.blk.{i}.attn_norm.weight" for i in range(encoder if decoder is None else decoder)]
    return metadata, [tensor(name, (8,)) for name in names]


def test_encoder_and_decoder_count_by_themselves() -> None:
    for model in (t5(4, None), t5(4, 4), t5(4, 6), t5(6, 4)):
        assert "exists in enc.blk and in dec.blk" in refusal(model, 2)
    pruning = prune_layers(*t5(4, 6), (4,))
    assert edited(pruning) == {"t5.decoder_block_count": 5}
    assert pruning.new_name("dec.blk.5.attn_norm.weight") == "dec.blk.4.attn_norm.weight"
    assert pruning.new_name("enc.blk.3.attn_norm.weight") == "enc.blk.3.attn_norm.weight"
    assert edited(prune_layers(*t5(6, 4), (5,))) == {"t5.block_count": 5}
    metadata, tensors = t5(4, None)
    alone = metadata, [t for t in tensors if t.name.startswith("enc.")]
    assert edited(prune_layers(*alone, (2,))) == {"t5.block_count": 3}
    assert "enc.blk.0 holds the relative positions" in refusal(alone, 0)
