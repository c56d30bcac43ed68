"""Importance matrix files built in memory, byte by byte and independently of the package, right or wrong.

``dat([("a.weight", 2, [2.0, 4.0])])`` and ``imatrix_gguf([("a.weight", [8.0, 16.0], [8])])`` hold the same means.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from support_gguf import Tensor, Value, array, gguf, string, u32

F32, F16 = 0, 1
Entry = tuple[str, Sequence[float], Sequence[float]]

#: Six entries whose statistics were computed by llama-imatrix: name, raw sums (matrix after matrix), counts.
VECTORS: tuple[Entry, ...] = (
    ("blk.0.attn_q.weight", (8, 16, 24, 32), (8,)),
    ("blk.1.attn_q.weight", (8, 8, 8, 40), (8,)),
    ("blk.3.attn_q.weight", (1, 2, 3, 100), (8,)),
    ("blk.1.ffn_down_exps.weight", (4, 8, 12, 16, 0, 0, 0, 0, 2, 2, 2, 18), (4, 0, 2)),
    ("blk.2.ffn_down_exps.weight", (8, 8, 8, 8, 3, 3, 3, 3, 1, 1, 1, 1), (4, 1, 1)),
    ("output.weight", (1, 2, 3, 4), (8,)),
)


def floats(values: Sequence[float]) -> bytes:
    return np.asarray(values, "<f4").tobytes()


def dat_entry(name: str | bytes, calls: int, values: Sequence[float], n_values: int | None = None) -> bytes:
    """An entry of the older form; ``n_values`` may lie."""
    raw = name.encode() if isinstance(name, str) else name
    said = len(values) if n_values is None else n_values
    return struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, said) + floats(values)


def dat(
    entries: Sequence[tuple[str | bytes, int, Sequence[float]]],
    *,
    chunks: int | None = 1,
    dataset: str | None = "text.txt",
    n_entries: int | None = None,
) -> bytes:
    """A file of the older form: values are means times calls. ``n_entries`` may lie."""
    body = struct.pack("<i", len(entries) if n_entries is None else n_entries)
    body += b"".join(dat_entry(*entry) for entry in entries)
    if chunks is not None:
        body += struct.pack("<i", chunks)
        if dataset is not None:
            body += struct.pack("<i", len(dataset.encode())) + dataset.encode()
    return body


def pair(name: str, sums: Sequence[float], counts: Sequence[float], n_cols: int | None = None) -> list[Tensor]:
    """The two tensors of an entry, as llama-imatrix lays them out."""
    width = n_cols or max(1, len(sums) // max(1, len(counts)))
    return [
        (f"{name}.in_sum2", [width, max(1, len(sums) // width)], F32, floats(sums)),
        (f"{name}.counts", [1, len(counts)], F32, floats(counts)),
    ]


def keys(**changed: Value | None) -> list[tuple[str, Value]]:
    """The metadata of an importance matrix; ``general_type=None`` drops a key, any other value replaces it."""
    usual: Mapping[str, Value] = {
        "general.type": string("imatrix"),
        "imatrix.datasets": array(8, ["text.txt"]),
        "imatrix.chunk_count": u32(2),
        "imatrix.chunk_size": u32(4),
    }
    given = {name.replace("_", ".", 1): value for name, value in changed.items()}
    merged = {**usual, **given}
    return [(name, value) for name, value in merged.items() if value is not None]


def imatrix_gguf(
    entries: Sequence[Entry], kv: Sequence[tuple[str, Value]] | None = None, extra: Sequence[Tensor] = ()
) -> bytes:
    """A file of the GGUF form from (name, sums, counts), with ``extra`` tensors at its end."""
    tensors = [tensor for entry in entries for tensor in pair(*entry)]
    return gguf(keys() if kv is None else kv, [*tensors, *extra])


def as_dat(entries: Sequence[Entry], chunk_size: int) -> bytes:
    """The entries as llama-imatrix writes them in the older form: experts without tokens filled with 1."""
    rows = []
    for name, sums, counts in entries:
        calls = max(1, -(-int(max(counts)) // chunk_size))
        means = [
            [s / count for s in part] if count else [1.0] * len(part)
            for part, count in zip(np.array_split(np.asarray(sums, np.float64), len(counts)), counts, strict=True)
        ]
        rows.append((name, calls, [m * calls for part in means for m in part]))
    return dat(rows)


def dense_entries(n_layers: int, *, hybrid: int = 0, n_embd: int = 64, n_ff: int = 96, outlier: int = 7) -> list[Entry]:
    """Entries like those of a transformer: q, k, v share an input, gate and up do, one channel stands out everywhere.

    ``hybrid`` layers in a period, the last of them attention, the others linear. Values are those of a fixed seed.
    """
    rng, found = np.random.default_rng(n_layers), list[Entry]()

    def add(layer: int, kinds: Sequence[str], n: int, scale: float) -> None:
        values = np.exp(rng.normal(0, 0.7, n)) * scale
        if n == n_embd:
            values[outlier] = 300 * scale
        found.extend((f"blk.{layer}.{kind}.weight", values, [1000]) for kind in kinds)

    for layer in range(n_layers):
        attention = not hybrid or layer % hybrid == hybrid - 1
        add(
            layer, ("attn_q", "attn_k", "attn_v") if attention else ("attn_qkv", "ssm_alpha"), n_embd, 300.0 + 9 * layer
        )
        add(layer, ("attn_output",) if attention else ("ssm_out",), n_embd, 5.0 + layer)
        add(layer, ("ffn_gate", "ffn_up"), n_embd, 500.0 + 9 * layer)
        add(layer, ("ffn_down",), n_ff, 90.0 * (1000 if layer == 1 else 1))
    return [*found, ("output.weight", np.arange(1.0, n_embd + 1), [1000])]


def expert_entries(
    n_layers: int, n_experts: int, *, unreached: Sequence[tuple[int, int]] = (), n: int = 16
) -> list[Entry]:
    """Entries of experts: gate, up and down of every layer, with token counts; ``unreached`` are (layer, expert)."""
    rng, found = np.random.default_rng(n_experts), list[Entry]()
    for layer in range(n_layers):
        counts = rng.integers(5, 4000, n_experts)
        counts[[expert for at, expert in unreached if at == layer]] = 0
        seen, down = (np.exp(rng.normal(0, 0.7, (n_experts, n))) * counts[:, None] for _ in range(2))
        for kind, values in (("gate", seen), ("up", seen), ("down", down)):
            found.append((f"blk.{layer}.ffn_{kind}_exps.weight", values.ravel(), counts))
    return found
