"""KL divergence of several files to one base, whose probabilities are computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguftool.llama import perplexity
from gguftool.llama.runtime import load

N_CTX = 512


def log_probabilities(model: Path, text: str, chunks: int) -> npt.NDArray[np.float32]:
    """Float32 [scored positions, vocabulary], the positions of ``gguftool kld``."""
    with load(model, n_ctx=N_CTX, threads=1) as runtime:
        pieces = perplexity._chunks(runtime, text, N_CTX, chunks)
        found = [perplexity._log_softmax(lg) for piece in pieces for lg, _ in perplexity._scored(runtime, piece)]
    return np.concatenate([np.float32(rows) for rows in found])


def divergence_from(base: npt.NDArray[np.float32], model: Path, text: str, chunks: int) -> float:
    """Mean KL divergence in nats, of the model from the base's log-probabilities."""
    total, at = 0.0, 0
    with load(model, n_ctx=N_CTX, threads=1) as runtime:
        for piece in perplexity._chunks(runtime, text, N_CTX, chunks):
            for logits, _ in perplexity._scored(runtime, piece):
                p = np.float64(base[at : at + len(logits)])
                total += float((np.exp(p) * (p - perplexity._log_softmax(logits))).sum())
                at += len(logits)
    return total / at
