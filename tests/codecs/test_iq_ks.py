"""IQ4_KSS, IQ4_KS and IQ5_KS: parities, the best codes, ties, powers of two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support_golden import golden_inputs, rel_mse
from support_search import in_every_way, lognormal

from gguftool.codecs import dispatch

NAMES = ("iq4_kss", "iq4_ks", "iq5_ks")
OBJECTIVES = ("imatrix", "ref", "mse")


def row_scales(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The f32 in front of every row."""
    return np.ascontiguousarray(blocks[:, :4]).view(np.float32)[:, 0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_word_has_even_parity_and_a_bit_of_the_scale(objective: str) -> None:
    """As if by another reader: codes and scales from the words alone give back what was meant."""
    levels = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32)
    x = (0.02 * np.random.default_rng(2).standard_t(4, (4, 1280))).astype(np.float32)
    blocks = dispatch.encode(x, "iq4_kss", lognormal(1280), objective=objective)
    words = np.ascontiguousarray(blocks[:, 4:]).view(np.uint16).reshape(4, 40, 8).astype(np.int64)
    bits = ((words & 1) << np.arange(8)).sum(2)
    codes = (words & 0xFFFE) ^ ((words & 0xFFFE) >> 1)
    assert not (sum(codes >> k & 1 for k in range(16)) % 2).any()
    q = np.stack([codes & 15, codes >> 8 & 15, codes >> 4 & 15, codes >> 12], 3)  # elements 2k, 2k+1, 2k+16, 2k+17
    order = q.reshape(4, 40, 8, 2, 2).transpose(0, 1, 3, 2, 4).reshape(4, 40, 32)
    scales = row_scales(blocks)[:, None] * ((bits & 254) - 127).astype(np.float32)
    y = scales[:, :, None] * (levels[order] + np.float32(4) * (bits & 1)[:, :, None].astype(np.float32))
    assert y.reshape(4, -1).tobytes() == dispatch.decode(blocks, "iq4_kss", 1280).tobytes()


def test_words_hold_the_best_codes_of_even_parity(shared: Path) -> None:
    """At the scales found, no choice of four codes with an even number of odd ones is better: all 16^4 are tried."""
    levels = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float64)
    odd = np.array([bin(k).count("1") % 2 for k in range(16)])
    x, a = golden_inputs(shared)["student"][:1, :512], golden_inputs(shared)["imatrix"][:512]
    blocks = dispatch.encode(x, "iq4_kss", a, objective="imatrix")
    y = dispatch.decode(blocks, "iq4_kss", 512)[0]
    words = np.ascontiguousarray(blocks[0, 4:]).view(np.uint16).reshape(16, 8).astype(np.int64)
    bits = ((words & 1) << np.arange(8)).sum(1)
    for b in range(16):
        values = float(row_scales(blocks)[0]) * ((bits[b] & 254) - 127) * (levels + 4 * (bits[b] & 1))
        for k in range(8):
            at = 32 * b + np.array((2 * k, 2 * k + 16, 2 * k + 1, 2 * k + 17))
            cost = np.float64(a[at])[:, None] * (np.float64(x[0, at])[:, None] - values) ** 2
            total = cost[0][:, None, None, None] + cost[1][:, None, None] + cost[2][:, None] + cost[3]
            parity = odd[:, None, None, None] ^ odd[:, None, None] ^ odd[:, None] ^ odd
            ours = float((a[at] * (np.float64(x[0, at]) - y[at]) ** 2).sum())
            assert ours <= total[parity == 0].min() * (1 + 1e-5) + 1e-30


@pytest.mark.parametrize("name", NAMES)
def test_ties_between_levels_fall_alike(name: str) -> None:
    """Elements on and beside the middles between two levels, at scales that are powers of two."""
    middles = np.array((-115.5, -96, -93.5, -74, -66, -57, -50, -42, -28.5, -4.5, 7, 19, 19.5, 39, 53.5, 79, 83))
    rows = np.tile(np.concatenate((middles, -middles, (127.0, -127.0, 113.0, -113.0, 4.0, -4.0))), 32)[:1024]
    x = (rows * np.array((1.0, 2.0**-12, -(2.0**-9), 2.0**3))[:, None]).astype(np.float32)
    x[1::2, ::3] = np.nextafter(x[1::2, ::3], np.float32(np.inf))
    for effort in ("fast", "default"):
        assert len(set(in_every_way(x, name, None, "imatrix", effort).values())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_weights_does_not_matter(name: str) -> None:
    """Rows times a power of two: the same bytes but for the scale in front, down to where floats are subnormal."""
    x, a = (0.02 * np.random.default_rng(6).standard_t(4, (4, 768))).astype(np.float32), lognormal(768)
    plain = dispatch.encode(x, name, a)
    for power in (-100, -40, 40, 100):
        other = dispatch.encode(np.ldexp(x, power), name, a)
        assert other[:, 4:].tobytes() == plain[:, 4:].tobytes()
        assert np.array_equal(row_scales(other), np.ldexp(row_scales(plain), power))
    tiny = np.ldexp(x, -120)
    y = dispatch.decode(dispatch.encode(tiny, name, a), name, 768)
    assert rel_mse(tiny, y) < 1.05 * rel_mse(x, dispatch.decode(plain, name, 768))
