"""Edits of what a plan keeps: layers taken out (names, metadata, the slabs of tensors that hold all layers at once),
and interleaved rows taken apart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from gguftool.format.quanttypes import UNPACKABLE, QuantType, type_by_name, why_woven
from gguftool.format.reader import TensorInfo
from gguftool.plan.layers import TensorSlice, prune_layers
from gguftool.plan.moves import Move, Piece, Plan, Range


def without_layers(plan: Plan, layers: Collection[int], **allowed: bool) -> Plan:
    """``plan`` without those layers; ``plan.layers.prune_layers`` says what is refused and what ``allowed`` means."""
    pruning = prune_layers(plan.metadata, [_info(m) for m in plan.moves], layers, **allowed)
    cuts = {cut.name: cut for cut in pruning.slices}
    moves = []
    for move in plan.moves:
        name = pruning.new_name(move.name)
        if name is None:
            continue
        if move.name in cuts:
            move = _sliced(move, cuts[move.name])
        moves.append(replace(move, name=name))
    return replace(
        plan,
        metadata=plan.metadata.replaced(pruning.edits),
        moves=tuple(moves),
        dropped=pruning.dropped,
        warnings=plan.warnings + pruning.notes,
    )


def with_plain_rows(plan: Plan) -> Plan:
    """``plan`` with every interleaved type unpacked to its plain one; types that cannot be are problems."""
    woven = [m for m in plan.moves if m.type.rows_interleaved > 1]
    stay: dict[QuantType, list[str]] = {}
    for move in woven:
        if move.type.name not in UNPACKABLE:
            stay.setdefault(move.type, []).append(move.name)
    problems = [
        f"cannot unpack {t.name}: {why_woven(t)} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})"
        for t, names in stay.items()
    ]
    moves = tuple(_unpacked(m) if m.type.name in UNPACKABLE else m for m in plan.moves)
    told = () if woven else ("--unpack changes nothing: no tensor has interleaved rows",)
    return replace(plan, moves=moves, problems=(*plan.problems, *problems), warnings=plan.warnings + told)


def _unpacked(move: Move) -> Move:
    assert move.type.unpacked is not None
    return replace(move, type=type_by_name(move.type.unpacked), reason="--unpack")


def _info(move: Move) -> TensorInfo:
    origin = move.pieces[0].source
    return TensorInfo(move.name, move.shape, move.type, origin.shard, origin.offset, origin.nbytes, True)


def _sliced(move: Move, cut: TensorSlice) -> Move:
    """The tensor with only the kept ranges of one axis: the rows' own axis cuts columns, the first one rows."""
    kept = sum(stop - start for start, stop in cut.kept)
    shape = (*move.shape[: cut.axis], kept, *move.shape[cut.axis + 1 :])
    if cut.axis == len(move.shape) - 1:
        pieces = tuple(replace(piece, columns=cut.kept) for piece in move.pieces)
    else:
        rows = _rows_of(move, cut)
        pieces = tuple(replace(piece, rows=rows) for piece in move.pieces)
    return replace(move, shape=shape, pieces=_checked(pieces))


def _rows_of(move: Move, cut: TensorSlice) -> tuple[Range, ...]:
    """The kept ranges of the first axis in rows of the flattened tensor."""
    each = move.pieces[0].source.n_rows // move.shape[cut.axis]
    return tuple((start * each, stop * each) for start, stop in cut.kept)


def _checked(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    assert len(pieces) == 1, "layers are pruned before anything else is cut"
    return pieces
