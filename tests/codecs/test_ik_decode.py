"""Decoders of the ik_llama.cpp types: the golden values, on every instruction set and in numba."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support_golden import IK, golden_blocks

from gguftool.codecs import dispatch, jit
from gguftool.errors import UsageError
from gguftool.format.quanttypes import type_by_name

#: Where a type without a row header has the f16 scale of its blocks; the other headers begin with f16 or f32.
BLOCK_SCALE = dict.fromkeys(("iq2_k", "iq3_k", "iq4_k", "iq5_k", "iq6_k", "q6_0"), 0)


def finite_halves(rng: np.random.Generator, n: int) -> np.ndarray:
    """Bits of n finite f16 scales: both signs, zeros and a subnormal too."""
    h = rng.integers(0, 0x7C00, n, dtype=np.uint16) | rng.integers(0, 2, n, dtype=np.uint16) << 15
    h[:3] = (0, 0x8000, 0x0001)[:n]
    return h


def random_rows(name: str, n_rows: int, n_blocks: int) -> np.ndarray:
    """Rows of random bytes, their outer scales finite."""
    rng, t = np.random.default_rng(11), type_by_name(name)
    rows = rng.integers(0, 256, (n_rows, t.row_nbytes(n_blocks * t.block_size)), dtype=np.uint8)
    if t.row_header == 2:
        rows[:, :2] = finite_halves(rng, n_rows)[:, None].view(np.uint8)
    elif t.row_header:
        rows[:, :4] = (0.01 * rng.standard_normal(n_rows)).astype(np.float32)[:, None].view(np.uint8)
    if name in BLOCK_SCALE:
        blocks = rows.reshape(n_rows * n_blocks, -1)
        at = BLOCK_SCALE[name]
        blocks[:, at : at + 2] = finite_halves(rng, len(blocks))[:, None].view(np.uint8)
    return rows


@pytest.mark.parametrize("name", IK)
def test_golden_values(kernels: ModuleType, shared: Path, name: str) -> None:
    golden = golden_blocks(shared, name)
    checked = 0
    for key, blocks in golden.items():
        if key.startswith("q_"):
            expected = golden["d" + key]
            assert dispatch.decode(blocks, name, expected.shape[1]).tobytes() == expected.tobytes(), key
            checked += 1
    ternary = name in ("iq1_bn", "iq2_bn")
    assert checked >= 8 if ternary else checked >= 9 and "q_rand" in golden


def test_q1_0_g128_is_q1_0(kernels: ModuleType, shared: Path) -> None:
    with np.load(shared / "golden" / "ik" / "Q1_0_G128.npz") as golden:
        sets = [key for key in golden.files if key.startswith("q_")]
        for key in sets:
            expected = golden["d" + key]
            assert dispatch.decode(golden[key], "q1_0_g128", expected.shape[1]).tobytes() == expected.tobytes(), key
    assert len(sets) >= 8 and type_by_name("q1_0_g128").name == "q1_0"


def test_iq6_k_has_two_decodes(kernels: ModuleType, shared: Path) -> None:
    golden = golden_blocks(shared, "iq6_k")
    for key in [key for key in golden if key.startswith("q_")]:
        blocks, poly, table = golden[key], golden["dqpoly" + key[1:]], golden["d" + key]
        n_cols = poly.shape[1]
        assert dispatch.decode(blocks, "iq6_k", n_cols, variant="poly").tobytes() == poly.tobytes(), key
        assert dispatch.decode(blocks, "iq6_k", n_cols, variant="table").tobytes() == table.tobytes(), key
    with pytest.raises(UsageError, match="variant='cubic': choose one of table, poly"):
        dispatch.decode(blocks, "iq6_k", n_cols, variant="cubic")
    with pytest.raises(UsageError, match="variant='poly': q4_K has one decode only"):
        dispatch.decode(np.zeros((1, 144), np.uint8), "q4_K", 256, variant="poly")
    assert dispatch.decode(np.empty((0, 212), np.uint8), "iq6_k", 256, variant="poly").shape == (0, 256)
    assert dispatch.decode(np.empty((2, 0), np.uint8), "iq6_k", 0, variant="poly").shape == (2, 0)


@pytest.mark.parametrize("name", IK)
def test_any_bytes_decode_alike(kernels: ModuleType, name: str) -> None:
    t = type_by_name(name)
    rows, n_cols = random_rows(name, 5, 7), 7 * t.block_size
    got, expected = np.empty((5, n_cols), np.float32), np.empty((5, n_cols), np.float32)
    kernels.decode(t.id, rows, 5, n_cols, got)
    jit.decode(t.id, rows, 5, n_cols, expected)
    assert np.isfinite(got).all()
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", IK)
def test_rows_may_lie_at_odd_addresses(kernels: ModuleType, name: str) -> None:
    t = type_by_name(name)
    rows, n_cols = random_rows(name, 3, 2), 2 * t.block_size
    moved = memoryview(b"\0" + rows.tobytes())[1:]
    got = np.empty((3, n_cols), np.float32)
    kernels.decode(t.id, moved, 3, n_cols, got)
    assert got.tobytes() == dispatch.decode(rows, name, n_cols).tobytes()


@pytest.mark.parametrize("name", IK)
def test_rows_and_blocks_are_independent(name: str) -> None:
    """A block decodes alike wherever it stands, with its row's header in front of it."""
    t = type_by_name(name)
    rows = random_rows(name, 3, 4)
    whole = dispatch.decode(rows, name, 4 * t.block_size)
    for row, values in zip(rows, whole, strict=True):
        header, blocks = row[: t.row_header], row[t.row_header :].reshape(4, -1)
        alone = np.stack([np.concatenate([header, block]) for block in blocks])
        assert dispatch.decode(alone, name, t.block_size).tobytes() == values.tobytes()


def test_the_worked_example_of_iq4_kss(kernels: ModuleType) -> None:
    """Section 4.1 of the specification: one block of a golden row, by hand."""
    block = bytes.fromhex("01e49f36 6e57cce8f358c479eec5b07f43934d38") + bytes(112)
    y = dispatch.decode(np.frombuffer(block, np.uint8)[None], "iq4_kss", 256)[0]
    scale = np.float32(4.7651124e-06) * np.float32(69)
    assert (y[[0, 16, 1, 17]] == scale * np.float32([13, 69, 53, -10])).all()
    assert (y[[4, 20, 5, 21]] == scale * np.float32([38, 1, -49, -10])).all()
    assert (y[32:] == np.float32(4.7651124e-06) * np.float32(-127) * np.float32(-127)).all()
