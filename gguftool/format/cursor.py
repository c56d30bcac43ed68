"""A position in the header of a hostile file: nothing is read or allocated that the file's own size does not cover."""

from __future__ import annotations

import hashlib
import os
import struct

from gguftool.errors import FormatError

_BLOCK = 1 << 20
_MAX_STRING = 1 << 30
#: The way out where nothing better can be said.
CUT_OFF = "the file is damaged or cut off, get it anew"
_U64 = struct.Struct("<Q")


def shown(name: str) -> str:
    """A name out of a file as an error message may show it: quoted, on one line, not endless."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


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
            # Magic and version alone first: of a file that is not ours nothing else is read.
            chunk = os.pread(self._fd, max(_BLOCK if have >= 8 else 0, end - have), have)
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
            raise self.fail(f"{what} claims {n} bytes, {self.size - self.pos} are left: {CUT_OFF}", start)
        return self.take(n, what)

    def skip_strings(self, count: int, what: str) -> None:
        """Walk over an array of strings, looking at their lengths only.

        Half a million times for a big vocabulary, hence so terse: the checks are made only where the buffer ends, which
        is where a wrong length leads to.
        """
        at, unpack, buffer = self.pos, _U64.unpack_from, self._buffer
        last = len(buffer) - 8
        for i in range(count):
            if at > last:
                self._more(at, i, count, what)
                last = len(buffer) - 8
            at += 8 + unpack(buffer, at)[0]
        if at > self.size:
            raise self.fail(f"string {count - 1} of {what} goes beyond the end of the file at {self.size}: {CUT_OFF}")
        self.pos = at

    def _more(self, at: int, i: int, count: int, what: str) -> None:
        """Fill the buffer for string i at ``at``, which may be anywhere if the length before it is wrong."""
        if at + 8 > self.size:
            raise self.fail(f"string {i} of the {count} of {what} lies beyond the end of the file: {CUT_OFF}")
        if at - len(self._buffer) > _MAX_STRING:
            raise self.fail(f"string {i - 1} of {what} claims more than {_MAX_STRING} bytes: {CUT_OFF}")
        self._fill(at + 8)

    def since(self, start: int) -> bytes:
        """The bytes from ``start`` to here."""
        self._fill(self.pos)
        with memoryview(self._buffer) as view:
            return bytes(view[start : self.pos])

    def sha256(self) -> str:
        """The hash, in hex, of all bytes from the start of the file to here."""
        self._fill(self.pos)
        with memoryview(self._buffer) as view:
            return hashlib.sha256(view[: self.pos]).hexdigest()
