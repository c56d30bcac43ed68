"""A run killed at any moment and started again gives the bytes of one that never was; in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support_models import F32, keys, split_model, write_model

from gguftool.errors import JournalError
from gguftool.format.names import shard_path
from gguftool.format.reader import open_model
from gguftool.format.writer import encode_header
from gguftool.plan.moves import Plan
from gguftool.run import execute as execute_module
from gguftool.run.execute import execute
from gguftool.run.journal import Journal
from gguftool.run.outputs import survey, targets

#: Journals after every task and works slowly, so that a kill finds something half done.
SCRIPT = """
import sys, time
from pathlib import Path
from gguftool.run import pool, tasks
from gguftool.run.execute import Options, execute
from gguftool.plan.moves import Plan
tasks.TASK_ELEMENTS = 1 << 13
tasks.COPY_BYTES = 1 << 14
pool._EVERY, pool._SHARE = 0.01, 0
real = pool.run_task
def slow(*args):
    time.sleep(0.002)
    return real(*args)
if sys.argv[3] == "slow":
    pool.run_task = slow
def told(progress):
    print(progress.done_bytes, flush=True)
print("ready", flush=True)
plan = Plan.from_json(Path(sys.argv[1]).read_text())
outcome = execute(plan, Path(sys.argv[2]), Options(threads=2, progress=told if sys.argv[3] == "slow" else None))
print("resumed", outcome.resumed, flush=True)
"""


def start(plan: Path, out: Path, pace: str = "slow") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(plan), str(out), pace],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def quantized_plan(path: Path, folder: Path) -> Path:
    """A plan that converts the matrices to Q8_0, as JSON on disk."""
    from gguftool.format.quanttypes import type_by_name

    with open_model(path) as model:
        plan = Plan.of(model)
    q8_0 = type_by_name("q8_0")
    moves = tuple(replace(m, type=q8_0) if len(m.shape) > 1 and ".ffn_up" not in m.name else m for m in plan.moves)
    (folder / "plan.json").write_text(replace(plan, moves=moves).to_json())
    return folder / "plan.json"


def test_kill_at_random_points_and_go_on(tmp_path: Path) -> None:
    plan = quantized_plan(write_model(tmp_path / "m.gguf"), tmp_path)
    assert start(plan, tmp_path / "whole", "fast").wait() == 0
    out = tmp_path / "out"
    rng = random.Random(4)
    for _ in range(5):
        with start(plan, out) as run:
            assert run.stdout is not None
            for _ in range(rng.randrange(1, 60)):
                run.stdout.readline()
            time.sleep(rng.random() / 100)
            run.send_signal(signal.SIGKILL)
        assert not out.exists()
    with start(plan, out, "fast") as run:
        assert run.stdout is not None
        words = run.stdout.read().split()
    assert run.returncode == 0 and words[-2] == "resumed" and int(words[-1]) > 0
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out", "plan.json", "whole"]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    plan = quantized_plan(path, tmp_path)
    with start(plan, tmp_path / "out") as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.readline()
        with pytest.raises(JournalError, match="another process is writing this output"):
            execute(Plan.from_json(plan.read_text()), tmp_path / "out")
        run.stdout.read()
    assert run.returncode == 0 and (tmp_path / "out").exists()


def test_a_crash_between_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.mkdir()
    with open_model(split_model(source, 3)) as model:
        plan = Plan.of(model, keep_split=True)
    real = os.replace
    names = []

    def once(old: Path, new: Path) -> None:
        if names:
            raise RuntimeError("crash")
        names.append(Path(new).name)
        real(old, new)

    monkeypatch.setattr(execute_module.os, "replace", once)
    with pytest.raises(RuntimeError):
        execute(plan, tmp_path / "out.gguf")
    assert names == ["out-00003-of-00003.gguf"]
    monkeypatch.setattr(execute_module.os, "replace", real)
    assert survey(targets(tmp_path / "out.gguf", plan, 3), plan).existing == ()
    outcome = execute(plan, tmp_path / "out.gguf")
    assert [p.name for p in outcome.paths] == [f"out-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    for no, path in enumerate(outcome.paths):
        assert path.read_bytes() == shard_path(source / "m", no, 3).read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_crash_after_the_last_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf")
    with open_model(path) as model:
        plan = Plan.of(model, file_order=True)

    def crash(journal: Journal) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr(Journal, "remove", crash)
    with pytest.raises(RuntimeError):
        execute(plan, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out", "out.journal"]
    monkeypatch.undo()
    assert survey(targets(tmp_path / "out", plan, 1), plan).existing == ()
    execute(plan, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out"]
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
    assert survey(targets(tmp_path / "out", plan, 1), plan).existing == (str(tmp_path / "out"),)


@pytest.mark.parametrize("then", ["moved", "replaced"])
def test_a_finished_output_that_is_gone_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    path = write_model(tmp_path / "m.gguf")
    with open_model(path) as model:
        plan = Plan.of(model, file_order=True)

    def crash(journal: Journal) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr(Journal, "remove", crash)
    with pytest.raises(RuntimeError):
        execute(plan, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out").unlink()
    if then == "replaced":
        (tmp_path / "out").write_text("something else")
    assert execute(plan, tmp_path / "out").resumed == 0
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from gguftool.errors import GGUFToolError
from gguftool.run.execute import execute
from gguftool.plan.moves import Plan
try:
    execute(Plan.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
except GGUFToolError as trouble:
    print(trouble)
"""


def test_a_file_that_may_not_grow_is_one_line_and_nothing_left(tmp_path: Path) -> None:
    plan = quantized_plan(write_model(tmp_path / "m.gguf"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(plan), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1 and "nothing was written" in done.stdout
    assert done.stderr == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "plan.json"]


MEMORY = r"""
import re, resource, sys
from pathlib import Path
from gguftool.run.execute import Options, execute
from gguftool.plan.moves import Plan
execute(Plan.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Options(threads=4, sync=False))
status = Path("/proc/self/status")  # ru_maxrss would begin with what the parent had
found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
print(found[1] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    rows, cols = 200_000, 1024
    header = encode_header(keys(1, 64, 64), [("blk.0.ffn_down.weight", (rows, cols), F32, 0)], 32)
    with open(tmp_path / "m.gguf", "wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * rows * cols)
    plan = quantized_plan(tmp_path / "m.gguf", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(plan), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 150_000, f"{int(done.stdout) / 1000:.0f} MB for a tensor of 819 MB"
