"""Time and memory of all statistics of importance matrices as big models have them, every column of every tensor.

    python tests/bench_imatrix_stats.py

* 70B: 80 layers of seven tensors, up to 28,672 channels, in both forms. Limit: 1 s.
* 256 experts: 60 layers of gate, up and down with 256 x 7,168 channels each, 1.3 GB. Limits: 20 s and 600 MB.

The files are made first, with real ones' duplicates: q, k and v share an input, and so do gate and up. Then each is
opened in a fresh process that computes the frames of tensors and layers. Wall and CPU time are of that work, without
the interpreter's start and the import of pandas; memory is the peak of the whole process. The least of three runs.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from support_gguf import PEAK
from support_imatrix import dat_entry
from support_models import F32, text, u32

from gguftool.format.layout import padded, tensor_offsets
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.writer import encode_header

_RUN = """
import json, sys, time
import pandas
import gguftool
wall, cpu = time.perf_counter(), time.process_time()
imatrix = gguftool.open_imatrix(sys.argv[1])
tensors, layers = imatrix.stats(), imatrix.layers()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert len(tensors) == int(sys.argv[2]) and tensors.duplicate_of.notna().any() and layers.gain.notna().any()
print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak()}))
"""

Entry = tuple[str, int, int, int]


def dense(n_layer: int = 80, width: int = 8192, ff: int = 28_672) -> list[Entry]:
    """(name, n_mat, n_cols, number of its input) of a llama of 70B."""
    inputs = {"attn_q": 0, "attn_k": 0, "attn_v": 0, "attn_output": 1, "ffn_gate": 2, "ffn_up": 2, "ffn_down": 3}
    return [
        (f"blk.{layer}.{kind}.weight", 1, ff if kind == "ffn_down" else width, 4 * layer + number)
        for layer in range(n_layer)
        for kind, number in inputs.items()
    ]


def experts(n_layer: int = 60, n_expert: int = 256, width: int = 7168) -> list[Entry]:
    """The same of a mixture of experts."""
    inputs = {"gate": 0, "up": 0, "down": 1}
    return [
        (f"blk.{layer}.ffn_{kind}_exps.weight", n_expert, width, 2 * layer + number)
        for layer in range(n_layer)
        for kind, number in inputs.items()
    ]


def values(entry: Entry, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Sums of squares [n_mat, n_cols] with outlier channels, the same for every tensor of one input."""
    _, n_mat, n_cols, number = entry
    rng = np.random.default_rng(number)
    profile = rng.lognormal(0, 1.5, n_cols).astype(np.float32)
    noise = rng.random((n_mat, n_cols), np.float32) + np.float32(0.5)
    return np.asarray(noise * profile * counts[:, None].astype(np.float32), np.float32)


def counts_of(entry: Entry) -> npt.NDArray[np.int64]:
    """Tokens of each matrix; of many, the last two got none in every fifth input."""
    _, n_mat, _, number = entry
    counts = np.random.default_rng(number).integers(500, 20_000, n_mat)
    if n_mat > 8 and number % 5 == 0:
        counts[-2:] = 0
    return counts


def write_gguf_form(path: Path, entries: list[Entry]) -> None:
    keys = {"general.type": text("imatrix"), "imatrix.chunk_count": u32(200), "imatrix.chunk_size": u32(512)}
    keys["imatrix.datasets"] = MetaValue.of(["text.txt"], ValueType.ARRAY, ValueType.STRING)
    shapes = [shape for entry in entries for shape in ((entry[1], entry[2]), (entry[1], 1))]
    names = [f"{entry[0]}.{suffix}" for entry in entries for suffix in ("in_sum2", "counts")]
    offsets, _ = tensor_offsets([F32.nbytes(shape) for shape in shapes], 32)
    infos = [(name, shape, F32, at) for name, shape, at in zip(names, shapes, offsets, strict=True)]
    with path.open("wb") as file:
        file.write(encode_header(Metadata.of(list(keys.items())), infos, 32))
        for part in _parts(entries):
            file.write(part + bytes(padded(len(part), 32) - len(part)))


def _parts(entries: list[Entry]) -> Iterator[bytes]:
    for entry in entries:
        counts = counts_of(entry)
        yield values(entry, counts).tobytes()
        yield counts.astype(np.float32).tobytes()


def write_older_form(path: Path, entries: list[Entry]) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for entry in entries:
            counts = counts_of(entry)
            means = values(entry, counts) / np.maximum(counts, 1)[:, None]
            file.write(dat_entry(entry[0], 200, (means * 200).ravel()))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.imatrix"
        for title, write, entries, limits in (
            ("70B, GGUF", write_gguf_form, dense(), "limit 1 s"),
            ("70B, older form", write_older_form, dense(), "limit 1 s"),
            ("256 experts", write_gguf_form, experts(), "limits 20 s, 600 MB"),
        ):
            write(path, entries)
            command = [sys.executable, "-c", PEAK + _RUN, str(path), str(len(entries))]
            runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
            wall, cpu, peak = (min(run[key] for run in runs) for key in ("wall", "cpu", "peak"))
            size = path.stat().st_size
            print(
                f"{title}: {len(entries)} tensors, {size / 1e6:.0f} MB: {wall:.2f} s wall, {cpu:.2f} s CPU, "
                f"peak {peak / 1e6:.0f} MB ({limits})",
                flush=True,
            )


if __name__ == "__main__":
    main()
