"""The recipe back out of a model: deciding with it gives the same types, and it is short."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_recipe import DENSE, FALCON, MOE, RECORDED, SHARED_EXPERTS, model

from gguftool.errors import RecipeError
from gguftool.format.quanttypes import type_by_name
from gguftool.recipe.decide import Recipe, decide
from gguftool.recipe.extract import Extracted, extract, recipe_of
from gguftool.recipe.facts import ModelFacts, TensorFacts
from gguftool.recipe.filetypes import FILE_TYPES, FileType, file_type_by_name
from gguftool.recipe.grammar import parse_tensor_type

TYPES = [t for t in FILE_TYPES if not t.is_copy]
PATTERNS = ["attn_v", r"\.([0-9]|1[0257])\.attn_k", "ffn_down", "ffn", "output", "token_embd", r"blk\.[13579]\."]
TARGETS = ["q6_K", "q3_K", "iq4_ks", "iq6_k", "q8_0", "f16", "bf16", "iq4_xs"]


def made(recipe: Recipe, facts: ModelFacts, tensors: list[TensorFacts], imatrix: bool = True) -> list[TensorFacts]:
    """The tensors as the recipe leaves them."""
    decided = decide(recipe, facts, tensors, imatrix).each
    return [TensorFacts(t.name, t.shape, d.type) for t, d in zip(tensors, decided, strict=True)]


def check(found: Extracted, facts: ModelFacts, goal: list[TensorFacts]) -> None:
    imatrix = found.imatrix is not False
    assert made(recipe_of(found), facts, goal, imatrix) == goal


@pytest.mark.parametrize("file_type", TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["gqa2_24", "moe8_24", "gqa4_tied24"])
@pytest.mark.parametrize("imatrix", [True, False])
def test_a_stock_mixture_needs_no_rule(name: str, file_type: FileType, imatrix: bool) -> None:
    facts, tensors = RECORDED[name]
    goal = made(Recipe(file_type), facts, tensors, imatrix)
    found = extract(goal, facts, recorded=file_type, imatrix=imatrix)
    assert (found.file_type.mixture, found.rules) == (file_type.mixture, ())


@pytest.mark.parametrize("roles", [DENSE, MOE, SHARED_EXPERTS, FALCON], ids=["dense", "moe", "shared", "falcon"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_extracted_makes_the_same_types(roles: list[str], data: st.DataObject) -> None:
    layers = data.draw(st.sampled_from([5, 12, 24]))
    width = data.draw(st.sampled_from([256, 96, 1024]))  # 96: types fall back
    experts = 8 if "_exps" in " ".join(roles) else 0
    tensors = model(roles, layers, n_expert=experts, tied=data.draw(st.booleans()), width=width)
    facts = ModelFacts("llama", layers, 8, 2, experts, 256, width, layers)
    rules = data.draw(st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(TARGETS)), max_size=4))
    recipe = Recipe(
        data.draw(st.sampled_from(TYPES)),
        tuple(parse_tensor_type(f"{pattern}={target}") for pattern, target in rules),
        pure=data.draw(st.booleans()),
    )
    goal = made(recipe, facts, tensors, imatrix := data.draw(st.booleans()))
    found = extract(goal, facts, recorded=recipe.file_type, imatrix=imatrix)
    check(found, facts, goal)


def test_exceptions_come_out_as_the_fewest_rules() -> None:
    facts, tensors = RECORDED["llama8b32"]
    rules = ("attn_v=q8_0", r"blk\.([3-6]|1[0-9])\.ffn_(gate|up)=q3_K", "^output=q8_0")
    recipe = Recipe(file_type_by_name("q4_k_m"), tuple(map(parse_tensor_type, rules)))
    goal = made(recipe, facts, tensors)
    found = extract(goal, facts, recorded=recipe.file_type, imatrix=True)
    check(found, facts, goal)
    assert [(r.pattern, r.type.name) for r in found.rules] == [
        (r"blk\.[0-9]+\.attn_v\.weight", "q8_0"),
        (r"blk\.([3-6]|1[0-9])\.ffn_(gate|up)\.weight", "q3_K"),
        (r"^output\.weight", "q8_0"),
    ]
    assert found.proven


def test_another_type_is_taken_where_it_explains_more_and_the_recorded_one_is_told() -> None:
    facts, tensors = RECORDED["gqa2_24"]
    recipe = Recipe(file_type_by_name("IQ4_KSS"), (parse_tensor_type("attn=iq6_k"), parse_tensor_type("^output=iq6_k")))
    goal = made(Recipe(file_type_by_name("Q5_K_M")), facts, tensors)
    found = extract(goal, facts, recorded=recipe.file_type)
    assert (found.file_type.name, found.rules) == ("Q5_K_M", ())
    assert found.recorded == recipe.file_type
    assert found.recorded_rules is not None
    assert found.recorded_rules > 0
    only = extract(goal, facts, file_type=recipe.file_type)
    assert only.file_type == recipe.file_type
    check(only, facts, goal)


def test_interleaved_rows_are_taken_for_their_plain_type() -> None:
    facts, tensors = RECORDED["gqa2_24"]
    woven = type_by_name("iq4_ks_r4")
    plain = made(Recipe(file_type_by_name("IQ4_KS")), facts, tensors)
    goal = [TensorFacts(t.name, t.shape, woven) if "ffn" in t.name and len(t.shape) > 1 else t for t in plain]
    found = extract(goal, facts)
    assert (found.file_type.name, found.rules) == ("IQ4_KS", ())
    assert len(found.woven) == 72


def test_types_that_nothing_can_be_converted_to_are_left_out_and_told() -> None:
    facts, tensors = RECORDED["gqa2_24"]
    goal = made(Recipe(file_type_by_name("q8_0")), facts, tensors)
    goal[-1] = TensorFacts(goal[-1].name, goal[-1].shape, type_by_name("q8_k_r8"))
    assert extract(goal, facts).impossible == (goal[-1].name,)


def test_a_file_of_nothing_but_norms_has_no_recipe() -> None:
    with pytest.raises(RecipeError, match="no recipe to find"):
        extract([TensorFacts("output_norm.weight", (64,), type_by_name("f32"))], ModelFacts())


def test_a_large_model_takes_a_second() -> None:
    facts, tensors = RECORDED["llama70b80"]
    rules = tuple(parse_tensor_type(rule) for rule in ("attn_v=q8_0", r"\.[1-9]\.ffn_down=q3_K", "ffn_up=iq4_xs"))
    goal = made(Recipe(file_type_by_name("q4_k_m"), rules), facts, tensors)
    start = time.process_time()
    found = extract(goal, facts)
    assert len(found.rules) <= 3
    assert time.process_time() - start < 10
