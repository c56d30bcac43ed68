"""Which documents come into the corpus, which are kept apart, in which order: decided from lengths and hashes alone.

The texts themselves are not held. A document is dropped if its words, or most of its sequences of eight words, were in
an earlier one. Neighbours are joined, then units are taken in an order that only seed and content decide, as many bytes
of each source as its share is. The sources are woven into each other, so that any beginning of the corpus holds the
mix, for tools that read only the first chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gguftool.corpus.mix import Mix, Source
from gguftool.corpus.words import fingerprint, shingles, words

_WIDTH = 8
_SAMPLE = 4
#: Words that a text and the corpus must have in a row to overlap; shorter units are never kept apart.
OVERLAP = 13


@dataclass(frozen=True, slots=True)
class Unit:
    """One document or several joined ones: their numbers within the source, bytes, and a hash of the words."""

    source: int
    members: tuple[int, ...]
    nbytes: int
    n_words: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a source's documents."""

    read: int = 0
    short: int = 0
    duplicate: int = 0


class Sieve:
    """Tells documents that were there before, over all sources: the first of equals stays."""

    def __init__(self) -> None:
        self._whole: set[bytes] = set()
        self._parts: set[int] = set()

    def admits(self, found: list[str], key: bytes) -> bool:
        """Whether a text with these words is new; it counts as seen from now on."""
        if key in self._whole:
            return False
        self._whole.add(key)
        hashes = shingles(found, _WIDTH)
        sample = hashes[hashes % _SAMPLE == 0].tolist()
        again = sum(part in self._parts for part in sample)
        if sample and 2 * again > len(sample):
            return False
        self._parts.update(sample)
        return True


def units_of(number: int, source: Source, texts: Iterable[str], sieve: Sieve, joint: int) -> tuple[list[Unit], Tally]:
    """The units of one source, from its documents in order, and what was dropped. ``joint``: bytes between members."""
    tally, units, held = Tally(), [], _Joining(number, joint)
    for index, text in enumerate(texts):
        tally = replace(tally, read=tally.read + 1)
        if len(text) < source.min_chars:
            tally = replace(tally, short=tally.short + 1)
            continue
        found = words(text)
        key = fingerprint(found)
        if not sieve.admits(found, key):
            tally = replace(tally, duplicate=tally.duplicate + 1)
            continue
        held.add(index, text, len(found), key)
        if held.chars >= source.join_chars:
            units.append(held.unit())
    if held.members:
        units.append(held.unit())
    return units, tally


class _Joining:
    """A unit that grows."""

    def __init__(self, number: int, joint: int) -> None:
        self.number, self.joint = number, joint
        self._empty()

    def _empty(self) -> None:
        self.members: list[int] = []
        self.chars = self.nbytes = self.n_words = 0
        self.state = hashlib.blake2b(digest_size=16)

    def add(self, index: int, text: str, n_words: int, key: bytes) -> None:
        self.nbytes += len(text.encode("utf-8", "surrogatepass")) + (self.joint if self.members else 0)
        self.members.append(index)
        self.chars += len(text)
        self.n_words += n_words
        self.state.update(key)

    def unit(self) -> Unit:
        made = Unit(self.number, tuple(self.members), self.nbytes, self.n_words, self.state.digest())
        self._empty()
        return made


def quotas(mix: Mix, have: Sequence[float]) -> list[float]:
    """Bytes that each source is to give, of ``have`` bytes that it holds with its repeats; 0 for one that is empty.

    Without weights a source counts by its size. Without a size the corpus is as large as the shares allow.
    """
    weighted = any(source.weight is not None for source in mix.sources)
    weights = [(s.weight or 1.0) if weighted else h for s, h in zip(mix.sources, have, strict=True)]
    weights = [weight if held else 0.0 for weight, held in zip(weights, have, strict=True)]
    whole = sum(weights)
    if not whole:
        return [0.0] * len(weights)
    size = mix.size or min(h * whole / w for h, w in zip(have, weights, strict=True) if w)
    return [size * weight / whole for weight in weights]


def kept_apart(mix: Mix, by_source: Sequence[Sequence[Unit]], joint: int) -> list[list[Unit]]:
    """The hold-out of every source: at most ``mix.holdout`` of its bytes, and of the corpus that is asked for."""
    sizes = [sum(unit.nbytes for unit in units) for units in by_source]
    wanted = quotas(mix, _have(mix, by_source, joint)) if mix.size else sizes
    return [
        _apart(units, mix.holdout * min(size, quota), mix.seed)
        for units, size, quota in zip(by_source, sizes, wanted, strict=True)
    ]


def taken(mix: Mix, by_source: Sequence[Sequence[Unit]], joint: int) -> list[list[Unit]]:
    """The units of every source that make the corpus, repeats included. Sources that run short give all they have."""
    wanted = quotas(mix, _have(mix, by_source, joint))
    return [
        _filled(units, quota, source.repeats, mix.seed, joint)
        for units, quota, source in zip(by_source, wanted, mix.sources, strict=True)
    ]


def _have(mix: Mix, by_source: Sequence[Sequence[Unit]], joint: int) -> list[float]:
    return [
        float(source.repeats * sum(unit.nbytes + joint for unit in units))
        for source, units in zip(mix.sources, by_source, strict=True)
    ]


def _apart(units: Sequence[Unit], budget: float, seed: int) -> list[Unit]:
    chosen = []
    for unit in _shuffled(units, seed, b"apart"):
        if unit.n_words >= OVERLAP and unit.nbytes <= budget:
            chosen.append(unit)
            budget -= unit.nbytes
    return chosen


def woven(chosen: Sequence[Sequence[Unit]]) -> list[Unit]:
    """All units in the order of the corpus: each source is spread evenly over the whole of it."""
    placed = []
    for i, units in enumerate(chosen):
        total, before = sum(unit.nbytes for unit in units), 0
        for unit in units:
            placed.append(((before + unit.nbytes / 2) / total, i, unit))
            before += unit.nbytes
    return [unit for _, _, unit in sorted(placed, key=lambda item: item[:2])]


def _filled(units: Sequence[Unit], quota: float, repeats: int, seed: int, joint: int) -> list[Unit]:
    """Units until the quota is met as nearly as whole units can; each pass over them in another order."""
    found: list[Unit] = []
    left = quota + 0.5  # a quota that is all there is takes all there is
    for turn in range(repeats):
        for unit in _shuffled(units, seed, b"turn %d" % turn):
            need = unit.nbytes + joint
            if need <= left or (not found and need <= 2 * left):
                found.append(unit)
                left -= need
    return found


def _shuffled(units: Sequence[Unit], seed: int, purpose: bytes) -> list[Unit]:
    def rank(unit: Unit) -> bytes:
        return hashlib.blake2b(unit.key, digest_size=16, key=b"%d %s" % (seed, purpose)).digest()

    return sorted(units, key=rank)
