"""What a model file holds, summed up from its header alone: no tensor is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.names import layer_of
from gguftool.format.quanttypes import QuantType
from gguftool.format.reader import Model, Shard, TensorInfo, open_model
from gguftool.format.shortened import loss
from gguftool.recipe.filetypes import FILE_TYPES

#: Numbers of ``general.file_type`` that occur in files but are no TYPE to quantize to.
_OTHER_FILE_TYPES = (
    "33 Q4_0_4_4, 34 Q4_0_4_8, 35 Q4_0_8_8, 39 NVFP4, 202 Q4_0_R8, 207 Q8_0_R8, 208 Q5_0_R4, 210 Q2_K_R4, 211 "
    "Q3_K_R4, 214 Q4_K_R4, 216 Q5_K_R4, 218 Q6_K_R4, 219 IQ2_XXS_R4, 220 IQ2_XS_R4, 223 IQ3_XXS_R4, 224 IQ1_S_R4, "
    "225 IQ4_NL_R4, 226 IQ3_S_R4, 229 IQ2_M_R4, 230 IQ4_XS_R8, 231 IQ1_M_R4, 232 BF16_R16, 335 Q6_0_R4, 337 "
    "IQ2_BN_R4, 338 IQ2_K_R4, 339 IQ3_K_R4, 340 IQ4_K_R4, 341 IQ5_K_R4, 345 IQ4_KS_R4, 350 IQ5_KS_R4, 351 MXFP4_R8, "
    "398 Q8_KV_R8, 399 Q8_K_R8"
)
_GUESSED = 1024


@dataclass(frozen=True, slots=True)
class TypeUse:
    """What a model stores in one type."""

    type: QuantType
    n_tensors: int
    n_elements: int
    nbytes: int

    @property
    def bpw(self) -> float | None:
        """Bits per element, row headers included; None without elements."""
        return 8 * self.nbytes / self.n_elements if self.n_elements else None


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors that differ in nothing but the layer: ``pattern`` has ``*`` for its number, ``layers`` holds those."""

    pattern: str
    shape: tuple[int, ...]
    type: QuantType
    layers: tuple[int, ...]
    n_tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model summed up. ``nbytes`` is tensor data without padding, ``file_bytes`` all files.

    ``approximate``: a tensor of unknown type is among them, whose bytes include padding. ``damage`` has a line for each
    tensor whose end an older program left empty.
    """

    path: Path
    version: int
    alignment: int
    shards: tuple[Shard, ...]
    metadata: Metadata
    tensors: tuple[TensorInfo, ...]
    architecture: str | None
    name: str | None
    file_type: str | None
    n_elements: int
    nbytes: int
    file_bytes: int
    types: tuple[TypeUse, ...]
    approximate: bool
    damage: tuple[str, ...] = ()

    @property
    def bpw(self) -> float | None:
        """Bits per weight of the tensor data, row headers included; None without elements."""
        return 8 * self.nbytes / self.n_elements if self.n_elements else None


def info(path: str | Path, *, single_shard: bool = False) -> ModelInfo:
    """What the model holds that ``path``, any of its shards, belongs to; ``single_shard`` takes that file alone."""
    with open_model(path, single_shard=single_shard) as model:
        return summed_up(model)


def summed_up(model: Model) -> ModelInfo:
    """What an open model holds."""
    types = _types(model.tensors)
    name = model.metadata.get("general.name")
    return ModelInfo(
        path=model.path,
        version=model.version,
        alignment=model.alignment,
        shards=model.shards,
        metadata=model.metadata,
        tensors=model.tensors,
        architecture=model.architecture,
        name=name if isinstance(name, str) else None,
        file_type=file_type_name(model.metadata.get("general.file_type"), types),
        n_elements=sum(use.n_elements for use in types),
        nbytes=sum(use.nbytes for use in types),
        file_bytes=sum(shard.size for shard in model.shards),
        types=types,
        approximate=not all(tensor.exact for tensor in model.tensors),
        damage=tuple(map(loss, model.hollow())),
    )


def _types(tensors: Iterable[TensorInfo]) -> tuple[TypeUse, ...]:
    """The types in use, the one of most bytes first."""
    sums: dict[QuantType, tuple[int, int, int]] = {}
    for tensor in tensors:
        n, elements, nbytes = sums.get(tensor.type, (0, 0, 0))
        sums[tensor.type] = (n + 1, elements + tensor.n_elements, nbytes + tensor.nbytes)
    uses = [TypeUse(type, *counts) for type, counts in sums.items()]
    return tuple(sorted(uses, key=lambda use: (-use.nbytes, use.type.id)))


def file_type_name(number: Any, types: Iterable[TypeUse]) -> str | None:
    """The name behind a ``general.file_type``; None where there is none or it is no number.

    41 is Q2_0 to llama.cpp and Q1_0_G128 to ik_llama.cpp: the types in use tell them apart.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    guessed = " (guessed)" if number & _GUESSED else ""
    number &= ~_GUESSED
    names = {t.number: t.name for t in reversed(FILE_TYPES)}
    names |= {int(n): name for n, name in (row.split() for row in _OTHER_FILE_TYPES.split(", "))}
    if number == 41:
        names[41] = "Q1_0_G128" if any(use.type.name == "q1_0" for use in types) else "Q2_0"
    return names.get(number, f"unknown file type {number}") + guessed


def tensor_groups(tensors: Iterable[TensorInfo]) -> tuple[TensorGroup, ...]:
    """Tensors of equal name (but for the layer), shape and type taken together, in the order of the file."""
    members: dict[str, dict[tuple[tuple[int, ...], QuantType], list[TensorInfo]]] = {}
    for tensor in tensors:
        layer = layer_of(tensor.name)
        pattern = tensor.name if layer is None else _starred(tensor.name, *layer)
        members.setdefault(pattern, {}).setdefault((tensor.shape, tensor.type), []).append(tensor)
    return tuple(
        TensorGroup(pattern, shape, type, _layers(held), len(held), sum(t.nbytes for t in held))
        for pattern, kinds in members.items()
        for (shape, type), held in kinds.items()
    )


def _starred(name: str, prefix: str, layer: int) -> str:
    rest = name[len(prefix) + 1 :].partition(".")[2]
    return f"{prefix}.*.{rest}"


def _layers(tensors: Iterable[TensorInfo]) -> tuple[int, ...]:
    found = (layer_of(tensor.name) for tensor in tensors)
    return tuple(sorted(layer[1] for layer in found if layer is not None))


def as_json(found: ModelInfo) -> dict[str, Any]:
    """Everything that ``found`` says as data that JSON can hold: all metadata with their exact types, all tensors.

    Shapes are in numpy order, the row length last. Numbers that JSON lacks become the texts NaN, Infinity, -Infinity.
    """
    number = found.metadata.get("general.file_type")
    return {
        "path": str(found.path),
        "version": found.version,
        "alignment": found.alignment,
        "files": [{"path": str(s.path), "bytes": s.size, "data_start": s.data_start} for s in found.shards],
        "architecture": found.architecture,
        "name": found.name,
        "file_type": {"name": found.file_type, "number": number} if found.file_type else None,
        "n_tensors": len(found.tensors),
        "n_elements": found.n_elements,
        "tensor_bytes": found.nbytes,
        "file_bytes": found.file_bytes,
        "bpw": found.bpw,
        "approximate": found.approximate,
        "damage": list(found.damage),
        "types": [
            {"type": u.type.name, "id": u.type.id, "n_tensors": u.n_tensors, "n_elements": u.n_elements}
            | {"bytes": u.nbytes, "bpw": u.bpw}
            for u in found.types
        ],
        "metadata": {key: _entry(value) for key, value in found.metadata.entries()},
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type.name, "type_id": t.type.id, "shard": t.shard}
            | {"offset": t.offset, "bytes": t.nbytes, "exact": t.exact}
            for t in found.tensors
        ],
    }


def _entry(value: MetaValue) -> dict[str, Any]:
    held = value.value
    if value.element_type is None:
        return {"type": value.type.name.lower(), "value": json_number(held)}
    floats = value.element_type in (ValueType.F32, ValueType.F64)
    elements = [json_number(v) for v in held] if floats else held
    return {"type": "array", "element_type": value.element_type.name.lower(), "value": elements}


def json_number(value: Any) -> Any:
    """The value, or the text NaN, Infinity or -Infinity for a number that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
