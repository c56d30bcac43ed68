"""What tests of the searching encoders share: hard rows, importances, and one call in every way there is."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from support_isa import WAYS

from gguftool import _native
from gguftool.codecs import dispatch, jit, native
from gguftool.format.quanttypes import type_by_name

Array = npt.NDArray[np.float32]


def lognormal(n: int, seed: int = 3) -> Array:
    """An importance as those of activations are spread."""
    return np.exp(np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def awkward_importance(n: int) -> Array:
    """Zeros over a sub-block and over a block of 256, and values of many magnitudes."""
    a = np.exp2(-50 * np.random.default_rng(5).random(n) ** 3)
    a[32:64] = 0
    a[-256:] = 0
    return a.astype(np.float32)


def awkward_rows(n: int) -> Array:
    """Zeros of both signs, constants and nearly, one sign, few values, spikes, ties, and every magnitude."""
    rng = np.random.default_rng(23)
    x = 0.02 * rng.standard_t(3, (24, n))
    x[0], x[1] = 0.0, -0.0
    x[2, rng.random(n) < 0.95] = 0
    x[3], x[4] = 0.01, -0.01
    x[5] = 0.01 + 1e-5 * x[5]
    x[6] = 1e-5 * x[6] - 0.01
    x[7], x[8] = np.abs(x[7]), -np.abs(x[8])
    x[9] = rng.choice((-0.7, 0.0, 0.7), n)
    x[10, ::67] = -1e4
    x[11, 5] = 3e38
    x[12] = np.round(100 * x[12]) / 4
    x[13] *= np.exp(4 * rng.standard_normal(n))
    for r, power in enumerate((-44, -38, -30, -8, -5, -3, 5, 8, 30, 38)):
        x[14 + r] *= 10.0**power
    return np.clip(x, -3.4e38, 3.4e38).astype(np.float32)


def wild_rows(seed: int, n: int) -> Array:
    """Eight rows of any magnitude: smooth, steep, or of few values, some with many zeros of either sign."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((8, n)) * np.exp(rng.choice((0, 1, 4), (8, 1)) * rng.standard_normal((8, n)))
    few = np.rint(x / np.abs(x).max(1, keepdims=True) * rng.choice((1, 2, 3, 6, 12, 14, 24), (8, 1)))
    x = np.where(rng.random((8, 1)) < 0.3, few, x) * np.exp2(np.rint(rng.uniform(-150, 124, (8, 1))))
    x[rng.random((8, n)) < rng.choice((0, 0.5), (8, 1))] = rng.choice((0.0, -0.0))
    return np.clip(x, -3.4e38, 3.4e38).astype(np.float32)


def in_every_way(x: Array, name: str, a: Array | None, objective: str, effort: str) -> dict[str, bytes]:
    """The blocks' bytes of each instruction set, and of numba where it has an encoder for the type."""
    found = {}
    for way in WAYS:
        if way == "numba" and not jit.codecs()[type_by_name(name).id].encodes:
            continue
        module: ModuleType = jit if way == "numba" else native
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "_kernels", lambda module=module: module)
            _native.use(None if way == "numba" else way)
            found[way] = dispatch.encode(x, name, a, objective=objective, effort=effort).tobytes()
    _native.use(native.isa())
    return found
