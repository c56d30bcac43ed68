"""The check: each thing that can stand in the way gives its line, and all lines come at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support_models import keys

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import QuantType, type_by_name, unknown_type
from gguftool.plan.check import Facts, check
from gguftool.plan.importances import Importances
from gguftool.plan.moves import Move, Origin, Piece, Plan
from gguftool.recipe.filetypes import file_type_by_name

F16, Q8_0 = type_by_name("f16"), type_by_name("q8_0")
Q4_K_M = file_type_by_name("q4_k_m")


def move(
    target: str = "q8_0", *, source: QuantType = F16, shape: tuple[int, ...] = (4, 256), name: str = "blk.0.w.weight"
) -> Move:
    nbytes = source.nbytes(shape) if source.block_bytes else 64
    origin = Origin("src." + name, shape, source, nbytes, 0, 4096)
    return Move(name, shape, type_by_name(target) if target else source, (Piece(origin),))


def plan(*moves: Move) -> Plan:
    return Plan(keys(1, 256, 256), (), moves, 32)


def problems(*moves: Move, **facts: Any) -> list[str]:
    return check(plan(*moves), Facts(file_type=Q4_K_M, **facts))


class Sizes:
    names = ("e",)

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape

    def shape(self, name: str) -> tuple[int, int]:
        return self._shape

    def lookup(self, name: str) -> tuple[str, str | None] | None:
        return None


def with_importance(made: Move) -> Move:
    return replace(made, pieces=tuple(replace(p, importance="e") for p in made.pieces))


def test_nothing_in_the_way() -> None:
    assert problems(move(), move("", source=type_by_name("q4_0"), name="b")) == []


def test_the_place() -> None:
    said = problems(
        move(), existing=("/a/out", "/a/in"), is_source=("/a/in",), folder="/a", folder_trouble="no such folder"
    )
    assert [s.split(":")[0] for s in said] == ["/a/in", "/a/out", "/a"]
    assert "overwrite the input" in said[0] and "--force" in said[1] and "no such folder" in said[2]
    assert problems(move(), existing=("/a/out",), force=True) == []
    (said,) = problems(move(), existing=("/a/out",), is_folder=("/a/out",), force=True)
    assert "this is a folder" in said


def test_space() -> None:
    (said,) = problems(move(), folder="/a", free_bytes=1000)
    assert said.startswith("/a: the output takes") and "free" in said
    assert problems(move(), free_bytes=1 << 20) == []


def test_requantizing() -> None:
    made = [move("q8_0", source=type_by_name("q4_0"), name=f"t{n}.weight") for n in range(5)]
    (said,) = problems(*made)
    assert said.startswith("t0.weight, t1.weight, t2.weight and 2 more: already quantized (q4_0)")
    assert problems(*made, allow_requantize=True) == []


@pytest.mark.parametrize("native", [True, False])
def test_missing_kernels(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(dispatch, "can_encode", lambda kind: kind.name != "iq3_s")
    monkeypatch.setattr(dispatch, "can_decode", lambda kind: kind.name != "iq4_k")
    monkeypatch.setattr(dispatch, "backend", lambda: "native" if native else "numba")
    said = problems(move("iq3_s"), move("q8_0", source=type_by_name("iq4_k"), name="b"), allow_requantize=True)
    when = "yet" if native else "without the compiled kernels"
    others = "choose a type that numba encodes (`gguftool types` tells)"
    remedy = "" if native else f": reinstall gguftool where a C compiler is found, or {others}"
    assert said == [f"cannot decode iq4_k {when} (b)", f"cannot encode iq3_s {when} (blk.0.w.weight){remedy}"]


def test_types_that_are_no_targets() -> None:
    (said,) = problems(move("q8_K"))
    assert "q8_K is no type that a tensor can be converted to" in said


def test_shapes() -> None:
    (said,) = problems(move("q8_0", shape=(4, 40)))
    assert said.startswith("blk.0.w.weight: a row of 40 elements cannot be q8_0")
    (said,) = problems(replace(move(), shape=(5, 256)))
    assert "do not add up" in said


def test_cuts() -> None:
    woven = type_by_name("q4_0_r8")
    whole = move("", source=woven, shape=(16, 256))
    cut = replace(whole, shape=(12, 256), pieces=(replace(whole.pieces[0], rows=((0, 12),)),))
    said = problems(cut)
    assert any("weaves 8 rows" in s for s in said) and any("cannot be cut at these rows" in s for s in said)
    fine = replace(whole, shape=(8, 256), pieces=(replace(whole.pieces[0], rows=((8, 16),)),))
    assert problems(fine) == []


def test_columns_of_woven_rows_cannot_be_cut() -> None:
    woven = move("", source=type_by_name("iq4_k_r4"), shape=(4, 512))
    cut = replace(woven, shape=(4, 256), pieces=(replace(woven.pieces[0], columns=((0, 256),)),))
    (said,) = problems(cut)
    assert "(iq4_k_r4) cannot be cut at columns: its rows are interleaved: `gguftool copy --unpack`" in said
    plain = replace(cut, type=type_by_name("iq4_k"))
    assert any(said.startswith("cannot decode iq4_k_r4: its rows are") for said in problems(plain))
    assert problems(replace(woven, type=type_by_name("iq4_k"))) == []


def test_cutting_inside_blocks_is_requantizing() -> None:
    whole = move("", source=Q8_0)
    cut = replace(whole, shape=(4, 128), pieces=(replace(whole.pieces[0], columns=((16, 144),)),))
    (said,) = problems(cut)
    assert "already quantized (q8_0)" in said
    even = replace(whole, shape=(4, 128), pieces=(replace(whole.pieces[0], columns=((32, 160),)),))
    assert problems(even) == []


def test_unknown_types_can_only_be_copied() -> None:
    unknown = unknown_type(977)
    assert problems(move("", source=unknown)) == []
    said = problems(move("q8_0", source=unknown), allow_requantize=True)
    assert any("cannot decode type 977" in s for s in said)


@pytest.mark.parametrize(
    ("target", "type_name", "name", "needed"),
    [
        ("iq2_xs", "q4_k_m", "blk.0.w.weight", True),
        ("iq2_xs", "q4_k_m", "output.weight", False),
        ("iq2_xs", "q4_k_m", "token_embd.weight", False),
        ("q2_K", "q2_k", "blk.0.w.weight", False),
        ("q2_K", "q2_k_s", "blk.0.w.weight", True),
        ("iq1_kt", "iq4_kss", "blk.0.w.weight", True),
    ],
)
def test_who_needs_importances(
    monkeypatch: pytest.MonkeyPatch, target: str, type_name: str, name: str, needed: bool
) -> None:
    monkeypatch.setattr(dispatch, "can_encode", lambda kind: True)
    made = plan(move(target, name=name))
    facts = Facts(file_type=file_type_by_name(type_name))
    assert any("needs an importance matrix" in s for s in check(made, facts)) is needed
    present = replace(facts, importances=Importances(Sizes((1, 256))))
    assert any("the imatrix has none for" in s for s in check(made, present)) is needed


@pytest.mark.parametrize(
    ("shape", "entry", "fits"),
    [
        ((4, 256), (1, 256), True),
        ((4, 256), (1, 128), False),
        ((3, 4, 256), (3, 256), True),
        ((3, 4, 256), (1, 768), True),
        ((3, 4, 256), (6, 128), False),
        ((3, 4, 256), (1, 256), False),
    ],
)
def test_sizes_of_importances(shape: tuple[int, ...], entry: tuple[int, int], fits: bool) -> None:
    said = problems(with_importance(move(shape=shape)), importances=Importances(Sizes(entry)))
    assert said == [] if fits else "made from another model" in said[0]


def test_all_at_once_and_the_edits_own_problems_first() -> None:
    made = replace(plan(move("q8_K"), move("q8_0", shape=(4, 40), name="b")), problems=("from an edit",))
    said = check(made, Facts(existing=("/o",), file_type=Q4_K_M))
    assert len(said) == 4 and said[0] == "from an edit"
    assert check(plan(), Facts()) == ["no tensor would be left"]
