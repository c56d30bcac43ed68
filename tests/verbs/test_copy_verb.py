"""Copies: nothing changes that was not asked for, shards joined or kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_models import keys, split_model, u32, write_model

import gguftool
from gguftool.errors import PlanError, UsageError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.format.names import shard_path
from gguftool.format.quanttypes import type_by_name, unknown_type
from gguftool.format.reader import open_model
from gguftool.format.writer import write_gguf


@pytest.mark.parametrize("alignment", [32, 16, 256])
def test_a_copy_is_the_same_file(tmp_path: Path, alignment: int) -> None:
    odd = {
        "x.empty": MetaValue.of([], ValueType.ARRAY, ValueType.I32),
        "x.i64": MetaValue.of(-5, ValueType.I64),
        "general.file_type": u32(1),
        "quantize.imatrix.file": MetaValue.of("kept.dat", ValueType.STRING),
    }
    path = write_model(tmp_path / "m.gguf", alignment=alignment, more=odd)
    result = gguftool.copy(path, tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == path.read_bytes()
    assert result.file_bytes == path.stat().st_size


def test_unknown_types_are_copied(tmp_path: Path) -> None:
    f32 = type_by_name("f32")
    tensors = [("a", b"x" * 64, (4, 7), unknown_type(977)), ("b", b"y" * 16, (4,), f32)]
    write_gguf(tmp_path / "m.gguf", keys(1, 4, 4), tensors)
    gguftool.copy(tmp_path / "m.gguf", tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_only_the_mark_guessed_goes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", more={"general.file_type": u32(1024 + 7)})
    gguftool.copy(path, tmp_path / "c.gguf")
    with open_model(path) as source, open_model(tmp_path / "c.gguf") as model:
        assert {k: v for k, v in source.metadata.items() if v != model.metadata[k]} == {"general.file_type": 1031}
        assert model.metadata["general.file_type"] == 7


def test_shards_are_joined_or_kept(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    second = split_model(tmp_path / "in", 3)
    gguftool.copy(second, tmp_path / "joined.gguf")
    with open_model(tmp_path / "joined.gguf") as model, open_model(tmp_path / "in" / "whole.gguf") as whole:
        assert [t.name for t in model.tensors] == [t.name for t in whole.tensors]
        assert all(model.read(t) == whole.read(whole.tensor(t.name)) for t in model.tensors)
        assert not [k for k in model.metadata if k.startswith("split.")]
    kept = gguftool.copy(second, tmp_path / "kept.gguf", keep_split=True)
    for no, path in enumerate(kept.paths):
        assert path == shard_path(tmp_path / "kept", no, 3)
        assert path.read_bytes() == shard_path(tmp_path / "in" / "m", no, 3).read_bytes()


def test_a_shard_of_the_input_is_never_overwritten(tmp_path: Path) -> None:
    second = split_model(tmp_path, 3)
    before = second.read_bytes()
    with pytest.raises(PlanError, match="overwrite the input"):
        gguftool.copy(shard_path(tmp_path / "m", 0, 3), second, force=True)
    with pytest.raises(PlanError, match="overwrite the input"):
        gguftool.copy(second, tmp_path / "m.gguf", keep_split=True, force=True)
    assert second.read_bytes() == before


def test_pruning_and_overrides(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    result = gguftool.copy(path, tmp_path / "c.gguf", prune_layers=[1], override_kv=["x.y=bool:true", "x.n=int:-3"])
    with open_model(path) as source, open_model(tmp_path / "c.gguf") as model:
        assert model.metadata["llama.block_count"] == 2
        assert (model.metadata["x.y"], model.metadata["x.n"]) == (True, -3)
        assert model.metadata["gguftool.pruned_layers"] == [1]
        for row in result.rows:
            assert model.read(model.tensor(row.name)) == source.read(source.tensor(row.source_name))
    assert len(result.rows) == 3 + 2 * 9


def test_quantize_to_copy_converts_nothing(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", more={"general.file_type": u32(1)})
    result = gguftool.quantize(path, tmp_path / "c.gguf", "copy", tensor_type=["attn_q=q8_0"])
    assert {row.type for row in result.rows} == {"f16", "f32"}
    assert any("COPY" in w for w in result.warnings)
    with open_model(path) as source, open_model(tmp_path / "c.gguf") as model:
        assert dict(source.metadata) == dict(model.metadata)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    with pytest.raises(PlanError, match="no such folder"):
        gguftool.copy(path, tmp_path / "absent" / "c.gguf")


def test_alignment_can_be_changed(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    gguftool.copy(path, tmp_path / "c.gguf", override_kv=["general.alignment=int:4096"])
    with open_model(path) as source, open_model(tmp_path / "c.gguf") as model:
        assert model.alignment == 4096 and all(t.offset % 4096 == 0 for t in model.tensors)
        assert all(model.read(t) == source.read(source.tensor(t.name)) for t in model.tensors)
    for value in ("int:20", "int:24", "int:0", "int:-8", "int:2147483648", "int:4294967296", "bool:true", "str:8"):
        with pytest.raises(UsageError, match="power of two"):
            gguftool.copy(path, tmp_path / "d.gguf", override_kv=[f"general.alignment={value}"])


@pytest.mark.parametrize("alignment", [1, 4, 8, 512])
def test_any_alignment_of_a_source_is_kept(tmp_path: Path, alignment: int) -> None:
    path = write_model(tmp_path / "m.gguf", n_layer=1, alignment=alignment)
    gguftool.copy(path, tmp_path / "c.gguf", prune_layers=[])
    assert (tmp_path / "c.gguf").read_bytes() == path.read_bytes()


def test_shards_keep_their_alignment(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    first = split_model(tmp_path / "in", 2, alignment=64)
    kept = gguftool.copy(first, tmp_path / "kept.gguf", keep_split=True)
    with open_model(kept.path) as model, open_model(first) as source:
        assert [s.alignment for s in model.shards] == [64, 64]
        assert all(model.read(t) == source.read(source.tensor(t.name)) for t in model.tensors)


def test_an_output_named_like_a_shard_stands_for_its_set(tmp_path: Path) -> None:
    source = split_model(tmp_path, 3)
    (tmp_path / "to").mkdir()
    gguftool.copy(source, tmp_path / "to" / "x-00001-of-00003.gguf", keep_split=True)
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [f"x-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
