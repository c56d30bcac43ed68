"""The executor: right bytes at any number of threads and any buffer, clean stops, and every run resumable."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support_models import F16, F32, keys, write_model

from gguftool.codecs.dispatch import decode, encode
from gguftool.errors import CodecError, FormatError, GGUFToolError, JournalError
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import Model, open_model
from gguftool.format.writer import write_gguf
from gguftool.plan.importances import Importances
from gguftool.plan.moves import Move, Plan
from gguftool.recipe.decide import Recipe
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.run import convert, pool, tasks, work
from gguftool.run import execute as execute_module
from gguftool.run.execute import Interrupted, Options, execute
from gguftool.run.pool import Progress

Q8_0, Q4_0 = type_by_name("q8_0"), type_by_name("q4_0")


class FakeImatrix:
    """An importance matrix in memory: [n_mat, n_cols] per tensor, or all experts in one long row."""

    def __init__(self, entries: dict[str, npt.NDArray[np.float64]], sha256: str = "a") -> None:
        self.entries, self.sha256 = entries, sha256
        self.names = tuple(entries)

    def shape(self, name: str) -> tuple[int, int]:
        n_mat, n_cols = self.entries[name].shape
        return n_mat, n_cols

    def mean_squares(
        self, name: str, matrix: int | None = None, *, n_mat: int | None = None
    ) -> npt.NDArray[np.float64]:
        found = self.entries[name].reshape(n_mat or len(self.entries[name]), -1)
        return found if matrix is None else found[matrix]

    def lookup(self, name: str) -> tuple[str, str | None] | None:
        return (name, None) if name in self.entries else None


def recipe(type_name: str) -> Recipe:
    return Recipe(file_type_by_name(type_name))


def planned(path: Path, type_name: str | None = None, imatrix: FakeImatrix | None = None) -> Plan:
    with open_model(path) as model:
        plan = Plan.of(model, file_order=type_name is None)
        if type_name is None:
            return plan
        return plan.retype(recipe(type_name), Importances(imatrix) if imatrix else None)


def values(model: Model, name: str) -> npt.NDArray[np.float32]:
    tensor = model.tensor(name)
    rows = tensor.n_elements // tensor.shape[-1]
    blocks = np.frombuffer(model.read(tensor), np.uint8).reshape(rows, -1)
    return decode(blocks, tensor.type, tensor.shape[-1])


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_ELEMENTS", 1 << 13)
    monkeypatch.setattr(tasks, "COPY_BYTES", 1 << 14)


@pytest.mark.parametrize("alignment", [32, 64])
def test_a_plain_copy_is_the_same_file(tmp_path: Path, alignment: int) -> None:
    path = write_model(tmp_path / "m.gguf", alignment=alignment)
    outcome = execute(planned(path), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == path.read_bytes()
    assert outcome.paths == (tmp_path / "out.gguf",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out.gguf"]


def test_threads_buffers_and_hand_copies_change_no_byte(
    tmp_path: Path, small_tasks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m.gguf")
    plan = planned(path, "q8_0")
    execute(plan, tmp_path / "a", Options(threads=1))
    execute(plan, tmp_path / "b", Options(threads=3, max_buffer=1))
    monkeypatch.setattr(work, "_by_kernel", work._by_hand)
    execute(plan, tmp_path / "c", Options(threads=2, max_buffer=100_000, sync=False))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_tensors_are_what_encode_gives(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", ff=288)
    execute(planned(path, "q8_0"), tmp_path / "out.gguf")
    with open_model(path) as source, open_model(tmp_path / "out.gguf") as model:
        for tensor in model.tensors:
            if len(tensor.shape) == 1:
                assert model.read(tensor) == source.read(source.tensor(tensor.name))
            else:
                assert tensor.type == Q8_0
                assert model.read(tensor) == encode(values(source, tensor.name), "q8_0").tobytes()


@pytest.mark.parametrize("flat", [False, True])
def test_every_expert_has_its_own_importances(tmp_path: Path, flat: bool, small_tasks: None) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1, n_expert=3, ff=96)
    name = "blk.0.ffn_up_exps.weight"
    weights = np.random.default_rng(3).lognormal(0, 1, (3, 256))
    weights[1, :] = 0
    imatrix = FakeImatrix({name: weights.reshape(1, -1) if flat else weights})
    outcome = execute(planned(path, "q4_0", imatrix), tmp_path / "out.gguf", Options(errors=True), imatrix)
    with open_model(path) as source, open_model(tmp_path / "out.gguf") as model:
        rows = values(source, name).reshape(3, 96, 256)
        stored = np.frombuffer(model.read(model.tensor(name)), np.uint8).reshape(3, 96, -1)
        decoded = values(model, name).reshape(3, 96, 256)
        number = [t.name for t in model.tensors].index(name)
    for expert in range(3):
        assert np.array_equal(stored[expert], encode(rows[expert], "q4_0", weights[expert]))
    sums = outcome.sums[number]
    square = (rows.astype(np.float64) - decoded) ** 2
    assert sums.count == rows.size and sums.unobserved == 1
    assert sums.error == pytest.approx(square.sum())
    assert sums.weighted_error == pytest.approx((weights[:, None, :] * square).sum())
    assert sums.weight == pytest.approx(96 * weights.sum())


def cut(path: Path, **cuts: object) -> tuple[Plan, Move]:
    plan = planned(path)
    moves = []
    for move in plan.moves:
        if move.name == "token_embd.weight":
            piece = replace(move.pieces[0], **cuts)  # type: ignore[arg-type]
            move = replace(move, shape=(piece.n_rows, piece.n_cols), pieces=(piece,))
        moves.append(move)
    return replace(plan, moves=tuple(moves)), next(m for m in moves if m.name == "token_embd.weight")


@pytest.mark.parametrize("target", ["f16", "q8_0", "f32"])
def test_rows_and_columns_are_cut(tmp_path: Path, target: str, small_tasks: None) -> None:
    path = write_model(tmp_path / "m.gguf")
    plan, _ = cut(path, rows=((3, 40), (41, 60)), columns=((32, 64), (96, 224)))
    moves = tuple(replace(m, type=type_by_name(target)) if m.name == "token_embd.weight" else m for m in plan.moves)
    execute(replace(plan, moves=moves), tmp_path / "out.gguf")
    with open_model(path) as source, open_model(tmp_path / "out.gguf") as model:
        want = values(source, "token_embd.weight")[[*range(3, 40), *range(41, 60)]][
            :, [*range(32, 64), *range(96, 224)]
        ]
        stored = np.frombuffer(model.read(model.tensor("token_embd.weight")), np.uint8).reshape(56, -1)
        assert np.array_equal(stored, encode(np.ascontiguousarray(want), target))


def test_cutting_inside_blocks_quantizes_again(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "m.gguf")
    execute(planned(whole, "q8_0"), tmp_path / "q.gguf")
    plan, _ = cut(tmp_path / "q.gguf", columns=((16, 144),))
    execute(plan, tmp_path / "out.gguf")
    with open_model(tmp_path / "q.gguf") as source, open_model(tmp_path / "out.gguf") as model:
        want = np.ascontiguousarray(values(source, "token_embd.weight")[:, 16:144])
        assert model.read(model.tensor("token_embd.weight")) == encode(want, "q8_0").tobytes()


@pytest.mark.parametrize("kind", ["iq4_kss", "iq3_ks", "iq2_kl", "iq4_kt", "q8_KV", "iq5_k"])
def test_whole_blocks_take_the_head_of_their_row_along(tmp_path: Path, kind: str) -> None:
    path = write_model(tmp_path / "m.gguf", width=1024, n_layer=1)
    t = type_by_name(kind)
    moves = tuple(replace(m, type=t) if m.name == "token_embd.weight" else m for m in planned(path).moves)
    execute(replace(planned(path), moves=moves), tmp_path / "q.gguf")
    plan, move = cut(tmp_path / "q.gguf", rows=((3, 40),), columns=((0, 256), (512, 768)))
    assert move.copied and not move.pieces[0].cuts_blocks
    execute(plan, tmp_path / "out.gguf")
    with open_model(tmp_path / "q.gguf") as source, open_model(tmp_path / "out.gguf") as model:
        want = values(source, "token_embd.weight")[3:40][:, [*range(256), *range(512, 768)]]
        assert np.array_equal(values(model, "token_embd.weight"), want)
        stored = np.frombuffer(model.read(model.tensor("token_embd.weight")), np.uint8).reshape(37, -1)
        if kind == "q8_KV":
            assert np.array_equal(stored[:, 4:8].copy().view("<i4")[:, 0], stored[:, 8:].view(np.int8).sum(axis=1))


def interrupt_after(count: int, kind: type[BaseException] = KeyboardInterrupt) -> Callable[[Progress], None]:
    calls = iter(range(1, 1 << 30))

    def progress(_: Progress) -> None:
        if next(calls) >= count:
            raise kind

    return progress


@pytest.mark.parametrize("type_name", [None, "q8_0"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, small_tasks: None, type_name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m.gguf")
    plan = planned(path, type_name)
    whole = execute(plan, tmp_path / "whole.gguf")
    out = tmp_path / "out.gguf"
    found = []
    real = pool.run_task

    def slow(*args: Any) -> Any:
        time.sleep(0.002)  # so that no worker is far ahead of the reports
        return real(*args)

    monkeypatch.setattr(pool, "run_task", slow)
    threads = threading.active_count()
    for count in (1, 7, 30):
        with pytest.raises(Interrupted, match=r"stopped at \d+ %: the same command goes on"):
            execute(plan, out, Options(threads=2, progress=interrupt_after(count)))
        assert not out.exists() and out.with_name("out.gguf.part").exists()
        assert threading.active_count() == threads
    monkeypatch.setattr(pool, "run_task", real)
    outcome = execute(plan, out, Options(threads=2, progress=lambda p: found.append(p)))
    assert 20 <= outcome.resumed < whole.n_tasks
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert [p.index for p in found if p.move] == list(range(len(plan.moves)))
    assert found[-1].done_bytes == found[-1].total_bytes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out.gguf", "whole.gguf"]


def test_a_failing_caller_does_not_lose_the_work(tmp_path: Path, small_tasks: None) -> None:
    plan = planned(write_model(tmp_path / "m.gguf"), "q8_0")
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        execute(plan, tmp_path / "out", Options(progress=interrupt_after(9, ZeroDivisionError)))
    assert threading.active_count() == threads
    assert execute(plan, tmp_path / "out").resumed >= 5


def test_other_wishes_do_not_mix(tmp_path: Path, small_tasks: None) -> None:
    path = write_model(tmp_path / "m.gguf")
    name = "blk.0.attn_q.weight"
    imatrix = FakeImatrix({name: np.ones((1, 256))})
    plan = planned(path, "q4_0", imatrix)
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        execute(plan, out, Options(progress=interrupt_after(5)), imatrix)
    part = out.with_name("out.part").read_bytes()
    with pytest.raises(JournalError, match="another recipe or options: "):
        execute(planned(path, "q5_0", imatrix), out, None, imatrix)
    with pytest.raises(JournalError, match="another imatrix"):
        execute(plan, out, None, FakeImatrix({name: np.ones((1, 256))}, "b"))
    with pytest.raises(JournalError, match="another effort"):
        execute(plan, out, Options(effort="fast"), imatrix)
    with pytest.raises(JournalError, match="another objective"):
        execute(plan, out, Options(objective="mse"), imatrix)
    os.utime(path, ns=(1, 1))
    with pytest.raises(FormatError, match="changed after it was opened"):
        execute(plan, out, None, imatrix)
    with pytest.raises(JournalError, match="another source"):
        execute(planned(path, "q4_0", imatrix), out, None, imatrix)
    assert out.with_name("out.part").read_bytes() == part
    outcome = execute(planned(path, "q5_0"), out, Options(restart=True))
    assert outcome.resumed == 0
    with open_model(out) as model:
        assert model.tensor(name).type.name == "q5_0"


def test_a_stray_part_is_not_overwritten(tmp_path: Path) -> None:
    plan = planned(write_model(tmp_path / "m.gguf"))
    (tmp_path / "out.part").write_text("mine")
    with pytest.raises(JournalError, match="without its journal"):
        execute(plan, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out.part"]
    execute(plan, tmp_path / "out", Options(restart=True))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_a_part_that_vanished_is_begun_anew(tmp_path: Path, small_tasks: None) -> None:
    plan = planned(write_model(tmp_path / "m.gguf"), "q8_0")
    with pytest.raises(Interrupted):
        execute(plan, tmp_path / "out", Options(progress=interrupt_after(20)))
    (tmp_path / "out.part").unlink()
    assert execute(plan, tmp_path / "out").resumed == 0
    execute(plan, tmp_path / "again")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_no_block_holds_stops_all_in_one_line(tmp_path: Path, value: float) -> None:
    rows = np.ones((500, 64), np.float16)
    rows[417, 33] = value
    tensors = [
        (f"blk.{n}.attn_q.weight", rows if n == 2 else rows[:400], (500 if n == 2 else 400, 64), F16) for n in range(9)
    ]
    write_gguf(tmp_path / "m.gguf", keys(9, 64, 64), tensors)
    with pytest.raises(
        CodecError, match=r"^blk\.2\.attn_q\.weight, counting from its row 0: row 417, column 33 "
    ) as found:
        execute(planned(tmp_path / "m.gguf", "q8_0"), tmp_path / "out", Options(threads=3))
    assert "\n" not in str(found.value)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_source_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf")
    plan = planned(path, "q8_0")
    real = execute_module.open_journal

    def shrink(*args: object, **kwargs: object) -> object:
        os.truncate(path, path.stat().st_size // 2)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute_module, "open_journal", shrink)
    with pytest.raises(FormatError, match="ends inside tensor"):
        execute(plan, tmp_path / "out")
    assert not (tmp_path / "out.part").exists()


def test_a_disk_that_cannot_be_read_names_the_source(
    tmp_path: Path, small_tasks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m.gguf")
    plan = planned(path, "q8_0")
    real = os.preadv
    reads = iter(range(30))

    def fail(fd: int, buffers: list[memoryview], offset: int) -> int:
        if next(reads, None) is None:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(GGUFToolError, match=r"m\.gguf: Input/output error; what is done is kept"):
        execute(plan, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "TASK_ELEMENTS", 1 << 12)
    with pytest.raises(JournalError, match="another version of the program"):
        execute(plan, tmp_path / "out")


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(write_model(tmp_path / "m.gguf"))

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(GGUFToolError, match=r"out\.part: no space left on the disk: make room; nothing was written"):
        execute(plan, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_full_disk_on_the_way_keeps_what_is_done(
    tmp_path: Path, small_tasks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(write_model(tmp_path / "m.gguf"), "q8_0")
    room = iter(range(40))
    real = convert.write_at

    def write(fd: int, data: memoryview, offset: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, data, offset)

    monkeypatch.setattr(convert, "write_at", write)
    with pytest.raises(GGUFToolError, match="what is done is kept"):
        execute(plan, tmp_path / "out")
    monkeypatch.setattr(convert, "write_at", real)
    assert execute(plan, tmp_path / "out").resumed >= 30
    execute(plan, tmp_path / "again")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_file_system_without_preallocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf")

    def unable(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    execute(planned(path), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


def test_errors_asked_for_later_are_measured_later(tmp_path: Path, small_tasks: None) -> None:
    plan = planned(write_model(tmp_path / "m.gguf"), "q8_0")
    with pytest.raises(Interrupted):
        execute(plan, tmp_path / "out", Options(progress=interrupt_after(30)))
    outcome = execute(plan, tmp_path / "out", Options(errors=True))
    for move, sums in zip(plan.moves, outcome.sums, strict=True):
        assert sums.count == (0 if move.copied else move.n_elements)


def test_an_empty_tensor_is_written(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", keys(1, 32, 32), [("a.weight", b"", (0, 32), F32), ("b", b"1234", (1,), F32)])
    found: list[Progress] = []
    execute(planned(tmp_path / "m.gguf"), tmp_path / "out", Options(progress=found.append))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "m.gguf").read_bytes()
    assert [p.index for p in found if p.move] == [0, 1]
