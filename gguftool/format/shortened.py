"""Tensors that lost their end to a program that does not count the heads of rows.

Some types of ik_llama.cpp keep a few bytes at the head of every row (i2_s: behind all of them). A program that takes
elements times bytes per block for the size, as the `gguf` package does, writes as many bytes too few: the last rows are
gone for good, and whatever follows lies too far in front. Three signs tell, the first two from the header alone:

* the next tensor begins where the short one ends;
* the file ends there;
* the room is there (the padding, or a place laid out by a program that counts right), but nothing is in it: zeros from
  exactly that byte on, within a row that has something else right before, and where the row before has something
  else. This is evidence, no proof: it takes four bytes at least, and a cut that falls between a row's head and its
  blocks is not seen.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from gguftool.errors import ShortenedError
from gguftool.format.cursor import shown
from gguftool.format.layout import padded

if TYPE_CHECKING:
    from gguftool.format.header import TensorInfo

    #: Bytes of a tensor, from an offset, that many.
    Read = Callable[[TensorInfo, int, int], bytes]


_LEAST_EVIDENCE = 4
_CHUNK = 1 << 16
_SUM_AT = 4  # in the head of a row of q8_KV: the sum of its values, int32


def short_nbytes(tensor: TensorInfo) -> int:
    """The size by a count that leaves heads and trailers out; the true one for types without."""
    kind = tensor.type
    if not (tensor.exact and tensor.nbytes and (kind.row_header or kind.tensor_trailer)):
        return tensor.nbytes
    return tensor.n_elements // kind.block_size * kind.block_bytes


def shortened(tensors: Sequence[TensorInfo], alignment: int, end: int) -> tuple[TensorInfo, ...]:
    """Those that end too early by the offsets of the header; ``end`` is the end of the file, counted as offsets are."""

    def spans() -> Iterator[tuple[TensorInfo, int]]:
        for tensor, following in pairwise(tensors):
            yield tensor, following.offset - tensor.offset
        if tensors:
            yield tensors[-1], end - tensors[-1].offset

    return tuple(t for t, n in spans() if short_nbytes(t) <= n < t.nbytes and n <= padded(short_nbytes(t), alignment))


def hollow(tensors: Sequence[TensorInfo], read: Read) -> tuple[TensorInfo, ...]:
    """Those whose end is there and empty, as far as their bytes can tell."""
    return tuple(t for t in tensors if t.nbytes - short_nbytes(t) >= _LEAST_EVIDENCE and _is_hollow(t, read))


def _is_hollow(tensor: TensorInfo, read: Read) -> bool:
    short = short_nbytes(tensor)
    first = read(tensor, short, min(64, tensor.nbytes - short))
    if any(first) or not _zeros(tensor, read, short):
        return False
    kind = tensor.type
    unit = kind.rows_interleaved * kind.row_nbytes(tensor.shape[-1])
    head = kind.rows_interleaved * kind.row_header
    start = short // unit * unit if head else short - _LEAST_EVIDENCE
    kept = read(tensor, start, short - start)
    if not any(kept[head:][-_LEAST_EVIDENCE:]) or (head and not any(kept[:head])):
        return False  # zeros begin before, as in a row of zeros or of equal values
    if kind.name == "q8_KV":
        values = struct.unpack(f"<{len(kept) - head}b", kept[head:])
        (stored,) = struct.unpack_from("<i", kept, _SUM_AT)
        return bool(sum(values) != stored)
    if start and head:
        return any(read(tensor, start - unit + len(kept), unit - len(kept)))
    return kind.name != "q8_KV_r8"  # whose zeros stand for zero weights


def _zeros(tensor: TensorInfo, read: Read, start: int) -> bool:
    return not any(any(read(tensor, at, min(_CHUNK, tensor.nbytes - at))) for at in range(start, tensor.nbytes, _CHUNK))


def trouble(path: object, tensors: Sequence[TensorInfo]) -> ShortenedError:
    """What to raise over ``tensors``, whose offsets count from the start of the file."""
    return ShortenedError(path, [loss(t) for t in tensors])


def loss(tensor: TensorInfo) -> str:
    """What a tensor has lost, in words."""
    name, lost = shown(tensor.name), tensor.nbytes - short_nbytes(tensor)
    return (
        f"tensor {name} ({tensor.type.name}) at byte {tensor.offset} has lost its last {lost} of {tensor.nbytes} bytes"
    )
