"""What a run did to each tensor: types, bytes, errors; as rows and as a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gguftool.format.atomic import atomic_output
from gguftool.plan.moves import Move, Plan
from gguftool.run.journal import Done


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a finished run. ``wanted`` is the type that did not fit the rows, ``replaces`` the one that
    llama.cpp does not read. Errors are None where bytes were copied or no errors were asked for.

    ``mse`` is the mean squared error, ``weighted_mse`` the mean weighted by the importances (as measured, zeros
    included), ``rel_wmse`` the weighted error over the weighted signal, ``sqnr_db`` 10 log10(signal / error).
    """

    name: str
    source_name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    wanted: str
    source_bytes: int
    bytes: int
    bpw: float
    importance: str
    unobserved: int
    mse: float | None = None
    weighted_mse: float | None = None
    rel_wmse: float | None = None
    sqnr_db: float | None = None
    replaces: str = ""


def tensor_rows(plan: Plan, sums: Sequence[Done] = ()) -> tuple[TensorRow, ...]:
    """One row per tensor of the plan, in its order, with errors where ``sums`` (same order) has them."""
    rows = []
    for number, move in enumerate(plan.moves):
        done = sums[number] if number < len(sums) else Done(number)
        rows.append(_row(move, done))
    return tuple(rows)


def _row(move: Move, done: Done) -> TensorRow:
    first = move.pieces[0]
    measured = done.count > 0
    return TensorRow(
        move.name,
        first.source.name,
        move.shape,
        first.source.type.name,
        move.type.name,
        move.wanted.name if move.wanted else "",
        sum(p.source.nbytes for p in move.pieces),
        move.nbytes,
        8 * move.nbytes / move.n_elements if move.n_elements else 0.0,
        first.importance or "",
        done.unobserved,
        done.error / done.count if measured else None,
        done.weighted_error / done.weight if measured and done.weight else None,
        done.weighted_error / done.weighted_signal if measured and done.weighted_signal else None,
        _sqnr(done) if measured else None,
        move.replaces.name if move.replaces else "",
    )


def _sqnr(done: Done) -> float:
    if done.error == 0:
        return math.inf
    return 10 * math.log10(done.signal / done.error) if done.signal else -math.inf


def write_report(path: Path, rows: Sequence[TensorRow]) -> None:
    """The rows as CSV, one line per tensor; the file appears whole or not at all."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([f.name for f in fields(TensorRow)])
    for row in rows:
        values = asdict(row) | {"shape": "x".join(map(str, row.shape))}
        table.writerow(["" if v is None else v for v in values.values()])
    with atomic_output(path, overwrite=True) as file:
        file.write(text.getvalue().encode())
