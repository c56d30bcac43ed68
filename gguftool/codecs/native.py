"""The C extension's face: the same four functions as ``jit``, on gguftool._native.

``GGUFTOOL_ISA=base|avx2|avx512`` chooses an instruction set; without it the best one of this processor. All give the
same bytes.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np

from gguftool.codecs.values import Buffer, Codec, Sums, unfit_value
from gguftool.errors import CodecError, UsageError
from gguftool.format.quanttypes import BY_ID

try:
    from gguftool import _native
except ImportError as error:
    if importlib.util.find_spec("gguftool._native") is None:
        raise CodecError(
            "the compiled kernels are not installed: reinstall gguftool where a C compiler is found, "
            "or set GGUFTOOL_BACKEND=numba"
        ) from error
    raise CodecError(
        f"the compiled kernels do not load ({error}): reinstall gguftool, or set GGUFTOOL_BACKEND=numba"
    ) from error


def _choose() -> tuple[str, dict[int, Codec]]:
    wanted = os.environ.get("GGUFTOOL_ISA") or None
    if wanted is not None and wanted not in _native.isas:
        raise UsageError(
            f"GGUFTOOL_ISA={wanted}: no such kernels on this processor; choose one of {', '.join(_native.isas)}"
        )
    name, table = _native.use(wanted)
    return name, {type_id: Codec(encodes, decodes) for type_id, (_, _, _, encodes, decodes) in table.items()}


_ISA, _CODECS = _choose()


def isa() -> str:
    """The instruction set in use: base, avx2 or avx512."""
    return _ISA


def codecs() -> dict[int, Codec]:
    """What can be encoded and decoded, by type id."""
    return _CODECS


def decode(type_id: int, src: Buffer, n_rows: int, n_cols: int, out: Buffer) -> None:
    """Writes float32 rows to ``out``."""
    _native.decode(type_id, src, n_rows, n_cols, out)


def transcode(
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
) -> Sums | None:
    """Writes blocks to ``out``; the four error sums if asked. CodecError names the first value that does not fit."""
    try:
        return _native.transcode(
            src_id, dst_id, src, n_rows, n_cols, weights, importance, out, objective, effort, errors
        )
    except _native.UnfitValue as found:
        row, column = found.args
        src_type = BY_ID[src_id]
        nbytes = src_type.row_nbytes(n_cols)
        values = np.empty(n_cols, np.float32)
        decode(src_id, np.frombuffer(src, np.uint8)[row * nbytes : (row + 1) * nbytes], 1, n_cols, values)
        raise unfit_value(row, column, float(values[column]), BY_ID[dst_id]) from None
