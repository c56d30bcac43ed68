"""No name on the command line can cost a file that was there: inputs, unfinished names, reports, devices."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_models import shapes, write_imatrix, write_model

import gguftool
from gguftool.errors import GGUFToolError, PlanError, UsageError
from gguftool.run.execute import Interrupted
from gguftool.run.journal import Journal


def refused(match: str, *args: Any, **options: Any) -> None:
    with pytest.raises(PlanError, match=match):
        gguftool.quantize(*args, **options)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """A model, its importance matrix and a file of rules; the call says what every file there holds."""
    write_model(tmp_path / "m.gguf", n_layer=1)
    write_imatrix(tmp_path / "i.gguf", shapes(1, 256, 512, 64))
    (tmp_path / "rules").write_text("ffn_up=q4_1\n")
    return lambda: {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_the_other_inputs_are_no_outputs(tmp_path: Path, files: Callable[[], dict[str, bytes]]) -> None:
    before = files()
    model, imatrix, rules = tmp_path / "m.gguf", tmp_path / "i.gguf", tmp_path / "rules"
    refused("i.gguf: the output would overwrite", model, imatrix, "q8_0", imatrix=imatrix, force=True)
    refused("rules: the output would overwrite", model, rules, "q8_0", tensor_type_file=rules, force=True)
    assert files() == before


@pytest.mark.parametrize("suffix", [".part", ".journal"])
def test_an_input_under_an_unfinished_name_is_not_emptied(tmp_path: Path, suffix: str) -> None:
    source = write_model(tmp_path / f"m.gguf{suffix}", n_layer=1)
    before = source.read_bytes()
    for restart in (False, True):
        refused("would overwrite the input", source, tmp_path / "m.gguf", "q8_0", restart=restart, force=True)
        with pytest.raises(PlanError, match="would overwrite the input"):
            gguftool.copy(source, tmp_path / "m.gguf", restart=restart)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {source.name: before}


def test_a_report_spares_inputs_outputs_and_what_was_there(
    tmp_path: Path, files: Callable[[], dict[str, bytes]]
) -> None:
    (tmp_path / "old.csv").write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    before = files()
    model, imatrix, out = tmp_path / "m.gguf", tmp_path / "i.gguf", tmp_path / "o.gguf"
    for name, match in {
        "m.gguf": "report would overwrite an input",
        "i.gguf": "report would overwrite an input",
        "o.gguf": "report would overwrite the output",
        "o.gguf.part": "report would overwrite the output",
        "pipe": "no regular file",
        "absent/x.csv": "absent: no such folder",
    }.items():
        refused(match, model, out, "q8_0", imatrix=imatrix, report=tmp_path / name, force=True)
    refused("report exists already", model, out, "q8_0", report=tmp_path / "old.csv")
    assert files() == before
    gguftool.quantize(model, out, "q8_0", report=tmp_path / "old.csv", force=True)
    assert (tmp_path / "old.csv").read_text().startswith("name,")


def test_devices_and_pipes_are_no_outputs(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf", n_layer=1)
    os.mkfifo(tmp_path / "pipe")
    refused("no regular file", source, tmp_path / "pipe", "q8_0", force=True)
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_of_rules_in_another_encoding_is_read(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf", n_layer=1)
    (tmp_path / "rules").write_bytes(b"# caf\xe9\nffn_up=q4_1\n")
    made = gguftool.quantize(source, tmp_path / "o.gguf", "q8_0", tensor_type_file=tmp_path / "rules")
    assert {r.name: r.type for r in made.rows}["blk.0.ffn_up.weight"] == "q4_1"
    with pytest.raises(GGUFToolError, match="no text file with rules"):
        gguftool.quantize(source, tmp_path / "p.gguf", "q8_0", tensor_type_file=source)


def test_a_stand_in_of_another_size_is_none(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf", n_layer=1)
    entries = shapes(1, 256, 512, 64)
    write_imatrix(tmp_path / "fits.gguf", {n: s for n, s in entries.items() if "ffn_gate" not in n})
    narrow = {n: (s if "ffn_up" not in n else (s[0], s[1] // 2)) for n, s in entries.items() if "ffn_gate" not in n}
    write_imatrix(tmp_path / "narrow.gguf", {n: s for n, s in narrow.items() if "ffn_up" in n})
    rules = ["ffn_up=f16"]
    rows = gguftool.quantize(source, tmp_path / "o", "q8_0", tensor_type=rules, imatrix=tmp_path / "fits.gguf").rows
    assert {r.name: r.importance for r in rows}["blk.0.ffn_gate.weight"] == "blk.0.ffn_up.weight"
    rows = gguftool.quantize(source, tmp_path / "p", "q8_0", tensor_type=rules, imatrix=tmp_path / "narrow.gguf").rows
    assert {r.name: r.importance for r in rows}["blk.0.ffn_gate.weight"] == ""


def test_a_progress_that_nobody_reads_keeps_what_is_done(tmp_path: Path) -> None:
    def told(progress: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    path = write_model(tmp_path / "m.gguf", n_layer=1)
    with pytest.raises(Interrupted, match=r"nobody reads.*the same command goes on"):
        gguftool.copy(path, tmp_path / "o.gguf", progress=told)
    gguftool.copy(path, tmp_path / "o.gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "o.gguf"]


def test_a_file_that_came_up_meanwhile_is_left_alone(
    tmp_path: Path, files: Callable[[], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    files()

    def intrude(progress: object) -> None:
        out.write_text("another program's")

    with pytest.raises(GGUFToolError, match=r"out\.gguf: came into being while the run was going"):
        gguftool.quantize(model, out, "q8_0", progress=intrude)
    assert out.read_text() == "another program's"
    out.unlink()
    result = gguftool.quantize(model, out, "q8_0")
    assert result.resumed == result.n_tasks
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.gguf", "m.gguf", "out.gguf", "rules"]


def test_a_source_that_is_written_to_meanwhile_gives_no_mixture(
    tmp_path: Path, files: Callable[[], dict[str, bytes]]
) -> None:
    files()
    model = tmp_path / "m.gguf"

    def scribble(progress: object) -> None:
        with model.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
        os.utime(model, ns=(1, 1))

    with pytest.raises(GGUFToolError, match="changed while it was being read"):
        gguftool.quantize(model, tmp_path / "out.gguf", "q8_0", progress=scribble)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.gguf", "m.gguf", "rules"]


@pytest.mark.parametrize(
    "options",
    [{"effort": "much"}, {"objective": "all"}, {"max_buffer_size": "256M"}, {"max_buffer_size": 0}, {"threads": "2"}],
)
def test_a_word_that_means_nothing_is_refused_before_a_file_is_made(
    tmp_path: Path, files: Callable[[], dict[str, bytes]], options: dict[str, Any]
) -> None:
    before = files()
    with pytest.raises(UsageError, match=next(iter(options))):
        gguftool.quantize(tmp_path / "m.gguf", tmp_path / "out.gguf", "q8_0", **options)
    assert files() == before


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_an_output_without_a_name(tmp_path: Path, files: Callable[[], dict[str, bytes]], name: str) -> None:
    files()
    with pytest.raises(UsageError, match="no name for an output"):
        gguftool.quantize(tmp_path / "m.gguf", name, "q8_0", force=True)


def test_a_disk_without_room_for_the_journal_says_so(
    tmp_path: Path, files: Callable[[], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files()

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "reset", full)
    with pytest.raises(GGUFToolError, match=r"out\.gguf\.journal: no space left on the disk"):
        gguftool.quantize(tmp_path / "m.gguf", tmp_path / "out.gguf", "q8_0")
    assert files() == before
