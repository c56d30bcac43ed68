"""Where an output and its unfinished state lie, and what the world says about the place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gguftool.format.names import shard_path
from gguftool.plan.moves import Plan
from gguftool.run.journal import is_renaming


@dataclass(frozen=True, slots=True)
class Target:
    """One output file under its final name and under the name it has while it grows."""

    final: Path
    part: Path


def targets(dst: Path, plan: Plan, n_files: int) -> tuple[Target, ...]:
    """The files of an output: ``dst`` itself, or with ``keep_split`` its shards, numbered behind its stem."""
    finals = [dst]
    if plan.keep_split:
        stem = dst.with_suffix("") if dst.suffix == ".gguf" else dst
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
    folder: str
    folder_trouble: str | None
    free_bytes: int | None


def survey(places: tuple[Target, ...], plan: Plan) -> World:
    """Looks at the output's folder and names; changes nothing.

    Space already taken by an unfinished output counts as free: the same run goes on in it.
    """
    folder = places[0].final.parent
    sources = {identity for s in plan.sources if (identity := _identity(Path(s.path))) is not None}
    finals = [p.final for p in places]
    ours = is_renaming(journal_path(places))  # then a name without its .part was given by the run that goes on
    existing = tuple(str(p.final) for p in places if os.path.lexists(p.final) and not (ours and not p.part.exists()))
    is_source = tuple(str(p) for p in finals if _identity(p) in sources)
    trouble = None
    free = None
    if not folder.is_dir():
        trouble = "no such folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = "no permission to write there"
    else:
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize + sum(_taken(p.part) for p in places)
    is_folder = tuple(str(p) for p in finals if p.is_dir())
    return World(existing, is_source, is_folder, str(folder), trouble, free)


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
