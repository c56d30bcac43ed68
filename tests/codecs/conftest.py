"""``kernels``: a test that takes it runs on every instruction set of this processor, and in numba."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from support_isa import WAYS

from gguftool import _native
from gguftool.codecs import dispatch, jit, native


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """native at one instruction set, or jit: the four functions of gguftool.codecs.native, which dispatch uses too."""
    module = jit if request.param == "numba" else native
    monkeypatch.setattr(dispatch, "_kernels", lambda: module)
    _native.use(None if request.param == "numba" else request.param)
    yield module
    _native.use(native.isa())
