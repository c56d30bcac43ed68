"""Statistics of weights against their definitions on the decoded values: any type, any number of threads."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from support_models import F16, F32, keys, write_model

import gguftool
from gguftool.cli.weights import FIGURES
from gguftool.errors import UsageError
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import open_model
from gguftool.format.writer import write_gguf
from gguftool.imatrix.figures import columns
from gguftool.run import weights
from gguftool.run.weights import WeightStatistics

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_K", "iq4_ks", "q6_K")


def write_mixed(path: Path) -> dict[str, np.ndarray]:
    """A model with a matrix of every type in two layers, a norm, experts, and zeros; returns the decoded values."""
    rng, tensors, found = np.random.default_rng(3), [], {}
    for i, kind in enumerate(map(type_by_name, TYPES)):
        shape = (4, 24, 256) if kind.name == "q8_0" else (96, 256)
        rows = (rng.standard_t(4, (96, 256)) * 0.02 + 0.001).astype(np.float32)
        rows[:: i + 2, 64:128] = 0
        raw = gguftool.encode(rows, kind)
        name = f"blk.{i % 2}.{kind.name}.weight"
        found[name] = gguftool.decode(raw, kind, 256).astype(np.float64)
        tensors.append((name, raw, shape, kind))
    norm = np.linspace(0.5, 1.5, 256, dtype=np.float32)
    tensors.append(("blk.0.norm.weight", norm, (256,), F32))
    found["blk.0.norm.weight"] = norm.astype(np.float64)
    write_gguf(path, keys(2, 256, 256), tensors)
    return found


def check(row: object, x: np.ndarray) -> None:
    d = x - x.mean()
    expected = {
        "n": x.size, "mean": x.mean(), "std": x.std(), "skewness": (d**3).mean() / x.std() ** 3,
        "kurtosis": (d**4).mean() / x.std() ** 4 - 3, "zero_pct": 100 * (x == 0).mean(),
        "zd_weight": (d / x.std() > 1).mean(), "min": x.min(), "max": x.max(), "abs_max": abs(x).max(),
    }  # fmt: skip
    for name, value in expected.items():
        if hasattr(row, name):
            assert getattr(row, name) == pytest.approx(value, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("elements", [1, 5 * 256, 1 << 21])
def test_every_figure_is_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(weights, "TASK_ELEMENTS", elements)
    path = tmp_path / "m.gguf"
    values = write_mixed(path)
    found = gguftool.weight_statistics(path, threads=3)
    assert {row.name for row in found.by_tensor} == set(values) and not found.warnings
    for row in found.by_tensor:
        check(row, values[row.name].ravel())
        assert row.type in (*TYPES, "f32") and row.matrix == (row.kind != "norm")
    for layer in found.by_layer:
        of_layer = [x.ravel() for name, x in values.items() if name.startswith(f"blk.{layer.layer}.") and x.ndim > 1]
        assert layer.tensors == len(of_layer), "norms are left out"
        check(layer, np.concatenate(of_layer))
    least = min(found.by_layer, key=lambda layer: layer.zd_weight)
    assert least.rank == 1 and sorted(layer.rank or 0 for layer in found.by_layer) == [1, 2]
    assert found == gguftool.weight_statistics(path, threads=1)


def test_a_normal_distribution_has_the_share_beyond_one_deviation(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(0.1, 2, (400, 1000)).astype(np.float32)
    write_gguf(tmp_path / "m.gguf", keys(1, 1000, 1000), [("blk.0.a.weight", x, x.shape, F32)])
    (row,) = gguftool.weight_statistics(tmp_path / "m.gguf").by_tensor
    assert row.zd_weight == pytest.approx(0.5 * math.erfc(math.sqrt(0.5)), abs=0.002)
    assert row.skewness == pytest.approx(0, abs=0.02) and row.kurtosis == pytest.approx(0, abs=0.04)


def test_a_large_mean_and_odd_starts_lose_nothing(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(1000, 1e-2, (64, 4096)).astype(np.float32)
    x[0] = 1e6  # the differences are taken from the mean of the first row
    write_gguf(tmp_path / "m.gguf", keys(1, 4096, 64), [("blk.0.a.weight", x, x.shape, F32)])
    (row,) = gguftool.weight_statistics(tmp_path / "m.gguf").by_tensor
    check(row, x.astype(np.float64).ravel())


def test_interleaved_rows_are_those_of_the_plain_type(tmp_path: Path) -> None:
    rng, tensors = np.random.default_rng(1), []
    for name in ("iq4_ks_r4", "iq2_k_r4", "iq5_k_r4"):
        kind = type_by_name(name)
        data = rng.integers(0, 50, kind.nbytes((8, 256)), dtype=np.uint8)  # no scale that is Inf
        tensors.append((f"blk.0.{name}.weight", data, (8, 256), kind))
    write_gguf(tmp_path / "m.gguf", keys(1, 256, 256), tensors)
    gguftool.copy(tmp_path / "m.gguf", tmp_path / "c.gguf", unpack=True)
    woven, plain = (gguftool.weight_statistics(tmp_path / name) for name in ("m.gguf", "c.gguf"))
    assert woven.by_layer == plain.by_layer and not woven.warnings
    assert [(row.std, row.zd_weight) for row in woven.by_tensor] == [
        (row.std, row.zd_weight) for row in plain.by_tensor
    ]


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    good = np.ones((4, 256), np.float32) * np.arange(4, dtype=np.float32)[:, None]
    bad = good.copy()
    bad[2, 7] = np.inf
    woven = type_by_name("q4_k_r4")
    index = struct.pack("<4i", 1, 2, 3, 4)
    tensors = [
        ("blk.0.good.weight", good, good.shape, F32), ("blk.0.bad.weight", bad, bad.shape, F32),
        ("blk.0.woven.weight", bytes(woven.nbytes((4, 256))), (4, 256), woven),
        ("blk.1.index", index, (4,), type_by_name("i32")),
    ]  # fmt: skip
    write_gguf(tmp_path / "m.gguf", keys(1, 256, 256), tensors)
    found = gguftool.weight_statistics(tmp_path / "m.gguf")
    (warning,) = found.warnings
    assert all(part in warning for part in ("blk.0.bad.weight (f32)", "blk.0.woven.weight (q4_k_r4)", "no statistics"))
    rows = {row.kind: row for row in found.by_tensor}
    assert math.isnan(rows["bad"].mean) and math.isnan(rows["woven"].zd_weight) and rows["good"].mean == 1.5
    (layer,) = found.by_layer
    assert (layer.tensors, layer.n) == (1, 1024), "one bad tensor does not spoil its layer"


def test_choice_frames_and_progress(tmp_path: Path) -> None:
    path, told = write_model(tmp_path / "m.gguf"), []
    found = gguftool.weight_statistics(path, tensors="attn_q", progress=lambda *pair: told.append(pair))
    with open_model(path) as model:
        total = 2 * sum(t.nbytes for t in model.tensors if "attn_q" in t.name)
        assert gguftool.weight_statistics(model, tensors="attn_q") == found
    assert told[-1] == (total, total) and [done for done, _ in told] == sorted(done for done, _ in told)
    assert found.stats().kind.unique().tolist() == ["attn_q"] and found.layers()["rank"].is_unique
    assert tuple(found.stats().columns) == columns(WeightStatistics) and found.stats().type[0] == F16.name
    with pytest.raises(UsageError, match="no regular expression"):
        gguftool.weight_statistics(path, tensors="(")


def test_orders_are_figures() -> None:
    assert set(FIGURES) == {name for name in columns(WeightStatistics) if name not in columns(WeightStatistics)[:7]}
