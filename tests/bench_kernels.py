"""Speed and error of the kernels against libggml's, as a table: one thread, CPU time, both in the same run.

    python tests/bench_kernels.py --markdown

Error is the ratio of ours to the reference on the golden sets (``golden_ratios``: rel_wmse with the imatrix, rel_mse
without). Speed is the ratio of ggml_quantize_chunk's CPU time to ours for the same rows (Student-t, 4096 columns),
per instruction set; for f16 and bf16 the peer is memcpy of the float32 rows. Decoding is against ggml's to_float.
Every figure is the best of several alternating runs, because the machine may be shared.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from support_golden import FLOATS, KQUANTS, LEGACY, golden_ratios

from gguftool import _native
from gguftool.codecs import dispatch
from gguftool.format.quanttypes import QuantType, type_by_name

N_COLS = 4096
SHARED = Path(__file__).resolve().parents[2] / "shared"


class TypeTraits(ctypes.Structure):
    """The head of ggml's struct ggml_type_traits."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def load_libggml() -> ctypes.CDLL:
    """libggml-base of llama-cpp-python, with the prototypes that are used here."""
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    found = sorted(folder.glob("libggml-base.*"))
    lib = ctypes.CDLL(str(found[0]))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    lib.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    lib.ggml_get_type_traits.argtypes = (ctypes.c_int,)
    return lib


def pair_ratio(ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> float:
    """Their best CPU time over ours, the runs taking turns."""
    best = [float("inf"), float("inf")]
    for _ in range(runs):
        for k, call in enumerate((ours, theirs)):
            start = time.thread_time()
            call()
            best[k] = min(best[k], time.thread_time() - start)
    return best[1] / best[0]


def rows_for(t: QuantType, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Student-t rows (4 degrees of freedom, scale 0.02) and a lognormal importance."""
    rng = np.random.default_rng(7)
    x = (0.02 * rng.standard_t(4, (n_rows, N_COLS))).astype(np.float32)
    return x, np.exp(rng.standard_normal(N_COLS)).astype(np.float32)


def encode_ratio(lib: ctypes.CDLL, t: QuantType, imatrix: bool, options: dict[str, str], runs: int) -> float:
    """How many times as fast as libggml (f16, bf16, f32: as memcpy) one thread encodes."""
    is_float = t.kind == "float"
    x, a = rows_for(t, 64 if is_float or t.name == "q8_0" or (not imatrix and t.name in LEGACY) else 8)
    weights = dispatch.prepare_importance(a)[0] if imatrix else None
    out = np.empty((len(x), t.row_nbytes(N_COLS)), np.uint8)
    peer_out = np.empty_like(x) if is_float else np.empty_like(out)
    f32 = type_by_name("f32")

    def ours() -> None:
        dispatch.transcode(x, f32, t, len(x), N_COLS, weights, out, **options)  # type: ignore[arg-type]

    def copy() -> None:
        ctypes.memmove(peer_out.ctypes.data, x.ctypes.data, x.nbytes)

    def theirs() -> None:
        im = a.ctypes.data if imatrix else None
        lib.ggml_quantize_chunk(t.id, x.ctypes.data, peer_out.ctypes.data, 0, len(x), N_COLS, im)

    return pair_ratio(ours, copy if is_float else theirs, runs)


def decode_ratio(lib: ctypes.CDLL, t: QuantType, runs: int) -> float:
    """How many times as fast as ggml's to_float (f32: as memcpy) one thread decodes."""
    x, _ = rows_for(t, 16)
    blocks = np.empty((len(x), t.row_nbytes(N_COLS)), np.uint8)
    if t.name in FLOATS:
        blocks = dispatch.encode(x, t)
    else:
        lib.ggml_quantize_chunk(t.id, x.ctypes.data, blocks.ctypes.data, 0, len(x), N_COLS, None)
    out, peer_out = np.empty_like(x), np.empty_like(x)
    to_float = lib.ggml_get_type_traits(t.id).contents.to_float

    def ours() -> None:
        for _ in range(8):
            _native.decode(t.id, blocks, len(x), N_COLS, out)

    def theirs() -> None:
        for _ in range(8):
            if t.name == "f32":
                ctypes.memmove(peer_out.ctypes.data, blocks.ctypes.data, blocks.nbytes)
            else:
                to_float(blocks.ctypes.data, peer_out.ctypes.data, x.size)

    return pair_ratio(ours, theirs, 4 * runs)


def measure(names: list[str], isas: list[str], options: dict[str, str], runs: int) -> Iterator[dict[str, Any]]:
    """One row of figures per type."""
    lib = load_libggml()
    golden = (SHARED / "golden").is_dir()
    for name in names:
        t = type_by_name(name)
        row: dict[str, Any] = {"type": t.name}
        both = t.name in KQUANTS or t.name in LEGACY[:-1]
        for imatrix in (True, False) if both else (False,):
            if not dispatch.can_encode(t):
                break
            label = "im" if imatrix else "noim"
            if golden and t.name not in FLOATS:
                row |= {f"error {label} {k}": v for k, v in golden_ratios(SHARED, name, imatrix, **options).items()}
            for isa in isas:
                _native.use(isa)
                row[f"speed {label} {isa}"] = encode_ratio(lib, t, imatrix, options, runs)
        for isa in isas:
            _native.use(isa)
            row[f"decode {isa}"] = decode_ratio(lib, t, runs)
        yield row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as one table per group of columns (error, speed, decode)."""
    tables = []
    for group in ("error im", "error noim", "speed im", "speed noim", "decode"):
        columns = list(dict.fromkeys(key for row in rows for key in row if key.startswith(group + " ")))
        chosen = [row for row in rows if any(c in row for c in columns)]
        if not columns or not chosen:
            continue
        short = [c.removeprefix(group + " ") for c in columns]
        lines = [f"| {group} | " + " | ".join(short) + " |", "|---|" + "---:|" * len(columns)]
        digits = 4 if group.startswith("error") else 2
        for row in chosen:
            cells = (f"{row[c]:.{digits}f}" if c in row else "-" for c in columns)
            lines.append(f"| {row['type']} | " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join((*FLOATS, *LEGACY, *KQUANTS)))
    parser.add_argument("--isa", default=",".join(_native.isas), help="instruction sets, comma-separated")
    parser.add_argument("--effort", default="default")
    parser.add_argument("--objective", default="imatrix")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--markdown", action="store_true", help="tables (default: one JSON object per type)")
    args = parser.parse_args()
    if os.environ.get("GGUFTOOL_BACKEND") == "numba":
        parser.error("this measures the compiled kernels")
    options = {"effort": args.effort, "objective": args.objective}
    rows = []
    for row in measure(args.types.split(","), args.isa.split(","), options, args.runs):
        rows.append(row)
        if not args.markdown:
            print(json.dumps(row), flush=True)
    if args.markdown:
        print(markdown(rows))


if __name__ == "__main__":
    main()
