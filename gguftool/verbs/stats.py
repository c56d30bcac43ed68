"""Statistics of an importance matrix, with what a reader needs to judge them: how it was made, what it never saw."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from gguftool.errors import UsageError
from gguftool.imatrix.contents import CHUNK_SIZE
from gguftool.imatrix.figures import FIGURES
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.imatrix.statistics import LayerStatistics, TensorStatistics, layer_statistics, tensor_statistics
from gguftool.imatrix.upstream import UpstreamLayer, UpstreamTensor, upstream_layers, upstream_tensors


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a file. ``chunk_size`` is None and ``tokens`` assume 512 per chunk where the file does not say.

    ``tokens`` is the largest number that any tensor saw, None if that is not known. ``n_experts`` counts the matrices
    of tensors that have several, ``unreached`` those of them that no token came to; ``inferred`` says that their number
    is not in the file and follows from the routers' width. ``tensors`` are sorted by kind and layer; ``ignored`` names
    what belongs to no entry.
    """

    path: Path
    format: str
    datasets: tuple[str, ...]
    chunk_count: int | None
    chunk_size: int | None
    tokens: int | None
    n_entries: int
    n_experts: int
    unreached: int
    inferred: bool
    tensors: tuple[TensorStatistics, ...]
    layers: tuple[LayerStatistics, ...]
    warnings: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpstreamStatistics:
    """The same file as ``llama-imatrix --show-statistics`` sees it, in its order."""

    path: Path
    tensors: tuple[UpstreamTensor, ...]
    layers: tuple[UpstreamLayer, ...]
    warnings: tuple[str, ...]


def stats(path: str | Path, *, tensors: str | None = None) -> Statistics:
    """Statistics of the importance matrix in a file, GGUF or the older form; no model is needed.

    ``tensors`` is a regular expression, searched in the names: only those entries count. ImatrixError for a file or
    values that are wrong, UsageError for an expression that is none or that no name matches.
    """
    wanted = pattern(tensors)
    with open_imatrix(path) as stored:
        experts = stored.inferred_experts()
        imatrix = stored.with_experts(experts)
        every = tensor_statistics(imatrix)
        rows = tuple(row for row in every if wanted(row.name))
        check_some(rows, tensors, stored.path)
        warnings = stored.warnings + imatrix.contradictions() + _never(rows) + _gaps(every)
        routed = [row for row in rows if row.n_mat > 1]
        return Statistics(
            stored.path,
            stored.format,
            stored.datasets,
            stored.chunk_count,
            stored.chunk_size,
            most_tokens(imatrix),
            len(stored.names),
            sum(row.n_mat for row in routed),
            sum(row.n_mat - row.n_reached for row in routed),
            bool(experts),
            rows,
            tuple(layer_statistics(rows, present=_places(every))),
            warnings,
            stored.ignored,
        )


def upstream_stats(path: str | Path, *, tensors: str | None = None) -> UpstreamStatistics:
    """What ``llama-imatrix --show-statistics`` computes, digit for digit; arguments and errors as for ``stats``."""
    wanted = pattern(tensors)
    with open_imatrix(path) as imatrix:
        found, empty = upstream_tensors(imatrix)
        rows = [row for row in found if wanted(row.name)]
        check_some(rows, tensors, imatrix.path)
        warnings = [*imatrix.warnings, *(f"{name}: no data, left out" for name in empty if wanted(name))]
        return UpstreamStatistics(imatrix.path, tuple(rows), tuple(upstream_layers(rows)), tuple(warnings))


class Placed(Protocol):
    """A row of statistics of a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def stack(self) -> str: ...


_Row = TypeVar("_Row", bound=Placed)


def ordered(rows: Iterable[_Row], by: str, figures: Sequence[str] = FIGURES) -> list[_Row]:
    """The rows by "kind" (and layer: as they come), "layer" (and kind), "name", or a figure, falling, within each kind.

    Tensors of different kinds see inputs of different widths and scales, so figures never mix kinds. Undefined is last.
    """
    rows = list(rows)
    if by == "kind":
        return rows
    if by == "name":
        return sorted(rows, key=lambda row: row.name)
    if by == "layer":
        return sorted(rows, key=lambda row: (row.layer is None, row.stack, row.layer or 0, row.kind))
    if by not in figures:
        raise UsageError(f"'{by}' is no order of these statistics: kind, layer, name, {', '.join(figures)}")

    def key(row: _Row) -> tuple[bool, str, bool, float]:
        value = getattr(row, by)
        return row.layer is None, row.kind, value != value, -value

    return sorted(rows, key=key)


def pattern(expression: str | None) -> Callable[[str], bool]:
    """Whether a name contains a match; any does without an expression. UsageError for one that is none."""
    if expression is None:
        return lambda name: True
    try:
        compiled = re.compile(expression)
    except re.error as trouble:
        raise UsageError(f"'{expression}' is no regular expression: {trouble}") from None
    return lambda name: compiled.search(name) is not None


def check_some(rows: Sequence[object], expression: str | None, *files: Path) -> None:
    """UsageError if an expression left no row: it is a slip, and an empty table would not say so."""
    if expression is not None and not rows:
        raise UsageError(f"{' and '.join(map(str, files))}: no tensor's name has a match of '{expression}'")


def most_tokens(imatrix: Imatrix) -> int | None:
    """Tokens that a tensor of one matrix saw; where the file does not say, what its chunks hold."""
    if imatrix.format == "gguf":
        single = [int(imatrix.counts(name)[0]) for name in imatrix.names if imatrix.shape(name)[0] == 1]
        if single:
            return max(single)
    return imatrix.chunk_count * (imatrix.chunk_size or CHUNK_SIZE) if imatrix.chunk_count is not None else None


def _never(rows: Iterable[TensorStatistics]) -> tuple[str, ...]:
    return tuple(f"{row.name}: no token came by, so it has no statistics" for row in rows if not row.n_reached)


def _places(rows: Iterable[TensorStatistics]) -> list[tuple[str, int]]:
    return [(row.stack, row.layer) for row in rows if row.layer is not None]


def _gaps(rows: Iterable[TensorStatistics]) -> tuple[str, ...]:
    """What is missing between the first and the last layer: a pruned model, or a run that was cut."""
    return tuple(
        f"{layer.stack}.{layer.layer - layer.gap}{f' to {layer.layer - 1}' if layer.gap > 1 else ''}: no entry, though "
        "layers before and behind have some; the next one is compared with the last before"
        for layer in layer_statistics(rows)
        if layer.gap
    )
