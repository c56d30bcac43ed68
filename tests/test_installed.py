"""That the tests test what they mean to: the package with its extension, in this process and in those it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPO

from gguftool.codecs import dispatch


def test_kernels_are_native_here() -> None:
    assert dispatch.backend() == "native"


@pytest.mark.parametrize("folder", [REPO, REPO / "tests"])
def test_kernels_are_native_in_processes_started_anywhere(folder: object) -> None:
    command = [sys.executable, "-c", "from gguftool.codecs.dispatch import backend; print(backend())"]
    done = subprocess.run(command, cwd=str(folder), capture_output=True, text=True, check=True)
    assert done.stdout == "native\n"
