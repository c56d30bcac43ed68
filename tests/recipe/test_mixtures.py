"""The mixtures against every recorded outcome of the two tools that they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support_recipe import DENSE, RECORDED, by_role, model, recorded_rows

from gguftool.recipe.decide import Recipe, decide, needs_importance
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.recipe.grammar import parse_tensor_type
from gguftool.recipe.mixes import category, more


def _mismatches(path: Path) -> tuple[int, int, list[str]]:
    outcomes, refused, wrong = 0, 0, []
    for name, word, has_imatrix, wanted in recorded_rows(path):
        facts, tensors = RECORDED[name]
        file_type = file_type_by_name(word)
        each = decide(Recipe(file_type), facts, tensors, has_imatrix).each
        outcomes += 1
        if wanted is None:
            refused += 1
            pairs = zip(tensors, each, strict=True)
            if has_imatrix or not any(needs_importance(d.type, file_type, t.name) for t, d in pairs):
                wrong.append(f"{name} {word}: not refused")
            continue
        got = by_role((t.name, d.type.name) for t, d in zip(tensors, each, strict=True))
        if any(got.get(role) != types for role, types in wanted.items()):
            wrong.append(f"{name} {word} imatrix={has_imatrix}: {got} instead of {wanted}")
    return outcomes, refused, wrong


def test_all_recorded_outcomes_of_llama_quantize(shared: Path) -> None:
    outcomes, refused, wrong = _mismatches(shared / "specs/quantize-type-vectors.tsv")
    assert (outcomes, refused, wrong) == (420, 0, [])


def test_all_recorded_outcomes_of_ik_llama_cpp(shared: Path) -> None:
    outcomes, refused, wrong = _mismatches(shared / "specs/ik-type-vectors.tsv")
    assert (outcomes, refused, wrong) == (288, 16, [])


@pytest.mark.parametrize("word", ["Q4_K_M", "Q3_K_M", "IQ2_M", "IQ3_KL", "IQ2_KS"])
def test_types_do_not_depend_on_the_order_of_tensors(word: str) -> None:
    facts, tensors = RECORDED["moe16sh_24"]
    recipe = Recipe(file_type_by_name(word))
    forth = decide(recipe, facts, tensors, True).each
    back = decide(recipe, facts, tensors[::-1], True).each
    assert forth == back[::-1]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("output.weight", "output"),
        ("token_embd.weight", "embd"),
        ("per_layer_token_embd.weight", "embd"),
        ("blk.0.attn_qkv.weight", "v"),
        ("blk.0.attn_kv_b.weight", "v"),
        ("blk.0.indexer.attn_k.weight", "k"),
        ("blk.0.cross_attn_k.weight", "k"),
        ("blk.0.ffn_gate_up_exps.weight", "gate"),
        ("blk.0.ffn_down_chexps.weight", "down"),
        ("blk.0.attn_q_a.weight", "other"),
        ("blk.0.attn_v_b.weight", "other"),
        ("dec.blk.0.attn_o.weight", "other"),
        ("blk.0.attn_output.weight", "o"),
    ],
)
def test_categories(name: str, role: str) -> None:
    assert category(name) == role


def test_more_bits_run() -> None:
    assert [i for i in range(24) if more(i, 24)] == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]


def _sixes(word: str, n_layer: int, role: str, *rules: str, compat: bool = False, source: int = 0) -> list[int]:
    facts, _ = RECORDED["mha24"]
    facts = replace(facts, n_layer=n_layer, n_layer_source=source or n_layer)
    tensors = model(DENSE, n_layer)
    recipe = Recipe(file_type_by_name(word), tuple(parse_tensor_type(rule) for rule in rules), compat=compat)
    each = decide(recipe, facts, tensors, False).each
    pairs = [(t, d) for t, d in zip(tensors, each, strict=True) if role in t.name and d.type.name == "q6_K"]
    return [int(t.name.split(".")[1]) for t, d in pairs if d.rule is None]


def test_a_rule_changes_only_what_it_names_and_upstreams_way_is_behind_compat() -> None:
    rule = r"blk\.[0-3]\.attn_v=q8_0"
    free = [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]
    assert _sixes("Q4_K_M", 24, "attn_v", rule) == [i for i in free if i > 3]
    # There the four pinned layers are not counted: all later layers come four places too early.
    assert _sixes("Q4_K_M", 24, "attn_v", rule, compat=True) == [i + 4 for i in free if i < 20]


def test_a_pruned_model_is_treated_as_one_of_its_own_length() -> None:
    assert _sixes("Q4_K_M", 18, "ffn_down", source=24) == [i for i in range(18) if more(i, 18)]


def test_the_size_class_is_that_of_the_input() -> None:
    facts, _ = RECORDED["llama70b80"]
    tensors = model(DENSE, 78)
    recipe = Recipe(file_type_by_name("Q4_K_S"))
    for source, wanted in ((80, "q5_K"), (78, "q4_K")):
        cut = replace(facts, n_layer=78, n_layer_source=source)
        each = decide(recipe, cut, tensors, False).each
        types = {t.name: d.type.name for t, d in zip(tensors, each, strict=True)}
        assert types["blk.50.attn_v.weight"] == wanted
