"""What both backends say about values: which types they know, error sums, and a value that no block can hold."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from gguftool.errors import CodecError
from gguftool.format.quanttypes import QuantType

#: What holds the bytes of rows: anything contiguous.
Buffer = bytes | bytearray | memoryview | mmap.mmap | npt.NDArray[Any]

#: sum a e^2, sum a x^2, sum e^2, sum x^2
Sums = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Codec:
    """What a backend can do with one type."""

    encodes: bool
    decodes: bool


#: The first magnitude that would round to infinity, by the name of the type.
OVERFLOW = {"f16": 65520.0, "bf16": (2.0 - 2.0**-8) * 2.0**127}


def unfit_value(row: int, column: int, value: float, type: QuantType) -> CodecError:
    """The error for a value that is NaN or infinite, or that is too large for f16 or bf16."""
    if math.isfinite(value):
        other = "bf16" if type.name == "f16" else "f32"
        return CodecError(f"row {row}, column {column} holds {value:g}, which does not fit {type.name}: use {other}")
    return CodecError(
        f"row {row}, column {column} holds {value}, which no block can store: "
        "the source is damaged, or its conversion overflowed"
    )
