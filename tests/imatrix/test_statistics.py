"""Figures against numbers printed by llama-imatrix, against files it printed, and against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support_imatrix import F32, VECTORS, as_dat, dat, floats, imatrix_gguf

from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.imatrix.statistics import TensorStatistics, layer_statistics, tensor_statistics
from gguftool.imatrix.upstream import upstream_layers, upstream_tensors
from gguftool.show.showstatistics import upstream_text

Q0, Q1, Q3, D1, D2, OUT = (name for name, _, _ in VECTORS)

#: What llama-imatrix printed for VECTORS: T, min, max, mean, std, active, N, entropy, E norm, ZD, cosine.
PRINTED = {
    Q3: "13.25 0.1250 12.5000 3.31 5.31 100.00 4 0.3964 19.82 25.00 0.0000",
    Q0: "10.00 1.0000 4.0000 2.50 1.12 100.00 4 1.8464 92.32 25.00 0.0000",
    Q1: "8.00 1.0000 5.0000 2.00 1.73 100.00 4 1.5488 77.44 25.00 0.8971",
    D2: "24.00 1.0000 3.0000 2.00 0.82 100.00 12 3.4591 96.49 33.33 0.7000",
    D1: "22.00 1.0000 9.0000 2.75 2.59 100.00 8 2.4920 83.07 12.50 0.0000",
    OUT: "1.25 0.1250 0.5000 0.31 0.14 100.00 4 1.8464 92.32 25.00 0.0000",
}
PRINTED_LAYERS = [
    "0 10.00 25.0000 0.0000",
    "1 17.33 16.6667 0.2990",
    "2 24.00 33.3333 0.7000",
    "3 13.25 25.0000 0.0000",
]


def opened(tmp_path: Path, raw: bytes, name: str = "x.imatrix") -> Imatrix:
    path = tmp_path / name
    path.write_bytes(raw)
    return open_imatrix(path)


def numbers(frame: pd.DataFrame) -> list[str]:
    """Columns of numbers that do not need tokens, which the older form does not count."""
    return [c for c in frame if frame[c].dtype.kind in "if" and c not in ("tokens", "routing_entropy_pct")]


def by_name(imatrix: Imatrix) -> dict[str, TensorStatistics]:
    return {row.name: row for row in tensor_statistics(imatrix)}


def test_upstream_vectors_digit_for_digit(tmp_path: Path) -> None:
    tensors, empty = upstream_tensors(opened(tmp_path, imatrix_gguf(VECTORS)))
    assert empty == [] and [row.name for row in tensors] == list(PRINTED)
    lines = upstream_text("x", tensors, upstream_layers(tensors)).replace("%", "").splitlines()
    printed = [line.split() for line in lines if "\t" in line][1:]
    assert [" ".join(cells[2:]) for cells in printed[: len(PRINTED)]] == list(PRINTED.values())
    assert [cells[:2] for cells in printed[:6]] == [
        ["3", "attn_q"], ["0", "attn_q"], ["1", "attn_q"],
        ["2", "ffn_down_exps"], ["1", "ffn_down_exps"], ["-", "output"],
    ]  # fmt: skip
    assert [" ".join(cells) for cells in printed[len(PRINTED) + 1 :]] == PRINTED_LAYERS


def test_upstream_leaves_out_what_has_no_data(tmp_path: Path) -> None:
    tensors, empty = upstream_tensors(opened(tmp_path, imatrix_gguf([*VECTORS, ("blk.0.x.weight", [1], [0])])))
    assert len(tensors) == len(VECTORS) and empty == ["blk.0.x.weight"]


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("blk.60.nextn.eh_proj.weight", "60", "eh_proj"),
        ("blk.0.ffn_gate.3.weight", "0", "3"),
        ("output.weight", "-", "output"),
        ("enc.blk.2.attn_q.weight", "2", "attn_q"),
        ("odd", "-", "odd"),
    ],
)
def test_upstream_names(tmp_path: Path, name: str, layer: str, kind: str) -> None:
    ((row,), _) = upstream_tensors(opened(tmp_path, imatrix_gguf([(name, [1], [1])])))
    assert (row.layer, row.kind) == (layer, kind)


def test_upstream_compares_with_a_shorter_predecessor_as_with_none(tmp_path: Path) -> None:
    raw = imatrix_gguf([("blk.0.a.weight", [1], [1]), ("blk.1.a.weight", [1, 2], [1]), ("blk.2.a.weight", [3], [1])])
    cosines = {row.name: row.cossim for row in upstream_tensors(opened(tmp_path, raw))[0]}
    assert cosines == {"blk.0.a.weight": 0, "blk.1.a.weight": 0, "blk.2.a.weight": 1}


@pytest.mark.parametrize(
    ("file", "printed"),
    [
        ("prose-llama-11m.imatrix.gguf", "show-statistics-gguf.txt"),
        ("prose-llama-11m.imatrix.dat", "show-statistics-dat.txt"),
        ("prose-moe-8m.imatrix.gguf", "show-statistics-moe-gguf.txt"),
        ("prose-moe-8m.imatrix.dat", "show-statistics-moe-dat.txt"),
    ],
)
def test_upstream_output_byte_for_byte(shared: Path, file: str, printed: str) -> None:
    tensors, empty = upstream_tensors(open_imatrix(shared / "imatrix" / file))
    text = upstream_text(file, tensors, upstream_layers(tensors))
    assert empty == [] and text.encode() == (shared / "imatrix" / printed).read_bytes()


def test_ours_agrees_with_the_vectors_but_for_what_is_undefined(tmp_path: Path) -> None:
    found = by_name(opened(tmp_path, imatrix_gguf(VECTORS)))
    for name, printed in PRINTED.items():
        row = found[name]
        ours = (
            f"{row.sum:.2f} {row.min:.4f} {row.max:.4f} {row.mean:.2f} {row.std:.2f} {row.active_pct:.2f} {row.n} "
            f"{row.entropy:.4f} {row.entropy_norm_pct:.2f} {row.zd_pct:.2f}"
        )
        assert ours == printed.rpartition(" ")[0]
    assert f"{found[Q1].cossim:.4f}" == "0.8971" and found[Q1].distance == 1
    for name in (Q0, D1, OUT):
        assert math.isnan(found[name].cossim) and found[name].distance is None


def test_cosine_is_of_means_over_the_experts_that_both_reached(tmp_path: Path) -> None:
    row = by_name(opened(tmp_path, imatrix_gguf(VECTORS)))[D2]
    assert row.cossim == pytest.approx(32 / (math.sqrt(20) * math.sqrt(114)), abs=1e-12)
    assert (row.n_mat, row.n_reached, row.tokens) == (3, 3, 6)


def test_cosine_goes_back_to_the_nearest_layer_of_the_same_shape(tmp_path: Path) -> None:
    found = by_name(opened(tmp_path, imatrix_gguf(VECTORS)))
    assert found[Q3].distance == 2
    a, b = np.array([1, 2, 3, 100]), np.array([8, 8, 8, 40])
    assert found[Q3].cossim == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    entries = [("blk.0.a.weight", [1, 2], [1]), ("blk.1.a.weight", [3], [1]), ("blk.2.a.weight", [2, 4], [1])]
    found = by_name(opened(tmp_path, imatrix_gguf(entries)))
    assert found["blk.2.a.weight"].distance == 2 and found["blk.2.a.weight"].cossim == pytest.approx(1)
    assert found["blk.1.a.weight"].distance is None


def test_stacks_are_not_compared_with_each_other(tmp_path: Path) -> None:
    entries = [("enc.blk.0.a.weight", [1, 2], [1]), ("dec.blk.1.a.weight", [2, 1], [1])]
    rows = tensor_statistics(opened(tmp_path, imatrix_gguf(entries)))
    assert {row.kind for row in rows} == {"enc.a", "dec.a"} and all(math.isnan(row.cossim) for row in rows)
    assert [(layer.stack, layer.layer) for layer in layer_statistics(rows)] == [("dec.blk", 1), ("enc.blk", 0)]


def test_undefined_is_nan_and_in_no_average(tmp_path: Path) -> None:
    entries = [
        ("blk.0.a.weight", [1, 1], [1]),
        ("blk.1.a.weight", [1, 1], [1]),
        ("blk.1.b.weight", [0, 0], [1]),
        ("blk.1.c.weight", [5], [1]),
        ("blk.1.d.weight", [1, 2, 3], [0]),
        ("blk.2.d.weight", [1, 2, 3], [1]),
    ]
    found = opened(tmp_path, imatrix_gguf(entries))
    rows = by_name(found)
    assert math.isnan(rows["blk.1.b.weight"].entropy) and rows["blk.1.b.weight"].active_pct == 0
    assert math.isnan(rows["blk.1.c.weight"].entropy_norm_pct) and rows["blk.1.c.weight"].entropy == 0
    never = rows["blk.1.d.weight"]
    assert (never.n, never.n_reached) == (0, 0) and math.isnan(never.sum) and math.isnan(never.zd_pct)
    assert math.isnan(rows["blk.2.d.weight"].cossim)
    zero, one, two = layer_statistics(rows.values())
    assert math.isnan(zero.cossim) and zero.compared == 0
    assert one.cossim == pytest.approx(1) and one.compared == 1
    assert (one.tensors, one.n, one.total) == (4, 5, 7) and one.mean == 7 / 5
    assert one.weighted_sum == pytest.approx((2 * 2 + 2 * 0 + 1 * 5) / 5)
    assert two.total == 6


def test_deviation_does_not_drown_in_the_mean(tmp_path: Path) -> None:
    values = 1e4 + np.array([0, 1, 2, 3])
    row = by_name(opened(tmp_path, imatrix_gguf([("a.weight", values.tolist(), [1])])))["a.weight"]
    assert row.std == pytest.approx(np.std([0, 1, 2, 3]), rel=1e-12) and row.zd_pct == 25


def test_values_from_tiny_to_huge_stay_finite(tmp_path: Path) -> None:
    for scale in (1e-38, 1e38):
        entries = [("blk.0.a.weight", [scale, 2 * scale], [1]), ("blk.1.a.weight", [scale, 2 * scale], [1])]
        row = by_name(opened(tmp_path, imatrix_gguf(entries)))["blk.1.a.weight"]
        assert row.cossim == pytest.approx(1) and row.entropy == pytest.approx(0.9182958)


def test_both_forms_give_the_same_statistics(tmp_path: Path) -> None:
    router = ("blk.1.ffn_gate_inp.weight", (1, 2, 3, 4), (2,))
    up = ("blk.1.ffn_up_exps.weight", (4, 8, 12, 16, 0, 0, 0, 0, 2, 2, 2, 18), (4, 0, 2))
    entries = [*VECTORS[:4], up, router, VECTORS[5]]
    gguf = opened(tmp_path, imatrix_gguf(entries))
    older = opened(tmp_path, as_dat(entries, 4), "y.dat")
    assert older.inferred_experts() == {name: 3 for name in (D1, up[0])}
    ours, theirs = gguf.stats(), older.stats()
    assert list(ours.columns) == list(theirs.columns)
    np.testing.assert_allclose(ours[numbers(ours)], theirs[numbers(theirs)], rtol=1e-6)
    assert theirs.routing_entropy_pct.isna().all() and ours.routing_entropy_pct.notna().any()
    assert theirs.set_index("name").n_reached[D1] == 2


def test_both_forms_of_the_real_files_give_the_same_statistics(shared: Path) -> None:
    for model in ("llama-11m", "moe-8m"):
        gguf, older = (open_imatrix(shared / "imatrix" / f"prose-{model}.imatrix.{form}") for form in ("gguf", "dat"))
        for ours, theirs in ((gguf.stats(), older.stats()), (gguf.layers(), older.layers())):
            assert len(ours) == len(theirs) and len(numbers(ours)) > 7
            np.testing.assert_allclose(
                ours[numbers(ours)].astype(float), theirs[numbers(ours)].astype(float), rtol=2e-5, atol=1e-7
            )
            if "duplicate_of" in ours:
                assert ours.duplicate_of.tolist() == theirs.duplicate_of.tolist() and ours.duplicate_of.any()


def test_frames(tmp_path: Path) -> None:
    found = opened(tmp_path, imatrix_gguf(VECTORS))
    frame = found.stats()
    assert frame.name.tolist() == [Q0, Q1, Q3, D1, D2, OUT]
    assert {"layer", "kind", "n_mat", "n", "sum", "min", "max", "mean", "std", "active_pct", "entropy", "zd_pct",
            "entropy_norm_pct", "cossim", "tokens"} <= set(frame.columns)  # fmt: skip
    assert list(found.filtered(["none"]).stats().columns) == list(frame.columns)
    layers = found.layers()
    assert layers.layer.tolist() == [0, 1, 2, 3]
    assert layers.cossim.isna().tolist() == [True, False, False, False]
    assert layers.weighted_sum.round(2).tolist() == [10.00, 17.33, 24.00, 13.25]


def test_read_outs_of_the_dense_model(shared: Path) -> None:
    rows = by_name(open_imatrix(shared / "imatrix" / "prose-llama-11m.imatrix.gguf"))
    first = rows["blk.0.attn_k.weight"]
    assert first.sum == pytest.approx(9.6, abs=0.1) and math.isnan(first.cossim)
    assert rows["blk.1.attn_k.weight"].cossim == pytest.approx(0.69, abs=0.01)
    assert all(0.965 < rows[f"blk.{i}.attn_k.weight"].cossim < 0.9905 for i in range(2, 12))
    assert all(200 < rows[f"blk.{i}.attn_k.weight"].sum < 310 for i in range(2, 12))


def test_stored_statistics_are_not_believed_and_signed_sums_fill_only_their_own_columns(tmp_path: Path) -> None:
    plain = opened(tmp_path, imatrix_gguf(VECTORS[:1])).stats()
    stale = (f"{Q0}.stats", [12], F32, floats([7] * 12))
    assert opened(tmp_path, imatrix_gguf(VECTORS[:1], extra=[stale])).stats().equals(plain)
    signed = (f"{Q0}.in_sum", [4], F32, floats([1, 2, 3, 4]))
    found = opened(tmp_path, imatrix_gguf(VECTORS[:1], extra=[signed, stale])).stats()
    own = ["u_mean", "u_std", "u_skewness", "u_kurtosis", "variance", "constant_pct"]
    assert found.drop(columns=own).equals(plain.drop(columns=own)) and found[own].notna().all(axis=None)
    assert plain[own].isna().all(axis=None)


def test_a_file_of_calls_alone_has_no_tokens(tmp_path: Path) -> None:
    row = by_name(opened(tmp_path, dat([("a.weight", 2, [2.0, 4.0])])))["a.weight"]
    assert row.tokens is None and row.sum == 3
