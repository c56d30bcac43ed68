"""The collector that made a file of examples/: its sums are those of the inputs, and the file is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from make_example_imatrix import CHUNK_SIZE, collect, matrices_of

import gguftool
from gguftool.imatrix.writer import write_imatrix

MODEL = REPO / "examples" / "prose-llama-11m-f16.gguf"


def test_sums_of_the_first_layer_are_those_of_the_normalised_embedding(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from gguftool.llama.runtime import load

    text = (REPO / "examples" / "prose.txt").read_text("utf-8")[:10_000]
    found = collect(MODEL, text, chunks=2)
    with load(MODEL, n_ctx=CHUNK_SIZE, threads=1) as runtime, gguftool.open_model(MODEL) as model:
        tokens = runtime.tokenize(text)[: 2 * CHUNK_SIZE]
        assert runtime.adds_bos
        tokens[::CHUNK_SIZE] = runtime.bos
        embedding = model.tensor("token_embd.weight")
        rows = np.frombuffer(model.read(embedding), np.float16).reshape(embedding.shape)[tokens].astype(np.float64)
        norm = np.frombuffer(model.read(model.tensor("blk.0.attn_norm.weight")), np.float32)
        eps = model.metadata["llama.attention.layer_norm_rms_epsilon"]
    expected = (norm * rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + eps)) ** 2
    for kind in ("attn_q", "attn_k", "attn_v"):
        sums = found[f"blk.0.{kind}.weight"]
        assert sums.count == 2 * CHUNK_SIZE
        np.testing.assert_allclose(sums.total, expected.sum(axis=0), rtol=1e-5)
    assert {sums.count for sums in found.values()} == {2 * CHUNK_SIZE}  # the last layer's too
    write_imatrix(tmp_path / "x.gguf", matrices_of(found, "some text"), "gguf")
    with gguftool.open_imatrix(tmp_path / "x.gguf") as written:
        assert written.datasets == ("some text",) and written.chunk_count == 2 and not written.warnings
        np.testing.assert_allclose(written.weights("blk.0.attn_q.weight")[0], expected.mean(axis=0), rtol=1e-5)


def test_a_model_with_experts_is_refused(shared: Path) -> None:
    pytest.importorskip("llama_cpp")
    text = (REPO / "examples" / "prose.txt").read_text("utf-8")[:5_000]
    with pytest.raises(NotImplementedError, match="several matrices"):
        collect(shared / "models" / "prose-moe-8m-f16.gguf", text, chunks=1)


def test_both_matrices_of_the_examples_are_of_the_same_model() -> None:
    frame = gguftool.diff_imatrices(
        REPO / "examples" / "prose-llama-11m.imatrix.gguf", REPO / "examples" / "prose-llama-11m.offline.imatrix.gguf"
    )
    assert len(frame) == 84 and (frame["only_in"] == "").all()
    assert frame["tv"].between(0.001, 0.999).all() and frame["cosine"].min() > 0.1
