"""Q4_K, Q5_K, Q2_K, and Q4_1, Q5_1 with an importance: signs of scales, nearest codes, powers of two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_golden import rel_wmse, scale_values
from support_search import Array, awkward_importance, awkward_rows, in_every_way, lognormal

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

SUPER = ("q4_K", "q5_K", "q2_K")
NAMES = (*SUPER, "q4_1", "q5_1")
OBJECTIVES = ("imatrix", "ref", "mse")
EFFORTS = ("fast", "default", "best")


#: Where a block keeps its codes, and how many weights share a scale.
CODES = {"q4_K": (16, 144, 32), "q5_K": (16, 176, 32), "q2_K": (16, 80, 16), "q4_1": (4, 20, 32), "q5_1": (4, 24, 32)}


def rows(n_rows: int = 6, n_cols: int = 1024, seed: int = 8) -> Array:
    return (0.02 * np.random.default_rng(seed).standard_t(4, (n_rows, n_cols))).astype(np.float32)


def round_trip(x: Array, name: str, a: Array | None, **options: str) -> Array:
    blocks = dispatch.encode(x, name, a, **options)  # type: ignore[arg-type]
    return dispatch.decode(blocks, name, x.shape[1])


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
def test_a_power_of_two_changes_nothing_but_the_scales(name: str) -> None:
    x, a = rows(4), lognormal(1024)
    low, high, _ = CODES[name]
    size = type_by_name(name).block_bytes
    codes = [dispatch.encode(x * np.float32(f), name, a).reshape(-1, size)[:, low:high] for f in (4, 64)]
    assert codes[0].tobytes() == codes[1].tobytes()
