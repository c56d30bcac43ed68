"""A model as one thing, however many files it is in: header read and validated, data read when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gguftool.errors import FormatError
from gguftool.format.header import Header, TensorInfo, read_header
from gguftool.format.metadata import Metadata
from gguftool.format.names import parse_shard_name, shard_path

__all__ = ["Model", "Shard", "TensorInfo", "open_model"]


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
            n = os.preadv(self._fds[tensor.shard], [view], at)
            if n == 0:
                path = self.shards[tensor.shard].path
                raise FormatError(path, f"the file got shorter while tensor '{tensor.name}' was read", at)
            view, at = view[n:], at + n

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


def open_model(path: str | Path, *, single_shard: bool = False) -> Model:
    """The model in that file, or in the set of files that it is a shard of; FormatError if anything is wrong.

    ``single_shard`` opens just the file named, as if it were alone.
    """
    path = Path(path)
    fds: list[int] = []
    try:
        first = _open(path, 0, fds)
        count = _split_number(first, "split.count") or 1
        if single_shard or count < 2:
            return Model(path, [first], fds)
        headers = _set(path, first, count, fds)
        return Model(path, headers, fds)
    except BaseException:
        while fds:
            os.close(fds.pop())
        raise


def _open(path: Path, shard: int, fds: list[int]) -> Header:
    if path.is_dir():
        raise IsADirectoryError(21, "is a folder, not a GGUF file", str(path))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fds.append(fd)
    return read_header(fd, path, shard)


def _split_number(header: Header, key: str) -> int | None:
    if key not in header.metadata:
        return None
    value = header.metadata[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError(header.path, f"{key} is {value!r}, not a count")
    return value


def _set(path: Path, named: Header, count: int, fds: list[int]) -> list[Header]:
    """The headers of all shards, in order, checked against each other."""
    parsed = parse_shard_name(path)
    if parsed is None or parsed[2] != count:
        raise FormatError(
            path,
            f"split.count says {count} files, but the name does not end in -00001-of-{count:05d}.gguf: "
            "give the shards their original names back",
        )
    while fds:
        os.close(fds.pop())
    headers = []
    for i in range(count):
        member = shard_path(parsed[0], i, count)
        if not member.exists():
            raise FormatError(member, f"shard {i + 1} of {count} is missing: all shards must lie in one folder")
        headers.append(_open(member, i, fds))
    _check_set(headers)
    return headers


def _check_set(headers: list[Header]) -> None:
    seen: dict[str, Path] = {}
    check: Callable[[Header, str, int], None] = _expect
    for i, header in enumerate(headers):
        check(header, "split.no", i)
        check(header, "split.count", len(headers))
        for tensor in header.tensors:
            if tensor.name in seen:
                raise FormatError(header.path, f"tensor '{tensor.name}' is in {seen[tensor.name].name} as well")
            seen[tensor.name] = header.path
    total = _split_number(headers[0], "split.tensors.count")
    if total is not None and total != len(seen):
        raise FormatError(headers[0].path, f"split.tensors.count says {total} tensors, the shards hold {len(seen)}")


def _expect(header: Header, key: str, value: int) -> None:
    if _split_number(header, key) != value:
        found = _split_number(header, key)
        raise FormatError(header.path, f"{key} is {found}, {value} is expected: the shards are of different sets")
