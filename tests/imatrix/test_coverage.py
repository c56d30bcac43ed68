"""What tokens reached: matrices of each entry, tokens per matrix, how evenly the router spread them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support_imatrix import VECTORS, as_dat, imatrix_gguf

from gguftool.imatrix.coverage import layer_coverage, routing_entropy, tensor_coverage
from gguftool.imatrix.file import open_imatrix


def test_one_row_per_entry(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(imatrix_gguf(VECTORS))
    found = open_imatrix(tmp_path / "x").coverage()
    assert list(found.columns) == [
        "name", "layer", "kind", "stack", "n_mat", "n_reached", "reached_pct", "tokens", "least", "median", "most",
        "routing_entropy", "routing_entropy_pct",
    ]  # fmt: skip
    assert found["name"].tolist() == [
        "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.1.ffn_down_exps.weight", "blk.2.ffn_down_exps.weight",
        "blk.3.attn_q.weight", "output.weight",
    ]  # fmt: skip
    row = found.set_index("name").loc["blk.1.ffn_down_exps.weight"]
    assert (row["n_mat"], row["n_reached"], row["tokens"]) == (3, 2, 6)
    assert (row["least"], row["median"], row["most"]) == (0, 2, 4)
    bits = -(4 / 6 * math.log2(4 / 6) + 2 / 6 * math.log2(2 / 6))
    assert row["reached_pct"] == pytest.approx(200 / 3) and row["routing_entropy"] == pytest.approx(bits)
    assert row["routing_entropy_pct"] == pytest.approx(100 * bits / math.log2(3))
    dense = found.set_index("name").loc["output.weight"]
    assert (dense["n_mat"], dense["n_reached"], dense["tokens"], dense["least"]) == (1, 1, 8, 8)
    assert math.isnan(dense["routing_entropy"])


def test_the_older_form_knows_which_matrices_were_reached_but_not_how_often(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(as_dat(VECTORS, 4))
    rows = tensor_coverage(open_imatrix(tmp_path / "x").with_experts({"blk.1.ffn_down_exps.weight": 3}))
    row = next(row for row in rows if row.n_mat == 3)
    assert (row.n_reached, row.tokens, row.least, row.median, row.most) == (2, None, None, None, None)
    assert math.isnan(row.routing_entropy_pct)
    (layer,) = layer_coverage(rows)
    assert (layer.least, layer.median, layer.most) == (None, None, None) and math.isnan(layer.routing_entropy_pct)


def test_layers(tmp_path: Path) -> None:
    more = ("blk.1.ffn_up_exps.weight", (1, 1), (1, 9))
    (tmp_path / "x").write_bytes(imatrix_gguf([*VECTORS, more]))
    first, second = layer_coverage(tensor_coverage(open_imatrix(tmp_path / "x")))
    assert (first.stack, first.layer, first.tensors, first.experts) == ("blk", 1, 2, 3)
    assert (first.matrices, first.n_reached, first.reached_pct) == (5, 4, 80)
    assert (first.least, first.most) == (0, 9) and first.routing_entropy_pct < 50
    assert (second.layer, second.reached_pct, second.least, second.median, second.most) == (2, 100, 1, 1, 4)


def test_routing_entropy() -> None:
    assert routing_entropy(np.array([5, 5, 5, 5])) == (2.0, 100.0)
    assert routing_entropy(np.array([7, 0])) == (0.0, 0.0)
    assert all(math.isnan(v) for v in (*routing_entropy(np.array([7])), *routing_entropy(np.array([0, 0]))))


def test_real_experts(shared: Path) -> None:
    found = open_imatrix(shared / "imatrix" / "prose-moe-8m.imatrix.gguf").coverage()
    experts = found[found["n_mat"] > 1]
    assert len(experts) == 18 and (experts["tokens"] == 2 * 102_400).all()
    assert (experts["routing_entropy_pct"] > 98).all()
    older = open_imatrix(shared / "imatrix" / "prose-moe-8m.imatrix.dat").coverage()
    assert (older["n_reached"].to_numpy() == found["n_reached"].to_numpy()).all() and older["least"].isna().all()
