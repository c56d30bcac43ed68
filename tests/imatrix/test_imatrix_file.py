"""Both forms of an importance matrix give the same means, lazily, and name what stands in for what."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from support_gguf import PEAK, i32, string
from support_imatrix import F32, VECTORS, as_dat, dat, floats, imatrix_gguf, keys, pair

from gguftool.errors import ImatrixError
from gguftool.imatrix.file import Imatrix, open_imatrix


def opened(tmp_path: Path, raw: bytes, name: str = "x.imatrix", **options: object) -> Imatrix:
    path = tmp_path / name
    path.write_bytes(raw)
    return open_imatrix(path, **options)  # type: ignore[arg-type]


def test_gguf_form(tmp_path: Path) -> None:
    found = opened(tmp_path, imatrix_gguf(VECTORS))
    assert found.format == "gguf" and found.datasets == ("text.txt",)
    assert (found.chunk_count, found.chunk_size, found.warnings) == (2, 4, ())
    assert found.names == tuple(name for name, _, _ in VECTORS)
    assert found.shape("blk.1.ffn_down_exps.weight") == (3, 4)
    entry = found.entry("blk.1.ffn_down_exps.weight")
    assert entry.sums.dtype == np.float64 and entry.counts.tolist() == [4, 0, 2] and entry.signed is None
    expected = [[1, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 9]]
    assert entry.mean_squares.tolist() == expected
    assert found.mean_squares(entry.name).tolist() == expected
    assert found.mean_squares(entry.name, 2).tolist() == expected[2]
    with pytest.raises(IndexError):
        found.mean_squares(entry.name, 3)
    with pytest.raises(KeyError):
        found.shape("blk.9.attn_q.weight")


def test_older_form(tmp_path: Path) -> None:
    found = opened(tmp_path, dat([("a.weight", 2, [2, 4]), ("b.weight", 5, [1, 2, 3])], chunks=7), chunk_size=100)
    assert (found.format, found.datasets, found.chunk_count, found.chunk_size) == ("dat", ("text.txt",), 7, 100)
    assert found.mean_squares("a.weight", 0).tolist() == [1, 2]
    assert found.mean_squares("b.weight", 0).tolist() == [1 / 5, 2 / 5, 3 / 5]
    entry = found.entry("b.weight")  # the normal form: counts = calls * chunk size, sums = value * chunk size
    assert entry.counts.tolist() == [500] and entry.sums.tolist() == [[100, 200, 300]]
    assert found.counts("a.weight").tolist() == [200] and found.tokens("a.weight") is None


@pytest.mark.parametrize(("chunks", "dataset"), [(None, None), (3, None), (3, "")])
def test_older_form_without_a_full_trailer(tmp_path: Path, chunks: int | None, dataset: str | None) -> None:
    found = opened(tmp_path, dat([("a.weight", 1, [1.0])], chunks=chunks, dataset=dataset))
    assert (found.chunk_count, found.datasets, found.warnings) == (chunks, (), ())


def test_what_follows_the_trailer_is_ignored(tmp_path: Path) -> None:
    assert opened(tmp_path, dat([("a.weight", 1, [1.0])]) + b"more").datasets == ("text.txt",)


def test_forms_are_told_apart_by_content(tmp_path: Path) -> None:
    assert opened(tmp_path, imatrix_gguf(VECTORS), "x.dat").format == "gguf"
    assert opened(tmp_path, dat([("a.weight", 1, [1.0])]), "x.gguf").format == "dat"


@pytest.mark.parametrize("model", ["llama-11m", "moe-8m"])
def test_real_pairs_agree(shared: Path, model: str) -> None:
    gguf = open_imatrix(shared / "imatrix" / f"prose-{model}.imatrix.gguf")
    older = open_imatrix(shared / "imatrix" / f"prose-{model}.imatrix.dat")
    assert set(gguf.names) == set(older.names) and gguf.datasets == older.datasets == ("calibration.txt",)
    assert gguf.chunk_count == older.chunk_count == 200
    for name in gguf.names:
        n_mat, n_cols = gguf.shape(name)
        assert older.shape(name) == (1, n_mat * n_cols)
        cut = older.mean_squares(name, n_mat=n_mat)
        np.testing.assert_allclose(cut, gguf.mean_squares(name), rtol=2e-7)
        for matrix in range(n_mat):
            assert (older.mean_squares(name, matrix, n_mat=n_mat) == cut[matrix]).all()
    experts = {name: gguf.shape(name)[0] for name in gguf.names if gguf.shape(name)[0] > 1}
    assert older.inferred_experts() == experts and gguf.inferred_experts() == {}
    assert {n: older.with_experts(experts).shape(n) for n in gguf.names} == {n: gguf.shape(n) for n in gguf.names}


def test_experts_that_the_older_form_fills_in_count_as_not_reached(tmp_path: Path) -> None:
    found = opened(tmp_path, as_dat(VECTORS, 4), chunk_size=4)
    name = "blk.1.ffn_down_exps.weight"
    assert found.mean_squares(name, 0)[4:8].tolist() == [1, 1, 1, 1]
    assert found.mean_squares(name, n_mat=3).tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 9]]
    assert found.with_experts({name: 3}).counts(name).tolist() == [4, 0, 4]
    assert found.shape(name) == (1, 12)
    with pytest.raises(ImatrixError, match="1 x 12 values, which cannot be cut into 5"):
        found.mean_squares(name, n_mat=5)


def test_a_flat_gguf_entry_is_cut_without_any_filler(tmp_path: Path) -> None:
    found = opened(tmp_path, imatrix_gguf([("blk.0.attn_k_b.weight", [4, 4, 8, 16], [4])]))
    assert found.mean_squares("blk.0.attn_k_b.weight", n_mat=2).tolist() == [[1, 1], [2, 4]]
    assert found.mean_squares("blk.0.attn_k_b.weight", 0, n_mat=2).tolist() == [1, 1]


def test_extensions_of_the_fork(tmp_path: Path) -> None:
    signed = ("a.weight.in_sum", [2, 1], F32, floats([-2, 1]))
    stats = ("a.weight.stats", [12], F32, floats(range(12)))
    other = ("a.weight.in_max", [2], F32, floats([1, 2]))
    found = opened(tmp_path, imatrix_gguf([("a.weight", [4, 8], [4])], extra=[signed, stats, other]))
    entry = found.entry("a.weight")
    assert entry.signed is not None and entry.signed.tolist() == [[-2, 1]]
    assert found.names == ("a.weight",) and found.ignored == ("a.weight.in_max",)
    assert found.check_values() == ()


def test_names_that_contain_a_suffix(tmp_path: Path) -> None:
    found = opened(tmp_path, imatrix_gguf([("a.in_sum", [4], [4]), ("a", [1], [1])]))
    assert set(found.names) == {"a.in_sum", "a"}


def test_hash_is_that_of_the_file(tmp_path: Path) -> None:
    raw = dat([("a.weight", 1, [1.0])])
    assert opened(tmp_path, raw).sha256 == hashlib.sha256(raw).hexdigest()


def test_filters_are_substrings(tmp_path: Path) -> None:
    raw = imatrix_gguf(VECTORS)
    assert opened(tmp_path, raw, include=["blk.1."]).names == ("blk.1.attn_q.weight", "blk.1.ffn_down_exps.weight")
    assert opened(tmp_path, raw, exclude=["blk.", "none"]).names == ("output.weight",)
    assert opened(tmp_path, raw).filtered(["blk.1.", "out"], ["exps"]).names == ("blk.1.attn_q.weight", "output.weight")


@pytest.mark.parametrize(
    ("tensor", "held", "entry"),
    [
        ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_up.weight"),
        ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_up_exps.weight"),
        ("blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_up_exps.weight", "blk.0.ffn_gate_up_exps.weight"),
        ("blk.0.ffn_gate_up_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_up_exps.weight"),
        ("blk.0.attn_v_b.weight", "blk.0.attn_kv_b.weight", "blk.0.attn_kv_b.weight"),
        ("blk.0.attn_kv_b.weight", "blk.0.attn_v_b.weight", "blk.0.attn_v_b.weight"),
        ("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight", None),
        ("blk.0.ffn_gate.weight", "blk.1.ffn_up.weight", None),
        ("blk.0.ffn_gate.bias", "blk.0.ffn_up.weight", None),
    ],
)
def test_lookup(tmp_path: Path, tensor: str, held: str, entry: str | None) -> None:
    found = opened(tmp_path, dat([(held, 1, [1.0])]))
    assert found.lookup(held) == (held, None)
    answer = found.lookup(tensor)
    assert (answer and answer[0]) == entry
    assert answer is None or (answer[1] is not None and "same input" in answer[1])


def test_values_are_checked_where_they_are_read(tmp_path: Path) -> None:
    for bad, words in ((-1.0, "-1"), (float("nan"), "nan"), (float("inf"), "inf")):
        entries = [("good.weight", [1], [1]), ("bad.weight", [1, 1, 1, 1, bad, 1], [1, 1, 1])]
        found = opened(tmp_path, imatrix_gguf(entries))
        assert found.mean_squares("good.weight", 0).tolist() == [1]
        assert found.mean_squares("bad.weight", 0).tolist() == [1, 1]
        for read in (found.check_finite, found.check_values, found.stats, lambda f=found: f.entry("bad.weight")):
            with pytest.raises(ImatrixError, match=f"'bad.weight', matrix 2, column 0: {words} is not a sum"):
                read()
        older = opened(tmp_path, dat([("bad.weight", 1, [1, bad])]), "y.dat")
        with pytest.raises(ImatrixError, match=f"'bad.weight', column 1: {words}"):
            older.check_finite()


def test_sums_that_contradict_each_other_are_warned_of(tmp_path: Path) -> None:
    signed = [("a.weight.in_sum", [2], F32, floats([9, 1])), ("b.weight.in_sum", [1], F32, floats([4]))]
    found = opened(tmp_path, imatrix_gguf([("a.weight", [4, 4], [4]), ("b.weight", [4], [4])], extra=signed))
    (warning,) = found.check_values()
    assert warning.startswith("a.weight: (sum x)^2 above count * sum x^2")
    idle = opened(tmp_path, imatrix_gguf([("a.weight", [4, 4], [1, 0])]))
    assert idle.check_values()[0].startswith("a.weight: sums of squares without any token")
    assert idle.mean_squares("a.weight").tolist() == [[4], [0]]


def test_signed_sums_are_checked(tmp_path: Path) -> None:
    extra = [("a.weight.in_sum", [1], F32, floats([float("nan")]))]
    found = opened(tmp_path, imatrix_gguf([("a.weight", [4], [4])], extra=extra))
    found.check_finite()
    with pytest.raises(ImatrixError, match="nan is not a sum"):
        found.check_values()


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    found = opened(tmp_path, dat([("a.weight", 1, [1.0] * 100)]))
    (tmp_path / "x.imatrix").write_bytes(b"short")
    with pytest.raises(ImatrixError, match="became shorter"):
        found.mean_squares("a.weight")


def test_a_folder_is_no_imatrix(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_imatrix(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_imatrix(tmp_path / "none.dat")


def test_other_integer_types_and_missing_keys_are_warned_of(tmp_path: Path) -> None:
    found = opened(tmp_path, imatrix_gguf(VECTORS, keys(imatrix_chunk_size=i32(4))))
    assert found.chunk_size == 4 and "imatrix.chunk_size is stored as i32" in found.warnings[0]
    found = opened(tmp_path, imatrix_gguf(VECTORS, keys(imatrix_chunk_size=string("4"), imatrix_datasets=None)))
    assert found.chunk_size is None and found.datasets == () and len(found.warnings) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")
@pytest.mark.parametrize("form", ["dat", "gguf"])
def test_opening_reads_no_values_and_reading_reads_one_expert(tmp_path: Path, form: str) -> None:
    """A sparse file of 8 GiB opens and gives an expert in a process that may not hold 1 GiB."""
    n_entries, n_mat, n_cols = 8, 256, 1 << 20
    path = tmp_path / "large"
    with path.open("wb") as file:
        if form == "dat":
            file.write(struct.pack("<i", n_entries))
            for i in range(n_entries):
                name = f"blk.{i}.ffn_up_exps.weight".encode()
                file.write(struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, n_mat * n_cols))
                file.truncate(file.seek(4 * n_mat * n_cols, 1))
        else:
            counts = [1] * n_mat
            head = imatrix_gguf([(f"blk.{i}.ffn_up_exps.weight", [0] * n_mat, counts) for i in range(n_entries)])
            file.write(_stretched(head, n_entries, n_mat, n_cols))
            file.truncate(file.tell() + n_entries * (4 * n_mat * n_cols + 1024))
    script = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        from gguftool.imatrix.file import open_imatrix
        found = open_imatrix({str(path)!r})
        assert len(found.names) == {n_entries}
        assert found.mean_squares(found.names[-1], 7, n_mat={n_mat}).shape == ({n_cols},)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=_environment())


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}


def _stretched(head: bytes, n_entries: int, n_mat: int, n_cols: int) -> bytes:
    """The header of a file of ``n_entries`` whose sums are ``n_cols`` wide: ``head`` has them one wide."""
    from support_gguf import gguf

    tensors, offsets, at = [], [], 0
    for i in range(n_entries):
        for suffix, ne in (("in_sum2", [n_cols, n_mat]), ("counts", [1, n_mat])):
            tensors.append((f"blk.{i}.ffn_up_exps.weight.{suffix}", ne, F32, b""))
            offsets.append(at)
            at += 4 * ne[0] * ne[1]
    return gguf(keys(), tensors, offsets=offsets)


def test_streaming_check_of_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.dat"
    n = 64 << 20
    with path.open("wb") as file:
        file.write(struct.pack("<i", 1) + struct.pack("<i", 1) + b"a" + struct.pack("<ii", 1, n))
        file.truncate(file.tell() + 4 * n)
    script = f"""
        import resource, sys
        from gguftool.imatrix.file import open_imatrix
        unit = 1024 if sys.platform == "linux" else 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        open_imatrix({str(path)!r}).check_values()
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 100 << 20
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=_environment())


def test_statistics_hold_two_entries_at_a_time(tmp_path: Path) -> None:
    """Two dozen entries of 4 MiB, of one kind, each compared with the one before, none duplicated."""
    path, n = tmp_path / "large.dat", 1 << 20
    with path.open("wb") as file:
        file.write(struct.pack("<i", 24))
        for i in range(24):
            name = f"blk.{i}.ffn_up_exps.weight".encode()
            file.write(struct.pack("<i", len(name)) + name + struct.pack("<iif", 1, n, i + 1.0))
            file.truncate(file.seek(4 * (n - 1), 1))
    script = f"""
        from gguftool.imatrix.file import open_imatrix
        from gguftool.imatrix.statistics import tensor_statistics
        before = peak()
        rows = tensor_statistics(open_imatrix({str(path)!r}))
        assert [row.sum for row in rows] == list(range(1, 25)) and round(rows[-1].gain**2 * 23, 9) == 24
        assert peak() - before < 120 << 20, (peak() - before) >> 20
    """
    subprocess.run([sys.executable, "-c", PEAK + textwrap.dedent(script)], check=True, env=_environment())


def test_pair_is_what_upstream_writes() -> None:
    """The builder's own layout: sums [n_cols, n_mat], counts [1, n_mat], adjacent."""
    assert [t[1] for t in pair("a", [1, 2, 3, 4], [1, 1])] == [[2, 2], [1, 2]]
