"""IQ2_KS, IQ3_KS and IQ2_KL: the best codes, both signs and tables, long rows, weights that do not matter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from support_golden import rel_mse, rel_wmse, scale_values
from support_search import lognormal

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

Array = npt.NDArray[np.float32]

NAMES = ("iq2_ks", "iq3_ks", "iq2_kl")


V2 = np.array((-31, -13, 1, 17))
V3 = np.array((-63, -40, -23, -10, 1, 13, 28, 47))
#: Of a pair's 64 candidates those that IQ2_KL has: for each first value the numbers of its second values.
SECONDS = (
    (2, 5),
    (0, 3, 5, 7),
    (1, 2, 4, 5, 6),
    (0, 4, 5, 7),
    (2, 3, 4, 5, 6),
    (1, 2, 3, 4, 5),
    (0, 2, 4, 6, 7),
    (2, 5),
)
PAIRS = np.array([(V3[a], V3[b]) for a, seconds in enumerate(SECONDS) for b in seconds])


def block_scales(blocks: npt.NDArray[np.uint8], name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The integer scale and the shift bit of every 32 weights, [rows, n / 32]."""
    s = blocks[:, 2:].reshape(len(blocks), -1, type_by_name(name).block_bytes).astype(np.int64)
    words, nibbles, b = s[..., 0] | s[..., 1] << 8, s[..., 2:6], np.arange(8)
    if name == "iq2_ks":
        low, high = nibbles[..., b // 2] >> 4 * (b % 2) & 15, words[..., None] >> (8 + b) & 1
        shift = words[..., None] >> b & 1
    else:
        low = nibbles[..., b % 4] >> 4 * (b // 4) & 15
        high = words[..., None] >> (2 * b if name == "iq2_kl" else b) & (3 if name == "iq2_kl" else 1)
        shift = words[..., None] >> (8 + b) & 1 if name == "iq3_ks" else 0 * high
    half = 32 if name == "iq2_kl" else 16
    return (low | high << 4).reshape(len(blocks), -1) - half, shift.reshape(len(blocks), -1)


def least_errors(x: Array, blocks: npt.NDArray[np.uint8], name: str, w: Array) -> npt.NDArray[np.float64]:
    """The least weighted error of every row that any codes can have with the blocks' scales."""
    d, (c, shift) = scale_values(blocks, name)[0].astype(np.float64), block_scales(blocks, name)
    t, weights = x.astype(np.float64).reshape(*c.shape, 32), np.float64(w).reshape(1, -1, 32)
    scale = d[:, None] * c
    if name == "iq2_kl":
        values = scale[..., None, None] * PAIRS
        pairs, w2 = t.reshape(*c.shape, 16, 2), weights.reshape(1, -1, 16, 2)
        errors = (w2[..., None, :] * (pairs[..., None, :] - values[:, :, None]) ** 2).sum(-1)
    else:
        table = (V2 if name == "iq2_ks" else V3) + shift[..., None] * (5 if name == "iq2_ks" else 4)
        errors = weights[..., None] * (t[..., None] - (scale[..., None] * table)[:, :, None]) ** 2
    least: npt.NDArray[np.float64] = errors.min(-1).sum((1, 2))
    return least


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ("fast", "default"))
def test_every_code_is_the_best_for_its_scale(name: str, effort: str) -> None:
    a = lognormal(1024, 12)
    x = (0.02 * np.random.default_rng(12).standard_t(4, (6, 1024))).astype(np.float32)
    for weights in (a, np.ones(1024, np.float32)):
        blocks = dispatch.encode(x, name, weights, objective="imatrix", effort=effort)
        y = dispatch.decode(blocks, name, 1024)
        errors = (weights * (x.astype(np.float64) - y) ** 2).sum(1)
        assert np.allclose(errors, least_errors(x, blocks, name, weights), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_both_signs_and_both_tables_are_used(name: str) -> None:
    x = (0.02 * np.random.default_rng(13).standard_normal((8, 2048))).astype(np.float32)
    blocks = dispatch.encode(x, name, lognormal(2048))
    c, shift = block_scales(blocks, name)
    assert 0.2 < (c < 0).mean() < 0.8
    assert np.abs(c).max() >= 15
    assert name == "iq2_kl" or 0.2 < shift.mean() < 0.8


@pytest.mark.parametrize("n_cols", (256, 512, 768, 4352))
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_any_length(name: str, n_cols: int) -> None:
    a = lognormal(n_cols)
    x = (0.02 * np.random.default_rng(n_cols).standard_normal((4, n_cols))).astype(np.float32)
    blocks = dispatch.encode(x, name, a, objective="imatrix")
    limit = {"iq2_ks": 0.08, "iq3_ks": 0.02, "iq2_kl": 0.04}[name]
    assert rel_wmse(x, dispatch.decode(blocks, name, n_cols), a) < limit
    for r in range(4):
        assert dispatch.encode(x[r : r + 1], name, a, objective="imatrix").tobytes() == blocks[r].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_very_long_row(name: str) -> None:
    n = 2**20
    x = (0.02 * np.random.default_rng(5).standard_normal((1, n))).astype(np.float32)
    error = rel_mse(x, dispatch.decode(dispatch.encode(x, name), name, n))
    short = x[:, :4096]
    assert error < 1.15 * rel_mse(short, dispatch.decode(dispatch.encode(short, name), name, 4096))


@pytest.mark.parametrize("whole_block", (False, True))
@pytest.mark.parametrize("name", NAMES)
def test_large_weights_that_do_not_matter_do_not_spoil_their_row(name: str, whole_block: bool) -> None:
    x = (0.02 * np.random.default_rng(30).standard_normal((8, 1024))).astype(np.float32)
    a = lognormal(1024).astype(np.float64)
    plain = rel_wmse(x, dispatch.decode(dispatch.encode(x, name, a, objective="imatrix"), name, 1024), a)
    at = slice(64, 96) if whole_block else slice(40, None, 64)
    x[:, at] *= 100
    a[at] *= 1e-9
    y = dispatch.decode(dispatch.encode(x, name, a, objective="imatrix"), name, 1024)
    assert rel_wmse(x, y, a) < 1.5 * plain
