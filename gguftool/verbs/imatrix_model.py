"""What a model expects of an importance matrix: an entry for every weight that may be quantized, in its widths."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from gguftool.format.reader import Model, open_model
from gguftool.recipe.eligible import n_dims, why_kept
from gguftool.recipe.facts import TensorFacts

_ROUTED = re.compile(r"_(ch)?exps\.weight$")
#: Rows are looked up in the embeddings, nothing is multiplied with them, unless they are the output as well.
_LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True, slots=True)
class Expected:
    """One weight: ``n_mat`` matrices of ``n_cols`` input channels; ``routed`` if tokens go to some of them only.

    ``why_absent`` says why nobody misses an entry for it, or why collectors make none unasked; "" if it ought to exist.
    """

    name: str
    n_mat: int
    n_cols: int
    routed: bool
    why_absent: str = ""


def expected(path: str | Path) -> dict[str, Expected]:
    """The weights of a model that something is multiplied with, by name. FormatError if it is no GGUF file."""
    with open_model(path) as model:
        tied = all(tensor.name != "output.weight" for tensor in model.tensors)
        return {entry.name: entry for entry in _expected(model, tied)}


def _expected(model: Model, tied: bool) -> list[Expected]:
    found = []
    for tensor in model.tensors:
        if n_dims(tensor.shape) < 2 or not tensor.name.endswith("weight") or tensor.type.kind == "int":
            continue
        kept = why_kept(TensorFacts(tensor.name, tensor.shape, tensor.type))
        why = _why_absent(tensor.name, tied) or ("it is never quantized" if kept is not None else "")
        n_mat = math.prod(tensor.shape[:-2])
        found.append(Expected(tensor.name, n_mat, tensor.shape[-1], bool(_ROUTED.search(tensor.name)), why))
    return found


def _why_absent(name: str, tied: bool) -> str:
    if name in _LOOKED_UP:
        also = ", and the output is never recorded under this name" if tied and name == _LOOKED_UP[0] else ""
        return f"rows are looked up in it{also}"
    if name == "output.weight":
        return "recorded with --process-output only"
    return "" if name.startswith("blk.") else "only blocks are recorded"
