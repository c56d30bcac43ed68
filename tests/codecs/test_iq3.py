"""IQ3_S and IQ3_XXS: the search misses little, and zeros do not disturb it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from support_golden import rel_mse
from support_search import lognormal

from gguftool.codecs import dispatch, grids

Array = npt.NDArray[np.float64]

NAMES = ("iq3_s", "iq3_xxs")


def least_error(name: str, x: Array, w: Array, b: float) -> float:
    """The least error of one sub-block at the scale b, over all rows and allowed signs, in float64."""
    levels = np.array(grids.rows(name), np.float64) / (1 if name == "iq3_s" else 4)
    total = 0.0
    for at in range(0, 32, 8):
        right, wrong = [], []
        for half in (slice(at, at + 4), slice(at + 4, at + 8)):
            cost = (w[half] * (np.abs(x[half]) - b * levels) ** 2).sum(1)
            right.append(cost.min())
            wrong.append((cost + (4 * b * w[half] * np.abs(x[half]) * levels).min(1)).min())
        odd = name == "iq3_xxs" and np.signbit(x[at : at + 8]).sum() % 2
        total += min(right[0] + wrong[1], wrong[0] + right[1]) if odd else sum(right)
    return total


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_signs_are_the_best_there_are(name: str) -> None:
    """With the scales that were stored other rows and signs gain next to nothing (d was refitted after the choice)."""
    x, a = (0.02 * np.random.default_rng(11).standard_t(4, (1, 512))).astype(np.float32), lognormal(512)
    blocks = dispatch.encode(x, name, a, objective="imatrix")
    y = dispatch.decode(blocks, name, 512)
    error, least = np.zeros(16), np.zeros(16)
    for j in range(16):
        at = slice(32 * j, 32 * j + 32)
        sub, w = np.float64(x[0, at]), np.float64(a[at])
        error[j] = (w * (sub - y[0, at]) ** 2).sum()
        least[j] = least_error(name, sub, w, _scale_of(blocks[0], name, j))
    assert np.all(error > 0.9999 * least)
    assert np.all(error < 1.03 * least)
    assert error.sum() < 1.005 * least.sum()


def _scale_of(row: npt.NDArray[np.uint8], name: str, j: int) -> float:
    """d (2 c + 1) of sub-block j; half of that by the decoder of iq3_xxs, whose levels are four times as large."""
    size, at = (110, 106) if name == "iq3_s" else (98, 66)
    block = row[j // 8 * size :][:size]
    code = block[at + j % 8 // 2] >> 4 * (j % 2) & 15 if name == "iq3_s" else block[at + 4 * (j % 8) + 3] >> 4
    return float(block[:2].copy().view(np.float16)[0]) * (2 * int(code) + 1)


@pytest.mark.parametrize("name", NAMES)
def test_zero_sub_blocks_do_not_disturb_the_others(name: str) -> None:
    x = (0.02 * np.random.default_rng(12).standard_normal((4, 512))).astype(np.float32)
    x[0, 32:64] = x[1, 224:256] = x[2, 256:480] = x[3, 0:32] = 0
    for effort in ("fast", "default"):
        y = dispatch.decode(dispatch.encode(x, name, objective="imatrix", effort=effort), name, 512)
        assert rel_mse(x, y) < 0.03
        assert np.abs(y[x == 0]).max() < 0.005
