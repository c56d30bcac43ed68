"""Both forms written: read by our reader and by the gguf package, equal to what was read, honest about what is lost."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_gguf import string, u32
from support_imatrix import F32, VECTORS, Entry, as_dat, dat, floats, imatrix_gguf, keys

from gguftool.errors import ImatrixError, UsageError
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.imatrix.matrices import matrices_of
from gguftool.imatrix.writer import format_of, losses, write_imatrix

SIGNED = ("a.weight.in_sum", [2], F32, floats([-2, 1]))


def opened(tmp_path: Path, raw: bytes, **options: int) -> Imatrix:
    (tmp_path / "in").write_bytes(raw)
    return open_imatrix(tmp_path / "in", **options)  # type: ignore[arg-type]


def rewritten(tmp_path: Path, source: Imatrix, form: str, chunk_size: int | None = None) -> Imatrix:
    write_imatrix(tmp_path / f"out.{form}", matrices_of(source, chunk_size), form, overwrite=True)
    return open_imatrix(tmp_path / f"out.{form}", chunk_size=chunk_size)


@pytest.mark.parametrize("model", ["llama-11m", "moe-8m"])
@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_real_files_are_written_as_they_were(shared: Path, tmp_path: Path, model: str, form: str) -> None:
    source = open_imatrix(shared / "imatrix" / f"prose-{model}.imatrix.{form}")
    found = rewritten(tmp_path, source, form)
    assert found.path.read_bytes() == source.path.read_bytes()
    assert losses(matrices_of(source), form) == ()


def test_the_worked_example_of_the_older_form(tmp_path: Path) -> None:
    """Made by llama-imatrix from the same sums, with chunks of 4 tokens."""
    name = "blk.1.ffn_down_exps.weight"
    source = opened(tmp_path, imatrix_gguf([(name, (4, 8, 12, 16, 9, 9, 9, 9, 2, 2, 2, 18), (4, 0, 2))]))
    found = rewritten(tmp_path, source, "dat")
    assert found.path.read_bytes() == dat(
        [(name, 1, [1, 2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 9])], chunks=2, dataset="text.txt"
    )


def test_older_form_equals_an_independent_writer(tmp_path: Path) -> None:
    entries = sorted(VECTORS)
    found = rewritten(tmp_path, opened(tmp_path, imatrix_gguf(entries, keys(imatrix_chunk_count=u32(1)))), "dat")
    assert found.path.read_bytes() == as_dat(entries, 4)


def test_the_gguf_package_reads_what_we_write(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    source = opened(tmp_path, imatrix_gguf(VECTORS, extra=[("blk.0.attn_q.weight.in_sum", [4], F32, floats([1] * 4))]))
    reader = gguf.GGUFReader(rewritten(tmp_path, source, "gguf").path)
    names = [tensor.name for tensor in reader.tensors]
    assert names[:5] == [
        "blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts", "blk.0.attn_q.weight.in_sum",
        "blk.1.attn_q.weight.in_sum2", "blk.1.attn_q.weight.counts",
    ]  # fmt: skip
    shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
    assert shapes["blk.1.ffn_down_exps.weight.in_sum2"] == [4, 3]
    assert shapes["blk.1.ffn_down_exps.weight.counts"] == [1, 3]
    assert shapes["output.weight.in_sum2"] == [4] and shapes["output.weight.counts"] == [1]
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32"}
    fields = {key: field.types[0].name for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields == {
        "general.type": "STRING", "imatrix.datasets": "ARRAY", "imatrix.chunk_count": "UINT32",
        "imatrix.chunk_size": "UINT32",
    }  # fmt: skip


def test_signed_sums_and_extra_metadata_stay_in_gguf(tmp_path: Path) -> None:
    kv = [*keys(), ("imatrix.n_layer_nextn", u32(1)), ("imatrix.note", string("mine"))]
    source = opened(tmp_path, imatrix_gguf([("a.weight", [4, 8], [4])], kv, extra=[SIGNED]))
    found = rewritten(tmp_path, source, "gguf")
    entry = found.entry("a.weight")
    assert entry.signed is not None and entry.signed.tolist() == [[-2, 1]]
    assert found.nextn_layers == 1 and dict(found.extra) == {"imatrix.n_layer_nextn": 1, "imatrix.note": "mine"}
    assert losses(matrices_of(source), "gguf") == ()


def test_what_the_older_form_loses_is_said(tmp_path: Path) -> None:
    kv = [*keys(imatrix_chunk_size=u32(1000)), ("imatrix.note", string("mine"))]
    kv[1] = ("imatrix.datasets", kv[1][1])
    entries: list[Entry] = [
        ("a.weight", [4, 8], [1500]),
        ("blk.0.x_exps.weight", [4] * 3, [1000, 0, 500]),
        ("idle.weight", [0], [0]),
    ]
    said = "\n".join(losses(matrices_of(opened(tmp_path, imatrix_gguf(entries, kv, extra=[SIGNED]))), "dat"))
    for words in (
        "idle.weight: no token came by", "blk.0.x_exps.weight[1]: not reached", "a.weight: the signed sums",
        "blk.0.x_exps.weight: how many tokens each matrix saw", "a.weight: tokens are rounded up",
        "blk.0.x_exps.weight: the older form does not say how many", "--chunk-size 1000", "imatrix.note",
    ):  # fmt: skip
        assert words in said, words


def test_several_data_sets(tmp_path: Path) -> None:
    from support_gguf import array

    source = opened(tmp_path, imatrix_gguf([("a.weight", [4], [4])], keys(imatrix_datasets=array(8, ["x", "y", "z"]))))
    assert rewritten(tmp_path, source, "gguf").datasets == ("x", "y", "z")
    assert rewritten(tmp_path, source, "dat").datasets == ("z",)
    assert any("lost: x, y" in line for line in losses(matrices_of(source), "dat"))


def test_counts_that_float32_cannot_hold(tmp_path: Path) -> None:
    source = opened(tmp_path, dat([("a.weight", 40_001, [1.0]), ("b.weight", 40_000, [1.0])]), chunk_size=513)
    (line,) = losses(matrices_of(source, 513), "gguf")
    assert line.startswith("a.weight: token counts above 16,777,216")


@pytest.mark.parametrize(
    ("raw", "form", "words"),
    [
        (dat([("n" * 56, 1, [1.0])]), "gguf", "has 56 bytes, a GGUF file holds 55"),
        (dat([("a.weight", 1, [3e38])]), "gguf", "'a.weight', matrix 0, column 0: 1.536e.41 does not fit"),
        (imatrix_gguf([("a.weight", [0], [0])]), "dat", "no entry has any token"),
        (imatrix_gguf([("a.weight", [1], [4e9])], keys(imatrix_chunk_size=u32(1))), "dat", "too many values or chunks"),
        (imatrix_gguf([("a.weight", [1], [4])], keys(imatrix_chunk_count=u32(0xFFFFFFFF))), "dat", "cannot be stored"),
        (dat([("a.weight", 1, [1.0]), ("b.weight", 1, [1.0, -1.0])]), "gguf", "'b.weight', column 1: -1 is not a sum"),
    ],
)
def test_refused_and_nothing_left_behind(tmp_path: Path, raw: bytes, form: str, words: str) -> None:
    source = opened(tmp_path, raw)
    with pytest.raises(ImatrixError, match=words):
        write_imatrix(tmp_path / "out", matrices_of(source), form)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_output_that_exists_stays(tmp_path: Path) -> None:
    source = opened(tmp_path, dat([("a.weight", 1, [1.0])]))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError):
        write_imatrix(tmp_path / "out", matrices_of(source), "dat")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_form_follows_the_suffix_unless_it_is_said() -> None:
    assert format_of(Path("x.GGUF"), None) == "gguf" and format_of(Path("x.gguf"), "dat") == "dat"
    for path, wanted in (("x.imatrix", None), ("x", None), ("x.dat", "npz")):
        with pytest.raises(UsageError):
            format_of(Path(path), wanted)


_MEANS = st.floats(2.0**-60, 2.0**60, width=32) | st.just(0.0)
_NAMES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12), unique=True)


@st.composite
def _older(draw: st.DrawFn) -> bytes:
    names = sorted({f"{name}.weight" for name in draw(_NAMES)} | {"a.weight"}, key=str.encode)
    values = [draw(st.lists(_MEANS, min_size=1, max_size=5)) for _ in names]
    calls = [draw(st.integers(1, 70_000)) for _ in names]
    return dat(list(zip(names, calls, values, strict=True)), chunks=draw(st.integers(0, 9)), dataset=draw(st.text()))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(_older(), st.sampled_from([1, 64, 512, 4096]))
def test_the_older_form_survives_gguf(tmp_path_factory: pytest.TempPathFactory, raw: bytes, chunk_size: int) -> None:
    """To the last bit where chunks are powers of two, which float32 multiplies exactly."""
    folder = tmp_path_factory.mktemp("x")
    there = rewritten(folder, opened(folder, raw, chunk_size=chunk_size), "gguf", chunk_size)
    assert there.chunk_size == chunk_size
    assert rewritten(folder, there, "dat").path.read_bytes() == raw


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(_older(), st.integers(1, 5000))
def test_with_any_chunk_size_the_means_stay(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, chunk_size: int
) -> None:
    folder = tmp_path_factory.mktemp("x")
    source = opened(folder, raw, chunk_size=chunk_size)
    there = rewritten(folder, source, "gguf", chunk_size)
    back = rewritten(folder, there, "dat", chunk_size)
    assert struct.unpack_from("<i", back.path.read_bytes())[0] == len(source.names) == len(there.names)
    for name in source.names:
        assert (back.counts(name) == source.counts(name)).all()
        for found in (there, back):
            np.testing.assert_allclose(found.mean_squares(name), source.mean_squares(name), rtol=3e-7)


@st.composite
def _entries(draw: st.DrawFn) -> Sequence[Entry]:
    """Entries whose tokens are whole chunks of 4, all matrices alike or not reached: what the older form can hold."""
    found: list[Entry] = []
    for layer in range(draw(st.integers(1, 3))):
        n_mat, width, chunks = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 1 << 20))
        reached = [True, *(draw(st.booleans()) for _ in range(n_mat - 1))]
        means = st.floats(2.0**-10, 2.0**10, width=16).filter(lambda v: v != 1)
        sums = [4 * chunks * draw(means) * hit for hit in reached for _ in range(width)]
        counts = [4 * chunks * hit for hit in reached]
        found.append((f"blk.{layer}.ffn_gate_inp.weight", [4.0] * width, [4]))
        found.append((f"blk.{layer}.ffn_up_exps.weight", floats_of(sums), counts))
    return found


def floats_of(values: Sequence[float]) -> list[float]:
    return [float(np.float32(v)) for v in values]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(_entries())
def test_experts_survive_the_older_form(tmp_path_factory: pytest.TempPathFactory, entries: Sequence[Entry]) -> None:
    folder = tmp_path_factory.mktemp("x")
    source = opened(folder, imatrix_gguf(entries))
    older = rewritten(folder, source, "dat", 4)
    write_imatrix(folder / "back.gguf", matrices_of(older.with_experts(older.inferred_experts()), 4), "gguf")
    back = open_imatrix(folder / "back.gguf")
    assert set(back.names) == set(source.names)
    for name in source.names:
        assert (back.counts(name) == source.counts(name)).all()
        np.testing.assert_allclose(back.entry(name).sums, source.entry(name).sums, rtol=2e-7)


def libggml_gguf(path: Path) -> dict[str, int] | None:
    """Tensor names and bytes as libggml's own reader sees them, None if it refuses the file."""
    import ctypes

    from support_libggml import libggml

    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    lib = libggml()
    lib.gguf_init_from_file.restype = ctypes.c_void_p
    lib.gguf_init_from_file.argtypes = (ctypes.c_char_p, Parameters)
    lib.gguf_get_n_tensors.restype, lib.gguf_get_n_tensors.argtypes = ctypes.c_int64, (ctypes.c_void_p,)
    for function, result in ((lib.gguf_get_tensor_name, ctypes.c_char_p), (lib.gguf_get_tensor_size, ctypes.c_size_t)):
        function.restype, function.argtypes = result, (ctypes.c_void_p, ctypes.c_int64)
    lib.gguf_find_key.restype, lib.gguf_find_key.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_char_p)
    lib.gguf_get_kv_type.restype, lib.gguf_get_kv_type.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_int64)
    lib.gguf_free.argtypes = (ctypes.c_void_p,)
    held = lib.gguf_init_from_file(str(path).encode(), Parameters(True, None))
    if not held:
        return None
    types = {"imatrix.datasets": 9, "imatrix.chunk_count": 4, "imatrix.chunk_size": 4, "general.type": 8}
    for key, number in types.items():
        assert lib.gguf_get_kv_type(held, lib.gguf_find_key(held, key.encode())) == number
    found = {}
    for i in range(lib.gguf_get_n_tensors(held)):
        found[lib.gguf_get_tensor_name(held, i).decode()] = lib.gguf_get_tensor_size(held, i)
    lib.gguf_free(held)
    return found


def test_libggml_reads_what_we_write(tmp_path: Path) -> None:
    long = "n" * 55
    source = opened(tmp_path, imatrix_gguf([*VECTORS, ("a.weight", (1, 2), (1,))], extra=[SIGNED]))
    found = libggml_gguf(rewritten(tmp_path, source, "gguf").path)
    assert found is not None and found["a.weight.in_sum"] == found["a.weight.in_sum2"] == 8
    assert found["blk.1.ffn_down_exps.weight.in_sum2"] == 48 and found["blk.1.ffn_down_exps.weight.counts"] == 12
    assert list(found) == [tensor for name in sorted({n for n, _, _ in VECTORS} | {"a.weight"}) for tensor in (
        f"{name}.in_sum2", f"{name}.counts", *([f"{name}.in_sum"] if name == "a.weight" else [])
    )]  # fmt: skip
    source = opened(tmp_path, dat([(long, 1, [1.0])]))
    assert list(libggml_gguf(rewritten(tmp_path, source, "gguf").path) or ()) == [f"{long}.in_sum2", f"{long}.counts"]
    (tmp_path / "longer.gguf").write_bytes(imatrix_gguf([(f"{long}n", (1,), (1,))]))
    assert libggml_gguf(tmp_path / "longer.gguf") is None  # why such names are refused
