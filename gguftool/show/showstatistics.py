"""The text of ``llama-imatrix --show-statistics``, byte for byte, for scripts that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gguftool.imatrix.upstream import UpstreamLayer, UpstreamTensor
from gguftool.show.tables import Column, printable

_TENSOR_HEAD = (
    " Layer\t       Tensor\t          Σ(Act²)\t  Min\t            Max\t           μ\t   \u03c3\t % Active\tN\t"
    "   Entropy\tE (norm)\tZD\t  CosSim"
)
_LAYER_HEAD = "  Layer\t     μΣ(Act²)\t      μZD\tμCosSim"
_TENSOR_RULE, _LAYER_RULE = "=" * 169, "=" * 48


def upstream_text(
    path: str, tensors: Sequence[UpstreamTensor], layers: Sequence[UpstreamLayer], with_layers: bool = True
) -> str:
    """Both tables under their titles, empty lines and all; ``path`` is the file as the user named it."""
    lines = ["", f"Computing statistics for {printable(path)} ({len(tensors)} tensors)", "", _TENSOR_HEAD, _TENSOR_RULE]
    lines += [_tensor(row) for row in tensors]
    if with_layers:
        title = f"Computing weighted average statistics per layer ({len(layers)} layers)"
        lines += ["", title, "", _LAYER_HEAD, _LAYER_RULE]
        lines += [f"{x.layer:5d}\t{x.sum:14.2f}\t{100 * x.zd:10.4f}%\t{x.cossim:6.4f}" for x in layers]
    return "\n".join([*lines, "", ""])


def upstream_tables(
    tensors: Sequence[UpstreamTensor], layers: Sequence[UpstreamLayer]
) -> tuple[tuple[list[Column], list[list[Any]]], tuple[list[Column], list[list[Any]]]]:
    """The same figures as columns and rows of two tables, for the other formats; shares are percent here too."""
    heads = [
        Column("name"), Column("layer"), Column("kind"), Column("sum", ".2f"), Column("min", ".4f"),
        Column("max", ".4f"), Column("mean", ".2f"), Column("std", ".2f"), Column("active_pct", ".2f"), Column("n"),
        Column("entropy", ".4f"), Column("entropy_norm_pct", ".2f"), Column("zd_pct", ".2f"), Column("cossim", ".4f"),
    ]  # fmt: skip
    rows: list[list[Any]] = [
        [t.name, t.layer, t.kind, t.sum, t.min, t.max, t.mean, t.std, 100 * t.active, t.n, t.entropy,
         t.entropy_norm_pct, 100 * t.zd, t.cossim]
        for t in tensors
    ]  # fmt: skip
    layer_heads = [Column("layer"), Column("sum", ".2f"), Column("zd_pct", ".4f"), Column("cossim", ".4f")]
    return (heads, rows), (layer_heads, [[x.layer, x.sum, 100 * x.zd, x.cossim] for x in layers])


def _tensor(t: UpstreamTensor) -> str:
    return "\t".join(
        (
            f"{t.layer:>5}",
            f"{printable(t.kind):<20}",
            f"{t.sum:10.2f}",
            f"{t.min:8.4f}",
            f"{t.max:11.4f}",
            f"{t.mean:6.2f}",
            f"{t.std:6.2f}",
            f"{100 * t.active:8.2f}%",
            f"{t.n:6d}",
            f"{t.entropy:10.4f}",
            f"{t.entropy_norm_pct:6.2f}%",
            f"{100 * t.zd:10.2f}%",
            f"{t.cossim:8.4f}",
        )
    )
