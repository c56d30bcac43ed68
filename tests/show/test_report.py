"""The report page as text: whole, the same every time, and harmless whatever the names say."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import make_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support_report import HOSTILE, dense, experts, hostile, model, page, write

from gguftool.errors import GGUFToolError
from gguftool.imatrix.statistics import TensorStatistics
from gguftool.show import reporttables
from gguftool.show.report import report_page
from gguftool.show.titles import figure_of
from gguftool.verbs.report import report
from gguftool.verbs.weights import weight_statistics


class Page(HTMLParser):
    """Tags with their attributes, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.held: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in self.held and self.get_starttag_text() is not None:
            self.held[self.tags[-1][0]].append(data)


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.imatrix", dense(3))
    (tmp_path / "elsewhere").mkdir()
    second = write(tmp_path / "elsewhere" / "a.imatrix", dense(3))
    assert report_page(report(first)) == report_page(report(second))


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    text = page(tmp_path / "a.imatrix", dense(3)).read_text()
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text


def test_the_policy_names_exactly_the_style_and_the_script(tmp_path: Path) -> None:
    text = page(tmp_path / "a.imatrix", dense(3)).read_text()
    policy = next(a["content"] for t, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        held = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert held is not None
        wanted = base64.b64encode(hashlib.sha256(held[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{wanted}'" in policy


def test_hostile_names_add_no_tag(tmp_path: Path) -> None:
    harmless = [(f"blk.{i}.x{n}.weight", [1.0, 2.0, 3.0 + i], (1,)) for i in range(2) for n in range(len(HOSTILE))]
    harmless += [(f"y{n}", [1.0, 5.0], (1,)) for n in range(len(HOSTILE))]
    one = page(tmp_path / "a.imatrix", hostile(), datasets=HOSTILE).read_text()
    other = page(tmp_path / "b.imatrix", harmless, datasets=tuple("abcdefgh")).read_text()
    assert sorted(tag for tag, _ in Page(one).tags) == sorted(tag for tag, _ in Page(other).tags)
    assert not {"\u202e", "\u2028", "\x01"} & set(one) and "{{ 7 * 7 }}" in one
    names = {row[0] for row in data_of(one)["tables"]["tensors"]["rows"]}
    assert HOSTILE[0] in names and f"blk.1.{HOSTILE[1]}.weight" in names


def test_data_holds_every_figure_and_null_where_there_is_none(tmp_path: Path) -> None:
    source = write(tmp_path / "a.imatrix", dense(3))
    found = report(source)
    table = data_of(report_page(found))["tables"]["tensors"]
    keys = [column["key"] for column in table["columns"]]
    for row, said in zip(found.statistics.tensors, table["rows"], strict=True):
        for key, value in zip(keys, said, strict=True):
            wanted = getattr(row, key)
            if isinstance(wanted, float):
                assert value is None if math.isnan(wanted) else math.isclose(value, wanted, rel_tol=1e-5)
            else:
                assert value == wanted
    assert any(value is None for row in table["rows"] for value in row)


def test_a_statistic_that_is_new_appears_by_itself(tmp_path: Path) -> None:
    found = report(write(tmp_path / "a.imatrix", dense(2)))
    Wider = make_dataclass("Wider", [("brand_new_pct", float, 0.5)], bases=(TensorStatistics,), frozen=True)
    names = reporttables.values(found.statistics.tensors[0])
    rows = tuple(Wider(**reporttables.values(row)) for row in found.statistics.tensors)
    assert "brand_new_pct" not in names
    changed = replace(found, statistics=replace(found.statistics, tensors=rows))
    data = data_of(report_page(changed))
    column = next(c for c in data["tables"]["tensors"]["columns"] if c["key"] == "brand_new_pct")
    assert column["title"] == "Brand new, %"
    assert data["tables"]["tensors"]["columns"].index(column) in data["figures"]


def test_every_statistic_has_words() -> None:
    from gguftool.imatrix.figures import FIGURES, LayerStatistics, columns

    for key in {*FIGURES, *columns(LayerStatistics)}:
        assert figure_of(key).title != key or key in ("sum", "gain"), key


def test_scales_are_those_of_the_charts() -> None:
    from gguftool.imatrix.figures import LayerStatistics, TensorStatistics, columns
    from gguftool.show.charts.words import words

    for key in {*columns(TensorStatistics), *columns(LayerStatistics)}:
        assert figure_of(key).scale == words(key).scale, key


def test_matplotlib_and_pandas_are_not_imported(tmp_path: Path) -> None:
    write(tmp_path / "a.imatrix", dense(2))
    script = (
        "import sys; from gguftool.cli.main import cli; cli.main(['report', *sys.argv[1:]], standalone_mode=False);"
        "print([m for m in ('numba', 'pandas', 'matplotlib', 'gguf') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, "a.imatrix", "-o", "r.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    dense_page = data_of(page(tmp_path / "a.imatrix", dense(3)).read_text())
    keys = [column["key"] for column in dense_page["tables"]["tensors"]["columns"]]
    assert not {"n_mat", "n_reached", "u_mean", "mtp", "type"} & set(keys)
    moe = data_of(page(tmp_path / "b.imatrix", experts(3, 10)).read_text())
    assert {"n_mat", "n_reached", "reached_pct"} <= {column["key"] for column in moe["tables"]["tensors"]["columns"]}


def test_kinds_with_the_same_tokens_share_a_map(tmp_path: Path) -> None:
    groups = data_of(page(tmp_path / "a.imatrix", experts(3, 10)).read_text())["experts"]
    assert [group["kinds"] for group in groups] == [["ffn_down_exps", "ffn_up_exps"]]
    assert groups[0]["layers"] == [0, 1, 2] and groups[0]["tokens"][1][:5] == [1, 4, 7, 0, 13]


def test_no_layer_and_no_experts(tmp_path: Path) -> None:
    text = page(tmp_path / "a.imatrix", [("a.weight", [1, 2], [1]), ("b.weight", [0, 0], [0])]).read_text()
    assert data_of(text)["figures"] == [] and "no token came by" in text


def test_model_part(tmp_path: Path) -> None:
    text = page(tmp_path / "a.imatrix", dense(2), model(tmp_path / "m.gguf", 2)).read_text()
    data = data_of(text)["tables"]
    assert [row[0] for row in data["without"]["rows"]] == ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"]
    assert data["types"]["rows"][0][:2] == ["f16", 7]
    keys = [column["key"] for column in data["tensors"]["columns"]]
    assert {row[keys.index("bpw")] for row in data["tensors"]["rows"]} == {16.0}
    assert "2 tensors of the model could be quantized but have no importance" in text


def test_weights_stand_beside_activations(tmp_path: Path) -> None:
    source, beside = write(tmp_path / "a.imatrix", dense(2)), model(tmp_path / "m.gguf", 2)
    measured = weight_statistics(beside)
    tables = data_of(report_page(report(source, beside, weights=measured)))["tables"]
    keys = [column["key"] for column in tables["tensors"]["columns"]]
    by_name = {row.name: row for row in measured.by_tensor}
    for row in tables["tensors"]["rows"]:
        assert math.isclose(row[keys.index("zd_weight")], by_name[row[0]].zd_weight, rel_tol=1e-5)
        assert math.isclose(row[keys.index("w_std")], by_name[row[0]].std, rel_tol=1e-5)
        assert row[keys.index("std")] != row[keys.index("w_std")]
    keys = [column["key"] for column in tables["layers"]["columns"]]
    assert [row[keys.index("rank")] for row in tables["layers"]["rows"]] == [row.rank for row in measured.by_layer]
    assert "zd_weight" not in {
        c["key"] for c in data_of(report_page(report(source, beside)))["tables"]["tensors"]["columns"]
    }


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([9.701, 0.645, 24.277], ["9.701", "0.645", "24.277"]),
        ([18644.43, 495.53], ["18,644", "496"]),
        ([0.0001687, 0.01194], ["0.000169", "0.011940"]),
        ([3e-12, math.nan, *[1.5] * 20], ["3e-12", "\N{EN DASH}", *["1.50"] * 20]),
        ([1234567, None, 0], ["1,234,567", "\N{EN DASH}", "0"]),
    ],
)
def test_cells(values: list[Any], cells: list[str]) -> None:
    table = reporttables.Table("t", "T", "", (figure_of("x"),), tuple((v,) for v in values), 1)
    assert [row[0] for row in table.cells] == cells


def test_without_jinja2_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(write(tmp_path / "a.imatrix", dense(1)))
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GGUFToolError, match=r"gguftool\[report\]"):
        report_page(found)


@pytest.mark.parametrize(("layers", "n_experts", "limit"), [(80, 0, 400_000), (60, 256, 800_000)])
def test_size_is_bounded(tmp_path: Path, layers: int, n_experts: int, limit: int) -> None:
    entries = dense(layers) + (experts(layers, n_experts) if n_experts else [])
    assert page(tmp_path / "a.imatrix", entries).stat().st_size < limit
