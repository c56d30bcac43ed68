"""The shortest list of rules for a table, against an exhaustive search where that is possible."""

from __future__ import annotations

import random

import pytest

from gguftool.recipe.cover import Rectangle, Table, fewest_rectangles, painted


def random_table(rng: random.Random, rows: int, columns: int, colours: int) -> Table:
    """Cells that must be painted, may be, must not be, or are empty."""
    kept, free, empty = rng.choice([(0, 0, 0), (0.3, 0, 0), (0.2, 0.2, 0.1), (0, 0.3, 0.2)])
    must, may = [], []
    for _ in range(rows):
        musts, mays = [0] * colours, [0] * colours
        for bit in (1 << c for c in range(columns)):
            draw, colour = rng.random(), rng.randrange(colours)
            if draw < kept:
                continue
            if draw < kept + free:
                mays[colour] |= bit
            elif draw < kept + free + empty:
                mays = [m | bit for m in mays]
            else:
                musts[colour] |= bit
                mays[colour] |= bit
        must.append(tuple(musts))
        may.append(tuple(mays))
    return Table(columns, tuple(must), tuple(may))


def least(table: Table) -> int:
    """The length of a shortest list, by trying all rectangles one after the other."""
    every = [
        (rows, columns, colour)
        for rows in range(1, 1 << len(table.must))
        for columns in range(1, 1 << table.n_columns)
        for colour in range(table.n_colours)
    ]
    frontier = {(0,) * len(table.must)}
    seen, length = set(frontier), 0
    while not any(_done(table, state) for state in frontier):
        reached = set()
        for state in frontier:
            for rows, columns, colour in every:
                hit = [r for r in range(len(state)) if rows >> r & 1]
                if any(columns & ~state[r] & ~table.may[r][colour] for r in hit):
                    continue
                after = tuple(s | columns if r in hit else s for r, s in enumerate(state))
                if after not in seen:
                    reached.add(after)
        seen |= reached
        frontier, length = reached, length + 1
    return length


def _done(table: Table, state: tuple[int, ...]) -> bool:
    return not any(must & ~s for musts, s in zip(table.must, state, strict=True) for must in musts)


@pytest.mark.parametrize("seed", range(8))
def test_no_list_is_shorter(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        table = random_table(rng, rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3))
        found, proven = fewest_rectangles(table)
        assert proven
        assert painted(table, found)
        assert len(found) == least(table)


@pytest.mark.parametrize("seed", range(4))
def test_large_tables_are_painted_as_they_should(seed: int) -> None:
    rng = random.Random(seed)
    table = random_table(rng, 8, 40, 3)
    found, _ = fewest_rectangles(table, max_work=2000)
    assert painted(table, found)


def test_a_later_rule_runs_over_what_an_earlier_one_has_decided() -> None:
    # two rows: the first two columns of the one, three of the other are colour 0, all the rest colour 1
    table = Table(4, ((0b0011, 0b1100), (0b0111, 0b1000)), ((0b0011, 0b1100), (0b0111, 0b1000)))
    found, proven = fewest_rectangles(table)
    assert proven
    assert len(found) == 3


def test_a_rule_over_a_cell_that_must_stay_is_no_solution() -> None:
    table = Table(2, ((0b01,),), ((0b01,),))
    assert painted(table, [Rectangle((0,), 0b01, 0)])
    assert not painted(table, [Rectangle((0,), 0b11, 0)])
    assert not painted(table, [])


def test_nothing_to_paint_needs_no_rule() -> None:
    assert fewest_rectangles(Table(3, ((0,),), ((0b1,),))) == ([], True)
