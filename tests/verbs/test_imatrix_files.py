"""Importance matrices converted and merged as library functions: what comes out, what is said, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_gguf import array, gguf, string, u32
from support_imatrix import F32, VECTORS, Entry, as_dat, dat, floats, imatrix_gguf, keys

import gguftool
from gguftool.errors import FormatError, ImatrixError, UsageError
from gguftool.imatrix.file import open_imatrix

EXPERTS = "blk.1.ffn_up_exps.weight"
ROUTED: tuple[Entry, ...] = (
    (EXPERTS, (4, 8, 12, 16, 0, 0, 0, 0, 2, 2, 2, 18), (4, 0, 2)),
    ("blk.1.ffn_gate_inp.weight", (4, 4, 4, 4), (4,)),
)


def put(folder: Path, name: str, raw: bytes) -> Path:
    (folder / name).write_bytes(raw)
    return folder / name


def model_file(folder: Path, tensors: Sequence[tuple[str, list[int]]]) -> Path:
    """A model of zeros; shapes in ggml's order."""
    kv = [("general.architecture", string("llama"))]
    return put(folder, "model.gguf", gguf(kv, [(n, ne, F32, bytes(4 * int(np.prod(ne)))) for n, ne in tensors]))


@pytest.mark.parametrize("model", ["llama-11m", "moe-8m"])
def test_older_form_there_and_back(shared: Path, tmp_path: Path, model: str) -> None:
    source = shared / "imatrix" / f"prose-{model}.imatrix.dat"
    there = gguftool.convert_imatrix(source, tmp_path / "x.gguf")
    back = gguftool.convert_imatrix(there.path, tmp_path / "x.dat")
    assert back.path.read_bytes() == source.read_bytes()
    assert there.lost == () and any("chunk size" in note for note in there.notes) and there.chunk_count == 200


def test_dense_gguf_there_and_back(shared: Path, tmp_path: Path) -> None:
    source = shared / "imatrix" / "prose-llama-11m.imatrix.gguf"
    there = gguftool.convert_imatrix(source, tmp_path / "x.dat")
    assert there.lost == () and (there.format, there.n_entries, there.datasets) == ("dat", 84, ("calibration.txt",))
    assert gguftool.convert_imatrix(there.path, tmp_path / "x.gguf").path.read_bytes() == source.read_bytes()


def test_gguf_with_experts_there_and_back_keeps_the_means(shared: Path, tmp_path: Path) -> None:
    source = shared / "imatrix" / "prose-moe-8m.imatrix.gguf"
    there = gguftool.convert_imatrix(source, tmp_path / "x.dat")
    assert len(there.lost) == 1 and "how many tokens each matrix saw is lost" in there.lost[0]
    gguftool.convert_imatrix(there.path, tmp_path / "x.gguf")
    with open_imatrix(source) as a, open_imatrix(tmp_path / "x.gguf") as b:
        for name in a.names:
            assert a.shape(name) == b.shape(name)
            np.testing.assert_allclose(b.mean_squares(name), a.mean_squares(name), rtol=2e-7)
            if a.shape(name)[0] == 1:
                assert (a.counts(name) == b.counts(name)).all()


def test_conversion_agrees_with_the_other_form_of_the_same_run(shared: Path, tmp_path: Path) -> None:
    gguftool.convert_imatrix(shared / "imatrix" / "prose-moe-8m.imatrix.gguf", tmp_path / "x.dat")
    theirs = (shared / "imatrix" / "prose-moe-8m.imatrix.dat").read_bytes()
    ours = (tmp_path / "x.dat").read_bytes()
    assert len(ours) == len(theirs)
    with open_imatrix(tmp_path / "x.dat") as a, open_imatrix(shared / "imatrix" / "prose-moe-8m.imatrix.dat") as b:
        assert a.names == b.names and a.chunk_count == b.chunk_count and a.datasets == b.datasets
        for name in a.names:
            assert (a.counts(name) == b.counts(name)).all()  # the same number of calls
            np.testing.assert_allclose(a.raw_sums(name), b.raw_sums(name), rtol=2e-7)


def test_experts_from_routers_from_the_model_or_as_said(tmp_path: Path) -> None:
    older = put(tmp_path, "a.dat", as_dat(ROUTED, 4))
    model = model_file(tmp_path, [(EXPERTS, [4, 2, 3]), ("blk.1.ffn_gate_inp.weight", [4, 3])])
    ways = [{}, {"model": model}, {"experts": 3}]
    for number, options in enumerate(ways):
        done = gguftool.convert_imatrix(older, tmp_path / f"{number}.gguf", chunk_size=4, **options)
        with open_imatrix(done.path) as found:
            assert found.entry(EXPERTS).sums.tolist() == [[4, 8, 12, 16], [0] * 4, [4, 4, 4, 36]]
            assert found.counts(EXPERTS).tolist() == [4, 0, 4] and found.chunk_size == 4
        assert any("1 tensors of 3 experts" in n for n in done.notes) and any(f"{EXPERTS}[1]" in n for n in done.notes)
        assert done.lost == ()
    done = gguftool.convert_imatrix(older, tmp_path / "kept.gguf", chunk_size=4, keep_fillers=True)
    with open_imatrix(done.path) as found:
        assert found.counts(EXPERTS).tolist() == [4, 4, 4] and found.mean_squares(EXPERTS, 1).tolist() == [1] * 4
    done = gguftool.convert_imatrix(older, tmp_path / "flat.gguf", chunk_size=4, experts=1)
    with open_imatrix(done.path) as found:
        assert found.shape(EXPERTS) == (1, 12)
    with pytest.raises(ImatrixError, match="cannot be cut into 5"):
        gguftool.convert_imatrix(older, tmp_path / "x.gguf", experts=5)
    back = gguftool.convert_imatrix(tmp_path / "0.gguf", tmp_path / "back.dat")
    assert back.path.read_bytes() == as_dat(sorted(ROUTED, key=lambda entry: entry[0]), 4)[:-16] + b"\1\0\0\0" + (
        b"\x08\0\0\0text.txt"
    )


def test_a_chunk_size_that_a_file_knows_stays(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS))
    done = gguftool.convert_imatrix(source, tmp_path / "b.gguf", chunk_size=99)
    assert done.chunk_size == 4 and any("--chunk-size is not used" in line for line in done.warnings)
    source = put(tmp_path, "c.gguf", imatrix_gguf(VECTORS, keys(imatrix_chunk_size=None, imatrix_chunk_count=None)))
    done = gguftool.convert_imatrix(source, tmp_path / "d.gguf", chunk_size=2)
    assert (done.chunk_size, done.chunk_count) == (2, 4)
    for size in (0, 1 << 31):
        with pytest.raises(UsageError, match="no number of tokens"):
            gguftool.convert_imatrix(source, tmp_path / "e.gguf", chunk_size=size)


def test_what_belongs_to_no_entry_is_said(tmp_path: Path) -> None:
    extra = [("a.in_max", [1], F32, floats([1])), ("output.weight.stats", [1], F32, floats([1]))]
    source = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS, extra=extra))
    done = gguftool.convert_imatrix(source, tmp_path / "b.gguf")
    assert any("a.in_max: tensors that belong to no entry" in line for line in done.warnings)
    assert any("1 entries (.stats) left out" in line for line in done.notes)


def test_only_some_entries(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS))
    done = gguftool.convert_imatrix(source, tmp_path / "b.gguf", include=["blk.1."], exclude=["attn"])
    with open_imatrix(done.path) as found:
        assert found.names == ("blk.1.ffn_down_exps.weight",)


def test_merge_adds_sums_and_tokens(tmp_path: Path) -> None:
    name = "blk.1.ffn_down_exps.weight"
    a = put(tmp_path, "a.gguf", imatrix_gguf([(name, (4, 8, 0, 0), (4, 0)), ("b.weight", (1, 2), (1,))]))
    b = put(tmp_path, "b.gguf", imatrix_gguf([(name, (2, 2, 6, 9), (1, 3)), ("c.weight", (5,), (5,))]))
    done = gguftool.merge_imatrices([a, b], tmp_path / "m.gguf")
    with open_imatrix(done.path) as found:
        assert found.names == ("b.weight", name, "c.weight")
        entry = found.entry(name)
        assert entry.sums.tolist() == [[6, 10], [6, 9]] and entry.counts.tolist() == [5, 3]
        assert found.entry("b.weight").counts.tolist() == [1] and found.datasets == ("text.txt", "text.txt")
        assert (found.chunk_count, found.chunk_size) == (1, 4)
    assert any("b.weight, c.weight: not in every file" in line for line in done.warnings)


def test_merge_of_both_forms(shared: Path, tmp_path: Path) -> None:
    """The same run twice gives the same means, and twice the tokens."""
    files = [shared / "imatrix" / f"prose-moe-8m.imatrix.{form}" for form in ("gguf", "dat")]
    done = gguftool.merge_imatrices(files, tmp_path / "m.gguf")
    assert any("so those weights are guesses" in line for line in done.warnings) and done.chunk_count == 400
    with open_imatrix(done.path) as found, open_imatrix(files[0]) as one:
        for name in one.names:
            np.testing.assert_allclose(found.mean_squares(name), one.mean_squares(name), rtol=3e-7)
        assert found.counts("blk.0.attn_q.weight").tolist() == [204_800]


def test_artificial_ones_do_not_dilute(tmp_path: Path) -> None:
    real = put(tmp_path, "a.gguf", imatrix_gguf([(EXPERTS, [8.0] * 12, [4, 4, 4]), ROUTED[1]]))
    older = put(tmp_path, "b.dat", as_dat(ROUTED, 4))
    done = gguftool.merge_imatrices([real, older], tmp_path / "m.gguf", chunk_size=4)
    with open_imatrix(done.path) as found:
        assert found.counts(EXPERTS).tolist() == [8, 4, 8] and found.mean_squares(EXPERTS, 1).tolist() == [2] * 4


def test_a_flat_entry_meets_one_with_experts(tmp_path: Path) -> None:
    a = put(tmp_path, "a.gguf", imatrix_gguf([("x.weight", (2, 4, 6, 8), (2,))]))
    b = put(tmp_path, "b.gguf", imatrix_gguf([("x.weight", (1, 1, 1, 1), (1, 3))]))
    for order in ([a, b], [b, a]):
        done = gguftool.merge_imatrices(order, tmp_path / "m.gguf", overwrite=True)
        assert any("x.weight: a file has one token count" in line for line in done.warnings)
        with open_imatrix(done.path) as found:
            assert found.counts("x.weight").tolist() == [3, 5]
            assert found.entry("x.weight").sums.tolist() == [[3, 5], [7, 9]]


def test_weights_multiply_tokens(tmp_path: Path) -> None:
    a = put(tmp_path, "a.gguf", imatrix_gguf([("x.weight", (10, 30), (10,))]))
    b = put(tmp_path, "b.gguf", imatrix_gguf([("x.weight", (20, 10), (10,))]))
    done = gguftool.merge_imatrices([a, b], tmp_path / "m.gguf", weights=[1, 0.25])
    with open_imatrix(done.path) as found:
        assert found.counts("x.weight").tolist() == [12]
        np.testing.assert_allclose(found.mean_squares("x.weight", 0), [15 / 12.5, 32.5 / 12.5], rtol=1e-7)
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(UsageError, match="as many weights"):
            gguftool.merge_imatrices([a, b], tmp_path / "w.gguf", weights=weights)


def test_signed_sums_only_where_all_have_them(tmp_path: Path) -> None:
    signs = [(f"{name}.weight.in_sum", [2], F32, floats([-1, 1])) for name in "xy"]
    entries: list[Entry] = [("x.weight", (4, 4), (4,)), ("y.weight", (4, 4), (4,))]
    a = put(tmp_path, "a.gguf", imatrix_gguf(entries, extra=signs))
    b = put(tmp_path, "b.gguf", imatrix_gguf(entries, extra=signs[:1]))
    done = gguftool.merge_imatrices([a, b], tmp_path / "m.gguf")
    assert any(line.startswith("y.weight: not every file has signed sums") for line in done.warnings)
    with open_imatrix(done.path) as found:
        signed = found.entry("x.weight").signed
        assert signed is not None and signed.tolist() == [[-2, 2]] and found.entry("y.weight").signed is None


def test_shapes_that_disagree_are_refused_with_both(tmp_path: Path) -> None:
    a = put(tmp_path, "a.gguf", imatrix_gguf([("x.weight", (1, 2, 3, 4), (1,))]))
    b = put(tmp_path, "b.gguf", imatrix_gguf([("x.weight", (1, 2, 3), (1,))]))
    with pytest.raises(ImatrixError, match=r"'x\.weight' has 1 x 3 values, but 1 x 4 in .*a\.gguf"):
        gguftool.merge_imatrices([a, b], tmp_path / "m.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_what_is_odd_about_a_merge_is_said(tmp_path: Path) -> None:
    kv = [*keys(imatrix_chunk_size=u32(8)), ("x.note", string("b"))]
    a = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS, [*keys(), ("x.note", string("a")), ("x.same", u32(1))]))
    b = put(tmp_path, "b.gguf", imatrix_gguf(VECTORS, [*kv, ("x.same", u32(1))]))
    again = put(tmp_path, "c.gguf", a.read_bytes())
    done = gguftool.merge_imatrices([a, b, again], tmp_path / "m.gguf")
    said = "\n".join(done.warnings)
    assert "chunks of 4 tokens in a.gguf, of 8 in b.gguf: the output says 4" in said
    assert f"{again}: the same content as {a}, so it counts twice" in said
    assert "x.note: metadata with different values" in said
    with open_imatrix(done.path) as found:
        assert dict(found.extra) == {"x.same": 1}


def test_one_file_alone_is_converted(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(sorted(VECTORS), keys(imatrix_datasets=array(8, ["x", "y"]))))
    alone = gguftool.convert_imatrix(source, tmp_path / "c.gguf")
    done = gguftool.merge_imatrices([source], tmp_path / "m.gguf")
    assert done.path.read_bytes() == alone.path.read_bytes() and done.warnings == () and done.chunk_count == 2
    with pytest.raises(UsageError):
        gguftool.merge_imatrices([], tmp_path / "n.gguf")


def test_an_output_is_no_input_and_replaces_nothing(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS))
    (tmp_path / "link.gguf").symlink_to(source)
    with pytest.raises(UsageError, match="the output is an input"):
        gguftool.convert_imatrix(source, tmp_path / "link.gguf", overwrite=True)
    other = put(tmp_path, "b.gguf", b"mine")
    with pytest.raises(FileExistsError):
        gguftool.convert_imatrix(source, other)
    with pytest.raises(FormatError):
        gguftool.convert_imatrix(other, tmp_path / "c.gguf")
    assert other.read_bytes() == b"mine" and not (tmp_path / "c.gguf").exists()
    gguftool.convert_imatrix(source, other, overwrite=True)
    assert open_imatrix(other).names == tuple(sorted(name for name, _, _ in VECTORS))


_VALUES = st.integers(0, 1 << 12).map(float)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("xyz"), st.lists(_VALUES, min_size=4, max_size=4),
                      st.lists(st.integers(1, 1 << 12), min_size=2, max_size=2)),
            min_size=1, max_size=3, unique_by=lambda entry: entry[0],
        ),
        min_size=1, max_size=4,
    ),
    st.randoms(),
)  # fmt: skip
def test_merging_is_adding_in_any_order_and_grouping(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[Entry]], random: object
) -> None:
    """Whole numbers add up exactly, so the files must be equal byte for byte but for the order of data sets."""
    folder = tmp_path_factory.mktemp("m")
    files = [
        put(folder, f"{i}.gguf", imatrix_gguf(entries, keys(imatrix_datasets=array(8, []))))
        for i, entries in enumerate(contents)
    ]
    at_once = gguftool.merge_imatrices(files, folder / "all.gguf").path
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    step = shuffled[0]
    for number, file in enumerate(shuffled[1:]):
        step = gguftool.merge_imatrices([step, file], folder / f"step{number}.gguf").path
    with open_imatrix(at_once) as found:
        for name in found.names:
            held = [e for entries in contents for e in entries if e[0] == name]
            assert found.entry(name).sums.ravel().tolist() == np.sum([e[1] for e in held], axis=0).tolist()
            assert found.counts(name).tolist() == np.sum([e[2] for e in held], axis=0).tolist()
    if len(files) > 1:
        assert step.read_bytes() == at_once.read_bytes()


def test_dat_that_is_damaged_leaves_nothing(tmp_path: Path) -> None:
    source = put(tmp_path, "a.dat", dat([("a.weight", 1, [1.0] * 8), ("b.weight", 1, [float("inf")])]))
    with pytest.raises(ImatrixError, match=r"'b\.weight', column 0: inf"):
        gguftool.merge_imatrices([source, source], tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.dat"]


def test_a_merge_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Thirty tensors of 1 MiB from two files, in less memory than a third of one file."""
    import tracemalloc

    entries = [(f"blk.{i}.ffn_up.weight", np.ones(1 << 18), [4]) for i in range(30)]
    files = [put(tmp_path, f"{name}.gguf", imatrix_gguf(entries)) for name in "ab"]  # type: ignore[arg-type]
    gguftool.merge_imatrices(files, tmp_path / "m.gguf")  # imports what it needs
    tracemalloc.start()
    try:
        gguftool.merge_imatrices(files, tmp_path / "m.gguf", overwrite=True)
        gguftool.convert_imatrix(files[0], tmp_path / "m.dat")
        gguftool.repair_imatrix(files[0], tmp_path / "r.gguf")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
