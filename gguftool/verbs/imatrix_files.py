"""Importance matrices from one file into another, or from many into one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gguftool.errors import UsageError
from gguftool.format.atomic import check_output
from gguftool.format.names import ranges
from gguftool.imatrix.combine import merge
from gguftool.imatrix.contents import CHUNK_SIZE, several
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.imatrix.matrices import Matrices, matrices_of
from gguftool.imatrix.writer import format_of, losses, write_imatrix
from gguftool.plan.layers import new_names
from gguftool.verbs.imatrix_model import Expected, expected
from gguftool.verbs.rewrite import layers_of


@dataclass(frozen=True, slots=True)
class Reading:
    """How inputs are read: tokens per chunk and experts of files that do not say, fillers, filters of names.

    ``experts`` is their number in every tensor of experts (1 leaves them joined), ``model`` a file that knows them.
    """

    chunk_size: int | None = None
    model: str | Path | None = None
    experts: int | None = None
    keep_fillers: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written. ``notes``: what was inferred or assumed; ``lost``: what its form does not keep;
    ``warnings``: what was odd in the inputs."""

    path: Path
    format: str
    n_entries: int
    n_matrices: int
    n_bytes: int
    chunk_count: int
    chunk_size: int
    datasets: tuple[str, ...]
    notes: tuple[str, ...]
    lost: tuple[str, ...]
    warnings: tuple[str, ...]


def convert_imatrix(
    src: str | Path,
    dst: str | Path,
    *,
    output_format: str | None = None,
    chunk_size: int | None = None,
    model: str | Path | None = None,
    experts: int | None = None,
    keep_fillers: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    prune_layers: str | Collection[int] = (),
    overwrite: bool = False,
) -> Written:
    """What was written to ``dst``: the matrix of ``src`` in the form that its suffix or ``output_format`` says.

    The older form knows neither experts nor chunk size. Experts are taken from ``model``, else from ``experts``, else
    from the routers' width; matrices that are nothing but 1 then count as not reached unless ``keep_fillers`` is set.
    ``prune_layers`` go and the others are renumbered, as for a model that was pruned so. Whatever the output cannot
    hold is in ``Written.lost``. ImatrixError, FormatError, UsageError, FileExistsError.
    """
    reading = Reading(chunk_size, model, experts, keep_fillers, include, exclude)
    place, form = target(dst, output_format, [src], overwrite)
    with ExitStack() as files:
        (stored,), notes, warnings = opened([src], reading, files)
        if gone := layers_of(prune_layers):
            stored = stored.renamed(new_names(stored.names, gone))
            if not stored.names:
                raise UsageError(f"{src}: no entry would be left without layers {ranges(gone)}")
        return written(place, form, matrices_of(stored, chunk_size), notes, warnings, overwrite)


def merge_imatrices(
    sources: Sequence[str | Path],
    dst: str | Path,
    *,
    weights: Sequence[float] | None = None,
    output_format: str | None = None,
    chunk_size: int | None = None,
    model: str | Path | None = None,
    experts: int | None = None,
    keep_fillers: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> Written:
    """What was written to ``dst``: the sums and token counts of all ``sources``, of either form, added up in float64.

    ``weights``, one per source, multiply what a token of it counts. The other arguments and errors are those of
    ``convert_imatrix``; shapes that disagree are an ImatrixError with both.
    """
    if not sources:
        raise UsageError("give the importance matrices to merge")
    if weights is not None and (len(weights) != len(sources) or not all(0 < w < 1e9 for w in weights)):
        raise UsageError(f"{len(sources)} files need as many weights, all above 0")
    reading = Reading(chunk_size, model, experts, keep_fillers, include, exclude)
    place, form = target(dst, output_format, sources, overwrite)
    with ExitStack() as files:
        stored, notes, warnings = opened(sources, reading, files)
        joined = merge(stored, weights)
        warnings += [*_twice(stored), *joined.warnings]
        return written(place, form, joined.matrices, notes, warnings, overwrite)


def target(
    dst: str | Path, output_format: str | None, sources: Iterable[str | Path], overwrite: bool
) -> tuple[Path, str]:
    """The output's path and form; UsageError if it is an input, or its form is not said, FileExistsError."""
    place = Path(dst)
    form = format_of(place, output_format)
    if place.exists() and any(os.path.exists(source) and os.path.samefile(place, source) for source in sources):
        raise UsageError(f"{place}: the output is an input: name another file")
    check_output(place, overwrite=overwrite)
    return place, form


def opened(
    sources: Sequence[str | Path], reading: Reading, files: ExitStack, *, look: bool = True, writing: bool = True
) -> tuple[list[Imatrix], list[str], list[str]]:
    """The inputs with their experts cut, what was inferred or assumed, and warnings. They close with ``files``.

    ``look`` for sums that contradict each other, which may read values. Who is not ``writing`` needs no chunk size.
    """
    if reading.chunk_size is not None and not 1 <= reading.chunk_size < 1 << 31:
        raise UsageError(f"{reading.chunk_size} is no number of tokens per chunk")
    weights = expected(reading.model) if reading.model is not None else None
    stored, notes, warnings = [], [], []
    for source in sources:
        imatrix = files.enter_context(
            open_imatrix(source, include=reading.include, exclude=reading.exclude, chunk_size=reading.chunk_size)
        )
        said, odd = _spoken(imatrix, reading, writing)
        experts, why = _experts(imatrix, reading, weights)
        cut = imatrix.with_experts(experts, keep_fillers=reading.keep_fillers)
        said += _about_experts(cut, experts, why)
        notes += [f"{imatrix.path}: {line}" for line in said]
        warnings += [
            f"{imatrix.path}: {line}" for line in (*imatrix.warnings, *odd, *(cut.contradictions() if look else ()))
        ]
        stored.append(cut)
    return stored, notes, warnings


def written(
    place: Path, form: str, matrices: Matrices, notes: list[str], warnings: list[str], overwrite: bool
) -> Written:
    """Writes the matrices and says so."""
    write_imatrix(place, matrices, form, overwrite=overwrite)
    kept = [outline for outline in matrices.outlines if form == "gguf" or outline.counts.any()]
    return Written(
        place, form, len(kept), sum(outline.n_mat for outline in kept), place.stat().st_size, matrices.chunk_count,
        matrices.chunk_size, matrices.datasets, tuple(notes), losses(matrices, form), tuple(warnings),
    )  # fmt: skip


def _spoken(imatrix: Imatrix, reading: Reading, writing: bool) -> tuple[list[str], list[str]]:
    """(notes, warnings) about what a file does not say, and what of it nobody can use."""
    notes, warnings = [], []
    if imatrix.chunk_size is None and writing:
        size = reading.chunk_size or CHUNK_SIZE
        notes.append(f"the file does not say its chunk size, taken as {size} tokens (--chunk-size says otherwise)")
    elif imatrix.format == "gguf" and reading.chunk_size not in (None, imatrix.chunk_size):
        warnings.append(f"the file says chunks of {imatrix.chunk_size} tokens, so --chunk-size is not used for it")
    if imatrix.ignored:
        warnings += several(list(imatrix.ignored), "tensors that belong to no entry, left out")
    if imatrix.n_figures and writing:
        notes.append(f"figures stored with {imatrix.n_figures} entries (.stats) left out: readers compute them")
    return notes, warnings


def _experts(imatrix: Imatrix, reading: Reading, weights: Mapping[str, Expected] | None) -> tuple[dict[str, int], str]:
    """Entry -> matrices, for entries that do not know their number, and where it is from."""
    joined = [name for name in imatrix.names if imatrix.shape(name)[0] == 1]
    if weights is not None:
        found = {
            name: weight.n_mat
            for name in joined
            if (weight := weights.get(name)) is not None and weight.routed
            if imatrix.shape(name)[1] == weight.n_mat * weight.n_cols
        }
        return found, "as in the model"
    if reading.experts is None:
        return imatrix.inferred_experts(), "inferred from the routers' width"
    if reading.experts < 1:
        raise UsageError(f"{reading.experts} is no number of experts")
    named = [name for name in joined if name.endswith("exps.weight")]
    return dict.fromkeys(named, reading.experts), "as you say"


def _about_experts(cut: Imatrix, experts: Mapping[str, int], why: str) -> list[str]:
    real = {name: n for name, n in experts.items() if n > 1}
    if not real:
        return []
    numbers = sorted(set(real.values()))
    lines = [f"{len(real)} tensors of {', '.join(map(str, numbers))} experts, {why}; all count the same tokens"]
    idle = {name: [int(i) for i in (cut.counts(name) == 0).nonzero()[0]] for name in real}
    filled = [f"{name}[{','.join(map(str, which))}]" for name, which in idle.items() if which]
    if filled:
        lines.append(
            f"{sum(map(len, idle.values()))} matrices are nothing but 1, which writers fill in, so they count as not "
            f"reached (--keep-fillers keeps them): {', '.join(filled)}"
        )
    return lines


def _twice(sources: Sequence[Imatrix]) -> list[str]:
    """A warning for every file that is given again, under whatever name."""
    lines, seen = [], dict[tuple[int, str], Path]()
    sizes = [os.stat(source.path).st_size for source in sources]
    for source, size in zip(sources, sizes, strict=True):
        if sizes.count(size) < 2:
            continue
        first = seen.setdefault((size, source.sha256), source.path)
        if first is not source.path:
            lines.append(f"{source.path}: the same content as {first}, so it counts twice")
    return lines
