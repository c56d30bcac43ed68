"""``gguftool types``: every tensor type of both projects, and what we can do with it."""

from __future__ import annotations

import click

from gguftool.format.quanttypes import TYPES, QuantType
from gguftool.show.tables import FORMATS, Column, render

_READERS = {"both": "llama.cpp, ik_llama.cpp", "mainline": "llama.cpp", "ik": "ik_llama.cpp"}

_COLUMNS = (
    Column("type", key="name"),
    Column("id"),
    Column("kind"),
    Column("bpw", ".4f"),
    Column("block", key="block_size"),
    Column("bytes", key="block_bytes"),
    Column("row header", key="row_header"),
    Column("rows woven", key="rows_interleaved"),
    Column("needs imatrix", key="needs_imatrix"),
    Column("read by", key="read_by"),
    Column("encode"),
    Column("decode"),
)


@click.command("types")
@click.option("--format", "style", type=click.Choice(FORMATS), default="table", show_default=True)
def command(style: str) -> None:
    """List the tensor types: bits per weight, who reads them, whether we can encode and decode them.

    "bpw" counts the blocks; "row header" is bytes at the head of every row on top of them. "needs imatrix": cannot be
    made without an importance matrix. "rows woven": that many rows are interleaved, for speed in ik_llama.cpp. The kind
    "internal" is for values that live in memory while a model runs.
    """
    click.echo(render(_COLUMNS, [_row(t) for t in TYPES], style))


def _row(t: QuantType) -> list[object]:
    from gguftool.codecs.dispatch import can_decode, can_encode

    header = t.row_header or (None if not t.tensor_trailer else f"{t.tensor_trailer} per tensor")
    woven = t.rows_interleaved if t.rows_interleaved > 1 else None
    size = [t.bpw, t.block_size, t.block_bytes, header, woven]
    return [t.name, t.id, t.kind, *size, t.needs_imatrix, _READERS[t.runtime], can_encode(t), can_decode(t)]
