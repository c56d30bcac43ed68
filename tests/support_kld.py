"""KL divergence of several files to one base, whose probabilities are computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import gguftool
from gguftool.llama import perplexity
from gguftool.llama.runtime import load

N_CTX = 512


def log_probabilities(model: Path, text: str, chunks: int) -> npt.NDArray[np.float32]:
    """Float32 [scored positions, vocabulary], the positions of ``gguftool kld``."""
    with load(model, n_ctx=N_CTX, threads=1) as runtime:
        pieces = perplexity._chunks(runtime, text, N_CTX, chunks)
        found = [perplexity._log_softmax(lg) for piece in pieces for lg, _ in perplexity._scored(runtime, piece)]
    return np.concatenate([np.float32(rows) for rows in found])


def divergences_from(base: npt.NDArray[np.float32], model: Path, text: str, chunks: int) -> npt.NDArray[np.float64]:
    """KL divergence in nats at every scored position, of the model from the base's log-probabilities."""
    found, at = [], 0
    with load(model, n_ctx=N_CTX, threads=1) as runtime:
        for piece in perplexity._chunks(runtime, text, N_CTX, chunks):
            for logits, _ in perplexity._scored(runtime, piece):
                p = np.float64(base[at : at + len(logits)])
                found.append((np.exp(p) * (p - perplexity._log_softmax(logits))).sum(1))
                at += len(logits)
    return np.concatenate(found)


def decoded(path: Path) -> Path:
    """The model with all tensors decoded to F32, for types that libllama does not know; beside ``path``."""
    out = path.with_suffix(".f32.gguf")
    gguftool.quantize(path, out, "F32", allow_requantize=True, force=True, sync=False)
    return out


class Comparison:
    """One of the small real models of ../shared against files of it, on the first ``chunks`` of the test text."""

    def __init__(self, shared: Path, name: str, chunks: int) -> None:
        self.source = shared / "models" / f"{name}-f16.gguf"
        self.imatrix = shared / "imatrix" / f"{name}.imatrix.gguf"
        self.text = (shared / "text" / "wiki.test.raw").read_text()
        self.chunks = chunks
        self.base = log_probabilities(self.source, self.text, chunks)

    def divergences(self, path: Path, chunks: int | None = None) -> npt.NDArray[np.float64]:
        """At every scored position of the first ``chunks`` (None: all), in nats."""
        found = divergences_from(self.base, path, self.text, chunks or self.chunks)
        assert np.isfinite(found).all()
        return found

    def kld(self, path: Path) -> float:
        """Mean KL divergence in nats."""
        return float(self.divergences(path).mean())
