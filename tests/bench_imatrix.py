"""Time and memory of converting, merging, repairing, comparing and checking importance matrices of big models.

    python tests/bench_imatrix.py

The files are those of bench_imatrix_stats: a 70B model (560 tensors, up to 28,672 channels) and a mixture of 60 layers
with 3 x 256 experts of 7,168 channels, 1.3 GB, of which some experts were never reached. Every job runs in a fresh
process: wall and CPU time of it without the interpreter's start, and the peak memory of the whole process (limit
600 MB). Writing 1.3 GB and waiting for the disk to have it is part of the wall time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_imatrix_stats import dense, experts, write_gguf_form
from support_gguf import PEAK

_RUN = """
import json, sys, time
from pathlib import Path
from gguftool.verbs.imatrix_coverage import imatrix_coverage
from gguftool.verbs.imatrix_diff import imatrix_difference
from gguftool.verbs.imatrix_files import convert_imatrix, merge_imatrices
from gguftool.verbs.imatrix_repair import repair_imatrix
from gguftool.verbs.imatrix_show import show_imatrix
job, a, b, out, older = sys.argv[1], *map(Path, sys.argv[2:])
jobs = {
    "show": lambda: show_imatrix(a),
    "coverage": lambda: imatrix_coverage(a),
    "convert to .dat": lambda: convert_imatrix(a, older, overwrite=True),
    "convert to .gguf": lambda: convert_imatrix(older, out, experts=256, overwrite=True),
    "merge": lambda: merge_imatrices([a, b], out, overwrite=True),
    "repair": lambda: repair_imatrix(a, out, overwrite=True),
    "diff": lambda: imatrix_difference(a, b),
}
if job == "list":
    print(json.dumps(list(jobs)))
    raise SystemExit
wall, cpu = time.perf_counter(), time.process_time()
jobs[job]()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak()}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [str(folder / file) for file in ("a.gguf", "b.gguf", "out.gguf", "out.dat")]
        for title, entries in (("70B", dense()), ("256 experts", experts())):
            for file, shift in zip(files, (0, 1), strict=False):
                moved = [(entry, n_mat, n_cols, number + shift) for entry, n_mat, n_cols, number in entries]
                write_gguf_form(Path(file), moved)
            print(f"{title}: {len(entries)} tensors, {Path(files[0]).stat().st_size / 1e6:.0f} MB")
            for job in _run("list", *files):
                found = _run(job, *files)
                print(f"  {job:16} {found['wall']:6.2f} s wall {found['cpu']:6.2f} s CPU {found['peak'] / 1e6:4.0f} MB")
                sys.stdout.flush()


def _run(job: str, *files: str) -> dict[str, float]:
    command = [sys.executable, "-c", PEAK + _RUN, job, *files]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
