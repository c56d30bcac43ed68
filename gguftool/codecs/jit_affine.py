"""Encoders in numba of Q4_K, Q5_K and Q2_K, and of Q4_1 and Q5_1 with an importance: the searches of the C kernels.

native/kquants_affine.c and native/legacy_affine.c tell layouts, method and figures; the order of operations is theirs,
so the bytes are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs import jit_affine_plans as plans
from gguftool.codecs.jit_affine_plans import STARTS, STEPS, Plan
from gguftool.codecs.jit_affine_search import (
    BLOCK,
    HALF_LEAST,
    ONE,
    Fits,
    center_tile,
    code_of,
    error_of,
    error_with,
    fit_of,
    inverse_of,
    inverse_power,
    least,
    load_tile,
    moments_of,
    most,
    new_fits,
    new_tile,
    power_of_two,
    round_even,
    round_to_f16,
    search_fits,
    storable,
    total_of,
    weigh_by_root,
    weigh_super,
)
from gguftool.codecs.jit_bits import ZERO, Kernel, f16_from_scale, inline, kernel, store_u16

SUPER = 256

GT_REF = 1
GT_MSE = 2

HOPELESS = np.float32(2.0**100)
CODE_LIMIT = np.float32(256)
ALONE = np.float32(2.0**-12)


class Solution(NamedTuple):
    """Integers of the sub-blocks [n]; d, dmin and error in one array; what the codes would want."""

    s: Any
    m: Any
    d: Any
    own: Fits


@inline
def _to_code(v: Any, top: Any) -> Any:
    return least(most(round_even(least(v, CODE_LIMIT)), ZERO), top)


# ---- super-blocks ----


@inline
def _scan_scales(t: Any, power: Any, top: Any, p: Any, real: Any, now: Any) -> None:
    """d and dmin from scans of factors on what the largest S and M need."""
    n = t.mean.size
    need = ZERO
    errors = np.empty(n, np.float32)
    shift = np.empty(n, np.float32)
    for j in range(n):
        need = most(need, real.s[j] * (ONE / top))
    best = HOPELESS
    for k in range(p.scans):
        d = storable(need * (p.start + np.float32(k) * p.by), power)
        for j in range(n):
            s = d * _to_code(real.s[j] * inverse_of(d), top)
            c = most((s * real.l1[j]) / t.weight[j], t.mean[j])
            errors[j] = error_of(t, j, s, c, real.l1[j], real.l2[j], real.yl[j])
        error = total_of(errors)
        if error < best:
            best = error
            now.d[0] = d
    need = -HOPELESS
    for j in range(n):
        s = now.d[0] * _to_code(real.s[j] * inverse_of(now.d[0]), top)
        c = most((s * real.l1[j]) / t.weight[j], t.mean[j])
        if s == ZERO:
            c = real.c[j]
        shift[j] = c - t.mean[j]
        need = most(need, shift[j] * (ONE / top))
    best = HOPELESS
    for k in range(p.scans):
        d = storable(need * (p.start + np.float32(k) * p.by), power)
        for j in range(n):
            off = d * _to_code(shift[j] * inverse_of(d), top) - shift[j]
            errors[j] = (off * off) * t.weight[j]
        error = total_of(errors)
        if error < best:
            best = error
            now.d[1] = d


@inline
def _search_pairs(t: Any, top: Any, p: Any, around: Any, now: Any) -> None:
    """The best pair of integers of every sub-block among the steps around its real scales; zeros if none is better."""
    n = t.mean.size
    errors = np.empty(n, np.float32)
    d = now.d[0]
    dmin = now.d[1]
    inverse_min = inverse_of(dmin)
    for j in range(n):
        mean = t.mean[j]
        center = round_even(least(around.s[j] * inverse_of(d), CODE_LIMIT))
        share = around.l1[j] / t.weight[j]
        c_at_zero = around.c[j]
        best = t.energy[j] + (mean * mean) * t.weight[j]
        best_s = ZERO
        best_m = ZERO
        for k in range(p.n_steps):
            s = _to_code(center + STEPS[k, 0], top)
            real = d * s
            c = c_at_zero if real == ZERO else real * share
            m = _to_code(round_even(least((c - mean) * inverse_min, CODE_LIMIT)) + STEPS[k, 1], top)
            a = inverse_of(real)
            stored = dmin * m + mean
            error = error_with(t, j, a, stored * a, real, stored)
            if error < best:
                best = error
                best_s = s
                best_m = m
        now.s[j] = best_s
        now.m[j] = best_m
        errors[j] = best
        a = inverse_of(d * best_s)
        l1, l2, yl = moments_of(t, j, a, (dmin * best_m + mean) * a)
        s, c, error = fit_of(t, j, l1, l2, yl)
        now.own.s[j] = ZERO if best_s == ZERO else s
        now.own.c[j] = most(mean, ZERO) if best_s == ZERO else c
        now.own.l1[j] = l1
        now.own.l2[j] = l2
        now.own.yl[j] = yl
    now.d[2] = total_of(errors)


@inline
def _refit_scales(t: Any, power: Any, now: Any) -> None:
    """Replaces d and dmin by the least-squares ones for the solution's integers and codes."""
    sums = np.empty((5, t.mean.size), np.float32)
    for j in range(t.mean.size):
        s = now.s[j]
        m = now.m[j]
        sums[0, j] = (s * s) * now.own.l2[j]
        sums[1, j] = (s * m) * now.own.l1[j]
        sums[2, j] = (m * m) * t.weight[j]
        sums[3, j] = s * (now.own.yl[j] + t.mean[j] * now.own.l1[j])
        sums[4, j] = (m * t.mean[j]) * t.weight[j]
    a = total_of(sums[0])
    b = total_of(sums[1])
    inverse = inverse_of(total_of(sums[2]))
    x = total_of(sums[3])
    y = total_of(sums[4])
    old = now.d[0]
    rest = a - b * (b * inverse)
    d = old
    if rest > a * ALONE:
        d = (x - b * (y * inverse)) / rest
    dmin = (d * b - y) * inverse
    if dmin < ZERO and a > ZERO:
        d = x * inverse_of(a)
    d = storable(d, power)
    now.d[0] = d if d > ZERO else old
    now.d[1] = storable(dmin, power)


@inline
def _keep(best: Any, now: Any) -> None:
    if now.d[2] < best.d[2]:
        best.s[:] = now.s
        best.m[:] = now.m
        best.d[:] = now.d
        _copy(best.own, now.own)


@inline
def _copy(to: Any, values: Any) -> None:
    to.s[:] = values.s
    to.c[:] = values.c
    to.l1[:] = values.l1
    to.l2[:] = values.l2
    to.yl[:] = values.yl


@inline
def _choose_super(t: Any, power: Any, top: Any, p: Any, best: Any, now: Any, real: Any) -> None:
    best.s[:] = ZERO
    best.m[:] = ZERO
    best.d[0] = ZERO
    best.d[1] = ZERO
    best.d[2] = HOPELESS
    now.d[:] = ZERO
    search_fits(t, p, real)
    _scan_scales(t, power, top, p, real, now)
    d = ZERO
    dmin = ZERO
    for k in range(-1, p.n_starts):
        if k == 0:
            d = best.d[0]
            dmin = best.d[1]
            _copy(real, best.own)
        if k >= 0:
            now.d[0] = storable(d * STARTS[k, 0], power)
            now.d[1] = storable(dmin * STARTS[k, 1], power)
        _copy(now.own, real)
        rounds = p.rounds if k < 0 else p.settles
        around = new_fits(t.mean.size)
        for r in range(rounds):
            _copy(around, now.own)
            _search_pairs(t, top, p, around, now)
            _keep(best, now)
            if r + 1 < rounds:
                _refit_scales(t, power, now)


@inline
def _round_codes(x: Any, s: Any, m: Any, at: int, count: int, levels: Any, codes: Any) -> None:
    inverse = inverse_of(s)
    for i in range(at, at + count):
        codes[i] = np.uint8(code_of((x[i] + m) * inverse, levels))


@kernel
def _super_block(
    x: Any, w: Any, rows: int, levels: Any, top: Any, p: Any, objective: int, codes: Any, integers: Any
) -> Any:
    """Codes and integers [2, n] of one super-block; its d and dmin."""
    n = SUPER // rows
    t = new_tile(n, rows, levels, False)
    best = Solution(np.empty(n, np.float32), np.empty(n, np.float32), np.empty(3, np.float32), new_fits(n))
    now = Solution(np.empty(n, np.float32), np.empty(n, np.float32), np.empty(3, np.float32), new_fits(n))
    power = load_tile(t, x, w[:0] if objective == GT_MSE else w)
    if objective == GT_REF:
        weigh_super(t, w.size > 0)
    center_tile(t)
    _choose_super(t, power, top, p, best, now, new_fits(n))
    d = best.d[0] * power
    dmin = best.d[1] * power
    for j in range(n):
        _round_codes(x, d * best.s[j], dmin * best.m[j], j * rows, rows, levels, codes)
        integers[0, j] = np.uint8(best.s[j])
        integers[1, j] = np.uint8(best.m[j])
    return d, dmin


# ---- bytes ----


@inline
def _pack_scales(integers: Any, row: Any, at: int) -> None:
    for j in range(4):
        row[at + j] = integers[0, j] | ((integers[0, j + 4] >> 4) << 6)
        row[at + j + 4] = integers[1, j] | ((integers[1, j + 4] >> 4) << 6)
        row[at + j + 8] = (integers[0, j + 4] & 15) | ((integers[1, j + 4] & 15) << 4)


@kernel
def _pack_nibbles_of(codes: Any, integers: Any, five: bool, row: Any) -> None:
    _pack_scales(integers, row, 4)
    at = 16
    if five:
        for i in range(32):
            high = 0
            for j in range(8):
                high |= (codes[32 * j + i] >> 4) << j
            row[at + i] = high
        at += 32
    for i in range(128):
        k = 64 * (i // 32) + i % 32
        row[at + i] = (codes[k] & 15) | ((codes[k + 32] & 15) << 4)


@kernel
def _pack_pairs(codes: Any, integers: Any, row: Any) -> None:
    for j in range(16):
        row[j] = integers[0, j] | (integers[1, j] << 4)
    for i in range(64):
        k = 128 * (i // 32) + i % 32
        row[16 + i] = codes[k] | (codes[k + 32] << 2) | (codes[k + 64] << 4) | (codes[k + 96] << 6)


@kernel
def _encode_super(x: Any, w: Any, out: Any, objective: int, p: Any, rows: int, levels: Any, top: Any) -> None:
    n = x.size // SUPER
    size = out.size // n
    codes = np.empty(SUPER, np.uint8)
    integers = np.empty((2, SUPER // rows), np.uint8)
    for b in range(n):
        at = b * SUPER
        row = out[b * size : (b + 1) * size]
        d, dmin = _super_block(x[at : at + SUPER], w[at : at + SUPER], rows, levels, top, p, objective, codes, integers)
        scales = 0
        if rows == BLOCK:
            _pack_nibbles_of(codes, integers, size == 176, row)
        else:
            _pack_pairs(codes, integers, row)
            scales = 80
        store_u16(row, scales, f16_from_scale(d))
        store_u16(row, scales + 2, f16_from_scale(dmin))


# ---- blocks that stand alone ----


@inline
def _round_signed(v: Any) -> Any:
    a = abs(v)
    return np.copysign(ZERO if a <= HALF_LEAST else round_to_f16(a), v)


@inline
def _choose_block(t: Any, power: Any, p: Any, real: Any) -> Any:
    """d and m as they are stored."""
    search_fits(t, p, real)
    inverse = inverse_power(power)
    mean = t.mean[0]
    s = real.s[0]
    c = real.c[0]
    best = t.energy[0] + (mean * mean) * t.weight[0]
    d = ZERO
    m = ZERO
    for r in range(p.rounds):
        stored_d = round_to_f16(s * power)
        stored_m = _round_signed((mean - c) * power)
        s = stored_d * inverse
        c = mean - stored_m * inverse
        a = inverse_of(s)
        error = error_with(t, 0, a, c * a, s, c)
        if error < best:
            best = error
            d = stored_d
            m = stored_m
        if r + 1 < p.rounds:
            l1, l2, yl = moments_of(t, 0, a, c * a)
            s, c, error = fit_of(t, 0, l1, l2, yl)
    return d, m


@inline
def _row_scale(x: Any) -> Any:
    """In units of the row, a power of two: the mean of x^2; the inverse of the unit."""
    top = ZERO
    for i in range(x.size):
        top = most(top, abs(x[i]))
    inverse = inverse_power(power_of_two(top))
    sums = np.zeros(16, np.float32)
    for i in range(x.size):
        v = x[i] * inverse
        sums[i % 16] += v * v
    return total_of(sums) / np.float32(x.size), inverse


@kernel
def _encode_blocks(x: Any, w: Any, out: Any, objective: int, p: Any, levels: Any) -> None:
    n = x.size // BLOCK
    size = out.size // n
    codes = np.empty(BLOCK, np.uint8)
    t = new_tile(1, BLOCK, levels, True)
    real = new_fits(1)
    mean, unit = _row_scale(x)
    for b in range(n):
        at = b * BLOCK
        row = out[b * size : (b + 1) * size]
        block = x[at : at + BLOCK]
        power = load_tile(t, block, w[:0] if objective == GT_MSE else w[at : at + BLOCK])
        if objective == GT_REF:
            weigh_by_root(t, mean, power * unit)
        center_tile(t)
        d, m = _choose_block(t, power, p, real)
        _round_codes(block, d, -m, 0, BLOCK, levels, codes)
        store_u16(row, 0, f16_from_scale(d))
        store_u16(row, 2, f16_from_scale(m))
        if size == 24:
            for k in range(4):
                row[4 + k] = 0
            for i in range(BLOCK):
                row[4 + i // 8] |= (codes[i] >> 4) << (i % 8)
        for i in range(16):
            row[size - 16 + i] = (codes[i] & 15) | ((codes[i + 16] & 15) << 4)


def _super_encoder(by_effort: tuple[Plan, ...], rows: int, levels: int, top: int) -> Kernel:
    def encode(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
        _encode_super(x, w, out, objective, by_effort[effort], rows, np.float32(levels), np.float32(top))

    return encode


def _block_encoder(by_effort: tuple[Plan, ...], levels: int) -> Kernel:
    def encode(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
        _encode_blocks(x, w, out, objective, by_effort[effort], np.float32(levels))

    return encode


ENCODERS: dict[str, Kernel] = {
    "q4_K": _super_encoder(plans.Q4_K, 32, 15, 63),
    "q5_K": _super_encoder(plans.Q5_K, 32, 31, 63),
    "q2_K": _super_encoder(plans.Q2_K, 16, 3, 15),
    "q4_1": _block_encoder(plans.Q4_1, 15),
    "q5_1": _block_encoder(plans.Q5_1, 31),
}
