"""A mix: which texts make a calibration corpus, in which shares. Written as TOML, checked here once.

[mix]
name = "chat and code"
size = "2 MB"          # of the corpus; without it, as much as the shares allow
holdout = 0.05         # share of every source that is kept apart, for measuring
seed = 1               # another order, another choice

[[source]]
name = "tools"
path = "data/tools-*.jsonl"      # relative to this file; a pattern or a list of them
licence = "Apache-2.0"
url = "where to get it"
field = "conversations"          # JSONL and Parquet: the field that holds the text or the conversation
weight = 2                       # share of the corpus, relative to the other sources
repeats = 5                      # how often a document may come, at most
min_chars = 200                  # shorter documents are dropped ...
join_chars = 7000                # ... and neighbours joined until they have this length
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gguftool.errors import GGUFToolError

_MOST_SOURCES = 1000
_LARGEST_FILE = 1 << 20
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}

#: How files become documents: by content of JSON Lines or Parquet, or plain text.
FORMATS = ("text", "jsonl", "parquet")
#: Where a document of plain text ends: with the file, each line, at empty lines, or at the source's ``separator``.
SPLITS = ("file", "line", "paragraph", "separator")
TEMPLATES = ("plain", "chatml", "llama3", "mistral")


class MixError(GGUFToolError):
    """A mix cannot be read, or its texts cannot be had."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files that are one ingredient. Lengths are in characters; ``max_chars`` is where long documents are cut.

    ``weight`` None: by size. ``format`` None: by the file's suffix. ``field``: name of the field of a record, dots
    lead into nested ones; several are joined by an empty line. ``template``: how a list of messages is written.
    """

    name: str
    path: tuple[str, ...]
    licence: str = ""
    url: str = ""
    about: str = ""
    weight: float | None = None
    repeats: int = 1
    min_chars: int = 1
    max_chars: int = 16_000
    join_chars: int = 0
    format: str | None = None
    field: tuple[str, ...] = ("text",)
    template: str = "plain"
    split: str = "file"
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Mix:
    """A checked mix. ``size`` in bytes of UTF-8 or None, ``holdout`` from 0 to 0.5, ``folder`` is where it lies."""

    folder: Path
    name: str
    sources: tuple[Source, ...]
    about: str = ""
    size: int | None = None
    holdout: float = 0.0
    seed: int = 0
    separator: str = "\n\n"


def read_mix(path: str | Path) -> Mix:
    """The mix in a TOML file; MixError says what in it is wrong and what would be right."""
    place = Path(path)
    with place.open("rb") as file:
        raw = file.read(_LARGEST_FILE + 1)
    if len(raw) > _LARGEST_FILE:
        raise MixError(f"{place}: more than {_LARGEST_FILE} bytes: this is no mix")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as trouble:
        raise MixError(f"{place}: not TOML: {trouble}") from None
    _only(document, {"mix", "source"}, f"{place}: the file")
    head, sources = document.get("mix", {}), document.get("source", [])
    if not isinstance(head, dict) or not isinstance(sources, list) or not sources:
        raise MixError(f"{place}: a mix has a table [mix] and one [[source]] or more")
    if len(sources) > _MOST_SOURCES:
        raise MixError(f"{place}: {len(sources)} sources; {_MOST_SOURCES} are the most")
    found = tuple(_source(table, f"{place}: source {number}") for number, table in enumerate(sources, 1))
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise MixError(f"{place}: two sources have the name '{name}'")
    return _mix(head, found, place)


def size_in_bytes(text: object) -> int | None:
    """Bytes from "200 KB", "1.5 MiB" or a number; None if it is neither or not above 0."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", str(text).strip(), re.IGNORECASE)
    if isinstance(text, bool) or not match or match[2].upper() not in _UNITS:
        return None
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    return size if 0 < size < 1 << 50 else None


def _mix(head: Mapping[str, Any], sources: tuple[Source, ...], place: Path) -> Mix:
    where = f"{place}: [mix]"
    _only(head, {f.name for f in fields(Mix)} - {"folder", "sources"}, where)
    size = head.get("size")
    if size is not None and size_in_bytes(size) is None:
        raise MixError(f'{where}: size is {size!r}, but should be bytes, such as 200000 or "200 KB"')
    return Mix(
        place.absolute().parent,
        _text(head, "name", where, place.stem),
        sources,
        _text(head, "about", where, ""),
        None if size is None else size_in_bytes(size),
        _number(head, "holdout", where, 0.0, 0.0, 0.5),
        _whole(head, "seed", where, 0, 0, 1 << 62),
        _text(head, "separator", where, "\n\n"),
    )


def _source(table: object, where: str) -> Source:
    if not isinstance(table, dict):
        raise MixError(f"{where}: not a table")
    _only(table, {f.name for f in fields(Source)}, where)
    name = _text(table, "name", where, "")
    if not name:
        raise MixError(f"{where}: it has no name")
    where = f"{where} '{name}'"
    found = Source(
        name,
        _texts(table, "path", where, ()),
        _text(table, "licence", where, ""),
        _text(table, "url", where, ""),
        _text(table, "about", where, ""),
        _number(table, "weight", where, 0.0, 1e-9, 1e9) if "weight" in table else None,
        _whole(table, "repeats", where, 1, 1, 1000),
        _whole(table, "min_chars", where, 1, 1, 1 << 30),
        _whole(table, "max_chars", where, 16_000, 1, 1 << 30),
        _whole(table, "join_chars", where, 0, 0, 1 << 30),
        _one_of(table, "format", where, FORMATS) if "format" in table else None,
        _texts(table, "field", where, ("text",)),
        _one_of(table, "template", where, TEMPLATES),
        _one_of(table, "split", where, SPLITS),
        _text(table, "separator", where, ""),
    )
    if not found.path:
        raise MixError(f'{where}: it has no path: path = "texts/*.txt", say')
    if (found.split == "separator") != bool(found.separator):
        raise MixError(f'{where}: split = "separator" and separator = "..." go together')
    if max(found.min_chars, found.join_chars) > found.max_chars:
        raise MixError(f"{where}: max_chars ({found.max_chars}) is below min_chars or join_chars")
    return found


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise MixError(f"{where}: there is no '{key}'; there are {', '.join(sorted(known))}")


def _text(table: Mapping[str, Any], key: str, where: str, otherwise: str) -> str:
    value = table.get(key, otherwise)
    if not isinstance(value, str):
        raise MixError(f"{where}: {key} is {value!r}, but should be a text")
    return value


def _texts(table: Mapping[str, Any], key: str, where: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    value = table.get(key, list(otherwise))
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise MixError(f"{where}: {key} is {value!r}, but should be a text or a list of texts")
    return tuple(texts)


def _number(table: Mapping[str, Any], key: str, where: str, otherwise: float, least: float, most: float) -> float:
    value = table.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise MixError(f"{where}: {key} is {value!r}, but should be a number from {least:g} to {most:g}")
    return float(value) if math.isfinite(value) else otherwise


def _whole(table: Mapping[str, Any], key: str, where: str, otherwise: int, least: int, most: int) -> int:
    value = table.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise MixError(f"{where}: {key} is {value!r}, but should be a whole number from {least} to {most}")
    return value


def _one_of(table: Mapping[str, Any], key: str, where: str, choices: tuple[str, ...]) -> str:
    value = table.get(key, choices[0])
    if value not in choices:
        raise MixError(f"{where}: {key} is {value!r}; there are {', '.join(choices)}")
    return str(value)
