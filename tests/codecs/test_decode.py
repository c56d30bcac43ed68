"""Decoders: exactly the format's values, on every instruction set and in numba."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support_golden import KQUANTS, LEGACY, SCALE_OFFSETS, golden_blocks
from support_isa import kernels  # noqa: F401

from gguftool.codecs import dispatch, jit, native
from gguftool.errors import CodecError
from gguftool.format.quanttypes import type_by_name


def random_blocks(name: str, n_rows: int, n_blocks: int) -> np.ndarray:
    """Rows of random bytes whose f16 scales are any finite value, subnormals and both zeros too."""
    rng = np.random.default_rng(5)
    t = type_by_name(name)
    blocks = rng.integers(0, 256, (n_rows * n_blocks, t.block_bytes), dtype=np.uint8)
    for at in SCALE_OFFSETS[name]:
        h = rng.integers(0, 0x7C00, len(blocks), dtype=np.uint16)
        h[rng.random(len(h)) < 0.5] |= 0x8000
        h[:3] = (0, 0x8000, 0x0001)
        blocks[:, at : at + 2] = h[:, None].view(np.uint8)
    return blocks.reshape(n_rows, -1)


@pytest.mark.parametrize("name", (*LEGACY, *KQUANTS))
def test_golden_values(kernels: ModuleType, shared: Path, name: str) -> None:  # noqa: F811
    golden = golden_blocks(shared, name)
    checked = 0
    for key, blocks in golden.items():
        if key.startswith("q_"):
            expected = golden["d" + key]
            got = dispatch.decode(blocks, name, expected.shape[1])
            assert got.tobytes() == expected.tobytes(), key
            checked += 1
    assert "q_rand" in golden
    assert checked >= 9


@pytest.mark.parametrize("name", (*LEGACY, *KQUANTS))
def test_any_bytes_decode_alike(kernels: ModuleType, name: str) -> None:  # noqa: F811
    t = type_by_name(name)
    blocks = random_blocks(name, 4, 16)
    n_cols = 16 * t.block_size
    got, expected = np.empty((4, n_cols), np.float32), np.empty((4, n_cols), np.float32)
    kernels.decode(t.id, blocks, 4, n_cols, got)
    jit.decode(t.id, blocks, 4, n_cols, expected)
    assert np.isfinite(got).all()
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ("q4_0", "q5_1", "q8_0", "q2_K", "q6_K"))
def test_rows_are_independent(name: str) -> None:
    t = type_by_name(name)
    blocks = random_blocks(name, 3, 2)
    whole = dispatch.decode(blocks, name, 2 * t.block_size)
    split = [dispatch.decode(row.reshape(2, -1), name, t.block_size).ravel() for row in blocks]
    assert whole.tobytes() == np.stack(split).tobytes()


def test_zero_rows_and_zero_columns() -> None:
    assert dispatch.decode(np.empty((0, 18), np.uint8), "q4_0", 32).shape == (0, 32)
    assert dispatch.decode(np.empty((3, 0), np.uint8), "q4_0", 0).shape == (3, 0)
    assert dispatch.encode(np.empty((0, 64), np.float32), "q8_0").shape == (0, 68)
    assert dispatch.encode(np.empty((2, 0), np.float32), "q8_0").shape == (2, 0)


def test_both_backends_decode_the_same_types() -> None:
    ours = {type_id for type_id, codec in native.codecs().items() if codec.decodes}
    assert ours == {type_id for type_id, codec in jit.codecs().items() if codec.decodes}
    assert {type_by_name(name).id for name in (*LEGACY, *KQUANTS, "f32", "f16", "bf16")} == ours


@pytest.mark.parametrize(
    ("blocks", "n_cols", "says"),
    (
        (np.zeros((1, 18), np.uint8), 33, "multiple of 32"),
        (np.zeros((1, 17), np.uint8), 32, r"uint8 \[n_rows, 18\]"),
        (np.zeros(18, np.uint8), 32, r"shape \(18,\)"),
        (np.zeros((1, 18), np.int8), 32, "int8"),
    ),
)
def test_wrong_blocks_are_refused(blocks: np.ndarray, n_cols: int, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        dispatch.decode(blocks, "q4_0", n_cols)


def test_a_type_without_a_decoder_is_refused() -> None:
    with pytest.raises(CodecError, match="cannot decode i8 yet"):
        dispatch.decode(np.zeros((1, 32), np.uint8), "i8", 32)
