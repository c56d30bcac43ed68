"""IQ1_S and IQ1_M: rows, shifts and codes against a search in float64, zeros, columns that nothing is known of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from support_golden import rel_mse, rel_wmse, scale_values
from support_search import lognormal

from gguftool.codecs import dispatch, grids
from gguftool.format.quanttypes import type_by_name

Array = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

NAMES = ("iq1_s", "iq1_m")
EFFORTS = ("fast", "default")

#: The row of zeros, which sub-blocks of zeros must get.
ZEROS = 1029


class Fields(NamedTuple):
    """What a row of blocks holds: d of each super-block, and of each group of eight its code, row and shift."""

    d: Array
    codes: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    shifts: Array


def fields(row: Bytes, name: str) -> Fields:
    """The fields of a row, read as the format says and not as the decoders do."""
    blocks = row.reshape(-1, type_by_name(name).block_bytes)
    d = scale_values(blocks, name)[0].astype(np.float64)
    if name == "iq1_s":
        words = blocks[:, 34:50].copy().view(np.uint16).astype(np.int64)
        codes, down = np.repeat(words >> 12 & 7, 4, axis=1), np.repeat(words >> 15, 4, axis=1)
        high = words[:, :, None] >> 3 * np.arange(4) & 7
        low = blocks[:, 2:34]
    else:
        words = blocks[:, 48:56].copy().view(np.uint16).astype(np.int64)
        codes = np.repeat((words[:, :, None] >> 3 * np.arange(4) & 7).reshape(-1, 16), 2, axis=1)
        nibbles = (blocks[:, 32:48, None] >> np.array([0, 4]) & 15).reshape(-1, 32).astype(np.int64)
        high, down, low = nibbles & 7, nibbles >> 3, blocks[:, :32]
    rows = low.astype(np.int64) | high.reshape(-1, 32) << 8
    return Fields(d, codes.ravel(), rows.ravel(), np.where(down.ravel(), -0.125, 0.125))


def least_error(name: str, x: Array, w: Array, b: float) -> float:
    """The least error of one sub-block at the scale b, over all rows and shifts, in float64."""
    levels = np.array(grids.rows("iq1_s"), np.float64)
    costs = np.empty((len(x) // 8, 2))
    for g in range(len(costs)):
        for k, shift in enumerate((0.125, -0.125)):
            costs[g, k] = (w[8 * g : 8 * g + 8] * (x[8 * g : 8 * g + 8] - b * (levels + shift)) ** 2).sum(1).min()
    return float(costs.sum(0).min() if name == "iq1_s" else costs.min(1).sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", EFFORTS)
def test_rows_and_shifts_are_the_best_there_are(name: str, effort: str) -> None:
    """With the scales that were stored others gain next to nothing (d was refitted after the choice)."""
    x, a = (0.02 * np.random.default_rng(11).standard_t(4, (1, 1024))).astype(np.float32), lognormal(1024)
    sub = 32 if name == "iq1_s" else 16
    blocks = dispatch.encode(x, name, a, objective="imatrix", effort=effort)
    y, found = dispatch.decode(blocks, name, 1024), fields(blocks[0], name)
    error, least = np.zeros(1024 // sub), np.zeros(1024 // sub)
    for j in range(len(error)):
        at = slice(sub * j, sub * j + sub)
        v, w = np.float64(x[0, at]), np.float64(a[at])
        error[j] = (w * (v - y[0, at]) ** 2).sum()
        b = found.d[sub * j // 256] * (2 * found.codes[sub * j // 8] + 1)
        least[j] = least_error(name, v, w, b)
    assert np.all(error > 0.9999 * least)
    assert np.all(error < 1.05 * least)
    assert error.sum() < 1.005 * least.sum()


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_nearly_the_best_there_are(name: str) -> None:
    """Against every code, row and shift with the same d."""
    x, a = (0.02 * np.random.default_rng(13).standard_t(4, (1, 512))).astype(np.float32), lognormal(512)
    sub = 32 if name == "iq1_s" else 16
    blocks = dispatch.encode(x, name, a, objective="imatrix")
    y, d = dispatch.decode(blocks, name, 512), fields(blocks[0], name).d
    least = 0.0
    for j in range(512 // sub):
        at = slice(sub * j, sub * j + sub)
        v, w = np.float64(x[0, at]), np.float64(a[at])
        least += min(least_error(name, v, w, d[sub * j // 256] * (2 * c + 1)) for c in range(8))
    assert (a * (np.float64(x[0]) - y[0]) ** 2).sum() < 1.01 * least


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_stored_is_stored(name: str) -> None:
    """Rows that decode from random blocks come back but for a little (where the scales' codes could be others)."""
    rng = np.random.default_rng(14)
    blocks = rng.integers(0, 256, (4, 2 * type_by_name(name).block_bytes), np.uint8)
    half = np.float16(0.01).view(np.uint16)
    flat = blocks.reshape(8, -1)
    if name == "iq1_s":
        flat[:, :2] = np.frombuffer(half.tobytes(), np.uint8)
    else:
        for k in range(4):
            flat[:, 49 + 2 * k] = flat[:, 49 + 2 * k] & 15 | (int(half) >> 4 * k & 15) << 4
    x = dispatch.decode(blocks, name, 512)
    assert rel_mse(x, dispatch.decode(dispatch.encode(x, name, objective="mse"), name, 512)) < 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", EFFORTS)
def test_sub_blocks_of_zeros_are_nearly_zeros(name: str, effort: str) -> None:
    """They get the row of zeros and the least scale, an eighth of d; the reference stores seven eighths."""
    x = (0.02 * np.random.default_rng(12).standard_normal((4, 512))).astype(np.float32)
    x[0, 32:64] = x[1, 224:256] = x[2, 256:480] = x[3, 0:32] = 0
    for a in (lognormal(512), None):
        blocks = dispatch.encode(x, name, a, effort=effort, objective="imatrix")
        y = dispatch.decode(blocks, name, 512)
        for r in range(4):
            found, empty = fields(blocks[r], name), ~x[r].reshape(-1, 8).any(1)
            assert np.all(found.rows[empty] == ZEROS)
            assert not found.codes[empty].any()
            d = np.repeat(found.d, 256)[x[r] == 0]
            np.testing.assert_array_equal(np.abs(y[r][x[r] == 0]), np.float32(d / 8))
        assert rel_mse(x, y) < 0.35


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_no_importance_do_not_matter(name: str) -> None:
    """A sub-block that nothing is known of is fitted well enough, and the others as well as they would be alone."""
    x, a = (0.02 * np.random.default_rng(16).standard_normal((4, 512))).astype(np.float32), lognormal(512)
    plain = dispatch.decode(dispatch.encode(x, name, a, objective="imatrix"), name, 512)
    idle = a.copy()
    idle[64:96] = 0
    y = dispatch.decode(dispatch.encode(x, name, idle, objective="imatrix"), name, 512)
    assert rel_mse(x[:, 64:96], y[:, 64:96]) < 0.6
    assert rel_wmse(x, y, idle) < 1.02 * rel_wmse(x, plain, idle)
