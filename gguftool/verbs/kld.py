"""Perplexity of models, and how far each is from a base, as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gguftool.errors import UsageError
from gguftool.format.reader import open_model
from gguftool.llama.perplexity import Divergence, Perplexity, divergence, perplexity
from gguftool.llama.runtime import require
from gguftool.verbs.quantize import quantize


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's figures; ``result`` is a Perplexity where no base was given."""

    path: Path
    nbytes: int
    result: Perplexity | Divergence


def kld(
    models: Sequence[str | Path],
    text: str | Path,
    *,
    base: str | Path | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Measured]:
    """Figures of each GGUF on the text file: perplexity, and with ``base`` the KL divergence from it.

    A model with types of ik_llama.cpp is decoded to F32 first, into the folder for temporary files, because libllama
    does not read it. ``progress(model, chunk, n_chunks)`` is called after every chunk. RuntimeUnavailable without
    llama-cpp-python, RuntimeFailure where libllama refuses a file, UsageError for a text that is too short.
    """
    check_measuring(text, n_ctx, chunks, threads)
    for path in (*models, *(() if base is None else (base,))):
        open_model(path).close()  # a file that is damaged is told of in our words, and before the work
    words = Path(text).read_text(encoding="utf-8", errors="surrogateescape")
    found = []
    with ExitStack() as kept:
        other = None if base is None else kept.enter_context(_runnable(Path(base)))
        for path in map(Path, models):

            def step(done: int, total: int, name: str = path.name) -> None:
                if progress:
                    progress(name, done, total)

            result: Perplexity | Divergence
            with _runnable(path) as run:
                if other is None:
                    result = perplexity(run, words, n_ctx=n_ctx, chunks=chunks, threads=threads, progress=step)
                else:
                    result = divergence(run, other, words, n_ctx=n_ctx, chunks=chunks, threads=threads, progress=step)
            found.append(Measured(path, path.stat().st_size, result))
    return found


def check_measuring(text: str | Path, n_ctx: int, chunks: int | None, threads: int) -> None:
    """Nothing, or what ``kld`` would raise for these, whatever the models: RuntimeUnavailable, UsageError, OSError."""
    if n_ctx < 4 or (chunks is not None and chunks < 1) or threads < 1:
        raise UsageError(
            f"{n_ctx} tokens per chunk, {'all' if chunks is None else chunks} chunks, {threads} threads: "
            "at least 4, 1 and 1 are needed"
        )
    if n_ctx > Path(text).stat().st_size:
        raise UsageError(f"{text}: the text is shorter than one chunk of {n_ctx} tokens: give more, or smaller chunks")
    require()


@contextmanager
def _runnable(path: Path) -> Iterator[Path]:
    """The file that libllama runs: the model, or a copy in F32, kept as long as it is needed, where it has types of
    ik_llama.cpp. PlanError where a type cannot be decoded."""
    with open_model(path) as model:
        foreign = any(tensor.type.runtime == "ik" for tensor in model.tensors)
    if not foreign:
        yield path
        return
    with TemporaryDirectory(prefix="gguftool-") as folder:
        yield quantize(path, Path(folder) / path.name, "F32", allow_requantize=True, sync=False).path
