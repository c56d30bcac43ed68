"""Calibration texts out of a mix of local files, with a hold-out and a manifest: the same mix gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguftool.corpus.documents import Hashed, documents, files_of
from gguftool.corpus.mix import Mix, MixError, Source, read_mix
from gguftool.corpus.select import OVERLAP, Sieve, Tally, Unit, kept_apart, taken, units_of, woven
from gguftool.corpus.words import shingles, words
from gguftool.errors import UsageError
from gguftool.format.atomic import atomic_output, check_output

Step = Callable[[str], None]
_STRETCH = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that was read: where it lies relative to the mix, its bytes and their sha256."""

    path: str
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one source gave. ``used`` and ``held_out`` count units, repeats included; bytes are of UTF-8.

    ``share`` of the corpus' bytes; ``wanted`` by its weight. ``read``, ``short`` and ``duplicate`` count documents.
    """

    name: str
    licence: str
    url: str
    files: tuple[SourceFile, ...]
    read: int
    short: int
    duplicate: int
    overlapping: int
    held_out: int
    used: int
    nbytes: int
    share: float
    wanted: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A corpus that was built: files, bytes and hashes, and what each source gave; ``holdout`` is None without one."""

    name: str
    corpus: Path
    nbytes: int
    sha256: str
    holdout: Path | None
    holdout_nbytes: int
    holdout_sha256: str
    manifest: Path
    sources: tuple[SourceReport, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the first reading found."""

    files: tuple[tuple[tuple[Path, SourceFile], ...], ...]
    units: tuple[tuple[Unit, ...], ...]
    tallies: tuple[Tally, ...]


def build_calibration(
    mix: str | Path, output: str | Path, *, overwrite: bool = False, step: Step | None = None
) -> Calibration:
    """Writes the corpus of a mix, its hold-out (``NAME.holdout.txt``) and its manifest (``NAME.manifest.json``).

    The files are read twice, first for lengths and hashes alone, so that memory goes with the size of the corpus and
    not with that of the sources. MixError for a mix or a text that is wrong; FileExistsError as for every output.
    """
    recipe, place = read_mix(mix), Path(output)
    apart, manifest = place.with_suffix(".holdout.txt"), place.with_suffix(".manifest.json")
    if len({place, apart, manifest, Path(mix)}) < 4:
        raise UsageError(f"the output {place} has the name of its own hold-out, manifest or mix: choose another")
    outputs = [manifest, apart, place] if recipe.holdout else [manifest, place]
    for path in outputs:
        check_output(path, overwrite=overwrite)
    survey = _surveyed(recipe, step)
    _not_over_sources(survey, mix, outputs)
    joint = len(recipe.separator.encode())
    held = kept_apart(recipe, survey.units, joint)
    apart_keys = {unit.key for units in held for unit in units}
    rest = [[unit for unit in units if unit.key not in apart_keys] for units in survey.units]
    chosen = taken(recipe, rest, joint)
    texts = _texts(recipe, survey, [*chain(*chosen), *chain(*held)], step)
    order = woven(chosen)
    apart_order = _without_overlap(held, order, texts, recipe.separator)
    corpus = _joined(order, texts, recipe.separator)
    holdout = _joined(apart_order, texts, recipe.separator)
    if not corpus:
        raise MixError(f"{mix}: {_why_empty(recipe, survey)}")
    reports = _reports(recipe, survey, chosen, held, set(apart_order))
    found = Calibration(
        recipe.name,
        place,
        len(corpus),
        hashlib.sha256(corpus).hexdigest(),
        apart if recipe.holdout else None,
        len(holdout),
        hashlib.sha256(holdout).hexdigest() if recipe.holdout else "",
        manifest,
        reports,
        _warnings(recipe, reports),
    )
    described = json.dumps(_manifest(found, recipe, mix), indent=2, ensure_ascii=False) + "\n"
    contents = {manifest: described.encode(), apart: holdout, place: corpus}
    with ExitStack() as stack:  # renamed in the reverse order, so that the corpus is there last
        for path in reversed(outputs):
            stack.enter_context(atomic_output(path, overwrite=overwrite)).write(contents[path])
    return found


def _surveyed(mix: Mix, step: Step | None) -> _Survey:
    sieve, files, units, tallies = Sieve(), [], [], []
    for number, source in enumerate(mix.sources):
        paths = files_of(source, mix.folder)
        read: list[SourceFile] = []
        joint = len(mix.separator.encode())
        found, tally = units_of(number, source, _documents(mix, source, paths, read, step), sieve, joint)
        files.append(tuple(zip(paths, read, strict=True)))
        units.append(tuple(found))
        tallies.append(tally)
    return _Survey(tuple(files), tuple(units), tuple(tallies))


def _documents(
    mix: Mix, source: Source, paths: Sequence[Path], read: list[SourceFile], step: Step | None
) -> Iterator[str]:
    """All documents of a source; what was read of each file is added to ``read``."""
    for path in paths:
        if step:
            step(path.name)
        with Hashed(path) as raw:
            yield from documents(raw, path, source)
            digest = raw.digest()
            shown = Path(os.path.relpath(path, mix.folder)).as_posix()
            read.append(SourceFile(shown, raw.nbytes, digest))


def _texts(mix: Mix, survey: _Survey, wanted: Sequence[Unit], step: Step | None) -> dict[Unit, str]:
    """The texts of the units, read again; MixError if a file has changed since."""
    texts: dict[Unit, str] = {}
    for number, source in enumerate(mix.sources):
        units = dict.fromkeys(unit for unit in wanted if unit.source == number)
        member_of = {member: unit for unit in units for member in unit.members}
        parts: dict[Unit, list[str]] = {unit: [] for unit in units}
        read: list[SourceFile] = []
        paths = [path for path, _ in survey.files[number]]
        for index, text in enumerate(_documents(mix, source, paths, read, step)):
            if index in member_of:
                parts[member_of[index]].append(text)
        for (path, before), now in zip(survey.files[number], read, strict=True):
            if before != now:
                raise MixError(f"{path}: the file changed while it was read: run it again")
        texts |= {unit: mix.separator.join(held) for unit, held in parts.items()}
    return texts


def _without_overlap(
    held: Sequence[Sequence[Unit]], chosen: Sequence[Unit], texts: dict[Unit, str], separator: str
) -> list[Unit]:
    """The hold-out in its order, without units that share OVERLAP words in a row with the corpus.

    Such a row may run over the joint of two units, on either side, so both are looked at as they will be written.
    """
    kept: list[Unit] = []
    if not any(held):
        return kept
    there = np.unique(np.concatenate([_rows(text) for text in _stretches(chosen, texts, separator)]))
    for unit in woven(held):  # each has OVERLAP words or more, so no row runs over three of them
        here = _rows(separator.join(texts[u] for u in (*kept[-1:], unit)))
        at = np.minimum(np.searchsorted(there, here), there.size - 1)
        if not there.size or not (there[at] == here).any():
            kept.append(unit)
    return kept


def _rows(text: str) -> npt.NDArray[np.uint64]:
    return shingles(words(text), OVERLAP)


def _stretches(units: Sequence[Unit], texts: dict[Unit, str], separator: str) -> Iterator[str]:
    """The joined texts of the units, a megabyte or so at a time; every OVERLAP words in a row lie within one piece."""
    held: list[Unit] = []
    nbytes = 0
    for unit in units:
        held.append(unit)
        nbytes += unit.nbytes
        if nbytes > _STRETCH:
            yield separator.join(texts[u] for u in held)
            held, nbytes = _last(held), 0
    if held:
        yield separator.join(texts[u] for u in held)


def _last(units: Sequence[Unit]) -> list[Unit]:
    """As many units from the end as it takes for OVERLAP words."""
    n_words = 0
    for at in range(len(units) - 1, -1, -1):
        n_words += units[at].n_words
        if n_words >= OVERLAP:
            return list(units[at:])
    return list(units)


def _joined(units: Sequence[Unit], texts: dict[Unit, str], separator: str) -> bytes:
    return (separator.join(texts[unit] for unit in units) + ("\n" if units else "")).encode("utf-8", "replace")


def _why_empty(mix: Mix, survey: _Survey) -> str:
    least = min((unit.nbytes for units in survey.units for unit in units), default=None)
    if least is None:
        return "nothing is left for the corpus: all documents are too short or duplicates"
    size = f" of {mix.size:,} bytes" if mix.size else ""
    return f"no document fits a corpus{size}, the smallest has {least:,}: raise size, or lower max_chars or join_chars"


def _reports(
    mix: Mix,
    survey: _Survey,
    chosen: Sequence[Sequence[Unit]],
    held: Sequence[Sequence[Unit]],
    kept: Set[Unit],
) -> tuple[SourceReport, ...]:
    sizes = [sum(unit.nbytes for unit in units) for units in chosen]
    weighted = any(source.weight is not None for source in mix.sources)
    weights = [
        (source.weight or 1.0) if weighted else float(size) for source, size in zip(mix.sources, sizes, strict=True)
    ]
    reports = []
    for i, source in enumerate(mix.sources):
        tally = survey.tallies[i]
        files = tuple(file for _, file in survey.files[i])
        n_held = sum(unit in kept for unit in held[i])
        share, wanted = sizes[i] / max(1, sum(sizes)), weights[i] / max(1e-300, sum(weights))
        reports.append(
            SourceReport(source.name, source.licence, source.url, files, tally.read, tally.short, tally.duplicate,
                         len(held[i]) - n_held, n_held, len(chosen[i]), sizes[i], share, wanted)
        )  # fmt: skip
    return tuple(reports)


def _warnings(mix: Mix, reports: Sequence[SourceReport]) -> tuple[str, ...]:
    said = []
    for report in reports:
        if not report.used:
            said.append(f"source '{report.name}' gave nothing: its documents are too short, or were there before")
        elif report.wanted - report.share > 0.02:
            said.append(
                f"source '{report.name}' is {report.share:.1%} of the corpus instead of {report.wanted:.1%}: it has no "
                "more; raise its repeats, or lower the size"
            )
        if report.overlapping:
            said.append(
                f"source '{report.name}': {report.overlapping} units left the hold-out, because {OVERLAP} or more of "
                "their words in a row stand in the corpus"
            )
    if mix.holdout and not any(report.held_out for report in reports):
        said.append(
            "the hold-out is empty: no document fits its share; raise holdout or size, or lower max_chars or join_chars"
        )
    if not any(source.licence for source in mix.sources):
        said.append("no source names its licence")
    return tuple(said)


def _manifest(found: Calibration, mix: Mix, path: str | Path) -> dict[str, object]:
    import gguftool

    return {
        "mix": found.name,
        "about": mix.about,
        "mix_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "gguftool": gguftool.__version__,
        "seed": mix.seed,
        "corpus": {"file": found.corpus.name, "bytes": found.nbytes, "sha256": found.sha256},
        "holdout": None
        if found.holdout is None
        else {"file": found.holdout.name, "bytes": found.holdout_nbytes, "sha256": found.holdout_sha256},
        "sources": [asdict(report) for report in found.sources],
        "warnings": list(found.warnings),
    }


def _not_over_sources(survey: _Survey, mix: str | Path, outputs: Sequence[Path]) -> None:
    sources = {path.resolve() for files in survey.files for path, _ in files}
    for output in outputs:
        if output.resolve() == Path(mix).resolve():
            raise UsageError(f"{output} is the mix itself: it would be overwritten")
        if output.resolve() in sources:
            raise UsageError(f"{output} is a source of the mix: it would be overwritten")
