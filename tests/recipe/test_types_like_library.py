"""The types of whole models against those that libllama chooses, on architectures of several kinds."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from gguftool.format.reader import open_model
from gguftool.recipe.decide import Recipe, TensorFacts, decide, facts_of, file_type_by_name

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


@pytest.mark.parametrize("word", ["Q4_K_M", "Q3_K_L", "Q5_0"])
@pytest.mark.parametrize("name", MODELS)
def test_types_without_rules_equal_the_librarys(shared: Path, tmp_path: Path, name: str, word: str) -> None:
    source, out = shared / f"models/{name}.gguf", tmp_path / "out.gguf"
    file_type = file_type_by_name(word)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = file_type.number, 1, True
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)) == 0
    with open_model(source) as model, open_model(out) as theirs:
        tensors = [TensorFacts(t.name, t.shape, t.type) for t in model.tensors]
        found = decide(Recipe(file_type), facts_of(model.metadata, tensors), tensors, False)
        ours = {t.name: d.type.name for t, d in zip(tensors, found.each, strict=True)}
        assert ours == {t.name: t.type.name for t in theirs.tensors}
