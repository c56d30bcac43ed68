"""What tests share: where the reference material lies, and how a test says that it needs some of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

#: A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: Processes that tests start import the package that is installed (or PYTHONPATH's), never the checkout they stand in:
#: that has no extension, and would quietly test numba.
os.environ["PYTHONSAFEPATH"] = "1"

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference vectors, models and texts beside the checkout; the test skips where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("no ../shared beside the checkout: reference material is absent")
    return SHARED
