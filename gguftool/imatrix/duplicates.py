"""Tensors of one layer that see the same input: q, k and v, or gate and up. Their entries are equal, number by number.

An average over a layer's tensors counts such an input several times. Two entries are the same input if they have the
same shape, the same matrices reached, and channels that differ by less than a millionth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguftool.imatrix.figures import TensorStatistics

_TOLERANCE = 1e-6
#: Inputs with the same sum that a tensor is held against at most; equal sums of different inputs are no accident.
_MOST_TRIES = 4


class Means(Protocol):
    """What looking for duplicates asks of an importance matrix."""

    def mean_squares(self, name: str, matrix: int | None = None) -> npt.NDArray[np.float64]: ...


def marked(imatrix: Means, rows: Sequence[TensorStatistics]) -> list[TensorStatistics]:
    """The rows with ``duplicate_of`` set where an earlier one of the same layer saw the same input.

    Values are read again only where the figures agree.
    """
    originals: dict[str, str] = {}
    groups: dict[tuple[object, ...], list[TensorStatistics]] = {}
    for row in rows:
        if row.layer is not None and row.n:
            groups.setdefault((row.stack, row.layer, row.n_mat, row.n_cols, row.n_reached), []).append(row)
    for group in groups.values():
        if len(group) > 1:
            originals |= _originals(imatrix, group)
    return [replace(row, duplicate_of=originals.get(row.name)) for row in rows]


def _originals(imatrix: Means, group: Sequence[TensorStatistics]) -> dict[str, str]:
    """Duplicate -> original within a group of one layer and shape, both named in the group's order."""
    order = {row.name: i for i, row in enumerate(group)}
    clusters: list[list[TensorStatistics]] = []
    for row in sorted(group, key=lambda row: (row.sum, order[row.name])):
        for cluster in reversed(clusters[-_MOST_TRIES:]):
            if _alike(row, cluster[0]) and _equal(imatrix, row.name, cluster[0].name):
                cluster.append(row)
                break
        else:
            clusters.append([row])
    found: dict[str, str] = {}
    for cluster in clusters:
        original, *others = sorted((row.name for row in cluster), key=order.__getitem__)
        found |= dict.fromkeys(others, original)
    return found


def _alike(a: TensorStatistics, b: TensorStatistics) -> bool:
    """Whether the figures allow the channels to be equal."""
    pairs = ((a.sum, b.sum), (a.min, b.min), (a.max, b.max))
    return all(math.isclose(x, y, rel_tol=2 * _TOLERANCE) for x, y in pairs)


def _equal(imatrix: Means, one: str, other: str) -> bool:
    a, b = imatrix.mean_squares(one), imatrix.mean_squares(other)
    if np.array_equal(a, b):
        return True
    return bool((np.abs(a - b) <= _TOLERANCE * np.maximum(a, b)).all())
