"""F32, F16 and BF16: the standard's rounding, and what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support_golden import FLOATS, vector_sets

from gguftool.codecs import dispatch
from gguftool.errors import CodecError


def bf16(x: np.ndarray) -> np.ndarray:
    """To nearest even."""
    u = x.view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def values(limit: float) -> np.ndarray:
    """Floats of every exponent below a limit, ties, subnormals and zeros among them; an odd width."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2**32, (31, 4099), dtype=np.uint32)
    x[:, ::5] &= 0xFFFFE000  # binary16 values
    x[:, 1::5] = (x[:, 1::5] & 0xFFFFE000) | 0x1000  # halfway between two of them
    x[:, 2::5] = (x[:, 2::5] & 0xFFFF0000) | 0x8000  # halfway between two bfloat16
    x[:, 3::5] = (x[:, 3::5] & 0x81FFFFFF) | 0x32000000  # binary16's subnormals and below
    y = x.view(np.float32)
    keep = np.isfinite(y) & (np.abs(np.where(np.isfinite(y), y, 0)) < limit)
    return np.where(keep, y, np.float32(-0.0))


def test_f16_rounds_to_nearest_even(kernels: ModuleType) -> None:
    x = values(65519.0)
    expected = x.astype(np.float16)
    got = dispatch.encode(x, "f16")
    assert got.tobytes() == expected.tobytes()
    assert dispatch.decode(got, "f16", x.shape[1]).tobytes() == expected.astype(np.float32).tobytes()


def test_every_f16_decodes(kernels: ModuleType) -> None:
    h = np.arange(65536, dtype=np.uint16)
    expected = h.view(np.float16).astype(np.float32)
    got = dispatch.decode(h.view(np.uint8)[None], "f16", 65536)[0]
    number = ~np.isnan(expected)
    assert got[number].tobytes() == expected[number].tobytes()
    assert np.isnan(got[~number]).all()


def test_bf16_rounds_to_nearest_even(kernels: ModuleType) -> None:
    x = values(3.38e38)
    expected = bf16(x)
    got = dispatch.encode(x, "bf16")
    assert got.tobytes() == expected.tobytes()
    wide = (expected.astype(np.uint32) << 16).view(np.float32)
    assert dispatch.decode(got, "bf16", x.shape[1]).tobytes() == wide.tobytes()


def test_f32_is_copied(kernels: ModuleType) -> None:
    x = values(3.4e38)
    assert dispatch.encode(x, "f32").tobytes() == x.tobytes()
    assert dispatch.decode(x.view(np.uint8), "f32", x.shape[1]).tobytes() == x.tobytes()


@pytest.mark.parametrize("name", FLOATS)
def test_the_references_bytes(kernels: ModuleType, shared: Path, name: str) -> None:
    expected = json.loads((shared / "specs" / "ggml-types.json").read_text())["test_vectors"]["types"][name.upper()]
    for key in "AB":
        got = hashlib.sha256(dispatch.encode(vector_sets()[key], name).tobytes()).hexdigest()
        assert got == expected[f"q_{key}_im0"]


def test_float16_rows_need_no_copy_in_float32(kernels: ModuleType) -> None:
    x = values(65519.0)[:, :4096].astype(np.float16)
    assert dispatch.encode(x, "f16").tobytes() == x.tobytes()
    assert dispatch.encode(x, "q8_0").tobytes() == dispatch.encode(x.astype(np.float32), "q8_0").tobytes()


@pytest.mark.parametrize(
    ("name", "largest", "too_large", "way_out"),
    (
        ("f16", 0x477FEFFF, 0x477FF000, "use bf16"),
        ("bf16", 0x7F7F7FFF, 0x7F7F8000, "use f32"),
    ),
)
def test_what_would_round_to_infinity_is_refused(
    kernels: ModuleType,
    name: str,
    largest: int,
    too_large: int,
    way_out: str,
) -> None:
    x = np.zeros((3, 70), np.float32)
    x[1, 65] = -np.uint32(largest).view(np.float32)
    assert np.isfinite(dispatch.decode(dispatch.encode(x, name), name, 70)).all()
    x[2, 69] = np.uint32(too_large).view(np.float32)
    with pytest.raises(CodecError, match=f"row 2, column 69 .* does not fit {name}: {way_out}"):
        dispatch.encode(x, name)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("column", (0, 63, 64, 1000, 1022))
def test_nan_and_infinity_are_found_wherever_they_are(kernels: ModuleType, bad: float, column: int) -> None:
    x = np.zeros((4, 1023), np.float32)
    x[2, column] = bad
    for rows in (x, x.astype(np.float16)):
        for name in FLOATS:
            with pytest.raises(CodecError, match=f"row 2, column {column} holds {bad}"):
                dispatch.encode(rows, name)
