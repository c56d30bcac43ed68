"""The edit that gives every tensor its type, and every quantized one the importance vectors that belong to it.

Importances follow the *source* names: what a layer is called in the output does not change what it saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from gguftool.format.names import sort_key
from gguftool.plan.moves import Move, Piece, Plan
from gguftool.recipe.decide import Decision, Recipe, decide
from gguftool.recipe.facts import TensorFacts, facts_of

#: Where an importance vector of the wrong size is left aside instead of refused.
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


class ImatrixNames(Protocol):
    """What a plan asks of an importance matrix: names and shapes, no values."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def lookup(self, name: str) -> tuple[str, str | None] | None: ...


@dataclass(frozen=True)
class Importances:
    """The entries of an importance matrix that may be used: ``include`` and ``exclude`` are plain substrings."""

    source: ImatrixNames
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def allows(self, name: str) -> bool:
        """Whether an entry of that name survives the filters."""
        if self.include and not any(part in name for part in self.include):
            return False
        return not any(part in name for part in self.exclude)

    @property
    def names(self) -> tuple[str, ...]:
        """The entries that are left."""
        return tuple(name for name in self.source.names if self.allows(name))

    def find(self, tensor: str) -> tuple[str, str] | None:
        """The entry for a tensor and a note when another tensor of the same input stands in; None without one."""
        found = self.source.lookup(tensor)
        if found is None or not self.allows(found[0]) or not self.allows(tensor):
            return None
        return found[0], found[1] or ""

    def fits(self, name: str, n_mat: int, n_cols: int) -> bool:
        """Whether an entry is for ``n_mat`` matrices of ``n_cols`` columns; the older format joins the matrices."""
        return self.source.shape(name) in ((n_mat, n_cols), (1, n_mat * n_cols))


def retyped(plan: Plan, recipe: Recipe, importances: Importances | None) -> Plan:
    """``plan`` with the recipe's types, the importance entries that go with them, and what is to be said of both."""
    order = sorted(range(len(plan.moves)), key=lambda i: sort_key(plan.moves[i].name))
    tensors = [_facts_of(plan.moves[i]) for i in order]
    facts = facts_of(plan.metadata, tensors)
    facts = replace(facts, n_layer_source=facts.n_layer + len(plan.dropped))
    has_imatrix = importances is not None and bool(importances.names)
    found = decide(recipe, facts, tensors, has_imatrix)
    decisions = dict(zip(order, found.each, strict=True))
    moves = []
    notes: dict[str, int] = {}
    for number, move in enumerate(plan.moves):
        new = _with_type(move, decisions[number])
        if not new.copied and importances is not None:
            new = _with_importances(new, importances, notes)
        moves.append(new)
    told = [f"{note} ({count} tensors)" if count > 1 else note for note, count in notes.items()]
    return replace(
        plan,
        moves=tuple(moves),
        warnings=(*plan.warnings, *found.warnings, *told),
        problems=plan.problems + found.problems,
    )


def _facts_of(move: Move) -> TensorFacts:
    origin = move.pieces[0].source
    return TensorFacts(move.name, move.shape, origin.type, origin.name if origin.name != move.name else "")


def _with_type(move: Move, decision: Decision) -> Move:
    return replace(move, type=decision.type, wanted=decision.fallback_from, reason=decision.reason)


def _with_importances(move: Move, importances: Importances, notes: dict[str, int]) -> Move:
    pieces: list[Piece] = []
    for piece in move.pieces:
        found = importances.find(piece.source.name)
        if found is None:
            pieces.append(piece)
            continue
        entry, note = found
        source = piece.source
        if source.name in EMBEDDINGS and not importances.fits(entry, source.n_matrices, source.n_cols):
            pieces.append(piece)  # upstream does without it there, too
            notes[f"the importances of {entry} are of another size and not used"] = 1
            continue
        if note:
            notes[note] = notes.get(note, 0) + 1
        pieces.append(replace(piece, importance=entry))
    return replace(move, pieces=tuple(pieces))


def uncovered(plan: Plan) -> tuple[str, ...]:
    """Names of the tensors that change type without an importance vector."""
    return tuple(m.name for m in plan.moves if not m.copied and any(p.importance is None for p in m.pieces))


def unused(plan: Plan, importances: Importances) -> tuple[str, ...]:
    """Entries of the importance matrix that no tensor of the plan uses."""
    used = {p.importance for m in plan.moves for p in m.pieces}
    return tuple(name for name in importances.names if name not in used)


def bpw_cost(plan: Plan) -> Mapping[str, float]:
    """What each fallback costs, by tensor name: bits per weight of the whole model above the type that was wanted."""
    cost = {}
    for move in plan.moves:
        if move.wanted is not None:
            wanted = move.wanted.bpw * move.n_elements + 8 * move.wanted.row_header * move.n_elements // move.shape[-1]
            cost[move.name] = (8 * move.nbytes - wanted) / plan.n_elements
    return cost
