"""Fuzz target for the reader, with atheris: ``python tests/fuzz_reader.py CORPUS``.

Whatever opens or is refused is fine; any other exception is a find.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from gguftool import FormatError, open_model

PATH = Path(tempfile.mkdtemp()) / "fuzz.gguf"


def target(data: bytes) -> None:
    PATH.write_bytes(data)
    with contextlib.suppress(FormatError), open_model(PATH) as model:
        assert all(len(model.read(tensor)) == tensor.nbytes for tensor in model.tensors)


if __name__ == "__main__":
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
