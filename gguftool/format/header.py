"""The header of one GGUF file, validated: metadata and where every tensor lies.

All arithmetic is in Python's integers, every count is checked against the bytes that are left before it is used,
and every tensor's end against the size of the file. What passes here is valid; nothing downstream checks again.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gguftool.errors import CodecError, FormatError
from gguftool.format.cursor import CUT_OFF, Cursor, shown
from gguftool.format.layout import DEFAULT_ALIGNMENT, MAGIC, padded
from gguftool.format.metadata import SIZES, Metadata, MetaValue, ValueType
from gguftool.format.quanttypes import BY_ID, RETIRED_IDS, QuantType, unknown_type
from gguftool.format.shortened import shortened, trouble

_COUNTS = struct.Struct("<qq")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_ARRAY = struct.Struct("<iQ")
_TAIL = struct.Struct("<iQ")
_KV_MIN, _TENSOR_MIN = 8 + 1 + 4 + 1, 8 + 4 + 4 + 8
_MAX_NAME = 63
_KNOWN_STARTS = {
    bytes(4): ", as what llama-quantize leaves when it is interrupted: make it anew",
    b"tjgg": ", a GGML file of 2023: convert the original model to GGUF",
    b"fmgg": ", a GGML file of 2023: convert the original model to GGUF",
    b"lmgg": ", a GGML file of 2023: convert the original model to GGUF",
    b"PK\x03\x04": ", a zip file or a PyTorch checkpoint: convert it to GGUF first",
    b"vers": ", a Git LFS pointer: fetch the file itself with `git lfs pull`",
}
#: Types that ik_llama.cpp makes while it runs.
_MEMORY_ONLY = frozenset({97, 98, 99, 136, 147, 148, 149, 150})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. ``shape`` in numpy order, at least one axis; ``offset`` from the start of its shard's file.

    ``exact`` is False for a type that no table knows: ``nbytes`` is then the stored span, padding included.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    shard: int
    offset: int
    nbytes: int
    exact: bool = True

    @property
    def n_elements(self) -> int:
        """Product of the axes."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What the front of one file says; ``sha256`` is that of all bytes before the data section."""

    path: Path
    size: int
    mtime_ns: int
    version: int
    metadata: Metadata
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_start: int
    sha256: str


def read_header(fd: int, path: Path, shard: int = 0) -> Header:
    """The validated header of an open file; FormatError says what is wrong and where."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(path, "this is no regular file: a model must lie on a disk")
    cursor = Cursor(fd, str(path), status.st_size)
    version = _magic_and_version(cursor)
    n_tensors, n_kv = _counts(cursor)
    metadata = Metadata(dict(_pairs(cursor, n_kv)))
    alignment = _alignment(cursor, metadata)
    records = list(_records(cursor, n_tensors))
    start = padded(cursor.pos, alignment) if n_tensors else cursor.pos
    if n_tensors and start > cursor.size:
        raise cursor.fail(f"the file ends before its data section at {start}: is the download complete?")
    if cut := shortened([t for _, t in records], alignment, cursor.size - start):
        raise trouble(cursor.path, [replace(t, offset=start + t.offset) for t in cut])
    tensors = tuple(_placed(cursor, records, alignment, start, shard))
    digest = cursor.sha256()
    return Header(path, status.st_size, status.st_mtime_ns, version, metadata, tensors, alignment, start, digest)


def _magic_and_version(cursor: Cursor) -> int:
    if cursor.size == 0:
        raise cursor.fail("the file is empty")
    magic = cursor.take(min(4, cursor.size), "the magic")
    if magic != MAGIC:
        raise cursor.fail(
            f"this is no GGUF file, it starts with {magic!r}{_KNOWN_STARTS.get(magic, ': is it the right one?')}", 0
        )
    (version,) = cursor.unpack(_U32, "the version")
    if version and version & 0xFFFF == 0:
        raise cursor.fail("big-endian GGUF, not supported: convert it to little-endian first", 4)
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version} is not supported, 2 and 3 are: convert the model anew", 4)
    return version


def _counts(cursor: Cursor) -> tuple[int, int]:
    at = cursor.pos
    n_tensors, n_kv = cursor.unpack(_COUNTS, "the counts")
    left = cursor.size - cursor.pos
    if n_tensors < 0 or n_kv < 0 or n_kv * _KV_MIN + n_tensors * _TENSOR_MIN > left:
        raise cursor.fail(
            f"{n_kv} metadata keys and {n_tensors} tensors cannot lie in the {left} bytes that are left: {CUT_OFF}",
            at,
        )
    return n_tensors, n_kv


def _pairs(cursor: Cursor, count: int) -> Iterator[tuple[str, MetaValue]]:
    seen: set[str] = set()
    for i in range(count):
        at = cursor.pos
        key = cursor.string(f"the key of metadata entry {i}").decode("utf-8", "surrogateescape")
        if not key:
            raise cursor.fail(f"metadata entry {i} has an empty key: {CUT_OFF}", at)
        if key in seen:
            raise cursor.fail(f"metadata key {shown(key)} is there twice: convert the model anew", at)
        seen.add(key)
        yield key, _value(cursor, key)


def _value(cursor: Cursor, key: str) -> MetaValue:
    at = cursor.pos
    (number,) = cursor.unpack(_I32, f"the type of {shown(key)}")
    kind = _value_type(cursor, number, key, at)
    start = cursor.pos
    if kind is ValueType.STRING:
        cursor.string(f"the value of {shown(key)}")
        return MetaValue(kind, cursor.since(start))
    if kind is not ValueType.ARRAY:
        return MetaValue(kind, cursor.take(SIZES[kind], f"the value of {shown(key)}"))
    number, count = cursor.unpack(_ARRAY, f"the array {shown(key)}")
    element = _value_type(cursor, number, key, start)
    if element is ValueType.ARRAY:
        raise cursor.fail(f"{shown(key)} is an array of arrays, which no program reads: convert the model anew", start)
    size, left = SIZES.get(element, 8), cursor.size - cursor.pos
    if count > 1 << 30 or count * size > left:
        raise cursor.fail(f"array {shown(key)} claims {count} elements, {left} bytes are left: {CUT_OFF}", start)
    if element is ValueType.STRING:
        cursor.skip_strings(count, f"{shown(key)}")
    else:
        cursor.need(count * size, f"array {shown(key)}")
        cursor.pos += count * size
    return MetaValue(kind, cursor.since(start), element, count)


def _value_type(cursor: Cursor, number: int, key: str, at: int) -> ValueType:
    if not 0 <= number <= 12:
        raise cursor.fail(f"{shown(key)} has value type {number}; GGUF knows 0 to 12: {CUT_OFF}", at)
    return ValueType(number)


def _alignment(cursor: Cursor, metadata: Metadata) -> int:
    if "general.alignment" not in metadata:
        return DEFAULT_ALIGNMENT
    entry = metadata.entry("general.alignment")
    value = entry.value
    if entry.type is not ValueType.U32 or value < 1 or value & (value - 1):
        raise FormatError(
            cursor.path,
            f"general.alignment is {value!r} ({entry.type.name.lower()}), not a power of two as u32: "
            "convert the model anew",
        )
    return int(value)


def _records(cursor: Cursor, count: int) -> Iterator[tuple[int, TensorInfo]]:
    """(place of the record, tensor with its offset within the data section)."""
    seen: set[str] = set()
    for i in range(count):
        at = cursor.pos
        raw = cursor.string(f"the name of tensor {i}")
        name = raw.decode("utf-8", "surrogateescape")
        if len(raw) > _MAX_NAME:
            raise cursor.fail(
                f"the name of tensor {i} has {len(raw)} bytes, {_MAX_NAME} are allowed: convert the model anew", at
            )
        if name in seen:
            raise cursor.fail(f"tensor {shown(name)} is there twice: convert the model anew", at)
        seen.add(name)
        (n_dims,) = cursor.unpack(_U32, f"tensor {shown(name)}")
        if n_dims > 4:
            raise cursor.fail(f"tensor {shown(name)} has {n_dims} dimensions, at most 4 are allowed: {CUT_OFF}", at)
        ne = cursor.unpack(struct.Struct(f"<{n_dims}q"), f"the shape of tensor {shown(name)}")
        number, offset = cursor.unpack(_TAIL, f"tensor {shown(name)}")
        yield at, _sized(cursor, at, name, ne, number, offset)


def _sized(cursor: Cursor, at: int, name: str, ne: tuple[int, ...], number: int, offset: int) -> TensorInfo:
    if any(n < 0 for n in ne) or math.prod(ne) >= 1 << 63:
        raise cursor.fail(f"tensor {shown(name)} has the impossible shape {list(ne)}: {CUT_OFF}", at)
    if number < 0 or number in RETIRED_IDS:
        was = f" (once {RETIRED_IDS[number]})" if number in RETIRED_IDS else ""
        raise cursor.fail(
            f"tensor {shown(name)} has type {number}{was}, which no program reads today: convert the model anew", at
        )
    if number in _MEMORY_ONLY:
        raise cursor.fail(
            f"tensor {shown(name)} has type {BY_ID[number].name}, which exists in memory only: {CUT_OFF}", at
        )
    shape = list(reversed(ne)) or [1]
    while len(shape) > 1 and shape[0] == 1:
        del shape[0]
    type = BY_ID.get(number) or unknown_type(number)
    try:
        nbytes = type.nbytes(shape)
    except CodecError as error:
        raise cursor.fail(
            f"tensor {shown(name)} of shape {shape}: {error.args[0].partition(';')[0]}: {CUT_OFF}", at
        ) from None
    rows = shape[-2] if len(shape) > 1 else 1
    if rows % type.rows_interleaved:
        raise cursor.fail(
            f"tensor {shown(name)} has {rows} rows, but {type.name} weaves {type.rows_interleaved} together: {CUT_OFF}",
            at,
        )
    return TensorInfo(name, tuple(shape), type, 0, offset, nbytes, type.kind != "unknown")


def _placed(
    cursor: Cursor, records: list[tuple[int, TensorInfo]], alignment: int, start: int, shard: int
) -> Iterator[TensorInfo]:
    """Offsets checked: each is the padded end of its predecessor, whatever follows an unknown type lies behind it."""
    expected: int | None = 0
    last = -1
    for i, (at, tensor) in enumerate(records):
        offset = tensor.offset
        if expected is not None and offset != expected:
            raise cursor.fail(f"tensor {shown(tensor.name)} has offset {offset}, {expected} is expected: {CUT_OFF}", at)
        if expected is None and (offset <= last or offset % alignment):
            raise cursor.fail(
                f"tensor {shown(tensor.name)} has offset {offset}, no multiple of {alignment} above {last}: {CUT_OFF}",
                at,
            )
        if not tensor.exact:
            behind = records[i + 1][1].offset if i + 1 < len(records) else cursor.size - start
            tensor = replace(tensor, nbytes=max(0, behind - offset))
            if tensor.n_elements and behind == offset:
                raise cursor.fail(f"tensor {shown(tensor.name)} has no bytes: is the download complete?", at)
        end = start + offset + tensor.nbytes
        if end > cursor.size:
            reason = f"ends at byte {end} but the file has {cursor.size}: is the download complete?"
            raise cursor.fail(f"tensor {shown(tensor.name)} {reason}", at)
        last = offset
        expected = offset + padded(tensor.nbytes, alignment) if tensor.exact else None
        yield replace(tensor, shard=shard, offset=start + offset)
