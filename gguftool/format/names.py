"""Names of tensors and of shard files: what they say, how a layer's number is changed in them, layers for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_LAYER = re.compile(r"^((?:.*?\.)?blk)\.(0|[1-9][0-9]*)\.")
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


def layer_of(name: str) -> tuple[str, int] | None:
    """(stack prefix, layer number) of a tensor in a block: ("blk", 3), ("enc.blk", 3); None outside of blocks."""
    found = _LAYER.match(name)
    return (found[1], int(found[2])) if found else None


def rename_layer(name: str, new: int) -> str:
    """The name with its layer number replaced; unchanged if it has none."""
    found = _LAYER.match(name)
    return name if found is None else f"{found[1]}.{new}.{name[found.end() :]}"


def tensor_kind(name: str) -> str:
    """What a tensor is, whatever its layer: ``blk.3.attn_q.weight`` -> ``attn_q``, ``output.weight`` -> ``output``."""
    found = _LAYER.match(name)
    return (name[found.end() :] if found else name).removesuffix(".weight")


def place_of(name: str) -> tuple[str, int | None, str]:
    """(stack, layer, kind), the kind with its stack if that is not "blk"; ("", None, kind) outside of blocks."""
    stack, layer = layer_of(name) or ("", None)
    return stack, layer, f"{stack.removesuffix('blk')}{tensor_kind(name)}"


def sort_key(name: str) -> tuple[int, str]:
    """llama-quantize's order of tensors: by the number of a leading ``blk.``, -1 for all others, then by name."""
    found = layer_of(name)
    return (found[1] if found and found[0] == "blk" else -1, name)


def shard_path(prefix: str | Path, index: int, count: int) -> Path:
    """The file name of shard ``index`` (from 0) of ``count``."""
    return Path(f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf")


def parse_shard_name(path: str | Path) -> tuple[str, int, int] | None:
    """(prefix, index from 0, count) of a shard's file name, or None if it is not one."""
    found = _SHARD.fullmatch(Path(path).name)
    if found is None:
        return None
    index, count = int(found[2]) - 1, int(found[3])
    return (str(Path(path).with_name(found[1])), index, count) if 0 <= index < count else None


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order the short way: 0-3,7,10-11."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
