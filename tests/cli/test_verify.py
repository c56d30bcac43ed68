"""``gguftool verify``: every file is looked at, and what is wrong with it is one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support_models import keys, write_model

from gguftool.cli.main import cli
from gguftool.codecs.dispatch import encode
from gguftool.format.quanttypes import type_by_name
from gguftool.format.writer import write_gguf


def test_a_file_that_is_whole(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1)
    result = CliRunner().invoke(cli, ["verify", str(path)])
    assert (result.exit_code, result.output) == (0, "m.gguf: 12 tensors, 12 decoded, 0 damaged\n")


def test_every_file_is_looked_at(tmp_path: Path) -> None:
    good = write_model(tmp_path / "m.gguf", n_layer=1)
    short = tmp_path / "short.gguf"
    short.write_bytes(good.read_bytes()[:-100])
    rows = np.zeros((3, 32), np.float32)
    rows[2, 5] = np.nan
    write_gguf(tmp_path / "nan.gguf", keys(1, 1, 1), [("a\x1b.weight", rows, (3, 32), type_by_name("f32"))])
    names = ["short.gguf", "absent.gguf", ".", "nan.gguf", "m.gguf"]
    result = CliRunner().invoke(cli, ["verify", *(str(tmp_path / name) for name in names)])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "nan.gguf: 1 tensors, 1 decoded, 1 damaged",
        "m.gguf: 12 tensors, 12 decoded, 0 damaged",
    ]
    said = result.stderr.splitlines()
    assert [line.split(": ")[1].rpartition("/")[2] for line in said] == [
        "short.gguf", "absent.gguf", tmp_path.name, "nan.gguf",
    ]  # fmt: skip
    assert said[3].endswith(r"tensor 'a\x1b.weight' (f32): row 2 holds NaN or Inf")


def test_the_sum_in_the_head_of_a_row_is_checked(tmp_path: Path) -> None:
    t = type_by_name("q8_KV")
    blocks = encode(np.random.default_rng(5).standard_normal((4, 64), np.float32), t)

    def verified() -> list[str]:
        write_gguf(tmp_path / "m.gguf", keys(1, 1, 1), [("a.weight", blocks, (4, 64), t)], overwrite=True)
        result = CliRunner().invoke(cli, ["verify", str(tmp_path / "m.gguf")])
        assert result.exit_code == bool(result.stderr)
        return result.stderr.splitlines()

    assert verified() == []
    blocks[2, 4] ^= 1
    (said,) = verified()
    assert "tensor 'a.weight' (q8_KV): row 2 has a wrong sum in its head" in said


def test_a_file_without_permission_is_no_misuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1)
    monkeypatch.setattr(os, "access", lambda *_args, **_more: False)  # what the superuser would never see
    assert CliRunner().invoke(cli, ["verify", str(path)]).exit_code == 0
    for words in (["info", "."], ["stats", "."], ["kld", "-f", ".", str(path)], ["verify", "."]):
        result = CliRunner().invoke(cli, words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), words
