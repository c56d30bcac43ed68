"""A position in the header of a hostile file: nothing is read or allocated that the file's own size does not cover."""

from __future__ import annotations

import os
import struct

from gguftool.errors import FormatError

_BLOCK = 1 << 20
_MAX_STRING = 1 << 30
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads the front of an open file on demand; ``pos`` is where the next item starts."""

    def __init__(self, fd: int, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.pos = 0
        self._fd = fd
        self._buffer = bytearray()

    def fail(self, reason: str, at: int | None = None) -> FormatError:
        """The error to raise, placed at ``at`` or here."""
        return FormatError(self.path, reason, self.pos if at is None else at)

    def need(self, n: int, what: str) -> None:
        """Make the next n bytes available; FormatError if the file ends before."""
        if self.pos + n > self.size:
            raise self.fail(f"{what} needs {n} bytes but the file ends at {self.size}: is the download complete?")
        self._fill(self.pos + n)

    def _fill(self, end: int) -> None:
        while len(self._buffer) < end:
            have = len(self._buffer)
            chunk = os.pread(self._fd, max(_BLOCK, have, end - have), have)
            if not chunk:
                raise FormatError(self.path, f"the file got shorter while it was read, from {self.size} bytes", have)
            self._buffer += chunk

    def take(self, n: int, what: str) -> bytes:
        """The next n bytes."""
        self.need(n, what)
        raw = bytes(self._buffer[self.pos : self.pos + n])
        self.pos += n
        return raw

    def unpack(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        """The next numbers."""
        self.need(form.size, what)
        values = form.unpack_from(self._buffer, self.pos)
        self.pos += form.size
        return values

    def string(self, what: str) -> bytes:
        """The bytes of a string, its length word first in the file."""
        start = self.pos
        (n,) = self.unpack(_U64, f"the length of {what}")
        if n > _MAX_STRING or n > self.size - self.pos:
            raise self.fail(f"{what} claims {n} bytes, {self.size - self.pos} are left: the file is damaged", start)
        return self.take(n, what)

    def skip_strings(self, count: int, what: str) -> None:
        """Walk over an array of strings, looking at their lengths only."""
        at, size, unpack = self.pos, self.size, _U64.unpack_from
        buffer, end = self._buffer, len(self._buffer)
        for i in range(count):
            if at + 8 > end:
                if at + 8 > size:
                    raise self.fail(f"string {i} of {count} of {what} lies beyond the end of the file", at)
                self._fill(at + 8)
                end = len(buffer)
            (n,) = unpack(buffer, at)
            at += 8 + n
            if n > _MAX_STRING or at > size:
                raise self.fail(f"string {i} of {what} claims {n} bytes: the file is damaged or cut off", at - 8 - n)
        self.pos = at

    def since(self, start: int) -> bytes:
        """The bytes from ``start`` to here."""
        self._fill(self.pos)
        return bytes(memoryview(self._buffer)[start : self.pos])
