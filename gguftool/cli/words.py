"""What the words of a quantize command line mean: positions, sizes, and the order in which rules were given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguftool.errors import RecipeError, UsageError
from gguftool.recipe.filetypes import FileType, file_type_by_name

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Words:
    """INPUT [OUTPUT] TYPE [NTHREADS]."""

    src: Path
    dst: Path | None
    file_type: FileType
    threads: int | None


def parse_words(words: Sequence[str]) -> Words:
    """The positional words; the one after INPUT is tried as TYPE first, as upstream does, but only a whole word counts.

    UsageError for too few or too many, RecipeError for a TYPE that does not exist.
    """
    if len(words) < 2:
        raise UsageError("give INPUT [OUTPUT] TYPE [NTHREADS], as in: gguftool quantize model-f16.gguf out.gguf Q4_K_M")
    src, rest = Path(words[0]), list(words[1:])
    dst: Path | None = None
    try:
        file_type = file_type_by_name(rest[0])
    except RecipeError as trouble:
        if len(rest) == 1:
            raise RecipeError(f"{trouble} (after INPUT and OUTPUT comes a TYPE)") from None
        dst = Path(rest.pop(0))
        file_type = file_type_by_name(rest[0])
    rest.pop(0)
    if len(rest) > 1:
        raise UsageError(f"'{rest[1]}' is one word too many: INPUT [OUTPUT] TYPE [NTHREADS]")
    return Words(src, dst, file_type, parse_threads(rest[0]) if rest else None)


def parse_threads(word: str) -> int | None:
    """A number of threads; None (all cores) for 0 and less, as upstream."""
    if not re.fullmatch(r"[+-]?[0-9]{1,6}", word):
        raise UsageError(f"'{word}' is no number of threads")
    return int(word) if int(word) > 0 else None


def parse_bytes(word: str) -> int:
    """Bytes of "268435456", "256M", "256MiB", "1.5G"; UsageError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg]?)(?:i?b)?", word.strip().lower())
    size = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= size < 1 << 62:
        raise UsageError(f"'{word}' is no size: write 256M or 1G")
    return int(size)


def order_of(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """Which of the options were given, in the order of the command line, as often as they were."""
    order = []
    for word in args:
        if word == "--":
            break
        name = word.partition("=")[0]
        if name in names:
            order.append(name)
    return order


def prune_switches(options: Mapping[str, Any]) -> dict[str, bool]:
    """What the command line allows when layers are pruned, by the names of ``plan.layers.prune_layers``."""
    return {name: options[name] for name in ("allow_layer_arrays", "allow_unknown_arrays", "prune_nextn")}
