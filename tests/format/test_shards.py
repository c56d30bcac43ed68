"""A set of shards is one model, whichever of them is named, or it is refused with what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_gguf import Tensor, Value, gguf, i32, number, split_keys, string, u16, u32, write_shards

from gguftool.errors import FormatError
from gguftool.format.reader import open_model


def tensor(name: str) -> Tensor:
    return name, [8], 24, name[-1:].encode() * 8


SET = [[tensor("a"), tensor("b")], [tensor("c")], [tensor("d"), tensor("e")]]


@pytest.mark.parametrize("named", [0, 1, 2])
def test_any_shard_stands_for_the_model(tmp_path: Path, named: int) -> None:
    paths = write_shards(tmp_path, "model", SET)
    with open_model(paths[named]) as model:
        assert model.path == paths[named]
        assert model.architecture == "llama"
        assert [shard.path for shard in model.shards] == paths
        assert [(t.name, t.shard) for t in model.tensors] == [("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 2)]
        assert [model.read(t)[:1] for t in model.tensors] == [b"a", b"b", b"c", b"d", b"e"]


def test_a_shard_can_be_looked_at_alone(tmp_path: Path) -> None:
    path = write_shards(tmp_path, "model", SET)[1]
    with open_model(path, single_shard=True) as model:
        assert [t.name for t in model.tensors] == ["c"]
        assert model.read(model.tensors[0]) == b"c" * 8


def test_a_relative_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, "model", SET)
    monkeypatch.chdir(tmp_path)
    with open_model("model-00002-of-00003.gguf") as model:
        assert len(model.tensors) == 5


def test_the_first_shard_may_hold_metadata_alone(tmp_path: Path) -> None:
    with open_model(write_shards(tmp_path, "model", [[], [tensor("a")]])[1]) as model:
        assert [t.shard for t in model.tensors] == [1]


@pytest.mark.parametrize("count", [u16(0), u16(1), u32(1)])
def test_a_count_of_0_or_1_is_no_split(tmp_path: Path, count: Value) -> None:
    path = tmp_path / "merged.gguf"
    path.write_bytes(
        gguf([("split.no", u16(2)), ("split.count", count), ("split.tensors.count", i32(9))], [tensor("a")])
    )
    with open_model(path) as model:
        assert len(model.tensors) == 1


def test_shards_may_have_alignments_of_their_own(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "model", SET)
    kv = [*split_keys(1, 3, 5), ("general.alignment", u32(128))]
    paths[1].write_bytes(gguf(kv, [tensor("c")], alignment=128))
    with open_model(paths[0]) as model:
        assert [shard.alignment for shard in model.shards] == [32, 128, 32]
        assert model.read(model.tensor("c")) == b"c" * 8


def rewrite(path: Path, kv: list[tuple[str, Value]], *names: str) -> None:
    path.write_bytes(gguf([(key, value) for key, value in kv], [tensor(name) for name in names]))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "model", SET)
    paths[1].unlink()
    with pytest.raises(FormatError, match=r"of the 3 shards model-00002-of-00003.gguf cannot be found"):
        open_model(paths[0])


def test_many_missing_shards_are_counted(tmp_path: Path) -> None:
    rewrite(tmp_path / "m-00001-of-09000.gguf", split_keys(0, 9000, 1), "a")
    with pytest.raises(FormatError, match="and 8996 more"):
        open_model(tmp_path / "m-00001-of-09000.gguf")


@pytest.mark.parametrize("name", ["renamed.gguf", "m-00001-of-00002.gguf"])
def test_a_renamed_shard_is_refused(tmp_path: Path, name: str) -> None:
    path = write_shards(tmp_path, "model", SET)[0].rename(tmp_path / name)
    with pytest.raises(FormatError, match="original names"):
        open_model(path)


NO, COUNT, TOTAL = "split.no", "split.count", "split.tensors.count"


@pytest.mark.parametrize(
    ("changes", "names", "reason"),
    [
        ({NO: u16(2)}, "c", "split.no is 2, 1 is expected"),
        ({COUNT: u16(4)}, "c", "split.count is 4, 3 is expected"),
        ({TOTAL: i32(6)}, "c", "split.tensors.count is 6, 5 is expected"),
        ({NO: u32(1)}, "c", "split.no is stored as u32, u16 is expected"),
        ({COUNT: i32(3)}, "c", "split.count is stored as i32, u16 is expected"),
        ({TOTAL: number(10, 5)}, "c", "split.tensors.count is stored as u64, i32 is expected"),
        ({NO: None}, "c", "split.no is missing"),
        ({COUNT: None}, "c", "split.count is missing"),
        ({TOTAL: None}, "c", "split.tensors.count is missing"),
        ({}, "a", "'a' is in model-00001-of-00003.gguf as well"),
        ({}, "", "without tensors"),
        ({}, "cf", "split.tensors.count says 5 tensors, the shards hold 6"),
    ],
)
def test_a_shard_that_does_not_belong_is_refused(
    tmp_path: Path, changes: dict[str, Value | None], names: str, reason: str
) -> None:
    paths = write_shards(tmp_path, "model", SET)
    keys = dict(split_keys(1, 3, 5)) | changes
    rewrite(paths[1], [(key, value) for key, value in keys.items() if value is not None], *names)
    with pytest.raises(FormatError, match=reason):
        open_model(paths[0])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (COUNT, string("3"), "split.count is stored as string"),
        (COUNT, u32(3), "split.count is stored as u32"),
        (NO, u16(1), "split.no is 1, 0 is expected"),
        (TOTAL, i32(-1), "split.tensors.count is -1, 5 is expected|split.tensors.count is 5, -1 is expected"),
    ],
)
def test_a_first_shard_that_lies_is_refused(tmp_path: Path, key: str, value: Value, reason: str) -> None:
    paths = write_shards(tmp_path, "model", SET)
    rewrite(paths[0], list((dict(split_keys(0, 3, 5)) | {key: value}).items()), "a", "b")
    with pytest.raises(FormatError, match=reason):
        open_model(paths[0])


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "model", SET)
    paths[2].write_bytes(paths[2].read_bytes()[:-30])
    with pytest.raises(FormatError, match="download complete") as caught:
        open_model(paths[0])
    assert caught.value.path == str(paths[2])


def test_no_file_stays_open_after_a_refusal(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("open files are counted through /proc")
    paths = write_shards(tmp_path, "model", SET)
    paths[2].write_bytes(b"GGUF")
    before = len(list(fds.iterdir()))
    for path in paths:
        with pytest.raises(FormatError):
            open_model(path)
    assert len(list(fds.iterdir())) == before
