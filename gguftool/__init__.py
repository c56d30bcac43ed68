"""Quantize, prune, measure and repack GGUF models.

The public names are imported when they are first used, so that ``import gguftool`` costs nothing:

>>> blocks = gguftool.encode(rows, "q4_K", importance)
>>> gguftool.decode(blocks, "q4_K", n_cols)
>>> gguftool.open_model("model.gguf").tensors
>>> gguftool.open_imatrix("imatrix.dat").stats()
>>> gguftool.charts.heatmap(gguftool.open_imatrix("imatrix.dat"), "entropy_norm_pct")
>>> gguftool.quantize("in.gguf", "out.gguf", "q4_k_m", imatrix="imatrix.dat")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gguftool import charts
    from gguftool.codecs.dispatch import decode, encode
    from gguftool.errors import (
        CodecError,
        FormatError,
        GGUFToolError,
        ImatrixError,
        JournalError,
        PlanError,
        RecipeError,
        UnknownTypeError,
        UsageError,
    )
    from gguftool.format.metadata import Metadata, MetaValue, ValueType
    from gguftool.format.quanttypes import TYPES, QuantType, type_by_name
    from gguftool.format.reader import Model, TensorInfo, open_model
    from gguftool.imatrix.file import Imatrix, open_imatrix
    from gguftool.show.report import report_page
    from gguftool.verbs.calibration import build_calibration
    from gguftool.verbs.copy import copy
    from gguftool.verbs.imatrix_diff import diff_imatrices
    from gguftool.verbs.imatrix_files import convert_imatrix, merge_imatrices
    from gguftool.verbs.imatrix_repair import repair_imatrix
    from gguftool.verbs.info import info
    from gguftool.verbs.kld import kld
    from gguftool.verbs.plan import plan_from_statistics
    from gguftool.verbs.prune_plan import plan_pruning
    from gguftool.verbs.quantize import quantize
    from gguftool.verbs.report import report
    from gguftool.verbs.verify import verify
    from gguftool.verbs.weights import weight_statistics

_HOME = {
    name: module
    for module, names in {
        "gguftool.codecs.dispatch": "decode encode",
        "gguftool.errors": "CodecError FormatError GGUFToolError ImatrixError JournalError PlanError RecipeError "
        "UnknownTypeError UsageError",
        "gguftool.format.metadata": "MetaValue Metadata ValueType",
        "gguftool.format.quanttypes": "TYPES QuantType type_by_name",
        "gguftool.format.reader": "Model TensorInfo open_model",
        "gguftool.imatrix.file": "Imatrix open_imatrix",
        "gguftool.show.report": "report_page",
        "gguftool.verbs.calibration": "build_calibration",
        "gguftool.verbs.copy": "copy",
        "gguftool.verbs.imatrix_diff": "diff_imatrices",
        "gguftool.verbs.imatrix_files": "convert_imatrix merge_imatrices",
        "gguftool.verbs.imatrix_repair": "repair_imatrix",
        "gguftool.verbs.info": "info",
        "gguftool.verbs.kld": "kld",
        "gguftool.verbs.plan": "plan_from_statistics",
        "gguftool.verbs.prune_plan": "plan_pruning",
        "gguftool.verbs.quantize": "quantize",
        "gguftool.verbs.report": "report",
        "gguftool.verbs.verify": "verify",
        "gguftool.verbs.weights": "weight_statistics",
    }.items()
    for name in names.split()
}

__all__ = [
    "TYPES",
    "CodecError",
    "FormatError",
    "GGUFToolError",
    "Imatrix",
    "ImatrixError",
    "JournalError",
    "MetaValue",
    "Metadata",
    "Model",
    "PlanError",
    "QuantType",
    "RecipeError",
    "TensorInfo",
    "UnknownTypeError",
    "UsageError",
    "ValueType",
    "__version__",
    "build_calibration",
    "charts",
    "convert_imatrix",
    "copy",
    "decode",
    "diff_imatrices",
    "encode",
    "info",
    "kld",
    "merge_imatrices",
    "open_imatrix",
    "open_model",
    "plan_from_statistics",
    "plan_pruning",
    "quantize",
    "repair_imatrix",
    "report",
    "report_page",
    "type_by_name",
    "verify",
    "weight_statistics",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "charts":
        return importlib.import_module("gguftool.charts")
    if name not in _HOME:
        raise AttributeError(f"module 'gguftool' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "charts"})
