"""Figures beyond upstream's columns: against a worked example, and against their definitions written down plainly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_gguf import u32
from support_imatrix import F32, VECTORS, as_dat, floats, imatrix_gguf, keys

from gguftool.imatrix.figures import FIGURES, LayerStatistics, TensorStatistics, columns
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.imatrix.moments import cojoined, comoments, joined, moments
from gguftool.imatrix.statistics import layer_statistics, tensor_statistics

Floats = npt.NDArray[np.float64]
Signed = tuple[str, Sequence[float], Sequence[float], Sequence[float] | None]

#: Sums of squares and signed sums of one token in two layers, whose figures were worked out from the definitions.
WORKED: tuple[Signed, ...] = (
    ("blk.0.a.weight", (2, 1, 5, 1), (1,), (1, -1, 2, 0)),
    ("blk.1.a.weight", (5, 4, 10, 2), (1,), (2, -2, 3, 1)),
)


def opened(tmp_path: Path, entries: Sequence[Signed], **kv: int) -> Imatrix:
    signed = [(f"{name}.in_sum", [len(sums)], F32, floats(given)) for name, sums, _, given in entries if given]
    more = [(f"imatrix.{key}", u32(value)) for key, value in kv.items()]
    path = tmp_path / "x.imatrix"
    path.write_bytes(imatrix_gguf([entry[:3] for entry in entries], [*keys(), *more], signed))
    return open_imatrix(path)


def rows_of(tmp_path: Path, entries: Sequence[Signed], **kv: int) -> dict[str, TensorStatistics]:
    return {row.name: row for row in tensor_statistics(opened(tmp_path, entries, **kv))}


def plain(entries: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> list[Signed]:
    return [(*entry, None) for entry in entries]


def random_entries(names: Sequence[str], n_mat: int, n_cols: int, seed: int, signed: bool = True) -> list[Signed]:
    """Entries of activations that were really drawn, so that sums and signed sums go together."""
    rng = np.random.default_rng(seed)
    found: list[Signed] = []
    for name in names:
        counts = rng.integers(0, 4, n_mat) * 5
        counts[0] = 7
        centre, width = rng.normal(size=(n_mat, n_cols)), rng.lognormal(size=n_cols)
        tokens = [centre[m] + width * rng.normal(size=(c, n_cols)) for m, c in enumerate(counts)]
        sums, totals = (np.concatenate([(t**power).sum(axis=0) for t in tokens]) for power in (2, 1))
        found.append((name, sums.tolist(), counts.tolist(), totals.tolist() if signed else None))
    return found


def test_the_worked_example(tmp_path: Path) -> None:
    found = rows_of(tmp_path, WORKED)
    first, second = found["blk.0.a.weight"], found["blk.1.a.weight"]
    assert (first.sum, first.u_mean, second.sum, second.u_mean) == (9, 0.5, 21, 1)
    expected = {
        first: dict(u_std=1.118034, u_skewness=0, u_kurtosis=-1.36, entropy=1.657743, entropy_norm_pct=82.887136),
        second: dict(
            u_std=1.870829, u_skewness=-0.687243, u_kurtosis=-1, entropy=1.781416, entropy_norm_pct=89.070820,
            u_l2=2, u_cossim=0.962250, u_pearson=0.956183, u_covariance=2, gain=1.527525,
        ),
    }  # fmt: skip
    for row, figures in expected.items():
        for name, value in figures.items():
            assert getattr(row, name) == pytest.approx(value, abs=5e-7), name
    assert math.isnan(first.u_l2) and math.isnan(first.gain)
    _, layer = layer_statistics(found.values())
    pooled = (layer.u_l2, layer.u_cossim_pooled, layer.u_pearson_pooled, layer.u_covariance, layer.gain)
    assert pooled == pytest.approx((2, 0.962250, 0.956183, 2, 1.527525), abs=5e-7)


def test_every_figure_is_its_definition(tmp_path: Path) -> None:
    """Sizes beyond one piece of the walk, experts without tokens, signed sums."""
    names = ["blk.0.up_exps.weight", "blk.2.up_exps.weight"]
    entries = random_entries(names, 40, 4000, 1)
    found = rows_of(tmp_path, entries)
    held = []
    for name, sums, counts, totals in entries:
        c = np.asarray(counts)[:, None]
        assert totals is not None and 0 < (c == 0).sum() < 30
        with np.errstate(invalid="ignore", divide="ignore"):
            e, u = (np.asarray(x, np.float32).astype(float).reshape(40, -1) / c for x in (sums, totals))
        held.append((e, u, c))
        _check_own(found[name], e[c[:, 0] > 0], u[c[:, 0] > 0], c[:, 0])
    (p, pu, pc), (c, cu, cc) = held
    both = (pc > 0)[:, 0] & (cc > 0)[:, 0]
    row = found[names[1]]
    assert row.distance == 2
    _check_pair(row, "", c[both].ravel(), p[both].ravel())
    _check_pair(row, "u_", cu[both].ravel(), pu[both].ravel())
    assert row.gain == pytest.approx(math.sqrt(c[both].sum() / p[both].sum()))
    noise = sum(((e - u**2) / (n - 1))[both].sum() for e, u, n in held)
    assert row.l2_noise == pytest.approx(math.sqrt(noise))


def _check_own(row: TensorStatistics, e: Floats, u: Floats, counts: npt.NDArray[np.int64]) -> None:
    for prefix, x in (("", e.ravel()), ("u_", u.ravel())):
        d = x - x.mean()
        assert getattr(row, f"{prefix}mean") == pytest.approx(x.mean(), abs=1e-12)
        assert getattr(row, f"{prefix}std") == pytest.approx(x.std())
        assert getattr(row, f"{prefix}skewness") == pytest.approx((d**3).mean() / x.std() ** 3)
        assert getattr(row, f"{prefix}kurtosis") == pytest.approx((d**4).mean() / x.std() ** 4 - 3)
    assert row.zd_pct == 100 * ((e - e.mean()) / e.std() > 1).mean()
    assert row.active_rel_pct == 100 * (e > 1e-4 * np.median(e)).mean()
    n = counts[counts > 0][:, None]
    variances = (e - u**2) * n / (n - 1)
    assert row.variance == pytest.approx(variances.mean())
    assert row.constant_pct == pytest.approx(100 * (variances < e / 100).mean())

    def entropy(x: Floats) -> float:
        p = x.ravel() / x.sum()
        return float(-(p * np.log2(p)).sum())

    each = [entropy(x) for x in e]
    assert row.entropy == pytest.approx(entropy(e))
    experts = (row.expert_entropy_min, row.expert_entropy_median, row.expert_entropy_max)
    assert experts == pytest.approx((min(each), np.median(each), max(each)))
    assert row.routing_entropy_pct == pytest.approx(100 * entropy(counts[counts > 0]) / math.log2(len(counts)))
    assert row.reached_pct == 100 * (counts > 0).mean()


def _check_pair(row: TensorStatistics, prefix: str, c: Floats, p: Floats) -> None:
    assert getattr(row, f"{prefix}cossim") == pytest.approx(c @ p / np.linalg.norm(c) / np.linalg.norm(p))
    assert getattr(row, f"{prefix}pearson") == pytest.approx(np.corrcoef(c, p)[0, 1])
    assert getattr(row, f"{prefix}covariance") == pytest.approx(np.cov(c, p, bias=True)[0, 1])
    assert getattr(row, f"{prefix}l2") == pytest.approx(np.linalg.norm(c - p))


def test_layers_pool_what_tensors_compare(tmp_path: Path) -> None:
    names = [f"blk.{layer}.{kind}.weight" for kind in "ab" for layer in (0, 1)]
    entries = random_entries(names, 1, 300, 2)
    row = layer_statistics(rows_of(tmp_path, entries).values())[1]
    vectors = {name: (np.asarray(s, np.float32) / 7.0, np.asarray(t, np.float32) / 7.0) for name, s, _, t in entries}
    for i, prefix in ((0, ""), (1, "u_")):
        p, c = (np.stack([vectors[f"blk.{layer}.{kind}.weight"][i] for kind in "ab"]) for layer in (0, 1))
        dp, dc = (x - x.mean(axis=1, keepdims=True) for x in (p, c))
        cosine = (c * p).sum() / math.sqrt((c * c).sum() * (p * p).sum())
        assert getattr(row, f"{prefix}cossim_pooled") == pytest.approx(cosine, rel=1e-5)
        correlation = (dc * dp).sum() / math.sqrt((dc * dc).sum() * (dp * dp).sum())
        assert getattr(row, f"{prefix}pearson_pooled") == pytest.approx(correlation, rel=1e-4)
        assert getattr(row, f"{prefix}covariance") == pytest.approx((dc * dp).mean(), rel=1e-4)
        assert getattr(row, f"{prefix}l2") == pytest.approx(np.linalg.norm(c - p), rel=1e-5)
    energy = [sum(vectors[f"blk.{layer}.{kind}.weight"][0].sum() for kind in "ab") for layer in (0, 1)]
    assert row.gain == pytest.approx(math.sqrt(energy[1] / energy[0]), rel=1e-5)


def test_the_noise_floor_is_what_sampling_gives(tmp_path: Path) -> None:
    """Two layers of the same true means: their distance is the floor, also of experts that saw few tokens."""
    rng = np.random.default_rng(5)
    counts, width = (1, 2, 3, 50), rng.lognormal(size=2000)
    entries: list[Signed] = []
    for layer in (0, 1):
        tokens = [1.0 + width * rng.normal(size=(c, 2000)) for c in counts]
        sums, totals = (np.concatenate([(t**power).sum(axis=0) for t in tokens]) for power in (2, 1))
        entries.append((f"blk.{layer}.up_exps.weight", sums.tolist(), counts, totals.tolist()))
    found = rows_of(tmp_path, entries)["blk.1.up_exps.weight"]
    assert found.l2_noise == pytest.approx(found.u_l2, rel=0.1)
    assert found.variance == pytest.approx((width**2).mean(), rel=0.1) and found.constant_pct < 8


def test_one_token_tells_no_variance(tmp_path: Path) -> None:
    found = rows_of(tmp_path, WORKED)["blk.1.a.weight"]
    assert math.isnan(found.variance) and math.isnan(found.constant_pct)
    assert found.l2_noise == pytest.approx(math.sqrt(9 + 21)) and found.u_mean == 1


def test_undefined_comparisons(tmp_path: Path) -> None:
    """Something and nothing have a cosine of 0, nothing and nothing have none; constants have no shape."""
    entries = plain([
        ("blk.0.a.weight", [0, 0], [1]), ("blk.1.a.weight", [0, 0], [1]), ("blk.2.a.weight", [1, 2], [1]),
        ("blk.0.b.weight", [0.1, 0.1, 0.1], [1]), ("blk.1.b.weight", [0.3, 0.3, 0.3], [1]),
        ("blk.2.b.weight", [1, 2, 4], [1]),
    ])  # fmt: skip
    found = rows_of(tmp_path, entries)
    nothing, something = found["blk.1.a.weight"], found["blk.2.a.weight"]
    assert math.isnan(nothing.cossim) and math.isnan(nothing.pearson) and math.isnan(nothing.gain) and nothing.l2 == 0
    assert something.cossim == 0 and something.pearson == 0 and math.isnan(something.gain)
    constant = found["blk.1.b.weight"]
    assert constant.cossim == pytest.approx(1) and math.isnan(constant.pearson) and constant.gain**2 == pytest.approx(3)
    assert math.isnan(constant.skewness) and math.isnan(constant.kurtosis) and constant.zd_pct == 0
    assert found["blk.2.b.weight"].pearson == 0
    layers = layer_statistics(found.values())
    assert math.isnan(layers[0].cossim_pooled) and layers[1].cossim_pooled == pytest.approx(1)
    assert layers[2].gain == pytest.approx(math.sqrt(7 / 0.9)), "a tensor whose partner has no energy enters no gain"


def test_relative_activity_does_not_depend_on_the_scale(tmp_path: Path) -> None:
    for scale in (1e-20, 1, 1e20):
        entries = plain([("blk.0.a.weight", [scale * x for x in (1, 1, 1, 1, 1.1e-4, 0.9e-4, 0)], [1])])
        assert rows_of(tmp_path, entries)["blk.0.a.weight"].active_rel_pct == pytest.approx(500 / 7)
    mostly_dead = rows_of(tmp_path, plain([("blk.0.a.weight", [0, 0, 0, 1e-9], [1])]))["blk.0.a.weight"]
    assert mostly_dead.active_rel_pct == 25


def test_the_same_input_is_found_and_counted_once(tmp_path: Path) -> None:
    shared, other = [1, 2, 3, 4], [2, 2, 3, 3]
    entries = plain([
        *((f"blk.0.attn_{kind}.weight", shared, [2]) for kind in "qkv"),
        ("blk.0.attn_output.weight", other, [2]), ("blk.0.near.weight", [1, 2, 3, 4 * (1 + 1e-5)], [2]),
        ("blk.0.ffn_up_exps.weight", shared * 2, [1, 1]), ("blk.0.ffn_gate_exps.weight", shared * 2, [1, 1]),
        ("blk.0.ffn_down_exps.weight", [1, 2, 3, 4, 4, 3, 2, 1], [1, 1]), ("blk.1.attn_q.weight", shared, [2]),
    ])  # fmt: skip
    found = rows_of(tmp_path, entries)
    assert {row.name: row.duplicate_of for row in found.values() if row.duplicate_of} == {
        "blk.0.attn_q.weight": "blk.0.attn_k.weight",
        "blk.0.attn_v.weight": "blk.0.attn_k.weight",
        "blk.0.ffn_up_exps.weight": "blk.0.ffn_gate_exps.weight",
    }
    layer = layer_statistics(found.values())[0]
    assert (layer.tensors, layer.inputs) == (8, 5)
    assert (layer.total, layer.total_inputs) == pytest.approx((5 * 5 + 3 * 20, 3 * 5 + 2 * 20))
    every = layer_statistics(found.values(), distinct=False)[0]
    assert every.inputs == 8 and every.total_inputs == layer.total
    some = layer_statistics(row for name, row in found.items() if name.startswith(("blk.0.attn_q", "blk.0.attn_v")))
    assert (some[0].tensors, some[0].inputs) == (2, 1), "the original was left out, the input counts all the same"


def test_counting_inputs_once_changes_what_is_pooled(tmp_path: Path) -> None:
    entries = plain([
        *((f"blk.0.{kind}.weight", [1, 2], [1]) for kind in "qkv"), ("blk.0.o.weight", [1, 1], [1]),
        *((f"blk.1.{kind}.weight", [4, 8], [1]) for kind in "qkv"), ("blk.1.o.weight", [1, 1], [1]),
    ])  # fmt: skip
    found = rows_of(tmp_path, entries).values()
    once, every = (layer_statistics(found, distinct=distinct)[1] for distinct in (True, False))
    assert once.gain == pytest.approx(math.sqrt(14 / 5)) and every.gain == pytest.approx(math.sqrt(38 / 11))


def test_layers_for_the_next_token_are_a_sequence_of_their_own(tmp_path: Path) -> None:
    entries = plain([(f"blk.{layer}.a.weight", [1, layer + 1], [1]) for layer in range(5)])
    distances = [row.distance for row in rows_of(tmp_path, entries, n_layer_nextn=2).values()]
    assert distances == [None, 1, 1, None, 1]
    imatrix = opened(tmp_path, entries, n_layer_nextn=2)
    assert imatrix.nextn_layers == 2 and imatrix.stats().mtp.tolist()[3:] == [0, 1]
    layers = layer_statistics(tensor_statistics(imatrix))
    assert [layer.mtp for layer in layers] == [None, None, None, 0, 1] and not any(layer.gap for layer in layers)
    named = plain([("blk.3.nextn.eh_proj.weight", [1, 2], [1])])
    found = rows_of(tmp_path, [*entries[:4], *named])
    assert [found[entry[0]].mtp for entry in entries[:4]] == [None, None, None, 0]
    assert found["blk.3.a.weight"].distance is None and opened(tmp_path, entries).nextn_layers is None


def test_gaps_are_counted_not_fatal(tmp_path: Path) -> None:
    entries = plain([(f"blk.{layer}.a.weight", [1, layer + 1], [1]) for layer in (2, 3, 6, 7)])
    found = rows_of(tmp_path, entries).values()
    layers = layer_statistics(found)
    assert [layer.gap for layer in layers] == [0, 0, 2, 0] and not math.isnan(layers[2].cossim_pooled)
    ends = [row for row in found if row.layer in (2, 7)]
    assert layer_statistics(ends, present=[("blk", i) for i in range(8)])[1].gap == 0


def test_weights_are_mean_squares_by_expert(tmp_path: Path) -> None:
    found = opened(tmp_path, plain(VECTORS))
    expected = [[1, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 9]]
    assert found.weights("blk.1.ffn_down_exps.weight").tolist() == expected
    path = tmp_path / "x.dat"
    entries = [
        ("blk.1.ffn_up_exps.weight", VECTORS[3][1], VECTORS[3][2]), ("blk.1.ffn_gate_inp.weight", (1, 1, 1, 1), (4,)),
    ]  # fmt: skip
    path.write_bytes(as_dat(entries, 4))
    assert open_imatrix(path).weights("blk.1.ffn_up_exps.weight").tolist() == expected
    with pytest.raises(KeyError):
        found.weights("none")


def test_columns_are_fields_without_the_sums_that_layers_pool(tmp_path: Path) -> None:
    found = opened(tmp_path, WORKED)
    assert tuple(found.stats().columns) == columns(TensorStatistics) and "pair" not in columns(TensorStatistics)
    assert tuple(found.layers().columns) == columns(LayerStatistics)
    assert {"sum", "kurtosis", "l2_noise"} <= set(FIGURES) and not {"n", "distance", "name", "mtp"} & set(FIGURES)


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


@given(VALUES, VALUES, st.sampled_from([0.0, 1e6]))
def test_joining_is_exact(one: list[float], other: list[float], offset: float) -> None:
    a, b = np.array(one) + offset, np.array(other) + offset
    whole, found = moments(np.concatenate([a, b])), joined(moments(a), moments(b))
    scale = np.ptp(np.concatenate([a, b])) + 1e-9 * np.abs(a).max() + 1e-30
    for name, power in (("m2", 2), ("m3", 3), ("m4", 4)):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9 * scale**power * whole.n)
    assert (found.n, found.least, found.most) == (whole.n, whole.least, whole.most)
    assert joined(moments(a[:0]), whole) == whole == joined(whole, moments(a[:0]))
    pair, both = np.concatenate([a, b]), np.concatenate([b, a])[::-1]
    one_pair = comoments(pair, both)
    parts = cojoined(comoments(pair[:1], both[:1]), comoments(pair[1:], both[1:]))
    for name in ("var_c", "var_p", "cov", "distance2"):
        assert getattr(parts, name) == pytest.approx(getattr(one_pair, name), rel=1e-9, abs=1e-9 * scale**2 * whole.n)
