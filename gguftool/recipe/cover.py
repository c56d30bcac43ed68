"""The fewest rules that paint a table: rows are kinds of tensors, columns layers, colours types.

A rule paints every cell of some rows and some columns in one colour, and the first rule that reaches a cell wins. So a
rule may run over cells that an earlier one has painted already, over cells of its own colour, and over empty ones; it
may never reach a cell that is to stay as it is. What is looked for is a shortest list of rules that paints every cell
that must be painted.

At any point it is enough to consider rules that cannot be widened: a wider one leaves fewer cells to later rules and
forbids them nothing. Of these the best list is searched for: first greedily, then, as long as the bound from below
leaves room, by iterative deepening up to a number of states. Small tables, which are nearly all, are solved exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Cells of states that the exact search may visit before the best list found so far is taken: about a second.
MAX_WORK = 200_000
_MAX_SETS = 256
#: Which columns of each row are painted, as bits.
_State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """``must[row][colour]`` and ``may[row][colour]`` are sets of columns as bits; ``may`` contains ``must``.

    A column that is in no ``may`` of its row must not be painted, one that is in all of them is empty.
    """

    n_columns: int
    must: tuple[tuple[int, ...], ...]
    may: tuple[tuple[int, ...], ...]

    @property
    def n_colours(self) -> int:
        return len(self.must[0]) if self.must else 0


@dataclass(frozen=True, slots=True)
class Rectangle:
    """One rule: rows, columns as bits, and the colour."""

    rows: tuple[int, ...]
    columns: int
    colour: int


def fewest_rectangles(table: Table, max_work: int = MAX_WORK) -> tuple[list[Rectangle], bool]:
    """(rules in their order, whether it is proven that no shorter list exists)."""
    start: _State = (0,) * len(table.must)
    best = min((_greedy(table, start, weight) for weight in (0, 1, 2)), key=len)
    least = _at_least(table, start)
    search = _Search(table, max_work // max(1, table.n_columns * len(table.must)))
    for length in range(least, len(best)):
        found = search.within(start, length)
        if found is not None:
            return found, True
        if search.states_left <= 0:
            return best, False
    return best, True


def painted(table: Table, rules: Sequence[Rectangle]) -> bool:
    """Whether the rules, first one wins, paint every cell that must be, in its colour, and none that must not be."""
    state: list[int] = [0] * len(table.must)
    for rule in rules:
        for row in rule.rows:
            if rule.columns & ~state[row] & ~table.may[row][rule.colour]:
                return False
            state[row] |= rule.columns
    return not _left(table, tuple(state))


def _left(table: Table, state: _State) -> bool:
    return any(must & ~done for musts, done in zip(table.must, state, strict=True) for must in musts)


class _Search:
    """Depth-first search within a length; states that failed with as many rules left are not tried again."""

    def __init__(self, table: Table, max_states: int) -> None:
        self.table = table
        self.states_left = max_states
        self.failed: dict[_State, int] = {}

    def within(self, state: _State, length: int) -> list[Rectangle] | None:
        if not _left(self.table, state):
            return []
        if self.failed.get(state, -1) >= length or self.states_left <= 0:
            return None
        self.states_left -= 1
        if _at_least(self.table, state) <= length:
            for rectangle in sorted(_widest(self.table, state), key=lambda r: -_gain(self.table, state, r)):
                rest = self.within(_after(state, rectangle), length - 1)
                if rest is not None:
                    return [rectangle, *rest]
        self.failed[state] = length
        return None


def _greedy(table: Table, state: _State, weight: int) -> list[Rectangle]:
    """Rules, the best first: 0 by cells painted, 1 by rows finished in a colour, 2 by both."""
    found = []
    while _left(table, state):

        def value(rectangle: Rectangle, state: _State = state) -> tuple[int, int]:
            cells = _gain(table, state, rectangle)
            done = sum(_finishes(table, state, rectangle, row) for row in rectangle.rows)
            return (cells, done) if weight == 0 else (done, cells) if weight == 1 else (4 * done + cells, done)

        chosen = max(_widest(table, state), key=value)
        found.append(chosen)
        state = _after(state, chosen)
    return found


def _finishes(table: Table, state: _State, rectangle: Rectangle, row: int) -> bool:
    left = table.must[row][rectangle.colour] & ~state[row]
    return bool(left) and not left & ~rectangle.columns


def _gain(table: Table, state: _State, rectangle: Rectangle) -> int:
    colour, columns = rectangle.colour, rectangle.columns
    return sum((table.must[row][colour] & columns & ~state[row]).bit_count() for row in rectangle.rows)


def _after(state: _State, rectangle: Rectangle) -> _State:
    return tuple(done | rectangle.columns if row in rectangle.rows else done for row, done in enumerate(state))


def _widest(table: Table, state: _State) -> Iterator[Rectangle]:
    """Every rule that paints something new and can take neither another row nor another column."""
    for colour in range(table.n_colours):
        allowed = [may[colour] | done for may, done in zip(table.may, state, strict=True)]
        left = [must[colour] & ~done for must, done in zip(table.must, state, strict=True)]
        if not any(left):
            continue
        sets: set[int] = set()
        for row in sorted(range(len(allowed)), key=lambda r: -left[r].bit_count()):
            fresh = {allowed[row], *(columns & allowed[row] for columns in sets)}
            sets |= fresh if len(sets) < _MAX_SETS else {allowed[row]}
        for columns in sorted(sets):
            rows = tuple(r for r, columns_of in enumerate(allowed) if not columns & ~columns_of)
            if any(left[r] & columns for r in rows):
                yield Rectangle(rows, columns, colour)


def _at_least(table: Table, state: _State) -> int:
    """A number of rules that no list can stay under: cells of which no two can be painted by one rule."""
    return sum(_apart(table, state, colour) for colour in range(table.n_colours))


def _apart(table: Table, state: _State, colour: int) -> int:
    """Cells of a colour, chosen one after the other, whose rectangles all reach a cell that must stay as it is."""
    anyone = (1 << table.n_columns) - 1
    kept = []
    for may, done in zip(table.may, state, strict=True):
        union = done
        for columns in may:
            union |= columns
        kept.append(anyone & ~union)
    chosen: list[tuple[int, int]] = []
    cells = [
        (row, bit)
        for row in sorted(range(len(kept)), key=lambda r: -kept[r].bit_count())
        for bit in _bits(table.must[row][colour] & ~state[row])
    ]
    for row, bit in cells:
        if all(kept[row] & other_bit or kept[other] & bit for other, other_bit in chosen):
            chosen.append((row, bit))
    return len(chosen)


def _bits(columns: int) -> Iterator[int]:
    while columns:
        bit = columns & -columns
        yield bit
        columns ^= bit
