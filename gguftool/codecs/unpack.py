"""Interleaved rows of ik_llama.cpp taken apart: IQ4_KS_R4 and five others as the plain type, byte for byte.

A group of four rows holds, field by field, four times the bytes of the plain type, its bits woven so that a processor
reads the four rows side by side. Nothing is decoded: every bit of the plain rows is one bit of the woven ones. So each
field has one function here, from the bytes of a group's super-block [groups, blocks, 4 n] to [groups, 4, blocks, n].
A woven byte is first cut into its bit fields, [bytes, fields of a byte], and named axes are then put in order.

Plain layouts: native/decode_ik.c.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gguftool.errors import CodecError
from gguftool.format.quanttypes import UNPACKABLE, QuantType, type_by_name, why_woven

Bytes = npt.NDArray[np.uint8]
Field = Callable[[Bytes], Bytes]

ROWS = 4
#: Where in a 32-block a run of four elements lies: nibbles by quarter (the low one; the high one is 8 further), and
#: fifth bits by their place in a byte.
_NIBBLE_RUNS = (0, 16, 4, 20)
_FIFTH_RUNS = (0, 8, 16, 24, 4, 12, 20, 28)


def unpack_rows(woven: Bytes, t: QuantType, n_cols: int) -> Bytes:
    """The same rows as type ``t.unpacked``: uint8 [n_rows, row_nbytes], same shape as ``woven``.

    ``woven`` holds whole groups of four rows. CodecError for a type whose weave is not laid out here, and where the
    rows are no whole groups.
    """
    if t.name not in _FIELDS:
        raise CodecError(f"cannot unpack {t.name}: {why_woven(t) if t.rows_interleaved > 1 else 'its rows are plain'}")
    if woven.ndim != 2 or woven.shape[0] % ROWS or woven.shape[1] != t.row_nbytes(n_cols):
        raise CodecError(f"{t.name}: bytes of shape {woven.shape} are no groups of {ROWS} rows of {n_cols} columns")
    groups = np.ascontiguousarray(woven).reshape(len(woven) // ROWS, ROWS * woven.shape[1])
    out = np.empty((len(groups), ROWS, woven.shape[1]), np.uint8)
    out[:, :, : t.row_header] = groups[:, : ROWS * t.row_header].reshape(len(groups), ROWS, t.row_header)
    if not groups.size:
        return out.reshape(woven.shape)
    blocks = groups[:, ROWS * t.row_header :].reshape(len(groups), n_cols // t.block_size, ROWS * t.block_bytes)
    plain = out[:, :, t.row_header :].reshape(len(groups), ROWS, *blocks.shape[1:2], t.block_bytes)
    at = 0
    for size, field in _FIELDS[t.name]:
        plain[..., at : at + size] = field(blocks[..., ROWS * at : ROWS * (at + size)])
        at += size
    out[:, :, t.row_header :] = plain.reshape(len(groups), ROWS, -1)
    return out.reshape(woven.shape)


# ---- bits ----


def _fields(x: Bytes, width: int) -> Bytes:
    """[..., bytes] as [..., bytes, fields]: a byte's fields of ``width`` bits, the lowest first."""
    return x[..., None] >> np.arange(0, 8, width, dtype=np.uint8) & np.uint8((1 << width) - 1)


def _bytes(fields: Bytes, width: int) -> Bytes:
    """The way back: [..., bytes, fields] as [..., bytes]."""
    shifted = fields << np.arange(0, 8, width, dtype=np.uint8)
    joined: Bytes = np.bitwise_or.reduce(shifted, axis=-1)
    return joined


def _in_order(x: Bytes, axes: str, wanted: str) -> Bytes:
    """The named axes (one letter each, behind groups and blocks) in another order, rows in front of the blocks.

    ``x`` is [groups, blocks, *axes]; ``wanted`` begins with r, and the result is [groups, r, blocks, *rest].
    """
    at = [2 + axes.index(letter) for letter in wanted]
    return x.transpose(0, at[0], 1, *at[1:])


# ---- fields of the header: 16-block 2 b + h, row r is number 8 b + 4 h + r, or is bit b of byte r + 4 h ----


def _by_rows(n: int) -> Field:
    """Row after row, n bytes each."""
    return lambda x: _in_order(x.reshape(*x.shape[:2], ROWS, n), "rn", "rn")


def _by_blocks(x: Bytes) -> Bytes:
    """A byte for every 32-block, the rows of a block side by side."""
    return _in_order(x.reshape(*x.shape[:2], 8, ROWS), "br", "rb")


def _numbered(width: int) -> Field:
    """A field of ``width`` bits for every 16-block: number f is field f / bytes of byte f % bytes."""

    def field(x: Bytes) -> Bytes:
        numbered = _fields(x, width).swapaxes(-1, -2).reshape(*x.shape[:2], 8, 2, ROWS)
        plain = _in_order(numbered, "bhr", "rbh")
        return _bytes(plain.reshape(*plain.shape[:3], -1, 8 // width), width)

    return field


def _shifts(x: Bytes) -> Bytes:
    plain = _in_order(_fields(x, 1).reshape(*x.shape[:2], 2, ROWS, 8), "hrb", "rbh")
    return _bytes(plain.reshape(*plain.shape[:3], 2, 8), 1)


# ---- codes ----


def _nibbles(x: Bytes) -> Bytes:
    """[groups, 4, blocks, 8, 32] of four bits."""
    woven = _in_order(_fields(x.reshape(*x.shape[:2], 8, 4, ROWS, 4), 4), "bsrik", "rbski")
    codes = np.empty((*woven.shape[:4], 32), np.uint8)
    for s, run in enumerate(_NIBBLE_RUNS):
        codes[..., run : run + 4] = woven[..., s, 0, :]
        codes[..., run + 8 : run + 12] = woven[..., s, 1, :]
    return codes


def _fours(x: Bytes) -> Bytes:
    """Nibbles of one byte 16 elements apart."""
    codes = _nibbles(x).reshape(len(x), ROWS, x.shape[1], 8, 2, 16)
    return _bytes(codes.swapaxes(-1, -2), 4).reshape(*codes.shape[:3], 128)


def _low_fours(x: Bytes) -> Bytes:
    """Nibbles of one byte 32 elements apart."""
    codes = _nibbles(x).reshape(len(x), ROWS, x.shape[1], 4, 2, 32)
    return _bytes(codes.swapaxes(-1, -2), 4).reshape(*codes.shape[:3], 128)


def _fifths(x: Bytes) -> Bytes:
    """Bit g of byte j is that of element j of 32-block g."""
    woven = _in_order(_fields(x.reshape(*x.shape[:2], 8, ROWS, 4), 1), "brip", "rbpi")
    bits = np.empty((*woven.shape[:4], 32), np.uint8)
    for p, run in enumerate(_FIFTH_RUNS):
        bits[..., run : run + 4] = woven[..., p, :]
    return _bytes(bits.swapaxes(-1, -2), 1)


def _thirds(x: Bytes) -> Bytes:
    """As _fifths."""
    bits = _in_order(_fields(x.reshape(*x.shape[:2], 8, ROWS, 4), 1), "brip", "rbpi")
    return _bytes(bits.reshape(*bits.shape[:4], 32).swapaxes(-1, -2), 1)


def _twos(x: Bytes) -> Bytes:
    """Two bits; the fields of one byte 32 elements apart."""
    codes = _in_order(_fields(x.reshape(*x.shape[:2], 8, 2, ROWS, 4), 2), "bhrip", "rbhpi")
    codes = codes.reshape(*codes.shape[:3], 2, 4, 32)
    return _bytes(codes.swapaxes(-1, -2), 2).reshape(*codes.shape[:3], 64)


_K_HEAD = ((2, _by_rows(2)), (2, _shifts))
_K_SCALES = ((4, _numbered(2)), (8, _numbered(4)))

#: The fields of a plain super-block in their order: bytes, and what takes them out of four times as many.
_FIELDS: dict[str, tuple[tuple[int, Field], ...]] = {
    "iq2_k_r4": (*_K_HEAD, (8, _numbered(4)), (64, _twos)),
    "iq3_k_r4": (*_K_HEAD, (2, _numbered(1)), (8, _numbered(4)), (64, _twos), (32, _thirds)),
    "iq4_k_r4": (*_K_HEAD, *_K_SCALES, (128, _fours)),
    "iq5_k_r4": (*_K_HEAD, *_K_SCALES, (128, _low_fours), (32, _fifths)),
    "iq4_ks_r4": ((8, _by_blocks), (128, _fours)),
    "iq5_ks_r4": ((8, _by_blocks), (128, _low_fours), (32, _fifths)),
}
assert _FIELDS.keys() == UNPACKABLE
assert all(sum(n for n, _ in fields) == type_by_name(name).block_bytes for name, fields in _FIELDS.items())
