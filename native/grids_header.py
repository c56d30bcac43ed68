"""Writes grids.h, the codebooks as C tables, from gguftool/codecs/grids.py: python grids_header.py grids.py grids.h.

For each grid: ``grid_<name>[]``, a row's levels as signed bytes in one word; ``grid_<name>_row[]``, the row of a point;
and the rows arranged for a search by halves (grid_search.h), as the macro GRID_<NAME>_ROWS(HALF, FIRST), which expands
to HALF(second, first, FIRST(first) ...) for every second half, with the points of the first halves that go with it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def table(kind: str, name: str, values: list[str]) -> str:
    """One static array, wrapped."""
    lines, line = [], "   "
    for value in values:
        if len(line) + len(value) > 117:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return f"static const {kind} {name}[{len(values)}] GRID_UNUSED = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def header(grids: Any) -> str:
    """The text of grids.h."""
    parts = ["/* Written by native/grids_header.py from gguftool/codecs/grids.py. */\n#ifndef GGUFTOOL_GRIDS_H\n"]
    parts.append("#define GGUFTOOL_GRIDS_H\n\n#include <stdint.h>\n\n#define GRID_UNUSED __attribute__((unused))\n\n")
    for name, grid in grids.GRIDS.items():
        bits = 8 * grid.size
        words = [int.from_bytes(bytes(v % 256 for v in row), "little") for row in grids.rows(name)]
        parts.append(
            table(f"uint{bits}_t", f"grid_{name}", [f"0x{w:0{bits // 4}x}u{'ll' * (bits > 32)}" for w in words])
        )
        halves = grids.halves(name)
        lines = [f"HALF({high}, {low[0]}, {' '.join(f'FIRST({k})' for k in low[1:])})" for high, low in halves]
        parts.append(f"#define GRID_{name.upper()}_ROWS(HALF, FIRST) \\\n    " + " \\\n    ".join(lines) + "\n")
        row_of = dict(zip(grids.points(name), range(len(words)), strict=True))
        known = [row_of.get(p, 0) for p in range(len(grid.levels) ** grid.size)]
        parts.append(table("uint16_t", f"grid_{name}_row", [str(k) for k in known]))
        parts.append("\n")
    return "".join([*parts, "#endif\n"])


def main(source: str, target: str) -> None:
    spec = importlib.util.spec_from_file_location("grids", source)
    assert spec and spec.loader
    grids = importlib.util.module_from_spec(spec)
    sys.modules["grids"] = grids
    spec.loader.exec_module(grids)
    Path(target).write_text(header(grids))


if __name__ == "__main__":
    main(*sys.argv[1:])
