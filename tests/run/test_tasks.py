"""The grid: it covers every byte of every tensor once, in order, and never straddles experts or woven rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_models import keys

from gguftool.format.quanttypes import type_by_name
from gguftool.plan.layout import lay_out
from gguftool.plan.moves import Move, Origin, Piece, Plan, Range
from gguftool.run import tasks
from gguftool.run.tasks import cut

TYPES = [type_by_name(name) for name in ("f16", "q8_0", "q4_K", "iq4_ks", "q4_0_r8")]


@st.composite
def moves(draw: st.DrawFn) -> Move:
    shape = (draw(st.integers(1, 4)), 8 * draw(st.integers(1, 6)), 256 * draw(st.integers(1, 3)))
    source, target = draw(st.sampled_from(TYPES)), draw(st.sampled_from(TYPES))
    group = max(source.rows_interleaved, target.rows_interleaved)
    n_rows = shape[0] * shape[1]
    edges = sorted(draw(st.sets(st.integers(0, n_rows // group), min_size=2, max_size=6)))
    rows: tuple[Range, ...] | None = tuple(
        (group * low, group * high) for low, high in zip(edges[::2], edges[1::2], strict=False)
    )
    columns: tuple[Range, ...] | None = None
    if draw(st.booleans()):
        rows = None
    elif draw(st.booleans()) and source.rows_interleaved == 1:
        columns = ((0, 256),)
    piece = Piece(Origin("s", shape, source, source.nbytes(shape), 0, 0), rows, columns)
    kept = shape if piece.whole else (piece.n_rows, piece.n_cols)
    return Move(draw(st.uuids()).hex, kept, target, (piece,))


@settings(max_examples=150, deadline=None)
@given(st.lists(moves(), min_size=1, max_size=4), st.sampled_from([1, 300, 5000, 1 << 21]))
def test_the_grid_covers_everything_once(made: list[Move], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TASK_ELEMENTS", size)
        patch.setattr(tasks, "COPY_BYTES", size)
        plan = Plan(keys(1, 32, 32), (), tuple(made), 32)
        files = lay_out(plan)
        found = cut(plan, files)
    assert [t.index for t in found] == list(range(len(found)))
    expected = {number: offset for number, offset in zip(files[0].moves, files[0].offsets, strict=True)}
    opened = 0
    for task in found:
        move = made[task.move]
        piece = move.pieces[task.piece]
        assert task.offset == expected[task.move] and task.start < task.stop
        if task.copy:
            assert piece.source.type == move.type and piece.columns is None
            expected[task.move] += task.stop - task.start
            continue
        assert piece.matrix_of(task.start) == piece.matrix_of(task.stop - 1)
        group = max(move.type.rows_interleaved, piece.source.type.rows_interleaved)
        assert task.start % group == 0 and task.stop % group == 0
        assert any(low <= task.start < task.stop <= high for low, high in piece.row_runs())
        expected[task.move] += (task.stop - task.start) * move.type.row_nbytes(piece.n_cols)
        opened += task.opens
    for number, offset in zip(files[0].moves, files[0].offsets, strict=True):
        assert expected[number] - offset == made[number].nbytes
    worked = {t.move for t in found if not t.copy}
    assert opened == sum(len(list(made[n].pieces[0].row_runs())) for n in worked)


def test_a_task_is_some_tens_of_milliseconds() -> None:
    """Two million elements: small enough to stop promptly, large enough that Python does not count."""
    shape = (4096, 4096)
    f16, q4_k = type_by_name("f16"), type_by_name("q4_K")
    move = Move("w", shape, q4_k, (Piece(Origin("w", shape, f16, f16.nbytes(shape), 0, 0)),))
    plan = Plan(keys(1, 32, 32), (), (move,), 32)
    found = cut(plan, lay_out(plan))
    assert len(found) == 8 and {t.stop - t.start for t in found} == {512}
