"""Descriptions of models that exist as metadata and tensor names only, for tests of layer pruning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from gguftool.errors import PlanError
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import TensorInfo
from gguftool.plan.layers import LayerPruning, prune_layers

Described = tuple[Metadata, list[TensorInfo]]


def meta(value: Any) -> MetaValue:
    """A metadata value of the usual type: u32, f32, string, arrays of bool, i32, f32 or string."""
    if isinstance(value, MetaValue):
        return value
    if isinstance(value, list):
        kinds = {bool: ValueType.BOOL, int: ValueType.I32, float: ValueType.F32, str: ValueType.STRING}
        return MetaValue.of(value, ValueType.ARRAY, kinds[type(value[0])])
    kinds = {bool: ValueType.BOOL, int: ValueType.U32, float: ValueType.F32, str: ValueType.STRING}
    return MetaValue.of(value, kinds[type(value)])


def tensor(name: str, shape: tuple[int, ...]) -> TensorInfo:
    """An F16 tensor that nobody will read."""
    kind = type_by_name("f16")
    return TensorInfo(name=name, shape=shape, type=kind, shard=0, offset=0, nbytes=kind.nbytes(shape), exact=True)


def described(arch: str, n: int, keys: Mapping[str, Any] | None = None, extra: Iterable[TensorInfo] = ()) -> Described:
    """Metadata of an architecture with ``n`` layers, and one tensor per layer.

    ``keys`` get the architecture's prefix; a leading "/" says that the rest is the whole name.
    """
    entries = [("general.architecture", meta(arch)), (f"{arch}.block_count", meta(n))]
    for key, value in (keys or {}).items():
        entries.append((key[1:] if key.startswith("/") else f"{arch}.{key}", meta(value)))
    tensors = [tensor("token_embd.weight", (32, 8))]
    tensors += [tensor(f"blk.{i}.attn_norm.weight", (8,)) for i in range(n)]
    return Metadata.of(entries), [*tensors, *extra]


def edited(pruning: LayerPruning) -> dict[str, Any]:
    return {name: None if value is None else value.value for name, value in pruning.edits.items()}


def refusal(model: Described, *layers: int, **allowed: bool) -> str:
    with pytest.raises(PlanError) as caught:
        prune_layers(*model, layers, **allowed)
    return str(caught.value)
