"""Interleaved rows taken apart: the reference's own bytes, and a packer written from the specification's sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_golden import golden_blocks

from gguftool.codecs import dispatch
from gguftool.codecs.unpack import unpack_rows
from gguftool.errors import CodecError
from gguftool.format.quanttypes import TYPES, UNPACKABLE, type_by_name

WOVEN = sorted(UNPACKABLE)
A = (0, 16, 4, 20)
B = (0, 8, 16, 24, 4, 12, 20, 28)
#: Where a plain super-block's fields begin: d is always first, then shifts, and so on as section 4 has them.
PLAIN = {
    "iq2_k": {"shifts": 2, "scales": 4, "twos": 12},
    "iq3_k": {"shifts": 2, "signs": 4, "scales": 6, "twos": 14, "thirds": 78},
    "iq4_k": {"shifts": 2, "high": 4, "scales": 8, "fours": 16},
    "iq5_k": {"shifts": 2, "high": 4, "scales": 8, "low": 16, "fifths": 144},
    "iq4_ks": {"bytes": 0, "fours": 8},
    "iq5_ks": {"bytes": 0, "low": 8, "fifths": 136},
}


def bit(data: np.ndarray, number: int) -> int:
    return int(data[number // 8]) >> number % 8 & 1


def weave_block(name: str, rows: list[np.ndarray]) -> np.ndarray:
    """Super-blocks of four rows woven as section 8 says, bit by bit."""
    at, out = PLAIN[name], np.zeros(4 * len(rows[0]), np.uint8)

    def put(field: str, byte: int, number: int, value: int) -> None:
        out[4 * at[field] + byte] |= value << number

    for r, row in enumerate(rows):
        if "bytes" not in at:
            out[2 * r : 2 * r + 2] = row[:2]
        for b in range(8):
            if "bytes" in at:
                put("bytes", 4 * b + r, 0, int(row[at["bytes"] + b]))
                continue
            for h in range(2):
                i, f = 2 * b + h, 8 * b + 4 * h + r
                nibble = int(row[at["scales"] + i // 2]) >> 4 * (i % 2) & 15
                put("scales", f % 32, 4 * (f // 32), nibble)
                put("shifts", r + 4 * h, b, bit(row[at["shifts"] :], i))
                if "high" in at:
                    put("high", f % 16, 2 * (f // 16), int(row[at["high"] + i // 4]) >> 2 * (i % 4) & 3)
                if "signs" in at:
                    put("signs", f % 8, f // 8, bit(row[at["signs"] :], i))
        for e in range(256):
            b, j = e // 32, e % 32
            if "fours" in at or "low" in at:
                plain = row[at["fours"] + 16 * b + j % 16 :] if "fours" in at else row[at["low"] + 32 * (b // 2) + j :]
                code = int(plain[0]) >> 4 * (j // 16 if "fours" in at else b % 2) & 15
                s = next(s for s in range(4) if j - A[s] in (0, 1, 2, 3, 8, 9, 10, 11))
                high, i = divmod(j - A[s], 8)
                put("fours" if "fours" in at else "low", 64 * b + 16 * s + 4 * r + i, 4 * high, code)
            if "fifths" in at:
                p = B.index(j // 4 * 4)
                put("fifths", 16 * b + 4 * r + j % 4, p, int(row[at["fifths"] + j]) >> b & 1)
            if "twos" in at:
                code = int(row[at["twos"] + 32 * (b // 4) + j]) >> 2 * (b % 4) & 3
                put("twos", 32 * b + 16 * (j // 16) + 4 * r + j % 4, 2 * (j % 16 // 4), code)
            if "thirds" in at:
                put("thirds", 16 * b + 4 * r + j % 4, j // 4, int(row[at["thirds"] + j]) >> b & 1)
    return out


def weave(name: str, rows: np.ndarray) -> np.ndarray:
    """Plain rows as the interleaved type, the same shape."""
    t, groups = type_by_name(name), []
    for four in rows.reshape(-1, 4, rows.shape[1]):
        blocks = four[:, t.row_header :].reshape(4, -1, t.block_bytes)
        woven = [weave_block(name, list(blocks[:, n])) for n in range(blocks.shape[1])]
        groups.append(np.concatenate([four[:, : t.row_header].ravel(), *woven]))
    return np.stack(groups).reshape(rows.shape)


@pytest.mark.parametrize("woven", WOVEN)
def test_the_reference(shared: Path, woven: str) -> None:
    golden = golden_blocks(shared, woven.removesuffix("_r4"))
    rows = golden["q_gauss_im"]
    got = unpack_rows(golden["r4_gauss_im"].reshape(rows.shape), type_by_name(woven), 1024)
    assert got.tobytes() == rows.tobytes()


@pytest.mark.parametrize("woven", WOVEN)
def test_random_bits(woven: str) -> None:
    plain = woven.removesuffix("_r4")
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (8, type_by_name(plain).row_nbytes(512)), dtype=np.uint8)
    assert unpack_rows(weave(plain, rows), type_by_name(woven), 512).tobytes() == rows.tobytes()


@pytest.mark.parametrize("woven", WOVEN)
def test_sizes(woven: str) -> None:
    t = type_by_name(woven)
    for shape in ((0, 256), (4, 0), (0, 0)):
        empty = np.zeros((shape[0], t.row_nbytes(shape[1])), np.uint8)
        assert unpack_rows(empty, t, shape[1]).shape == empty.shape
    with pytest.raises(CodecError, match="no groups of 4 rows of 256 columns"):
        unpack_rows(np.zeros((6, t.row_nbytes(256)), np.uint8), t, 256)
    with pytest.raises(CodecError, match="no groups"):
        unpack_rows(np.zeros((4, t.row_nbytes(256)), np.uint8), t, 512)


def test_all_others_are_refused() -> None:
    """Unpacking and decoding; one line that says what can be done."""
    for t in (t for t in TYPES if t.rows_interleaved > 1):
        blocks = np.zeros((t.rows_interleaved, t.row_nbytes(t.block_size)), np.uint8)
        says = "`gguftool copy --unpack` makes it" if t.name in UNPACKABLE else "it can be copied, nothing else"
        with pytest.raises(CodecError, match=f"cannot decode {t.name}: its rows are interleaved.*{says}"):
            dispatch.decode(blocks, t, t.block_size)
        if t.name not in UNPACKABLE:
            with pytest.raises(CodecError, match=f"cannot unpack {t.name}: .*{says}"):
                unpack_rows(blocks, t, t.block_size)
    with pytest.raises(CodecError, match="cannot unpack iq4_k: its rows are plain"):
        unpack_rows(np.zeros((4, 144), np.uint8), type_by_name("iq4_k"), 256)
