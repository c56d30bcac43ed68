"""What a valid file says: every rule of the container that lets a file open."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest
from support_gguf import Tensor, array, gguf, i32, number, pad, pair, record, string, text, u32

from gguftool.errors import FormatError
from gguftool.format.metadata import ValueType
from gguftool.format.quanttypes import TYPES, QuantType
from gguftool.format.reader import open_model

ROW = bytes(range(256)) * 4  # 256 floats


def written(tmp_path: Path, raw: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_laid_out_alike(tmp_path: Path, version: int) -> None:
    raw = gguf([("general.architecture", string("llama"))], [("a", [256], 0, ROW)], version=version)
    with open_model(written(tmp_path, raw)) as model:
        assert (model.version, model.architecture, model.alignment) == (version, "llama", 32)
        assert model.read(model.tensor("a")) == ROW


def test_every_value_type_is_kept_to_the_byte(tmp_path: Path) -> None:
    kv = [
        ("empty", string("")),
        ("no utf-8", string(b"\xff\xfe")),
        ("zero inside", string(b"a\0b")),
        ("true", (7, b"\x02")),
        *[(f"number {n}", number(n, 3)) for n in (0, 1, 2, 3, 4, 5, 6, 10, 11, 12)],
        *[(f"array {n}", array(n, [1, 0])) for n in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12)],
        ("strings", array(8, ["", "ä", b"\xff"])),
        ("no strings", array(8, [])),
        ("no numbers", array(4, [])),
    ]
    with open_model(written(tmp_path, gguf(kv))) as model:
        held = dict(model.metadata.entries())
    assert [(key, (value.type, value.raw)) for key, value in held.items()] == kv
    assert held["no utf-8"].value == "\udcff\udcfe"
    assert held["zero inside"].value == "a\0b"
    assert held["true"].value is True
    assert held["array 7"].value == [True, False]
    assert held["strings"].value == ["", "ä", "\udcff"]
    assert (held["no strings"].element_type, held["no strings"].value) == (ValueType.STRING, [])


def test_shapes_are_in_numpy_order_without_leading_ones(tmp_path: Path) -> None:
    tensors: list[Tensor] = [
        ("scalar", [], 0, bytes(4)),
        ("row", [8, 1, 1, 1], 0, bytes(32)),
        ("matrix", [4, 2], 0, bytes(32)),
        ("column", [1, 8], 0, bytes(32)),
        ("cube", [4, 2, 3, 1], 0, bytes(96)),
        ("four", [4, 1, 3, 2], 0, bytes(96)),
        ("nothing", [4, 0, 3], 0, b""),
        ("after nothing", [8], 0, bytes(32)),
    ]
    with open_model(written(tmp_path, gguf([], tensors))) as model:
        shapes = [tensor.shape for tensor in model.tensors]
        assert model.tensor("nothing").offset == model.tensor("after nothing").offset
    assert shapes == [(1,), (8,), (2, 4), (8, 1), (3, 2, 4), (2, 3, 1, 4), (3, 0, 4), (8,)]


@pytest.mark.parametrize("alignment", [1, 2, 8, 16, 64, 4096])
def test_the_alignment_is_that_of_the_file(tmp_path: Path, alignment: int) -> None:
    tensors: list[Tensor] = [("a", [3], 24, b"abc"), ("b", [2], 24, b"de"), ("c", [1], 24, b"f")]
    raw = gguf([("general.alignment", u32(alignment))], tensors, alignment=alignment)
    with open_model(written(tmp_path, raw)) as model:
        assert model.alignment == model.shards[0].alignment == alignment
        assert model.shards[0].data_start % alignment == 0
        assert [model.read(t) for t in model.tensors] == [b"abc", b"de", b"f"]


@pytest.mark.parametrize("type", [t for t in TYPES if t.runtime != "ik" or t.kind != "internal"], ids=lambda t: t.name)
def test_every_type_has_its_size(tmp_path: Path, type: QuantType) -> None:
    shape = (16, 512)
    data = os.urandom(type.nbytes(shape))
    with open_model(written(tmp_path, gguf([], [("a", [512, 16], type.id, data), ("b", [1], 24, b"x")]))) as model:
        assert model.tensor("a").type is type
        assert model.tensor("a").nbytes == len(data)
        assert model.read(model.tensor("a")) == data
        assert model.read(model.tensor("b")) == b"x"


def test_the_last_pad_may_be_missing_and_more_may_follow(tmp_path: Path) -> None:
    raw = gguf([], [("a", [3], 24, b"abc")])
    for tail in (raw[:-29], raw + b"more"):
        with open_model(written(tmp_path, tail)) as model:
            assert model.read(model.tensor("a")) == b"abc"


def test_a_file_of_metadata_alone_has_no_padding(tmp_path: Path) -> None:
    raw = gguf([("k", string("v"))])
    with open_model(written(tmp_path, raw)) as model:
        assert model.tensors == ()
        assert model.shards[0].data_start == len(raw)
    assert len(open_model(written(tmp_path, gguf())).metadata) == 0


def test_a_name_of_63_bytes_and_no_name_are_names(tmp_path: Path) -> None:
    names = ["n" * 63, "ä" * 31, ""]
    with open_model(written(tmp_path, gguf([], [(name, [32], 24, bytes(32)) for name in names]))) as model:
        assert [tensor.name for tensor in model.tensors] == names


UNKNOWN: list[Tensor] = [
    ("known", [8], 0, bytes(32)),
    ("new", [7], 999, b"n" * 64),
    ("newer", [3, 3], 1000, b"m" * 40),
    ("again known", [8], 0, b"k" * 32),
    ("sum rule again", [8], 0, b"s" * 32),
    ("last", [5], 999, b"l" * 20),
]


def test_tensors_of_unknown_type_have_a_span(tmp_path: Path) -> None:
    with open_model(written(tmp_path, gguf([], UNKNOWN))) as model:
        spans = {t.name: (t.nbytes, t.exact, t.type.name) for t in model.tensors if t.type.kind == "unknown"}
        assert model.read(model.tensor("again known")) == b"k" * 32
        assert model.read(model.tensor("newer")) == b"m" * 40 + bytes(24)
    assert spans == {
        "new": (64, False, "type 999"),
        "newer": (64, False, "type 1000"),
        "last": (32, False, "type 999"),
    }
    with open_model(written(tmp_path, gguf([], UNKNOWN)[:-12] + b"tail")) as model:
        assert model.tensor("last").nbytes == 24


def test_a_gap_after_an_unknown_tensor_belongs_to_it(tmp_path: Path) -> None:
    data = b"u" * 10 + bytes(54) + b"k" * 4
    head = gguf([], [("u", [1], 999, b""), ("k", [1], 0, b"")], offsets=[0, 64])
    with open_model(written(tmp_path, head + data)) as model:
        assert model.tensor("u").nbytes == 64
        assert model.read(model.tensor("k")) == b"kkkk"


def test_parts_are_read_and_nothing_beyond_them(tmp_path: Path) -> None:
    raw = gguf([], [("a", [256], 0, ROW), ("b", [256], 0, ROW[::-1])])
    with open_model(written(tmp_path, raw)) as model:
        b = model.tensor("b")
        assert model.read(b, 100, 20) == ROW[::-1][100:120]
        out = bytearray(16)
        model.read_into(b, 4, memoryview(out))
        assert out == ROW[::-1][4:20]
        for offset, n in ((1020, 8), (-1, 4), (0, 1025)):
            with pytest.raises(ValueError, match="which has 1024"):
                model.read(b, offset, n)


def test_threads_read_at_once(tmp_path: Path) -> None:
    tensors: list[Tensor] = [(str(i), [4096], 24, bytes([i]) * 4096) for i in range(50)]
    wrong: list[str] = []
    with open_model(written(tmp_path, gguf([], tensors))) as model:

        def read() -> None:
            wrong.extend(t.name for t in model.tensors if model.read(t) != bytes([int(t.name)]) * 4096)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, gguf([], [("a", [256], 0, ROW)]))
    with open_model(path) as model:
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(FormatError, match="got shorter"):
            model.read(model.tensor("a"))


def test_what_tells_files_apart(tmp_path: Path) -> None:
    path = written(tmp_path, gguf([("k", u32(1))], [("a", [8], 0, bytes(32))]))
    with open_model(path) as one:
        first = one.shards[0]
    assert (first.size, first.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    with open_model(written(tmp_path, gguf([("k", u32(2))], [("a", [8], 0, bytes(32))]))) as other:
        assert other.shards[0].header_sha256 != first.header_sha256


def test_a_header_longer_than_one_read(tmp_path: Path) -> None:
    long = "x" * (3 << 20)
    words = ["y" * (i % 7) for i in range(300_000)]
    kv = [("long", string(long)), ("words", array(8, words)), ("numbers", array(4, range(400_000))), ("end", i32(-1))]
    with open_model(written(tmp_path, gguf(kv, [("a", [1], 24, b"z")]))) as model:
        assert model.metadata["long"] == long
        assert model.metadata["words"] == words
        assert model.metadata["numbers"] == list(range(400_000))
        assert model.metadata["end"] == -1
        assert model.read(model.tensors[0]) == b"z"


def test_the_number_of_dimensions_may_be_more_than_needed(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<Iqq", 3, 1, 1) + pair("k", (8, text("v"))) + record("a", [8, 1], 0, 0)
    with open_model(written(tmp_path, pad(head, 32) + bytes(32))) as model:
        assert model.tensor("a").shape == (8,)


def test_the_models_at_hand_open(shared: Path) -> None:
    files = [*(shared / "models").rglob("*.gguf"), *(shared / "imatrix").glob("*.gguf")]
    assert len(files) >= 11
    for file in files:
        with open_model(file) as model:
            assert all(tensor.exact for tensor in model.tensors)
            last = model.tensors[-1]
            assert len(model.read(last)) == last.nbytes
