"""Tables of an importance matrix's statistics: which figures stand together, their heads and digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gguftool.errors import UsageError
from gguftool.imatrix.figures import LayerStatistics, TensorStatistics, columns
from gguftool.show.tables import Column

if TYPE_CHECKING:
    from gguftool.run.weights import LayerWeights, WeightStatistics

Rows = Sequence[Any]

_TENSOR_HEADS = {
    "n_mat": ("experts", ""), "n_reached": ("reached", ""), "n_cols": ("channels", ""), "n": ("N", ""),
    "sum": ("Σ x²", ".2f"), "min": ("min", ".4g"), "max": ("max", ".3f"), "mean": ("mean", ".3f"),
    "std": ("std", ".3f"), "skewness": ("skewness", ".3f"), "kurtosis": ("kurtosis", ".2f"),
    "active_pct": ("active %", ".2f"), "active_rel_pct": ("active rel %", ".2f"), "entropy": ("entropy", ".4f"),
    "entropy_norm_pct": ("entropy %", ".2f"), "zd_pct": ("ZD %", ".2f"), "cossim": ("cossim", ".4f"),
    "distance": ("back", ""), "pearson": ("pearson", ".4f"), "covariance": ("covariance", ".4g"), "l2": ("L2", ".4g"),
    "gain": ("gain", ".4f"), "reached_pct": ("reached %", ".2f"), "routing_entropy_pct": ("routing %", ".2f"),
    "expert_entropy_min": ("expert min", ".4f"), "expert_entropy_median": ("expert median", ".4f"),
    "expert_entropy_max": ("expert max", ".4f"), "u_mean": ("u mean", ".4g"), "u_std": ("u std", ".4g"),
    "u_skewness": ("u skewness", ".3f"), "u_kurtosis": ("u kurtosis", ".2f"), "u_cossim": ("u cossim", ".4f"),
    "u_pearson": ("u pearson", ".4f"), "u_covariance": ("u covariance", ".4g"), "u_l2": ("u L2", ".4g"),
    "l2_noise": ("L2 noise", ".4g"), "variance": ("variance", ".4g"), "constant_pct": ("constant %", ".2f"),
    "duplicate_of": ("same input as", ""),
}  # fmt: skip
_LAYER_HEADS = {
    "n": ("N", ""), "total": ("sum", ".2f"), "mean": ("per channel", ".4f"), "weighted_sum": ("weighted sum", ".2f"),
    "zd_pct": ("ZD %", ".4f"), "cossim": ("cossim", ".4f"), "total_inputs": ("sum of inputs", ".2f"),
    "entropy_norm_pct": ("entropy %", ".2f"), "cossim_pooled": ("pooled cossim", ".4f"),
    "pearson_pooled": ("pearson", ".4f"), "covariance": ("covariance", ".4g"), "l2": ("L2", ".4g"),
    "gain": ("gain", ".4f"), "u_cossim_pooled": ("u cossim", ".4f"), "u_pearson_pooled": ("u pearson", ".4f"),
    "u_covariance": ("u covariance", ".4g"), "u_l2": ("u L2", ".4g"), "l2_noise": ("L2 noise", ".4g"),
}  # fmt: skip
_WEIGHT_HEADS = {
    "n": ("weights", ","), "mean": ("mean", ".3g"), "std": ("std", ".4g"), "min": ("min", ".4g"), "max": ("max", ".4g"),
    "abs_max": ("|max|", ".4g"), "skewness": ("skewness", ".3f"), "kurtosis": ("kurtosis", ".3f"),
    "zero_pct": ("zeros %", ".2f"), "zd_weight": ("ZD", ".5f"),
}  # fmt: skip
_WEIGHTS = "type n mean std min max abs_max skewness kurtosis zero_pct zd_weight"
_LAYER_WEIGHTS = "tensors n mean std skewness kurtosis zero_pct zd_weight rank"

#: What a table shows by default, and the groups that --all shows one after another.
_PLAIN = "n_mat n_reached tokens n sum min max mean std active_pct entropy entropy_norm_pct zd_pct cossim distance"
_GROUPS = {
    "channels": "n_mat n_reached tokens n sum min max mean std skewness kurtosis active_pct active_rel_pct",
    "distribution": "entropy entropy_norm_pct zd_pct reached_pct routing_entropy_pct expert_entropy_min "
    "expert_entropy_median expert_entropy_max duplicate_of",
    "against the nearest earlier layer": "distance cossim pearson covariance l2 gain",
    "signed means": "u_mean u_std u_skewness u_kurtosis variance constant_pct u_cossim u_pearson u_covariance u_l2 "
    "l2_noise",
}
_PLAIN_LAYER = "tensors n total mean weighted_sum zd_pct cossim compared"
_LAYER_GROUPS = {
    "layers": f"{_PLAIN_LAYER} inputs total_inputs entropy_norm_pct gap",
    "layers, pooled over channels, each input once": "cossim_pooled pearson_pooled covariance l2 gain u_cossim_pooled "
    "u_pearson_pooled u_covariance u_l2 l2_noise",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, their cells, and what stands above them (or nothing)."""

    columns: list[Column]
    cells: list[list[Any]]
    title: str = ""


def whole_table(rows: Rows, kind: type[Any], chosen: Sequence[str] = ()) -> Table:
    """Every column, for programs; or a name, a kind, a layer and the chosen ones."""
    names = columns(kind)
    if chosen:
        names = tuple(name for name in names[:3] if name not in chosen) + tuple(chosen)
    return Table([Column(name) for name in names], [[getattr(row, name) for name in names] for row in rows])


def tensor_tables(rows: Sequence[TensorStatistics], *, every: bool = False, chosen: Sequence[str] = ()) -> list[Table]:
    """What a reader sees of tensors: one table of the usual or the chosen columns, or every figure in groups.

    Columns that say nothing are left out: experts where there are none, the number of tokens where all have the same.
    """
    groups = {name: keys.split() for name, keys in _GROUPS.items()} if every else {"": list(chosen or _PLAIN.split())}
    if not chosen:
        idle = _idle(rows, every)
        groups = {title: [key for key in keys if key not in idle] for title, keys in groups.items()}
    places = ["kind", "layer"] if all(row.mtp is None for row in rows) else ["kind", "layer", "mtp"]
    return [_table(rows, places, keys, _TENSOR_HEADS, title) for title, keys in groups.items() if keys]


def layer_tables(rows: Sequence[LayerStatistics], *, every: bool = False) -> list[Table]:
    """What a reader sees of layers, as for tensors."""
    groups = {name: keys.split() for name, keys in _LAYER_GROUPS.items()} if every else {"": _PLAIN_LAYER.split()}
    places = ["stack", "layer"] if len({row.stack for row in rows}) > 1 else ["layer"]
    if any(row.mtp is not None for row in rows):
        places.append("mtp")
    if every:
        groups = {title: [key for key in keys if not _missing(rows, key)] for title, keys in groups.items()}
    return [_table(rows, places, keys, _LAYER_HEADS, title) for title, keys in groups.items() if keys]


def weight_tables(rows: Sequence[WeightStatistics], layers: Sequence[LayerWeights]) -> list[Table]:
    """What a reader sees of a model's weights: tensors, then layers if there are any."""
    tables = [_table(rows, ["kind", "layer"], _WEIGHTS.split(), _WEIGHT_HEADS, "")]
    if layers:
        places = ["stack", "layer"] if len({row.stack for row in layers}) > 1 else ["layer"]
        tables.append(_table(layers, places, _LAYER_WEIGHTS.split(), _WEIGHT_HEADS, ""))
    return tables


def with_weights(table: Table, rows: Sequence[Any], keys: Sequence[str]) -> Table:
    """The table with the figures of the weights of the same tensor or layer, as ``keys`` tell them, in further columns.

    They are named w_mean ...; only zd_weight and rank keep their names. Empty where the model has nothing to match.
    """
    figures = [name for name in columns(type(rows[0])) if name in _WEIGHT_HEADS or name == "rank"] if rows else []
    found = {tuple(getattr(row, key) for key in keys): row for row in rows}
    at = [[column.name for column in table.columns].index(key) for key in keys]
    names = [name if name in ("zd_weight", "rank") else f"w_{name}" for name in figures]
    cells = [
        [*row, *(getattr(found.get(tuple(row[i] for i in at)), figure, None) for figure in figures)]
        for row in table.cells
    ]
    return Table([*table.columns, *map(Column, names)], cells)


def check_columns(names: Sequence[str]) -> None:
    """UsageError for a name that is no column of tensors."""
    known = columns(TensorStatistics)
    for name in names:
        if name not in known:
            raise UsageError(f"'{name}' is no column of statistics: {', '.join(known)}")


def _table(rows: Rows, places: list[str], keys: list[str], heads: dict[str, tuple[str, str]], title: str) -> Table:
    names = [*places, *(key for key in keys if key not in places)]
    shown = [Column(*heads.get(key, (key, "")), key=key) for key in names]
    return Table(shown, [[getattr(row, key) for key in names] for row in rows], title)


def _idle(rows: Sequence[TensorStatistics], every: bool) -> set[str]:
    idle = set()
    if all(row.n_mat == 1 for row in rows):
        idle |= {"n_mat", "n_reached", "reached_pct"}
    if all(row.distance in (None, 1) for row in rows):
        idle.add("distance")
    if len({row.tokens for row in rows}) < 2:
        idle.add("tokens")
    if every:
        idle |= {key for keys in _GROUPS.values() for key in keys.split() if _missing(rows, key)}
    return idle


def _missing(rows: Rows, key: str) -> bool:
    held = [getattr(row, key) for row in rows]
    return all(value is None or value != value for value in held) or (key == "gap" and not any(held))
