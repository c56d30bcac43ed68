"""Time and memory of opening a header with 1,000 tensors and a vocabulary of 256k tokens with merges.

    python tests/bench_reader.py

Limits (warm): 0.3 s and 150 MB for the library in a fresh process, 0.15 s for ``gguftool --help``, 0.5 s for
``gguftool info``. Wall time of whole processes, the least of five runs; memory is the peak of the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support_gguf import PEAK, big_header

_OPEN = """
import sys, time
began = time.perf_counter()
import gguftool
model = gguftool.open_model(sys.argv[1])
took = time.perf_counter() - began
assert len(model.tensors) == 1000 and model.metadata.entry("tokenizer.ggml.merges").count == 280_000
print('{"seconds": %f, "peak": %d}' % (took, peak()))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.gguf"
        big_header(path)
        print(f"header of {path.stat().st_blocks * 512 / 2**20:.1f} MiB")
        os.environ |= {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        runs = [json.loads(_output([sys.executable, "-c", PEAK + _OPEN, str(path)])) for _ in range(5)]
        seconds, peak = min(run["seconds"] for run in runs), max(run["peak"] for run in runs)
        print(f"open_model: {seconds:.3f} s with the import (limit 0.3), {peak / 1e6:.0f} MB peak (limit 150)")
        for words, limit in ((["--help"], 0.15), (["info", str(path)], 0.5), (["info", "--json", str(path)], None)):
            best = min(_timed([sys.executable, "-m", "gguftool", *words]) for _ in range(5))
            print(f"gguftool {' '.join(words[:-1] or words)}: {best:.3f} s" + (f" (limit {limit})" if limit else ""))


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    _output(command)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
