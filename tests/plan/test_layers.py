"""Lists of layers, arrays, counts, shared keys and values, hybrids, several stacks, and what is always refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_prune import Described, described, edited, refusal, tensor

from gguftool.errors import PlanError, UsageError
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.names import ranges
from gguftool.plan.archfacts import COUNTS, MOE_EVERY, PERIOD_KEYS, ROWS
from gguftool.plan.layers import parse_layers, prune_layers
from gguftool.plan.shrink import LOOSE_ARRAYS, STRICT_ARRAYS

SWP, SW = "attention.sliding_window_pattern", "attention.sliding_window"


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


@settings(deadline=None)
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
    exact = [bool(v) for v in values] if kind is ValueType.BOOL else list(values)
    return MetaValue.of(exact, ValueType.ARRAY, kind)


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


# --- anything ----------------------------------------------------------------------------------------------------

KEYS = (
    *(key for key, _ in COUNTS),
    *PERIOD_KEYS,
    *sorted(STRICT_ARRAYS | LOOSE_ARRAYS),
    SW,
    MOE_EVERY,
    "rescale_every_n_layers",
    "n_deepstack_layers",
    "attn_res.block_size",
    "context_length",
    "something",
)
INTEGERS = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 8)
FLOATS = st.floats(width=32)
VALUES = (
    INTEGERS.map(lambda v: MetaValue.of(v, ValueType.I32))
    | FLOATS.map(lambda v: MetaValue.of(v, ValueType.F32))
    | st.text(max_size=3).map(lambda v: MetaValue.of(v, ValueType.STRING))
    | st.lists(INTEGERS, max_size=9).map(lambda v: MetaValue.of(v, ValueType.ARRAY, ValueType.I32))
    | st.lists(FLOATS, max_size=9).map(lambda v: MetaValue.of(v, ValueType.ARRAY, ValueType.F32))
)


@settings(deadline=None)
@given(
    st.sampled_from([*sorted(ROWS), "llama", "novel"]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5),
    st.sets(st.integers(0, 5), min_size=1),
    st.booleans(),
)
def test_whatever_the_metadata_say_it_is_a_pruning_or_a_refusal(
    arch: str, keys: dict[str, MetaValue], layers: set[int], allowed: bool
) -> None:
    try:
        pruning = prune_layers(
            *described(arch, 6, keys),
            layers,
            allow_layer_arrays=allowed,
            allow_unknown_arrays=allowed,
            prune_nextn=allowed,
        )
    except PlanError as error:
        assert error.problems
    else:
        assert len(pruning.kept) == 6 - len(layers)


def test_a_damaged_count_is_no_long_wait() -> None:
    metadata, tensors = described("llama", 6)
    damaged = metadata.replaced({"llama.block_count": MetaValue.of(2**32 - 1, ValueType.U32)})
    assert "no model has more than" in refusal((damaged, tensors), 1)
