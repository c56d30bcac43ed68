"""The edit that gives every tensor its type, and every quantized one the importance vectors that belong to it.

Importances follow the *source* names: what a layer is called in the output does not change what it saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gguftool.format.names import sort_key
from gguftool.plan.importances import EMBEDDINGS, Importances
from gguftool.plan.mainline import for_mainline
from gguftool.plan.moves import Move, Piece, Plan
from gguftool.recipe.decide import Decision, Recipe, decide
from gguftool.recipe.facts import TensorFacts, facts_of
from gguftool.recipe.mainline import is_read


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
        if recipe.mainline:
            new = for_mainline(new, importances is not None and _covered(new, importances))
        if not new.copied and importances is not None:
            new = _with_importances(new, importances, notes)
        moves.append(new)
    if recipe.mainline and not any(m.replaces for m in moves):
        notes["--compat mainline changes nothing: llama.cpp reads every type of this file"] = 1
    told = [f"{note} ({count} tensors)" if count > 1 else note for note, count in notes.items()]
    return replace(
        plan,
        moves=tuple(moves),
        warnings=(*plan.warnings, *found.warnings, *told),
        problems=(*plan.problems, *found.problems, *(_unread(moves) if recipe.mainline else ())),
    )


def _facts_of(move: Move) -> TensorFacts:
    origin = move.pieces[0].source
    return TensorFacts(move.name, move.shape, origin.type, origin.name if origin.name != move.name else "")


def _with_type(move: Move, decision: Decision) -> Move:
    return replace(move, type=decision.type, wanted=decision.fallback_from, reason=decision.reason)


def _unread(moves: Sequence[Move]) -> list[str]:
    """What no replacement helps."""
    names = [f"{m.name} ({m.type.name})" for m in moves if not is_read(m.type)]
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return (
        [f"llama.cpp does not read {names[0]}{more}, nor is it known here: leave --compat mainline out"]
        if names
        else []
    )


def _covered(move: Move, importances: Importances) -> bool:
    return all(_entry_of(piece, importances)[0] is not None for piece in move.pieces)


def _with_importances(move: Move, importances: Importances, notes: dict[str, int]) -> Move:
    pieces: list[Piece] = []
    for piece in move.pieces:
        entry, note = _entry_of(piece, importances)
        if note:
            notes[note] = notes.get(note, 0) + 1
        pieces.append(piece if entry is None else replace(piece, importance=entry))
    return replace(move, pieces=tuple(pieces))


def _entry_of(piece: Piece, importances: Importances) -> tuple[str | None, str]:
    """The entry whose importances belong to the piece, if there is one, and what is to be said about it."""
    source = piece.source
    found = importances.find(source.name)
    if found is None:
        return None, ""
    entry, note = found
    embedding = source.name in EMBEDDINGS
    if (embedding or note) and not importances.fits(entry, source.n_matrices, source.n_cols):
        # Upstream does without it for embeddings, too; a stand-in of another size saw another input: as good as none.
        return None, f"the importances of {entry} are of another size and not used" if embedding else ""
    return entry, note
