"""Perplexity of a model on a text, and the Kullback-Leibler divergence of a quantized model from its base.

The procedure is llama-perplexity's: the text is cut into chunks of ``n_ctx`` tokens, each evaluated from an empty
cache with BOS as its first token where the vocabulary adds one; the logits of positions n_ctx//2 .. n_ctx-2 predict
the tokens that follow. Both models run side by side, so base probabilities are the exact ones: not the 16-bit codes
of llama-perplexity's base file, whose floor at exp(-16) costs about a quarter of a per cent of PPL(base).
Arithmetic is float64. Errors are standard errors of the mean over tokens, which count as independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguftool.errors import UsageError
from gguftool.llama.runtime import Runtime, load

Floats = npt.NDArray[np.float64]
_ROWS = 32  # of logits at a time: 150k tokens of vocabulary take 40 MB in float64


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error."""

    value: float
    error: float

    @classmethod
    def mean(cls, samples: Floats) -> Estimate:
        """Mean over samples; the error is 0 for fewer than two."""
        n = len(samples)
        return cls(float(samples.mean()), float(samples.std() / math.sqrt(n - 1)) if n > 1 else 0.0)

    def exp(self) -> Estimate:
        """The exponential, its error to first order."""
        return Estimate(math.exp(self.value), math.exp(self.value) * self.error)


@dataclass(frozen=True, slots=True)
class Perplexity:
    """``ppl`` over ``n_tokens`` scored tokens of ``n_chunks`` chunks."""

    ppl: Estimate
    n_tokens: int
    n_chunks: int


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far model Q is from its base: nats per token for ``kld``, fractions for ``rms_dp`` and ``same_top``."""

    ppl: Estimate
    ppl_base: Estimate
    log_ratio: Estimate
    kld: Estimate
    kld_median: float
    kld_99: float
    kld_max: float
    rms_dp: float
    same_top: Estimate
    n_tokens: int
    n_chunks: int


@dataclass(slots=True)
class _Samples:
    nll: list[Floats] = field(default_factory=list)
    nll_base: list[Floats] = field(default_factory=list)
    kld: list[Floats] = field(default_factory=list)
    same: list[npt.NDArray[np.bool_]] = field(default_factory=list)


Progress = Callable[[int, int], None]


def perplexity(
    model: str | Path,
    text: str,
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> Perplexity:
    """Perplexity of the GGUF on the text; UsageError if the text is shorter than two chunks."""
    nll: list[Floats] = []
    with load(model, n_ctx=n_ctx, threads=threads) as runtime:
        pieces = _chunks(runtime, text, n_ctx, chunks)
        for i, tokens in enumerate(pieces):
            for logits, targets in _scored(runtime, tokens):
                nll.append(-_log_softmax(logits)[np.arange(len(targets)), targets])
            if progress:
                progress(i + 1, len(pieces))
    samples = np.concatenate(nll)
    return Perplexity(Estimate.mean(samples).exp(), len(samples), len(pieces))


def divergence(
    model: str | Path,
    base: str | Path,
    text: str,
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> Divergence:
    """KL divergence of ``model`` from ``base`` on the text; UsageError if their vocabularies differ."""
    found = _Samples()
    with load(base, n_ctx=n_ctx, threads=threads) as p, load(model, n_ctx=n_ctx, threads=threads) as q:
        pieces = _chunks(p, text, n_ctx, chunks)
        if p.n_vocab != q.n_vocab:
            raise UsageError(
                f"{model} has {q.n_vocab} tokens in its vocabulary, {base} has {p.n_vocab}: not comparable"
            )
        for i, tokens in enumerate(pieces):
            for (lp, targets), (lq, _) in zip(_scored(p, tokens), _scored(q, tokens), strict=True):
                _compare(lp, lq, targets, found)
            if progress:
                progress(i + 1, len(pieces))
    return _summary(found, len(pieces))


def _chunks(runtime: Runtime, text: str, n_ctx: int, limit: int | None) -> list[npt.NDArray[np.int32]]:
    if n_ctx < 4 or (limit is not None and limit < 1):
        raise UsageError(f"a context of {n_ctx} tokens and {limit} chunks cannot be evaluated: at least 4 and 1")
    tokens = runtime.tokenize(text.removesuffix("\n"))
    if len(tokens) < 2 * n_ctx:
        raise UsageError(
            f"the text has {len(tokens)} tokens, two chunks of {n_ctx} are needed: give more text or smaller chunks"
        )
    n = min(len(tokens) // n_ctx, limit or len(tokens))
    return [tokens[i * n_ctx : (i + 1) * n_ctx] for i in range(n)]


def _scored(
    runtime: Runtime, tokens: npt.NDArray[np.int32]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
    """Slices of (logits, targets) over the scored positions of a chunk."""
    first = len(tokens) // 2
    seen = tokens.copy()
    if runtime.adds_bos:
        seen[0] = runtime.bos
    logits = runtime.logits(seen, first)[:-1]
    targets = tokens[first + 1 :]
    for at in range(0, len(targets), _ROWS):
        yield logits[at : at + _ROWS], targets[at : at + _ROWS]


def _log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _compare(
    logits_p: npt.NDArray[np.float32], logits_q: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], out: _Samples
) -> None:
    lp, lq = _log_softmax(logits_p), _log_softmax(logits_q)
    rows = np.arange(len(targets))
    out.nll_base.append(-lp[rows, targets])
    out.nll.append(-lq[rows, targets])
    out.kld.append((np.exp(lp) * (lp - lq)).sum(axis=1))
    out.same.append(logits_p.argmax(axis=1) == logits_q.argmax(axis=1))


def _summary(found: _Samples, n_chunks: int) -> Divergence:
    nll, base, kld = (np.concatenate(part) for part in (found.nll, found.nll_base, found.kld))
    same = np.concatenate(found.same).astype(np.float64)
    return Divergence(
        ppl=Estimate.mean(nll).exp(),
        ppl_base=Estimate.mean(base).exp(),
        log_ratio=Estimate.mean(nll - base),
        kld=Estimate.mean(kld),
        kld_median=float(np.median(kld)),
        kld_99=float(np.quantile(kld, 0.99)),
        kld_max=float(kld.max()),
        rms_dp=float(np.sqrt(np.mean((np.exp(-nll) - np.exp(-base)) ** 2))),
        same_top=Estimate.mean(same),
        n_tokens=len(kld),
        n_chunks=n_chunks,
    )
