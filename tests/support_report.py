"""Importance matrices for the tests of the report: several layers, experts that nothing reached, names that attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support_gguf import array, gguf, string, u32
from support_imatrix import Entry, imatrix_gguf, keys

from gguftool.show.report import report_page
from gguftool.verbs.report import report

#: Each would run, load or break something where a name reaches the page unescaped. None may be longer than 42 bytes.
HOSTILE = (
    "</script><script>document.title=1</script>",
    "<img src=x onerror=document.title=1>",
    "<link rel=stylesheet href=http://a.b>",
    "\"'><svg onload=document.title=1>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--<script>",
    "__proto__",
    "\u202egnirts\u0001\u2028end",
)


def dense(n_layers: int, width: int = 32) -> list[Entry]:
    """Two kinds in every layer, and the output; the mean square of attn_q rises with the layer, ffn_down's falls."""
    random = np.random.default_rng(7)
    found: list[Entry] = []
    for layer in range(n_layers):
        for kind, level in (("attn_q", layer + 1), ("ffn_down", 10 * (n_layers - layer))):
            sums = 64 * level * random.lognormal(0, 1, width)
            found.append((f"blk.{layer}.{kind}.weight", sums.tolist(), (64,)))
    return [*found, ("output.weight", (64 * random.lognormal(0, 1, width)).tolist(), (64,))]


def experts(n_layers: int, n_experts: int, width: int = 4) -> list[Entry]:
    """Up and down experts of every layer, every fifth never reached."""
    random = np.random.default_rng(8)
    found: list[Entry] = []
    for layer in range(n_layers):
        counts = [0 if (e + layer) % 5 == 4 else 1 + e * 3 for e in range(n_experts)]
        for kind in ("ffn_down_exps", "ffn_up_exps"):
            sums = random.lognormal(0, 1, (n_experts, width)) * np.array(counts)[:, None]
            found.append((f"blk.{layer}.{kind}.weight", sums.ravel().tolist(), counts))
    return found


def hostile() -> list[Entry]:
    """Names that attack, as tensors in layers and outside of them."""
    inside = [(f"blk.{i}.{name}.weight", [1.0, 2.0, 3.0 + i], (1,)) for i in range(2) for name in HOSTILE]
    return [*inside, *((name, [1.0, 5.0], (1,)) for name in HOSTILE)]


def write(path: Path, entries: list[Entry], datasets: tuple[str, ...] = ("text.txt",)) -> Path:
    """An importance matrix of these entries."""
    path.write_bytes(imatrix_gguf(entries, keys(imatrix_datasets=array(8, datasets))))
    return path


def model(path: Path, n_layers: int, width: int = 32) -> Path:
    """A model beside ``dense``: its tensors in f16, one without importance, one that needs none."""
    names = [f"blk.{layer}.{kind}.weight" for layer in range(n_layers) for kind in ("attn_q", "ffn_down", "ffn_up")]
    random = np.random.default_rng(9)
    every = (*names, "output.weight")
    tensors = [(name, [width, 2], 1, random.normal(size=2 * width).astype("<f2").tobytes()) for name in every]
    tensors.append(("blk.0.attn_norm.weight", [width], 0, bytes(4 * width)))
    path.write_bytes(gguf([("general.architecture", string("llama")), ("llama.block_count", u32(n_layers))], tensors))
    return path


def page(
    path: Path, entries: list[Entry], beside: Path | None = None, datasets: tuple[str, ...] = ("text.txt",)
) -> Path:
    """The report on these entries as a file beside ``path``."""
    source = write(path, entries, datasets)
    out = path.with_suffix(".html")
    out.write_text(report_page(report(source, beside)), encoding="utf-8")
    return out
