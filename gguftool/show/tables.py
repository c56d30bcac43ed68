"""Tables as text: one list of rows, printed for people, for scripts, for spreadsheets or for a model card."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

FORMATS = ("table", "json", "csv", "markdown")
MISSING = "-"


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], style: str = "table") -> str:
    """The rows as text, without a final newline. ``style`` is one of FORMATS.

    Cells are strings or numbers; None and NaN mean undefined: ``-``, in JSON ``null``, in CSV an empty field. JSON is a
    list of objects. Columns that hold only numbers are aligned to the right.
    """
    if style == "json":
        objects = [{c: _plain(v) for c, v in zip(columns, row, strict=True)} for row in rows]
        return json.dumps(objects, indent=1, ensure_ascii=False)
    if style == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if _plain(v) is None else v for v in row] for row in rows])
        return out.getvalue().rstrip("\n")
    cells = [[_text(v) for v in row] for row in rows]
    right = [all(_is_number(row[i]) for row in cells) and bool(cells) for i in range(len(columns))]
    widths = [max([len(c), *(len(row[i]) for row in cells)]) for i, c in enumerate(columns)]

    def line(row: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |" if style == "markdown" else "  ".join(padded).rstrip()

    rules = ["-" * (w - 1) + (":" if r else "-") if style == "markdown" else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(columns), line(rules), *(line(row) for row in cells)])


def _plain(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def _text(value: Any) -> str:
    if _plain(value) is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    if text == MISSING:
        return True
    head = text.replace(",", "").removesuffix("%").strip().split(" ")[0]
    try:
        float(head)
    except ValueError:
        return False
    return True
