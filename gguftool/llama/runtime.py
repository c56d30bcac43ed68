"""The one door to libllama: load a GGUF, cut text into tokens, get logits of a chunk.

llama-cpp-python is an extra (``pip install 'gguftool[llama]'``): everything else works without it. libllama talks to
stderr by itself; its lines are collected instead, and the last ones are quoted when something fails.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguftool.errors import GGUFToolError

_log: list[str] = []
_callback: Any = None  # ctypes callbacks must outlive their registration


class RuntimeUnavailable(GGUFToolError):
    """llama-cpp-python is not installed."""


class RuntimeFailure(GGUFToolError):
    """libllama refused a file or an evaluation."""


def _library() -> Any:
    global _callback
    try:
        import llama_cpp
    except ImportError as error:
        raise RuntimeUnavailable(
            "this needs llama-cpp-python, which is not installed: pip install 'gguftool[llama]'"
        ) from error
    if _callback is None:

        def collect(_level: int, text: bytes, _user: Any) -> None:
            _log.append(text.decode("utf-8", "replace"))
            del _log[:-50]

        _callback = llama_cpp.llama_log_callback(collect)
        llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp


def require() -> None:
    """Nothing, or RuntimeUnavailable without llama-cpp-python: to be asked before long work for it."""
    _library()


def _last_words() -> str:
    lines = [line.strip() for line in "".join(_log).splitlines() if "error" in line.lower() or "fail" in line.lower()]
    return lines[0] if lines else "libllama gave no reason"


class Runtime:
    """A loaded model with a context of ``n_ctx`` tokens; one sequence, evaluated from an empty cache each time."""

    def __init__(self, library: Any, path: Path, n_ctx: int, threads: int) -> None:
        self._lib = library
        self.path = path
        self.n_ctx = n_ctx
        _log.clear()
        model_params = library.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = library.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise RuntimeFailure(f"{path}: libllama does not load it: {_last_words()}")
        params = library.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        self._context = library.llama_init_from_model(self._model, params)
        if not self._context:
            library.llama_model_free(self._model)
            raise RuntimeFailure(f"{path}: libllama makes no context for it: {_last_words()}")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.n_vocab = int(library.llama_vocab_n_tokens(self._vocab))
        self.adds_bos = bool(library.llama_vocab_get_add_bos(self._vocab))
        self.bos = int(library.llama_vocab_bos(self._vocab))

    def tokenize(self, text: str) -> npt.NDArray[np.int32]:
        """The tokens of ``text`` with BOS where the vocabulary adds one; special tokens in the text stay text."""
        raw = text.encode(errors="surrogateescape")
        size = len(raw) + 2
        buffer = (self._lib.llama_token * size)()
        n = self._lib.llama_tokenize(self._vocab, raw, len(raw), buffer, size, True, False)
        if n < 0:
            raise RuntimeFailure(f"{self.path}: libllama cannot tokenize the text ({n})")
        return np.frombuffer(buffer, dtype=np.int32, count=n).copy()

    def logits(self, tokens: npt.NDArray[np.int32], first: int) -> npt.NDArray[np.float32]:
        """Logits [len(tokens) - first, n_vocab] of the positions from ``first`` on."""
        n = len(tokens)
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        batch = self._lib.llama_batch_init(n, 0, 1)
        try:
            for i, token in enumerate(tokens.tolist()):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
                batch.logits[i] = i >= first
            batch.n_tokens = n
            code = self._lib.llama_decode(self._context, batch)
        finally:
            self._lib.llama_batch_free(batch)
        if code:
            raise RuntimeFailure(f"{self.path}: libllama's evaluation failed ({code}): {_last_words()}")
        pointer = self._lib.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(n - first, self.n_vocab)).copy()

    def close(self) -> None:
        """Free context and model."""
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)


@contextmanager
def load(path: str | Path, *, n_ctx: int, threads: int) -> Iterator[Runtime]:
    """A ``Runtime`` for the file, freed at the end; RuntimeFailure quotes libllama where it refuses."""
    if not Path(path).is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    runtime = Runtime(_library(), Path(path), n_ctx, threads)
    try:
        yield runtime
    finally:
        runtime.close()
