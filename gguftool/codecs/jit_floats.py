"""F32, F16 and BF16 in numba; native/floats.c is the same in C."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import Kernel, bits_of, f16_bits, float_of, kernel, load_f16, store_u16


@kernel
def decode_f32(row: Any, y: Any) -> None:
    for i in range(y.size):
        at = 4 * i
        low = np.int64(row[at]) | (np.int64(row[at + 1]) << 8)
        y[i] = float_of(low | (np.int64(row[at + 2]) << 16) | (np.int64(row[at + 3]) << 24))


@kernel
def encode_f32(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for i in range(x.size):
        u = bits_of(x[i])
        store_u16(out, 4 * i, u)
        store_u16(out, 4 * i + 2, u >> 16)


@kernel
def decode_f16(row: Any, y: Any) -> None:
    for i in range(y.size):
        y[i] = load_f16(row, 2 * i)


@kernel
def encode_f16(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for i in range(x.size):
        store_u16(out, 2 * i, f16_bits(x[i]))


@kernel
def decode_bf16(row: Any, y: Any) -> None:
    for i in range(y.size):
        y[i] = float_of((np.int64(row[2 * i]) << 16) | (np.int64(row[2 * i + 1]) << 24))


@kernel
def encode_bf16(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for i in range(x.size):
        u = bits_of(x[i])
        store_u16(out, 2 * i, (u + 0x7FFF + ((u >> 16) & 1)) >> 16)


DECODERS: dict[str, Kernel] = {"f32": decode_f32, "f16": decode_f16, "bf16": decode_bf16}
ENCODERS: dict[str, Kernel] = {"f32": encode_f32, "f16": encode_f16, "bf16": encode_bf16}
