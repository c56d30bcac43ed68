"""Tables as text: for a terminal, as JSON, CSV or Markdown. Whatever prints rows prints them with ``render``."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

FORMATS = ("table", "json", "csv", "markdown")


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``spec`` formats its numbers where people read them (".3f", ","); JSON and CSV get them whole.

    ``left`` keeps numbers at the left edge. ``key`` is the column's name in JSON and CSV, by default that of the head.
    """

    name: str
    spec: str = ""
    left: bool = False
    key: str = ""


def render(columns: Sequence[str | Column], rows: Iterable[Sequence[Any]], format: str = "table") -> str:
    """The rows as text without a final line end; ``format`` is one of FORMATS, ValueError otherwise.

    None and NaN are "-" where people read, null in JSON and empty in CSV. Columns of numbers, or of texts that begin
    with one, stand at the right edge.
    """
    heads = [c if isinstance(c, Column) else Column(c) for c in columns]
    held = [list(row) for row in rows]
    for row in held:
        if len(row) != len(heads):
            raise ValueError(f"a row of {len(row)} values under {len(heads)} columns")
    match format:
        case "table":
            return _table(heads, held)
        case "markdown":
            return _markdown(heads, held)
        case "json":
            return _json(heads, held)
        case "csv":
            return _csv(heads, held)
    raise ValueError(f"unknown table format '{format}': one of {', '.join(FORMATS)}")


def printable(text: str) -> str:
    """The text on one line and harmless to a terminal: control characters escaped, stray bytes as U+FFFD."""
    if text.isprintable():
        return text
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in clean)


def size_text(nbytes: int) -> str:
    """Bytes for people: 512 B, 3.25 KiB, 22.02 MiB, 12.069 GiB."""
    if nbytes < 1 << 10:
        return f"{nbytes} B"
    for shift, unit in ((10, "KiB"), (20, "MiB")):
        if nbytes < 1 << (shift + 10):
            return f"{nbytes / (1 << shift):.2f} {unit}"
    return f"{nbytes / (1 << 30):.3f} GiB"


def _cell(column: Column, value: Any) -> str:
    if _missing(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.spec and not isinstance(value, str):
        return format(value, column.spec)
    return printable(str(value))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _texts(heads: list[Column], rows: list[list[Any]]) -> tuple[list[list[str]], list[bool]]:
    """The cells, and which columns are numbers: all their values are, or are missing."""
    cells = [[_cell(c, v) for c, v in zip(heads, row, strict=True)] for row in rows]
    right = [not head.left and _numeric([row[i] for row in rows]) for i, head in enumerate(heads)]
    return cells, right


def _numeric(values: list[Any]) -> bool:
    present = [v for v in values if not _missing(v) and v != "-"]
    return bool(present) and all(_is_number(v) for v in present)


def _is_number(value: Any) -> bool:
    if not isinstance(value, str):
        return not isinstance(value, bool)
    word = value.replace(",", "").removesuffix("%").strip().partition(" ")[0]
    try:
        float(word)
    except ValueError:
        return False
    return True


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _table(heads: list[Column], rows: list[list[Any]]) -> str:
    cells, right = _texts(heads, rows)
    names = [head.name for head in heads]
    widths = [max(_width(text) for text in column) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = []
    for text, width, at_right in zip(cells, widths, right, strict=True):
        gap = " " * (width - _width(text))
        padded.append(gap + text if at_right else text + gap)
    return "  ".join(padded).rstrip()


def _markdown(heads: list[Column], rows: list[list[Any]]) -> str:
    cells, right = _texts(heads, rows)
    lines = [[head.name for head in heads], ["--:" if r else "---" for r in right], *cells]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _keys(heads: list[Column]) -> list[str]:
    return [head.key or head.name for head in heads]


def _json(heads: list[Column], rows: list[list[Any]]) -> str:
    import json

    keys = _keys(heads)
    objects = [dict(zip(keys, (_plain(v) for v in row), strict=True)) for row in rows]
    return json.dumps(objects, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value JSON has: what is not finite becomes null, a NumPy number an ordinary one."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str | list | dict) else str(value)


def _csv(heads: list[Column], rows: list[list[Any]]) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_keys(heads))
    writer.writerows([["" if _missing(v) else v for v in row] for row in rows])
    return out.getvalue().removesuffix("\n")
