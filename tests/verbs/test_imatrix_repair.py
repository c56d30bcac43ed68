"""A repaired file: its holes filled and noted, what is bad named, nothing made up without a word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from support_gguf import gguf, string
from support_imatrix import F32, Entry, as_dat, dat, floats, imatrix_gguf

import gguftool
from gguftool.errors import ImatrixError, UsageError
from gguftool.imatrix.file import open_imatrix
from gguftool.verbs.imatrix_repair import PROVENANCE

UP, DOWN, SOLE = (f"blk.0.ffn_{kind}_exps.weight" for kind in ("up", "down", "other"))
HOLES: tuple[Entry, ...] = ((SOLE, (4, 8, 0, 0, 12, 0), (4, 0, 4)), ("blk.0.ffn_gate_inp.weight", (4, 4), (4,)))


def put(folder: Path, name: str, raw: bytes) -> Path:
    (folder / name).write_bytes(raw)
    return folder / name


def model_file(folder: Path, tensors: Sequence[tuple[str, list[int]]]) -> Path:
    kv = [("general.architecture", string("llama"))]
    return put(folder, "model.gguf", gguf(kv, [(n, ne, F32, bytes(4 * math.prod(ne))) for n, ne in tensors]))


def test_repairs_are_written_and_noted(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(HOLES))
    done = gguftool.repair_imatrix(source, tmp_path / "b.gguf")
    assert [(r.name, r.matrices, r.way) for r in done.repairs] == [(SOLE, (1,), "mean")]
    with open_imatrix(done.written.path) as found:
        assert found.mean_squares(SOLE, 1).tolist() == [2, 1] and found.counts(SOLE).tolist() == [4, 1, 4]
        assert found.extra[PROVENANCE] == [f"{SOLE}[1]: mean, the mean of its 2 reached"]
    again = gguftool.repair_imatrix(done.written.path, tmp_path / "c.gguf")
    assert again.repairs == () and again.written.path.read_bytes() == done.written.path.read_bytes()


def test_the_older_form_says_so_in_its_data_set(tmp_path: Path) -> None:
    up: Entry = (UP, (1, 2, 0, 0, 2, 4), (1, 0, 2))
    source = put(tmp_path, "a.dat", as_dat([(DOWN, *HOLES[0][1:]), HOLES[1], up], 4))
    done = gguftool.repair_imatrix(source, tmp_path / "b.dat", missing="ones")
    assert {(r.name, r.matrices, r.way) for r in done.repairs} == {(DOWN, (1,), "ones"), (UP, (1,), "ones")}
    with open_imatrix(done.written.path) as found:
        assert found.datasets == ("text.txt (repaired by gguftool: ones)",)


def test_weights_of_a_model_without_entry(tmp_path: Path) -> None:
    widths = {"token_embd": [2, 5], "output": [2, 5], "blk.0.attn_norm": [2], "blk.0.ffn_gate": [2, 3],
              "blk.0.ffn_up": [2, 3], "blk.0.ffn_down": [3, 2]}  # fmt: skip
    weights = [(f"{name}.weight", ne) for name, ne in widths.items()]
    model = model_file(tmp_path, weights)
    source = put(tmp_path, "a.dat", dat([("blk.0.ffn_up.weight", 2, [2.0, 4.0])]))
    done = gguftool.repair_imatrix(source, tmp_path / "b.gguf", model=model, missing="mean")
    assert [(r.name, r.way) for r in done.repairs] == [
        ("blk.0.ffn_down.weight", "left"), ("blk.0.ffn_gate.weight", "same input")
    ]  # fmt: skip
    assert any("blk.0.ffn_down.weight: nothing to fill it with" in line for line in done.written.warnings)
    assert any("output.weight (recorded with" in line and "none is made up" in line for line in done.written.notes)
    with open_imatrix(done.written.path) as found:
        assert found.names == ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
        assert found.mean_squares("blk.0.ffn_gate.weight", 0).tolist() == [1, 2]
    done = gguftool.repair_imatrix(source, tmp_path / "c.gguf", model=model, missing=["mean", "ones"], exclude=["gate"])
    assert [(r.name, r.way) for r in done.repairs] == [("blk.0.ffn_down.weight", "ones")]


def test_an_entry_of_another_width_is_of_another_model(tmp_path: Path) -> None:
    model = model_file(tmp_path, [("blk.0.ffn_up.weight", [4, 3])])
    source = put(tmp_path, "a.dat", dat([("blk.0.ffn_up.weight", 2, [2.0, 4.0])]))
    with pytest.raises(ImatrixError, match="1 x 2 values, the model's weight takes 1 x 4"):
        gguftool.repair_imatrix(source, tmp_path / "b.gguf", model=model)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_bad_values_are_refused_or_replaced_when_asked(tmp_path: Path, bad: float) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf([(SOLE, (4, 8, 1, bad, 12, 0), (4, 1, 4)), ("b.weight", (1,), (1,))]))
    with pytest.raises(ImatrixError, match=r"matrix 1, column 1: .* is not a sum"):
        gguftool.repair_imatrix(source, tmp_path / "b.gguf")
    assert not (tmp_path / "b.gguf").exists()
    done = gguftool.repair_imatrix(source, tmp_path / "b.gguf", bad_values="missing")
    assert [(r.name, r.matrices, r.way) for r in done.repairs] == [(SOLE, (1,), "mean")]
    assert any(f"'{SOLE}', matrix 1, column 1: {bad:g}" in line for line in done.written.warnings)
    with open_imatrix(done.written.path) as found:
        assert found.mean_squares(SOLE).tolist() == [[1, 2], [2, 1], [3, 0]]
        assert found.check_values() == ()


def test_bad_signed_sums_and_bad_values_of_the_older_form(tmp_path: Path) -> None:
    extra = [("a.weight.in_sum", [2], F32, floats([math.nan, 0]))]
    source = put(
        tmp_path, "a.gguf", imatrix_gguf([("a.weight", (1, 1), (1,)), ("b.weight", (1, 1), (1,))], extra=extra)
    )
    done = gguftool.repair_imatrix(source, tmp_path / "b.gguf", bad_values="missing", missing="ones")
    with open_imatrix(done.written.path) as found:
        assert found.mean_squares("a.weight").tolist() == [[1, 1]] and found.check_values() == ()
    source = put(
        tmp_path, "a.dat", dat([("blk.0.attn_q.weight", 2, [2.0, math.nan]), ("blk.0.attn_v.weight", 2, [2, 4])])
    )
    done = gguftool.repair_imatrix(source, tmp_path / "c.dat", bad_values="missing")
    assert [(r.name, r.way) for r in done.repairs] == [("blk.0.attn_q.weight", "same input")]
    with open_imatrix(done.written.path) as found:
        assert found.mean_squares("blk.0.attn_q.weight", 0).tolist() == [1, 2]


def test_experts_that_were_hardly_reached(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf([(SOLE, (400, 800, 9, 9, 400, 400), (400, 1, 200))]))
    done = gguftool.repair_imatrix(source, tmp_path / "b.gguf", min_tokens=10)
    assert [(r.name, r.matrices) for r in done.repairs] == [(SOLE, (1,))]
    with open_imatrix(done.written.path) as found:
        assert found.mean_squares(SOLE, 1).tolist() == pytest.approx([800 / 600, 2])


def test_misuse(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(HOLES))
    for options in ({"missing": "median"}, {"bad_values": "ignore"}, {"min_tokens": 0}):
        with pytest.raises(UsageError):
            gguftool.repair_imatrix(source, tmp_path / "b.gguf", **options)  # type: ignore[arg-type]


def test_real_model_with_a_file_like_ik_makes(shared: Path, tmp_path: Path) -> None:
    """Without gate, key and value, which see what up and query see: all of it comes back to the last bit."""
    source = shared / "imatrix" / "prose-llama-11m.imatrix.dat"
    poor = gguftool.convert_imatrix(source, tmp_path / "poor.dat", exclude=["ffn_gate", "attn_k", "attn_v"]).path
    model = shared / "models" / "prose-llama-11m-f16.gguf"
    done = gguftool.repair_imatrix(poor, tmp_path / "rich.dat", model=model, missing="error")
    assert len(done.repairs) == 36 and {r.way for r in done.repairs} == {"same input"}
    with open_imatrix(source) as a, open_imatrix(done.written.path) as b:
        for name in a.names:
            assert (a.mean_squares(name) == b.mean_squares(name)).all()
