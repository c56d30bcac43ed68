"""The numba backend: the same four functions as ``native``, the same bytes, for the types it knows.

A part (jit_floats, jit_legacy, ...) has DECODERS {type name: f(row bytes, y)} and ENCODERS {type name: f(x, w, row
bytes, objective, effort)} for one row; w is empty when there is no importance. Each compiles at its first call.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from gguftool.codecs import (
    jit_affine,
    jit_floats,
    jit_fp4,
    jit_grids,
    jit_ik,
    jit_iq3,
    jit_iq4,
    jit_iq_ks,
    jit_kquants,
    jit_kt,
    jit_legacy,
    jit_symmetric,
    jit_ternary,
)
from gguftool.codecs.jit_bits import Kernel, inline, kernel
from gguftool.codecs.values import OVERFLOW, Buffer, Codec, Sums, unfit_value
from gguftool.format.quanttypes import BY_ID, QuantType, type_by_name

DECODERS: dict[str, Kernel] = (
    jit_floats.DECODERS
    | jit_legacy.DECODERS
    | jit_kquants.DECODERS
    | jit_grids.DECODERS
    | jit_iq4.DECODERS
    | jit_ternary.DECODERS
    | jit_fp4.DECODERS
    | jit_ik.DECODERS
    | jit_kt.DECODERS
)
CLOSED: dict[str, Kernel] = jit_floats.ENCODERS | jit_legacy.ENCODERS
SEARCHED: dict[str, Kernel] = (
    jit_affine.ENCODERS | jit_symmetric.ENCODERS | jit_iq4.ENCODERS | jit_iq3.ENCODERS | jit_iq_ks.ENCODERS
)

#: Number of the objective "unbiased"; no kernel sees it. Where the f16 scales of a block lie, and the largest gain.
UNBIASED = 3
SCALES: dict[str, tuple[int, ...]] = {
    "q2_K": (80, 82),
    "q3_K": (108,),
    "q4_K": (0, 2),
    "q5_K": (0, 2),
    "q6_K": (208,),
    "iq1_m": (48,),
    "tq1_0": (52,),
    "tq2_0": (64,),
}
_FIRST = ("iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "q1_0", "q2_0", "q6_0")
SCALES |= dict.fromkeys((*_FIRST, "iq2_k", "iq3_k", "iq4_k", "iq5_k", "iq6_k"), (0,))
#: Their rows begin with the scale.
SCALES |= dict.fromkeys(("iq4_ks", "iq2_ks", "iq4_kss", "iq5_ks", "iq3_ks", "iq2_kl"), (0,))
SCALES |= dict.fromkeys(("iq1_kt", "iq2_kt", "iq3_kt", "iq4_kt"), (0,))
MAX_GAIN = 1.4375
#: Rows with a larger sum of squares keep their gain: their values might pass the end of float32.
MAX_ENERGY = 1e76


def isa() -> str:
    """ "numba": whatever LLVM makes of this processor."""
    return "numba"


@functools.cache
def codecs() -> dict[int, Codec]:
    """What can be encoded and decoded, by type id."""
    names = DECODERS.keys() | CLOSED.keys() | SEARCHED.keys()
    encoders = CLOSED.keys() | SEARCHED.keys()
    return {type_by_name(name).id: Codec(name in encoders, name in DECODERS) for name in names}


def decode(type_id: int, src: Buffer, n_rows: int, n_cols: int, out: Buffer) -> None:
    """Writes float32 rows to ``out``."""
    t = BY_ID[type_id]
    rows = np.frombuffer(src, np.uint8).reshape(n_rows, t.row_nbytes(n_cols))
    values = np.frombuffer(out, np.float32).reshape(n_rows, n_cols)
    row = np.empty(rows.shape[1], np.uint8)  # rows may be read-only, for which numba would compile a second time
    for r in range(n_rows):
        row[:] = rows[r]
        DECODERS[t.name](row, values[r])


def transcode(
    src_id: int,
    dst_id: int,
    src: Buffer,
    n_rows: int,
    n_cols: int,
    weights: npt.NDArray[np.float32] | None,
    importance: npt.NDArray[np.float64] | None,
    out: Buffer,
    objective: int,
    effort: int,
    errors: bool,
) -> Sums | None:
    """Writes blocks to ``out``; the four error sums if asked. CodecError names the first value that does not fit."""
    src_type, dst_type = BY_ID[src_id], BY_ID[dst_id]
    rows = np.frombuffer(src, np.uint8).reshape(n_rows, src_type.row_nbytes(n_cols))
    blocks = np.frombuffer(out, np.uint8).reshape(n_rows, dst_type.row_nbytes(n_cols))
    w = np.array([] if weights is None else weights, np.float32)
    a = np.array([] if importance is None else importance, np.float64)
    encode_row = _encoder(dst_type.name, weights is not None)
    limit = np.float32(OVERFLOW.get(dst_type.name, np.inf))
    unbiased = objective == UNBIASED and dst_type.name in SCALES
    objective = 0 if objective == UNBIASED else objective
    x, y, sums = np.empty(n_cols, np.float32), np.empty(n_cols, np.float32), np.zeros(4)
    row = np.empty(rows.shape[1], np.uint8)
    for r in range(n_rows):
        row[:] = rows[r]
        DECODERS[src_type.name](row, x)
        column = _first_unfit(x, limit)
        if column >= 0:
            raise unfit_value(r, column, float(x[column]), dst_type)
        encode_row(x, w, blocks[r], objective, effort)
        if unbiased:
            DECODERS[dst_type.name](blocks[r], y)
            _scale_row(dst_type, _gain(x, y, w.astype(np.float64)), blocks[r])
        if errors:
            DECODERS[dst_type.name](blocks[r], y)
            _add_errors(x, y, a, sums)
    return (float(sums[0]), float(sums[1]), float(sums[2]), float(sums[3])) if errors else None


def _gain(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], w: npt.NDArray[np.float64]) -> float:
    """The factor that gives a row x, decoded as y, its gain back: native/gain.h says why."""
    xy, yx = np.zeros(4), np.zeros(4)
    _add_errors(x, y, w, xy)
    _add_errors(y, x, w, yx)
    product = (xy[1] + yx[1] - xy[0]) / 2
    if not (product > 0 and yx[3] <= MAX_ENERGY):
        return 1.0
    return min(max(float(xy[1] / product), 1 / MAX_GAIN), MAX_GAIN)


def _scale_row(t: QuantType, gain: float, row: npt.NDArray[np.uint8]) -> None:
    """Every f16 scale of the row's blocks, or the one in its header, times the gain."""
    if t.row_header >= 4:
        scale = row[:4].view(np.float32)
        scale[0] = np.float32(np.float64(scale[0]) * gain)
        return
    blocks = row[None, :2] if t.row_header else row.reshape(-1, t.block_bytes)
    largest = np.float32(np.finfo(np.float16).max)
    for at in SCALES[t.name]:
        scales = _stored_scales(blocks, t, at).view(np.float16).astype(np.float64) * gain
        halves = np.clip(scales.astype(np.float32), -largest, largest).astype(np.float16).view(np.uint16)
        if t.name == "iq1_m":
            words = blocks[:, at : at + 8].copy().view(np.uint16) & 0xFFF
            blocks[:, at : at + 8] = (words | (halves >> _NIBBLES & 15) << 12).view(np.uint8)
        else:
            blocks[:, at : at + 2] = halves.view(np.uint8)


#: Where the nibbles of a scattered scale belong, those on top of iq1_m's four words.
_NIBBLES = np.arange(0, 16, 4, dtype=np.uint16)


def _stored_scales(blocks: npt.NDArray[np.uint8], t: QuantType, at: int) -> npt.NDArray[np.uint16]:
    """The bits of one f16 scale of every block: [blocks, 1]."""
    if t.name == "iq1_m":
        words = blocks[:, at : at + 8].copy().view(np.uint16)
        return np.bitwise_or.reduce(words >> 12 << _NIBBLES, axis=1, keepdims=True)
    return blocks[:, at : at + 2].copy().view(np.uint16)


def _encoder(name: str, weighted: bool) -> Kernel:
    """The closed form where there is one, the search where there is an importance or no closed form."""
    if name in SEARCHED and (weighted or name not in CLOSED):
        return SEARCHED[name]
    return CLOSED[name]


@kernel
def _first_unfit(x: Any, limit: Any) -> Any:
    """The first column whose magnitude is ``limit`` or more, or NaN; -1 if there is none."""
    for i in range(x.size):
        if not (abs(x[i]) < limit):
            return i
    return -1


@inline
def _close(parts: Any, row: Any) -> None:
    for k in range(4):
        p = parts[k]
        row[k] = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))


@kernel
def _add_errors(x: Any, y: Any, a: Any, sums: Any) -> None:
    """Adds a row's four sums: eight partial sums and one tree, as native/measure.c does, so the figures agree."""
    parts = np.zeros((4, 8))
    row = np.zeros(4)
    whole = x.size // 8 * 8
    for i in range(x.size):
        if i == whole:
            _close(parts, row)
        u = np.float64(x[i])
        e = u - np.float64(y[i])
        c = a[i] if a.size else 1.0
        for k, term in enumerate((c * (e * e), c * (u * u), e * e, u * u)):
            if i < whole:
                parts[k, i % 8] += term
            else:
                row[k] += term
    if whole == x.size:
        _close(parts, row)
    sums += row
