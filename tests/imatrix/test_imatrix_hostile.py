"""Malformed importance matrices: each row of the list of what can be wrong, and what chance makes of valid files."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_gguf import array, gguf, i32, number, string, u32
from support_imatrix import F16, F32, VECTORS, as_dat, dat, dat_entry, floats, imatrix_gguf, keys, pair

from gguftool.errors import FormatError, ImatrixError
from gguftool.imatrix.file import Imatrix, open_imatrix

NAN, INF = float("nan"), float("inf")
GOOD = dat([("a.weight", 1, [1.0, 2.0])])
_A = [("a.weight", [1.0, 2.0], [1.0])]


def _words(value: object) -> str:
    """A case is called by the words it expects, not by its bytes."""
    return value if isinstance(value, str) else "file"


def opened(tmp_path: Path, raw: bytes) -> Imatrix:
    path = tmp_path / "x.imatrix"
    path.write_bytes(raw)
    return open_imatrix(path)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"\1\0\0", "only 3 bytes"),
        (b"GGU", "only 3 bytes"),
        (b"GGUF", "needs 4 bytes"),
        (imatrix_gguf(VECTORS)[:-200], "is the download complete"),
        (imatrix_gguf(VECTORS)[:100], "12 tensors cannot lie in the 76 bytes"),
        (b"GGUF" + GOOD, "version"),
        (dat([], n_entries=0) + bytes(40), "claims 0 entries"),
        (dat([], n_entries=-5) + bytes(40), "claims -5 entries"),
        (dat([("a", 1, [1.0])], n_entries=1 << 30), "claims 1073741824 entries, which 37 bytes cannot hold"),
        (dat([("a", 1, [1.0])], n_entries=2, chunks=None) + bytes(20), "a name of 0 bytes"),
        (struct.pack("<ii", 1, -1) + bytes(40), "a name of -1 bytes"),
        (struct.pack("<ii", 1, 0) + bytes(40), "a name of 0 bytes"),
        (struct.pack("<ii", 1, 4097) + bytes(8000), "a name of 4097 bytes"),
        (struct.pack("<ii", 1, 100) + bytes(40), "a name of 100 bytes, 40 are left"),
        (struct.pack("<i", 1) + dat_entry(b"a\0b", 1, [1.0]), "not text"),
        (struct.pack("<i", 1) + dat_entry(b"\xff\xfe", 1, [1.0]), "not text"),
        (struct.pack("<i", 1) + dat_entry("a", 1, [1.0], 0), "claims 0 values"),
        (struct.pack("<i", 1) + dat_entry("a", 1, [1.0], -1), "claims -1 values"),
        (struct.pack("<i", 1) + dat_entry("a", 1, [1.0], 2), "claims 2 values, 4 bytes are left"),
        (struct.pack("<i", 1) + dat_entry("a", 1, [1.0], (1 << 31) - 1), "claims 2147483647 values"),
        (gguf(keys()), "no importances"),
        (gguf(keys(), pair("a", [1], [1])[:1]), "'a' has .in_sum2 but no .counts"),
        (gguf(keys(), pair("a", [1], [1])[1:]), "'a' has .counts but no .in_sum2"),
        (gguf(keys(), pair("n" * 55, [1], [1])[:1]), "cuts names longer than 55 bytes"),
        (gguf(keys(), [("a.in_sum2", [2], F16, bytes(4)), pair("a", [1], [1])[1]]), "is f16, f32 is expected"),
        (gguf(keys(), [pair("a", [1], [1])[0], ("a.counts", [2], F16, bytes(4))]), "is f16, f32 is expected"),
        (gguf(keys(), pair("a", [1, 2, 3], [1, 1], 3)), "do not go with its 2 counts"),
        (gguf(keys(), pair("a", [1] * 12, [1, 1, 1], 3)), "in 4 rows, which do not go with its 3 counts"),
        (gguf(keys(), [pair("a", [1], [1])[0], ("a.counts", [1, 0], F32, b"")]), "0 counts"),
        (gguf(keys(), [("a.in_sum2", [0], F32, b""), pair("a", [1], [1])[1]]), "0 values"),
        (imatrix_gguf([("a", [1], [-1])]), "-1 is no number of tokens"),
        (imatrix_gguf([("a", [1, 1], [1, NAN])]), "matrix 1: nan is no number of tokens"),
        (imatrix_gguf([("a", [1], [INF])]), "inf is no number of tokens"),
        (imatrix_gguf([("a", [1], [1e30])]), "1e.30 is no number of tokens"),
        (imatrix_gguf(VECTORS, keys(general_type=string("model"))), "this is a model"),
        (imatrix_gguf(_A, extra=[("a.weight.in_sum", [1], F32, floats([1]))]), "2 sums of squares but 1 signed"),
        (imatrix_gguf(_A, extra=[("a.weight.in_sum", [2], F16, bytes(4))]), "is f16, f32 is expected"),
        (imatrix_gguf([("", [1], [1])]), "not text"),
        (imatrix_gguf([("a\0", [1], [1])]), "not text"),
        (imatrix_gguf([*_A, *_A]), "twice"),
    ],
    ids=_words,
)
def test_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        opened(tmp_path, raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (dat([("a.weight", 1, [1.0, 2.0])], n_entries=1)[:-3], "the end of the file is cut"),
        (dat([("a.weight", 1, [1.0, 2.0])], chunks=None) + b"\1\0", "the end of the file is cut"),
        (dat([("a.weight", 1, [1.0, 2.0])], dataset=None) + b"\1\0", "the end of the file is cut"),
        (dat([("a.weight", 1, [1.0, 2.0])], dataset=None) + struct.pack("<i", -1), "the end of the file is cut"),
        (dat([("a.weight", 1, [9.0]), ("a.weight", 1, [1.0, 2.0])]), "a.weight: more than one entry"),
        (dat([("a.weight", 0, [1.0, 2.0])]), "a.weight: no number of calls"),
        (dat([("a.weight", -3, [1.0, 2.0])]), "a.weight: no number of calls"),
        (imatrix_gguf([("a.weight", [1.5, 3.0], [1.5])]), "a.weight: fractional counts, rounded"),
        (imatrix_gguf(_A, keys(imatrix_chunk_count=number(10, 3))), "chunk_count is stored as u64"),
        (imatrix_gguf(_A, keys(imatrix_chunk_count=i32(-3))), "chunk_count is -3"),
        (imatrix_gguf(_A, keys(imatrix_chunk_size=None)), "chunk_size is missing"),
        (imatrix_gguf(_A, keys(imatrix_datasets=string("x"))), "no array of strings"),
        (imatrix_gguf(_A, keys(imatrix_datasets=array(4, [1]))), "no array of strings"),
        (imatrix_gguf(_A, keys(general_type=None)), "general.type is missing"),
        (imatrix_gguf(_A, keys(general_type=string("adapter"))), "general.type is 'adapter'"),
        (imatrix_gguf(_A, keys(general_type=u32(1))), "general.type is 1"),
    ],
    ids=_words,
)
def test_tolerated_with_a_warning(tmp_path: Path, raw: bytes, words: str) -> None:
    found = opened(tmp_path, raw)
    assert any(words in warning for warning in found.warnings), found.warnings
    means = found.mean_squares("a.weight", 0)
    assert means[1] == 2 * means[0]


def test_only_the_last_of_equal_names_counts(tmp_path: Path) -> None:
    found = opened(tmp_path, dat([("a", 1, [9.0, 9.0, 9.0]), ("a", 1, [1.0])]))
    assert found.shape("a") == (1, 1) and found.mean_squares("a", 0).tolist() == [1]


def test_a_count_that_is_missing_makes_no_mean_infinite(tmp_path: Path) -> None:
    found = opened(tmp_path, imatrix_gguf([("a", [3e38], [0.4])]))
    assert found.counts("a").tolist() == [0] and found.mean_squares("a", 0).tolist() == [0]


_SEEDS = (imatrix_gguf(VECTORS), imatrix_gguf(_A, extra=[("a.weight.in_sum", [2], F32, floats([1, -1]))]),
          as_dat(VECTORS, 4), GOOD)  # fmt: skip
_EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 1, 2, 4, 8]), st.binary(max_size=8)), min_size=1, max_size=4
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(_SEEDS), _EDITS, st.none() | st.integers(0, 1 << 20))
def test_mutations_open_or_give_a_format_error(
    seed: bytes, edits: list[tuple[int, int, bytes]], length: int | None
) -> None:
    raw = bytearray(seed)
    for at, drop, put in edits:
        at %= len(raw) + 1
        raw[at : at + drop] = put
    data = bytes(raw if length is None else raw[: length % (len(raw) + 1)])
    with tempfile.TemporaryDirectory() as folder:
        _use(Path(folder), data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.sampled_from([b"", b"GGUF\3\0\0\0", b"\1\0\0\0", b"\2\0\0\0\1\0\0\0a"]))
def test_any_bytes_open_or_give_a_format_error(raw: bytes, head: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _use(Path(folder), head + raw)


def _use(folder: Path, data: bytes) -> None:
    """Everything that reads: no error but ours, and no figure that is infinite."""
    from gguftool.imatrix.statistics import layer_statistics, tensor_statistics
    from gguftool.imatrix.upstream import upstream_layers, upstream_tensors
    from gguftool.show.showstatistics import upstream_text

    try:
        found = opened(folder, data)
        found.check_values()
        for name in found.names:
            entry = found.entry(name)
            assert entry.sums.shape == found.shape(name)
        cut = found.with_experts(found.inferred_experts())
        layer_statistics(tensor_statistics(cut))
        tensors, _ = upstream_tensors(found)
        upstream_text("x", tensors, upstream_layers(tensors))
    except ImatrixError as trouble:
        assert trouble.path.endswith("x.imatrix")
    except FormatError:
        pass
