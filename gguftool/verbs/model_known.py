"""What a plan knows of a model: its header once layers are gone, or no more than an importance matrix's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguftool.errors import PlanError, RecipeError
from gguftool.format.metadata import Metadata
from gguftool.format.names import layer_of, ranges, tensor_kind
from gguftool.format.reader import open_model
from gguftool.imatrix.file import Imatrix
from gguftool.plan.importances import Importances
from gguftool.plan.layers import new_names, prune_layers
from gguftool.plan.quantmap import Known
from gguftool.recipe.decide import Decision, Recipe, decide
from gguftool.recipe.facts import TensorFacts, facts_of
from gguftool.recipe.filetypes import FileType
from gguftool.recipe.grammar import compile_pattern
from gguftool.recipe.rules import Rule

#: Kinds that ik_llama.cpp records under the name of another of the same input.
_UNRECORDED = ("ffn_gate", "ffn_gate_exps")


@dataclass(frozen=True)
class Header:
    """What a model's header says once layers are gone; without a model only the names are new. Notes on the rest."""

    new_name: Callable[[str], str | None]
    metadata: Metadata | None = None
    tensors: tuple[TensorFacts, ...] = ()
    notes: tuple[str, ...] = ()


def header_without(model: Path | None, imatrix: Imatrix, gone: tuple[int, ...]) -> Header:
    """The header of the model without the layers ``gone``; without a model only what becomes of names."""
    if model is None:
        return Header(new_names(imatrix.names, gone))
    with open_model(model) as opened:
        notes = tuple(_beyond(imatrix, [t.name for t in opened.tensors]))
        if not gone:
            facts = tuple(TensorFacts(t.name, t.shape, t.type) for t in opened.tensors)
            return Header(lambda name: name, opened.metadata, facts, notes)
        pruning = prune_layers(opened.metadata, opened.tensors, gone)
        tensors = []
        for t in opened.tensors:
            name = pruning.new_name(t.name)
            if name is not None:
                tensors.append(TensorFacts(name, pruning.shape(t.name, t.shape), t.type))
        return Header(pruning.new_name, opened.metadata.replaced(pruning.edits), tuple(tensors), notes)


def known_of(
    header: Header, imatrix: Imatrix, file_type: FileType, pins: Sequence[Rule]
) -> tuple[Known, tuple[str, ...]]:
    """What a model's header tells, or what an importance matrix alone does, and warnings."""
    if header.metadata is None:
        return _without_model(imatrix, pins)
    tensors = header.tensors
    facts = facts_of(header.metadata, tensors)
    found = decide(Recipe(file_type, tuple(pins)), facts, tensors, has_imatrix=True)
    if found.problems:
        raise PlanError(found.problems)
    base = {t.name: decision for t, decision in zip(tensors, found.each, strict=True)}
    pinned = {name: decision.rule for name, decision in base.items() if decision.rule is not None}
    names = tuple(base)
    notes = [*_strangers(tensors, imatrix), *_unseen(base, imatrix)]
    return Known(names, {t.name: t for t in tensors}, base, facts, pinned), (*found.warnings, *notes)


def _unseen(base: Mapping[str, Decision], imatrix: Imatrix) -> list[str]:
    """A line where tensors of the blocks have no entry."""
    bare = [n for n, d in base.items() if not d.kept and layer_of(n) is not None and imatrix.lookup(n) is None]
    if not bare:
        return []
    return [f"the imatrix has no entry for {len(bare)} tensors, such as {bare[0]}: no step takes them"]


def _strangers(tensors: Sequence[TensorFacts], imatrix: Imatrix) -> list[str]:
    """A line where the importance matrix is of a model with other shapes."""
    importances = Importances(imatrix)
    odd = []
    for t in tensors:
        found = importances.find(t.name)
        if found and len(t.shape) > 1 and not importances.fits(found[0], math.prod(t.shape[:-2]), t.n_cols):
            odd.append(t.name)
    return [f"{len(odd)} entries of the imatrix are of other sizes than the model's, such as {odd[0]}"] if odd else []


def _beyond(imatrix: Imatrix, model: Iterable[str]) -> list[str]:
    """A line where the importance matrix, before pruning, has layers that the model has not."""
    beyond = sorted(_blocks(imatrix.names) - _blocks(model))
    return (
        [f"the imatrix has layers {ranges(beyond)}, which the model has not: is it another model's?"] if beyond else []
    )


def _blocks(names: Iterable[str]) -> set[int]:
    return {found[1] for name in names if (found := layer_of(name)) is not None and found[0] == "blk"}


def _without_model(imatrix: Imatrix, pins: Sequence[Rule]) -> tuple[Known, tuple[str, ...]]:
    names = list(imatrix.names)
    kinds = {tensor_kind(name) for name in names}
    added = []
    for kind in _UNRECORDED:
        up = kind.replace("gate", "up")
        if kind not in kinds and up in kinds and f"{kind}_up{kind.removeprefix('ffn_gate')}" not in kinds:
            names += [n.removesuffix(f"{up}.weight") + f"{kind}.weight" for n in names if tensor_kind(n) == up]
            added.append(f"{kind} has no entries of its own and goes with {up}, which sees the same input")
    pinned: dict[str, Rule] = {}
    for rule in pins:
        pattern = compile_pattern(rule.pattern)
        hit = {name: rule for name in names if pattern.search(name) and name not in pinned}
        if not hit:
            raise RecipeError(f"{rule} matches no entry of the imatrix: give the model with --model")
        pinned |= hit
    note = "without --model what TYPE gives to each tensor is not known: every step is written out"
    return Known((*names, *_gaps(names)), pinned=pinned), (note, *added)


def _gaps(names: Sequence[str]) -> list[str]:
    """Tensors that the model may have and the matrix does not: kinds that are there, in layers where they are not."""
    layers: dict[str, set[int]] = {}
    kinds: dict[str, set[str]] = {}
    for name in names:
        found = layer_of(name)
        if found is not None:
            stack, layer = found
            layers.setdefault(stack, set()).add(layer)
            kinds.setdefault(stack, set()).add(name[len(f"{stack}.{layer}.") :])
    every = (f"{stack}.{n}.{kind}" for stack in layers for n in sorted(layers[stack]) for kind in sorted(kinds[stack]))
    present = set(names)
    return [name for name in every if name not in present]
