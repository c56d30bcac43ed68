"""The fewest rules that give every tensor its type: from names and types back to patterns.

A rule here names some kinds of tensors and some layers, ``blk\\.(0|1|2[0-9]|3[01])\\.attn_(k|q)\\.weight``, and all
tensors of these kinds in these layers get its type. (One pattern could hold any number of such products behind ``|``,
so that one rule per type were enough; nobody could read it.) The first match wins, so later rules may be wider than
what they decide: ``cover`` finds the shortest list. Every result is put to the test on all names before it is returned.

Patterns are in lower case outside of escapes, hold no comma, quote, ``=`` or white space, and say the same in
llama-quantize (which lower-cases them), in ik_llama.cpp and here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gguftool.format.names import layer_of
from gguftool.format.quanttypes import QuantType
from gguftool.recipe.cover import Rectangle, Table, fewest_rectangles
from gguftool.recipe.numbers import number_pattern
from gguftool.recipe.regex import compile_pattern

_SPECIAL = frozenset("\\.^$|()[]{}*+?/")


@dataclass(frozen=True, slots=True)
class Merged:
    """One rule: ``names`` are the tensors that need it, ``also`` those it hits that have its type anyway."""

    pattern: str
    type: QuantType
    names: tuple[str, ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compressed:
    """The rules in their order; ``proven``: no shorter list of such rules exists."""

    rules: tuple[Merged, ...]
    proven: bool


def fewest_rules(wanted: Mapping[str, QuantType], others: Mapping[str, QuantType | None]) -> Compressed:
    """Rules that give each name in ``wanted`` its type, the first match deciding.

    ``others`` are all other names of the model: None for one that no rule may hit, a type for one that has this type
    without any rule, which a rule to the same type may therefore hit.
    """
    if both := wanted.keys() & others.keys():
        raise ValueError(f"{sorted(both)[0]} is wanted and is not")
    places = {name: _place(name) for name in (*wanted, *others)}
    found: list[Merged] = []
    proven = True
    for stack in sorted({places[name].stack for name in wanted}, key=lambda s: (s == "", s)):
        here = {name: place for name, place in places.items() if place.stack == stack}
        if stack:
            rules, exact = _of_stack(stack, here, wanted, others)
            found += rules
            proven = proven and exact
        else:
            found += _outside(here, wanted)
    every = (*wanted, *others)
    rules_ = tuple(_anchored(rule, every) for rule in found)
    if wrong := misfits(rules_, wanted, others):
        raise AssertionError(f"rules do not say what they should of {wrong[0]}: {[r.pattern for r in rules_]}")
    return Compressed(rules_, proven)


def misfits(
    rules: Sequence[Merged], wanted: Mapping[str, QuantType], others: Mapping[str, QuantType | None]
) -> list[str]:
    """The names for which the rules say something else, read as written or lower-cased; the test of every result."""
    wrong = []
    for lower in (False, True):
        patterns = [(compile_pattern(rule.pattern, lower=lower), rule.type) for rule in rules]
        for name in (*wanted, *others):
            given = next((type for pattern, type in patterns if pattern.search(name)), None)
            expected = wanted.get(name) or (others[name] if given is not None else None)
            if given != expected:
                wrong.append(name)
    return wrong


@dataclass(frozen=True, slots=True)
class _Place:
    stack: str
    layer: int
    kind: str


def _place(name: str) -> _Place:
    found = layer_of(name)
    if found is None:
        return _Place("", -1, name)
    stack, layer = found
    return _Place(stack, layer, name[len(f"{stack}.{layer}.") :])


def _outside(here: Mapping[str, _Place], wanted: Mapping[str, QuantType]) -> list[Merged]:
    """A rule per type for the tensors outside of blocks."""
    types: dict[QuantType, list[str]] = {}
    for name in sorted(here):
        if name in wanted:
            types.setdefault(wanted[name], []).append(name)
    return [Merged(kinds_pattern(names), type, tuple(names)) for type, names in types.items()]


def _of_stack(
    stack: str, here: Mapping[str, _Place], wanted: Mapping[str, QuantType], others: Mapping[str, QuantType | None]
) -> tuple[list[Merged], bool]:
    kinds = sorted({here[name].kind for name in here if name in wanted})
    layers = sorted({place.layer for place in here.values() if place.kind in kinds})
    types = sorted({wanted[name] for name in here if name in wanted}, key=lambda t: (-t.bpw, t.name))
    by_place = {(place.kind, place.layer): name for name, place in here.items()}
    cells = [[_cell(by_place.get((kind, n)), wanted, others, types) for n in layers] for kind in kinds]
    groups, rows = _alike(cells)
    classes, columns = _alike([list(column) for column in zip(*rows, strict=True)])
    must = [[sum(1 << c for c, cell in enumerate(row) if cell[0] >> t & 1) for t in range(len(types))]
            for row in zip(*columns, strict=True)]  # fmt: skip
    may = [[sum(1 << c for c, cell in enumerate(row) if cell[1] >> t & 1) for t in range(len(types))]
           for row in zip(*columns, strict=True)]  # fmt: skip
    rectangles, proven = fewest_rectangles(Table(len(classes), tuple(map(tuple, must)), tuple(map(tuple, may))))
    sheet = _Sheet(stack, kinds, layers, types, by_place, wanted, others)
    wide = [_widened(rectangle, groups, classes) for rectangle in rectangles]
    return sheet.spelled(wide), proven


def _cell(
    name: str | None,
    wanted: Mapping[str, QuantType],
    others: Mapping[str, QuantType | None],
    types: Sequence[QuantType],
) -> tuple[int, int]:
    """(types it must get, types that it may get) as bits; a place without a tensor may get any."""
    if name is None:
        return 0, (1 << len(types)) - 1
    if name in wanted:
        return (bit := 1 << types.index(wanted[name])), bit
    free = others[name]
    return 0, 1 << types.index(free) if free in types else 0


def _alike(lines: Sequence[list[tuple[int, int]]]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Equal lines put together: the numbers of each group's lines, and the line."""
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for number, line in enumerate(lines):
        groups.setdefault(tuple(line), []).append(number)
    return list(groups.values()), [list(line) for line in groups]


@dataclass(frozen=True, slots=True)
class _Block:
    """A rule as kinds and layers, by their numbers in the sheet, and a type's number."""

    kinds: frozenset[int]
    layers: frozenset[int]
    type: int


def _widened(rectangle: Rectangle, groups: Sequence[Sequence[int]], classes: Sequence[Sequence[int]]) -> _Block:
    kinds = frozenset(kind for row in rectangle.rows for kind in groups[row])
    layers = frozenset(n for c, numbers in enumerate(classes) if rectangle.columns >> c & 1 for n in numbers)
    return _Block(kinds, layers, rectangle.colour)


@dataclass(frozen=True)
class _Sheet:
    """The tensors of one stack as a table of kinds and layers, to be written as rules."""

    stack: str
    kinds: Sequence[str]
    layers: Sequence[int]
    types: Sequence[QuantType]
    by_place: Mapping[tuple[str, int], str]
    wanted: Mapping[str, QuantType]
    others: Mapping[str, QuantType | None]

    def spelled(self, blocks: Sequence[_Block]) -> list[Merged]:
        """The blocks as rules, each cut down to what needs it where the rest still holds."""
        chosen: list[_Block] = []
        for at, block in enumerate(blocks):
            rest = blocks[at + 1 :]
            narrow = self._narrow(block, chosen)
            fits = (b for b in (narrow, self._relaxed(narrow, block)) if self._holds([*chosen, b, *rest]))
            options = [*fits, block]
            chosen.append(min(options, key=lambda b: (len(self._pattern(b)), len(b.layers))))
        done: set[str] = set()
        rules = []
        for block in chosen:
            hit = [name for name in self._names(block) if name not in done]
            done |= set(hit)
            needing = tuple(name for name in hit if name in self.wanted)
            also = tuple(name for name in hit if name not in self.wanted)
            rules.append(Merged(self._pattern(block), self.types[block.type], needing, also))
        return rules

    def _narrow(self, block: _Block, before: Sequence[_Block]) -> _Block:
        """The kinds and layers of the block that hold a tensor that needs it."""
        done = {name for earlier in before for name in self._names(earlier)}
        needing = [
            (k, n)
            for k in block.kinds
            for n in block.layers
            if (name := self._name(k, n)) is not None and name in self.wanted and name not in done
        ]
        return _Block(frozenset(k for k, _ in needing), frozenset(n for _, n in needing), block.type)

    def _relaxed(self, narrow: _Block, block: _Block) -> _Block:
        """The narrow block with the layers of the wide one that shorten its pattern."""
        others = [self.layers[n] for n in range(len(self.layers)) if n not in block.layers and self._exists(narrow, n)]
        pattern = number_pattern(
            [self.layers[n] for n in narrow.layers], [self.layers[n] for n in block.layers], others
        )
        matcher = compile_pattern(f"^{pattern}$" if "|" not in pattern else f"^({pattern})$")
        reached = frozenset(n for n, layer in enumerate(self.layers) if matcher.search(str(layer)))
        return _Block(narrow.kinds, reached & block.layers | narrow.layers, block.type)

    def _exists(self, block: _Block, n: int) -> bool:
        return any(self._name(k, n) is not None for k in block.kinds)

    def _name(self, kind: int, n: int) -> str | None:
        return self.by_place.get((self.kinds[kind], self.layers[n]))

    def _names(self, block: _Block) -> list[str]:
        found = [self._name(k, n) for n in sorted(block.layers) for k in sorted(block.kinds)]
        return [name for name in found if name is not None]

    def _holds(self, blocks: Sequence[_Block]) -> bool:
        """Whether blocks in this order give every wanted tensor its type and no other a wrong one."""
        given: dict[str, QuantType] = {}
        for block in blocks:
            for name in self._names(block):
                given.setdefault(name, self.types[block.type])
        named = self.by_place.values()
        return all(
            given.get(n) == self.wanted[n] if n in self.wanted else given.get(n) in (None, self.others[n])
            for n in named
        )

    def _pattern(self, block: _Block) -> str:
        outside = [n for n in range(len(self.layers)) if n not in block.layers and self._exists(block, n)]
        numbers = number_pattern([self.layers[n] for n in block.layers], (), [self.layers[n] for n in outside])
        return rf"{literal(self.stack)}\.{numbers}\.{kinds_pattern([self.kinds[k] for k in block.kinds])}"


def _anchored(rule: Merged, names: Collection[str]) -> Merged:
    """The rule with ``^`` and ``$`` as far as other names need them to be kept out."""
    meant = compile_pattern(f"^({rule.pattern})$")
    for pattern in (rule.pattern, f"^{rule.pattern}", f"^{rule.pattern}$"):
        loose = compile_pattern(pattern)
        if all(meant.search(name) for name in names if loose.search(name)):
            return Merged(pattern, rule.type, rule.names, rule.also)
    raise AssertionError(f"{rule.pattern} cannot be kept from other names")


def kinds_pattern(kinds: Iterable[str]) -> str:
    """A pattern for any of the texts, what they begin and end with written once: ``ffn_(gate|up)_exps\\.weight``."""
    texts = sorted(set(kinds))
    if len(texts) == 1:
        return literal(texts[0])
    tail = _common([text[::-1] for text in texts], 0)[::-1]
    middles = [text[: len(text) - len(tail)] for text in texts]
    head = _common(middles, 0)
    families: dict[str, list[str]] = {}
    for middle in (middle[len(head) :] for middle in middles):
        front, bar, _ = middle.partition("_")
        families.setdefault(front + bar if bar and not head else middle, []).append(middle)
    parts = [kinds_pattern(members) if 1 < len(members) < len(texts) else "|".join(map(literal, members))
             for members in families.values()]  # fmt: skip
    return f"{literal(head)}({'|'.join(parts)}){literal(tail)}"


def _common(texts: Sequence[str], start: int) -> str:
    """What all texts begin with, up to and with a dot or an underscore, never all of one."""
    first, last = min(texts), max(texts)
    n = start
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    n = min(n, *(len(text) - 1 for text in texts))
    while n > start and first[n - 1] not in "._":
        n -= 1
    return first[:n]


def literal(text: str) -> str:
    """A pattern for exactly this text that survives lower-casing and every dialect's separators."""
    return "".join(_escaped(c) for c in text)


def _escaped(c: str) -> str:
    if c in _SPECIAL:
        return "\\" + c
    if (c.isupper() and c.isascii()) or c in ",=#\"'`!;" or (c.isascii() and (c.isspace() or not c.isprintable())):
        return f"\\x{ord(c):02x}"
    return c
