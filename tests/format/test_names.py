"""What tensor names and shard names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguftool.format.names import layer_of, parse_shard_name, ranges, rename_layer, shard_path, sort_key, tensor_kind


@pytest.mark.parametrize(
    ("name", "layer", "renamed", "kind"),
    [
        ("blk.3.attn_q.weight", ("blk", 3), "blk.7.attn_q.weight", "attn_q"),
        ("enc.blk.12.ffn_up.weight", ("enc.blk", 12), "enc.blk.7.ffn_up.weight", "ffn_up"),
        ("v.blk.0.ln1.bias", ("v.blk", 0), "v.blk.7.ln1.bias", "ln1.bias"),
        ("blk.10.ssm_a", ("blk", 10), "blk.7.ssm_a", "ssm_a"),
        ("output.weight", None, "output.weight", "output"),
        ("token_embd.weight", None, "token_embd.weight", "token_embd"),
        ("blk.03.weight", None, "blk.03.weight", "blk.03"),
        ("blk.٣.weight", None, "blk.٣.weight", "blk.٣"),
        ("notblk.3.weight", None, "notblk.3.weight", "notblk.3"),
    ],
)
def test_layers(name: str, layer: tuple[str, int] | None, renamed: str, kind: str) -> None:
    assert layer_of(name) == layer
    assert rename_layer(name, 7) == renamed
    assert tensor_kind(name) == kind


def test_order_is_that_of_llama_quantize() -> None:
    names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "enc.blk.1.a"]
    assert sorted(names, key=sort_key) == ["enc.blk.1.a", "output.weight", "blk.2.a", "blk.2.b", "blk.10.a"]


def test_layers_for_people() -> None:
    assert ranges([]) == ""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_shard_names() -> None:
    path = shard_path("dir/model", 1, 3)
    assert path == Path("dir/model-00002-of-00003.gguf")
    assert parse_shard_name(path) == ("dir/model", 1, 3)


@pytest.mark.parametrize(
    "name",
    ["model.gguf", "-00001-of-00002.gguf", "dir/-00001-of-00002.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf",
     "m-1-of-2.gguf", "m-00001-of-00002.bin"],
)  # fmt: skip
def test_what_is_no_shard_name(name: str) -> None:
    assert parse_shard_name(name) is None
