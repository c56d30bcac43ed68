"""Two importance matrices compared: by hand, by definition, and by what must not matter."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_imatrix import VECTORS, Entry, as_dat, dat, imatrix_gguf

import gguftool
from gguftool.imatrix.compare import kind_differences, rank_correlation, tensor_differences
from gguftool.imatrix.file import Imatrix, open_imatrix


def held(tmp_path: Path, entries: list[Entry], name: str) -> Imatrix:
    path = tmp_path / name
    path.write_bytes(imatrix_gguf(entries))
    return open_imatrix(path)


def test_figures_by_hand(tmp_path: Path) -> None:
    a = held(tmp_path, [("blk.0.attn_q.weight", (1, 2, 3, 4), (1,))], "a")
    b = held(tmp_path, [("blk.0.attn_q.weight", (8, 4, 6, 2), (2,))], "b")
    (row,) = tensor_differences(a, b)
    assert (row.name, row.layer, row.kind, row.stack, row.n) == ("blk.0.attn_q.weight", 0, "attn_q", "blk", 4)
    assert row.rank_corr == pytest.approx(1 - 6 * (9 + 0 + 0 + 9) / 60)  # ranks 0123 and 3120
    assert row.cosine == pytest.approx((4 + 4 + 9 + 4) / math.sqrt(30 * 30))
    assert row.tv == pytest.approx(0.5 * (0.3 + 0 + 0 + 0.3))
    assert (row.reached_a, row.reached_b, row.only_in) == (1, 1, "")


def test_experts_count_where_both_were_reached(tmp_path: Path) -> None:
    name = "blk.1.ffn_down_exps.weight"
    a = held(tmp_path, [(name, (1, 2, 5, 5, 1, 3), (1, 2, 0))], "a")
    b = held(tmp_path, [(name, (1, 2, 5, 5, 3, 1), (4, 0, 1))], "b")
    (row,) = tensor_differences(a, b)
    assert (row.n, row.reached_a, row.reached_b) == (2, 2, 2)
    assert (row.rank_corr, row.cosine, row.tv) == pytest.approx((1, 1, 0))


def test_one_side_only_other_shapes_and_nothing_in_common(tmp_path: Path) -> None:
    plain, experts = ((1, 2), (1,)), "e_exps.weight"
    a = held(tmp_path, [("x.weight", *plain), ("y.weight", *plain), (experts, (1, 1), (1, 0))], "a")
    b = held(tmp_path, [("z.weight", *plain), ("y.weight", (1, 2, 3), (1,)), (experts, (1, 1), (0, 1))], "b")
    found = gguftool.diff_imatrices(a, b).set_index("name")
    assert found["only_in"].to_dict() == {"x.weight": "a", "z.weight": "b", "y.weight": "", "e_exps.weight": ""}
    assert (found["n"] == 0).all() and found[["rank_corr", "cosine", "tv"]].isna().all(axis=None)
    assert found["reached_a"]["x.weight"] == 1 and np.isnan(found["reached_b"]["x.weight"])


def test_a_file_against_itself(shared: Path) -> None:
    for model in ("llama-11m", "moe-8m"):
        stored = open_imatrix(shared / "imatrix" / f"prose-{model}.imatrix.gguf")
        rows = tensor_differences(stored, stored)
        assert [row.name for row in rows] and set(stored.names) == {row.name for row in rows}
        for row in rows:
            assert row.n == math.prod(stored.shape(row.name)) and row.rank_corr == pytest.approx(1)
            assert row.cosine == pytest.approx(1) and row.tv == 0


def test_the_two_forms_of_one_run_agree(shared: Path) -> None:
    a, b = (shared / "imatrix" / f"prose-moe-8m.imatrix.{form}" for form in ("gguf", "dat"))
    found = gguftool.diff_imatrices(a, b)
    assert (found["only_in"] == "").all() and found["tv"].max() < 1e-6 and found["rank_corr"].min() > 0.9999
    assert list(found.columns) == [
        "name", "layer", "kind", "stack", "n", "rank_corr", "cosine", "tv", "reached_a", "reached_b", "only_in"
    ]  # fmt: skip


def test_fillers_of_the_older_form_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(as_dat(VECTORS, 4))
    a = held(tmp_path, list(VECTORS), "a")
    found = gguftool.diff_imatrices(a, tmp_path / "b").set_index("name")
    row = found.loc["blk.1.ffn_down_exps.weight"]
    assert (row["n"], row["reached_a"], row["reached_b"]) == (8, 2, 2) and row["tv"] == pytest.approx(0)


def test_scale_and_counts_do_not_matter(tmp_path: Path) -> None:
    a = held(tmp_path, [("x.weight", (1, 2, 4), (1,))], "a")
    b = held(tmp_path, [("x.weight", (70, 140, 280), (7,))], "b")
    (row,) = tensor_differences(a, b)
    assert (row.rank_corr, row.cosine) == pytest.approx((1, 1)) and row.tv == pytest.approx(0)


def test_equal_inputs_are_compared_once_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguftool.imatrix import compare

    names = [f"blk.0.{kind}.weight" for kind in ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_gate", "ffn_up")]
    a = held(tmp_path, [(name, (1, 2), (1,)) for name in names], "a")
    b = held(tmp_path, [(name, (3, 1) if "attn" in name else (1, 3), (1,)) for name in names], "b")
    calls = []
    real = compare._figures
    monkeypatch.setattr(compare, "_figures", lambda *pair: calls.append(1) or real(*pair))
    rows = {row.kind: row for row in tensor_differences(a, b)}
    assert rows["attn_q"].tv == rows["attn_v"].tv > rows["ffn_up"].tv == rows["ffn_gate"].tv
    assert len(calls) < len(names)


def test_summary_per_kind(tmp_path: Path) -> None:
    a = held(tmp_path, [(f"blk.{i}.attn_q.weight", (1, 2), (1,)) for i in range(3)], "a")
    b = held(tmp_path, [(f"blk.{i}.attn_q.weight", (1, 2 + i), (1,)) for i in range(2)], "b")
    (kind,) = kind_differences(tensor_differences(a, b))
    assert (kind.kind, kind.tensors, kind.compared, kind.reached_a, kind.reached_b) == ("attn_q", 3, 2, 3, 2)
    assert kind.rank_corr == kind.rank_corr_min == pytest.approx(1)
    assert kind.tv_max == pytest.approx(3 / 4 - 2 / 3) and kind.tv == pytest.approx(kind.tv_max / 2)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.5]), min_size=5, max_size=5), min_size=2, max_size=2))
def test_rank_correlation_is_pearsons_of_average_ranks(rows: list[list[float]]) -> None:
    a, b = (np.array(row) for row in rows)
    found = rank_correlation(a, b)

    def ranks(row: list[float]) -> np.ndarray:
        return np.array([sum(v < w for v in row) + (sum(v == w for v in row) - 1) / 2 for w in row])

    x, y = (ranks(row) - 2 for row in rows)
    if not x.any() or not y.any():
        assert math.isnan(found)
    else:
        assert found == pytest.approx((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), abs=1e-12)


def test_damaged_values_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(dat([("a.weight", 1, [1.0, math.nan])]))
    with pytest.raises(gguftool.ImatrixError, match=r"'a\.weight', column 1: nan"):
        gguftool.diff_imatrices(tmp_path / "bad", tmp_path / "bad")
