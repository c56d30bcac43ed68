"""Every mixture of llama-quantize can be written, and libllama loads and runs the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support_logits import logits_of

import gguftool
from gguftool.recipe.filetypes import FILE_TYPES

MIXTURES = [
    t.name for t in FILE_TYPES if t.family == "mainline" and not t.is_copy and t.base and t.base.kind == "quant"
]
MODELS = ("prose-llama-11m", "prose-moe-8m")


def write(shared: Path, name: str, file_type: str, out: Path, **options: object) -> Path:
    source = shared / "models" / f"{name}-f16.gguf"
    gguftool.quantize(source, out, file_type, imatrix=shared / "imatrix" / f"{name}.imatrix.gguf", **options)
    return out


@pytest.mark.parametrize("name", MODELS)
def test_every_mixture_runs(shared: Path, tmp_path: Path, name: str) -> None:
    paths = [write(shared, name, file_type, tmp_path / f"{file_type}.gguf") for file_type in MIXTURES]
    logits = logits_of(paths)
    for path in paths:
        found = logits[path]
        assert isinstance(found, np.ndarray), f"{path.name}: {found}"
        assert np.isfinite(found).all(), path.name
        assert found.std() > 0.1, path.name


def test_a_type_that_is_no_mixture_runs_too(shared: Path, tmp_path: Path) -> None:
    out = write(shared, MODELS[0], "Q4_0", tmp_path / "nvfp4.gguf", tensor_type=["ffn=nvfp4"])
    with gguftool.open_model(out) as model:
        assert model.tensor("blk.3.ffn_up.weight").type.name == "nvfp4"
    found = logits_of([out])[out]
    assert isinstance(found, np.ndarray), found
    assert np.isfinite(found).all()


def test_iq3_m_needs_no_compiler(shared: Path, tmp_path: Path) -> None:
    """numba writes the package's own mixture, byte for byte."""
    compiled = write(shared, MODELS[1], "IQ3_M", tmp_path / "native.gguf")
    source = shared / "models" / f"{MODELS[1]}-f16.gguf"
    imatrix = shared / "imatrix" / f"{MODELS[1]}.imatrix.gguf"
    out = tmp_path / "numba.gguf"
    line = [sys.executable, "-c", "from gguftool.cli.main import main; main()", "quantize", "--imatrix", str(imatrix)]
    env = {**os.environ, "GGUFTOOL_BACKEND": "numba"}
    done = subprocess.run([*line, str(source), str(out), "IQ3_M"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    with gguftool.open_model(compiled) as a, gguftool.open_model(out) as b:
        for tensor in a.tensors:
            assert a.read(tensor) == b.read(b.tensor(tensor.name)), tensor.name


def test_types_of_the_fork_say_who_reads_them(shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "prose-llama-11m-f16.gguf"
    said = gguftool.quantize(source, tmp_path / "out.gguf", "IQ4_KSS", effort="fast").warnings
    assert any("iq4_kss" in line and "llama.cpp refuses" in line for line in said), said
    said = gguftool.quantize(source, tmp_path / "out.gguf", "IQ4_XS", effort="fast", force=True).warnings
    assert not any("refuses" in line for line in said), said
