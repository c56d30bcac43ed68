"""Models of a few hundred kilobytes with random weights, written on the spot, that libllama loads and runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from support_prune import meta

from gguftool.format.metadata import Metadata
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import Model
from gguftool.format.writer import write_gguf

WIDTH, HEADS, HEAD, FFN, WINDOW = 64, 4, 16, 128, 16
Shapes = Mapping[str, tuple[int, ...]]

COMMON_KEYS = {
    "context_length": 512,
    "embedding_length": WIDTH,
    "feed_forward_length": FFN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": 1,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000.0,
}
#: Shapes in numpy order, one name for every layer.
BLOCK: dict[str, tuple[int, ...]] = {
    "attn_norm": (WIDTH,),
    "attn_q": (HEADS * HEAD, WIDTH),
    "attn_k": (HEAD, WIDTH),
    "attn_v": (HEAD, WIDTH),
    "attn_output": (WIDTH, HEADS * HEAD),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (FFN, WIDTH),
    "ffn_up": (FFN, WIDTH),
    "ffn_down": (WIDTH, FFN),
}
POST_NORMS: dict[str, tuple[int, ...]] = {"post_attention_norm": (WIDTH,), "post_ffw_norm": (WIDTH,)}


def write_tiny(
    path: Path, arch: str, n: int, tokenizer_of: Model, keys: Mapping[str, Any], block: Shapes, extra: Shapes
) -> Path:
    """A model of ``n`` layers of the tensors ``block``, with the tokenizer of another file."""
    vocab = len(tokenizer_of.metadata["tokenizer.ggml.tokens"])
    entries = [
        ("general.architecture", meta(arch)),
        (f"{arch}.block_count", meta(n)),
        (f"{arch}.vocab_size", meta(vocab)),
    ]
    entries += [(f"{arch}.{key}", meta(value)) for key, value in {**COMMON_KEYS, **keys}.items()]
    entries += [item for item in tokenizer_of.metadata.entries() if item[0].startswith("tokenizer.")]
    shapes = {"token_embd": (vocab, WIDTH), "output_norm": (WIDTH,), **extra}
    shapes |= {f"blk.{i}.{name}": shape for i in range(n) for name, shape in block.items()}
    rng = np.random.default_rng(7)
    tensors = []
    for name, shape in shapes.items():
        if len(shape) == 1:
            values = (1 + 0.3 * rng.standard_normal(shape)).astype(np.float32)
        else:
            values = (2 * rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float16)
        kind = type_by_name("f32" if values.dtype == np.float32 else "f16")
        tensors.append((f"{name}.weight", values.tobytes(), shape, kind))
    write_gguf(path, Metadata.of(entries), tensors)
    return path
