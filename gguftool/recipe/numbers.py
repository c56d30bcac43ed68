"""Sets of layer numbers as regular expressions: ``[0-9]|1[0-257]|31`` for 0 to 9, 10, 11, 12, 15, 17 and 31.

Only digits, classes, groups and ``?`` are written, so every dialect reads them alike, lower-cased or not, and none
holds a comma, at which ik_llama.cpp would split.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

#: Every number there is.
ANY = "[0-9]+"


def number_pattern(must: Collection[int], may: Collection[int] = (), others: Collection[int] = ()) -> str:
    """The shortest pattern found for all of ``must``, none of ``others``, and whichever of ``may`` make it shorter.

    It is meant for a whole number between dots; several alternatives stand in parentheses. Where nothing must be kept
    out, a pattern for more than one number is ``[0-9]+``.
    """
    wanted = frozenset(must)
    if not wanted:
        raise ValueError("a pattern for no number at all")
    spare = frozenset(may) - wanted
    if not others and len(wanted) > 1 and len(wanted) >= len(spare):
        return ANY
    texts = [_grouped(_shortest(_spelled(chosen))) for chosen in _choices(wanted, spare)]
    if not others and len(wanted) > 1:
        texts.append(ANY)
    return min(texts, key=len)


def _choices(wanted: frozenset[int], spare: frozenset[int]) -> Iterable[frozenset[int]]:
    """The sets worth spelling, the smallest first: what must be, gaps closed, tens filled up, all that may be."""
    yield wanted
    if not spare:
        return
    yield wanted | {n for n in spare if min(wanted) < n < max(wanted)}
    full = {n // 10 for n in wanted if all(m in wanted | spare for m in range(n // 10 * 10, n // 10 * 10 + 10))}
    yield wanted | {n for n in spare if n // 10 in full}
    yield from (wanted | {n} for n in sorted(spare)[:256] if n - 1 in wanted and n + 1 in wanted)
    yield wanted | spare


def _spelled(numbers: Iterable[int]) -> frozenset[str]:
    return frozenset(map(str, numbers))


def _grouped(alternatives: tuple[str, ...]) -> str:
    return alternatives[0] if len(alternatives) == 1 else f"({'|'.join(alternatives)})"


@lru_cache(maxsize=4096)
def _shortest(texts: frozenset[str]) -> tuple[str, ...]:
    """Alternatives that together match exactly these texts of digits, none of them empty, ascending."""
    if all(len(text) == 1 for text in texts):
        return (_class(texts),)
    ways = [_by_end(texts, first=False), _by_end(texts, first=True)]
    lengths = {len(text) for text in texts}
    if len(lengths) > 1:  # numbers of one, two and three digits each for themselves
        apart: list[str] = []
        for length in sorted(lengths):
            apart += _shortest(frozenset(text for text in texts if len(text) == length))
        ways.append(tuple(apart))
    return min(ways, key=_effort)


def _effort(way: tuple[str, ...]) -> tuple[int, int]:
    """How long a pattern is to read; an optional digit makes one think."""
    text = "|".join(way)
    return len(text) + 6 * text.count("?"), len(way)


def _by_end(texts: frozenset[str], *, first: bool) -> tuple[str, ...]:
    """Alternatives of the kind ``[12][0-5]``: rests that go with the same digits at one end share a class of them."""
    digits: dict[str, set[str]] = {}
    for text in texts:
        end, rest = (text[0], text[1:]) if first else (text[-1], text[:-1])
        digits.setdefault(end if first else rest, set()).add(rest if first else end)
    groups: dict[frozenset[str], set[str]] = {}
    for key, values in digits.items():
        groups.setdefault(frozenset(values), set()).add(key)
    found = []
    for ends, keys in groups.items():
        head, tail = frozenset(keys), ends
        found.append((min(int(h + t) for h in head for t in tail), _optional(head), _optional(tail)))
    return tuple(head + tail for _, head, tail in sorted(found))


def _optional(texts: frozenset[str]) -> str:
    """A pattern for one of the texts; ``?`` where the empty one is among them."""
    filled = texts - {""}
    if not filled:
        return ""
    alternatives = _shortest(filled)
    if "" not in texts:
        return _grouped(alternatives)
    alone = len(alternatives) == 1 and all(len(text) == 1 for text in filled)
    return f"{alternatives[0]}?" if alone else f"({'|'.join(alternatives)})?"


def _class(digits: Iterable[str]) -> str:
    """One digit, or a class of them, three and more in a row as a range."""
    numbers = sorted(map(int, digits))
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    if len(numbers) == 1:
        return str(numbers[0])
    return "[" + "".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else "".join(map(str, r)) for r in runs) + "]"
