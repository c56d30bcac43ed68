"""``gguftool report`` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support_imatrix import as_dat
from support_report import dense, experts, model, write

from gguftool.cli.main import cli


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, args)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.imatrix", dense(3))


def test_page(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = run(file, "-o", out)
    assert done.exit_code == 0 and done.stdout == f"{out}: 7 tensors in 3 layers\n" and done.stderr == ""
    text = out.read_text("utf-8")
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>") and str(tmp_path) not in text


def test_model(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert run(file, "--model", model(tmp_path / "m.gguf", 3), "-o", out).exit_code == 0
    text = out.read_text("utf-8")
    assert "Tensors without importance" in text and "blk.0.ffn_up.weight" in text and "m.gguf" in text


def test_weights_are_measured_unless_not_wanted(file: Path, tmp_path: Path) -> None:
    beside, out = model(tmp_path / "m.gguf", 3), tmp_path / "report.html"
    assert run(file, "--model", beside, "-o", out, "--threads", 1).exit_code == 0
    assert "ZD weight" in out.read_text("utf-8")
    assert run(file, "--model", beside, "-o", out, "--force", "--no-weights").exit_code == 0
    assert "ZD weight" not in out.read_text("utf-8")


def test_older_form(tmp_path: Path) -> None:
    source = tmp_path / "a.dat"
    source.write_bytes(as_dat(experts(2, 10), 4))
    assert run(source, "-o", tmp_path / "r.html").exit_code == 0
    assert "older binary form" in (tmp_path / "r.html").read_text("utf-8")


def test_an_output_is_not_replaced_unless_asked(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    done = run(file, "-o", out)
    assert done.exit_code == 1 and "exists already" in done.stderr and out.read_text() == "mine"
    assert run(file, "-o", out, "--force").exit_code == 0 and out.read_text("utf-8") != "mine"


def test_an_input_is_never_replaced(file: Path) -> None:
    before = file.read_bytes()
    done = run(file, "-o", file, "--force")
    assert done.exit_code == 2 and "one of the inputs" in done.stderr and file.read_bytes() == before


def test_trouble_is_one_line(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "r.html"
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    for args in ((bad, "-o", out), (file, "--model", bad, "-o", out), (tmp_path / "none", "-o", out)):
        done = run(*args)
        assert done.exit_code == 1 and done.stderr.count("\n") == 1 and not out.exists()
    assert run(file).exit_code == 2
