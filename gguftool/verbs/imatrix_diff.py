"""The difference of two importance matrices, of one model and two calibration texts, say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from gguftool.imatrix.compare import (
    KindDifference,
    TensorDifference,
    disagreeing,
    kind_differences,
    overall_difference,
    tensor_differences,
)
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.verbs.stats import check_some, pattern

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Difference:
    """Two files compared: one row per entry of either, one per kind, one over all, and what is odd."""

    a: Path
    b: Path
    tensors: tuple[TensorDifference, ...]
    kinds: tuple[KindDifference, ...]
    overall: KindDifference
    warnings: tuple[str, ...]


def diff_imatrices(a: str | Path | Imatrix, b: str | Path | Imatrix) -> pd.DataFrame:
    """One row per entry of either file (``compare.TensorDifference``), by kind and layer.

    ``rank_corr``, ``cosine`` and ``tv`` compare the importances of the channels, over the matrices that tokens reached
    in both. FormatError for a file that is no importance matrix, ImatrixError for values that are wrong.
    """
    import pandas as pd

    found = imatrix_difference(a, b)
    columns = [field.name for field in fields(TensorDifference)]
    frame = pd.DataFrame([asdict(row) for row in found.tensors], columns=columns)
    frame.attrs["file"] = f"{found.a.name} → {found.b.name}"  # the title of its chart
    return frame


def imatrix_difference(a: str | Path | Imatrix, b: str | Path | Imatrix, *, tensors: str | None = None) -> Difference:
    """The same as records, with a summary per kind and warnings. Experts that one file does not tell are cut alike.

    ``tensors`` is a regular expression, searched in the names: only those entries count.
    """
    wanted = pattern(tensors)
    with ExitStack() as files:
        stored = [side if isinstance(side, Imatrix) else files.enter_context(open_imatrix(side)) for side in (a, b)]
        first, second = _alike(*(one.with_experts(one.inferred_experts()) for one in stored))
        first, second = (one.only([name for name in one.names if wanted(name)]) for one in (first, second))
        rows = tensor_differences(first, second)
        check_some(rows, tensors, first.path, second.path)
        warnings = [f"{one.path}: {line}" for one in stored for line in one.warnings]
        warnings += [
            f"{name}: {x[0]} x {x[1]} values in {first.path.name}, {y[0]} x {y[1]} in {second.path.name}: not compared"
            for name, (x, y) in disagreeing(first, second).items()
        ]
        return Difference(
            first.path,
            second.path,
            tuple(rows),
            tuple(kind_differences(rows)),
            overall_difference(rows),
            tuple(warnings),
        )


def most_moved(rows: Iterable[TensorDifference], by: str) -> list[TensorDifference]:
    """The rows that were compared, those that moved most first: by "tv", "rank" or "cosine"."""
    held = [row for row in rows if row.n]
    keys: dict[str, Callable[[TensorDifference], float]] = {
        "tv": lambda row: -row.tv, "rank": lambda row: row.rank_corr, "cosine": lambda row: row.cosine
    }  # fmt: skip
    key = keys[by]
    return sorted(held, key=lambda row: (key(row) != key(row), key(row)))


def _alike(a: Imatrix, b: Imatrix) -> tuple[Imatrix, Imatrix]:
    """Both, with every entry that only one file knows the matrices of cut in the other too."""
    both = frozenset(b.names)
    for_a: dict[str, int] = {}
    for_b: dict[str, int] = {}
    for name in a.names:
        if name not in both or a.shape(name) == b.shape(name):
            continue
        (x, width), (y, other) = a.shape(name), b.shape(name)
        if x * width == y * other and 1 in (x, y):
            (for_a if x == 1 else for_b)[name] = max(x, y)
    return a.with_experts(for_a), b.with_experts(for_b)
