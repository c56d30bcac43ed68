"""The edit that takes layers out of a plan: names, metadata, and the slabs of tensors that hold all layers at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

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
