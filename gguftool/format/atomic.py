"""How a file appears: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Make renames in the folder last."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_output(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A temporary file beside ``path``, renamed to it when the block ends well and removed when it does not.

    FileExistsError if ``path`` is there and ``overwrite`` is not set.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(21, "the output is a folder", str(target))
    if target.exists() and not overwrite:
        raise FileExistsError(17, "the output exists already", str(target))
    temporary = target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}.tmp")
    file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
