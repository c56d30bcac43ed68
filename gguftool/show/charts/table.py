"""Statistics as tables of kinds and layers: what stands behind every chart over layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gguftool.errors import UsageError
from gguftool.imatrix.file import Imatrix
from gguftool.show.tables import printable

if TYPE_CHECKING:
    import pandas as pd

    #: Statistics: a frame with a row per tensor or layer, the rows themselves, or the imatrix that they are made from.
    Source: TypeAlias = pd.DataFrame | Sequence[Any] | Imatrix

Grid: TypeAlias = npt.NDArray[np.float64]
#: More rows than this are no chart.
MOST_KINDS = 64
_LONGEST = 44
#: Kinds that agree in all of these saw the same input.
_SAME_INPUT = ("n", "sum", "max", "std", "rank_corr", "cosine", "tv")
#: In a frame of coverage: kinds that agree in these saw the same tokens.
_SAME_TOKENS = ("n_mat", "tokens", "least", "median", "most", "routing_entropy")


@dataclass(frozen=True, slots=True)
class Table:
    """Values [n_kinds, n_layers] of each figure, NaN where undefined or where ``there`` says that no tensor is.

    ``apart`` are the rows outside of layers: name -> values.
    """

    file: str
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    there: npt.NDArray[np.bool_]
    values: Mapping[str, Grid]
    apart: Mapping[str, Mapping[str, float]]


def table(source: Source, figures: Sequence[str], *, merge: bool = True) -> Table:
    """The figures by kind and layer; kinds that see the same input share a row, named after all of them.

    UsageError for a figure that is no column of numbers, for rows without a layer, and for more kinds than fit a page.
    """
    columns = _columns(source)
    if not len(columns.get("layer", ())):
        raise UsageError("no rows with a column 'layer': a chart over layers takes stats(), layers(), coverage() ...")
    layer = [_layer(value) for value in columns["layer"]]
    if not any(value is not None for value in layer):
        raise UsageError("no tensor of the importance matrix lies in a layer: there is nothing to draw over layers")
    kind = [printable(str(k)) for k in columns.get("kind", columns.get("stack", ["all tensors"] * len(layer)))]
    used = {name: _numbers(columns, name) for name in dict.fromkeys(figures)}
    same = _SAME_TOKENS if "least" in columns else _SAME_INPUT
    proof = {name: _numbers(columns, name) for name in same if name in columns}
    layers = sorted({value for value in layer if value is not None})
    there, grids = _grids(kind, layer, layers, used | proof)
    order = list(dict.fromkeys(sorted(k for k, at in zip(kind, layer, strict=True) if at is not None)))
    groups = (
        _groups(grids, there, list(proof), list(used)) if merge and len(proof) > 1 else [[i] for i in range(len(there))]
    )
    if len(groups) > MOST_KINDS:
        raise UsageError(f"{len(groups)} kinds of tensors are too many rows for a chart: choose some of the tensors")
    first = [group[0] for group in groups]
    return Table(
        file_of(source),
        tuple(_shortened(joined([order[i] for i in group])) for group in groups),
        tuple(layers),
        there[first],
        {name: grids[name][first] for name in used},
        _apart(columns, layer, used),
    )


def without_empty(found: Table) -> Table:
    """The table without kinds that have no value in any figure, if others have."""
    kept = np.logical_or.reduce([np.isfinite(grid).any(axis=1) for grid in found.values.values()])
    if kept.all() or not kept.any():
        return found
    kinds = tuple(kind for kind, keep in zip(found.kinds, kept, strict=True) if keep)
    return replace(
        found, kinds=kinds, there=found.there[kept], values={name: grid[kept] for name, grid in found.values.items()}
    )


def joined(kinds: Sequence[str]) -> str:
    """Names of kinds as one label: attn_k, attn_q -> attn_k/q; ffn_gate_exps, ffn_up_exps -> ffn_gate/up_exps."""
    families: dict[tuple[str, str], list[str]] = {}
    for kind in kinds:
        head, bar, rest = kind.partition("_")
        middle, tail_bar, tail = rest.partition("_")
        families.setdefault((head + bar, tail_bar + tail), []).append(middle)
    return ", ".join(f"{head}{'/'.join(middles)}{tail}" for (head, tail), middles in families.items())


def _columns(source: Source) -> dict[str, Sequence[Any]]:
    if isinstance(source, Imatrix):
        source = source.stats()
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return {str(name): source[name].tolist() for name in source.columns}
    if isinstance(source, Sequence) and all(is_dataclass(row) for row in source):
        names = [field.name for field in fields(source[0])] if source else []
        return {name: [getattr(row, name) for row in source] for name in names}
    raise UsageError(f"a chart is drawn from a frame of statistics or an Imatrix, not from {type(source).__name__}")


def file_of(source: object) -> str:
    """The name of the file that statistics come from, "" if they do not say."""
    if isinstance(source, Imatrix):
        return source.path.name
    return str(getattr(source, "attrs", {}).get("file", ""))


def _layer(value: Any) -> int | None:
    return None if value is None or value != value else int(value)


def _numbers(columns: Mapping[str, Sequence[Any]], name: str) -> Grid:
    if name in columns and all(value is None or isinstance(value, (int, float)) for value in columns[name]):
        return np.array([math.nan if value is None else float(value) for value in columns[name]])
    drawn = [n for n in columns if n != "layer" and all(isinstance(v, int | float | None) for v in columns[n])]
    raise UsageError(f"'{name}' is no statistic of these rows: {', '.join(drawn)}")


def _grids(
    kind: Sequence[str], layer: Sequence[int | None], layers: Sequence[int], columns: Mapping[str, Grid]
) -> tuple[npt.NDArray[np.bool_], dict[str, Grid]]:
    """Where a tensor is, and every column, as [n_kinds, n_layers]; kinds in alphabetical order."""
    rows = {k: i for i, k in enumerate(sorted({k for k, at in zip(kind, layer, strict=True) if at is not None}))}
    place = {at: i for i, at in enumerate(layers)}
    there = np.zeros((len(rows), len(layers)), bool)
    grids = {name: np.full(there.shape, math.nan) for name in columns}
    for i, (k, at) in enumerate(zip(kind, layer, strict=True)):
        if at is None:
            continue
        cell = rows[k], place[at]
        if there[cell]:
            raise UsageError(f"two rows for '{k}' in layer {at}: a chart shows one file (or model stack) at a time")
        there[cell] = True
        for name, column in columns.items():
            grids[name][cell] = column[i]
    return there, grids


def _groups(
    grids: Mapping[str, Grid], there: npt.NDArray[np.bool_], proof: Sequence[str], used: Sequence[str]
) -> list[list[int]]:
    """Kinds in groups that agree in every figure drawn and in what tells inputs apart."""
    both = dict.fromkeys([*proof, *used])

    def same(a: int, b: int) -> bool:
        return (
            bool((there[a] == there[b]).all())
            and all(np.allclose(grids[f][a], grids[f][b], rtol=1e-6, atol=0, equal_nan=True) for f in both)
            and any(np.isfinite(grids[f][a]).any() for f in proof if f not in ("n", "n_mat"))
        )

    groups: list[list[int]] = []
    for i in range(len(there)):
        held = next((group for group in groups if same(group[0], i)), None)
        if held is None:
            groups.append([i])
        else:
            held.append(i)
    return groups


def _apart(
    columns: Mapping[str, Sequence[Any]], layer: Sequence[int | None], used: Mapping[str, Grid]
) -> dict[str, dict[str, float]]:
    names = columns.get("kind", [""] * len(layer))
    return {
        _shortened(printable(str(names[i]))): {figure: float(column[i]) for figure, column in used.items()}
        for i, at in enumerate(layer)
        if at is None
    }


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST // 2]}…{label[-(_LONGEST // 2 - 1) :]}"
