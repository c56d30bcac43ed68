"""Every way to run a kernel: each instruction set of this processor, and numba."""

from __future__ import annotations

from gguftool import _native

WAYS = (*_native.isas, "numba")
