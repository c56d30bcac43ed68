"""The tree of a pattern: what it spells in Python, and which positions of a name it can reach."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of a set of byte values; the empty set never matches."""

    codes: frozenset[int]

    def python(self) -> str:
        if not self.codes:
            return "(?!)"
        if len(self.codes) == 1:
            (code,) = self.codes
            char = chr(code)
            return char if char.isascii() and (char.isalnum() or char == "_") else f"\\x{code:02x}"
        ranges = []
        for _, run in groupby(enumerate(sorted(self.codes)), key=lambda pair: pair[1] - pair[0]):
            codes = [code for _, code in run]
            ranges.append(f"\\x{codes[0]:02x}" + (f"-\\x{codes[-1]:02x}" if len(codes) > 1 else ""))
        return f"[{''.join(ranges)}]"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place: ``^`` the start of the name, ``$`` its end, ``\\b`` and ``\\B``."""

    sign: str

    def python(self) -> str:
        return {"^": r"\A", "$": r"\Z"}.get(self.sign, self.sign)

    def holds(self, name: str, at: int) -> bool:
        if self.sign == "^":
            return at == 0
        if self.sign == "$":
            return at == len(name)
        before = at > 0 and _is_word(name[at - 1])
        after = at < len(name) and _is_word(name[at])
        return (before != after) == (self.sign == "\\b")


@dataclass(frozen=True, slots=True)
class BackReference:
    """The text of a group once more."""

    number: int

    def python(self) -> str:
        return f"(?:\\{self.number})"


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]

    def python(self) -> str:
        return "".join(f"(?:{i.python()})" if isinstance(i, Alternatives) else i.python() for i in self.items)


@dataclass(frozen=True, slots=True)
class Alternatives:
    items: tuple[Node, ...]

    def python(self) -> str:
        return "|".join(item.python() for item in self.items)


@dataclass(frozen=True, slots=True)
class Group:
    """Parentheses; ``number`` 0 captures nothing."""

    item: Node
    number: int

    def python(self) -> str:
        return f"({'' if self.number else '?:'}{self.item.python()})"


@dataclass(frozen=True, slots=True)
class Look:
    """A condition on what follows."""

    item: Node
    negative: bool

    def python(self) -> str:
        return f"(?{'!' if self.negative else '='}{self.item.python()})"


@dataclass(frozen=True, slots=True)
class Repeat:
    """``low`` to ``high`` times, None for any number."""

    item: Node
    low: int
    high: int | None
    lazy: bool

    def python(self) -> str:
        inner = self.item.python()
        if not isinstance(self.item, (Chars, Group, BackReference)) or inner == "(?!)":
            inner = f"(?:{inner})"
        high = "" if self.high is None else str(self.high)
        return f"{inner}{{{self.low},{high}}}{'?' if self.lazy else ''}"


Node = Chars | Anchor | BackReference | Sequence | Alternatives | Group | Look | Repeat
Memo = dict[tuple[int, int], frozenset[int]]


def _is_word(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


def reachable(node: Node, name: str, at: int, memo: Memo) -> frozenset[int]:
    """The positions at which a match of ``node`` that starts ``at`` can end; empty when there is none.

    Polynomial in the length of the name, whatever the pattern. Greed and laziness make no difference to the question
    whether there is a match. Back references are not possible here: what a group holds is not followed.
    """
    key = (id(node), at)
    if key not in memo:
        memo[key] = _reach(node, name, at, memo)
    return memo[key]


def _reach(node: Node, name: str, at: int, memo: Memo) -> frozenset[int]:
    match node:
        case Chars(codes):
            return frozenset((at + 1,)) if at < len(name) and ord(name[at]) in codes else frozenset()
        case Anchor():
            return frozenset((at,)) if node.holds(name, at) else frozenset()
        case Look(item, negative):
            return frozenset((at,)) if bool(reachable(item, name, at, memo)) != negative else frozenset()
        case Group(item, _):
            return reachable(item, name, at, memo)
        case Alternatives(items):
            return frozenset().union(*(reachable(item, name, at, memo) for item in items))
        case Sequence(items):
            ends = frozenset((at,))
            for item in items:
                ends = _step(item, name, ends, memo)
            return ends
        case Repeat():
            return _repeat(node, name, at, memo)
        case BackReference():
            raise AssertionError("back references are matched by Python's own engine")


def _step(item: Node, name: str, starts: frozenset[int], memo: Memo) -> frozenset[int]:
    return frozenset().union(*(reachable(item, name, start, memo) for start in starts))


def _repeat(node: Repeat, name: str, at: int, memo: Memo) -> frozenset[int]:
    ends = frozenset((at,))
    for _ in range(node.low):
        after = _step(node.item, name, ends, memo)
        if after == ends:
            break
        ends = after
    found, fresh, times = ends, ends, node.low
    while fresh and (node.high is None or times < node.high):
        fresh = _step(node.item, name, fresh, memo) - found
        found |= fresh
        times += 1
    return found
