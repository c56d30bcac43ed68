"""Files that lie: each gives a FormatError with a place, a reason and a way out, at once and without memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_gguf import PEAK, array, gguf, i32, number, pair, record, string, text, u32

from gguftool.errors import FormatError
from gguftool.format.reader import open_model

F32_ROW = bytes(32)
A = ("a", [8], 0, F32_ROW)
B = ("b", [8], 0, F32_ROW)
BIG = 1 << 40


def head(n_tensors: int, n_kv: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<Iqq", version, n_tensors, n_kv)


def kv(raw: bytes) -> bytes:
    """A file of one metadata entry, and room behind it."""
    return head(0, 1) + raw + bytes(64)


def tensor(raw: bytes, data: bytes = bytes(4096)) -> bytes:
    """A file of one tensor record."""
    front = head(1, 0) + raw
    return front + bytes(-len(front) % 32) + data


CASES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "empty"),
    "one byte": (b"G", "no GGUF file"),
    "another magic": (b"GGML" + bytes(100), "no GGUF file"),
    "GGML of 2023": (b"tjgg" + bytes(100), "2023"),
    "zeros at the front": (bytes(100), "interrupted"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "magic alone": (b"GGUF", "version needs 4 bytes"),
    "version 0": (head(0, 0, 0), "version 0"),
    "version 1": (head(0, 0, 1), "version 1"),
    "version 4": (head(0, 0, 4), "version 4"),
    "big-endian 3": (head(0, 0, 3 << 24), "big-endian GGUF, not supported"),
    "big-endian 2": (head(0, 0, 2 << 24), "big-endian GGUF, not supported"),
    "cut off in the counts": (head(0, 0)[:20], "counts needs 16 bytes"),
    "negative tensor count": (head(-1, 0) + bytes(100), "cannot lie"),
    "negative key count": (head(0, -1) + bytes(100), "cannot lie"),
    "2^40 keys in 40 bytes": (head(0, BIG) + bytes(16), "cannot lie"),
    "2^40 tensors in 40 bytes": (head(BIG, 0) + bytes(16), "cannot lie"),
    "2^63-1 of both": (head(2**63 - 1, 2**63 - 1) + bytes(100), "cannot lie"),
    "key longer than the file": (kv(struct.pack("<Q", BIG) + bytes(64)), "claims 1099511627776 bytes"),
    "key of 2^64-1 bytes": (kv(struct.pack("<Q", 2**64 - 1) + bytes(64)), "claims 18446744073709551615 bytes"),
    "empty key": (kv(pair("", u32(1))), "empty key"),
    "same key twice": (gguf([("k", u32(1)), ("k", u32(2))]), "'k' is there twice"),
    "value type 13": (kv(pair("k", (13, bytes(8)))), "value type 13"),
    "value type -1": (kv(pair("k", (-1, bytes(8)))), "value type -1"),
    "element type 13": (kv(pair("k", (9, struct.pack("<iQ", 13, 0)))), "value type 13"),
    "array of arrays": (kv(pair("k", array(9, [], 0))), "array of arrays"),
    "array of 2^40": (kv(pair("k", array(0, [], BIG))), "claims 1099511627776 elements"),
    "array of 2^64-1": (kv(pair("k", array(10, [], 2**64 - 1))), "claims 18446744073709551615 elements"),
    "array longer than the file": (kv(pair("k", array(10, [], 9))), "claims 9 elements, 64 bytes are left"),
    "more strings than bytes": (kv(pair("k", array(8, [], 9))), "claims 9 elements, 64 bytes are left"),
    "string beyond the end": (kv(pair("k", (8, struct.pack("<Q", 65)))), "claims 65 bytes, 64 are left"),
    "last string of an array beyond": (head(0, 1) + pair("k", array(8, ["a", "b"]))[:-1], "string 1 of 'k'"),
    "first string of an array beyond": (head(0, 1) + pair("k", array(8, [], 2)) + text("x" * 9)[:-1], "'k'"),
    "string of an array of 2^63 bytes": (
        head(0, 1) + pair("k", array(8, [], 2)) + struct.pack("<QQ", 2**63, 0), "string 1 of the 2 of 'k'",
    ),
    "cut off in a number": (head(0, 1) + pair("key", u32(1))[:-1], "value of 'key' needs 4 bytes"),
    "cut off between key and type": (head(0, 1) + text("longer key"), "type of 'longer key' needs 4 bytes"),
    "alignment 0": (gguf([("general.alignment", u32(0))]), "general.alignment is 0"),
    "alignment 24": (gguf([("general.alignment", u32(24))]), "general.alignment is 24"),
    "alignment as u64": (gguf([("general.alignment", number(10, 32))]), "(u64)"),
    "alignment as i32": (gguf([("general.alignment", i32(32))]), "(i32)"),
    "alignment as text": (gguf([("general.alignment", string("32"))]), "(string)"),
    "alignment beyond the file": (gguf([("general.alignment", u32(1 << 31))], [A]), "before its data section"),
    "name of 64 bytes": (gguf([], [("n" * 64, [8], 0, F32_ROW)]), "has 64 bytes, 63 are allowed"),
    "same name twice": (gguf([], [A, A]), "'a' is there twice"),
    "five dimensions": (tensor(record("a", [1] * 5, 0, 0)), "5 dimensions"),
    "2^31 dimensions": (tensor(record("a", [1], 0, 0, 1 << 31)), "2147483648 dimensions"),
    "negative dimension": (tensor(record("a", [-1], 0, 0)), "impossible shape [-1]"),
    "two negative dimensions": (tensor(record("a", [-4, -2], 0, 0)), "impossible shape"),
    "2^63 elements": (tensor(record("a", [1 << 32, 1 << 31], 0, 0)), "impossible shape"),
    "elements that wrap to zero": (tensor(record("a", [BIG, BIG], 0, 0)), "impossible shape"),
    "bytes that wrap to zero": (tensor(record("a", [1 << 62], 0, 0)), "ends at byte"),
    "type -1": (tensor(record("a", [8], -1, 0)), "has type -1"),
    "retired type 4": (tensor(record("a", [256], 4, 0)), "once q4_2"),
    "retired type 5": (tensor(record("a", [256], 5, 0)), "once q4_3"),
    "retired type 37": (tensor(record("a", [256], 37, 0)), "iq4_nl_4_8"),
    "retired type 38": (tensor(record("a", [256], 38, 0)), "iq4_nl_8_8"),
    "type that lives in memory": (tensor(record("a", [256], 98, 0)), "in memory only"),
    "row that blocks do not fill": (tensor(record("a", [300, 2], 12, 0)), "no multiple of 256"),
    "rows that cannot be woven": (tensor(record("a", [256, 3], 212, 0)), "has 3 rows, but q4_k_r4 weaves 4"),
    "one row that cannot be woven": (tensor(record("a", [256], 212, 0)), "has 1 rows"),
    "cut off in a record": (head(1, 0) + record("long name", [8], 0, 0)[:-1], "'long name' needs 12 bytes"),
    "cut off in a shape": (head(1, 0) + record("a long name", [8, 1], 0, 0)[:-16], "the shape of"),
    "file ends in the padding": (head(1, 0) + record("a", [0], 0, 0), "before its data section"),
    "first offset not 0": (gguf([], [A, B], offsets=[32, 64]), "'a' has offset 32, 0 is expected"),
    "gap": (gguf([], [A, B], offsets=[0, 64]) + bytes(64), "'b' has offset 64, 32 is expected"),
    "overlap": (gguf([], [A, B], offsets=[0, 0]), "'b' has offset 0, 32 is expected"),
    "reordered": (gguf([], [A, B], offsets=[32, 0]), "'a' has offset 32, 0 is expected"),
    "offset 2^64-1": (gguf([], [A, B], offsets=[0, 2**64 - 1]), "18446744073709551615"),
    "data cut off": (gguf([], [A, B])[:-1], "'b' ends at byte"),
    "laid out for another alignment": (
        gguf([("general.alignment", u32(64))], [A, B], alignment=32) + bytes(99), "'b' has offset 32, 64 is expected",
    ),
    "unknown type, unaligned neighbour": (
        gguf([], [("u", [1], 999, F32_ROW), A], offsets=[0, 33]), "'a' has offset 33, no multiple of 32",
    ),
    "unknown type, neighbour before it": (
        gguf([], [A, ("u", [1], 999, F32_ROW), B], offsets=[0, 32, 0]) + bytes(64), "no multiple of 32 above 32",
    ),
    "unknown type beyond the end": (gguf([], [A, ("u", [1], 999, F32_ROW)])[:-40], "ends at byte"),
    "unknown type without bytes": (gguf([], [A, ("u", [1], 999, b"")]), "has no bytes"),
    "no sum after a known tensor again": (
        gguf([], [("u", [1], 999, F32_ROW), A, B], offsets=[0, 64, 128]) + bytes(128),
        "'b' has offset 128, 96 is expected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused(case: str, tmp_path: Path) -> None:
    raw, reason = CASES[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        open_model(path)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert caught.value.path == str(path)
    assert case in {"empty file"} or ": " in caught.value.reason, "no way out is shown"


def test_names_cannot_break_the_line_or_fill_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(gguf([("a\n\x1b[31m" + "x" * 10_000, (13, bytes(8)))]))
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_of_a_big_endian_file_nothing_follows_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    ends: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: (ends.append(n + at), pread(fd, n, at))[1])
    path = tmp_path / "big.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">Iqq", 3, 1, 1) + bytes(1000))
    with pytest.raises(FormatError, match="big-endian"):
        open_model(path)
    assert max(ends) == 8


_CLAIMS = """
import sys
from gguftool import FormatError, open_model
before = peak()
for path in sys.argv[1:]:
    try:
        open_model(path)
    except FormatError:
        continue
    sys.exit(f"{path} opened")
print(peak() - before)
"""


def test_claims_cost_no_memory(tmp_path: Path) -> None:
    paths = []
    for i, (raw, _) in enumerate(CASES.values()):
        paths.append(tmp_path / f"{i}.gguf")
        paths[-1].write_bytes(raw)
    command = [sys.executable, "-c", PEAK + _CLAIMS, *map(str, paths)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert grown < 20e6


VALID = gguf(
    [
        ("general.architecture", string("llama")),
        ("general.alignment", u32(64)),
        ("llama.block_count", u32(1)),
        ("tokens", array(8, ["a", "bc", ""])),
        ("scores", array(6, [0.5, 1.5])),
        ("flag", number(7, True)),
        ("split.count", number(2, 0)),
    ],
    [("blk.0.attn_q.weight", [256, 2], 12, bytes(288)), ("new", [3], 999, bytes(9)), ("norm", [8], 0, F32_ROW)],
    alignment=64,
)


def _opens_or_is_refused(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    try:
        with open_model(path) as model:
            for value in model.metadata.values():
                repr(value)
            for tensor in model.tensors:
                assert len(model.read(tensor)) == tensor.nbytes
    except FormatError:
        pass


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.gguf"


def test_every_truncation(scratch: Path) -> None:
    for end in range(len(VALID)):
        _opens_or_is_refused(scratch, VALID[:end])


EDIT = st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=9), st.integers(0, 9))
NUMBER = st.sampled_from([2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 0, 1, 7, 13, 255])


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_bytes_replaced_inserted_and_removed(scratch: Path, edits: list[tuple[int, bytes, int]]) -> None:
    raw = VALID
    for at, new, removed in edits:
        raw = raw[:at] + new + raw[at + removed :]
    _opens_or_is_refused(scratch, raw)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, 500), number=NUMBER)
def test_words_replaced_by_extreme_numbers(scratch: Path, at: int, number: int) -> None:
    _opens_or_is_refused(scratch, VALID[:at] + struct.pack("<Q", number) + VALID[at + 8 :])


@settings(max_examples=300, deadline=None)
@given(tail=st.binary(max_size=200), n_tensors=st.integers(0, 3), n_kv=st.integers(0, 3))
def test_noise_behind_a_right_front(scratch: Path, tail: bytes, n_tensors: int, n_kv: int) -> None:
    _opens_or_is_refused(scratch, head(n_tensors, n_kv) + tail)
