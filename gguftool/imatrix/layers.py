"""Figures of whole layers: averages over tensors, and comparisons pooled over all their channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gguftool.imatrix.figures import LayerStatistics, TensorStatistics
from gguftool.imatrix.moments import CoMoments, ratio

_NAN = math.nan


def layer_statistics(
    tensors: Iterable[TensorStatistics],
    *,
    distinct: bool = True,
    present: Iterable[tuple[str, int]] = (),
) -> list[LayerStatistics]:
    """Statistics of every layer that has tensors, by stack and layer; tensors outside of blocks are in none.

    ``distinct`` counts an input that several tensors see once where ``LayerStatistics`` says so; without it every
    tensor counts. ``present``: (stack, layer) of layers that the file has though no row here is of them.
    """
    layers: dict[tuple[str, int], list[TensorStatistics]] = {}
    for row in tensors:
        if row.layer is not None:
            layers.setdefault((row.stack, row.layer), []).append(row)
    gaps = _gaps({*layers, *present})
    return [_layer(*place, layers[place], gaps[place], distinct) for place in sorted(layers)]


def _gaps(present: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Layers missing directly before each; what may be missing before the first is not known."""
    found: dict[tuple[str, int], int] = {}
    before: tuple[str, int] | None = None
    for stack, layer in sorted(present):
        found[stack, layer] = layer - before[1] - 1 if before is not None and before[0] == stack else 0
        before = stack, layer
    return found


def _layer(stack: str, layer: int, rows: Sequence[TensorStatistics], gap: int, distinct: bool) -> LayerStatistics:
    n = sum(row.n for row in rows)
    total = _sum(rows)
    # The first tensor of an input speaks for all, though a choice of tensors may have left the original out.
    inputs = list({row.duplicate_of or row.name: row for row in reversed(rows)}.values()) if distinct else rows
    figures = LayerStatistics(
        stack,
        layer,
        len(rows),
        n,
        total if n else _NAN,
        total / n if n else _NAN,
        _average([(row.sum, row.n) for row in rows]),
        _average([(row.zd_pct, row.n) for row in rows]),
        _average([(row.cossim, row.n) for row in rows]),
        sum(not math.isnan(row.cossim) for row in rows),
        len(inputs),
        _sum(inputs) if n else _NAN,
        _average([(row.entropy_norm_pct, row.n) for row in inputs]),
        gap=gap,
        mtp=rows[0].mtp,
    )
    return _pooled(figures, inputs)


def _pooled(row: LayerStatistics, inputs: Sequence[TensorStatistics]) -> LayerStatistics:
    """The row with all channels that have a partner compared as one vector, each tensor centred on its own mean."""
    pairs = [tensor.pair for tensor in inputs if tensor.pair is not None and tensor.pair.energies.n]
    energies = [pair.energies for pair in pairs]
    signed = [(pair.means, pair.noise2) for pair in pairs if pair.means is not None]
    means = [m for m, _ in signed]
    return replace(
        row,
        cossim_pooled=cosine(energies),
        pearson_pooled=correlation(energies),
        covariance=covariance(energies),
        l2=distance(energies),
        gain=gain(energies),
        u_cossim_pooled=cosine(means),
        u_pearson_pooled=correlation(means),
        u_covariance=covariance(means),
        u_l2=distance(means),
        l2_noise=math.sqrt(sum(noise2 for _, noise2 in signed)) if signed else _NAN,
    )


def cosine(pairs: Sequence[CoMoments]) -> float:
    """Cosine of all vectors, end to end; NaN without any, here and below."""
    return ratio(sum(pair.dot for pair in pairs), _both([pair.squares for pair in pairs]))


def correlation(pairs: Sequence[CoMoments]) -> float:
    """Pearson's correlation, each pair of vectors centred on its own means."""
    return ratio(sum(pair.cov for pair in pairs), _both([pair.variances for pair in pairs]))


def covariance(pairs: Sequence[CoMoments]) -> float:
    """Mean product of differences from the means; NaN for a single value."""
    n = sum(pair.n for pair in pairs)
    return sum(pair.cov for pair in pairs) / n if n > 1 else _NAN


def distance(pairs: Sequence[CoMoments]) -> float:
    """Euclidean distance."""
    return math.sqrt(sum(pair.distance2 for pair in pairs)) if sum(pair.n for pair in pairs) else _NAN


def gain(pairs: Sequence[CoMoments]) -> float:
    """Root of the mean energy over that of the partners, over the vectors whose partner has any."""
    held = [pair for pair in pairs if pair.sum_p > 0]
    return math.sqrt(sum(pair.sum_c for pair in held) / sum(pair.sum_p for pair in held)) if held else _NAN


def _both(squares: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(c for c, _ in squares), sum(p for _, p in squares)


def _sum(rows: Iterable[TensorStatistics]) -> float:
    return sum(row.sum for row in rows if not math.isnan(row.sum))


def _average(pairs: Iterable[tuple[float, int]]) -> float:
    """Mean of the values that are numbers, weighted; NaN for none."""
    held = [(value, weight) for value, weight in pairs if not math.isnan(value) and weight]
    weight = sum(w for _, w in held)
    return sum(v * w for v, w in held) / weight if weight else _NAN
