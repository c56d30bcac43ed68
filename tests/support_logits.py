"""Logits of GGUF files by libllama, in a process of its own, because libllama may abort.

Run as a program: arguments are the files; each line of output is a JSON object with the file and "ok" or an error, the
logits lie beside the file as ``.npy``. A file without a line is the one that took the process down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

#: Longer than the window of the models in question (16), from the byte tokens all of them have.
TOKENS = 58
TIMEOUT = 600


def logits_of(paths: Sequence[Path]) -> dict[Path, npt.NDArray[np.float32] | str]:
    """For each file its logits [58, n_vocab], or why there are none ("aborted" if the process died over it)."""
    found: dict[Path, npt.NDArray[np.float32] | str] = {}
    waiting = list(paths)
    while waiting:
        command = [sys.executable, __file__, *map(str, waiting)]
        quiet = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=quiet)
        for line in done.stdout.splitlines():
            if not line.startswith("{"):
                continue  # last words of a dying process
            answer = json.loads(line)
            path = Path(answer["path"])
            found[path] = np.load(path.with_suffix(".npy")) if answer["said"] == "ok" else str(answer["said"])
        left = [path for path in waiting if path not in found]
        if left and done.returncode > 0:
            raise AssertionError(done.stderr)
        if left:
            found[left[0]] = "aborted"
        waiting = left[1:]
    return found


def _main(paths: Sequence[str]) -> None:
    from gguftool.llama.runtime import RuntimeFailure, load

    for path in paths:
        said = "ok"
        try:
            with load(path, n_ctx=64, threads=1) as runtime:
                tokens = np.arange(TOKENS, dtype=np.int32) * 37 % 250 + 3
                np.save(Path(path).with_suffix(".npy"), runtime.logits(tokens, 0))
        except RuntimeFailure as failure:
            said = str(failure)
        print(json.dumps({"path": path, "said": said}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    _main(sys.argv[1:])
