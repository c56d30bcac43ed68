"""Charts: what is drawn, not how it looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_imatrix import VECTORS, imatrix_gguf

from gguftool.errors import UsageError
from gguftool.imatrix.file import open_imatrix
from gguftool.imatrix.statistics import TensorStatistics, tensor_statistics
from gguftool.show.charts import COLOURS, imatrix_chart, save


@pytest.fixture
def rows(tmp_path: Path) -> list[TensorStatistics]:
    same = [(name.replace("attn_q", "attn_k"), sums, counts) for name, sums, counts in VECTORS[:3]]
    path = tmp_path / "x.imatrix"
    path.write_bytes(imatrix_gguf([*VECTORS, *same]))
    return tensor_statistics(open_imatrix(path))


def test_map_and_lines(rows: list[TensorStatistics]) -> None:
    chart = imatrix_chart(rows, "sum", "a title")
    heat = chart.axes[0]
    values = np.ma.filled(heat.images[0].get_array(), np.nan)
    np.testing.assert_allclose(values, [[1, 0.8, np.nan, 1.325], [np.nan, 22 / 23, 24 / 23, np.nan]])
    assert [label.get_text() for label in heat.get_yticklabels()] == ["attn_k, attn_q (10)", "ffn_down_exps (23)"]
    lines = [axes for axes in chart.axes if axes.lines]
    assert len(lines) == 2 and all(len(axes.lines) == 2 for axes in lines)
    assert {line.get_color() for line in lines[0].lines} <= set(COLOURS)
    assert {axes.get_xlim() for axes in (heat, *lines)} == {(-0.5, 3.5)}


def test_percentages_are_mapped_as_they_are(rows: list[TensorStatistics]) -> None:
    heat = imatrix_chart(rows, "zd_pct").axes[0]
    values = np.ma.filled(heat.images[0].get_array(), np.nan)
    np.testing.assert_allclose(values, [[25, 25, np.nan, 25], [np.nan, 12.5, 100 / 3, np.nan]])


def test_zeros_and_what_no_token_reached_are_left_blank(tmp_path: Path) -> None:
    path = tmp_path / "x.imatrix"
    path.write_bytes(imatrix_gguf([("blk.0.a.weight", [0, 0], [1]), ("blk.1.a.weight", [1, 2], [0])]))
    chart = imatrix_chart(tensor_statistics(open_imatrix(path)))
    save(chart, tmp_path / "blank.png")
    assert np.ma.getmaskarray(np.ma.masked_invalid(chart.axes[0].images[0].get_array())).all()


def test_nothing_in_a_layer_is_said(rows: list[TensorStatistics]) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        imatrix_chart([row for row in rows if row.layer is None])


@pytest.mark.parametrize(("ending", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_save(rows: list[TensorStatistics], tmp_path: Path, ending: str, head: bytes) -> None:
    save(imatrix_chart(rows), tmp_path / f"chart.{ending}")
    assert (tmp_path / f"chart.{ending}").read_bytes().startswith(head)
    with pytest.raises(UsageError, match="ends in one of"):
        save(imatrix_chart(rows), tmp_path / "chart")
