"""The types of whole models against those that libllama chooses, on architectures of several kinds."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import open_model
from gguftool.recipe.decide import Recipe, TensorFacts, decide, facts_of, file_type_by_name
from gguftool.recipe.grammar import parse_tensor_type
from gguftool.recipe.rules import Rule
from gguftool.verbs.plan import plan_from_statistics

llama_cpp = pytest.importorskip("llama_cpp")

MODELS = [
    "stories260k-f32",
    "arch/glm4moe-dense2-nextn1",
    "arch/lfm2-hybrid",
    "arch/openelm-arrays",
    "arch/gpt-oss-expert-bias",
]


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """Swallows the library's own lines."""


def _theirs(source: Path, folder: Path, recipe: Recipe) -> dict[str, str]:
    """What the library makes of the file, type by tensor."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = recipe.file_type.number, 1, True
    parameters.pure = recipe.pure
    if recipe.output_type is not None:
        parameters.output_tensor_type = recipe.output_type.id
    if recipe.embedding_type is not None:
        parameters.token_embedding_type = recipe.embedding_type.id
    rule_type = llama_cpp.llama_cpp.llama_model_tensor_override
    rules = (rule_type * (len(recipe.rules) + 1))()
    for slot, rule in zip(rules, recipe.rules, strict=False):
        slot.pattern, slot.type = rule.pattern.encode(), rule.type.id
    if recipe.rules:
        parameters.tt_overrides = ctypes.cast(rules, ctypes.POINTER(rule_type))
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
    out = folder / "out.gguf"
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)) == 0
    with open_model(out) as model:
        return {t.name: t.type.name for t in model.tensors}


def _ours(source: Path, recipe: Recipe) -> dict[str, str]:
    with open_model(source) as model:
        tensors = [TensorFacts(t.name, t.shape, t.type) for t in model.tensors]
        found = decide(recipe, facts_of(model.metadata, tensors), tensors, has_imatrix=False)
    return {t.name: d.type.name for t, d in zip(tensors, found.each, strict=True)}


@pytest.mark.parametrize("word", ["Q4_K_M", "Q3_K_L", "Q5_0"])
@pytest.mark.parametrize("name", MODELS)
def test_types_without_rules_equal_the_librarys(shared: Path, tmp_path: Path, name: str, word: str) -> None:
    recipe = Recipe(file_type_by_name(word))
    assert _ours(shared / f"models/{name}.gguf", recipe) == _theirs(shared / f"models/{name}.gguf", tmp_path, recipe)


RULES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "pinned layers shift the counters": ((r"blk\.[0-3]\.attn_v=q8_0",), {}),
    "first match wins": ((r"blk\.1\.ffn_down=q5_K", "attn_q=q5_1", r"blk\.2\.=q6_K"), {}),
    "options beat rules": (("output=q4_0",), {"output_type": "q5_K", "embedding_type": "q8_0"}),
    "pure": ((), {"pure": True}),
    "tied embeddings under a rule": (("token_embd=q5_1",), {"output_type": "q5_1"}),
}


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize("name", ["stories260k-f32", "arch/lfm2-hybrid"])
def test_types_with_rules_equal_the_librarys_in_its_own_way_of_counting(
    shared: Path, tmp_path: Path, name: str, case: str
) -> None:
    texts, options = RULES[case]
    rules = tuple(parse_tensor_type(text) for text in texts)
    named = {key: type_by_name(word) if isinstance(word, str) else word for key, word in options.items()}
    recipe = Recipe(file_type_by_name("Q3_K_M"), rules, compat=True, **named)
    assert _ours(shared / f"models/{name}.gguf", recipe) == _theirs(shared / f"models/{name}.gguf", tmp_path, recipe)


@pytest.mark.parametrize("by", ["act", "entropy"])
@pytest.mark.parametrize("name", ["prose-llama-11m", "prose-moe-8m"])
def test_the_library_makes_of_a_plans_rules_what_was_planned(shared: Path, tmp_path: Path, name: str, by: str) -> None:
    source = shared / f"models/{name}-f16.gguf"
    plan = plan_from_statistics(
        shared / f"imatrix/{name}.imatrix.gguf",
        "q4_k_m",
        by=by,
        up=[("15%", "q6_k"), ("15%", "q5_k")],
        down=("25%", "q3_k"),
        model=source,
    )
    lowered = [Rule(r.pattern.lower(), r.type, "", True) for r in plan.rules("llama-quantize")]  # as the tool does
    theirs = _theirs(source, tmp_path, Recipe(plan.file_type, tuple(lowered)))
    assert theirs == _ours(source, Recipe(plan.file_type)) | {n: t.name for n, t in plan.types.items()}
