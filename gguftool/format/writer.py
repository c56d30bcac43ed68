"""GGUF version 3 as bytes: header and offsets for any writer, and whole small files."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gguftool.format.atomic import atomic_output
from gguftool.format.layout import DEFAULT_ALIGNMENT, MAGIC, VERSION, padded, tensor_offsets
from gguftool.format.metadata import Metadata
from gguftool.format.quanttypes import QuantType

__all__ = ["encode_header", "padded", "tensor_offsets", "write_gguf"]


def encode_header(
    metadata: Metadata, tensors: Sequence[tuple[str, Sequence[int], QuantType, int]], alignment: int
) -> bytes:
    """The header of a file of tensors (name, shape in numpy order, type, offset in the data section), zero-padded.

    ValueError if the metadata tell readers another alignment than that by which the offsets were made.
    """
    if metadata.get("general.alignment", DEFAULT_ALIGNMENT) != alignment:
        raise ValueError(f"a file laid out for alignment {alignment} whose metadata do not say so")
    parts = [MAGIC, struct.pack("<Iqq", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.entries():
        parts += [_string(key), struct.pack("<i", value.type), value.raw]
    for name, shape, type, offset in tensors:
        ne = list(reversed(shape)) or [1]
        while len(ne) > 1 and ne[-1] == 1:
            ne.pop()
        parts += [_string(name), struct.pack(f"<I{len(ne)}qiQ", len(ne), *ne, type.id, offset)]
    header = b"".join(parts)
    return header + bytes(padded(len(header), alignment) - len(header)) if tensors else header


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def write_gguf(
    path: str | Path,
    metadata: Metadata,
    tensors: Iterable[tuple[str, Any, Sequence[int], QuantType]],
    alignment: int = 32,
    *,
    overwrite: bool = False,
) -> None:
    """Write a small file in one go: tensors are (name, bytes or array, shape, type). It appears whole or not at all.

    ValueError if the bytes of a tensor are not as many as its shape and type say.
    """
    held = [(name, _bytes(data), shape, type) for name, data, shape, type in tensors]
    for name, data, shape, type in held:
        if type.block_bytes and len(data) != type.nbytes(shape):
            raise ValueError(f"'{name}' has {len(data)} bytes, {type.name} of {tuple(shape)} has {type.nbytes(shape)}")
    offsets, _ = tensor_offsets([len(data) for _, data, _, _ in held], alignment)
    infos = [(name, shape, type, offset) for (name, _, shape, type), offset in zip(held, offsets, strict=True)]
    with atomic_output(path, overwrite=overwrite) as file:
        file.write(encode_header(metadata, infos, alignment))
        for _, data, _, _ in held:
            file.write(data + bytes(padded(len(data), alignment) - len(data)))


def _bytes(data: Any) -> bytes:
    found: bytes = data.tobytes() if hasattr(data, "tobytes") else bytes(data)
    return found
