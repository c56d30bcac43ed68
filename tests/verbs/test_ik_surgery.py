"""Files that hold types of ik_llama.cpp already: whatever is done to them but converting keeps every tensor's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support_models import keys, text, u32

import gguftool
from gguftool.errors import PlanError
from gguftool.format.layout import padded
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.names import shard_path
from gguftool.format.quanttypes import BY_ID, TYPES, QuantType, type_by_name, unknown_type
from gguftool.format.reader import Model, open_model
from gguftool.format.writer import write_gguf

HEADED = [t for t in TYPES if t.kind == "quant" and t.runtime == "ik" and t.rows_interleaved == 1]
WOVEN = [t for t in TYPES if t.kind == "quant" and t.rows_interleaved > 1]
#: Ids that no table knows, far beyond both projects' and between theirs.
UNKNOWN = [unknown_type(number) for number in (43, 143 + 16, 977, 1 << 20)]
N_LAYER = 3

Stored = tuple[str, bytes, tuple[int, ...], QuantType]


def stored(name: str, t: QuantType, seed: int, shape: tuple[int, ...] = (16, 256)) -> Stored:
    rng = np.random.default_rng(seed)
    n = t.nbytes(shape) if t.block_bytes else 1 + 333 * (1 + seed % 3)
    return name, rng.integers(0, 256, n, dtype=np.uint8).tobytes(), shape, t


def tensors() -> list[Stored]:
    """Every type in every layer, unknown ones between the others and at the end, and stacks of experts."""
    found = [stored("token_embd.weight", type_by_name("iq4_ks"), 1, (64, 256))]
    for layer in range(N_LAYER):
        p = f"blk.{layer}."
        for i, t in enumerate([*HEADED, *UNKNOWN[:2], *WOVEN, *UNKNOWN[2:]]):
            found.append(stored(f"{p}t{i}.{t.name.replace(' ', '_')}.weight", t, 100 * layer + i))
        found += [stored(f"{p}e{t.name}.weight", t, t.id, (3, 32, 512)) for t in (WOVEN[20], HEADED[5])]
    return [*found, stored("output.weight", UNKNOWN[2], 5)]


def write(path: Path, held: list[Stored], more: Mapping[str, MetaValue] | None = None, alignment: int = 32) -> Path:
    extra = {"general.file_type": u32(148), **(more or {})}
    if alignment != 32:
        extra["general.alignment"] = u32(alignment)
    write_gguf(path, keys(N_LAYER, 256, 512, **extra), held, alignment)
    return path


def check_bytes(model: Model, held: list[Stored], pad: int = 32) -> None:
    """The model holds these tensors in this order: bytes, shapes, ids. A span of unknown type has its old padding."""
    assert [t.name for t in model.tensors] == [name for name, *_ in held]
    for tensor, (name, data, shape, t) in zip(model.tensors, held, strict=True):
        assert (tensor.shape, tensor.type.id) == (shape, t.id), name
        found = model.read(tensor)
        if t.id in BY_ID:
            assert found == data, name
        else:
            assert found[: len(data)] == data and not any(found[len(data) :]), name
            assert len(found) < len(data) + 2 * pad


@pytest.mark.parametrize("alignment", [32, 1, 4096])
def test_a_copy_is_the_same_file(tmp_path: Path, alignment: int) -> None:
    path = write(tmp_path / "m.gguf", tensors(), alignment=alignment)
    gguftool.copy(path, tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == path.read_bytes()
    with open_model(path) as model:
        check_bytes(model, tensors(), alignment)
    gguftool.quantize(path, tmp_path / "q.gguf", "COPY")
    with open_model(tmp_path / "q.gguf") as model:
        assert {t.name for t in model.tensors} == {name for name, *_ in tensors()}
        by_name = {name: data for name, data, *_ in tensors()}
        assert all(model.read(t).startswith(by_name[t.name]) for t in model.tensors)


def test_metadata_alone_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tensors())
    edits = ["general.name=str:another", "x.y=int:-7", "general.file_type=int:145", "general.alignment=int:256"]
    gguftool.copy(path, tmp_path / "c.gguf", override_kv=edits)
    with open_model(path) as old, open_model(tmp_path / "c.gguf") as new:
        check_bytes(new, tensors(), 256)
        assert new.alignment == 256 and all(t.offset % 256 == 0 for t in new.tensors)
        changed = {k for k in new.metadata if k not in old.metadata or old.metadata[k] != new.metadata[k]}
        assert changed == {edit.partition("=")[0] for edit in edits}


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (0, 2)])
def test_layers_go_and_the_rest_stays(tmp_path: Path, layers: tuple[int, ...]) -> None:
    path = write(tmp_path / "m.gguf", tensors())
    gguftool.copy(path, tmp_path / "c.gguf", prune_layers=layers)
    kept = [i for i in range(N_LAYER) if i not in layers]
    held = []
    for name, *rest in tensors():
        parts = name.split(".")
        if parts[0] == "blk":
            if int(parts[1]) not in kept:
                continue
            parts[1] = str(kept.index(int(parts[1])))
        held.append((".".join(parts), *rest))
    with open_model(tmp_path / "c.gguf") as model:
        check_bytes(model, held)
        assert model.metadata["llama.block_count"] == len(kept)


def write_shards(folder: Path, held: list[Stored], count: int) -> Path:
    size = -(-len(held) // count)
    for no in range(count):
        split = {
            "split.no": MetaValue.of(no, ValueType.U16),
            "split.count": MetaValue.of(count, ValueType.U16),
            "split.tensors.count": MetaValue.of(len(held), ValueType.I32),
        }
        metadata = (
            keys(N_LAYER, 256, 512, **split)
            if no == 0
            else keys(1, 1, 1).replaced({**dict.fromkeys(keys(1, 1, 1)), **split})
        )
        write_gguf(shard_path(folder / "m", no, count), metadata, held[no * size : (no + 1) * size])
    return shard_path(folder / "m", 0, count)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_are_joined_and_kept(tmp_path: Path, count: int) -> None:
    (tmp_path / "in").mkdir()
    first = write_shards(tmp_path / "in", tensors(), count)
    gguftool.copy(first, tmp_path / "joined.gguf")
    with open_model(tmp_path / "joined.gguf") as model:
        check_bytes(model, tensors())
    kept = gguftool.copy(first, tmp_path / "kept.gguf", keep_split=True)
    assert len(kept.paths) == count
    for no, path in enumerate(kept.paths):
        assert path.read_bytes() == shard_path(tmp_path / "in" / "m", no, count).read_bytes()
    pruned = gguftool.copy(first, tmp_path / "pruned.gguf", keep_split=True, prune_layers=[1])
    with open_model(pruned.path) as model:
        one = {name.replace("blk.2.", "blk.1."): data for name, data, *_ in tensors() if not name.startswith("blk.1.")}
        assert {t.name for t in model.tensors} == one.keys()
        assert all(model.read(t).startswith(one[t.name]) for t in model.tensors)


def test_what_is_unknown_is_only_copied(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tensors())
    found = gguftool.info(path)
    assert found.approximate and len([t for t in found.tensors if not t.exact]) == N_LAYER * len(UNKNOWN) + 1
    for tensor, (name, data, *_) in zip(found.tensors, tensors(), strict=True):
        assert tensor.nbytes == (len(data) if tensor.exact else padded(len(data), 32)), name
    result = gguftool.verify(path)
    assert {line.partition(" ")[0] for line in result.undecoded} >= {t.name for t in found.tensors if not t.exact}
    only = [t for t in tensors() if t[3] in UNKNOWN]
    only.append(("blk.0.ffn_up.weight", bytes(140 * 4), (4, 256), type_by_name("iq4_ks")))
    path = write(tmp_path / "u.gguf", only)
    made = gguftool.quantize(path, tmp_path / "q.gguf", "Q8_0", allow_requantize=True)
    assert {row.type for row in made.rows} == {"q8_0", *(t.name for t in UNKNOWN)}
    with open_model(made.path) as model:
        by_name = {name: data for name, data, _, t in only if t in UNKNOWN}
        assert all(model.read(t).startswith(by_name[t.name]) for t in model.tensors if t.name in by_name)


def per_layer_projection(path: Path, t: QuantType) -> Stored:
    """A gemma3n of 30 layers, whose projection has 16 rows for each of them."""
    numbers = {"block_count": 30, "embedding_length_per_layer_input": 16, "attention.sliding_window": 512}
    metadata = Metadata.of(
        [("general.architecture", text("gemma3n")), *((f"gemma3n.{k}", u32(n)) for k, n in numbers.items())]
    )
    held = stored("per_layer_model_proj.weight", t, 3, (16 * 30, 256))
    write_gguf(path, metadata, [held, *(stored(f"blk.{i}.ffn_up.weight", HEADED[3], i) for i in range(30))])
    return held


@pytest.mark.parametrize("t", [unknown_type(977), type_by_name("i2_s")], ids=lambda t: t.name)
def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path, t: QuantType) -> None:
    per_layer_projection(tmp_path / "m.gguf", t)
    with pytest.raises(PlanError, match=rf"per_layer_model_proj\.weight \({t.name}\) cannot be cut at these rows"):
        gguftool.copy(tmp_path / "m.gguf", tmp_path / "c.gguf", prune_layers=[29])
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("name", ["iq4_ks", "iq4_ks_r4", "q8_KV_r8", "bf16_r16", "iq3_kt"])
def test_whole_groups_of_rows_can_be_cut_out(tmp_path: Path, name: str) -> None:
    t = type_by_name(name)
    key, data, *_ = per_layer_projection(tmp_path / "m.gguf", t)
    gguftool.copy(tmp_path / "m.gguf", tmp_path / "c.gguf", prune_layers=[29])
    with open_model(tmp_path / "c.gguf") as model:
        assert model.tensor(key).shape == (16 * 29, 256)
        assert model.read(model.tensor(key)) == data[: 16 * 29 * t.row_nbytes(256)]
