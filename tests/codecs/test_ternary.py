"""TQ1_0, TQ2_0, Q1_0 and Q2_0: the reference's bytes at effort fast, its error well undercut otherwise."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_golden import NO_GOLDEN, SETS, golden_blocks, golden_inputs, rel_mse, rel_wmse, scale_values, vector_sets
from support_golden import TERNARY as NAMES
from support_libggml import dequantize, libggml, quantize
from support_search import awkward_importance, awkward_rows, in_every_way, lognormal, wild_rows

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

Array = npt.NDArray[np.float32]

TQ = ("tq1_0", "tq2_0")
SEARCHED = ("default", "best")

#: Mean error ratios to the reference that must be reached, with an importance and without one.
LIMITS = {"tq1_0": (0.38, 0.42), "tq2_0": (0.38, 0.42), "q1_0": (0.99, 1.0001), "q2_0": (0.265, 0.32)}


def digest(array: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def reference_values(shared: Path, name: str, key: str, imatrix: bool) -> Array:
    """What the reference makes of one of the three sets: golden, or from libggml for types that have no such file."""
    if name not in NO_GOLDEN:
        return golden_blocks(shared, name)[f"dq_{key}_{'im' if imatrix else 'noim'}"]
    x = golden_inputs(shared)[key]
    return dequantize(libggml(), name, quantize(libggml(), name, x), x.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_fast_is_the_reference_on_the_test_vectors(shared: Path, name: str) -> None:
    expected = json.loads((shared / "specs" / "ggml-types.json").read_text())["test_vectors"]["types"][name.upper()]
    sets = vector_sets()
    for key in "AB":
        for a in (None, sets["imatrix"]):
            for way, blocks in in_every_way(sets[key], name, a, "imatrix", "fast").items():
                assert hashlib.sha256(blocks).hexdigest() == expected[f"q_{key}_im0"], (key, way)


@pytest.mark.parametrize("name", TQ)
def test_fast_is_the_reference_on_the_golden_sets(shared: Path, name: str) -> None:
    golden, inputs = golden_blocks(shared, name), golden_inputs(shared)
    for key in (*SETS, "edge"):
        assert dispatch.encode(inputs[key], name, effort="fast").tobytes() == golden[f"q_{key}_noim"].tobytes(), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_fast_is_the_reference_whatever_comes_in(name: str, seed: int) -> None:
    """All but blocks whose scale the reference writes as infinity."""
    t, rows = type_by_name(name), wild_rows(seed, 37 * type_by_name(name).block_size)
    theirs = quantize(libggml(), name, rows).reshape(-1, t.block_bytes)
    finite = np.isfinite(scale_values(theirs, name)).all(0)
    assert finite.any()
    for way, blocks in in_every_way(rows, name, None, "imatrix", "fast").items():
        ours = np.frombuffer(blocks, np.uint8).reshape(theirs.shape)
        assert np.array_equal(ours[finite], theirs[finite]), way
        assert np.isfinite(scale_values(ours, name)).all()


@pytest.mark.parametrize("effort", SEARCHED)
@pytest.mark.parametrize("name", NAMES)
def test_error_against_the_reference(shared: Path, name: str, effort: str) -> None:
    inputs = golden_inputs(shared)
    for imatrix, limit in zip((True, False), LIMITS[name], strict=True):
        a = inputs["imatrix"] if imatrix else np.ones(1024)
        ratios = []
        for key in SETS:
            x = inputs[key]
            blocks = dispatch.encode(x, name, a if imatrix else None, objective="imatrix", effort=effort)
            theirs = rel_wmse(x, reference_values(shared, name, key, imatrix), a)
            ratios.append(rel_wmse(x, dispatch.decode(blocks, name, 1024), a) / theirs)
        assert sum(ratios) / 3 <= limit, ratios


def optimum(x: Array, w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The least error of each ternary block: over all prefixes of the order by magnitude."""
    order = np.argsort(-np.abs(x), axis=1)
    magnitude, weight = np.take_along_axis(np.abs(np.float64(x)), order, 1), np.take_along_axis(w, order, 1)
    gain = np.cumsum(weight * magnitude, 1) ** 2 / np.cumsum(weight, 1)
    return (w * np.float64(x) ** 2).sum(1) - gain.max(1)


@pytest.mark.parametrize(("effort", "excess"), (("default", 1e-3), ("best", 1e-5)))
@pytest.mark.parametrize("name", TQ)
def test_ternary_scales_are_optimal(name: str, effort: str, excess: float) -> None:
    rng = np.random.default_rng(31)
    dense = 0.02 * rng.standard_t(4, (64, 256))
    sparse = rng.standard_normal((64, 256)) * (rng.random((64, 256)) < 0.1)
    steep = rng.standard_normal((64, 256)) * np.exp(rng.standard_normal((64, 256)))
    spiky = 0.02 * rng.standard_normal((64, 256))
    spiky[:, 7] = 2
    a = lognormal(256)
    for x in (dense, sparse, steep, spiky):
        x = x.astype(np.float32)
        for weights in (a, None):
            w = np.broadcast_to(np.float64(1 if weights is None else weights), x.shape)
            y = dispatch.decode(dispatch.encode(x, name, weights, effort=effort, objective="imatrix"), name, 256)
            error = (w * (x - np.float64(y)) ** 2).sum(1)
            assert error.sum() <= (1 + excess) * optimum(x, w).sum()


@pytest.mark.parametrize("name", TQ)
def test_ternary_blocks_keep_the_reference_bytes(name: str) -> None:
    rng = np.random.default_rng(2)
    scale = np.exp2(rng.uniform(-149, 127.9, (64, 1)))
    x = (scale * rng.integers(-1, 2, (64, 256))).astype(np.float32)
    x[0], x[1], x[2] = 0, 0.7, -1e-5
    plain = dispatch.encode(x, name, effort="fast")
    for effort in SEARCHED:
        for a in (lognormal(256), None):
            assert np.array_equal(dispatch.encode(x, name, a, effort=effort), plain)
    within = np.abs(x).max(1) < 6e4
    assert np.array_equal(quantize(libggml(), name, x[within]), plain[within])


def test_q1_0_scales_are_the_weighted_mean() -> None:
    x, a = (0.02 * np.random.default_rng(3).standard_t(4, (4, 128))).astype(np.float32), lognormal(128)
    d = scale_values(dispatch.encode(x, "q1_0", a), "q1_0")[0]
    assert np.array_equal(d.astype(np.float16), ((a * np.abs(np.float64(x))).sum(1) / a.sum()).astype(np.float16))


def test_q2_0_uses_all_levels_and_both_signs() -> None:
    x = np.tile(np.array([-0.25, 0, 0.25, 0.5], np.float32), (2, 16))
    x[1] = -x[1]
    blocks = dispatch.encode(x, "q2_0", objective="imatrix")
    assert np.array_equal(scale_values(blocks, "q2_0")[0], [0.25, -0.25])
    assert np.array_equal(dispatch.decode(blocks, "q2_0", 64), x)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_same_bytes(name: str) -> None:
    x = awkward_rows(1280)
    for a in (lognormal(1280), awkward_importance(1280), None):
        for objective in ("imatrix", "mse"):
            for effort in SEARCHED:
                blocks = in_every_way(x, name, a, objective, effort)
                assert len(set(blocks.values())) == 1, (objective, effort, a is None)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_does_not_depend_on_its_neighbours(name: str) -> None:
    n, (x, a) = type_by_name(name).block_size, (awkward_rows(20 * 256), lognormal(20 * 256))
    for effort in ("fast", "default"):
        whole = dispatch.encode(x, name, a, effort=effort, objective="imatrix")
        last = dispatch.encode(x[:, -3 * n :], name, a[-3 * n :], effort=effort, objective="imatrix")
        assert whole[:, -last.shape[1] :].tobytes() == last.tobytes()


@pytest.mark.parametrize("effort", SEARCHED)
@pytest.mark.parametrize("name", NAMES)
def test_awkward_rows_are_no_worse_than_the_reference(name: str, effort: str) -> None:
    x, a = awkward_rows(1024), np.float64(lognormal(1024))
    for weights in (a, None):
        blocks = dispatch.encode(x, name, weights, objective="imatrix", effort=effort)
        y = np.float64(dispatch.decode(blocks, name, 1024))
        theirs = np.float64(dispatch.decode(dispatch.encode(x, name, effort="fast"), name, 1024))
        w = 1 if weights is None else a
        assert np.isfinite(scale_values(blocks, name)).all()
        assert np.all((w * (x - y) ** 2).sum(1) <= (w * (x - theirs) ** 2).sum(1) * (1 + 1e-5))
        assert not y[:2].any()


@pytest.mark.parametrize("effort", SEARCHED)
@pytest.mark.parametrize("name", NAMES)
def test_no_block_is_worse_than_the_reference(name: str, effort: str) -> None:
    """Steep and sparse blocks, where most candidates are useless, and scales that binary16 hardly knows."""
    size = type_by_name(name).block_size
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = wild_rows(seed, 1280)
        x[-1] = rng.standard_normal(1280) * (rng.random(1280) < rng.uniform(0.005, 0.3))
        x = x[(np.abs(x).max(1) < 6e4) & (np.abs(x).max(1) > 1e-7)]
        for a in (None, np.exp(4 * rng.standard_normal(1280))):
            w = 1 if a is None else np.float64(dispatch.prepare_importance(a)[0])
            errors = []
            for e in (effort, "fast"):
                y = dispatch.decode(dispatch.encode(x, name, a, effort=e, objective="imatrix"), name, 1280)
                errors.append((w * (x - np.float64(y)) ** 2).reshape(-1, size).sum(1))
            assert np.all(errors[0] <= errors[1] * (1 + 1e-5)), seed


@pytest.mark.parametrize("name", NAMES)
def test_edge_rows(shared: Path, name: str) -> None:
    inputs = golden_inputs(shared)
    x = inputs["edge"]
    for a in (inputs["edge_imatrix"], None):
        blocks = dispatch.encode(x, name, a)
        y = dispatch.decode(blocks, name, x.shape[1])
        assert np.isfinite(scale_values(blocks, name)).all()
        assert not y[0].any()
        assert not y[1, :256].any()
        assert rel_mse(x[3], y[3]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_small_weights_do_not_collapse(name: str) -> None:
    z, a = np.random.default_rng(6).standard_normal((4, 1024)), lognormal(1024)

    def error(deviation: float) -> float:
        x = (deviation * z).astype(np.float32)
        return rel_wmse(x, dispatch.decode(dispatch.encode(x, name, a, objective="imatrix"), name, 1024), a)

    plain = error(0.02)
    assert error(1e-4) < 1.001 * plain
    assert error(1e-5) < 1.001 * plain
    assert error(1e-6) < 1.02 * plain


@pytest.mark.parametrize("name", NAMES)
def test_objectives(name: str) -> None:
    """The reference knows no weights of its own here, so "ref" is "imatrix"."""
    x, a = (0.02 * np.random.default_rng(8).standard_t(4, (8, 1024))).astype(np.float32), lognormal(1024)
    blocks = {o: dispatch.encode(x, name, a, objective=o) for o in ("imatrix", "ref", "mse")}
    rows = {o: dispatch.decode(b, name, 1024) for o, b in blocks.items()}
    assert np.array_equal(blocks["ref"], blocks["imatrix"])
    assert rel_wmse(x, rows["imatrix"], a) < rel_wmse(x, rows["mse"], a)
    assert rel_mse(x, rows["mse"]) < rel_mse(x, rows["imatrix"])
    assert np.array_equal(blocks["mse"], dispatch.encode(x, name, objective="imatrix"))


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(NAMES),
    effort=st.sampled_from(("fast", "default", "best")),
    weighted=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_in_scales_are_finite_and_zeros_stay(seed: int, name: str, effort: str, weighted: bool) -> None:
    x = wild_rows(seed, 512)[:4]
    a = np.exp(8 * np.random.default_rng(seed).standard_normal(512)) if weighted else None
    blocks = dispatch.encode(x, name, a, effort=effort)
    y = dispatch.decode(blocks, name, 512)
    assert np.isfinite(scale_values(blocks, name)).all()
    assert np.isfinite(y).all()
    assert np.all(np.abs(y) <= 2.001 * np.maximum(np.float64(np.abs(x).max()), 2.0**-24))
    if name != "q1_0":  # which has no zero
        assert np.all(y[x == 0] == 0)
