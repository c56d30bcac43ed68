"""From a recipe to decisions: who wins, what is told, what is a problem."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_recipe import DENSE, RECORDED, model, tensor

from gguftool.format.quanttypes import type_by_name, unknown_type
from gguftool.recipe.decide import Decisions, Recipe, decide, needs_importance
from gguftool.recipe.facts import ModelFacts, TensorFacts
from gguftool.recipe.filetypes import FILE_TYPES, file_type_by_name
from gguftool.recipe.grammar import parse_custom_q, parse_tensor_type
from gguftool.recipe.lint import nearest_names

TENSORS = model(DENSE, 4)
FACTS = ModelFacts("llama", 4, 8, 8, 0, 256, 256, 4)


def _decided(
    word: str, *rules: str, tensors: list[TensorFacts] = TENSORS, custom: str = "", **options: Any
) -> tuple[dict[str, str], Decisions]:
    typed = tuple(parse_tensor_type(rule) for rule in rules)
    pasted = parse_custom_q(custom).rules if custom else ()
    named = {k: type_by_name(v) if k.endswith("_type") else v for k, v in options.items()}
    found = decide(Recipe(file_type_by_name(word), typed + pasted, **named), FACTS, tensors, False)
    return {t.name: d.type.name for t, d in zip(tensors, found.each, strict=True)}, found


def test_the_first_matching_rule_wins_even_if_it_names_the_base_type() -> None:
    types, found = _decided("Q4_K_M", "attn_v=q4_K", "attn=q8_0")
    assert types["blk.0.attn_v.weight"] == "q4_K" and types["blk.0.attn_q.weight"] == "q8_0"
    reasons = {t.name: d.reason for t, d in zip(TENSORS, found.each, strict=True)}
    assert reasons["blk.0.attn_v.weight"] == "--tensor-type 'attn_v=q4_K'"
    assert reasons["blk.0.ffn_up.weight"] == "base type of Q4_K_M"
    assert reasons["output.weight"] == "Q4_K_M mixture"
    assert reasons["blk.0.attn_norm.weight"] == "copied: one-dimensional"
    assert found.warnings == found.problems == ()


def test_options_of_one_tensor_beat_rules() -> None:
    types, found = _decided("Q4_K_M", "^output=q2_K", output_type="q8_0", embedding_type="q5_0")
    assert types["output.weight"] == "q8_0" and types["token_embd.weight"] == "q5_0"
    assert "never applies: all it matches is taken by --output-tensor-type" in found.warnings[0]


def test_tied_embeddings_take_the_output_option_only_in_the_mixture() -> None:
    tied = model(DENSE, 4, tied=True)
    assert _decided("Q4_K_M", tensors=tied, output_type="q8_0")[0]["token_embd.weight"] == "q8_0"
    types, found = _decided("Q4_K_M", tensors=tied, output_type="q8_0", pure=True)
    assert types["token_embd.weight"] == "q4_K"
    assert "--output-tensor-type q8_0 decides no tensor" in found.warnings[0]
    types, _ = _decided("Q4_K_M", "token_embd=q5_K", tensors=tied, output_type="q8_0")
    assert types["token_embd.weight"] == "q5_K"


def test_pure_gives_the_base_type_and_rules_still_hold() -> None:
    types, _ = _decided("Q4_K_M", r"blk\.0\.attn_v=q8_0", pure=True)
    assert types["output.weight"] == types["blk.1.attn_v.weight"] == "q4_K"
    assert types["blk.0.attn_v.weight"] == "q8_0" and types["output_norm.weight"] == "f32"


@pytest.mark.parametrize("word", ["F16", "BF16", "F32"])
def test_rules_hold_under_float_types(word: str) -> None:
    types, _ = _decided(word, "attn_v=q8_0")
    assert types["blk.0.attn_v.weight"] == "q8_0" and types["blk.0.attn_q.weight"] == word.lower()


def test_copy_converts_nothing_and_says_that_rules_are_idle() -> None:
    types, found = _decided("COPY", "attn_v=q8_0")
    assert set(types.values()) == {"f32"} and "no effect" in found.warnings[0]


def test_leave_output_tensor() -> None:
    types, _ = _decided("Q4_K_M", leave_output_tensor=True)
    assert types["output.weight"] == "f32"


def test_a_type_that_does_not_fit_falls_back_and_says_so() -> None:
    odd = [*TENSORS, tensor("blk.0.extra.weight", 8, 96), tensor("blk.1.extra.weight", 8, 40)]
    types, found = _decided("Q4_K_M", r"blk\.1\.extra=q6_K", tensors=odd)
    assert types["blk.0.extra.weight"] == "q5_0" and types["blk.1.extra.weight"] == "f16"
    assert [d.fallback_from and d.fallback_from.name for d in found.each[-2:]] == ["q4_K", "q6_K"]
    assert "q5_0 instead of q4_K: rows of 96 are no multiple of 256" in found.each[-2].reason
    assert found.problems == ()
    _, strict = _decided("Q4_K_M", tensors=odd, fallback=False)
    assert len(strict.problems) == 2 and "blk.0.extra.weight" in strict.problems[0]


def test_four_dimensions_are_a_problem_only_where_something_is_converted() -> None:
    deep = [*TENSORS, tensor("v.conv.weight", 2, 2, 2, 256), tensor("v.one.weight", 1, 2, 2, 256)]
    _, found = _decided("Q4_K_M", tensors=deep)
    assert len(found.problems) == 1 and "v.conv.weight" in found.problems[0]
    assert _decided("Q4_K_M", "v.conv=f32", tensors=deep)[1].problems == ()


def test_a_typed_rule_that_hits_nothing_is_a_problem_and_a_pasted_one_a_warning() -> None:
    _, found = _decided("Q4_K_M", "atn_v=q8_0", custom=r"blk\.9\.ffn_dwn=q8_0")
    assert "--tensor-type 'atn_v=q8_0' matches no tensor" in found.problems[0]
    assert "blk.0.attn_v.weight" in found.problems[0]
    assert "--custom-q" in found.warnings[0] and "blk.0.ffn_down.weight" in found.warnings[0]
    _, strict = _decided("Q4_K_M", custom="ffn_dwn=q8_0", strict_rules=True)
    assert len(strict.problems) == 1 and strict.warnings == ()


def test_case_is_hinted_at_and_compat_lowers_it() -> None:
    _, found = _decided("Q4_K_M", "ATTN_V=q8_0")
    assert "case counts, 'attn_v' would match" in found.problems[0]
    types, found = _decided("Q4_K_M", "ATTN_V=q8_0", compat=True)
    assert types["blk.0.attn_v.weight"] == "q8_0" and found.problems == ()


def test_shadowed_idle_and_unanchored_rules_are_told() -> None:
    _, found = _decided("Q4_K_M", r"output\.weight=q8_0", "attn_output=q5_K", "_norm=q4_K")
    unanchored, shadowed, idle = found.warnings
    assert "also hits attn_output (4 tensors), and decides 4 of them" in unanchored
    assert r"never applies: all it matches is taken by --tensor-type 'output\.weight=q8_0'" in shadowed
    assert "hits only tensors that may not be converted" in idle
    for fine in (r"^output\.weight=q8_0", "weight=q8_0", r"(attn_)?output\.weight=q8_0"):
        assert _decided("Q4_K_M", fine)[1].warnings == ()


def test_rules_are_put_to_output_names_or_on_request_to_source_names() -> None:
    pruned = [TensorFacts("blk.0.attn_v.weight", (256, 256), TENSORS[0].type, "blk.5.attn_v.weight")]
    assert _decided("Q4_K_S", r"blk\.0\.=q8_0", tensors=pruned)[0] == {"blk.0.attn_v.weight": "q8_0"}
    _, found = _decided("Q4_K_S", r"blk\.5\.=q8_0", tensors=pruned)
    assert "only names of the input" in found.problems[0]
    types, found = _decided("Q4_K_S", r"blk\.5\.=q8_0", tensors=pruned, match_names="source")
    assert types == {"blk.0.attn_v.weight": "q8_0"} and found.problems == ()


def test_integers_are_never_converted() -> None:
    types, _ = _decided("Q4_K_M", tensors=[tensor("blk.0.ids.weight", 4, 256, type_name="i32")])
    assert types == {"blk.0.ids.weight": "i32"}


def test_types_that_nobody_knows_are_kept_and_told() -> None:
    strange = [TensorFacts(f"blk.{i}.ffn_up.weight", (256, 256), unknown_type(977)) for i in range(3)]
    types, found = _decided("Q4_K_M", tensors=[*strange, tensor("blk.0.ffn_down.weight", 256, 256)])
    assert [types[t.name] for t in strange] == ["type 977"] * 3
    (told,) = [w for w in found.warnings if "977" in w]
    assert told.startswith("blk.0.ffn_up.weight and 2 more (type 977): ") and told.endswith("copied as they are")
    assert not any("977" in w for w in _decided("COPY", tensors=strange)[1].warnings)


def test_files_of_other_kinds_are_decided_too() -> None:
    vision = [
        tensor("v.blk.0.attn_q.weight", 64, 256),
        tensor("v.patch_embd.weight", 8, 3, 14, 14),
        tensor("mm.0.bias", 8),
    ]
    assert list(_decided("Q8_0", tensors=vision)[0].values()) == ["q8_0", "f32", "f32"]
    lora = [tensor("blk.0.attn_q.weight.lora_a", 16, 256), tensor("blk.0.attn_q.weight.lora_b", 256, 16)]
    assert list(_decided("Q8_0", tensors=lora)[0].values()) == ["q8_0", "f16"]


def test_nearest_names_show_one_layer_each() -> None:
    names = [t.name for t in TENSORS]
    assert nearest_names(r"blk\.\d+\.ffn_dwn\.weight", names)[0] == "blk.0.ffn_down.weight"
    assert len(set(nearest_names("xyz", names))) == 3


@pytest.mark.parametrize(
    ("type_name", "word", "name", "needed"),
    [
        ("iq2_xs", "IQ2_XS", "blk.0.attn_q.weight", True),
        ("iq2_xs", "IQ2_XS", "token_embd.weight", False),
        ("iq2_xs", "Q4_K_M", "output.weight", False),
        ("iq3_xxs", "Q4_K_M", "blk.0.attn_q.weight", True),
        ("iq3_xxs", "IQ4_KSS", "blk.0.attn_q.weight", False),
        ("iq2_kt", "IQ4_KSS", "blk.0.attn_q.weight", True),
        ("q2_K", "Q2_K_S", "blk.0.attn_q.weight", True),
        ("q2_K", "Q2_K", "blk.0.attn_q.weight", False),
        ("q4_K", "Q4_K_M", "blk.0.attn_q.weight", False),
    ],
)
def test_who_needs_importances(type_name: str, word: str, name: str, needed: bool) -> None:
    assert needs_importance(type_by_name(type_name), file_type_by_name(word), name) is needed


def _the_24b() -> list[TensorFacts]:
    tensors = [tensor("token_embd.weight", 131072, 5120), tensor("output.weight", 131072, 5120)]
    tensors.append(tensor("output_norm.weight", 5120))
    shapes = {"attn_q": (4096, 5120), "attn_k": (1024, 5120), "attn_v": (1024, 5120), "attn_output": (5120, 4096)}
    shapes |= {"ffn_gate": (32768, 5120), "ffn_up": (32768, 5120), "ffn_down": (5120, 32768)}
    for layer in range(40):
        tensors += [tensor(f"blk.{layer}.{norm}.weight", 5120) for norm in ("attn_norm", "ffn_norm")]
        tensors += [tensor(f"blk.{layer}.{role}.weight", *shape, type_name="bf16") for role, shape in shapes.items()]
    return tensors


def test_a_model_cards_recipe_gives_the_size_that_the_card_states(shared: Path) -> None:
    card = (shared / "seeds/003_ca115dc0a87b1ed5.txt").read_text(encoding="utf-8", errors="surrogateescape")
    start = card.index("#!/usr/bin/env bash")
    for text in (card, card[start : card.index("```", start)]):
        pasted = parse_custom_q(text)
        tensors, facts = _the_24b(), ModelFacts("mistral3", 40, 32, 8, 0, 131072, 5120, 40)
        found = decide(Recipe(file_type_by_name("IQ4_KSS"), pasted.rules), facts, tensors, True)
        types = {
            t.name.split(".")[-2]: d.type.name for t, d in zip(tensors, found.each, strict=True) if len(t.shape) == 2
        }
        assert types == {
            **dict.fromkeys(["attn_q", "attn_k", "attn_v", "attn_output", "output"], "iq6_k"),
            "ffn_down": "iq4_ks",
            "ffn_gate": "iq4_kss",
            "ffn_up": "iq4_kss",
            "token_embd": "iq4_k",
        }
        size = sum(d.type.nbytes(t.shape) for t, d in zip(tensors, found.each, strict=True))
        count = sum(math.prod(t.shape) for t in tensors)
        assert (f"{size / 2**30:.3f}", f"{8 * size / count:.3f}") == ("12.069", "4.398")
        assert found.problems == ()
        assert len(found.warnings) == 1 and "earlier rules decide" in found.warnings[0]


_SHAPES = st.lists(st.sampled_from([1, 2, 8, 32, 40, 96, 256]), min_size=1, max_size=4).map(tuple)
_NAMES = st.sampled_from(
    [t.name for t in TENSORS[:12]] + ["x", "blk.99.ffn_down.weight", "blk..weight", "\udc80.weight"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FILE_TYPES),
    st.dictionaries(_NAMES, _SHAPES, max_size=12),
    st.sampled_from(sorted(RECORDED)),
    st.booleans(),
    st.booleans(),
)
def test_any_model_is_decided_and_every_type_fits(
    file_type: Any, shapes: dict[str, tuple[int, ...]], facts: str, pure: bool, compat: bool
) -> None:
    tensors = [tensor(name, *shape) for name, shape in shapes.items()]
    rules = (parse_tensor_type("ffn=q6_K"), parse_tensor_type("attn_q=iq2_k"))
    found = decide(Recipe(file_type, rules, pure=pure, compat=compat), RECORDED[facts][0], tensors, True)
    assert len(found.each) == len(tensors)
    for t, d in zip(tensors, found.each, strict=True):
        assert d.reason and (d.kept or t.n_cols % d.type.block_size == 0)
