"""What stands in for importances that a calibration text did not give: of experts no token reached, of whole tensors.

A tensor that sees the same input (query, key and value; up and gate) is exact and always tried first; its tokens are
the hole's own. The policies, tried in the order given, for what is left:

* ``mean``: the mean over the tensor's matrices that were reached, each token alike; for a tensor without any, over the
  same tensor of all layers.
* ``neighbour``: the same mean of the same tensor in the nearest layer that has it, the earlier of two.
* ``ones``: 1 everywhere, no preference among channels: what llama-quantize does anyway.
* ``error``: no stand-in, the file is refused.

``mean`` and ``neighbour`` are for inputs that are the residual stream, whose channels keep their meaning. Behind
attention and within the feed-forward network they do not. With one entry of two small models left out at a time,
the share of importance that came to lie on wrong channels (total variation) was

    residual stream   mean 0.07 to 0.14   neighbour 0.08 to 0.14   ones 0.14 to 0.22
    attn_output       mean 0.18 to 0.19   neighbour 0.26 to 0.27   ones 0.18 to 0.19
    ffn_down          mean 0.36 to 0.37   neighbour 0.36 to 0.41   ones 0.28 to 0.31

so the latter two take the next policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from gguftool.errors import ImatrixError, UsageError
from gguftool.format.names import layer_of, place_of
from gguftool.imatrix.aliases import has_own_channels, same_input
from gguftool.imatrix.file import ImatrixEntry
from gguftool.imatrix.matrices import Matrices, Outline, in_order

POLICIES = ("ones", "mean", "neighbour", "error")
SAME_INPUT = "same input"
LEFT = "left"
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Repair:
    """Holes of one entry that were filled alike: ``matrices`` of its ``n_mat``, in which ``way``, from what.

    ``way`` is "same input", a policy, or "left" where nothing fits and the hole stays; ``source`` says what was taken.
    """

    name: str
    n_mat: int
    matrices: tuple[int, ...]
    way: str
    source: str


@dataclass(frozen=True, slots=True)
class _Source:
    """What fills a hole: (means, signed means or None) for one matrix, the tokens it counts, and words for it."""

    way: str
    words: str
    read: Callable[[int], tuple[_Floats, _Floats | None]]
    counts: npt.NDArray[np.int64]
    signed: bool = False


def parse_policies(text: str | Sequence[str]) -> tuple[str, ...]:
    """The policies of "mean,ones" in order; UsageError for a word that is none."""
    words = tuple(word.strip() for word in text.split(",")) if isinstance(text, str) else tuple(text)
    for word in words:
        if word not in POLICIES:
            raise UsageError(f"'{word}' is no policy for what is missing: {', '.join(POLICIES)}, or several in order")
    if not words:
        raise UsageError(f"give a policy for what is missing: {', '.join(POLICIES)}")
    return words


def repaired(
    matrices: Matrices,
    wanted: Mapping[str, tuple[int, int]],
    policies: Sequence[str],
    path: object,
    *,
    use_same_input: bool = True,
) -> tuple[Matrices, list[Repair]]:
    """The matrices without holes, and every repair. Values are read when the result is.

    ``wanted``: (n_mat, n_cols) of entries that ought to exist. ImatrixError where a policy is "error", naming the hole.
    """
    held = {outline.name: outline for outline in matrices.outlines}
    empty = [Outline(n, m, c, np.zeros(m, np.int64)) for n, (m, c) in wanted.items() if n not in held]
    shop = _Shop(matrices, held, use_same_input)
    outlines, fills, repairs = dict(held), dict[str, list[tuple[int, _Source]]](), list[Repair]()
    for outline in in_order([*matrices.outlines, *empty]):
        holes = np.flatnonzero(outline.counts == 0).tolist()
        found = [(hole, shop.source(outline, hole, policies, path)) for hole in holes]
        repairs += _rows(outline, found)
        fills[outline.name] = [(hole, source) for hole, source in found if source is not None]
        if fills[outline.name]:
            outlines[outline.name] = _filled(outline, fills[outline.name])

    def read(name: str) -> ImatrixEntry:
        return _mended(outlines[name], matrices.read(name) if name in held else None, fills[name])

    return replace(matrices, outlines=in_order(outlines.values()), read=read), repairs


class _Shop:
    """Where stand-ins come from. Means over matrices are kept, for they are short and asked for again."""

    def __init__(self, matrices: Matrices, held: Mapping[str, Outline], use_same_input: bool) -> None:
        self._matrices = matrices
        self._held = held
        self._use_same_input = use_same_input
        self._last: ImatrixEntry | None = None
        self._pools: dict[str, tuple[_Floats, _Floats | None, int]] = {}
        self._kinds: dict[tuple[str, str, int, int], list[str]] = {}
        for outline in held.values():
            if outline.counts.any():
                self._kinds.setdefault(_kind_of(outline), []).append(outline.name)

    def source(self, outline: Outline, hole: int, policies: Sequence[str], path: object) -> _Source | None:
        if self._use_same_input and (alias := self._alias(outline, hole)) is not None:
            return alias
        for policy in policies:
            if policy == "error":
                which = f", matrix {hole}," if outline.n_mat > 1 else ""
                raise ImatrixError(
                    path,
                    f"'{outline.name}'{which} has no importances, and --missing error allows no stand-in: collect with "
                    "more text, or choose --missing mean",
                )
            found = self._by_policy(outline, policy)
            if found is not None:
                return found
        return None

    def _alias(self, outline: Outline, hole: int) -> _Source | None:
        for name in same_input(outline.name)[1:]:
            other = self._held.get(name)
            if other is None or (other.n_mat, other.n_cols) != (outline.n_mat, outline.n_cols):
                continue
            if other.counts[hole]:
                return _Source(SAME_INPUT, name, partial(self._means, name), other.counts, other.signed)
        return None

    def _by_policy(self, outline: Outline, policy: str) -> _Source | None:
        one = np.ones(outline.n_mat, np.int64)
        if policy == "ones":
            return _Source("ones", "1 everywhere", lambda _: (np.ones(outline.n_cols), None), one)
        if has_own_channels(outline.name):
            return None
        peers = self._peers(outline)
        if policy == "neighbour":
            names, words = peers[:1], f"the mean of {peers[0]}" if peers else ""
        elif outline.counts.any():
            reached = int((outline.counts > 0).sum())
            names, words = [outline.name], f"the mean of its {reached} reached"
        else:
            names, words = peers, f"the mean of {len(peers)} layers"
        return _Source(policy, words, lambda _: self._pooled(names), one) if names else None

    def _peers(self, outline: Outline) -> list[str]:
        """The same tensor in other layers, the nearest first, the earlier of two."""
        at = layer_of(outline.name)
        if at is None:
            return []
        names = (name for name in self._kinds.get(_kind_of(outline), ()) if name != outline.name)
        layers = ((place_of(name)[1] or 0, name) for name in names)
        return [name for _, name in sorted(layers, key=lambda peer: (abs(peer[0] - at[1]), peer[0]))]

    def _means(self, name: str, matrix: int) -> tuple[_Floats, _Floats | None]:
        if self._last is None or self._last.name != name:
            self._last = self._matrices.read(name)
        entry, count = self._last, self._last.counts[matrix]
        return entry.sums[matrix] / count, None if entry.signed is None else entry.signed[matrix] / count

    def _pooled(self, names: Sequence[str]) -> tuple[_Floats, _Floats | None]:
        pools = [self._pool(name) for name in names]
        tokens = sum(count for _, _, count in pools)
        sums = np.sum([sums for sums, _, _ in pools], axis=0)
        signs = [signed for _, signed, _ in pools if signed is not None]
        return sums / tokens, np.sum(signs, axis=0) / tokens if len(signs) == len(pools) else None

    def _pool(self, name: str) -> tuple[_Floats, _Floats | None, int]:
        """Sums over the reached matrices of an entry: of squares, signed, and of tokens."""
        if name not in self._pools:
            entry = self._matrices.read(name)
            reached = entry.counts > 0
            signed = None if entry.signed is None else entry.signed[reached].sum(axis=0)
            self._pools[name] = entry.sums[reached].sum(axis=0), signed, int(entry.counts.sum())
        return self._pools[name]


def _kind_of(outline: Outline) -> tuple[str, str, int, int]:
    stack, _, kind = place_of(outline.name)
    return stack, kind, outline.n_mat, outline.n_cols


def _rows(outline: Outline, found: Sequence[tuple[int, _Source | None]]) -> list[Repair]:
    groups: dict[tuple[str, str], list[int]] = {}
    own = has_own_channels(outline.name)
    why = "its channels mean nothing elsewhere" if own else "nothing of its kind has importances"
    for hole, source in found:
        key = (source.way, source.words) if source is not None else (LEFT, why)
        groups.setdefault(key, []).append(hole)
    return [Repair(outline.name, outline.n_mat, tuple(held), way, words) for (way, words), held in groups.items()]


def _filled(outline: Outline, fills: Sequence[tuple[int, _Source]]) -> Outline:
    counts = outline.counts.copy()
    for hole, source in fills:
        counts[hole] = source.counts[hole]
    anew = not outline.counts.any() and all(source.signed for _, source in fills)
    return replace(outline, counts=counts, signed=outline.signed or anew)


def _mended(outline: Outline, entry: ImatrixEntry | None, fills: Sequence[tuple[int, _Source]]) -> ImatrixEntry:
    if not fills:
        assert entry is not None
        return entry
    shape = outline.n_mat, outline.n_cols
    sums = np.zeros(shape) if entry is None else entry.sums.copy()
    signed = np.zeros(shape) if outline.signed else None
    if signed is not None and entry is not None and entry.signed is not None:
        signed += entry.signed
    for hole, source in fills:
        means, signs = source.read(hole)
        sums[hole] = means * outline.counts[hole]
        if signed is not None:
            signed[hole] = 0 if signs is None else signs * outline.counts[hole]
    return ImatrixEntry(outline.name, *shape, sums, outline.counts, signed)
