"""Tables as text, in every format."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from gguftool.show.tables import Column, printable, render, size_text

COLUMNS = ["name", Column("size", ","), Column("share", ".1f", key="share_percent"), Column("kept")]
ROWS = [("a|b", 1234567, 99.94, True), ("日本", 3, math.nan, False), ("c", None, 0.0, None)]


def test_a_table_is_aligned() -> None:
    assert render(COLUMNS, ROWS) == (
        "name       size  share  kept\n"
        "----  ---------  -----  ----\n"
        "a|b   1,234,567   99.9  yes\n"
        "日本          3      -  no\n"
        "c             -    0.0  -"
    )


def test_texts_that_are_numbers_stand_right() -> None:
    assert render(["x", Column("y", left=True)], [["1.5 MiB", 1], ["20%", 20], ["-", 3]]) == (
        "      x  y\n-------  --\n1.5 MiB  1\n    20%  20\n      -  3"
    )


def test_markdown_escapes_its_bars() -> None:
    assert render(COLUMNS, ROWS, "markdown").splitlines() == [
        "| name | size | share | kept |",
        "| --- | --: | --: | --- |",
        "| a\\|b | 1,234,567 | 99.9 | yes |",
        "| 日本 | 3 | - | no |",
        "| c | - | 0.0 | - |",
    ]


def test_json_has_whole_numbers_and_null() -> None:
    assert json.loads(render(COLUMNS, ROWS, "json")) == [
        {"name": "a|b", "size": 1234567, "share_percent": 99.94, "kept": True},
        {"name": "日本", "size": 3, "share_percent": None, "kept": False},
        {"name": "c", "size": None, "share_percent": 0.0, "kept": None},
    ]


def test_json_takes_numpy_numbers_and_no_infinity() -> None:
    row = [np.float32(0.5), np.int64(3), np.float64(np.inf), np.bool_(True)]
    assert json.loads(render(["a", "b", "c", "d"], [row], "json")) == [{"a": 0.5, "b": 3, "c": None, "d": True}]


def test_csv_reads_back() -> None:
    read = list(csv.reader(io.StringIO(render(COLUMNS, [('say "x", y', 1, 2.5, True)], "csv"))))
    assert read == [["name", "size", "share_percent", "kept"], ['say "x", y', "1", "2.5", "True"]]


@pytest.mark.parametrize("style", ["table", "markdown", "json", "csv"])
def test_no_rows_are_a_table_too(style: str) -> None:
    assert render(["a", "b"], [], style)


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="unknown table format 'html'"):
        render(["a"], [], "html")
    with pytest.raises(ValueError, match="2 values under 1 columns"):
        render(["a"], [[1, 2]])


def test_cells_cannot_break_the_table_or_steer_the_terminal() -> None:
    assert render(["a"], [["x\ny\x1b[2J\udcff"]]).splitlines()[2] == "x\\ny\\x1b[2J\ufffd"
    assert printable("tabs\tand näme") == "tabs\\tand näme"


def test_sizes() -> None:
    texts = ["0 B", "1023 B", "1.00 KiB", "1.50 MiB", "12.069 GiB"]
    assert [size_text(n) for n in (0, 1023, 1024, 3 << 19, int(12.069 * 2**30))] == texts
