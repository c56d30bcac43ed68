"""Every way to run a kernel: each instruction set of this processor, and numba.

``kernels`` is a fixture: its value has the four functions of gguftool.codecs.native (and of jit), and dispatch uses it
while the test runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from gguftool import _native
from gguftool.codecs import dispatch, jit, native

WAYS = (*_native.isas, "numba")


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """native at one instruction set, or jit."""
    module = jit if request.param == "numba" else native
    monkeypatch.setattr(dispatch, "_kernels", lambda: module)
    _native.use(None if request.param == "numba" else request.param)
    yield module
    _native.use(native.isa())
