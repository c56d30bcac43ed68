"""Writes grids.h, the codebooks as C tables, from gguftool/codecs/grids.py: python grids_header.py grids.py grids.h.

For each grid: ``grid_<name>[]``, a row's levels as signed bytes in one word; ``grid_<name>_row[]``, the row of a point;
and the rows arranged for a search by halves (grid_search.h), as the macro GRID_<NAME>_ROWS(HALF, FIRST), which expands
to HALF(second, first, FIRST(first) ...) for every second half, with the points of the first halves that go with it.

Many second halves go with the same pairs of first halves. A pair that is wanted three times or more is given a number
of its own above all points, HALF_PAIR(number, first, first), and stands for both from then on, in further pairs too:
the least of a set is then found with fewer comparisons (IQ3_S 317 instead of 448, IQ2_S 208 instead of 943).
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from itertools import combinations
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


def pair_up(sets: list[set[int]], number: int) -> list[tuple[int, int, int]]:
    """The pairs (number, a, b), from ``number`` on, that now stand for a and b in the sets: the most frequent first."""
    count = Counter(pair for s in sets for pair in combinations(sorted(s), 2))
    pairs: list[tuple[int, int, int]] = []
    while True:
        (a, b), times = min(count.items(), key=lambda item: (-item[1], item[0]))
        if times < 3:
            return pairs
        for s in sets:
            if a in s and b in s:
                count.subtract(combinations(sorted(s), 2))
                s -= {a, b}
                s.add(number)
                count.update(combinations(sorted(s), 2))
        pairs.append((number, a, b))
        number += 1


def rows_macro(name: str, halves: list[tuple[int, list[int]]], n_points: int) -> str:
    """GRID_<NAME>_ROWS, and GRID_<NAME>_TABLE: how many points and pairs there are."""
    sets = [set(low) for _, low in halves]
    pairs = pair_up(sets, n_points)
    lines = [f"HALF##_PAIR({n}, {a}, {b})" for n, a, b in pairs]
    for (high, _), (first, *rest) in zip(halves, map(sorted, sets), strict=True):
        lines.append(f"HALF({high}, {first}, {' '.join(f'FIRST({k})' for k in rest)})")
    define = f"#define GRID_{name.upper()}_ROWS(HALF, FIRST) \\\n    " + " \\\n    ".join(lines) + "\n"
    return define + f"#define GRID_{name.upper()}_TABLE {n_points + len(pairs)}\n"


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
        parts.append(rows_macro(name, grids.halves(name), len(grid.levels) ** (grid.size // 2)))
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
