"""What we write is what we read, what upstream's package reads, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_gguf import Tensor, array, gguf, number, string, u32

from gguftool.format.layout import padded, tensor_offsets
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.quanttypes import QuantType, type_by_name, unknown_type
from gguftool.format.reader import Model, open_model
from gguftool.format.writer import encode_header, write_gguf

F32, I8, Q4_K = (type_by_name(name) for name in ("f32", "i8", "q4_K"))


def rewritten(model: Model, path: Path) -> bytes:
    tensors = [(t.name, model.read(t), t.shape, t.type) for t in model.tensors]
    write_gguf(path, model.metadata, tensors, model.alignment)
    return path.read_bytes()


def test_offsets_are_padded_sums() -> None:
    assert tensor_offsets([3, 0, 32, 33], 32) == ([0, 32, 32, 64], 128)
    assert tensor_offsets([], 32) == ([], 0)
    assert [padded(n, 8) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]


@pytest.mark.parametrize("alignment", [1, 16, 32, 64])
def test_a_copy_is_the_same_file(tmp_path: Path, alignment: int) -> None:
    kv = [
        ("general.alignment", u32(alignment)),
        ("empty", string("")),
        ("no numbers", array(5, [])),
        ("no strings", array(8, [])),
        ("signed", array(5, [-1])),
        ("unsigned", array(4, [1])),
        ("odd bytes", string(b"\xff\0")),
        ("odd key \xff".encode("latin-1"), number(12, 0.1)),
        ("bools", array(7, [True, False])),
    ]
    tensors: list[Tensor] = [("a", [3, 2], 24, b"abcdef"), ("b", [256], 12, bytes(range(144))), ("z", [4, 0], 0, b"")]
    raw = gguf(kv, tensors, alignment=alignment)
    (tmp_path / "in.gguf").write_bytes(raw)
    with open_model(tmp_path / "in.gguf") as model:
        assert rewritten(model, tmp_path / "out.gguf") == raw


def test_the_models_at_hand_copy_to_the_byte(shared: Path, tmp_path: Path) -> None:
    for file in sorted((shared / "models").glob("*.gguf")):
        with open_model(file) as model:
            assert rewritten(model, tmp_path / file.name) == file.read_bytes()


def test_a_copy_of_version_2_is_version_3(tmp_path: Path) -> None:
    (tmp_path / "in.gguf").write_bytes(gguf([], [("a", [2], 24, b"ab")], version=2))
    with open_model(tmp_path / "in.gguf") as model:
        assert rewritten(model, tmp_path / "out.gguf") == gguf([], [("a", [2], 24, b"ab")])


def test_trailing_dimensions_of_one_are_not_written(tmp_path: Path) -> None:
    tensors = [("a", bytes(24), (1, 1, 3, 2), F32), ("b", bytes(4), (1,), F32), ("c", bytes(12), (3, 1), F32)]
    write_gguf(tmp_path / "out.gguf", Metadata.of([]), tensors)
    raw = gguf([], [("a", [2, 3], 0, bytes(24)), ("b", [1], 0, bytes(4)), ("c", [1, 3], 0, bytes(12))])
    assert (tmp_path / "out.gguf").read_bytes() == raw


def test_arrays_of_any_layout(tmp_path: Path) -> None:
    square = np.arange(16, dtype=np.float32).reshape(4, 4)
    tensors: list[tuple[str, Any, tuple[int, ...], QuantType]] = [
        ("turned", square.T, (4, 4), F32),
        ("none", np.zeros((0, 4), np.float32), (0, 4), F32),
    ]
    write_gguf(tmp_path / "out.gguf", Metadata.of([]), tensors)
    with open_model(tmp_path / "out.gguf") as model:
        assert model.read(model.tensor("turned")) == square.T.tobytes()
        assert model.tensor("none").shape == (0, 4)


def test_the_last_tensor_is_padded(tmp_path: Path) -> None:
    write_gguf(tmp_path / "out.gguf", Metadata.of([]), [("a", b"x", (1,), I8)])
    assert (tmp_path / "out.gguf").stat().st_size % 32 == 0


def test_what_would_be_misread_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alignment 64"):
        encode_header(Metadata.of([]), [], 64)
    with pytest.raises(ValueError, match="has 4 bytes"):
        write_gguf(tmp_path / "out.gguf", Metadata.of([]), [("a", bytes(4), (256,), Q4_K)])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_gguf(path, Metadata.of([]), [])
    write_gguf(path, Metadata.of([]), [], overwrite=True)
    assert path.read_bytes() == gguf()


def test_upstreams_package_reads_it(tmp_path: Path) -> None:
    gguf_package = pytest.importorskip("gguf")
    values = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
    metadata = Metadata.of(
        [
            ("general.architecture", MetaValue.of("llama", ValueType.STRING)),
            ("general.alignment", MetaValue.of(64, ValueType.U32)),
            ("tokens", MetaValue.of(["a", "", "ü"], ValueType.ARRAY, ValueType.STRING)),
        ]
    )
    write_gguf(tmp_path / "out.gguf", metadata, [("x", b"x", (1,), I8), ("v", values, (2, 256), F32)], 64)
    reader = gguf_package.GGUFReader(tmp_path / "out.gguf")
    assert reader.alignment == 64
    assert reader.fields["tokens"].contents() == ["a", "", "ü"]
    assert np.array_equal(reader.tensors[1].data, values)


SCALARS = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(lambda n: MetaValue.of(n, ValueType.I32)),
    st.integers(0, 2**64 - 1).map(lambda n: MetaValue.of(n, ValueType.U64)),
    st.booleans().map(lambda b: MetaValue.of(b, ValueType.BOOL)),
    st.floats().map(lambda x: MetaValue.of(x, ValueType.F64)),
    st.text(st.characters(exclude_categories=["Cs"])).map(lambda s: MetaValue.of(s, ValueType.STRING)),
    st.lists(st.integers(0, 255)).map(lambda v: MetaValue.of(v, ValueType.ARRAY, ValueType.U8)),
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda k: k != "general.alignment")
NAMES = st.text(st.characters(max_codepoint=127), max_size=63)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.dictionaries(KEYS, SCALARS, max_size=6),
    tensors=st.dictionaries(NAMES, st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())),
)
def test_whatever_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, MetaValue], tensors: dict[str, tuple[list[int], bool]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.gguf"
    metadata = Metadata.of(entries.items())
    held = []
    for name, (shape, known) in tensors.items():
        type = I8 if known else unknown_type(999)
        data = name.encode().ljust(I8.nbytes(shape), b"x")[: I8.nbytes(shape)] if known else b"unknown"
        held.append((name, data, shape, type))
    write_gguf(path, metadata, held, overwrite=True)
    with open_model(path) as model:
        assert model.metadata == metadata
        for tensor, (name, data, shape, type) in zip(model.tensors, held, strict=True):
            lead = [n for i, n in enumerate(shape) if any(m != 1 for m in shape[: i + 1])] or [1]
            assert (tensor.name, list(tensor.shape), tensor.type.id) == (name, lead, type.id)
            assert model.read(tensor)[: len(data)] == data
