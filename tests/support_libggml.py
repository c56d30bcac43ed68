"""libggml-base of llama-cpp-python: the reference's own quantizers and decoders, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gguftool.format.quanttypes import QuantType, type_by_name

Array = npt.NDArray[Any]


class TypeTraits(ctypes.Structure):
    """The head of ggml's struct ggml_type_traits."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@functools.cache
def load_libggml() -> ctypes.CDLL:
    """The library, with the prototypes that are used here."""
    spec = importlib.util.find_spec("llama_cpp")  # not imported: that would load libllama too
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("llama-cpp-python is absent")
    folder = Path(spec.origin).parent / "lib"
    found = sorted(folder.glob("libggml-base.*"))
    lib = ctypes.CDLL(str(found[0]))
    lib.ggml_quantize_init.restype, lib.ggml_quantize_init.argtypes = None, (ctypes.c_int,)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    lib.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    lib.ggml_get_type_traits.argtypes = (ctypes.c_int,)
    return lib


def libggml() -> ctypes.CDLL:
    """The library; the test is skipped where llama-cpp-python is absent."""
    try:
        return load_libggml()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def quantize(lib: ctypes.CDLL, type: str | QuantType, x: Array, importance: Array | None = None) -> Array:
    """The reference's blocks: uint8 [n_rows, row_nbytes]. Its tables are built at a type's first call: seconds."""
    t = type if isinstance(type, QuantType) else type_by_name(type)
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty((len(x), t.row_nbytes(x.shape[1])), np.uint8)
    a = None if importance is None else np.ascontiguousarray(importance, np.float32)
    weights = None if a is None else a.ctypes.data
    lib.ggml_quantize_chunk(t.id, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], weights)
    return out


def dequantize(lib: ctypes.CDLL, type: str | QuantType, blocks: Array, n_cols: int) -> Array:
    """What the reference reads from blocks: float32 [n_rows, n_cols]."""
    t = type if isinstance(type, QuantType) else type_by_name(type)
    blocks = np.ascontiguousarray(blocks)
    out = np.empty((len(blocks), n_cols), np.float32)
    to_float = lib.ggml_get_type_traits(t.id).contents.to_float
    for row, values in zip(blocks, out, strict=True):
        to_float(row.ctypes.data, values.ctypes.data, n_cols)
    return out
