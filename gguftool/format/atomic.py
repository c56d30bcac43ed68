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
    import tempfile  # slow to import, and readers do not need it

    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(17, "the output exists already", str(target))
    fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
