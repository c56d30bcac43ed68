"""IQ2_XXS, IQ2_XS and IQ2_S: their error, the same bytes everywhere, hard rows, and that the search misses little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_golden import (
    NEED_IMATRIX,
    SETS,
    golden_blocks,
    golden_inputs,
    golden_ratios,
    rel_mse,
    rel_wmse,
    scale_values,
)
from support_search import awkward_importance, awkward_rows, in_every_way, lognormal, wild_rows

from gguftool.codecs import dispatch, grids

Array = npt.NDArray[np.float64]

NAMES = ("iq2_xxs", "iq2_xs", "iq2_s")
OBJECTIVES = ("imatrix", "ref", "mse")
SUB = {"iq2_xxs": 32, "iq2_xs": 16, "iq2_s": 16}  # weights that share a scale

#: Mean error ratios to the reference, with an importance and, where the reference has such, without one. The measured
#: figures are a little lower; these keep what was won.
LIMITS = {
    ("iq2_xxs", "fast"): (0.782,),
    ("iq2_xxs", "default"): (0.769,),
    ("iq2_xxs", "best"): (0.768,),
    ("iq2_xs", "fast"): (0.784,),
    ("iq2_xs", "default"): (0.767,),
    ("iq2_xs", "best"): (0.766,),
    ("iq2_s", "fast"): (0.83, 0.732),
    ("iq2_s", "default"): (0.81, 0.721),
    ("iq2_s", "best"): (0.808, 0.72),
}
#: What has to be reached, and 0.015 more by each set.
GOALS = (0.91, 0.90)


@pytest.mark.parametrize(("name", "effort"), LIMITS)
def test_error_against_the_reference(shared: Path, name: str, effort: str) -> None:
    for imatrix, limit, goal in zip((True, False), LIMITS[name, effort], GOALS, strict=False):
        ratios = golden_ratios(shared, name, imatrix, effort=effort, objective="imatrix")
        assert ratios["mean"] <= limit, ratios
        assert max(ratios.values()) <= goal + 0.015, ratios


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ("fast", "default"))
def test_no_row_is_worse_than_the_reference(shared: Path, name: str, effort: str) -> None:
    a = golden_inputs(shared)["imatrix"]
    for key in SETS:
        x, theirs = golden_inputs(shared)[key], golden_blocks(shared, name)[f"dq_{key}_im"]
        ours = dispatch.decode(dispatch.encode(x, name, a, objective="imatrix", effort=effort), name, x.shape[1])
        for r in range(len(x)):
            assert rel_wmse(x[r], ours[r], a) < rel_wmse(x[r], theirs[r], a)


def least_error(name: str, x: Array, w: Array, b: Array) -> Array:
    """The least error of one sub-block at each of the scales b, over all rows and allowed signs, in float64."""
    levels = np.array(grids.rows(name), np.float64) / 8
    total = np.zeros(len(b))
    for at in range(0, len(x), 8):
        y, v = np.abs(x[at : at + 8]), w[at : at + 8]
        scaled = b[:, None, None] * levels
        cost = (v * (y - scaled) ** 2).sum(2)
        if name != "iq2_s" and np.signbit(x[at : at + 8]).sum() % 2:
            cost += (4 * v * y * scaled).min(2)
        total += cost.min(1)
    return total


def stored_scales(row: npt.NDArray[np.uint8], name: str) -> tuple[Array, Array]:
    """d of each sub-block of a row, and 2 c + 1."""
    if name == "iq2_xxs":
        blocks = row.reshape(-1, 66)
        codes = blocks[:, 2:].reshape(-1, 8)[:, 7] >> 4
    else:
        blocks = row.reshape(-1, 74 if name == "iq2_xs" else 82)
        codes = (blocks[:, -8:, None] >> np.array((0, 4), np.uint8) & 15).reshape(-1)
    d = blocks[:, :2].copy().view(np.float16)[:, 0].astype(np.float64)
    return d.repeat(len(codes) // len(d)), 2.0 * codes + 1


@pytest.mark.parametrize("weighted", (True, False))
@pytest.mark.parametrize("name", NAMES)
def test_rows_signs_and_codes_are_the_best_there_are(name: str, weighted: bool) -> None:
    """With the d that was stored other rows, signs and codes gain next to nothing (d was refitted after the choice)."""
    x = (0.02 * np.random.default_rng(11).standard_t(4, (1, 512))).astype(np.float32)
    a, n = lognormal(512) if weighted else None, SUB[name]
    blocks = dispatch.encode(x, name, a, objective="imatrix")
    y = np.float64(dispatch.decode(blocks, name, 512)[0])
    d, code = stored_scales(blocks[0], name)
    error, at_code, at_any = np.zeros((3, 512 // n))
    for j in range(512 // n):
        at = slice(n * j, n * j + n)
        sub, w = np.float64(x[0, at]), np.ones(n) if a is None else np.float64(a[at])
        error[j] = (w * (sub - y[at]) ** 2).sum()
        costs = least_error(name, sub, w, d[j] * (2.0 * np.arange(16) + 1))
        at_code[j], at_any[j] = costs[int(code[j]) // 2], costs.min()
    assert np.all(error > 0.9999 * at_code)
    assert np.all(error < 1.03 * at_code)
    assert error.sum() < 1.003 * at_code.sum()
    assert error.sum() < 1.01 * at_any.sum()


@pytest.mark.parametrize("effort", ("fast", "default"))
@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_same_bytes(name: str, effort: str) -> None:
    rng = np.random.default_rng(4)
    for x in (awkward_rows(768), (0.02 * rng.standard_t(4, (2, 768))).astype(np.float32)):
        for a in (lognormal(768), awkward_importance(768), None):
            for objective in OBJECTIVES:
                blocks = in_every_way(x, name, a, objective, effort)
                assert len(set(blocks.values())) == 1, (objective, a is None)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_same_bytes_at_best_effort(name: str) -> None:
    x, a = awkward_rows(256)[::3], lognormal(256)
    for objective in OBJECTIVES:
        assert len(set(in_every_way(x, name, a, objective, "best").values())) == 1, objective


@pytest.mark.parametrize("effort", ("fast", "default", "best"))
@pytest.mark.parametrize("name", NAMES)
def test_a_block_does_not_depend_on_its_neighbours(name: str, effort: str) -> None:
    for n in (256, 512, 768, 1280):
        x, a = awkward_rows(n), np.ones(n)
        a[-256:] = lognormal(256).clip(0.01, 1.9)
        a[-1] = 1.99  # so that the last block's importances alone are scaled as those of the row
        for weights in (a, None):
            whole = dispatch.encode(x, name, weights, objective="imatrix", effort=effort)
            last = None if weights is None else a[-256:]
            alone = dispatch.encode(x[:, -256:], name, last, objective="imatrix", effort=effort)
            assert whole[:, -alone.shape[1] :].tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_edge_rows(shared: Path, name: str) -> None:
    inputs = golden_inputs(shared)
    x = inputs["edge"]
    for a in (inputs["edge_imatrix"], None):
        for effort in ("fast", "default"):
            blocks = dispatch.encode(x, name, a, effort=effort, objective="imatrix")
            y = dispatch.decode(blocks, name, x.shape[1])
            assert np.isfinite(scale_values(blocks, name)).all()
            assert np.isfinite(y).all()
            assert not y[0].any()
            assert not y[1, :256].any()
            for r in (1, 2, 3, 7):
                assert rel_mse(x[r], y[r]) < 0.17, r


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ("fast", "default"))
def test_awkward_rows_are_never_worse_than_zeros(name: str, effort: str) -> None:
    x = awkward_rows(768)
    for a in (lognormal(768), None):
        blocks = dispatch.encode(x, name, a, objective="imatrix", effort=effort)
        y = dispatch.decode(blocks, name, 768)
        assert np.isfinite(scale_values(blocks, name)).all()
        w = np.ones(768) if a is None else np.float64(a)
        assert np.all((w * (np.float64(x) - y) ** 2).sum(1) <= (w * np.float64(x) ** 2).sum(1))


@pytest.mark.parametrize("name", ("iq2_xs", "iq2_s"))  # iq2_xxs has no row of eight equal high levels
def test_equal_magnitudes_are_kept(name: str) -> None:
    a = lognormal(512)
    for row in (np.full(512, 0.01), np.full(512, -3.0), np.tile((-0.7, 0.7), 256)):
        x = row.astype(np.float32)[None]
        assert rel_mse(x, dispatch.decode(dispatch.encode(x, name, a), name, 512)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_zero_sub_blocks_do_not_disturb_the_others(name: str) -> None:
    x = (0.02 * np.random.default_rng(12).standard_normal((4, 512))).astype(np.float32)
    plain = rel_mse(x, dispatch.decode(dispatch.encode(x, name, objective="imatrix"), name, 512))
    x[0, 32:64] = x[1, 224:256] = x[2, 256:480] = x[3, 0:32] = 0
    for effort in ("fast", "default"):
        y = dispatch.decode(dispatch.encode(x, name, effort=effort, objective="imatrix"), name, 512)
        assert rel_mse(x, y) < 1.06 * plain
        assert np.abs(y[x == 0]).max() < 0.005


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ("fast", "default"))
def test_small_weights_do_not_collapse(name: str, effort: str) -> None:
    z, a = np.random.default_rng(6).standard_normal((4, 1024)), lognormal(1024)

    def error(deviation: float) -> float:
        x = (deviation * z).astype(np.float32)
        blocks = dispatch.encode(x, name, a, objective="imatrix", effort=effort)
        return rel_wmse(x, dispatch.decode(blocks, name, 1024), a)

    plain = error(0.02)
    assert error(1e4) < 1.01 * plain
    assert error(1e-4) < 1.1 * plain
    assert error(1e-5) < 1.7 * plain
    assert error(1e-6) < 5 * plain


@pytest.mark.parametrize("name", NAMES)
def test_each_objective_wins_by_its_own_measure(name: str) -> None:
    x, a = (0.02 * np.random.default_rng(8).standard_t(4, (8, 1024))).astype(np.float32), lognormal(1024)
    rows = {o: dispatch.decode(dispatch.encode(x, name, a, objective=o), name, 1024) for o in OBJECTIVES}
    assert min(rows, key=lambda o: rel_wmse(x, rows[o], a)) == "imatrix"
    assert min(rows, key=lambda o: rel_mse(x, rows[o])) == "mse"
    mean = (np.float64(x) ** 2).reshape(8, 4, 256).mean(2).repeat(256, axis=1)
    weights = a * np.sqrt((2 if name == "iq2_s" else 1) * mean + np.float64(x) ** 2)
    assert min(rows, key=lambda o: float((weights * (x - rows[o]) ** 2).sum())) == "ref"


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_weighs_by_squares_without_an_importance(name: str) -> None:
    x = (0.02 * np.random.default_rng(9).standard_t(4, (8, 1024))).astype(np.float32)
    rows = {o: dispatch.decode(dispatch.encode(x, name, objective=o), name, 1024) for o in OBJECTIVES}
    assert rows["mse"].tobytes() == rows["imatrix"].tobytes()
    mean = (np.float64(x) ** 2).reshape(8, 4, 256).mean(2).repeat(256, axis=1)
    weights = (0 if name in NEED_IMATRIX else 0.5) * mean + np.float64(x) ** 2
    assert min(rows, key=lambda o: float((weights * (x - rows[o]) ** 2).sum())) == "ref"


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(NAMES),
    effort=st.sampled_from(("fast", "default")),
    objective=st.sampled_from(OBJECTIVES),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_in_bytes_agree_and_scales_are_finite(
    seed: int, name: str, effort: str, objective: str, weighted: bool
) -> None:
    x = wild_rows(seed, 512)
    a = np.exp(4 * np.random.default_rng(seed).standard_normal(512)) if weighted else None
    blocks = in_every_way(x, name, a, objective, effort)
    assert len(set(blocks.values())) == 1
    rows = np.frombuffer(next(iter(blocks.values())), np.uint8).reshape(len(x), -1)
    y = dispatch.decode(rows, name, 512)
    assert np.isfinite(scale_values(rows, name)).all()
    assert np.isfinite(y).all()
    assert not y[~x.any(1)].any()
    assert np.all(np.abs(np.float64(y)).max(1) <= np.maximum(2 * np.abs(np.float64(x)).max(1), 2.0**-22))
