"""What a recipe needs to know about a model: names, shapes and a handful of numbers. Plain data, no file behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gguftool.format.names import layer_of, sort_key
from gguftool.format.quanttypes import QuantType


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor: its name in the output, its shape in numpy order (the last axis is the row), its source type.

    ``source_name`` is the name in the input where layers were pruned or tensors renamed; empty means the same name.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    source_name: str = ""

    @property
    def n_cols(self) -> int:
        """Elements of one row."""
        return self.shape[-1] if self.shape else 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The numbers of a model that mixtures look at.

    ``n_layer`` counts the layers that stay, ``n_layer_source`` those of the input (it tells the size class).
    ``n_head`` and ``n_head_kv`` are those of layer 0; 0 where unknown or, for the latter, where layer 0 has no
    attention. ``n_expert`` is 0 for a dense model.
    """

    architecture: str = ""
    n_layer: int = 0
    n_head: int = 0
    n_head_kv: int = 0
    n_expert: int = 0
    n_vocab: int = 0
    n_embd: int = 0
    n_layer_source: int = 0

    @property
    def gqa(self) -> int:
        """Query heads per key-value head in layer 0, rounded down; 0 without key-value heads."""
        return self.n_head // self.n_head_kv if self.n_head_kv else 0


class NamedShape(Protocol):
    """Whatever has a name and a shape in numpy order: TensorFacts, TensorInfo."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


#: llama-quantize's order of tensors, along which everything is counted.
order_key = sort_key


def block_number(name: str) -> int | None:
    """The layer number of a name that begins with ``blk.<n>.``, else None."""
    found = layer_of(name)
    return found[1] if found and found[0] == "blk" else None


def facts_of(metadata: Mapping[str, Any], tensors: Sequence[NamedShape], n_layer: int | None = None) -> ModelFacts:
    """The facts of a model of any architecture, listed anywhere or not; missing or odd keys are tolerated.

    ``metadata`` is the input's, with overrides applied (they reach the heuristics, as upstream). ``n_layer`` is the
    number of surviving layers; without it the block count of the metadata stands, and where that is missing (mmproj,
    LoRA) the number of layers found in the names.
    """
    arch = metadata.get("general.architecture")
    arch = arch if isinstance(arch, str) else ""

    def number(key: str) -> int | None:
        return _first_int(metadata.get(f"{arch}.{key}"))

    shapes = {t.name: t.shape for t in tensors}
    embedding = shapes.get("token_embd.weight", ())
    blocks = number("block_count")
    if blocks is None:
        blocks = 1 + max((found[1] for found in map(layer_of, shapes) if found), default=-1)
    heads = number("attention.head_count") or 0
    kv_heads = number("attention.head_count_kv")
    vocabulary = number("vocab_size") or (embedding[0] if len(embedding) == 2 else 0)
    return ModelFacts(
        architecture=arch,
        n_layer=blocks if n_layer is None else n_layer,
        n_head=heads,
        n_head_kv=heads if kv_heads is None else kv_heads,
        n_expert=number("expert_count") or 0,
        n_vocab=vocabulary,
        n_embd=number("embedding_length") or (embedding[-1] if embedding else 0),
        n_layer_source=blocks,
    )


def _first_int(value: Any) -> int | None:
    """A non-negative whole number, or the first one of a per-layer list; None for anything else."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value
