"""The tables of the report page: columns with their words, rows of values, and what each cell says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gguftool.imatrix.figures import values
from gguftool.show.tables import printable
from gguftool.show.titles import Figure, figure_of

if TYPE_CHECKING:
    from gguftool.verbs.report import ExpertTokens, ModelPart, Report

_LONGEST = 300
#: Columns that say what a row is, not what was measured; the map does not offer them.
_NO_FIGURE = ("layer", "n_mat", "n_reached", "n_cols", "n", "tokens", "distance", "mtp")
#: What goes without saying; a column of nothing else is left out.
_USUAL = {"distance": 1, "n_mat": 1, "n_reached": 1, "gap": 0, "reached_pct": 100.0, "mtp": None}
#: What the map asks of every tensor.
_PLACES = ("name", "layer", "kind")
_TENSOR_FIRST = (
    "name", "layer", "type", "bpw", "nbytes", "mean", "max", "entropy_norm_pct", "zd_pct", "zd_weight",
    "cossim", "gain", "kurtosis", "reached_pct", "routing_entropy_pct",
)  # fmt: skip
_COVERAGE = (
    "name", "layer", "kind", "n_mat", "n_reached", "tokens", "least", "median", "most", "routing_entropy",
    "routing_entropy_pct",
)  # fmt: skip
_LAYER_FIRST = (
    "stack", "layer", "tensors", "inputs", "total", "mean", "entropy_norm_pct", "zd_pct", "cossim", "cossim_pooled",
    "pearson_pooled", "gain", "zd_weight", "rank", "l2", "gap",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table: ``id`` in the page, the first ``essential`` columns show before the reader asks for all."""

    id: str
    title: str
    note: str
    columns: tuple[Figure, ...]
    rows: tuple[tuple[Any, ...], ...]
    essential: int

    @property
    def cells(self) -> list[list[str]]:
        """What the cells say, numbers of a column with the same decimals."""
        decimals = [_decimals([row[i] for row in self.rows]) for i in range(len(self.columns))]
        return [[_cell(value, places) for value, places in zip(row, decimals, strict=True)] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Which columns stand at the right edge."""
        return [not any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]


def shown(text: str) -> str:
    """A text from a file as the page shows it: no control characters, nothing that turns lines around, not endless."""
    clean = printable(text[: _LONGEST + 1])
    return clean if len(clean) <= _LONGEST else f"{clean[: _LONGEST - 1]}…"


def all_tables(report: Report) -> list[Table]:
    """The tables that this report has something for; tensors first."""
    found = [_tensors(report), _layers(report)]
    if report.experts:
        found.append(_experts(report.experts))
    if report.model is not None:
        found += [_model_types(report.model), *_without(report.model)]
    return found


def map_figures(table: Table) -> list[int]:
    """Columns of the table of tensors that the map can show: numbers, of which some tensor in a layer has one."""
    layer = [c.key for c in table.columns].index("layer")
    return [
        i
        for i, column in enumerate(table.columns)
        if column.key not in _NO_FIGURE
        and any(isinstance(row[i], int | float) and row[layer] is not None for row in table.rows)
    ]


def expert_groups(experts: Iterable[ExpertTokens]) -> list[dict[str, Any]]:
    """Maps of tokens per layer and expert; kinds that agree everywhere, as up, gate and down do, share one."""
    groups: dict[str, dict[int, tuple[int, ...]]] = {}
    counted: dict[str, bool] = {}
    for row in experts:
        kind, layer = row.coverage.kind, row.coverage.layer
        if layer is not None:
            groups.setdefault(kind, {})[layer] = row.tokens
            counted[kind] = counted.get(kind, True) and row.counted
    merged: list[tuple[list[str], dict[int, tuple[int, ...]]]] = []
    for kind, held in groups.items():
        tokens = dict(sorted(held.items()))
        same = next((kinds for kinds, other in merged if other == tokens), None)
        if same is None:
            merged.append(([kind], tokens))
        else:
            same.append(kind)
    return [
        {
            "kinds": [shown(k) for k in kinds],
            "counted": counted[kinds[0]],
            "layers": list(t),
            "tokens": list(t.values()),
        }
        for kinds, t in merged
    ]


def _tensors(report: Report) -> Table:
    rows = [values(row) for row in report.statistics.tensors]
    if report.model is not None:
        by_entry: dict[str | None, dict[str, Any]] = {}
        for tensor in report.model.tensors:
            if tensor.entry is not None and (tensor.entry not in by_entry or tensor.name == tensor.entry):
                by_entry[tensor.entry] = {"type": tensor.type, "bpw": tensor.bpw, "nbytes": tensor.nbytes}
        rows = [row | by_entry.get(row["name"], {}) for row in rows]
        if report.model.weights is not None:
            of_weights = {row.name: _of_weights(row) for row in report.model.weights.by_tensor}
            rows = [row | of_weights.get(row["name"], {}) for row in rows]
    note = "Only tensors of one kind compare: their inputs have the same width and place."
    return _table("tensors", "Tensors", note, rows, _TENSOR_FIRST)


def _layers(report: Report) -> Table:
    rows = [values(row) for row in report.statistics.layers]
    if report.model is not None and report.model.weights is not None:
        of_weights = {(row.stack, row.layer): _of_weights(row) for row in report.model.weights.by_layer}
        rows = [row | of_weights.get((row["stack"], row["layer"]), {}) for row in rows]
    note = "Sums and averages over the tensors of a layer that have an importance."
    return _table("layers", "Layers", note, rows, _LAYER_FIRST)


def _of_weights(row: Any) -> dict[str, Any]:
    """The figures of weights, under names that tell them from those of activations."""
    figures = {name: value for name, value in values(row).items() if isinstance(value, float) or name == "rank"}
    return {name if name in ("zd_weight", "rank") else f"w_{name}": value for name, value in figures.items()}


def _experts(experts: Iterable[ExpertTokens]) -> Table:
    note = "Tokens that came to the experts of each tensor. An expert without tokens has no importance."
    return _table("coverage", "Coverage of experts", note, [values(row.coverage) for row in experts], _COVERAGE)


def _model_types(model: ModelPart) -> Table:
    rows = [
        {"type": use.type.name, "tensors": use.n_tensors, "parameters": use.n_elements, "nbytes": use.nbytes}
        | {"share_pct": 100 * use.nbytes / max(1, model.info.nbytes), "bpw": use.bpw}
        for use in model.info.types
    ]
    return _table("types", "Types in the model", "What the model stores in which type.", rows, [])


def _without(model: ModelPart) -> list[Table]:
    """The tensors that could be quantized but have no importance."""
    rows = [
        {"name": t.name, "type": t.type, "shape": " x ".join(map(str, t.shape)), "bpw": t.bpw, "nbytes": t.nbytes}
        for t in model.tensors
        if t.entry is None and t.why_kept is None
    ]
    note = "They could be quantized, but only without weighting; some types refuse that."
    return [_table("without", "Tensors without importance", note, rows, [])] if rows else []


def _table(id: str, title: str, note: str, rows: Sequence[dict[str, Any]], first: Sequence[str]) -> Table:
    """Columns in the order of ``first``, then the rows'; those that say nothing are left out."""
    every = list(dict.fromkeys(key for row in rows for key in row))
    keys = [key for key in first if key in every]
    essential = [key for key in keys if _tells(key, rows)]
    rest = [key for key in every if key not in keys and _tells(key, rows)]
    names = essential + rest
    columns = tuple(figure_of(key) for key in names)
    held = tuple(tuple(row.get(key) for key in names) for row in rows)
    return Table(id, title, note, columns, held, len(essential) or len(names))


def _tells(key: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a column is worth its room: it has values, and is no constant that goes without saying."""
    if key in _PLACES:
        return True
    values = {None if _missing(row.get(key)) else row.get(key) for row in rows} - {None}
    if key == "stack":
        return len(values) > 1
    return bool(values) and values != {_USUAL.get(key)}


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _decimals(values: Iterable[Any]) -> int:
    """Decimals that give the small values of a column three significant digits, and the great ones not too many."""
    sizes = sorted(abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v)
    if not sizes:
        return 0
    small, great = (math.floor(math.log10(sizes[i])) for i in (len(sizes) // 10, -1))
    return max(0, min(3 - small - 1, 6 - great, 6))


def _cell(value: Any, decimals: int) -> str:
    if _missing(value):
        return "\N{EN DASH}"
    if isinstance(value, str):
        return shown(value)
    if not isinstance(value, float):
        return f"{value:,}"
    text = f"{value:,.{decimals}f}"
    return f"{value:.2g}" if value and not text.strip("-0.,") else text
