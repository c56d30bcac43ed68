"""Per-layer metadata: what of a file's keys belongs to its layers, and how a changed value is written back.

Loaders read some arrays while the number of next-token layers x is still unknown, so these have n entries; others
have n - x. Both are cut by the original index of the layer. Types of values and of elements are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gguftool.format.metadata import SIZES, Metadata, MetaValue, ValueType
from gguftool.plan.periods import Stack, Value
from gguftool.plan.shrink import LOOSE_ARRAYS, OPEN_ENDED, STRICT_ARRAYS, filtered

#: Arrays of any length that have nothing to do with the layers of this model.
_NOT_LAYERS = (
    "rope.dimension_sections",
    "target_layers",
    "classifier.output_labels",
)
_FOREIGN = ("general.", "tokenizer.", "adapter.", "split.", "quantize.", "clip.", "gguftool.", "imatrix.")
_NUMBERS = frozenset(SIZES)
_BY_NUMBER = ("ple.layers", "hrm.layers_per_stack")


def stack_of(metadata: Metadata, arch: str, n: int, x: int) -> Stack:
    """The facts of the metadata that kinds of layers can hang on, decoded."""
    keys: dict[str, Value] = {}
    for name, value in metadata.entries():
        key = name.removeprefix(f"{arch}.")
        if key == name:
            continue
        if value.type in _NUMBERS or (key in STRICT_ARRAYS | LOOSE_ARRAYS and _is_numeric_array(value)):
            keys[key] = tuple(value.value) if value.type == ValueType.ARRAY else value.value
    tokens = metadata.entry("tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in metadata else None
    if "vocab_size" not in keys and tokens is not None and tokens.count is not None:
        keys["vocab_size"] = tokens.count
    return Stack(arch, n, x, keys)


def _is_numeric_array(value: MetaValue) -> bool:
    return value.type == ValueType.ARRAY and value.element_type in _NUMBERS


def per_layer_arrays(metadata: Metadata, stack: Stack) -> Iterator[tuple[str, MetaValue, str]]:
    """Every array with one entry per layer, or maybe so: name, value, and "known", "unknown" or "wrong length"."""
    lengths = (stack.n, stack.n - stack.x)
    for name, value in metadata.entries():
        if value.type != ValueType.ARRAY or name.startswith(_FOREIGN):
            continue
        key = name.removeprefix(f"{stack.arch}.")
        if key in _NOT_LAYERS or key.startswith("adapters.") or "vision" in key:
            continue
        if key in LOOSE_ARRAYS and _is_numeric_array(value):
            yield name, value, "known"
        elif key in STRICT_ARRAYS or key.startswith("xielu."):
            yield name, value, "known" if value.count in lengths else "wrong length"
        elif value.count in lengths:
            yield name, value, "unknown"


def layers_by_number(metadata: Metadata, arch: str) -> tuple[str, ...]:
    """Keys that name or count layers in ways that nothing here follows."""
    return tuple(f"{arch}.{key}" for key in _BY_NUMBER if f"{arch}.{key}" in metadata)


def cut_array(name: str, value: MetaValue, stack: Stack, dropped: frozenset[int]) -> MetaValue:
    """The array without the entries of ``dropped``, all other bytes as they were."""
    assert value.element_type is not None and value.count is not None
    stay = filtered(value.count, dropped, stack.n, open_ended=name.endswith(OPEN_ENDED))
    if value.element_type not in SIZES:
        entries = value.value
        return MetaValue.of([entries[i] for i in stay], ValueType.ARRAY, value.element_type)
    size, body = SIZES[value.element_type], value.raw[12:]
    cut = struct.pack("<iQ", value.element_type, len(stay)) + b"".join(body[i * size : (i + 1) * size] for i in stay)
    return MetaValue(ValueType.ARRAY, cut, value.element_type, len(stay))


def written(value: Value, like: MetaValue | None) -> MetaValue:
    """A number or array of the new stack as a metadata value, of the type that stood there where that fits.

    New numbers are u32 or f32, new arrays are of booleans, which every loader of such keys takes.
    """
    if isinstance(value, tuple):
        if like is not None and like.type == ValueType.ARRAY:
            return MetaValue.of(list(value), ValueType.ARRAY, like.element_type)
        return MetaValue.of([bool(v) for v in value], ValueType.ARRAY, ValueType.BOOL)
    if like is not None and like.type in _NUMBERS:
        return MetaValue.of(value, like.type)
    return MetaValue.of(value, ValueType.F32 if isinstance(value, float) else ValueType.U32)
