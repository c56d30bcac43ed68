"""The edit that gives every tensor its type, and every quantized one the importance vectors that belong to it.

Importances follow the *source* names: what a layer is called in the output does not change what it saw.
"""

from __future__ import annotations

from dataclasses import replace

from gguftool.format.names import sort_key
from gguftool.plan.importances import EMBEDDINGS, Importances
from gguftool.plan.moves import Move, Piece, Plan
from gguftool.recipe.decide import Decision, Recipe, decide
from gguftool.recipe.facts import TensorFacts, facts_of


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
        if note and not importances.fits(entry, source.n_matrices, source.n_cols):
            pieces.append(piece)  # a stand-in of another size saw another input: as good as none
            continue
        if note:
            notes[note] = notes.get(note, 0) + 1
        pieces.append(replace(piece, importance=entry))
    return replace(move, pieces=tuple(pieces))
