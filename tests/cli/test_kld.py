"""``gguftool kld``: figures for people and for programs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import gguftool
from gguftool.cli.main import cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = str(EXAMPLES / "prose-llama-11m-f16.gguf")
TEXT = str(EXAMPLES / "prose.txt")


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, ["kld", "-f", TEXT, "--chunks", "1", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_json_is_plain_numbers() -> None:
    (found,) = json.loads(run("--format", "json", "--base", MODEL, MODEL))
    assert found["kld"] == 0 and found["same_top"] == 1
    assert found["ppl"] == pytest.approx(found["ppl_base"])
    assert found["tokens"] == 255 and found["bytes"] == Path(MODEL).stat().st_size


def test_types_that_libllama_does_not_read_are_decoded_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.gguf"
    result = gguftool.quantize(MODEL, out, "IQ6_K", effort="fast")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (found,) = json.loads(run("--format", "json", "--base", MODEL, str(out)))
    assert (found["model"], found["bytes"]) == ("m.gguf", result.file_bytes)
    assert 0 < found["kld"] < 0.01 and found["same_top"] > 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_base_of_such_types_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = gguftool.quantize(MODEL, tmp_path / "base.gguf", "Q6_0", effort="fast").path
    decoded = []

    def note(src: Path, *words: object, **options: object) -> object:
        decoded.append(src)
        return gguftool.quantize(src, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("gguftool.verbs.kld.quantize", note)
    first, second = json.loads(run("--format", "json", "--base", str(base), MODEL, MODEL))
    assert 0 < first["kld"] == second["kld"] < 0.01
    assert decoded == [base]


def test_the_table_shows_errors_beside_values() -> None:
    assert "±" in run(MODEL)
    assert "mean KLD" not in run(MODEL)
