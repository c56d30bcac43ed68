"""Whether a GGUF is whole: its structure, and every value that its tensors decode to.

Opening validates the container (all shards, every offset and size). Then each tensor whose type can be decoded is
read in slices and decoded; a NaN or Inf means a damaged scale. Rows of q8_KV must hold the sum of their values as well.
Types without a decoder are checked by their size. Ends that an older program cut off are found by offsets when the file
is opened, or by the zeros in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguftool.codecs.dispatch import can_decode, decode
from gguftool.codecs.unpack import unpack_rows
from gguftool.format.quanttypes import UNPACKABLE, QuantType, type_by_name
from gguftool.format.reader import Model, TensorInfo, open_model
from gguftool.format.shortened import loss

_SLICE = 1 << 22  # elements decoded at a time: 16 MiB of float32


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at. ``problems`` is one line per damaged tensor; ``undecoded`` names what has no decoder."""

    path: Path
    n_tensors: int
    n_decoded: int
    problems: tuple[str, ...]
    undecoded: tuple[str, ...]


def verify(path: str | Path, *, progress: Callable[[str], None] | None = None) -> Verified:
    """Every tensor of the model decoded and looked at; FormatError if the container itself is damaged."""
    problems: list[str] = []
    undecoded: list[str] = []
    with open_model(path) as model:
        hollow = frozenset(model.hollow())
        for tensor in model.tensors:
            if progress:
                progress(tensor.name)
            if tensor in hollow:
                problems.append(loss(tensor))
                continue
            if tensor.type.kind == "int":
                continue
            if not (can_decode(tensor.type) or tensor.type.name in UNPACKABLE):
                undecoded.append(f"{tensor.name} ({tensor.type.name})")
            elif (flaw := _first_flaw(model, tensor)) is not None:
                problems.append(f"tensor '{tensor.name}' ({tensor.type.name}): {flaw}")
        count = len(model.tensors)
    return Verified(Path(path), count, count - len(undecoded) - len(hollow), tuple(problems), tuple(undecoded))


def _first_flaw(model: Model, tensor: TensorInfo) -> str | None:
    n_cols = tensor.shape[-1]
    if not tensor.n_elements:
        return None
    row_bytes = tensor.type.row_nbytes(n_cols)
    n_rows = tensor.n_elements // n_cols
    group = tensor.type.rows_interleaved
    step = max(1, _SLICE // n_cols // group) * group
    for first in range(0, n_rows, step):
        rows = min(step, n_rows - first)
        raw = np.frombuffer(model.read(tensor, first * row_bytes, rows * row_bytes), np.uint8).reshape(rows, row_bytes)
        finite = np.isfinite(_values(raw, tensor.type, n_cols)).all(axis=1)
        if not finite.all():
            return f"row {first + int(np.argmin(finite))} holds NaN or Inf"
        if tensor.type.name == "q8_KV" and not (right := _sums_are_right(raw)).all():
            return f"row {first + int(np.argmin(right))} has a wrong sum in its head, and ik_llama.cpp computes with it"
    return None


def _sums_are_right(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which rows of q8_KV hold the sum of their values behind the scale: bool [n_rows]."""
    stored = np.ascontiguousarray(rows[:, 4:8]).view("<i4")[:, 0]
    right: npt.NDArray[np.bool_] = stored == rows[:, 8:].view(np.int8).sum(axis=1, dtype=np.int64)
    return right


def _values(rows: npt.NDArray[np.uint8], t: QuantType, n_cols: int) -> npt.NDArray[np.float32]:
    if t.unpacked is not None and t.name in UNPACKABLE:
        rows, t = unpack_rows(rows, t, n_cols), type_by_name(t.unpacked)
    return decode(rows, t, n_cols)
