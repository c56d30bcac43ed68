"""Pruning of layers: which tensors go, which numbers the rest get, and what follows in the metadata.

The rule is one: every survivor stays what it was. A layer's kind (full or sliding attention, dense or experts, rope or
none, owner or borrower of keys and values) is mostly a function of its number, so after renumbering the keys must say
the same of the new number. Where no value of the keys can, the pruning is refused, with the nearest list that works.
That a file loads and every layer is run as before says nothing about how good the smaller model is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gguftool.errors import PlanError, UsageError
from gguftool.format.metadata import Metadata, MetaValue
from gguftool.format.names import layer_of, ranges, rename_layer
from gguftool.format.reader import TensorInfo
from gguftool.plan.archfacts import aspects_of, known, kv_owner
from gguftool.plan.layermeta import cut_array, layers_by_number, per_layer_arrays, stack_of, written
from gguftool.plan.nearest import nearest_allowed
from gguftool.plan.periods import Stack
from gguftool.plan.shrink import OLDER_MISREAD, shrink

_ITEM = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
#: Above this a count is damage, not a model (libllama stops at 512).
MAX_LAYERS = 4096
#: Global tensors with one slab of columns or rows per layer: the axis of the slabs, in numpy order.
_SLABS = {"per_layer_token_embd.weight": -1, "per_layer_model_proj.weight": 0}


@dataclass(frozen=True)
class TensorSlice:
    """What stays of a tensor that holds something of every layer: element ranges (start, stop) along ``axis``."""

    name: str
    axis: int
    kept: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LayerPruning:
    """What pruning does to a model.

    ``stack`` is the prefix of the names concerned ("blk"); tensors of other stacks and outside of any keep their
    names. ``renumber`` leads from old to new numbers of the survivors. ``edits`` are for ``Metadata.replaced``:
    None removes a key. ``slices`` belong to tensors that stay. ``notes`` are for people.
    """

    dropped: tuple[int, ...]
    kept: tuple[int, ...]
    renumber: Mapping[int, int]
    edits: Mapping[str, MetaValue | None]
    slices: tuple[TensorSlice, ...]
    notes: tuple[str, ...]
    stack: str = "blk"

    def new_name(self, name: str) -> str | None:
        """The name a tensor has afterwards; None if it goes."""
        place = layer_of(name)
        if place is None or place[0] != self.stack or not self.dropped:
            return name
        return rename_layer(name, self.renumber[place[1]]) if place[1] in self.renumber else None

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a tensor of this old name has afterwards."""
        for cut in self.slices:
            if cut.name == name:
                axis = cut.axis % len(shape)
                return (*shape[:axis], sum(stop - start for start, stop in cut.kept), *shape[axis + 1 :])
        return shape


def new_names(names: Iterable[str], layers: Collection[int]) -> Callable[[str], str | None]:
    """Old name -> new name without these layers of the main stack, for names alone: no model says what is allowed.

    UsageError for a layer that no name has.
    """
    there = {place[1] for name in names if (place := layer_of(name)) is not None and place[0] == "blk"}
    absent = sorted(set(layers) - there)
    if absent:
        raise UsageError(f"layers to prune: there is no layer {absent[0]}; there are {ranges(sorted(there))}")
    kept = [n for n in range(max(there, default=-1) + 1) if n not in layers]
    renumber = {old: new for new, old in enumerate(kept)}
    return LayerPruning(tuple(sorted(layers)), tuple(kept), renumber, {}, (), ()).new_name


def parse_layers(text: str, what_for: str = "layers to prune") -> tuple[int, ...]:
    """The layer numbers of a list like "3,7,10-14", ascending, each once; UsageError for anything else."""
    layers: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if not match:
            what = f"{item.strip()!r} is no layer number" if item.strip() else "an item is empty"
            raise UsageError(f"{what_for} {text!r}: {what}; write numbers and ranges like 3,7,10-14")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{what_for} {text!r}: the range {item.strip()} runs backwards; write {last}-{first}")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def prune_layers(
    metadata: Metadata,
    tensors: Sequence[TensorInfo],
    layers: Collection[int],
    *,
    allow_layer_arrays: bool = False,
    allow_unknown_arrays: bool = False,
    prune_nextn: bool = False,
) -> LayerPruning:
    """What it takes to leave ``layers`` out of a model so that every other layer stays what it is.

    ``allow_layer_arrays``: where no period describes the survivors, write an array that programs before autumn 2026
    misread. ``allow_unknown_arrays``: cut arrays of one entry per layer that nobody has described as well.
    ``prune_nextn``: next-token layers may go. PlanError lists every reason against it and the nearest allowed list.
    """
    arch, stack_prefix, n = _find_stack(metadata, tensors, layers)
    dropped = tuple(sorted(set(layers)))
    everything = tuple(range(n))
    if not dropped:
        return LayerPruning((), everything, {i: i for i in everything}, {}, (), (), stack_prefix)
    x = metadata.get(f"{arch}.nextn_predict_layers", 0) if stack_prefix == "blk" else 0
    if not isinstance(x, int) or not 0 <= x <= n:
        raise PlanError([f"{arch}.nextn_predict_layers = {x!r}, but there are {n} layers: the file contradicts itself"])
    _check_numbers(dropped, n, arch, stack_prefix)
    job = _Job(metadata, tensors, arch, stack_prefix, stack_of(metadata, arch, n, x), allow_layer_arrays, prune_nextn)
    problems = job.troubles(frozenset(dropped))
    if problems:
        problems[-1] += job.way_out(frozenset(dropped))
    problems += job.array_troubles(allow_unknown_arrays)
    if problems:
        which = ",".join(map(str, dropped))
        raise PlanError([f"cannot prune layers {which}: {problem}" for problem in problems])
    return job.pruning(dropped)


@dataclass(frozen=True)
class _Job:
    """One model to prune, with what is allowed."""

    metadata: Metadata
    tensors: Sequence[TensorInfo]
    arch: str
    prefix: str
    stack: Stack
    allow_layer_arrays: bool
    prune_nextn: bool

    def troubles(self, dropped: frozenset[int], with_arrays: bool = False) -> list[str]:
        """All that speaks against dropping these layers, unknown arrays left aside."""
        main = self.stack.n - self.stack.x
        next_token = [i for i in sorted(dropped) if i >= main]
        troubles = []
        if next_token and not self.prune_nextn:
            troubles.append(
                f"layer {next_token[0]} is a next-token layer ({self.arch}.nextn_predict_layers = {self.stack.x}); "
                "such layers go only when asked for (--prune-nextn)"
            )
        if self.prefix != "blk" and 0 in dropped:
            troubles.append(f"{self.prefix}.0 holds the relative positions of its whole stack and cannot go")
        shrunk = shrink(self.stack, dropped, allow_layer_arrays=self.allow_layer_arrays or with_arrays)
        return troubles + list(shrunk.troubles)

    def way_out(self, dropped: frozenset[int]) -> str:
        """What else could be done, in words: the nearest list that is allowed, or an array."""
        found = nearest_allowed(self.stack.n, dropped, lambda candidate: not self.troubles(candidate))
        words = f"; nearest allowed: {ranges(found)}" if found else "; no allowed list was found near it"
        if not self.troubles(dropped, with_arrays=True):
            words += f"; --allow-layer-arrays writes one entry per layer instead of a period, but {OLDER_MISREAD}"
        return words

    def array_troubles(self, allow_unknown: bool) -> list[str]:
        """Metadata that name layers in a way that nothing here can follow."""
        troubles = []
        for name, value, what in per_layer_arrays(self.metadata, self.stack):
            if what == "wrong length":
                troubles.append(
                    f"{name} has {value.count} entries for {self.stack.n} layers: the file contradicts itself"
                )
            elif what == "unknown" and not allow_unknown:
                troubles.append(
                    f"{name} has {value.count} entries, as many as layers, and nothing is known of it; if they belong "
                    "to the layers allow it to be cut like the others (--allow-unknown-arrays)"
                )
            elif self.prefix != "blk":
                troubles.append(f"{name} has one entry per layer, and it is not clear for which stack")
        for name in layers_by_number(self.metadata, self.arch):
            troubles.append(f"{name} refers to layers by number, and how it should follow is not known")
        return troubles

    def pruning(self, dropped: tuple[int, ...]) -> LayerPruning:
        """The finished result, known to be allowed."""
        shrunk = shrink(self.stack, dropped, allow_layer_arrays=self.allow_layer_arrays)
        kept = tuple(i for i in range(self.stack.n) if i not in set(dropped))
        edits, edit_notes = self._edits(shrunk.stack, frozenset(dropped))
        slices = self._slices(kept)
        notes = [*shrunk.notes, *edit_notes]
        if not known(self.arch):
            notes.append(
                f"nothing is known of the architecture {self.arch}: only counts and arrays were adjusted, check that "
                "no layer's kind hangs on its number"
            )
        notes += _order_notes(self.stack, shrunk.stack, kept)
        notes += self._borrowers(shrunk.stack, kept)
        notes += [f"{s.name} loses the slabs of the pruned layers" for s in slices]
        renumber = {old: new for new, old in enumerate(kept)}
        return LayerPruning(dropped, kept, renumber, edits, slices, tuple(notes), self.prefix)

    def _edits(self, new: Stack, dropped: frozenset[int]) -> tuple[dict[str, MetaValue | None], list[str]]:
        count = "decoder_block_count" if self.prefix == "dec.blk" else "block_count"
        wanted = {**new.keys, count: new.n}
        edits: dict[str, MetaValue | None] = {}
        notes = []
        for key in {**self.stack.keys, **wanted}:
            name = f"{self.arch}.{key}"
            before, after = self.stack.keys.get(key), wanted.get(key)
            if before == after or (isinstance(before, tuple) and isinstance(after, tuple)):
                continue
            edits[name] = None if after is None else written(after, _entry(self.metadata, name))
            notes.append(f"{name}: {_said(before)} -> {_said(after)}")
        for name, value, _ in per_layer_arrays(self.metadata, self.stack):
            if name in edits:
                continue
            edits[name] = cut = cut_array(name, value, self.stack, dropped)
            notes.append(f"{name}: {value.count} -> {cut.count} entries")
        return edits, sorted(notes)

    def _slices(self, kept: tuple[int, ...]) -> tuple[TensorSlice, ...]:
        slices = []
        for tensor in self.tensors:
            if tensor.name not in _SLABS or self.prefix != "blk":
                continue
            axis = _SLABS[tensor.name] % len(tensor.shape)
            slab, rest = divmod(tensor.shape[axis], self.stack.n)
            declared = self.stack.number("embedding_length_per_layer_input", slab)
            if rest or declared != slab:
                raise PlanError(
                    [
                        f"{tensor.name} has {tensor.shape[axis]} entries along its layers, which is not "
                        f"{declared} for each of {self.stack.n}: it cannot be cut"
                    ]
                )
            slices.append(TensorSlice(tensor.name, axis, _slab_ranges(kept, slab)))
        return tuple(slices)

    def _borrowers(self, new: Stack, kept: tuple[int, ...]) -> list[str]:
        if self.arch != "gemma4" or "attention.shared_kv_layers" not in self.stack.keys:
            return []
        for j, i in enumerate(kept):
            old, now = kv_owner(self.stack, i), kv_owner(new, j)
            if now is not None and kept[now] != old:
                return [f"layer {i} and maybe others now borrow keys and values of layer {kept[now]} instead of {old}"]
        return []


def _find_stack(metadata: Metadata, tensors: Sequence[TensorInfo], layers: Collection[int]) -> tuple[str, str, int]:
    """Architecture, name prefix and number of layers of the stack that the numbers mean."""
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise PlanError(["cannot prune layers: the file does not name its architecture (general.architecture)"])
    kind = metadata.get("general.type")
    if arch == "clip" or kind in ("mmproj", "adapter", "imatrix"):
        raise PlanError([f"cannot prune layers: this is not a language model ({kind or arch})"])
    places: dict[str, set[int]] = {}
    for tensor in tensors:
        place = layer_of(tensor.name)
        if place:
            places.setdefault(place[0], set()).add(place[1])
    counts = {"blk": "block_count", "enc.blk": "block_count", "dec.blk": "decoder_block_count"}
    stacks = [prefix for prefix in counts if prefix in places]
    if not stacks:
        raise PlanError([f"cannot prune layers: no tensor of this {arch} model belongs to a layer (blk.N)"])
    sizes = {}
    for prefix in stacks:
        key = counts[prefix] if f"{arch}.{counts[prefix]}" in metadata else "block_count"
        size = metadata.get(f"{arch}.{key}")
        if not isinstance(size, int) or isinstance(size, bool):
            raise PlanError([f"cannot prune layers: {arch}.block_count is missing, so the layers are not countable"])
        if size > MAX_LAYERS:
            raise PlanError([f"cannot prune layers: {key} is {size}, and no model has more than {MAX_LAYERS} layers"])
        if max(places[prefix]) >= size:
            raise PlanError(
                [f"cannot prune layers: there is a tensor of {prefix}.{max(places[prefix])}, but {key} is {size}"]
            )
        sizes[prefix] = size
    return arch, *_meant(stacks, sizes, layers)


def _meant(stacks: Sequence[str], sizes: Mapping[str, int], layers: Collection[int]) -> tuple[str, int]:
    if len(stacks) == 1:
        return stacks[0], sizes[stacks[0]]
    if "blk" in stacks:
        raise PlanError([f"cannot prune layers: the file has several stacks ({', '.join(stacks)})"])
    shorter = min(sizes.values())
    longest = max(stacks, key=lambda prefix: sizes[prefix])
    shared = [i for i in sorted(layers) if i < shorter]
    if shared:
        raise PlanError(
            [
                f"cannot prune layers: layer {shared[0]} exists in {' and in '.join(stacks)}, each with its own "
                f"numbers, and which is meant is not clear; only {longest}.{shorter} and later can be named"
                if sizes[longest] > shorter
                else f"cannot prune layers: layer {shared[0]} exists in {' and in '.join(stacks)}, each with its own "
                "numbers, and which is meant is not clear"
            ]
        )
    return longest, sizes[longest]


def _check_numbers(dropped: Sequence[int], n: int, arch: str, prefix: str) -> None:
    absent = [i for i in dropped if not 0 <= i < n]
    if absent:
        raise PlanError([f"cannot prune layers {ranges(absent)}: this {arch} model has {prefix}.0 to {prefix}.{n - 1}"])
    if len(dropped) == n:
        raise PlanError([f"cannot prune all {n} layers: at least one must be left"])


def _order_notes(stack: Stack, new: Stack, kept: Sequence[int]) -> list[str]:
    """One note for each aspect whose order of kinds is not simply cut short at the end."""
    notes = []
    for (name, _, before), (_, _, after) in zip(aspects_of(stack), aspects_of(new), strict=False):
        shifting = name in ("layer", "residual", "vision features", "place in the period", "sparse attention")
        if not shifting and len(set(before)) > 1 and after != before[: len(after)]:
            notes.append(f"order of {name}: {_runs(before)} becomes {_runs(after)}")
    return notes


def _runs(kinds: Sequence[str]) -> str:
    runs: list[list[object]] = []
    for kind in kinds:
        if runs and runs[-1][0] == kind:
            runs[-1][1] = int(str(runs[-1][1])) + 1
        else:
            runs.append([kind, 1])
    words = [f"{count} {kind}" for kind, count in runs]
    return ", ".join(words if len(words) <= 8 else [*words[:8], "..."])


def _slab_ranges(kept: Sequence[int], slab: int) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for i in kept:
        start, stop = i * slab, (i + 1) * slab
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return tuple(joined)


def _entry(metadata: Metadata, name: str) -> MetaValue | None:
    return metadata.entry(name) if name in metadata else None


def _said(value: object) -> str:
    if value is None:
        return "absent"
    return f"{len(value)} entries" if isinstance(value, tuple) else str(value)
