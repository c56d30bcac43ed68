"""Q8_0, and Q4_0, Q4_1, Q5_0, Q5_1 without an importance: pure rounding, equal to the reference's bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support_golden import LEGACY, SETS, golden_blocks, golden_inputs, rel_wmse, scale_values, vector_sets

from gguftool.codecs import dispatch, jit
from gguftool.format.quanttypes import type_by_name

SEARCHED = LEGACY[:-1]


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize("name", LEGACY)
def test_vectors_of_the_specification(kernels: ModuleType, shared: Path, name: str) -> None:
    expected = json.loads((shared / "specs" / "ggml-types.json").read_text())["test_vectors"]["types"][name.upper()]
    for key in "AB":
        blocks = dispatch.encode(vector_sets()[key], name)
        assert digest(blocks) == expected[f"q_{key}_im0"]
        assert digest(dispatch.decode(blocks, name, 1024)) == expected[f"d_{key}_im0"]


@pytest.mark.parametrize("effort", ("fast", "default", "best"))
@pytest.mark.parametrize("name", LEGACY)
def test_golden_bytes_at_every_effort(kernels: ModuleType, shared: Path, name: str, effort: str) -> None:
    golden = golden_blocks(shared, name)
    for key in (*SETS, "edge"):
        blocks = dispatch.encode(golden_inputs(shared)[key], name, effort=effort)
        assert blocks.tobytes() == golden[f"q_{key}_noim"].tobytes(), key


def hard_rows() -> np.ndarray:
    """Blocks of every magnitude, ties, zeros of both signs, two elements of the largest magnitude, subnormals."""
    rng = np.random.default_rng(11)
    n = 4000
    x = rng.standard_normal((n, 32)) * 10.0 ** rng.integers(-45, 38, (n, 1))
    kind = rng.integers(0, 6, n)
    x[kind == 0] = np.round(4 * rng.standard_normal((int((kind == 0).sum()), 32))) / 4
    x[kind == 1] = np.abs(x[kind == 1])
    zeros = rng.random((n, 32)) < 0.3
    x[zeros & (kind == 2)[:, None]] = 0.0
    x[zeros & (kind == 3)[:, None]] = -0.0
    x[kind == 4] = np.sign(x[kind == 4]) * np.abs(x[kind == 4][:, :1])
    x[0], x[1] = 0.0, -0.0
    return np.clip(x, -3.4e38, 3.4e38).astype(np.float32).reshape(-1, 1024)


@pytest.mark.parametrize("name", LEGACY)
def test_every_way_gives_the_same_bytes(kernels: ModuleType, name: str) -> None:
    x, t = hard_rows(), type_by_name(name)
    expected = np.empty((len(x), t.row_nbytes(1024)), np.uint8)
    jit.transcode(0, t.id, x, len(x), 1024, None, None, expected, 0, 1, False)
    got = dispatch.encode(x, name)
    assert got.tobytes() == expected.tobytes()
    assert np.isfinite(scale_values(got, name)).all()
    assert np.isfinite(dispatch.decode(got, name, 1024)).all()


@pytest.mark.parametrize("name", LEGACY)
@pytest.mark.parametrize("top", (5e5, 8.4e6, 1e30, 3.4e38))
def test_a_scale_beyond_f16_is_cut_to_the_largest_finite_one(
    kernels: ModuleType,
    name: str,
    top: float,
) -> None:
    x = np.linspace(-top, top, 64, dtype=np.float64).astype(np.float32)[None]
    y = dispatch.decode(dispatch.encode(x, name), name, 64)
    assert np.isfinite(y).all()
    assert (np.diff(y[0].reshape(2, 32), axis=1) >= 0).all()  # still in order
    assert (np.abs(y.astype(np.float64)) <= 1.2 * top).all()


@pytest.mark.parametrize("name", LEGACY)
def test_zero_rows_decode_to_zero(kernels: ModuleType, name: str) -> None:
    assert not dispatch.decode(dispatch.encode(np.zeros((2, 64), np.float32), name), name, 64).any()


@pytest.mark.parametrize("name", SEARCHED)
def test_an_importance_makes_it_a_search(kernels: ModuleType, shared: Path, name: str) -> None:
    inputs = golden_inputs(shared)
    x, a = inputs["student"][:2], inputs["imatrix"]
    closed = dispatch.decode(dispatch.encode(x, name), name, 1024)
    searched = dispatch.decode(dispatch.encode(x, name, a), name, 1024)
    assert rel_wmse(x, searched, a) < 0.95 * rel_wmse(x, closed, a)


def test_q8_0_ignores_an_importance(kernels: ModuleType, shared: Path) -> None:
    inputs = golden_inputs(shared)
    x = inputs["gauss"]
    assert dispatch.encode(x, "q8_0", inputs["imatrix"]).tobytes() == dispatch.encode(x, "q8_0").tobytes()
