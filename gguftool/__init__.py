"""gguftool reads, quantizes, prunes and measures GGUF models.

The public names, each imported when it is first used, so that ``import gguftool`` costs nothing:

>>> blocks = gguftool.encode(rows, "q4_K", importance)
>>> gguftool.decode(blocks, "q4_K", n_cols)
>>> gguftool.open_model("model.gguf").tensors
>>> gguftool.open_imatrix("imatrix.dat").stats()
>>> gguftool.quantize("in.gguf", "out.gguf", "q4_k_m", imatrix="imatrix.dat")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguftool.codecs.dispatch import decode, encode
    from gguftool.errors import GGUFToolError
    from gguftool.format.quanttypes import QuantType, type_by_name
    from gguftool.format.reader import Model, TensorInfo, open_model
    from gguftool.imatrix.file import Imatrix, open_imatrix
    from gguftool.verbs.copy import copy
    from gguftool.verbs.kld import kld
    from gguftool.verbs.quantize import quantize
    from gguftool.verbs.verify import verify

_HOMES = {
    "GGUFToolError": "errors",
    "Imatrix": "imatrix.file",
    "Model": "format.reader",
    "QuantType": "format.quanttypes",
    "TensorInfo": "format.reader",
    "copy": "verbs.copy",
    "decode": "codecs.dispatch",
    "encode": "codecs.dispatch",
    "kld": "verbs.kld",
    "open_imatrix": "imatrix.file",
    "open_model": "format.reader",
    "quantize": "verbs.quantize",
    "type_by_name": "format.quanttypes",
    "verify": "verbs.verify",
}

__all__ = [
    "GGUFToolError",
    "Imatrix",
    "Model",
    "QuantType",
    "TensorInfo",
    "copy",
    "decode",
    "encode",
    "kld",
    "open_imatrix",
    "open_model",
    "quantize",
    "type_by_name",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gguftool' has no attribute '{name}'")
    return getattr(importlib.import_module(f"gguftool.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
