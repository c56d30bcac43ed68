"""How a file appears: whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: What only writing runs into, and does not name the file of.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder last."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_output(target: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Nothing; OSError, and its children, if ``atomic_output`` could not write there. Makes no file.

    ``inputs`` are files that are not overwritten either way.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "the output is a folder", str(target))
    if target.exists():
        if not target.is_file():
            raise OSError(errno.EINVAL, "this is no regular file: an output must lie on a disk", str(target))
        if any(os.path.exists(source) and os.path.samefile(target, source) for source in inputs):
            raise FileExistsError(errno.EEXIST, "the output is an input: name another file", str(target))
        if not overwrite:
            raise FileExistsError(errno.EEXIST, "exists already: choose another name, or use --force", str(target))
    if not Path(os.path.realpath(target)).parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))


@contextmanager
def atomic_output(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A temporary file beside ``path``, renamed to it when the block ends well and removed when it does not.

    FileExistsError if ``path`` is there and ``overwrite`` is not set, OSError for what cannot be replaced by a file: a
    folder, a device (/dev/null must stay what it is).
    """
    target = Path(path)
    check_output(target, overwrite=overwrite)
    final = Path(os.path.realpath(target))  # a rename onto a link would replace the link, /dev/stdout too
    name = os.fsencode(final.name)[:200].decode("utf-8", "ignore")
    temporary = final.with_name(f".{name}.{os.urandom(4).hex()}.tmp")
    try:
        file = temporary.open("xb")
    except OSError as trouble:
        raise OSError(trouble.errno, trouble.strerror, str(target)) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
    except BaseException as trouble:
        temporary.unlink(missing_ok=True)
        if isinstance(trouble, OSError) and trouble.filename is None and trouble.errno in _NO_ROOM:
            raise OSError(trouble.errno, trouble.strerror, str(target)) from None
        raise
    sync_folder(final.parent)
