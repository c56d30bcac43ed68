"""MXFP4 and NVFP4: the reference's bytes at effort fast, less error otherwise, no scale that is not a number."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_golden import FP4 as NAMES
from support_golden import SETS, golden_blocks, golden_inputs, golden_ratios, rel_mse, rel_wmse, vector_sets
from support_libggml import libggml, quantize
from support_search import awkward_importance, awkward_rows, in_every_way, lognormal, wild_rows

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

Array = npt.NDArray[np.float32]

SEARCHED = ("default", "best")

#: Mean error ratios to the reference that must be reached, with an importance and without one.
LIMITS = {"mxfp4": (0.935, 0.945), "nvfp4": (0.69, 0.81)}


def scale_codes(blocks: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """The scale bytes of the blocks: uint8 [n_blocks, 1 or 4]."""
    return blocks.reshape(-1, type_by_name(name).block_bytes)[:, : 1 if name == "mxfp4" else 4]


def unit_of(code: int, name: str) -> float:
    """What the level 1 of 0, 1, 2, 3, 4, 6, 8, 12 stands for."""
    if name == "mxfp4":
        return float(np.ldexp(1.0, code - 128))
    return float(np.ldexp(code & 7, -10) if code < 8 else np.ldexp(8 + (code & 7), (code >> 3) - 11))


def assert_scales_are_numbers(blocks: npt.NDArray[np.uint8], name: str) -> None:
    assert scale_codes(blocks, name).max(initial=0) <= (254 if name == "mxfp4" else 0x7E)


@pytest.mark.parametrize("name", NAMES)
def test_fast_is_the_reference_on_the_test_vectors(shared: Path, name: str) -> None:
    expected = json.loads((shared / "specs" / "ggml-types.json").read_text())["test_vectors"]["types"][name.upper()]
    sets = vector_sets()
    for key in "AB":
        for a in (None, sets["imatrix"]):
            for way, blocks in in_every_way(sets[key], name, a, "imatrix", "fast").items():
                assert hashlib.sha256(blocks).hexdigest() == expected[f"q_{key}_im0"], (key, way)


@pytest.mark.parametrize("name", NAMES)
def test_fast_is_the_reference_on_the_golden_sets(shared: Path, name: str) -> None:
    golden, inputs = golden_blocks(shared, name), golden_inputs(shared)
    for key in (*SETS, "edge"):
        assert dispatch.encode(inputs[key], name, effort="fast").tobytes() == golden[f"q_{key}_noim"].tobytes(), key


def as_reference(rows: Array, name: str, theirs: npt.NDArray[np.uint8]) -> None:
    """Equal bytes, but for exponents that no reader takes (255) or that decode to infinity (253)."""
    size = type_by_name(name).block_bytes
    theirs = theirs.reshape(-1, size)
    same = np.ones(len(theirs), bool) if name == "nvfp4" else ~np.isin(theirs[:, 0], (253, 255))
    for way, blocks in in_every_way(rows, name, None, "imatrix", "fast").items():
        ours = np.frombuffer(blocks, np.uint8).reshape(-1, size)
        assert np.array_equal(ours[same], theirs[same]), way
        assert_scales_are_numbers(ours, name)
        assert np.isfinite(dispatch.decode(ours.reshape(len(rows), -1), name, rows.shape[1])).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_fast_is_the_reference_whatever_comes_in(name: str, seed: int) -> None:
    rows = wild_rows(seed, 37 * 64)
    as_reference(rows, name, quantize(libggml(), name, rows))


def test_the_reference_exponent_around_every_power_of_two() -> None:
    """float32's log2 rounds up to the integer a few steps below it; subnormals and all."""
    near = (np.arange(1, 256, dtype=np.int64)[:, None] << 23) + np.arange(-128, 4)
    tiny = np.unique((1 << np.arange(23))[:, None] + np.arange(-128, 4))
    bits = np.concatenate([tiny[tiny > 0], near.ravel()])
    top = bits[bits < 0x7F800000].astype(np.uint32).view(np.float32)
    rows = np.zeros((len(top), 32), np.float32)
    rows[:, 5] = top
    rows[::2, 5] *= -1
    rows[:, 9] = top / 3
    as_reference(rows, "mxfp4", quantize(libggml(), "mxfp4", rows))


@pytest.mark.parametrize("name", NAMES)
def test_midpoints_and_their_neighbours_go_where_the_reference_puts_them(name: str) -> None:
    between = np.array((0.5, 1.5, 2.5, 3.5, 5, 7, 10))
    rows = []
    for top in (0.013, 0.3, 1.0, 4.0, 7.9, 1234.5):
        row = np.zeros((16, 64), np.float32)
        row[:, ::16] = top
        unit = unit_of(int(scale_codes(dispatch.encode(row, name, effort="fast"), name)[0, 0]), name)
        ties = (between * unit).astype(np.float32)
        values = np.concatenate([ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))])
        row[:, 1:8] = np.resize(np.concatenate([values, -values]), (16, 7))
        rows.append(row)
    x = np.concatenate(rows)
    as_reference(x, name, quantize(libggml(), name, x))


@pytest.mark.parametrize("effort", SEARCHED)
@pytest.mark.parametrize("name", NAMES)
def test_error_against_the_reference(shared: Path, name: str, effort: str) -> None:
    for imatrix, limit in zip((True, False), LIMITS[name], strict=True):
        ratios = golden_ratios(shared, name, imatrix, effort=effort, objective="imatrix")
        assert ratios["mean"] <= limit, ratios
        assert max(ratios.values()) <= limit + 0.05, ratios


@pytest.mark.parametrize("effort", SEARCHED)
@pytest.mark.parametrize("name", NAMES)
def test_no_block_is_worse_than_the_reference(name: str, effort: str) -> None:
    x, a = awkward_rows(1024), np.float64(lognormal(1024))
    x = x[np.abs(x).max(1) < 1e30]  # beyond, the squares of float32 are no measure
    for weights in (a, None):
        blocks = dispatch.encode(x, name, weights, objective="imatrix", effort=effort)
        y = np.float64(dispatch.decode(blocks, name, 1024))
        theirs = np.float64(dispatch.decode(dispatch.encode(x, name, effort="fast"), name, 1024))
        w = 1 if weights is None else a
        ours, limit = ((w * (x - v) ** 2).reshape(len(x), -1, 32).sum(2) for v in (y, theirs))
        assert np.all(ours <= limit * (1 + 1e-5))
        assert_scales_are_numbers(blocks, name)
        assert np.all(y[x == 0] == 0)


def test_nvfp4_scales_are_the_best_there_are() -> None:
    """Against all 126 codes, weights of every size that the scales can express."""
    rng = np.random.default_rng(12)
    x = (rng.standard_t(4, (300, 16)) * np.exp2(rng.uniform(-11, 10, (300, 1)))).astype(np.float32)
    a = lognormal(64).astype(np.float64)
    rows = x.reshape(-1, 64)
    y = dispatch.decode(dispatch.encode(rows, "nvfp4", a, objective="imatrix"), "nvfp4", 64).reshape(-1, 16)
    w = np.broadcast_to(a, rows.shape).reshape(-1, 16)
    scales = [unit_of(c, "nvfp4") for c in range(1, 127)]
    levels = np.array((0, 1, 2, 3, 4, 6, 8, 12))[:, None]
    best = np.minimum.reduce([(w * np.min(np.abs(np.abs(x)[:, None] - levels * s), 1) ** 2).sum(1) for s in scales])
    ours = (w * (x - np.float64(y)) ** 2).sum(1)
    assert ours.sum() <= 1.0001 * best.sum()
    assert np.median(ours / best) <= 1.0001


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
    x, a = awkward_rows(21 * 64), lognormal(21 * 64)
    for effort in ("fast", "default"):
        whole = dispatch.encode(x, name, a, effort=effort, objective="imatrix")
        last = dispatch.encode(x[:, -3 * 64 :], name, a[-3 * 64 :], effort=effort, objective="imatrix")
        assert whole[:, -last.shape[1] :].tobytes() == last.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_edge_rows(shared: Path, name: str) -> None:
    inputs = golden_inputs(shared)
    x = inputs["edge"]
    for a in (inputs["edge_imatrix"], None):
        blocks = dispatch.encode(x, name, a)
        y = dispatch.decode(blocks, name, x.shape[1])
        assert_scales_are_numbers(blocks, name)
        assert not y[0].any()
        assert not y[1, :256].any()
        assert not y[2, 32:64].any()
        assert np.isfinite(y).all()
        assert rel_mse(x[4], y[4]) < 0.01


@pytest.mark.parametrize("effort", ("fast", *SEARCHED))
def test_huge_and_tiny_weights(effort: str) -> None:
    """mxfp4 spans all of float32; nvfp4 ends at 2688, and what a search finds there is its largest value."""
    largest = np.finfo(np.float32).max
    for top in (largest, -largest, 3e38, 2.0**127, 2.0**-126, 1.7e-38, 1e-30, 1e-45):
        x = np.full((1, 64), top, np.float32)
        x[0, ::2] = 0
        y = dispatch.decode(dispatch.encode(x, "mxfp4", effort=effort), "mxfp4", 64)
        assert np.isfinite(y).all()
        if abs(top) > 1e-37 or effort != "fast":  # where the reference writes nonsense
            assert np.abs(y - np.float64(x)).max() <= max(0.25 * abs(top), 2.0**-128)
        y = dispatch.decode(dispatch.encode(x, "nvfp4", effort=effort), "nvfp4", 64)
        assert np.isfinite(y).all()
        if abs(top) > 1 and effort != "fast":
            assert np.all(y == np.sign(x) * 2688)


@pytest.mark.parametrize("name", NAMES)
def test_objectives(name: str) -> None:
    """The reference knows no weights of its own here, so "ref" is "imatrix"."""
    x, a = (0.02 * np.random.default_rng(8).standard_t(4, (8, 1024))).astype(np.float32), lognormal(1024)
    blocks = {o: dispatch.encode(x, name, a, objective=o) for o in ("imatrix", "ref", "mse", "unbiased")}
    rows = {o: dispatch.decode(b, name, 1024) for o, b in blocks.items()}
    assert np.array_equal(blocks["ref"], blocks["imatrix"])
    assert np.array_equal(
        blocks["unbiased"], blocks["imatrix"]
    )  # there is no scale of its own to give a gain back with
    assert rel_wmse(x, rows["imatrix"], a) < rel_wmse(x, rows["mse"], a)
    assert rel_mse(x, rows["mse"]) < rel_mse(x, rows["imatrix"])
    assert np.array_equal(blocks["mse"], dispatch.encode(x, name, objective="imatrix"))


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(NAMES),
    effort=st.sampled_from(("fast", *SEARCHED)),
    weighted=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_in_scales_are_numbers_and_zeros_stay(seed: int, name: str, effort: str, weighted: bool) -> None:
    x = wild_rows(seed, 512)[:4]
    a = np.exp(8 * np.random.default_rng(seed).standard_normal(512)) if weighted else None
    blocks = dispatch.encode(x, name, a, effort=effort)
    y = dispatch.decode(blocks, name, 512)
    assert_scales_are_numbers(blocks, name)
    assert np.isfinite(y).all()
    assert np.all(y[x == 0] == 0)
    assert np.abs(y).max() <= 2 * max(np.abs(np.float64(x)).max(), 2.0**-11)
