"""IQ4_NL and IQ4_XS: scales are the best there are, ties fall alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_golden import IQ4, golden_inputs
from support_search import in_every_way

from gguftool.codecs import dispatch


def test_nl_scales_are_the_best_there_are(shared: Path) -> None:
    """Every binary16 scale of either sign, tried on some blocks: hardly one is better than what the search found."""
    levels = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    x, a = golden_inputs(shared)["student"][:1], golden_inputs(shared)["imatrix"]
    ours = dispatch.decode(dispatch.encode(x, "iq4_nl", a, objective="imatrix"), "iq4_nl", 1024)
    lost = total = 0.0
    for at in range(0, 1024, 32):
        block, w = np.float64(x[0, at : at + 32]), np.float64(a[at : at + 32])
        natural = np.abs(block).max() / 127
        d = halves[(halves > 0.5 * natural) & (halves < 2 * natural)]
        t = block / np.concatenate((d, -d))[:, None]
        errors = (w * (levels[np.searchsorted(middles, t)] - t) ** 2).sum(1) * np.concatenate((d, d)) ** 2
        lost += float((w * (block - ours[0, at : at + 32]) ** 2).sum() - errors.min())
        total += float(errors.min())
    assert lost < 0.002 * total


@pytest.mark.parametrize("name", IQ4)
def test_ties_between_levels_fall_alike(name: str) -> None:
    """Elements on and beside the middles between two levels, at scales that are powers of two."""
    middles = np.array((-115.5, -93.5, -74, -57, -42, -28.5, -16, -4.5, 7, 19, 31.5, 45.5, 61, 79, 101))
    rows = np.tile(np.concatenate((middles, -middles, (127.0, -127.0))), (4, 8))
    rows *= np.array((1.0, 2.0**-12, -(2.0**-9), 2.0**3))[:, None]
    x = rows.astype(np.float32)
    x[1::2, ::3] = np.nextafter(x[1::2, ::3], np.float32(np.inf))
    for effort in ("fast", "default"):
        assert len(set(in_every_way(x, name, None, "imatrix", effort).values())) == 1
