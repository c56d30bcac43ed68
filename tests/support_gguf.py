"""GGUF files built in memory, byte by byte and independently of the package's writer, right or wrong as a test needs.

    gguf(kv=[("general.architecture", string("llama"))], tensors=[("a", [32, 2], 0, bytes(256))])

``kv`` holds (key, type id and payload), ``tensors`` holds (name, ne as in the file: row length first, type id, data).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

Value = tuple[int, bytes]
Tensor = tuple[str, Sequence[int], int, bytes]

#: struct codes of the value types of fixed size, by id.
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


#: Source of ``peak()``: the most bytes of memory its process had. On Linux not from getrusage, where a child
#: starts with the peak of its parent.
PEAK = """
def peak():
    import resource, sys
    from pathlib import Path
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""


def text(value: str | bytes) -> bytes:
    """A string as the file holds it: length and bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def number(type_id: int, value: float) -> Value:
    return type_id, struct.pack("<" + CODES[type_id], value)


def u16(value: int) -> Value:
    return number(2, value)


def u32(value: int) -> Value:
    return number(4, value)


def i32(value: int) -> Value:
    return number(5, value)


def string(value: str | bytes) -> Value:
    return 8, text(value)


def array(element_type: int, values: Sequence[float | str | bytes], count: int | None = None) -> Value:
    """An array; ``count`` may lie about its length."""
    items = [text(v) if isinstance(v, str | bytes) else struct.pack("<" + CODES[element_type], v) for v in values]
    return 9, struct.pack("<iQ", element_type, len(values) if count is None else count) + b"".join(items)


def pair(key: str | bytes, value: Value) -> bytes:
    return text(key) + struct.pack("<i", value[0]) + value[1]


def record(name: str | bytes, ne: Sequence[int], type_id: int, offset: int, n_dims: int | None = None) -> bytes:
    """A tensor's entry in the header; ``n_dims`` may lie about the number of dimensions."""
    dims = len(ne) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(ne)}qiQ", dims, *ne, type_id, offset)


def pad(raw: bytes, alignment: int) -> bytes:
    return raw + bytes(-len(raw) % alignment)


def gguf(
    kv: Sequence[tuple[str | bytes, Value]] = (),
    tensors: Sequence[Tensor] = (),
    *,
    alignment: int = 32,
    version: int = 3,
    offsets: Sequence[int] | None = None,
    n_kv: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    """The bytes of a whole file. ``alignment`` lays it out; put ``general.alignment`` into ``kv`` yourself.

    ``offsets``, ``n_kv`` and ``n_tensors`` replace what would be right.
    """
    data, right = b"", []
    for _, _, _, payload in tensors:
        right.append(len(data))
        data = pad(data + payload, alignment)
    places = right if offsets is None else list(offsets)
    counts = (len(tensors) if n_tensors is None else n_tensors, len(kv) if n_kv is None else n_kv)
    head = b"GGUF" + struct.pack("<Iqq", version, *counts) + b"".join(pair(k, v) for k, v in kv)
    head += b"".join(record(t[0], t[1], t[2], at) for t, at in zip(tensors, places, strict=True))
    return pad(head, alignment) + data if tensors else head


def split_keys(index: int, count: int, n_tensors: int) -> list[tuple[str, Value]]:
    """The three keys that every shard carries."""
    return [("split.no", u16(index)), ("split.count", u16(count)), ("split.tensors.count", i32(n_tensors))]


def write_shards(folder: Path, stem: str, shards: Sequence[Sequence[Tensor]]) -> list[Path]:
    """A set of shard files; the first one has the model's metadata."""
    total, paths = sum(len(tensors) for tensors in shards), []
    for i, tensors in enumerate(shards):
        kv = [("general.architecture", string("llama"))] if i == 0 else []
        path = folder / f"{stem}-{i + 1:05d}-of-{len(shards):05d}.gguf"
        path.write_bytes(gguf([*kv, *split_keys(i, len(shards), total)], tensors))
        paths.append(path)
    return paths


def big_header(path: Path, n_tensors: int = 1000, n_tokens: int = 256_000, n_merges: int = 280_000) -> None:
    """A file as big models have it, with a long vocabulary; its tensors are a hole, so that it takes no room."""
    kv = [
        ("general.architecture", string("llama")),
        ("llama.block_count", u32(n_tensors // 10)),
        ("tokenizer.ggml.tokens", array(8, [f"token{i:06d}" for i in range(n_tokens)])),
        ("tokenizer.ggml.scores", array(6, [float(-i) for i in range(n_tokens)])),
        ("tokenizer.ggml.token_type", array(5, [1] * n_tokens)),
        ("tokenizer.ggml.merges", array(8, [f"to{i % 997} ken{i}" for i in range(n_merges)])),
    ]
    size = 4096 * 2304
    head = b"GGUF" + struct.pack("<Iqq", 3, n_tensors, len(kv)) + b"".join(pair(k, v) for k, v in kv)
    names = [f"blk.{i // 10}.ffn_{i % 10}.weight" for i in range(n_tensors)]
    head += b"".join(record(name, [4096, 4096], 12, i * size) for i, name in enumerate(names))
    with path.open("wb") as file:
        file.write(pad(head, 32))
        file.truncate(file.tell() + n_tensors * size)
