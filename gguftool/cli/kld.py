"""``gguftool kld``: perplexity and KL divergence through libllama."""

from __future__ import annotations

import os
from typing import Any

import click


@click.command("kld")
@click.argument("models", nargs=-1, required=True, type=click.Path(readable=False))
@click.option("--base", type=click.Path(readable=False), help="Model to compare with, usually the F16 source.")
@click.option("-f", "--file", "text", required=True, type=click.Path(readable=False), help="Text to evaluate on.")
@click.option("-c", "--ctx-size", default=512, show_default=True, help="Tokens per chunk.")
@click.option("--chunks", type=int, help="Evaluate the first N chunks only.")
@click.option("-t", "--threads", type=int, help="Threads; all cores by default.")
@click.option("--format", "style", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
def command(
    models: tuple[str, ...],
    base: str | None,
    text: str,
    ctx_size: int,
    chunks: int | None,
    threads: int | None,
    style: str,
) -> None:
    """Perplexity of MODELS on a text, and with --base their KL divergence from it. Needs llama-cpp-python.

    Files with types of ik_llama.cpp are decoded to F32 for it, into the folder for temporary files (TMPDIR).
    """
    from tqdm import tqdm

    from gguftool.show.tables import render
    from gguftool.verbs.kld import kld

    bar = tqdm(unit="chunk", disable=None, leave=False)

    def step(name: str, done: int, total: int) -> None:
        bar.set_description(name)
        bar.total, bar.n = total, done
        bar.refresh()

    with bar:
        measured = kld(
            models,
            text,
            base=base,
            n_ctx=ctx_size,
            chunks=chunks,
            threads=threads or os.cpu_count() or 1,
            progress=step,
        )
    row = _plain if style in ("json", "csv") else _row
    rows = [row(m.path.name, m.nbytes, m.result) for m in measured]
    click.echo(render(list(rows[0]), [list(row.values()) for row in rows], style))


def _row(name: str, nbytes: int, result: Any) -> dict[str, str]:
    row = {
        "model": name,
        "MiB": f"{nbytes / 2**20:.2f}",
        "PPL": f"{result.ppl.value:.4f} ± {result.ppl.error:.4f}",
    }
    if hasattr(result, "kld"):
        row |= {
            "mean KLD": f"{result.kld.value:.6f} ± {result.kld.error:.6f}",
            "median": f"{result.kld_median:.6f}",
            "99%": f"{result.kld_99:.6f}",
            "RMS Δp": f"{100 * result.rms_dp:.3f} %",
            "same top": f"{100 * result.same_top.value:.2f} %",
        }
    return row | {"tokens": str(result.n_tokens)}


def _plain(name: str, nbytes: int, result: Any) -> dict[str, Any]:
    """The figures for programs: plain numbers, errors in columns of their own, fractions instead of per cent."""
    row = {"model": name, "bytes": nbytes, "ppl": result.ppl.value, "ppl_error": result.ppl.error}
    if hasattr(result, "kld"):
        row |= {
            "ppl_base": result.ppl_base.value,
            "kld": result.kld.value,
            "kld_error": result.kld.error,
            "kld_median": result.kld_median,
            "kld_99": result.kld_99,
            "kld_max": result.kld_max,
            "rms_dp": result.rms_dp,
            "same_top": result.same_top.value,
        }
    return row | {"tokens": result.n_tokens, "chunks": result.n_chunks}
