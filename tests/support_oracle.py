"""The oracle of layer pruning: the whole file with some layers switched off, run by libllama.

A layer whose output projections are zero adds nothing to the residual stream, so the pruned file must give the same
logits to the last bit. The oracle needs no renumbering and no change of metadata.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pytest
from support_logits import logits_of

from gguftool.format.metadata import Metadata
from gguftool.format.names import layer_of, tensor_kind
from gguftool.format.reader import Model
from gguftool.format.writer import write_gguf
from gguftool.plan.layers import LayerPruning, prune_layers

OUTPUTS = ("attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp", "shortconv.out_proj", "proj")

needs_libllama = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is absent")


def attempt(model: Model, dropped: Iterable[int], **allowed: bool) -> LayerPruning:
    return prune_layers(model.metadata, model.tensors, tuple(dropped), **allowed)


def write_pruned(model: Model, pruning: LayerPruning, path: Path, metadata: Metadata | None = None) -> Path:
    cuts = {cut.name: cut for cut in pruning.slices}
    tensors = []
    for tensor in model.tensors:
        name = pruning.new_name(tensor.name)
        if name is None:
            continue
        data, shape = model.read(tensor), tensor.shape
        if tensor.name in cuts:
            assert tensor.type.name == "f16"
            cut, rows = cuts[tensor.name], np.frombuffer(data, np.float16).reshape(shape)
            stay = np.concatenate([np.arange(start, stop) for start, stop in cut.kept])
            rows = np.take(rows, stay, axis=cut.axis)
            data, shape = rows.tobytes(), rows.shape
        tensors.append((name, data, shape, tensor.type))
    write_gguf(path, metadata or model.metadata.replaced(pruning.edits), tensors)
    return path


def write_switched_off(model: Model, layers: Collection[int], path: Path) -> Path:
    tensors = []
    for tensor in model.tensors:
        data = model.read(tensor)
        place, kind = layer_of(tensor.name), tensor_kind(tensor.name).removesuffix(".bias")
        if place and place[1] in layers and kind in OUTPUTS:
            data = bytes(len(data))
        tensors.append((tensor.name, data, tensor.shape, tensor.type))
    write_gguf(path, model.metadata, tensors)
    return path


def check_against_oracle(model: Model, lists: Iterable[tuple[int, ...]], folder: Path, **allowed: bool) -> None:
    """AssertionError naming the first list of layers whose pruned file runs differently from the oracle."""
    pairs = {}
    for dropped in lists:
        tag = "-".join(map(str, dropped))
        pruned = write_pruned(model, attempt(model, dropped, **allowed), folder / f"pruned-{tag}.gguf")
        pairs[dropped] = pruned, write_switched_off(model, dropped, folder / f"whole-{tag}.gguf")
    logits = logits_of([path for pair in pairs.values() for path in pair])
    for dropped, (pruned, whole) in pairs.items():
        got, expected = logits[pruned], logits[whole]
        assert isinstance(expected, np.ndarray), f"{dropped}: the oracle {expected}"
        assert isinstance(got, np.ndarray), f"{dropped}: {got}"
        assert np.isfinite(expected).all() and expected.std() > 0.1
        assert got.tobytes() == expected.tobytes(), f"{dropped}: off by {np.abs(got - expected).max()}"
