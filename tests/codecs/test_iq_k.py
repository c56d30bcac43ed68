"""IQ2_K, IQ3_K, IQ4_K, IQ5_K and IQ6_K: scales and codes against a search of all that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_golden import IK_K, golden_inputs, scale_values
from support_search import lognormal

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

#: Of a type: the codebook, the shift, what integer scales there are, and the factor of the reference's weights.
BOOKS = {
    "iq2_k": ((-31, -13, 1, 17), 5, range(-8, 8), 1.5),
    "iq3_k": ((-63, -40, -23, -10, 1, 13, 28, 47), 4, range(-31, 32, 2), 1.5),
    "iq4_k": ((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), 4, range(-32, 32), 2.0),
}


@pytest.mark.parametrize("name", BOOKS)
def test_no_other_scales_and_codes_are_much_better(shared: Path, name: str) -> None:
    """For the d that was stored: every scale, both tables and the nearest codes, in float64."""
    levels, shift, scales, _ = BOOKS[name]
    x, a = golden_inputs(shared)["student"][:2], golden_inputs(shared)["imatrix"]
    blocks = dispatch.encode(x, name, a, objective="imatrix")
    ours = dispatch.decode(blocks, name, 1024)
    d = scale_values(blocks, name)[0].astype(np.float64).repeat(16).reshape(2, 64)
    books = np.array([levels, np.array(levels) + shift], np.float64)
    v, w = x.reshape(2, 64, 1, 16).astype(np.float64), a.reshape(1, 64, 1, 16).astype(np.float64)
    least = np.full((2, 64), np.inf)
    for c in scales:
        for book in books:
            distance = np.abs(v - d[:, :, None, None] * c * book[:, None])
            least = np.minimum(least, (w[:, :, 0] * distance.min(2) ** 2).sum(2))
    mine = (w[:, :, 0] * (v[:, :, 0] - ours.reshape(2, 64, 16)) ** 2).sum(2)
    assert (mine >= least * (1 - 1e-5)).all()
    assert mine.sum() < 1.02 * least.sum()
    assert (mine < least * (1 + 1e-4)).mean() > 0.8


@pytest.mark.parametrize("name", IK_K)
def test_every_code_is_the_nearest(name: str) -> None:
    """No single code can be changed for the better, whatever the scale and the shift that were chosen."""
    x = (0.02 * np.random.default_rng(12).standard_t(3, (4, 512))).astype(np.float32)
    blocks = dispatch.encode(x, name, lognormal(512), objective="imatrix")
    y = dispatch.decode(blocks, name, 512).reshape(-1, 16)
    reachable = []
    flat = blocks.reshape(-1, type_by_name(name).block_bytes)
    first = {"iq2_k": 12, "iq3_k": 14, "iq4_k": 16, "iq5_k": 16, "iq6_k": 20}[name]
    rng = np.random.default_rng(13)
    for _ in range(400):  # the same scales with random codes: all the values that a block can have
        other = flat.copy()
        other[:, first:] = rng.integers(0, 256, other[:, first:].shape)
        reachable.append(dispatch.decode(other.reshape(4, -1), name, 512).reshape(-1, 16))
    values = np.concatenate(reachable, axis=1)
    best = np.abs(x.reshape(-1, 16)[:, :, None] - values[:, None]).min(2)
    assert (np.abs(x.reshape(-1, 16) - y) <= best * (1 + 1e-5) + 1e-9).all()
