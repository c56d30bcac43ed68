"""What an importance matrix file is: its making, its entries by kind, and a tensor's largest channels."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguftool.errors import UsageError
from gguftool.format.names import place_of
from gguftool.imatrix.file import Imatrix
from gguftool.verbs.imatrix_files import Reading, opened
from gguftool.verbs.stats import most_tokens


@dataclass(frozen=True, slots=True)
class Kind:
    """All entries of one kind and shape, ``layers`` those that have one; ``tokens`` the most that any of them saw."""

    kind: str
    tensors: int
    layers: tuple[int, ...]
    n_mat: int
    n_cols: int
    n_reached: int
    tokens: int | None
    signed: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A file. ``chunk_size`` is None, and ``tokens`` assume 512 per chunk, where it does not say."""

    path: Path
    format: str
    n_bytes: int
    n_entries: int
    n_values: int
    datasets: tuple[str, ...]
    chunk_count: int | None
    chunk_size: int | None
    tokens: int | None
    kinds: tuple[Kind, ...]
    metadata: dict[str, Any]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """One input channel: mean square, its percentage of the matrix's sum, how many times the median; mean if known."""

    matrix: int
    channel: int
    mean_square: float
    share_pct: float
    times_median: float
    mean: float | None


@dataclass(frozen=True, slots=True)
class ShownTensor:
    """The ``channels`` of one entry with the largest shares; ``counts`` per matrix are None where not known."""

    path: Path
    name: str
    n_mat: int
    n_cols: int
    n_reached: int
    counts: tuple[int, ...] | None
    signed: bool
    channels: tuple[Channel, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def show_imatrix(
    path: str | Path,
    *,
    model: str | Path | None = None,
    chunk_size: int | None = None,
    experts: int | None = None,
    keep_fillers: bool = False,
) -> Shown:
    """What the file is; no values are read. Arguments and errors as for ``convert_imatrix``."""
    with ExitStack() as files:
        (imatrix,), notes, warnings = opened(
            [path], Reading(chunk_size, model, experts, keep_fillers), files, writing=False
        )
        sizes = [imatrix.shape(name) for name in imatrix.names]
        return Shown(
            imatrix.path, imatrix.format, imatrix.path.stat().st_size, len(sizes), sum(a * b for a, b in sizes),
            imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size, most_tokens(imatrix),
            tuple(_kinds(imatrix)), dict(imatrix.extra), imatrix.ignored, tuple(notes), tuple(warnings),
        )  # fmt: skip


def show_tensor(
    path: str | Path,
    name: str,
    *,
    top: int = 10,
    matrix: int | None = None,
    model: str | Path | None = None,
    chunk_size: int | None = None,
    experts: int | None = None,
    keep_fillers: bool = False,
) -> ShownTensor:
    """The ``top`` channels of one entry, or of one ``matrix`` of it, by their share of their matrix's importance.

    ".weight" may be left out of the name. UsageError for a name or a matrix that there is not.
    """
    with ExitStack() as files:
        (imatrix,), notes, warnings = opened(
            [path], Reading(chunk_size, model, experts, keep_fillers), files, writing=False
        )
        found = _named(imatrix, name)
        n_mat, n_cols = imatrix.shape(found)
        if matrix is not None and not 0 <= matrix < n_mat:
            raise UsageError(f"'{found}' has the matrices 0 to {n_mat - 1}, not {matrix}")
        if top < 1:
            raise UsageError(f"{top} is no number of channels to show")
        counts = imatrix.counts(found)
        known = imatrix.tokens(found) is not None
        return ShownTensor(
            imatrix.path, found, n_mat, n_cols, int((counts > 0).sum()),
            tuple(counts.tolist()) if known else None, imatrix.has_signed(found),
            tuple(_channels(imatrix, found, range(n_mat) if matrix is None else [matrix], top)),
            tuple(notes), tuple(warnings),
        )  # fmt: skip


def _kinds(imatrix: Imatrix) -> list[Kind]:
    groups: dict[tuple[str, int, int, bool], list[str]] = {}
    for name in imatrix.names:
        groups.setdefault((place_of(name)[2], *imatrix.shape(name), imatrix.has_signed(name)), []).append(name)
    kinds = []
    for (kind, n_mat, n_cols, signed), names in sorted(groups.items()):
        layers = sorted({layer for name in names if (layer := place_of(name)[1]) is not None})
        tokens = [total for name in names if (total := imatrix.tokens(name)) is not None]
        reached = sum(int((imatrix.counts(name) > 0).sum()) for name in names)
        kinds.append(Kind(kind, len(names), tuple(layers), n_mat, n_cols, reached, max(tokens, default=None), signed))
    return kinds


def _named(imatrix: Imatrix, name: str) -> str:
    for candidate in (name, f"{name}.weight"):
        if candidate in imatrix.names:
            return candidate
    import difflib

    near = difflib.get_close_matches(name, imatrix.names, n=3, cutoff=0.4)
    hint = f": did you mean {', '.join(near)}?" if near else ""
    raise UsageError(f"{imatrix.path} has no entry '{name}'{hint}")


def _channels(imatrix: Imatrix, name: str, matrices: Iterable[int], top: int) -> list[Channel]:
    values, counts = imatrix.mean_squares(name), imatrix.counts(name)
    signed = imatrix.entry(name).signed
    found = []
    for matrix in matrices:
        row = values[matrix]
        total, median = float(row.sum()), float(np.median(row))
        if not counts[matrix] or total <= 0:
            continue
        for channel in np.argsort(-row, kind="stable")[:top]:
            value = float(row[channel])
            mean = float(signed[matrix, channel] / counts[matrix]) if signed is not None else None
            times = value / median if median > 0 else float("nan")
            found.append(Channel(matrix, int(channel), value, 100 * value / total, times, mean))
    return sorted(found, key=lambda channel: -channel.share_pct)[:top]
