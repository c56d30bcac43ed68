"""An importance matrix with its holes filled: experts that no token reached, weights of the model without an entry."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gguftool.errors import ImatrixError, UsageError
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.imatrix.contents import several
from gguftool.imatrix.file import Imatrix
from gguftool.imatrix.matrices import Matrices, matrices_of
from gguftool.imatrix.repair import LEFT, Repair, parse_policies, repaired
from gguftool.verbs.imatrix_files import Reading, Written, opened, target, written
from gguftool.verbs.imatrix_model import Expected, expected

#: Metadata of the output: one line per repair.
PROVENANCE = "gguftool.imatrix.repaired"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A repaired file: what was written, every repair, and what about the model could not be repaired."""

    written: Written
    repairs: tuple[Repair, ...]


def repair_imatrix(
    src: str | Path,
    dst: str | Path,
    *,
    missing: str | Sequence[str] = "mean,ones",
    model: str | Path | None = None,
    bad_values: str = "error",
    min_tokens: int = 1,
    same_input: bool = True,
    output_format: str | None = None,
    chunk_size: int | None = None,
    experts: int | None = None,
    keep_fillers: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> Repaired:
    """What was written to ``dst``: the matrix of ``src`` with every hole filled, and every repair.

    A hole is a matrix that fewer than ``min_tokens`` tokens reached; with ``model`` also a weight without an entry that
    collectors make one for; with ``bad_values="missing"`` also a matrix with NaN, infinite or negative sums, which
    otherwise are an ImatrixError. Holes take what a tensor of the ``same_input`` has, else what the policies of
    ``missing`` give, in order: "mean", "neighbour", "ones", "error" (``imatrix.repair`` says what they are, and why
    the first two are not for ffn_down and attn_output). The repairs are noted in the
    output. The other arguments and errors are those of ``convert_imatrix``.
    """
    policies = parse_policies(missing)
    if bad_values not in ("error", "missing"):
        raise UsageError(f"bad values are an 'error' or count as 'missing', not '{bad_values}'")
    if min_tokens < 1:
        raise UsageError(f"{min_tokens} is no number of tokens to ask for: 1 or more")
    reading = Reading(chunk_size, model, experts, keep_fillers, include, exclude)
    place, form = target(dst, output_format, [src], overwrite)
    with ExitStack() as files:
        (stored,), notes, warnings = opened([src], reading, files, look=bad_values == "error")
        imatrix, said = _without_bad(stored, min_tokens, drop=bad_values == "missing")
        wanted = _wanted(imatrix, expected(model), reading, notes) if model is not None else {}
        mended, repairs = repaired(
            matrices_of(imatrix, chunk_size), wanted, policies, imatrix.path, use_same_input=same_input
        )
        left = [_place(repair) for repair in repairs if repair.way == LEFT]
        warnings += [*said, *several(left, f"nothing to fill it with by --missing {','.join(policies)}: left as it is")]
        done = [repair for repair in repairs if repair.way != LEFT]
        return Repaired(written(place, form, _noted(mended, done, form), notes, warnings, overwrite), tuple(repairs))


def _without_bad(imatrix: Imatrix, min_tokens: int, *, drop: bool) -> tuple[Imatrix, list[str]]:
    """The file without matrices that are to be replaced, and a line for every bad value among them."""
    dropped: dict[str, set[int]] = {}
    said = []
    for bad in imatrix.bad_values() if drop else ():
        dropped.setdefault(bad.name, set()).add(bad.matrix)
        said.append(f"'{bad.name}', matrix {bad.matrix}, column {bad.column}: {bad.value:g}, so the matrix is replaced")
    for name in imatrix.names:
        if min_tokens > 1 and imatrix.tokens(name) is not None:
            counts = imatrix.counts(name)
            few = np.flatnonzero((counts > 0) & (counts < min_tokens)).tolist()
            dropped.setdefault(name, set()).update(few)
    if min_tokens > 1 and imatrix.format == "dat":
        said.append("the older form does not say how many tokens reached an expert: --min-tokens is not used")
    used = {name: which for name, which in dropped.items() if which}
    return (imatrix.without_matrices(used) if used else imatrix), said


def _wanted(
    imatrix: Imatrix, weights: dict[str, Expected], reading: Reading, notes: list[str]
) -> dict[str, tuple[int, int]]:
    """Entries that the model's weights ought to have; ImatrixError where one that is there has another width."""
    found, absent = {}, []
    names = frozenset(imatrix.names)
    for name, weight in weights.items():
        if name in names:
            n_mat, n_cols = imatrix.shape(name)
            if n_mat * n_cols != weight.n_mat * weight.n_cols:
                raise ImatrixError(
                    imatrix.path,
                    f"'{name}' has {n_mat} x {n_cols} values, the model's weight takes {weight.n_mat} x "
                    f"{weight.n_cols}: it is of another model",
                )
        elif weight.why_absent:
            absent.append(f"{name} ({weight.why_absent})")
        elif _chosen(name, reading):
            found[name] = (weight.n_mat, weight.n_cols) if weight.routed else (1, weight.n_mat * weight.n_cols)
    notes += several(absent, "no entry, and none is made up")
    return found


def _chosen(name: str, reading: Reading) -> bool:
    kept = not reading.include or any(part in name for part in reading.include)
    return kept and not any(part in name for part in reading.exclude)


def _place(repair: Repair) -> str:
    return repair.name if repair.n_mat == 1 else f"{repair.name}[{','.join(map(str, repair.matrices))}]"


def _noted(matrices: Matrices, repairs: Sequence[Repair], form: str) -> Matrices:
    """The matrices with their repairs in the metadata, or, in the older form, in the data set's name."""
    lines = [f"{_place(repair)}: {repair.way}, {repair.source}" for repair in repairs]
    if not lines:
        return matrices
    if form == "dat":
        name = matrices.datasets[-1] if matrices.datasets else "unknown"
        ways = ", ".join(sorted({repair.way for repair in repairs}))
        return replace(matrices, datasets=(*matrices.datasets[:-1], f"{name} (repaired by gguftool: {ways})"))
    before = matrices.extra.get(PROVENANCE)
    if isinstance(before, list):
        lines = [*map(str, before), *lines]
    value = MetaValue.of(lines, ValueType.ARRAY, ValueType.STRING)
    return replace(matrices, extra=Metadata({**dict(matrices.extra.entries()), PROVENANCE: value}))
