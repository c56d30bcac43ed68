"""Where an output and its unfinished state lie, and what the world says about the place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gguftool.format.names import parse_shard_name, shard_path
from gguftool.plan.moves import Plan
from gguftool.run.journal import is_renaming


@dataclass(frozen=True, slots=True)
class Target:
    """One output file under its final name and under the name it has while it grows."""

    final: Path
    part: Path


def targets(dst: Path, plan: Plan, n_files: int) -> tuple[Target, ...]:
    """The files of an output: ``dst`` itself, or with ``keep_split`` its shards, numbered behind its stem.

    A ``dst`` that is named like a shard stands for its whole set, as an input does. A link stays, and the file that it
    leads to is written: a rename onto the link would replace it, and grow the file on the link's own disk.
    """
    finals = [Path(os.path.realpath(dst)) if dst.is_symlink() else dst]
    if plan.keep_split:
        named = parse_shard_name(dst)
        stem = Path(named[0]) if named else dst.with_suffix("") if dst.suffix == ".gguf" else dst
        finals = [shard_path(stem, no, n_files) for no in range(n_files)]
    return tuple(Target(final, final.with_name(final.name + ".part")) for final in finals)


def journal_path(places: tuple[Target, ...]) -> Path:
    """The journal lies beside the first file."""
    return places[0].final.with_name(places[0].final.name + ".journal")


@dataclass(frozen=True, slots=True)
class World:
    """What is true of the place of the output: see ``plan.check.Facts`` for the meaning of each."""

    existing: tuple[str, ...]
    is_source: tuple[str, ...]
    is_folder: tuple[str, ...]
    is_special: tuple[str, ...]
    folder: str
    folder_trouble: str | None
    free_bytes: int | None


def survey(places: tuple[Target, ...], plan: Plan, read: Sequence[Path] = ()) -> World:
    """Looks at the output's folder and names; changes nothing. ``read`` are files of the run besides the source.

    Names of unfinished outputs count too where they are files that the run reads: it would empty them. Space already
    taken by an unfinished output counts as free: the same run goes on in it.
    """
    folder = places[0].final.parent
    inputs = _inputs(plan, read)
    finals = [p.final for p in places]
    names = [*finals, *(p.part for p in places), journal_path(places)]
    ours = is_renaming(journal_path(places))  # then a name without its .part was given by the run that goes on
    existing = tuple(str(p.final) for p in places if os.path.lexists(p.final) and not (ours and not p.part.exists()))
    is_source = tuple(str(p) for p in names if _identity(p) in inputs)
    trouble = None
    free = None
    if not folder.is_dir():
        trouble = "no such folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = "no permission to write there"
    else:
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize + sum(_taken(p.part) for p in places)
    is_folder = tuple(str(p) for p in names if p.is_dir())
    is_special = tuple(str(p) for p in names if p.exists() and not (p.is_file() or p.is_dir()))
    return World(existing, is_source, is_folder, is_special, str(folder), trouble, free)


def report_trouble(
    report: Path, places: tuple[Target, ...], plan: Plan, read: Sequence[Path] = (), *, force: bool = False
) -> str | None:
    """Why a report cannot be written at that name, as one line; None when it can. It is written hours later."""
    ours = [*(p.final for p in places), *(p.part for p in places), journal_path(places)]
    if _identity(report) in _inputs(plan, read):
        return f"{report}: the report would overwrite an input: choose another name"
    if report.resolve() in [name.resolve() for name in ours]:
        return f"{report}: the report would overwrite the output: choose another name"
    if report.exists() and not report.is_file():
        return f"{report}: the report cannot be written there, this is no regular file: choose another name"
    if report.exists() and not force:
        return f"{report}: the report exists already: remove it, choose another name, or use --force"
    if not report.parent.is_dir():
        return f"{report.parent}: no such folder for the report"
    if not os.access(report.parent, os.W_OK | os.X_OK):
        return f"{report.parent}: no permission to write the report there"
    return None


def _inputs(plan: Plan, read: Sequence[Path]) -> set[tuple[int, int]]:
    paths = [*(Path(s.path) for s in plan.sources), *read]
    return {identity for path in paths if (identity := _identity(path)) is not None}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
