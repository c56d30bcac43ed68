"""Small models and importance matrices on disk, for the tests of plans, runs, verbs and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.names import shard_path
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import open_model
from gguftool.format.writer import write_gguf

F32, F16 = type_by_name("f32"), type_by_name("f16")


def u32(value: int) -> MetaValue:
    return MetaValue.of(value, ValueType.U32)


def text(value: str) -> MetaValue:
    return MetaValue.of(value, ValueType.STRING)


def shapes(n_layer: int, width: int, ff: int, vocab: int, n_expert: int = 0) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a llama: matrices end in two or three numbers, norms in one."""
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, width),
        "output_norm.weight": (width,),
        "output.weight": (vocab, width),
    }
    for layer in range(n_layer):
        p = f"blk.{layer}."
        found |= {p + "attn_norm.weight": (width,), p + "ffn_norm.weight": (width,)}
        found |= {p + f"attn_{x}.weight": (width, width) for x in ("q", "k", "v", "output")}
        for kind, shape in {"gate": (ff, width), "up": (ff, width), "down": (width, ff)}.items():
            name = f"{p}ffn_{kind}{'_exps' if n_expert else ''}.weight"
            found[name] = (n_expert, *shape) if n_expert else shape
    return found


def keys(n_layer: int, width: int, ff: int, **more: MetaValue) -> Metadata:
    """The metadata of a llama without a vocabulary."""
    base = {
        "general.architecture": text("llama"),
        "general.name": text(""),
        "llama.block_count": u32(n_layer),
        "llama.embedding_length": u32(width),
        "llama.feed_forward_length": u32(ff),
        "llama.attention.head_count": u32(4),
        "llama.attention.head_count_kv": u32(4),
    }
    return Metadata.of([*base.items(), *more.items()])


def write_model(
    path: Path,
    *,
    n_layer: int = 3,
    width: int = 256,
    ff: int = 512,
    vocab: int = 64,
    n_expert: int = 0,
    seed: int = 0,
    alignment: int = 32,
    more: Mapping[str, MetaValue] | None = None,
) -> Path:
    """An F16 llama with F32 norms and random, heavy-tailed matrices."""
    rng = np.random.default_rng(seed)
    tensors = []
    for name, shape in shapes(n_layer, width, ff, vocab, n_expert).items():
        values = rng.standard_t(5, shape) * 0.05
        kind = F32 if len(shape) == 1 else F16
        tensors.append((name, values.astype(np.float32 if kind is F32 else np.float16), shape, kind))
    extra = dict(more or {})
    if alignment != 32:
        extra["general.alignment"] = u32(alignment)
    write_gguf(path, keys(n_layer, width, ff, **extra), tensors, alignment)
    return path


def write_imatrix(
    path: Path, model_shapes: Mapping[str, tuple[int, ...]], *, seed: int = 1, skip: str = "output"
) -> Path:
    """An importance matrix for all matrices but those whose name begins with ``skip``."""
    rng = np.random.default_rng(seed)
    tensors = []
    for name, shape in model_shapes.items():
        if len(shape) < 2 or name.startswith(skip):
            continue
        n_mat = shape[0] if len(shape) == 3 else 1
        sums = (rng.lognormal(0, 1, (n_mat, shape[-1])) * 7).astype(np.float32)
        tensors.append((f"{name}.in_sum2", sums, sums.shape, F32))
        tensors.append((f"{name}.counts", np.full((n_mat, 1), 7, np.float32), (n_mat, 1), F32))
    metadata = Metadata.of(
        [
            ("general.type", text("imatrix")),
            ("imatrix.datasets", MetaValue.of(["first.txt", "second.txt"], ValueType.ARRAY, ValueType.STRING)),
            ("imatrix.chunk_count", u32(5)),
            ("imatrix.chunk_size", u32(512)),
        ]
    )
    write_gguf(path, metadata, tensors)
    return path


def split_model(folder: Path, count: int, n_layer: int = 3, alignment: int = 32) -> Path:
    """A model in ``count`` shards, tensors dealt in file order; the path of the second one."""
    whole = write_model(folder / "whole.gguf", n_layer=n_layer, alignment=alignment)
    with open_model(whole) as model:
        tensors = [(t.name, model.read(t), t.shape, t.type) for t in model.tensors]
        metadata = model.metadata
    size = -(-len(tensors) // count)
    others = metadata.replaced({key: None for key in metadata if key != "general.alignment"})
    for no in range(count):
        split = {
            "split.no": MetaValue.of(no, ValueType.U16),
            "split.count": MetaValue.of(count, ValueType.U16),
            "split.tensors.count": MetaValue.of(len(tensors), ValueType.I32),
        }
        keys_of_shard = (others if no else metadata).replaced(split)
        write_gguf(shard_path(folder / "m", no, count), keys_of_shard, tensors[no * size : (no + 1) * size], alignment)
    return shard_path(folder / "m", 1, count)
