"""The nearest list of layers that may go, where the one asked for may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

#: Lists looked at before giving up; each costs some tenths of a millisecond.
BUDGET = 2500


def nearest_allowed(n: int, wanted: frozenset[int], allowed: Callable[[frozenset[int]], bool]) -> list[int] | None:
    """A sorted list of layers of 0..n-1 that ``allowed`` accepts and that differs little from ``wanted``; or None.

    One layer more or less comes first, then one layer in another's place, two more or less, then the whole list
    moved up or down, and runs of neighbours of the same length. The search is bounded, so None does not mean that
    there is none.
    """
    seen = {wanted, frozenset()}
    for candidate in _candidates(n, wanted):
        if candidate in seen or len(candidate) >= n:
            continue
        seen.add(candidate)
        if len(seen) > BUDGET:
            return None
        if allowed(candidate):
            return sorted(candidate)
    return None


def _candidates(n: int, wanted: frozenset[int]) -> Iterator[frozenset[int]]:
    inside = sorted(wanted)
    outside = sorted(set(range(n)) - wanted, key=lambda i: (min(abs(i - w) for w in inside), i))
    yield from (wanted | {i} for i in outside)
    yield from (wanted - {i} for i in inside)
    swaps = sorted((abs(i - w), w, i) for w in inside for i in outside)
    yield from (wanted - {w} | {i} for _, w, i in swaps[: BUDGET // 3])
    yield from (wanted | {a, b} for a, b in combinations(outside[:32], 2))
    yield from (wanted - {a, b} for a, b in combinations(inside[:32], 2))
    for step in range(1, n):
        for move in (step, -step):
            moved = frozenset(i + move for i in inside)
            if min(moved) >= 0 and max(moved) < n:
                yield moved
    for length in (len(inside), *range(len(inside) + 1, n), *range(len(inside) - 1, 0, -1)):
        starts = sorted(range(n - length + 1), key=lambda s: abs(s - inside[0]))
        yield from (frozenset(range(s, s + length)) for s in starts)
