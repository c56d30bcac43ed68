"""A model as one thing, however many files it is in: header read and validated, data read when asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gguftool.errors import FormatError
from gguftool.format.cursor import shown
from gguftool.format.header import Header, TensorInfo, read_header
from gguftool.format.metadata import Metadata, ValueType
from gguftool.format.names import parse_shard_name, shard_path
from gguftool.format.shortened import hollow

__all__ = ["Model", "Shard", "TensorInfo", "open_model"]

_SPLIT_TYPES = {"split.no": ValueType.U16, "split.count": ValueType.U16, "split.tensors.count": ValueType.I32}
_MIXED = "the shards are of different sets or damaged, get them anew"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a model, with what identifies its content: size, time of change, hash of the header."""

    path: Path
    size: int
    data_start: int
    header_sha256: str
    mtime_ns: int
    alignment: int


class Model:
    """Metadata (of the first file), tensors (by file, in file order) and a way to read their bytes."""

    def __init__(self, path: Path, headers: list[Header], fds: list[int]) -> None:
        self.path = path
        self.version = headers[0].version
        self.metadata: Metadata = headers[0].metadata
        self.alignment = headers[0].alignment
        self.shards = tuple(Shard(h.path, h.size, h.data_start, h.sha256, h.mtime_ns, h.alignment) for h in headers)
        self.tensors: tuple[TensorInfo, ...] = tuple(t for h in headers for t in h.tensors)
        self._by_name = {t.name: t for t in self.tensors}
        self._fds = fds

    @property
    def architecture(self) -> str | None:
        """``general.architecture``, or None where it is absent or no string."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of that name; KeyError if there is none."""
        return self._by_name[name]

    def read(self, tensor: TensorInfo, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Bytes of a tensor from ``offset`` on, all that follow by default."""
        out = bytearray(tensor.nbytes - offset if nbytes is None else nbytes)
        self.read_into(tensor, offset, out)
        return bytes(out)

    def read_into(self, tensor: TensorInfo, offset: int, out: Any) -> None:
        """Fill a writable buffer with a tensor's bytes from ``offset`` on; safe from any number of threads."""
        view = memoryview(out).cast("B")
        if offset < 0 or offset + len(view) > tensor.nbytes:
            raise ValueError(f"bytes {offset}..{offset + len(view)} of '{tensor.name}', which has {tensor.nbytes}")
        at = tensor.offset + offset
        while view:
            n = _read_at(self._fds[tensor.shard], view, at)
            if n == 0:
                path = self.shards[tensor.shard].path
                raise FormatError(path, f"the file got shorter while tensor '{tensor.name}' was read", at)
            view, at = view[n:], at + n

    def hollow(self) -> tuple[TensorInfo, ...]:
        """Tensors whose last bytes are there and empty, because a program did not count the heads of their rows.

        For types that have such heads only; reads the ends of those tensors.
        """
        return hollow(self.tensors, self.read)

    def close(self) -> None:
        """Close the files."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, {self.architecture}, {len(self.tensors)} tensors)"


def _read_at(fd: int, view: memoryview, at: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], at)
    data = os.pread(fd, len(view), at)  # macOS before 11
    view[: len(data)] = data
    return len(data)


def open_model(path: str | Path, *, single_shard: bool = False) -> Model:
    """The model in that file, or in the set of files that it is a shard of; FormatError if anything is wrong.

    ``single_shard`` opens just the file named, as if it were alone.
    """
    path = Path(path)
    fds: list[int] = []
    try:
        headers = [_open(path, 0, fds)]
        count = 1 if single_shard else _set_size(headers[0])
        if count > 1:
            os.close(fds.pop())
            headers = _set(path, count, fds)
        return Model(path, headers, fds)
    except BaseException:
        while fds:
            os.close(fds.pop())
        raise


def _open(path: Path, shard: int, fds: list[int]) -> Header:
    # A named pipe would keep a plain open waiting for ever.
    fds.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return read_header(fds[-1], path, shard)


def _set_size(header: Header) -> int:
    """The number of files that the model is in; 0, 1 and no count at all mean that it is not split."""
    if "split.count" not in header.metadata or header.metadata["split.count"] in (0, 1):
        return 1
    return _split_number(header, "split.count")


def _split_number(header: Header, key: str) -> int:
    """The value of a key of a shard; upstream demands the exact type, so do we."""
    if key not in header.metadata:
        raise FormatError(header.path, f"a shard, but {key} is missing: split the model anew")
    entry = header.metadata.entry(key)
    if entry.type is not _SPLIT_TYPES[key]:
        found, wanted = entry.type.name.lower(), _SPLIT_TYPES[key].name.lower()
        raise FormatError(header.path, f"{key} is stored as {found}, {wanted} is expected: split the model anew")
    return int(entry.value)


def _set(path: Path, count: int, fds: list[int]) -> list[Header]:
    """The headers of all shards, in order, checked against each other."""
    parsed = parse_shard_name(path)
    if parsed is None or parsed[2] != count:
        raise FormatError(
            path,
            f"split.count says {count} files, but the name does not end in -00001-of-{count:05d}.gguf or the like: "
            "give the shards their original names back",
        )
    members = [shard_path(parsed[0], i, count) for i in range(count)]
    missing = [member.name for member in members if not member.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FormatError(
            path,
            f"of the {count} shards {', '.join(missing[:3])}{more} cannot be found: put all of them into one folder",
        )
    headers = [_open(member, i, fds) for i, member in enumerate(members)]
    _check_set(headers)
    return headers


def _check_set(headers: list[Header]) -> None:
    total = _split_number(headers[0], "split.tensors.count")
    homes: dict[str, Path] = {}
    for i, header in enumerate(headers):
        for key, value in (("split.no", i), ("split.count", len(headers)), ("split.tensors.count", total)):
            found = _split_number(header, key)
            if found != value:
                raise FormatError(header.path, f"{key} is {found}, {value} is expected: {_MIXED}")
        if i and not header.tensors:
            raise FormatError(header.path, "a shard without tensors, which only the first may be: split the model anew")
        for tensor in header.tensors:
            if tensor.name in homes:
                other = homes[tensor.name].name
                raise FormatError(header.path, f"tensor {shown(tensor.name)} is in {other} as well: {_MIXED}")
            homes[tensor.name] = header.path
    if total != len(homes):
        raise FormatError(
            headers[0].path, f"split.tensors.count says {total} tensors, the shards hold {len(homes)}: {_MIXED}"
        )
