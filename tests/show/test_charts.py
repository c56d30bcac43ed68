"""Charts: what is drawn, that every text can be read, and that nothing outside of the figure is touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from support_charts import check_readable, texts
from support_imatrix import VECTORS, Entry, as_dat, dense_entries, expert_entries, imatrix_gguf

import gguftool
from gguftool import charts
from gguftool.errors import UsageError
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.show.charts.heat import bounds
from gguftool.show.charts.page import COLOURS
from gguftool.show.charts.table import joined

Open = Callable[[Sequence[Entry]], Imatrix]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def make(entries: Sequence[Entry], name: str = "x.imatrix.gguf") -> Imatrix:
        path = tmp_path / name
        path.write_bytes(imatrix_gguf(entries))
        return open_imatrix(path)

    return make


@pytest.fixture
def six(opened: Open) -> Imatrix:
    same = [(name.replace("attn_q", "attn_k"), sums, counts) for name, sums, counts in VECTORS[:3]]
    return opened([*VECTORS, *same])


def values_of(axes: Any) -> Any:
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def labels(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def said(chart: Any) -> str:
    return "\n".join(text for text, _ in texts(chart))


def test_a_map_of_multiples(six: Imatrix) -> None:
    chart = charts.heatmap(six, "sum")
    heat = chart.axes[0]
    np.testing.assert_allclose(values_of(heat), [[1, 0.8, np.nan, 1.325], [np.nan, 22 / 23, 24 / 23, np.nan]])
    assert labels(heat) == ["attn_k/q", "ffn_down_exps"]
    for part in ("x.imatrix.gguf", "sum of mean squares", "10\n", "23", "grey: no such tensor", "output 1.25"):
        assert part in said(chart)


def test_percentages_are_coloured_as_they_are(six: Imatrix) -> None:
    heat = charts.heatmap(six.stats(), "zd_pct").axes[0]
    np.testing.assert_allclose(values_of(heat), [[25, 25, np.nan, 25], [np.nan, 12.5, 100 / 3, np.nan]])


def test_what_is_there_without_a_value_is_hatched(six: Imatrix) -> None:
    chart = charts.heatmap(six, "cossim")
    hatched = [c for c in chart.axes[0].collections if c.get_hatch()]
    assert len(hatched) == 1 and len(hatched[0].get_paths()) == 2  # both kinds where they first appear
    assert "hatched: no value" in said(chart)


def test_an_outlier_does_not_bleach_the_others(opened: Open) -> None:
    chart = charts.heatmap(opened(dense_entries(12)), "mean")
    shown = chart.axes[0].images[0]
    assert values_of(chart.axes[0]).max() > 900 and shown.norm.vmax <= 2 and shown.norm.vmin == 1 / shown.norm.vmax
    assert shown.colorbar.extend == "both"  # attn_output grows from 0.48 of its median
    low, high, ends = bounds(np.array([*range(20), 1000.0]))
    assert (low, high, ends) == (0, 19, "max")
    assert bounds(np.array([*range(20), 1000.0, 1100.0])) == (0, 1100, "neither")  # two of 22 are not few
    assert bounds(np.array([3.0, 3.0])) == (1.5, 4.5, "neither")
    assert bounds(np.array([np.nan])) == (0, 1, "neither")


def test_lines_join_layers_that_have_the_tensor(opened: Open) -> None:
    chart = charts.lines(opened(dense_entries(24, hybrid=4)), ["entropy_norm_pct", "mean"])
    assert len(chart.axes) == 2
    by_kind = {line.get_label(): line for line in chart.axes[0].lines}
    assert list(by_kind) == ["attn_k/q/v", "attn_output", "attn_qkv, ssm_alpha", "ffn_down", "ffn_gate/up", "ssm_out"]
    assert list(by_kind["attn_k/q/v"].get_xdata()) == [3, 7, 11, 15, 19, 23]
    assert {line.get_color() for line in by_kind.values()} <= set(COLOURS)
    assert len({(line.get_color(), line.get_marker()) for line in by_kind.values()}) == 6
    assert {axes.get_xlim() for axes in chart.axes} == {(-0.5, 23.5)}
    assert chart.axes[0].get_yscale() == "linear" and chart.axes[1].get_yscale() == "log"


def test_coverage_and_figures_that_only_some_kinds_have(opened: Open) -> None:
    imatrix = opened([*expert_entries(4, 8), *dense_entries(4)])
    chart = charts.heatmap(imatrix.coverage(), ["reached_pct", "most"])
    assert labels(chart.axes[0]) == ["attn_k/output/q/v, ffn_down/gate/up", "ffn_down/gate/up_exps"]
    chart = charts.heatmap(imatrix, "routing_entropy_pct")
    assert labels(chart.axes[0]) == ["ffn_down_exps", "ffn_gate/up_exps"]
    check_readable(charts.heatmap(imatrix, ["kurtosis", "gain", "covariance", "l2", "reached_pct", "tokens"]))


def test_lines_of_layers(opened: Open) -> None:
    chart = charts.lines(opened(dense_entries(5)).layers(), "total")
    assert [len(line.get_xdata()) for line in chart.axes[0].lines] == [5]


def test_outlier_channels_are_traced_or_numbered(opened: Open) -> None:
    entries = dense_entries(12)
    down = np.array(entries[6][1])
    down[55] = 1e9
    entries[6] = (entries[6][0], down, [1000])
    chart = charts.channels(opened(entries))
    assert "channel 7, 12 layers" in [line.get_label() for line in chart.axes[0].lines]
    text = said(chart)
    assert "ffn_down: mean square of the channels" in text and "\n55\n" in f"\n{text}\n"
    assert all(axes.get_yscale() == "log" for axes in chart.axes)
    assert len(chart.axes) == 4


def test_channels_of_one_tensor(opened: Open) -> None:
    imatrix = opened(dense_entries(2))
    chart = charts.channels(imatrix, "blk.0.attn_q.weight")
    text = said(chart)
    assert "x.imatrix.gguf: blk.0.attn_q.weight" in text and "64 channels" in text and "1 outlier above" in text
    assert "7" in [t.get_text() for t in chart.axes[0].texts]
    assert len(charts.channels(imatrix, "ffn_down").axes) == 1
    with pytest.raises(UsageError, match="neither a tensor nor a kind that has values: attn_k, "):
        charts.channels(imatrix, "nonsense")


def test_channels_of_experts_are_numbered_with_their_expert(opened: Open) -> None:
    entries = expert_entries(1, 4, unreached=[(0, 1)])
    name, sums, counts = entries[2]
    values = np.array(sums)
    values[2 * 16 + 5] = 1e9
    chart = charts.channels(opened([(name, values, counts)]), name)
    text = said(chart)
    assert "2:5" in text and "expert:channel" in text and "16 channels of 3 experts" in text


def test_experts(opened: Open) -> None:
    imatrix = opened(expert_entries(6, 8, unreached=[(2, 3), (2, 4), (5, 0)]))
    chart = charts.experts(imatrix)
    heat = chart.axes[0]
    tokens = values_of(heat)
    assert tokens.shape == (6, 8) and np.argwhere(np.isnan(tokens)).tolist() == [[2, 3], [2, 4], [5, 0]]
    assert tokens[0, 0] == imatrix.counts("blk.0.ffn_up_exps.weight")[0]
    marked = np.ma.filled(heat.images[1].get_array(), np.nan)
    assert np.argwhere(np.isfinite(marked)).tolist() == [[2, 3], [2, 4], [5, 0]]
    text = said(chart)
    assert "ffn_down/gate/up_exps: tokens per expert" in text and "3 of 48 (6.25 %)" in text
    with pytest.raises(UsageError, match="no tensor has experts"):
        charts.experts(opened(dense_entries(1)))


def test_experts_of_a_form_without_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(as_dat([*expert_entries(2, 4, unreached=[(1, 2)]), *dense_router(2)], 512))
    chart = charts.experts(open_imatrix(path))
    text = said(chart)
    assert "experts reached" in text and "1 of 8 (12.5 %)" in text and "does not say how many tokens" in text
    assert len(np.unique(values_of(chart.axes[0]))) == 2  # reached, or not
    check_readable(chart)


def dense_router(n_layers: int) -> list[Entry]:
    return [(f"blk.{i}.ffn_gate_inp.weight", [1.0] * 16, [512]) for i in range(n_layers)]


def test_difference(opened: Open, tmp_path: Path) -> None:
    first = opened(dense_entries(3))
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "second.imatrix.gguf"
    path.write_bytes(imatrix_gguf([(name, np.array(sums) * 2, counts) for name, sums, counts in dense_entries(3)[7:]]))
    chart = charts.difference(first, open_imatrix(path), "mean")
    maps = [axes for axes in chart.axes if labels(axes)[:1] == ["attn_k/q/v"]]
    assert len(maps) == 3
    np.testing.assert_allclose(values_of(maps[2])[:2], [[np.nan, 2, 2]] * 2)
    assert "x.imatrix.gguf → second.imatrix.gguf" in said(chart) and "second / first" in said(chart)
    assert maps[0].images[0].norm is maps[1].images[0].norm
    check_readable(charts.difference(first.stats(), open_imatrix(path), "zd_pct"))


def test_moved(opened: Open) -> None:
    first = opened(dense_entries(3), "first.gguf")
    entries = [(name, np.array(sums), counts) for name, sums, counts in dense_entries(3)]
    for at, share in ((6, 0.5), (13, 0.2)):  # ffn_down of the first two layers
        entries[at][1][3] = entries[at][1].sum() * share
    frame = gguftool.diff_imatrices(first, opened(entries, "second.gguf"))
    chart = charts.moved(frame, most=2)
    assert labels(chart.axes[1]) == ["layer 0: ffn_down", "layer 1: ffn_down"]
    assert "first.gguf → second.gguf" in said(chart) and "total variation distance" in said(chart)
    check_readable(chart)
    check_readable(charts.moved(frame, "rank_corr"))
    with pytest.raises(UsageError, match="no tensor in common"):
        charts.moved(frame.assign(tv=np.nan))


MODELS: dict[str, Callable[[], list[Entry]]] = {
    "1": lambda: dense_entries(1),
    "12": lambda: dense_entries(12),
    "24": lambda: dense_entries(24),
    "hybrid24": lambda: dense_entries(24, hybrid=4),
    "80": lambda: dense_entries(80),
    "hybrid80": lambda: dense_entries(80, hybrid=4),
    "experts12": lambda: [*expert_entries(12, 8, unreached=[(3, 4)]), *dense_entries(12)],
    "experts60": lambda: expert_entries(60, 256, unreached=[(i, i) for i in range(60)], n=4),
}


@pytest.mark.parametrize("model", MODELS)
def test_every_text_can_be_read(opened: Open, model: str) -> None:
    imatrix = opened(MODELS[model]())
    made = [
        charts.heatmap(imatrix, ["mean", "zd_pct", "cossim"]),
        charts.lines(imatrix, ["max", "entropy_norm_pct"]),
        charts.overview(imatrix, "entropy"),
        charts.channels(imatrix),
        charts.channels(imatrix, imatrix.names[0]),
        charts.difference(imatrix, imatrix, "active_pct"),
    ]
    if "experts" in model:
        made.append(charts.experts(imatrix))
    for chart in made:
        check_readable(chart)
        width, height = chart.get_size_inches()
        assert 4 < width < 13 and height < 18


def test_texts_that_overlap_are_found(opened: Open) -> None:
    chart = charts.heatmap(opened(dense_entries(24)))
    chart.axes[0].set_xticks(range(24), ["a long label"] * 24)
    with pytest.raises(AssertionError, match="overlap"):
        check_readable(chart)


def test_names_from_outside_are_drawn_as_they_are(opened: Open) -> None:
    frame = opened(dense_entries(3)).stats().assign(kind="$\\frac{\x1b\n" + "x" * 300)
    chart = charts.heatmap(frame.drop_duplicates("layer"), title="a$b$ \x07" + "long " * 100)
    check_readable(chart)
    assert "$\\frac{\\x1b\\n" in labels(chart.axes[0])[0]


def test_zeros_and_what_no_token_reached(opened: Open, tmp_path: Path) -> None:
    imatrix = opened([("blk.0.a.weight", [0, 0], [1]), ("blk.1.a.weight", [1, 2], [0])])
    chart = charts.heatmap(imatrix)
    charts.save(chart, tmp_path / "blank.png")
    assert np.isnan(values_of(chart.axes[0])).all()
    check_readable(charts.lines(imatrix, "cossim"))
    check_readable(charts.channels(imatrix, "blk.0.a.weight"))


def test_what_cannot_be_drawn_is_said(six: Imatrix, opened: Open) -> None:
    frame = six.stats()
    with pytest.raises(UsageError, match="nothing to draw"):
        charts.heatmap(frame[frame.layer.isna()])
    with pytest.raises(UsageError, match=r"'nonsense' is no statistic of these rows: .*zd_pct"):
        charts.lines(frame, "nonsense")
    with pytest.raises(UsageError, match="'name' is no statistic"):
        charts.lines(frame, "name")
    with pytest.raises(UsageError, match="two rows for 'attn_k' in layer 0"):
        import pandas as pd

        charts.heatmap(pd.concat([frame, frame]))
    with pytest.raises(UsageError, match="column 'layer'"):
        charts.heatmap(frame[["name", "sum"]])
    with pytest.raises(UsageError, match="not from dict"):
        charts.heatmap({})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="65 kinds"):
        charts.heatmap(opened([(f"blk.0.k{i}.weight", [1.0, i], [1]) for i in range(65)]))


def test_kinds_are_named_together() -> None:
    assert joined(["attn_k", "attn_q", "attn_v"]) == "attn_k/q/v"
    assert joined(["ffn_gate_exps", "ffn_up_exps", "ffn_gate_inp"]) == "ffn_gate/up_exps, ffn_gate_inp"
    assert joined(["output"]) == "output"


@pytest.mark.parametrize(("ending", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_same_bytes_every_time(six: Imatrix, tmp_path: Path, ending: str, head: bytes) -> None:
    before = dict(matplotlib.rcParams)
    paths = [tmp_path / f"{i}.{ending}" for i in range(2)]
    for path in paths:
        charts.save(charts.overview(six), path)
        charts.save(charts.overview(six), path)  # replaces
        matplotlib.rcParams["font.size"] = 31
    matplotlib.rcParams.update(before)
    raw = paths[0].read_bytes()
    assert raw.startswith(head) and raw == paths[1].read_bytes() and b"Date" not in raw
    with pytest.raises(UsageError, match="ends in one of"):
        charts.save(charts.heatmap(six), tmp_path / "chart")
    assert len(list(tmp_path.glob(f"*.{ending}"))) == 2


def test_a_notebook_shows_a_chart(six: Imatrix) -> None:
    chart = charts.heatmap(six.stats(), "entropy_norm_pct")
    raw, shown = chart._repr_png_()
    assert raw.startswith(b"\x89PNG")
    assert int.from_bytes(raw[16:20], "big") in (2 * shown["width"] - 1, 2 * shown["width"], 2 * shown["width"] + 1)


def test_ipython_shows_a_chart_as_one_picture(six: Imatrix) -> None:
    formatters = pytest.importorskip("IPython.core.formatters", reason="needs IPython")
    data, _ = formatters.DisplayFormatter().format(charts.experts(six))
    assert set(data) == {"text/plain", "image/png"}


def test_nothing_global_is_imported(six: Imatrix) -> None:
    script = (
        "import sys, gguftool; assert 'matplotlib' not in sys.modules; from gguftool import charts;"
        "im = gguftool.open_imatrix(sys.argv[1]); c = charts.overview(im); c._repr_png_(); charts.channels(im);"
        "assert gguftool.charts is charts;"
        "print([m for m in ('matplotlib.pyplot', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(six.path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""
    assert gguftool.charts is charts
