"""Q4_K, Q5_K, Q2_K, and Q4_1, Q5_1 with an importance: the error they reach, the same bytes everywhere, hard rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_golden import SETS, golden_blocks, golden_inputs, golden_ratios, rel_mse, rel_wmse, scale_values
from support_search import Array, awkward_importance, awkward_rows, in_every_way, lognormal

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

SUPER = ("q4_K", "q5_K", "q2_K")
NAMES = (*SUPER, "q4_1", "q5_1")
OBJECTIVES = ("imatrix", "ref", "mse")
EFFORTS = ("fast", "default", "best")

#: Mean error ratios to the reference that must be reached, with an importance and without one. The measured figures
#: are a little lower; these keep what was won.
LIMITS = {
    ("q4_K", "fast"): (0.94, 0.95),
    ("q5_K", "fast"): (0.885, 0.92),
    ("q2_K", "fast"): (0.885, 0.73),
    ("q4_1", "fast"): (0.95,),
    ("q5_1", "fast"): (0.945,),
    ("q4_K", "default"): (0.915, 0.94),
    ("q5_K", "default"): (0.84, 0.885),
    ("q2_K", "default"): (0.87, 0.72),
    ("q4_1", "default"): (0.94,),
    ("q5_1", "default"): (0.93,),
    ("q4_K", "best"): (0.91, 0.935),
    ("q5_K", "best"): (0.825, 0.875),
    ("q2_K", "best"): (0.865, 0.72),
    ("q4_1", "best"): (0.939,),
    ("q5_1", "best"): (0.925,),
}

#: Where a block keeps its codes, and how many weights share a scale.
CODES = {"q4_K": (16, 144, 32), "q5_K": (16, 176, 32), "q2_K": (16, 80, 16), "q4_1": (4, 20, 32), "q5_1": (4, 24, 32)}


def rows(n_rows: int = 6, n_cols: int = 1024, seed: int = 8) -> Array:
    return (0.02 * np.random.default_rng(seed).standard_t(4, (n_rows, n_cols))).astype(np.float32)


def round_trip(x: Array, name: str, a: Array | None, **options: str) -> Array:
    blocks = dispatch.encode(x, name, a, **options)  # type: ignore[arg-type]
    return dispatch.decode(blocks, name, x.shape[1])


@pytest.mark.parametrize(("name", "effort"), LIMITS)
def test_error_against_the_reference(shared: Path, name: str, effort: str) -> None:
    for imatrix, limit in zip((True, False), LIMITS[name, effort], strict=False):
        ratios = golden_ratios(shared, name, imatrix, effort=effort, objective="imatrix")
        assert ratios["mean"] <= limit, ratios
        # A single set is eight rows: without importances q2_K gains most on chanscale, least on gauss.
        assert max(ratios.values()) <= limit + (0.045 if name == "q2_K" and not imatrix else 0.035), ratios


@pytest.mark.parametrize("name", NAMES)
def test_the_limits_that_were_promised(shared: Path, name: str) -> None:
    promised = {"q4_K": (0.97, 0.97), "q5_K": (0.90, 0.91), "q2_K": (0.96, 0.90), "q4_1": (1.0,), "q5_1": (1.0,)}[name]
    for imatrix, limit in zip((True, False), promised, strict=False):
        ratios = golden_ratios(shared, name, imatrix, objective="imatrix")
        assert ratios["mean"] <= limit, ratios
        assert max(ratios.values()) <= limit + 0.015, ratios


@pytest.mark.parametrize("name", NAMES)
def test_no_row_is_worse_than_the_reference(shared: Path, name: str) -> None:
    a = golden_inputs(shared)["imatrix"]
    for key in SETS:
        x, theirs = golden_inputs(shared)[key], golden_blocks(shared, name)[f"dq_{key}_im"]
        ours = round_trip(x, name, a, objective="imatrix")
        for r in range(len(x)):
            assert rel_wmse(x[r], ours[r], a) < rel_wmse(x[r], theirs[r], a)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_same_bytes(name: str) -> None:
    for x in (awkward_rows(768), rows(2, 768)):
        for a in (lognormal(768), awkward_importance(768), None):
            for objective in OBJECTIVES:
                for effort in EFFORTS:
                    blocks = in_every_way(x, name, a, objective, effort)
                    assert len(set(blocks.values())) == 1, (objective, effort, a is None)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=2048, max_size=2048), st.sampled_from(NAMES), st.sampled_from(OBJECTIVES), st.booleans())
def test_any_floats_give_finite_blocks(raw: bytes, name: str, objective: str, weighted: bool) -> None:
    values = np.frombuffer(raw, np.float32).copy()
    values[~np.isfinite(values)] = 0
    x, a = values[:256].reshape(1, 256), np.abs(values[256:])
    blocks = in_every_way(x, name, a if weighted else None, objective, "default")
    assert len(set(blocks.values())) == 1
    found = np.frombuffer(blocks["numba"], np.uint8).reshape(1, -1)
    assert np.isfinite(scale_values(found, name)).all()
    assert np.isfinite(dispatch.decode(found, name, 256)).all()


@pytest.mark.parametrize("objective", ("imatrix", "mse"))  # "ref" looks at the row's mean in q4_1 and q5_1
@pytest.mark.parametrize("name", NAMES)
def test_a_block_does_not_depend_on_its_neighbours(name: str, objective: str) -> None:
    n = 256 if name in SUPER else 32
    x, a = awkward_rows(2 * 256 + n), lognormal(2 * 256 + n)
    whole = dispatch.encode(x, name, a, objective=objective)
    for at in range(0, x.shape[1], n):
        part = dispatch.encode(x[:, at : at + n], name, a[at : at + n], objective=objective)
        size = part.shape[1]
        assert part.tobytes() == whole[:, at // n * size : (at // n + 1) * size].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_the_nearest_for_the_stored_scales(name: str) -> None:
    x = np.concatenate([rows(3, 1024), awkward_rows(1024)[5:14]])
    low, high, sub = CODES[name]
    blocks = dispatch.encode(x, name, lognormal(1024), objective="imatrix")
    ends = []
    for fill in (0, 255):
        bare = blocks.copy().reshape(-1, type_by_name(name).block_bytes)
        bare[:, low:high] = fill
        ends.append(dispatch.decode(bare.reshape(blocks.shape), name, 1024).astype(np.float64))
    y = dispatch.decode(blocks, name, 1024).astype(np.float64)
    bottom, top = ends
    half_step = (top - bottom) / {"q2_K": 6, "q4_K": 30, "q4_1": 30}.get(name, 62)
    away = np.abs(np.clip(x, bottom, top) - y)
    assert (away <= half_step * 1.001 + 1e-6 * np.abs(x)).all()
    assert (bottom.reshape(-1, sub) == bottom.reshape(-1, sub)[:, :1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_each_objective_lowers_its_own_error(name: str) -> None:
    x, a = rows(12), lognormal(1024)
    mean = np.mean(np.float64(x).reshape(-1, 256) ** 2, axis=1).repeat(256).reshape(x.shape)
    if name not in SUPER:
        mean = np.mean(np.float64(x) ** 2, axis=1, keepdims=True)
    factor = 2 if name in ("q4_K", "q5_K") else 1
    weights = {"imatrix": a, "ref": a * np.sqrt(factor * mean + x**2), "mse": 1}
    results = {o: round_trip(x, name, a, objective=o) for o in OBJECTIVES}
    for objective, w in weights.items():
        errors = {o: float((w * (np.float64(x) - y) ** 2).sum()) for o, y in results.items()}
        assert min(errors, key=errors.__getitem__) == objective, errors


@pytest.mark.parametrize("name", NAMES)
def test_more_effort_means_less_error(name: str) -> None:
    x, a = rows(24), lognormal(1024)
    errors = [rel_wmse(x, round_trip(x, name, a, objective="imatrix", effort=effort), a) for effort in EFFORTS]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", NAMES)
def test_edge_rows(shared: Path, name: str) -> None:
    x = golden_inputs(shared)["edge"]
    for a in (golden_inputs(shared)["edge_imatrix"], None):
        blocks = dispatch.encode(x, name, a)
        y = dispatch.decode(blocks, name, x.shape[1])
        assert np.isfinite(scale_values(blocks, name)).all()
        assert np.isfinite(y).all()
        assert not y[0].any()
        assert not y[1, :256].any()
        for r in (3, 4, 5, 7):
            assert rel_mse(x[r], y[r]) < 0.05, r


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("name", NAMES)
def test_awkward_rows(name: str, effort: str) -> None:
    x = awkward_rows(1024)
    for a in (lognormal(1024), awkward_importance(1024), None):
        if a is None and name not in SUPER:
            continue  # a closed form, tested elsewhere
        blocks = dispatch.encode(x, name, a, effort=effort, objective="imatrix")
        scales, y = scale_values(blocks, name), dispatch.decode(blocks, name, 1024)
        assert np.isfinite(scales).all()
        assert np.isfinite(y).all()
        if name in SUPER:
            assert (scales >= 0).all()
        assert not y[:2].any()
        w = np.ones(1024) if a is None else dispatch.prepare_importance(a)[0]
        for r in range(2, len(x)):
            assert rel_wmse(x[r] / np.abs(x[r]).max(), y[r] / np.abs(x[r]).max(), w) <= 1.0001, r
        for r in (3, 4):
            assert rel_wmse(x[r], y[r], w) < 1e-5, r


@pytest.mark.parametrize("name", NAMES)
def test_small_and_large_weights_do_not_collapse(name: str) -> None:
    x, a = rows(8), lognormal(1024)
    usual = rel_wmse(x, round_trip(x, name, a), a)
    for factor, worse in ((5e-3, 1.1), (1e-3, 2.0), (1e3, 1.01), (5e4, 1.01)):
        scaled = x * np.float32(factor)
        assert rel_wmse(scaled, round_trip(scaled, name, a), a) < worse * usual, factor


@pytest.mark.parametrize("name", NAMES)
def test_a_power_of_two_changes_nothing_but_the_scales(name: str) -> None:
    x, a = rows(4), lognormal(1024)
    low, high, _ = CODES[name]
    size = type_by_name(name).block_bytes
    codes = [dispatch.encode(x * np.float32(f), name, a).reshape(-1, size)[:, low:high] for f in (4, 64)]
    assert codes[0].tobytes() == codes[1].tobytes()
