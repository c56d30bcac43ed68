"""IQ1_KT to IQ4_KT: against a search of everything; threads that come first together."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from support_search import lognormal

from gguftool.codecs import dispatch

Array = npt.NDArray[np.float32]

NAMES = ("iq1_kt", "iq2_kt", "iq3_kt", "iq4_kt")


V4 = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))
#: Values of the block scales.
SCALES = {"iq1_kt": V4, "iq2_kt": V4, "iq3_kt": np.arange(16), "iq4_kt": np.arange(-64, 64)}
#: Points of a codebook, their coordinates, and how many codebooks a block may choose between.
BOOKS = {"iq1_kt": (8192, 8, 1), "iq2_kt": (65536, 8, 1), "iq3_kt": (65536, 8, 1), "iq4_kt": (32768, 4, 2)}


def points(name: str, book: int = 0) -> npt.NDArray[np.float64]:
    """The codebook, [points, coordinates]."""
    n, dims, _ = BOOKS[name]
    x, values = np.arange(n, dtype=np.uint64) + 4096 + 32768 * book, []
    for _ in range(dims):
        x = x * 0xCBAC1FED % 2**32
        values.append(sum((x >> np.uint64(8 * k) & np.uint64(0x3F)).astype(int) for k in range(4)) - 126)
    found = np.stack(values, 1).astype(float)
    return np.abs(found) if name == "iq3_kt" else found


def row_scale(blocks: npt.NDArray[np.uint8]) -> Array:
    return np.ascontiguousarray(blocks[:, :4]).view(np.float32)[:, 0]


def round_trip(x: Array, name: str, a: Array | None, **options: str) -> Array:
    return dispatch.decode(dispatch.encode(x, name, a, **options), name, x.shape[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_nearly_as_good_as_with_all_scales_and_points(name: str) -> None:
    """Every scale and every point tried, with the row scale that was stored."""
    rng = np.random.default_rng(12)
    x = (0.02 * rng.standard_t(4, (1, 256))).astype(np.float32)
    a = lognormal(256, 13)
    blocks = dispatch.encode(x, name, a, objective="imatrix")
    y, d = dispatch.decode(blocks, name, 256), float(row_scale(blocks)[0])
    _, dims, books = BOOKS[name]
    target = np.abs(x[0]) if name == "iq3_kt" else x[0]
    least = np.full(8, np.inf)
    for book in range(books):
        p = points(name, book)
        for s in d * SCALES[name].astype(float):
            cost = np.zeros(8)
            for i in range(0, 256, dims):
                cost[i // 32] += ((target[i : i + dims] - s * p) ** 2 @ np.float64(a[i : i + dims])).min()
            least = np.minimum(least, cost)
    ours = (np.float64(a) * (np.float64(x[0]) - y[0]) ** 2).reshape(8, 32).sum(1)
    assert ours.sum() < {"iq4_kt": 1.12}.get(name, 1.04) * least.sum()


def test_threads_that_come_first_together_share_the_codebooks() -> None:
    """Eight threads of a fresh process, of which one makes the tables."""
    script = """
import hashlib, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from gguftool.codecs import dispatch
x = np.random.default_rng(3).standard_normal((1, 512)).astype(np.float32)
dispatch.isa()
with ThreadPoolExecutor(8) as pool:
    found = set(pool.map(lambda _: hashlib.sha256(dispatch.encode(x, sys.argv[1])).hexdigest(), range(16)))
print(*found)
"""
    x = np.random.default_rng(3).standard_normal((1, 512)).astype(np.float32)
    for name in NAMES:
        run = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=True)
        assert run.stdout.split() == [hashlib.sha256(dispatch.encode(x, name)).hexdigest()]
