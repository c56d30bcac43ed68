"""Whole runs against the peer: ``python tests/bench_quantize.py [GB] [TYPE ...]``; prints seconds and ratios.

A synthetic F16 llama (1.2 GB by default) in the page cache, 2 threads, nobody waits for the disk. Each program runs in
a process of its own; the seconds are those of the call (``quantize``) or of the process (``copy`` against ``cp``). The
best of two rounds counts. Also printed: the peak memory of our process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from support_models import F16, F32, shapes, u32, write_imatrix  # noqa: E402
from support_peer import peer_quantize  # noqa: E402

from gguftool.format.reader import open_model  # noqa: E402
from gguftool.format.writer import encode_header, tensor_offsets  # noqa: E402

WIDTH, FF = 2048, 8192
OURS = """
import re, sys, time
from pathlib import Path
import gguftool
src, dst, kind, effort, imatrix = sys.argv[1:6]
start = time.perf_counter()
gguftool.quantize(src, dst, kind, imatrix=imatrix or None, effort=effort, threads=2, sync=False)
seconds = time.perf_counter() - start
print(seconds, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000)
"""


def write_source(path: Path, gigabytes: float) -> dict[str, tuple[int, ...]]:
    """A llama that libllama takes, with the example's vocabulary and heavy-tailed weights."""
    per_layer = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * FF)
    n_layer = max(1, round(gigabytes * 1e9 / per_layer))
    with open_model(REPO / "examples" / "prose-llama-11m-f16.gguf") as example:
        metadata = example.metadata.replaced(
            {
                "llama.block_count": u32(n_layer),
                "llama.embedding_length": u32(WIDTH),
                "llama.feed_forward_length": u32(FF),
                "llama.attention.head_count": u32(16),
                "llama.attention.head_count_kv": u32(16),
                "llama.rope.dimension_count": u32(WIDTH // 16),
            }
        )
        vocab = example.tensor("token_embd.weight").shape[0]
    found = shapes(n_layer, WIDTH, FF, vocab)
    kinds = {name: F32 if len(shape) == 1 else F16 for name, shape in found.items()}
    sizes = [kinds[name].nbytes(shape) for name, shape in found.items()]
    offsets, _ = tensor_offsets(sizes, 32)
    header = encode_header(
        metadata, [(n, s, kinds[n], o) for (n, s), o in zip(found.items(), offsets, strict=True)], 32
    )
    pool = (np.random.default_rng(0).standard_t(5, 1 << 24) * 0.02).astype(np.float16)
    with open(path, "wb") as file:
        file.write(header)
        for number, (name, size) in enumerate(zip(found, sizes, strict=True)):
            rolled = np.roll(pool, 7919 * number)
            values = rolled[: size // 2] if kinds[name] is F16 else np.abs(rolled[: size // 4]).astype(np.float32)
            file.write(values.tobytes())
    return found


def ours(src: Path, dst: Path, kind: str, effort: str, imatrix: Path | None) -> tuple[float, float]:
    dst.unlink(missing_ok=True)
    line = [sys.executable, "-c", OURS, str(src), str(dst), kind, effort, str(imatrix or "")]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory)


def timed(cache: Path, *line: str) -> float:
    """Seconds of a process; Python modules come compiled, as they do where the package is installed."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONPYCACHEPREFIX": str(cache)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True, env=env)
    return time.perf_counter() - start


def main(words: list[str]) -> None:
    gigabytes = float(words[0]) if words else 1.2
    kinds = words[1:] or ["Q4_K_M", "Q8_0", "copy"]
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        src, out, peer_out = folder / "src.gguf", folder / "ours.gguf", folder / "peer.gguf"
        found = write_source(src, gigabytes)
        imatrix = write_imatrix(folder / "i.gguf", found)
        print(f"source: {src.stat().st_size / 1e9:.2f} GB, {len(found)} tensors")
        for kind in kinds:
            if kind == "copy":
                copy_rounds(src, out)
                continue
            importance = None if kind == "Q8_0" else imatrix
            before = cpu_seconds()
            peer = min(peer_quantize(src, peer_out, kind, imatrix=importance) for _ in range(2))
            peer_cpu = (cpu_seconds() - before) / 2
            print(f"{kind}: llama_model_quantize {peer:.2f} s, {peer_cpu:.2f} s of processor")
            for effort in ("default", "fast") if importance else ("default",):
                before = cpu_seconds()
                seconds, memory = min(ours(src, out, kind, effort, importance) for _ in range(2))
                cpu = (cpu_seconds() - before) / 2
                print(
                    f"{kind}: ours, {effort}: {seconds:.2f} s, {peer / seconds:.2f}x; {cpu:.2f} s of processor, "
                    f"{peer_cpu / cpu:.2f}x; peak {memory:.0f} MB"
                )


def cpu_seconds() -> float:
    """Processor time of all finished child processes: what a busy machine does not spoil."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def copy_rounds(src: Path, out: Path) -> None:
    main_call = "from gguftool.cli.main import main; main()"
    best: dict[str, float] = {}
    for _ in range(3):
        for label, line in {
            "cp": ["cp", str(src), str(out)],
            "copy --no-sync": [
                sys.executable,
                "-c",
                main_call,
                "copy",
                str(src),
                str(out),
                "--no-sync",
                "--threads",
                "2",
            ],
            "cp and sync": ["sh", "-c", f"cp '{src}' '{out}' && sync '{out}'"],
            "copy": [sys.executable, "-c", main_call, "copy", str(src), str(out), "--threads", "2"],
        }.items():
            out.unlink(missing_ok=True)
            best[label] = min(best.get(label, 1e9), timed(out.with_name("pyc"), *line))
    for label, seconds in best.items():
        print(f"{label}: {seconds:.2f} s, {seconds / best['cp']:.2f} of cp")


if __name__ == "__main__":
    main(sys.argv[1:])
