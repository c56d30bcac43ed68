"""Patterns over tensor names, meaning the same as in llama-quantize: ECMAScript as C++ std::regex reads it, searched.

A pattern is parsed here, by our own small grammar, into a tree; from the tree a Python pattern is written. So whatever
the two grammars read differently is either translated (``[[:digit:]]``, ``[]``, ``[^]``, ``\\z`` for the letter z) or
refused with its position, and nothing slips through. Names and patterns are compared byte by byte, as std::regex does:
both are spelled with one character per UTF-8 byte.

A pattern is a user's input, and backtracking can take for ever. Patterns that could (nested repetition, many of it in
a row) are matched by following the set of positions a tree can reach instead, which is slower and never explodes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from gguftool.errors import RecipeError
from gguftool.recipe.regex_tree import (
    Alternatives,
    Anchor,
    BackReference,
    Chars,
    Group,
    Look,
    Node,
    Repeat,
    Sequence,
    reachable,
)

MAX_LENGTH = 4096
MAX_DEPTH = 40
MAX_STATES = 100_000  # std::regex gives up beyond that many
_LONG_NAME = 128
_RISKY_BITS = 20.0

_DIGIT = frozenset(range(48, 58))
_UPPER = frozenset(range(65, 91))
_LOWER = frozenset(range(97, 123))
_SPACE = frozenset(b" \t\n\r\f\v")
_ALL = frozenset(range(256))
_WORD = _DIGIT | _UPPER | _LOWER | {95}
_GRAPH = frozenset(range(33, 127))
_SETS = {"d": _DIGIT, "w": _WORD, "s": _SPACE, "D": _ALL - _DIGIT, "W": _ALL - _WORD, "S": _ALL - _SPACE}
_NAMED = {
    "digit": _DIGIT,
    "d": _DIGIT,
    "w": _WORD,
    "s": _SPACE,
    "space": _SPACE,
    "upper": _UPPER,
    "lower": _LOWER,
    "alpha": _UPPER | _LOWER,
    "alnum": _UPPER | _LOWER | _DIGIT,
    "blank": frozenset(b" \t"),
    "cntrl": frozenset(range(32)) | {127},
    "graph": _GRAPH,
    "print": _GRAPH | {32},
    "punct": _GRAPH - _UPPER - _LOWER - _DIGIT,
    "xdigit": _DIGIT | frozenset(b"abcdefABCDEF"),
}
_CONTROL = {"f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
#: Letters whose escapes Python reads in a way of its own, with what the user may have meant.
_READ_DIFFERENTLY = {"A": "write ^", "Z": "write $", "a": "write \\x07", "N": "write N", "U": "write \\xHH"}


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A compiled pattern. ``text`` as the user wrote it, ``python`` the same in Python's spelling."""

    text: str
    python: str
    _fast: re.Pattern[str] | None
    _tree: Node
    _has_references: bool

    def search(self, name: str) -> bool:
        """Whether the pattern occurs anywhere in ``name``; case counts."""
        name = _bytewise(name)
        if self._fast is not None and (len(name) <= _LONG_NAME or self._has_references):
            return self._fast.search(name) is not None
        memo: dict[tuple[int, int], frozenset[int]] = {}
        return any(reachable(self._tree, name, start, memo) for start in range(len(name) + 1))


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str, *, lower: bool = False) -> NamePattern:
    """The pattern, ready to ``search`` names; RecipeError with the position of what cannot be taken.

    ``lower=True`` is upstream's way: letters are lower-cased first (outside escapes only, since upstream's also
    turns ``\\D`` into ``\\d``).
    """
    text = lower_outside_escapes(pattern) if lower else pattern
    tree = _Parser(text).parse()
    references = _count(tree, BackReference) > 0
    risky = _choice_bits(tree) > _RISKY_BITS
    if risky and references:
        raise RecipeError(f"pattern '{_short(pattern)}' repeats too much for one with a back reference; simplify it")
    if _states(tree) > MAX_STATES:
        raise RecipeError(f"pattern '{_short(pattern)}' is too large with its repeats written out; lower the counts")
    python = tree.python()
    fast = None if risky else re.compile(python, re.ASCII)
    return NamePattern(pattern, python, fast, tree, references)


def lower_outside_escapes(pattern: str) -> str:
    """The pattern with its ASCII letters in lower case, those of escapes (``\\D``, ``\\x4B``) left as they are."""
    parts = re.split(r"(\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\c.|\\.)", pattern, flags=re.DOTALL)
    return "".join(part if i % 2 else _lower(part) for i, part in enumerate(parts))


def _lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _bytewise(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def _short(pattern: str) -> str:
    return pattern if len(pattern) <= 80 else pattern[:77] + "..."


class _Parser:
    """One pass over a pattern, byte by byte; ``at`` is the next position."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0
        self.opened = 0
        self.closed: set[int] = set()
        if not pattern:
            raise RecipeError("an empty pattern matches every tensor; write .* if that is meant")
        if len(pattern) > MAX_LENGTH:
            raise RecipeError(f"pattern '{_short(pattern)}' has {len(pattern)} characters; split the rule")
        try:
            self.text = _bytewise(pattern)
        except UnicodeEncodeError:
            raise self.error("a character that is no text", 0) from None

    def error(self, what: str, at: int | None = None) -> RecipeError:
        at = self.at if at is None else at
        return RecipeError(f"pattern '{_short(self.pattern)}', character {at + 1}: {what}")

    def peek(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.peek(text):
            self.at += len(text)
            return True
        return False

    def parse(self) -> Node:
        tree = self.alternatives()
        if self.at < len(self.text):
            raise self.error("')' without '('")
        return tree

    def alternatives(self) -> Node:
        options = [self.sequence()]
        while self.take("|"):
            options.append(self.sequence())
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def sequence(self) -> Node:
        items: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            items.append(self.term())
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def term(self) -> Node:
        start = self.at
        item = self.atom()
        if self.at < len(self.text) and self.text[self.at] in "*+?{" and isinstance(item, (Anchor, Look)):
            what = "a lookahead" if isinstance(item, Look) else "an anchor"
            raise self.error(f"{what} cannot be repeated", start)
        return self.quantified(item)

    def quantified(self, item: Node) -> Node:
        if self.at >= len(self.text) or self.text[self.at] not in "*+?{":
            return item
        start = self.at
        sign = self.text[self.at]
        if sign == "{":
            counts = re.compile(r"\{([0-9]{1,6})(,([0-9]{1,6})?)?\}").match(self.text, self.at)
            if counts is None:
                raise self.error("'{' must begin a count such as {2}, {2,} or {2,5}; a plain brace is \\{")
            self.at = counts.end()
            low = int(counts[1])
            high = low if counts[2] is None else int(counts[3]) if counts[3] else None
            if high is not None and high < low:
                raise self.error("a count that runs backwards", start)
        else:
            self.at += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        lazy = self.take("?")
        if self.at < len(self.text) and self.text[self.at] in "*+?{":
            raise self.error("a repeat of a repeat is read differently by different programs; use a group (?:...)")
        return Repeat(item, low, high, lazy)

    def atom(self) -> Node:
        sign = self.text[self.at]
        if sign in "*+?{":
            raise self.error(f"'{sign}' has nothing to repeat; a plain one is \\{sign}")
        if sign == "(":
            return self.group()
        if sign == "[":
            return self.char_class()
        if sign == "\\":
            return self.escape()
        self.at += 1
        if sign in "^$":
            return Anchor(sign)
        return Chars(_ALL - {10, 13}) if sign == "." else Chars(frozenset((ord(sign),)))

    def group(self) -> Node:
        start = self.at
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error("too many groups inside each other")
        look = {"(?=": "=", "(?!": "!"}.get(self.text[start : start + 3])
        plain = self.peek("(?:")
        if not look and not plain and self.peek("(?"):
            raise self.error("of the groups with '(?', llama-quantize knows (?:...), (?=...) and (?!...) only")
        number = 0
        if look or plain:
            self.at += 3
        else:
            self.at += 1
            self.opened += 1
            number = self.opened
        inner = self.alternatives()
        if not self.take(")"):
            raise self.error("'(' without ')'", start)
        self.depth -= 1
        if look:
            return Look(inner, negative=look == "!")
        self.closed.add(number)
        return Group(inner, number)

    def escape(self) -> Node:
        start = self.at
        letter = self.text[start + 1 : start + 2]
        if letter and letter in "bB":
            self.at += 2
            return Anchor("\\" + letter)
        if letter and letter in "123456789":
            return self.back_reference()
        return Chars(self.escaped_chars(in_class=False))

    def back_reference(self) -> Node:
        start = self.at
        digits = re.compile(r"[0-9]+").match(self.text, start + 1)
        assert digits is not None
        number = int(digits[0]) if len(digits[0]) < 4 else 1000
        if number not in self.closed or number > 99:
            raise self.error(f"\\{digits[0][:9]} refers to no group before it (octal escapes do not exist)", start)
        self.at = digits.end()
        return BackReference(number)

    def escaped_chars(self, *, in_class: bool) -> frozenset[int]:
        """The characters that the escape at this place stands for."""
        start = self.at
        if start + 1 >= len(self.text):
            raise self.error("a backslash at the end; a plain one is \\\\")
        letter = self.text[start + 1]
        self.at += 2
        if letter in _SETS:
            return _SETS[letter]
        if letter in _CONTROL:
            return frozenset((_CONTROL[letter],))
        if in_class and letter == "b":
            return frozenset((8,))
        if letter in "xu":
            return self.hexadecimal(2 if letter == "x" else 4, start)
        if letter == "0" and self.text[self.at : self.at + 1] not in tuple("0123456789"):
            return frozenset((0,))
        if letter.isdigit() and letter.isascii():
            raise self.error("octal escapes do not exist; write \\xHH", start)
        if letter == "c":
            raise self.error("\\c is read differently by different programs; write \\xHH", start)
        if letter in _READ_DIFFERENTLY or (in_class and letter == "B"):
            hint = _READ_DIFFERENTLY.get(letter, "leave it out")
            raise self.error(f"\\{letter} is read differently by different programs; {hint}", start)
        return frozenset((ord(letter),))  # an unknown letter stands for itself, and so does punctuation

    def hexadecimal(self, n_digits: int, start: int) -> frozenset[int]:
        digits = self.text[self.at : self.at + n_digits]
        if len(digits) < n_digits or not re.fullmatch("[0-9A-Fa-f]+", digits):
            raise self.error(f"\\{self.text[start + 1]} needs {n_digits} hexadecimal digits", start)
        value = int(digits, 16)
        if value > 127:
            raise self.error("codes above 127 are read differently by different programs; write the character", start)
        self.at += n_digits
        return frozenset((value,))

    def char_class(self) -> Node:
        start = self.at
        self.at += 1
        negative = self.take("^")
        members: set[int] = set()
        while not self.take("]"):
            if self.at >= len(self.text):
                raise self.error("'[' without ']'; a plain one is \\[", start)
            members |= self.class_item()
        return Chars(_ALL - members if negative else frozenset(members))

    def class_item(self) -> frozenset[int]:
        """A member of a class, or a range of them."""
        first_at = self.at
        first = self.class_member()
        if not self.peek("-") or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return first
        self.at += 1
        last = self.class_member()
        if len(first) != 1 or len(last) != 1 or min(first) > min(last):
            raise self.error("a range that makes no sense; a plain '-' goes first or last", first_at)
        return frozenset(range(min(first), min(last) + 1))

    def class_member(self) -> frozenset[int]:
        start = self.at
        sign = self.text[start]
        if sign == "\\":
            return self.escaped_chars(in_class=True)
        if sign == "[" and self.text[start + 1 : start + 2] in (":", ".", "="):
            return self.posix_member()
        if ord(sign) > 127:
            raise self.error("a character class takes ASCII only; use (?:a|b)", min(start, len(self.pattern) - 1))
        self.at += 1
        return frozenset((ord(sign),))

    def posix_member(self) -> frozenset[int]:
        start = self.at
        kind = self.text[start + 1]
        end = self.text.find(kind + "]", start + 2)
        name = self.text[start + 2 : end] if end > 0 else ""
        if kind == ":" and name in _NAMED:
            self.at = end + 2
            return _NAMED[name]
        if kind == "." and len(name) == 1 and name.isascii():
            self.at = end + 2
            return frozenset((ord(name),))
        raise self.error(f"[{kind}...{kind}] of this kind is not understood; list the characters", start)


def _children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, (Sequence, Alternatives)):
        return node.items
    return (node.item,) if isinstance(node, (Group, Look, Repeat)) else ()


def _count(node: Node, kind: type) -> int:
    return isinstance(node, kind) + sum(_count(child, kind) for child in _children(node))


def _states(node: Node) -> int:
    inside = 1 + sum(map(_states, _children(node)))
    if isinstance(node, Repeat):
        return inside * max(1, node.high if node.high is not None else node.low + 1)
    return inside


def _choice_bits(node: Node) -> float:
    """How many binary choices a backtracking search may have to go through; infinite for repeated choices."""
    inside = sum(map(_choice_bits, _children(node)))
    if isinstance(node, Alternatives):
        return inside + math.log2(len(node.items))
    if isinstance(node, Repeat):
        if inside and (node.high is None or node.high > 1):
            return math.inf
        spread = math.inf if node.high is None else node.high - node.low
        return inside + min(6.0, math.log2(1 + spread))
    return inside
