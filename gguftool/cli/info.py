"""``gguftool info``: what a model file holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gguftool.errors import UsageError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.format.names import ranges
from gguftool.format.reader import TensorInfo
from gguftool.show.tables import Column, printable, render, size_text
from gguftool.verbs.info import ModelInfo, as_json, info, json_number, tensor_groups

_CLIP = 76
_HEAD = 6


@click.command("info")
@click.argument("model", type=click.Path(readable=False, path_type=Path))
@click.option("--tensors", "every", is_flag=True, help="List every tensor, not one line for all layers.")
@click.option("--full", is_flag=True, help="Show long texts and arrays whole.")
@click.option("--key", metavar="KEY", help="Print the value of one metadata key and nothing else.")
@click.option("--single-shard", is_flag=True, help="Look at this file alone, not at the set that it belongs to.")
@click.option("--json", "json_wanted", is_flag=True, help="Print everything as JSON.")
def command(model: Path, every: bool, full: bool, key: str | None, single_shard: bool, json_wanted: bool) -> None:
    """Show what MODEL holds: metadata, tensors, bytes per type, bits per weight.

    Any shard stands for the whole model. Shapes are rows first, row length last.
    """
    found = info(model, single_shard=single_shard)
    if key is not None:
        click.echo(_value_of(found, key, json_wanted))
    elif json_wanted:
        click.echo(json.dumps(as_json(found), indent=1))
    else:
        click.echo("\n\n".join(_sections(found, every, full)))


def _sections(found: ModelInfo, every: bool, full: bool) -> Iterator[str]:
    yield _summary(found)
    if found.metadata:
        yield f"metadata: {len(found.metadata)} keys\n" + _metadata(found, full)
    if found.tensors:
        yield f"tensors: {len(found.tensors)}\n" + (_tensors(found) if every else _groups(found))
        yield "bytes per type\n" + _types(found)


def _summary(found: ModelInfo) -> str:
    shards = f" in {len(found.shards)} shards" if len(found.shards) > 1 else ""
    about = "about " if found.approximate else ""
    lines = {
        "file": f"{found.path.name}, {size_text(found.file_bytes)}{shards}, GGUF version {found.version}",
        "kind": _kind(found),
        "architecture": found.architecture,
        "name": found.name,
        "file type": found.file_type,
        "model": ", ".join(_shape_words(found)),
        "parameters": f"{found.n_elements:,}",
        "tensor data": f"{about}{size_text(found.nbytes)}, {about}{_bpw(found.bpw)} bits per weight",
    }
    if found.approximate:
        unknown = sum(not tensor.exact for tensor in found.tensors)
        lines["note"] = f"{unknown} of the tensors have a type that no table knows; their bytes include padding"
    if found.damage:
        more = len(found.damage) - 1
        lines["damage"] = found.damage[0] + (f", {more} more theirs: `gguftool verify` lists them" if more else "")
    if not found.n_elements:
        del lines["parameters"], lines["tensor data"]
    return "\n".join(f"{head:<13} {printable(text)}" for head, text in lines.items() if text)


def _kind(found: ModelInfo) -> str | None:
    """What the file is if it is no model: an adapter, a projector, an importance matrix."""
    kind = found.metadata.get("general.type")
    if not isinstance(kind, str) or kind == "model":
        return None
    return "imatrix (`gguftool stats` shows its statistics)" if kind == "imatrix" else kind


def _bpw(bpw: float | None) -> str:
    return "-" if bpw is None else f"{bpw:.3f}"


def _shape_words(found: ModelInfo) -> Iterator[str]:
    """The numbers by which people know a model, as far as it has them."""
    arch = found.architecture
    for key, words in {
        "block_count": "{} layers",
        "embedding_length": "width {}",
        "feed_forward_length": "feed-forward {}",
        "attention.head_count": "{} heads",
        "attention.head_count_kv": "{} key/value heads",
        "expert_count": "{} experts",
        "expert_used_count": "{} used",
        "context_length": "context {}",
    }.items():
        value = found.metadata.get(f"{arch}.{key}")
        if isinstance(value, list):
            yield words.format(f"{min(value)}-{max(value)}" if _whole(value) else "varying")
        elif value:
            yield words.format(value)
    if "tokenizer.ggml.tokens" in found.metadata:
        yield f"vocabulary {found.metadata.entry('tokenizer.ggml.tokens').count or 0}"


def _whole(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(v, int) for v in values)


def _metadata(found: ModelInfo, full: bool) -> str:
    rows = [(key, _type_word(value), _value_text(value, full)) for key, value in found.metadata.entries()]
    return render(["key", "type", Column("value", left=True)], rows)


def _type_word(value: MetaValue) -> str:
    if value.element_type is None:
        return value.type.name.lower()
    return f"{value.element_type.name.lower()}[{value.count}]"


def _value_text(value: MetaValue, full: bool) -> str:
    if value.element_type is None:
        return _clipped(_scalar(value.value, value.type), full)
    count = value.count or 0
    words = [_element(v, value.element_type) for v in value.head(count if full else _HEAD)]
    while not full and len(words) > 1 and len(", ".join(words)) > _CLIP:
        words.pop()
    listed = _clipped(", ".join(words), full)
    if count <= len(words):
        return f"[{listed}]"
    return f"[{listed}, ... {count} {'strings' if value.element_type is ValueType.STRING else 'values'}]"


def _element(value: Any, type: ValueType) -> str:
    return json.dumps(value, ensure_ascii=False) if type is ValueType.STRING else _scalar(value, type)


def _scalar(value: Any, type: ValueType) -> str:
    if type is ValueType.F32:
        return f"{value:.7g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _clipped(text: str, full: bool) -> str:
    return text if full or len(text) <= _CLIP else f"{text[: _CLIP - 3]}..."


def _groups(found: ModelInfo) -> str:
    rows = [
        (g.pattern, ranges(g.layers) or None, g.type.name, _shape(g.shape), g.n_tensors, size_text(g.nbytes))
        for g in tensor_groups(found.tensors)
    ]
    head, layers, shape = Column("tensor"), Column("layers", left=True), Column("shape", left=True)
    return render([head, layers, "type", shape, "count", "size"], rows)


def _tensors(found: ModelInfo) -> str:
    several = len(found.shards) > 1
    heads: list[str | Column] = ["tensor", "type", Column("shape", left=True), "bytes", Column("at byte", ",")]
    rows = [_tensor_row(t) + ([t.shard + 1] if several else []) for t in found.tensors]
    return render([*heads, "shard"] if several else heads, rows)


def _tensor_row(t: TensorInfo) -> list[Any]:
    return [t.name, t.type.name, _shape(t.shape), f"{t.nbytes:,}" if t.exact else f"at most {t.nbytes:,}", t.offset]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _types(found: ModelInfo) -> str:
    rows: list[tuple[Any, ...]] = [
        (u.type.name, u.n_tensors, u.n_elements, u.nbytes, 100 * u.nbytes / max(1, found.nbytes), u.bpw)
        for u in found.types
    ]
    if len(rows) > 1:
        rows.append(("all", len(found.tensors), found.n_elements, found.nbytes, 100.0, found.bpw))
    sums = [Column("tensors", ","), Column("parameters", ","), Column("bytes", ",")]
    return render([Column("type"), *sums, Column("% of bytes", ".1f"), Column("bpw", ".3f")], rows)


def _value_of(found: ModelInfo, key: str, json_wanted: bool) -> str:
    if key not in found.metadata:
        import difflib

        near = difflib.get_close_matches(key, found.metadata, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`gguftool info` lists the keys"
        raise UsageError(f"{found.path}: there is no metadata key '{key}': {hint}")
    value = found.metadata[key]
    if isinstance(value, str) and not json_wanted:
        return "\n".join(map(printable, value.split("\n"))) if sys.stdout.isatty() else value
    return json.dumps([json_number(v) for v in value] if isinstance(value, list) else json_number(value))
