"""An importance matrix of a dense model, collected with llama-cpp-python as llama-imatrix does: for examples/.

    python tests/make_example_imatrix.py

builds the corpus of calibration/offline.toml, runs the example model over it, and writes
examples/prose-llama-11m.offline.imatrix.gguf, and beside it offline-holdout.txt, what the corpus keeps apart. Chunks,
BOS and the tensors that count are llama-imatrix's: every matrix multiplication of a weight named ``blk.*``, all tokens
of every whole chunk. Sums are added in float64. That it collects the same is seen where llama-imatrix's own result is
at hand (200 chunks: every channel within 0.04 %):

    python tests/make_example_imatrix.py --text ../shared/text/calibration.txt --chunks 200 -o again.gguf
    gguftool imatrix diff ../shared/imatrix/prose-llama-11m.imatrix.gguf again.gguf
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from support_libggml import load_libggml

from gguftool.imatrix.file import ImatrixEntry
from gguftool.imatrix.matrices import Matrices, Outline, in_order
from gguftool.imatrix.writer import write_imatrix
from gguftool.llama.runtime import Runtime
from gguftool.verbs.calibration import build_calibration

REPO = Path(__file__).resolve().parents[1]
CHUNK_SIZE = 512
_F32 = 0
Floats = npt.NDArray[np.float64]


class Node(ctypes.Structure):
    """ggml's struct ggml_tensor, of the llama-cpp-python that is installed; ``check_layout`` compares."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


@dataclass
class Sums:
    """Sums of squares of a weight's inputs over ``count`` tokens."""

    total: Floats
    count: int = 0


class Collector:
    """Adds up the squares of what goes into every ``blk.*`` weight; ``trouble`` is the first thing that went wrong.

    An exception must not leave a callback: ctypes would print it, and the evaluation would go on with garbage.
    """

    def __init__(self) -> None:
        self.found: dict[str, Sums] = {}
        self.trouble: Exception | None = None
        self._lib = _ggml()

    def __call__(self, address: int, ask: bool, _user: Any) -> bool:
        try:
            node = Node.from_address(address)
            wanted = self._weight(node)
            if wanted and not ask:
                self._add(wanted, Node.from_address(node.src[1]))
            return bool(wanted) or not ask
        except Exception as error:
            self.trouble = self.trouble or error
            return not ask

    def _weight(self, node: Node) -> str:
        """The name of the weight that a node multiplies with, if it counts; else an empty string."""
        if self._lib.ggml_op_name(node.op) not in (b"MUL_MAT", b"MUL_MAT_ID"):
            return ""
        weight = Node.from_address(node.src[0])
        name: str = weight.name.decode()
        if not name.startswith("blk."):
            return ""
        if self._lib.ggml_op_name(node.op) == b"MUL_MAT_ID" or weight.ne[2] * weight.ne[3] > 1:
            raise NotImplementedError(f"{name} holds several matrices: only dense models are collected here")
        return name

    def _add(self, name: str, inputs: Node) -> None:
        n_cols, rows = inputs.ne[0], inputs.ne[1]
        plain = inputs.nb[0] == 4 and inputs.nb[1] == 4 * n_cols and inputs.ne[2] * inputs.ne[3] == 1
        if inputs.type != _F32 or not plain:
            raise NotImplementedError(f"the input of {name} is no plain matrix of float32")
        data = (ctypes.c_float * (n_cols * rows)).from_address(inputs.data)
        x = np.frombuffer(data, np.float32).reshape(rows, n_cols).astype(np.float64)
        sums = self.found.setdefault(name, Sums(np.zeros(n_cols)))
        sums.total += np.einsum("ij,ij->j", x, x)
        sums.count += rows


@dataclass(frozen=True)
class Observed:
    """llama_cpp, whose contexts call ``callback`` for every node of the graph."""

    library: Any
    callback: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def llama_context_default_params(self) -> Any:
        params = self.library.llama_context_default_params()
        params.cb_eval = self.callback
        return params


def collect(model: Path, text: str, *, chunks: int | None = None, threads: int = 1) -> dict[str, Sums]:
    """Weight -> sums over the whole chunks of the text (at most ``chunks``); ModuleNotFoundError without llama_cpp."""
    from gguftool.llama.runtime import _library

    library, collector = _library(), Collector()
    observed = Observed(library, library.ggml_backend_sched_eval_callback(collector))
    runtime = Runtime(observed, model, CHUNK_SIZE, threads)
    try:
        for tokens in _chunks(runtime, text, chunks):
            runtime.logits(tokens, 0)  # of all tokens: the last layer skips those whose logits nobody wants
            if collector.trouble:
                raise collector.trouble
    finally:
        runtime.close()
    return collector.found


def _chunks(runtime: Runtime, text: str, most: int | None) -> Iterator[npt.NDArray[np.int32]]:
    tokens = runtime.tokenize(text.removesuffix("\n"))
    n = len(tokens) // CHUNK_SIZE
    for i in range(n if most is None else min(n, most)):
        chunk = tokens[i * CHUNK_SIZE : (i + 1) * CHUNK_SIZE].copy()
        if runtime.adds_bos:
            chunk[0] = runtime.bos
        yield chunk


def matrices_of(found: Mapping[str, Sums], dataset: str) -> Matrices:
    """The sums as a file's contents."""

    def read(name: str) -> ImatrixEntry:
        sums = found[name]
        return ImatrixEntry(name, 1, len(sums.total), sums.total[None], np.array([sums.count]))

    outlines = in_order(Outline(n, 1, len(s.total), np.array([s.count])) for n, s in found.items())
    chunks = max(s.count for s in found.values()) // CHUNK_SIZE
    return Matrices(outlines, read, (dataset,), chunks, CHUNK_SIZE)


def _ggml() -> ctypes.CDLL:
    lib = load_libggml()
    lib.ggml_op_name.restype, lib.ggml_op_name.argtypes = ctypes.c_char_p, (ctypes.c_int,)
    lib.ggml_tensor_overhead.restype, lib.ggml_tensor_overhead.argtypes = ctypes.c_size_t, ()
    header = 32  # struct ggml_object, which stands before every tensor
    if lib.ggml_tensor_overhead() != ctypes.sizeof(Node) + header:
        raise NotImplementedError("this llama-cpp-python has another struct ggml_tensor: mend Node in this file")
    return lib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=REPO / "examples" / "prose-llama-11m-f16.gguf")
    parser.add_argument("--mix", type=Path, default=REPO / "calibration" / "offline.toml")
    parser.add_argument("--text", type=Path, help="a text as it is, instead of a mix")
    parser.add_argument("--chunks", type=int, default=64, help="a mix is woven: its first chunks hold all of it")
    parser.add_argument("-o", "--output", type=Path, default=REPO / "examples" / "prose-llama-11m.offline.imatrix.gguf")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.text:
        dataset, text = options.text.name, options.text.read_text("utf-8")
    else:
        dataset, text = f"calibration/{options.mix.name}", built_from(options.mix, options.output.parent)
    found = collect(options.model, text, chunks=options.chunks, threads=options.threads)
    matrices = matrices_of(found, dataset)
    write_imatrix(options.output, matrices, "gguf", overwrite=True)
    print(f"{options.output.name}: {len(found)} tensors, {matrices.chunk_count} chunks of {CHUNK_SIZE} tokens")


def built_from(mix: Path, beside: Path) -> str:
    """The corpus that a mix gives; its hold-out goes into the folder."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        built = build_calibration(mix, corpus)
        assert built.holdout is not None
        (beside / f"{mix.stem}-holdout.txt").write_bytes(built.holdout.read_bytes())
        return corpus.read_text("utf-8")


if __name__ == "__main__":
    main()
