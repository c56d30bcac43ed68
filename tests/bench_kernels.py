"""Speed and error of the kernels against libggml's: one thread, CPU time, both in the same run.

    python tests/bench_kernels.py --markdown        the tables of docs/kernels.md: one row per type
    python tests/bench_kernels.py --docs            the same, put into docs/kernels.md at their markers
    python tests/bench_kernels.py                   one JSON object per type

Error is the ratio of ours to the reference on the golden sets (``golden_ratios``: rel_wmse with the imatrix, rel_mse
without; mean of three sets); "same bytes" where there is nothing to compare. Speed is the ratio of the CPU time of
ggml_quantize_chunk to ours for the same rows (Student-t, 4096 columns), an importance given to both where the type
looks at one; for f16 and bf16 the peer is memcpy of the float32 rows. Decoding is against ggml's to_float. The tables
that libggml builds at a type's first use (seconds) are built before. Every figure is the best of several alternating
runs, because the machine may be shared.

The types of ik_llama.cpp stand in a table of their own: their reference is not installed, so the golden files have its
errors, and speeds are over libggml's Q4_K, whose encoder and decoder run beside them.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from support_golden import (
    BLOCKS,
    FLOATS,
    IK,
    LEGACY,
    NEED_IMATRIX,
    SETS,
    golden_blocks,
    golden_inputs,
    golden_ratios,
)
from support_libggml import load_libggml, quantize

from gguftool import _native
from gguftool.codecs import dispatch
from gguftool.format.quanttypes import QuantType, type_by_name

N_COLS = 4096
REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"
#: In front of each table of README.md, by whose types it has.
MARKERS = {
    "ggml": "<!-- the output of: python tests/bench_kernels.py --markdown -->\n",
    "ik": "<!-- its second table: the types of ik_llama.cpp -->\n",
}
NAMES = {"base": "SSE2", "avx2": "AVX2", "avx512": "AVX-512"}

#: What is timed, by name: the instruction set it runs on (None: the peer, whatever it does), and the call.
Calls = dict[str, tuple[str | None, Callable[[], None]]]


def best_times(calls: Calls, runs: int) -> dict[str, float]:
    """The best CPU seconds of each call; they take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(runs):
        for name, (isa, call) in calls.items():
            _native.use(isa)
            start = time.thread_time()
            call()
            best[name] = min(best[name], time.thread_time() - start)
    return best


def rows_for(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Student-t rows (4 degrees of freedom, scale 0.02) and a lognormal importance."""
    rng = np.random.default_rng(7)
    x = (0.02 * rng.standard_t(4, (n_rows, N_COLS))).astype(np.float32)
    return x, np.exp(rng.standard_normal(N_COLS)).astype(np.float32)


def looks_at_importance(t: QuantType) -> bool:
    """Whether our encoder of the type does: for all but the floats, q8_0 and q8_KV."""
    return t.name not in (*FLOATS, "q8_0", "q8_KV")


def family(t: QuantType) -> str:
    """Which table the type stands in."""
    return "ik" if t.runtime == "ik" else "ggml"


def peer_of(t: QuantType) -> QuantType:
    """The type whose encoder and decoder in libggml ours are compared with."""
    return type_by_name("q4_K") if family(t) == "ik" else t


def encode_times(
    lib: ctypes.CDLL, t: QuantType, isas: list[str], options: dict[str, str], runs: int
) -> dict[str, float]:
    """CPU seconds for 1e6 weights: the peer's, ours by instruction set, and with effort "fast" at the best one."""
    is_float = t.name in FLOATS
    x, a = rows_for(64 if is_float or t.name == "q8_0" else 8)
    weights = dispatch.prepare_importance(a)[0] if looks_at_importance(t) else None
    peer = peer_of(t)
    out = np.empty((len(x), t.row_nbytes(N_COLS)), np.uint8)
    peer_out = np.empty_like(x) if is_float else np.empty((len(x), peer.row_nbytes(N_COLS)), np.uint8)
    f32 = type_by_name("f32")

    def ours(words: dict[str, str] = options) -> None:
        dispatch.transcode(x, f32, t, len(x), N_COLS, weights, out, **words)  # type: ignore[arg-type]

    def theirs() -> None:
        if is_float:
            ctypes.memmove(peer_out.ctypes.data, x.ctypes.data, x.nbytes)
        else:
            im = None if weights is None and peer is t else a.ctypes.data
            lib.ggml_quantize_chunk(peer.id, x.ctypes.data, peer_out.ctypes.data, 0, len(x), N_COLS, im)

    calls: Calls = {"peer": (None, theirs)} | {isa: (isa, ours) for isa in isas}
    if not is_float and options["effort"] != "fast":
        calls["fast"] = (isas[-1], functools.partial(ours, options | {"effort": "fast"}))
    return {name: seconds * 1e6 / x.size for name, seconds in best_times(calls, runs).items()}


def random_rows(t: QuantType, n_rows: int) -> np.ndarray:
    """Rows of random codes: what they decode to takes no longer than anything else."""
    rows = np.random.default_rng(9).integers(0, 256, (n_rows, t.row_nbytes(N_COLS)), np.uint8)
    rows[:, : t.row_header] = 0
    return rows


def decode_times(lib: ctypes.CDLL, t: QuantType, isas: list[str], runs: int) -> dict[str, float]:
    """CPU seconds of ggml's to_float (f32: of memcpy) and of ours by instruction set."""
    x, a = rows_for(16)
    peer = peer_of(t)
    theirs_in = dispatch.encode(x, t) if t.name in FLOATS else quantize(lib, peer, x[:1], a).repeat(16, axis=0)
    ours_in = theirs_in if peer is t else random_rows(t, len(x))
    out, peer_out = np.empty_like(x), np.empty_like(x)
    to_float = lib.ggml_get_type_traits(peer.id).contents.to_float

    def ours() -> None:
        for _ in range(8):
            _native.decode(t.id, ours_in, len(x), N_COLS, out)

    def theirs() -> None:
        for _ in range(8):
            if t.name == "f32":
                ctypes.memmove(peer_out.ctypes.data, theirs_in.ctypes.data, theirs_in.nbytes)
            else:
                to_float(theirs_in.ctypes.data, peer_out.ctypes.data, x.size)

    calls: Calls = {"peer": (None, theirs)}
    return best_times(calls | {isa: (isa, ours) for isa in isas}, 2 * runs)


def errors(t: QuantType, options: dict[str, str]) -> dict[str, float | str]:
    """Error ratios by set, and their mean, with an importance ("im ...") and without ("noim ...")."""
    found: dict[str, float | str] = {}
    for label in ("im", "noim"):
        imatrix = label == "im"
        if t.name in FLOATS or (imatrix and not looks_at_importance(t)) or (not imatrix and t.name in NEED_IMATRIX):
            continue
        if not imatrix and same_bytes(t.name, options):
            found[f"{label} mean"] = "same bytes"
        else:
            found |= {f"{label} {k}": v for k, v in golden_ratios(SHARED, t.name, imatrix, **options).items()}
    return found


def same_bytes(name: str, options: dict[str, str]) -> bool:
    """Whether our blocks are the reference's on all sets, without an importance."""
    inputs, golden = golden_inputs(SHARED), golden_blocks(SHARED, name)
    return all(
        dispatch.encode(inputs[key], name, **options).tobytes() == golden[f"q_{key}_noim"].tobytes()  # type: ignore[arg-type]
        for key in SETS
    )


def measure(names: list[str], isas: list[str], options: dict[str, str], runs: int) -> Iterator[dict[str, Any]]:
    """One row of figures per type."""
    lib = load_libggml()
    for name in names:
        t = type_by_name(name)
        row: dict[str, Any] = {"type": t.name, "bpw": t.bpw}
        if dispatch.can_encode(t):
            lib.ggml_quantize_init(peer_of(t).id)
            if (SHARED / "golden").is_dir():
                row |= {f"error {key}": value for key, value in errors(t, options).items()}
            times = encode_times(lib, t, isas, options, runs)
            row |= {f"speed {key}": times["peer"] / times[key] for key in times if key != "peer"}
            row["Mw/s"] = 1 / times[isas[-1]]
        if dispatch.can_decode(t):
            times = decode_times(lib, t, isas, runs)
            row |= {f"decode {key}": times["peer"] / times[key] for key in times if key != "peer"}
        _native.use(None)
        yield row


def markdown(rows: list[dict[str, Any]], isas: list[str]) -> dict[str, str]:
    """Tables of the rows, by whose types they have."""
    best = NAMES[isas[-1]]
    columns = {
        "bpw": ("bpw", ".4g"),
        "error im mean": ("error, imatrix", ".3f"),
        "error noim mean": ("error, none", ".3f"),
    }
    columns |= {f"speed {isa}": (f"speed {NAMES[isa]}", ".1f") for isa in reversed(isas)}
    columns |= {"speed fast": (f"`fast` {best}", ".1f"), f"decode {isas[-1]}": (f"decode {best}", ".1f")}
    found = {}
    for kind in MARKERS:
        if some := [row for row in rows if family(type_by_name(row["type"])) == kind]:
            if kind == "ik":  # speeds from 0.2 to 300
                columns = {
                    key: (title, ".3g") if form == ".1f" else (title, form) for key, (title, form) in columns.items()
                }
                columns["Mw/s"] = (f"million weights/s {best}", ".3g")
            found[kind] = table(some, columns)
    return found


def table(rows: list[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> str:
    """One table: of ``columns`` (title and format by key) those that any row has."""
    columns = {key: column for key, column in columns.items() if any(key in row for row in rows)}
    lines = ["| type | " + " | ".join(title for title, _ in columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = []
        for key, (_, form) in columns.items():
            value = row.get(key, "-")
            cells.append(value if isinstance(value, str) else format(value, form))
        lines.append(f"| {row['type'].upper()} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def put_into_docs(tables: dict[str, str]) -> None:
    """Replaces the tables that follow the markers."""
    path = REPO / "docs" / "kernels.md"
    text = path.read_text()
    for kind, lines in tables.items():
        text, n = re.subn(re.escape(MARKERS[kind]) + r"(?:\|.*\n)*", MARKERS[kind] + lines, text)
        if n != 1:
            raise SystemExit(f"{path}: one line {MARKERS[kind].strip()} is needed")
    path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join((*BLOCKS[len(LEGACY) :], *LEGACY, *IK)))
    parser.add_argument("--isa", default=",".join(_native.isas), help="instruction sets, comma-separated, worst first")
    parser.add_argument("--effort", default="default")
    parser.add_argument("--objective", default="imatrix")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--markdown", action="store_true", help="tables (default: one JSON object per type)")
    parser.add_argument("--docs", action="store_true", help="the tables into docs/kernels.md")
    args = parser.parse_args()
    if os.environ.get("GGUFTOOL_BACKEND") == "numba":
        parser.error("this measures the compiled kernels")
    options, isas = {"effort": args.effort, "objective": args.objective}, args.isa.split(",")
    rows = []
    for row in measure(args.types.split(","), isas, options, args.runs):
        rows.append(row)
        if not (args.markdown or args.docs):
            print(json.dumps(row), flush=True)
    if args.markdown:
        print("\n".join(markdown(rows, isas).values()), end="")
    if args.docs:
        put_into_docs(markdown(rows, isas))


if __name__ == "__main__":
    main()
