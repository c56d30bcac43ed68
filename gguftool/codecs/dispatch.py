"""The face of the codecs: rows to blocks, blocks to rows, importances to weights.

Two backends give the same bytes: ``native`` (C, all types) and ``numba`` (where the extension is absent, or with
``GGUFTOOL_BACKEND=numba``). The choice is made at the first call, so that importing this costs nothing. Every call
works on the calling thread with the GIL released.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gguftool.codecs.values import Buffer, Codec, Sums
from gguftool.codecs.variants import decode_iq6_k_poly
from gguftool.errors import CodecError, UsageError
from gguftool.format.quanttypes import QuantType, type_by_name, why_woven

#: Goes into journals and provenance; changes whenever any encoder's bytes change.
KERNELS_VERSION = "6"

#: What a search minimises: the importance-weighted squared error; the same with the reference's own weights; the plain
#: one; or, "unbiased", the first, and then every row gets its gain back (native/gain.h says why).
OBJECTIVES = ("imatrix", "ref", "mse", "unbiased")
EFFORTS = ("fast", "default", "best")

#: The two decodes of iq6_k.
VARIANTS = ("table", "poly")

#: The objective that gave real models the lower KL divergence (tests/bench_objectives.py), where it is not "imatrix".
_MAINLINE = ("q2_K", "q3_K", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs")
_IK_3 = ("iq1_kt", "iq2_kt", "iq2_ks", "iq2_k", "iq2_kl", "iq3_kt", "iq3_ks", "iq3_k")
_IK_6 = ("iq4_kt", "iq4_kss", "iq4_ks", "iq4_k", "iq5_ks", "iq5_k", "iq6_k")
DEFAULT_OBJECTIVE: dict[str, str] = dict.fromkeys((*_MAINLINE, *_IK_3, *_IK_6), "unbiased")

#: Columns of one block of the importance policy (prepare_importance), whatever the type's own block.
POLICY_BLOCK = 256


class _Kernels(Protocol):
    def isa(self) -> str: ...
    def codecs(self) -> dict[int, Codec]: ...
    def decode(self, type_id: int, src: Buffer, n_rows: int, n_cols: int, out: Buffer, /) -> None: ...
    def transcode(
        self,
        src_id: int,
        dst_id: int,
        src: Buffer,
        n_rows: int,
        n_cols: int,
        weights: Buffer | None,
        importance: Buffer | None,
        out: Buffer,
        objective: int,
        effort: int,
        errors: bool,
        /,
    ) -> Sums | None: ...


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Float64 sums over elements, e = x - stored x, a = the raw importance (1 without one); they add up with ``+``."""

    weighted_error: float = 0.0
    weighted_signal: float = 0.0
    error: float = 0.0
    signal: float = 0.0
    count: int = 0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.weighted_error + other.weighted_error,
            self.weighted_signal + other.weighted_signal,
            self.error + other.error,
            self.signal + other.signal,
            self.count + other.count,
        )


@functools.cache
def backend() -> str:
    """Which kernels run: "native" or "numba"."""
    wanted = os.environ.get("GGUFTOOL_BACKEND") or None
    if wanted not in (None, "native", "numba"):
        raise UsageError(f"GGUFTOOL_BACKEND={wanted}: choose native or numba")
    if wanted is None:
        return "native" if importlib.util.find_spec("gguftool._native") else "numba"
    return wanted


@functools.cache
def _kernels() -> _Kernels:
    module: Any = importlib.import_module("gguftool.codecs.native" if backend() == "native" else "gguftool.codecs.jit")
    kernels: _Kernels = module
    return kernels


def isa() -> str:
    """The instruction set in use: base, avx2 or avx512; "numba" for that backend."""
    return _kernels().isa()


def can_encode(t: QuantType) -> bool:
    """Whether this installation has an encoder for the type."""
    codec = _kernels().codecs().get(t.id)
    return codec is not None and codec.encodes


def can_decode(t: QuantType) -> bool:
    """Whether this installation has a decoder for the type."""
    codec = _kernels().codecs().get(t.id)
    return codec is not None and codec.decodes


def default_objective(t: QuantType) -> str:
    """What the type's search minimises when nobody says, one of OBJECTIVES."""
    return DEFAULT_OBJECTIVE.get(t.name, "imatrix")


def encode(
    rows: npt.NDArray[Any],
    type: str | QuantType,
    importance: npt.ArrayLike | None = None,
    *,
    objective: str | None = None,
    effort: str = "default",
) -> npt.NDArray[np.uint8]:
    """Blocks of the rows: uint8 [n_rows, row_nbytes].

    ``rows`` is float32 or float16 [n_rows, n_cols], ``importance`` holds one non-negative value per column (mean
    squared activation) or is None. CodecError: NaN or Inf in either, a width that is no multiple of the block, a value
    too large for f16 or bf16, a type without an encoder.
    """
    t = _resolve(type)
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float16):
        raise CodecError(
            f"rows are {rows.dtype} of shape {rows.shape}: encode takes float32 or float16 [n_rows, n_cols]"
        )
    n_rows, n_cols = rows.shape
    weights = None if importance is None else prepare_importance(_importance(importance, n_cols))[0]
    out = np.empty((n_rows, t.row_nbytes(n_cols)), np.uint8)
    src_type = type_by_name("f32" if rows.dtype == np.float32 else "f16")
    src = np.ascontiguousarray(rows)
    transcode(src, src_type, t, n_rows, n_cols, weights, out, objective=objective, effort=effort)
    return out


def decode(
    blocks: npt.NDArray[np.uint8], type: str | QuantType, n_cols: int, *, variant: str | None = None
) -> npt.NDArray[np.float32]:
    """Values of the blocks, exactly as the format defines them: float32 [n_rows, n_cols].

    ``blocks`` is uint8 [n_rows, row_nbytes]. ``variant`` is for iq6_k, which has two decodes: "table", the default, is
    what matrix products compute with; "poly" is the to_float of ik_llama.cpp. CodecError: a width that does not fit, a
    type without a decoder; UsageError: a variant that the type does not have.
    """
    t = _resolve(type)
    if variant is not None and t.name != "iq6_k":
        raise UsageError(f"variant={variant!r}: {t.name} has one decode only; variants are for iq6_k")
    if variant not in (None, *VARIANTS):
        raise UsageError(f"variant={variant!r}: choose one of {', '.join(VARIANTS)}")
    if not can_decode(t):
        raise CodecError(_missing("decode", t))
    blocks = np.asarray(blocks)
    nbytes = t.row_nbytes(n_cols)
    if blocks.ndim != 2 or blocks.dtype != np.uint8 or blocks.shape[1] != nbytes:
        raise CodecError(
            f"blocks are {blocks.dtype} of shape {blocks.shape}: "
            f"{n_cols} columns of {t.name} are uint8 [n_rows, {nbytes}]"
        )
    if variant == "poly":
        return decode_iq6_k_poly(blocks)
    out = np.empty((len(blocks), n_cols), np.float32)
    _kernels().decode(t.id, np.ascontiguousarray(blocks), len(blocks), n_cols, out)
    return out


def transcode(
    src: Buffer,
    src_type: QuantType,
    dst_type: QuantType,
    n_rows: int,
    n_cols: int,
    weights: npt.NDArray[np.float32] | None,
    out: Buffer,
    *,
    objective: str | None = None,
    effort: str = "default",
    importance: npt.NDArray[Any] | None = None,
    errors: bool = False,
) -> ErrorSums | None:
    """Rows of one type to rows of another, written to ``out``; ErrorSums if ``errors``, else None.

    ``src`` and ``out`` are contiguous buffers of exactly n_rows rows; ``weights`` float32 [n_cols] comes from
    prepare_importance, ``importance`` (raw, as measured) only weighs the error sums. One call: row by row decode,
    check, encode. CodecError names the row and column of NaN, Inf or a value that does not fit.
    """
    if not can_decode(src_type):
        raise CodecError(_missing("decode", src_type))
    if not can_encode(dst_type):
        raise CodecError(_missing("encode", dst_type))
    _check_size("source", src, n_rows * src_type.row_nbytes(n_cols))
    _check_size("output", out, n_rows * dst_type.row_nbytes(n_cols))
    w = None if weights is None else _vector("weights", weights, n_cols, np.float32)
    a = None if importance is None or not errors else _vector("importance", importance, n_cols, np.float64)
    sums = _kernels().transcode(
        src_type.id,
        dst_type.id,
        src,
        n_rows,
        n_cols,
        w,
        a,
        out,
        _index("objective", OBJECTIVES, objective or default_objective(dst_type)),
        _index("effort", EFFORTS, effort),
        errors,
    )
    return None if sums is None else ErrorSums(*sums, n_rows * n_cols)


def prepare_importance(a: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], int]:
    """Weights float32 [n_cols] that every encoder takes, and how many blocks of 256 columns were never observed.

    Scaled by a power of two to a maximum in [1, 2); unobserved blocks (all zero) get the average weight, zeros inside
    an observed block a negligible one, so no sum of weights is ever 0, subnormal or infinite. Where no importance is
    0 this changes no byte of a block. CodecError: NaN, Inf or a negative value, with its column.
    """
    a = np.asarray(a, np.float64)
    if a.ndim != 1 or not a.size:
        raise CodecError(f"an importance of shape {a.shape}: one vector of n_cols values is needed")
    bad = ~(np.isfinite(a) & (a >= 0))
    if bad.any():
        column = int(bad.argmax())
        raise CodecError(f"importance of column {column} is {a[column]}: it must be finite and not negative")
    n = a.size
    starts = np.arange(0, n, POLICY_BLOCK)
    top = float(a.max())
    if top == 0.0:
        return np.ones(n, np.float32), len(starts)
    scaled = np.ldexp(a, 1 - int(np.frexp(top)[1]))
    # cumsum adds in ascending order, whatever the length; numpy's own sum does not.
    blocks = np.zeros((len(starts), POLICY_BLOCK))
    blocks.reshape(-1)[:n] = scaled
    means = np.cumsum(blocks, axis=1)[:, -1] / np.minimum(POLICY_BLOCK, n - starts)
    average = np.cumsum(scaled)[-1] / n
    floor = np.where(means > 0, np.maximum(means * 2.0**-20, 2.0**-60), average)
    weights = np.maximum(scaled, np.repeat(floor, POLICY_BLOCK)[:n])
    return weights.astype(np.float32), int((means == 0).sum())


def _resolve(type: str | QuantType) -> QuantType:
    if isinstance(type, QuantType):
        return type
    if not isinstance(type, str):
        raise UsageError(f"type={type!r}: give the name of a type, such as 'q4_K'")
    return type_by_name(type)


def _missing(what: str, t: QuantType) -> str:
    if t.rows_interleaved > 1:
        return f"cannot {what} {t.name}: {why_woven(t)}"
    if backend() == "numba":
        return f"cannot {what} {t.name} without the compiled kernels: reinstall gguftool where a C compiler is found"
    return f"cannot {what} {t.name} yet"


def _importance(importance: npt.ArrayLike, n_cols: int) -> npt.NDArray[np.float64]:
    a = np.asarray(importance, np.float64)
    if a.shape != (n_cols,):
        raise CodecError(
            f"an importance of shape {a.shape} for rows of {n_cols} columns: one value per column is needed"
        )
    return a


def _vector(what: str, values: npt.NDArray[Any], n_cols: int, dtype: Any) -> npt.NDArray[Any]:
    if values.shape != (n_cols,):
        raise CodecError(f"{what} of shape {values.shape} for rows of {n_cols} columns: one value per column is needed")
    return np.ascontiguousarray(values, dtype)


def _check_size(what: str, buffer: Any, expected: int) -> None:
    nbytes = memoryview(buffer).nbytes
    if nbytes != expected:
        raise CodecError(f"{what}: {nbytes} bytes where {expected} are needed")


def _index(what: str, words: tuple[str, ...], word: str) -> int:
    if word not in words:
        raise UsageError(f"{what}={word!r}: choose one of {', '.join(words)}")
    return words.index(word)
