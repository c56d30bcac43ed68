"""``gguftool types``."""

from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner

from gguftool.cli.main import cli
from gguftool.codecs.dispatch import can_decode, can_encode
from gguftool.format.quanttypes import TYPES


def output(*words: str) -> str:
    result = CliRunner().invoke(cli, ["types", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_says_what_the_library_says() -> None:
    rows = {row["name"]: row for row in json.loads(output("--format", "json"))}
    assert list(rows) == [t.name for t in TYPES]
    for t in TYPES:
        row = rows[t.name]
        assert (row["id"], row["bpw"], row["needs_imatrix"]) == (t.id, t.bpw, t.needs_imatrix)
        assert (row["encode"], row["decode"]) == (can_encode(t), can_decode(t))
    assert rows["iq4_kss"]["row_header"] == 4
    assert rows["i2_s"]["row_header"] == "32 per tensor"
    assert rows["q4_k_r4"]["rows_interleaved"] == 4
    assert rows["iq4_kss"]["read_by"] == "ik_llama.cpp"
    assert rows["nvfp4"]["read_by"] == "llama.cpp"
    assert rows["q4_K"]["decode"] is True


def test_csv_has_a_row_for_every_type() -> None:
    rows = list(csv.DictReader(io.StringIO(output("--format", "csv"))))
    assert [(row["name"], int(row["id"]), row["kind"]) for row in rows] == [(t.name, t.id, t.kind) for t in TYPES]


@pytest.mark.parametrize("style", ["table", "markdown"])
def test_people_can_read_it(style: str) -> None:
    line = next(line for line in output("--format", style).splitlines() if "iq4_kss" in line)
    assert [word for word in line.replace("|", " ").split() if word != "-"][:6] == [
        "iq4_kss", "146", "quant", "4.0000", "256", "128",
    ]  # fmt: skip
