"""Decoders: exactly the format's values, on every instruction set and in numba."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support_golden import BLOCKS, IK, NEED_IMATRIX, NO_GOLDEN, golden_blocks, set_scales, vector_sets
from support_isa import WAYS
from support_libggml import dequantize, libggml, quantize

from gguftool import _native
from gguftool.codecs import dispatch, jit, native
from gguftool.errors import CodecError
from gguftool.format.quanttypes import type_by_name


def random_blocks(name: str, n_rows: int, n_blocks: int) -> np.ndarray:
    """Rows of random bytes whose f16 scales are any finite value, subnormals and both zeros too."""
    rng = np.random.default_rng(5)
    t = type_by_name(name)
    blocks = rng.integers(0, 256, (n_rows * n_blocks, t.block_bytes), dtype=np.uint8)
    h = rng.integers(0, 0x7C00, len(blocks), dtype=np.uint16)
    h[rng.random(len(h)) < 0.5] |= 0x8000
    h[:3] = (0, 0x8000, 0x0001)
    set_scales(blocks, name, h)
    return blocks.reshape(n_rows, -1)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in NO_GOLDEN])
def test_golden_values(kernels: ModuleType, shared: Path, name: str) -> None:
    golden = golden_blocks(shared, name)
    checked = 0
    for key, blocks in golden.items():
        if key.startswith("q_"):
            expected = golden["d" + key]
            got = dispatch.decode(blocks, name, expected.shape[1])
            assert got.tobytes() == expected.tobytes(), key
            checked += 1
    assert "q_rand" in golden
    assert checked >= (5 if name in NEED_IMATRIX else 9)


@pytest.mark.parametrize("name", BLOCKS)
def test_test_vectors(shared: Path, name: str) -> None:
    """What the specification's test vectors say of decoding; libggml makes the blocks, their hash included."""
    lib, sets = libggml(), vector_sets()
    expected = json.loads((shared / "specs" / "ggml-types.json").read_text())["test_vectors"]["types"][name.upper()]
    checked = 0
    for key in [key for key in expected if key.startswith("q_")]:
        x, weighted = sets[key[2]], key.endswith("im1")
        blocks = quantize(lib, name, x, sets["imatrix"] if weighted else None)
        if hashlib.sha256(blocks.tobytes()).hexdigest() != expected[key]:
            assert name == "iq1_m" and key.startswith("q_B")  # they hang on the order in which the C library sorts ties
            continue
        for way in WAYS:
            module = jit if way == "numba" else native
            _native.use(None if way == "numba" else way)
            values = np.empty(x.shape, np.float32)
            module.decode(type_by_name(name).id, blocks, len(x), x.shape[1], values)
            assert hashlib.sha256(values.tobytes()).hexdigest() == expected["d" + key[1:]], (key, way)
        _native.use(native.isa())
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize("name", BLOCKS)
def test_any_bytes_decode_alike(kernels: ModuleType, name: str) -> None:
    t = type_by_name(name)
    blocks = random_blocks(name, 4, 16)
    n_cols = 16 * t.block_size
    got, expected = np.empty((4, n_cols), np.float32), np.empty((4, n_cols), np.float32)
    kernels.decode(t.id, blocks, 4, n_cols, got)
    jit.decode(t.id, blocks, 4, n_cols, expected)
    assert np.isfinite(got).all()
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", BLOCKS)
def test_any_bytes_decode_as_the_reference_has_it(name: str) -> None:
    blocks, n_cols = random_blocks(name, 16, 16), 16 * type_by_name(name).block_size
    expected = dequantize(libggml(), name, blocks, n_cols)
    assert dispatch.decode(blocks, name, n_cols).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", BLOCKS)
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
    assert {type_by_name(name).id for name in (*BLOCKS, *IK, "f32", "f16", "bf16")} == ours


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
