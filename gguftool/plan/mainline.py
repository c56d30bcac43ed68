"""The edit for files that llama.cpp is to run: its nearest type for each that only ik_llama.cpp reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguftool.format.quanttypes import QuantType
from gguftool.plan.moves import Move, Plan
from gguftool.recipe.mainline import is_read, nearest_mainline


@dataclass(frozen=True, slots=True)
class Replacement:
    """Tensors that would be stored as ``wished`` and are stored as ``type``; bytes of all of them, either way."""

    wished: QuantType
    type: QuantType
    n_tensors: int
    n_elements: int
    nbytes_wished: int
    nbytes: int


def for_mainline(move: Move, has_importance: bool) -> Move:
    """``move`` with a type that llama.cpp reads; the same move where it has one, or where nothing can be done.

    What did not fit the rows is looked up by the type that was wanted: iq5_k, in whose place ik_llama.cpp has q6_0,
    becomes what llama.cpp has in q5_K's place. Tensors of unknown type are left alone, and refused by ``retyped``.
    """
    if is_read(move.type) or move.type.kind == "unknown":
        return move
    found, full = nearest_mainline(move.wanted or move.type, move.shape[-1], has_importance)
    reason = f"{move.reason}; {found.name} instead of {move.type.name}, which llama.cpp does not read"
    return replace(move, type=found, wanted=None if found == full else full, replaces=move.type, reason=reason)


def replacements(plan: Plan) -> tuple[Replacement, ...]:
    """What the edit did, by pair of types, the most bytes first."""
    groups: dict[tuple[QuantType, QuantType], list[Move]] = {}
    for move in plan.moves:
        if move.replaces is not None:
            groups.setdefault((move.replaces, move.type), []).append(move)
    rows = [_replacement(wished, type, moves) for (wished, type), moves in groups.items()]
    return tuple(sorted(rows, key=lambda row: -row.nbytes))


def _replacement(wished: QuantType, type: QuantType, moves: Sequence[Move]) -> Replacement:
    return Replacement(
        wished,
        type,
        len(moves),
        sum(m.n_elements for m in moves),
        sum(wished.nbytes(m.shape) for m in moves),
        sum(m.nbytes for m in moves),
    )
