"""The peer: libllama's own ``llama_model_quantize``, run in a process of its own because it may abort.

``peer_quantize`` writes a file as llama-quantize would. As a script: ``support_peer.py in.gguf out.gguf FTYPE THREADS
[imatrix.gguf [pure]]``; it prints the seconds that the call took.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

#: llama_ftype numbers of the TYPE names that tests use.
FTYPES = {
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20,
    "Q2_K_S": 21, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28,
    "IQ2_M": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38, "NVFP4": 39,
    "Q1_0": 40, "Q2_0": 41,
}  # fmt: skip


def peer_quantize(
    src: Path, dst: Path, file_type: str, *, imatrix: Path | None = None, threads: int = 2, pure: bool = False
) -> float:
    """Seconds that ``llama_model_quantize`` took to write ``dst``; ``pure`` leaves embedding and output at Q8_0."""
    words = [src, dst, FTYPES[file_type], threads, imatrix or "", "pure" if pure else ""]
    command = [sys.executable, __file__, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"llama_model_quantize failed ({done.returncode}): {done.stderr[-400:]}")
    return float(done.stdout.split()[-1])


def _imatrix_entries(path: str) -> list[tuple[bytes, np.ndarray]]:
    from gguf import GGUFReader

    tensors = {t.name: np.array(t.data, dtype=np.float32) for t in GGUFReader(path).tensors}
    found = []
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            counts = tensors[name.removesuffix("in_sum2") + "counts"].reshape(-1, 1)
            means = sums.reshape(len(counts), -1) / np.maximum(counts, 1)
            means[counts[:, 0] == 0] = 1
            found.append((name.removesuffix(".in_sum2").encode(), np.ascontiguousarray(means.ravel(), np.float32)))
    return found


def _run(src: str, dst: str, ftype: str, threads: str, imatrix: str = "", pure: str = "") -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(ftype), int(threads)
    if pure:
        params.pure, params.output_tensor_type, params.token_embedding_type = True, 8, 8
    if imatrix:
        entries = _imatrix_entries(imatrix)
        table = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()
        for slot, (name, values) in zip(table, entries, strict=False):
            slot.name = name
            slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            slot.size = values.size
        params.imatrix = ctypes.cast(table, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    start = time.perf_counter()
    code = llama_cpp.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(params))
    seconds = time.perf_counter() - start
    if code:
        raise SystemExit(code)
    print(f"\n{seconds}")


if __name__ == "__main__":
    _run(*sys.argv[1:])
