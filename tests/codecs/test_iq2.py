"""IQ2_XXS, IQ2_XS and IQ2_S: the search misses little, and zeros do not disturb it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from support_golden import (
    rel_mse,
)
from support_search import lognormal

from gguftool.codecs import dispatch, grids

Array = npt.NDArray[np.float64]

NAMES = ("iq2_xxs", "iq2_xs", "iq2_s")
SUB = {"iq2_xxs": 32, "iq2_xs": 16, "iq2_s": 16}  # weights that share a scale


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


@pytest.mark.parametrize("name", NAMES)
def test_zero_sub_blocks_do_not_disturb_the_others(name: str) -> None:
    x = (0.02 * np.random.default_rng(12).standard_normal((4, 512))).astype(np.float32)
    plain = rel_mse(x, dispatch.decode(dispatch.encode(x, name, objective="imatrix"), name, 512))
    x[0, 32:64] = x[1, 224:256] = x[2, 256:480] = x[3, 0:32] = 0
    for effort in ("fast", "default"):
        y = dispatch.decode(dispatch.encode(x, name, effort=effort, objective="imatrix"), name, 512)
        assert rel_mse(x, y) < 1.06 * plain
        assert np.abs(y[x == 0]).max() < 0.005
