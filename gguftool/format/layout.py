"""How a GGUF file is laid out: the words at its front, and where tensors come to lie."""

from __future__ import annotations

from collections.abc import Sequence

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32


def padded(n: int, alignment: int) -> int:
    """``n`` rounded up to a multiple of the alignment."""
    return -(-n // alignment) * alignment


def tensor_offsets(sizes: Sequence[int], alignment: int) -> tuple[list[int], int]:
    """Offsets within the data section of tensors of these sizes, and the size of the section, last padding included."""
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += padded(size, alignment)
    return offsets, at
