"""Plans: what an edit changes and leaves alone, JSON and back, hashes, and the layout of the output."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_models import keys, split_model, text, u32, write_imatrix, write_model

from gguftool.errors import PlanError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.format.quanttypes import type_by_name, unknown_type
from gguftool.format.reader import open_model
from gguftool.plan.importances import Importances
from gguftool.plan.layout import lay_out
from gguftool.plan.moves import Move, Origin, Piece, Plan
from gguftool.recipe.decide import Recipe
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.recipe.grammar import parse_tensor_type

Q4_K, Q8_0, F16, F32 = (type_by_name(name) for name in ("q4_K", "q8_0", "f16", "f32"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("moves") / "m.gguf", n_layer=12)


class Shapes:
    """Names and shapes of an importance matrix without values."""

    def __init__(self, entries: dict[str, tuple[int, int]], stand_in: dict[str, str] | None = None) -> None:
        self._entries, self._stand_in = entries, stand_in or {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, int]:
        return self._entries[name]

    def lookup(self, name: str) -> tuple[str, str | None] | None:
        if name in self._entries:
            return name, None
        return (self._stand_in[name], f"{name} takes another's") if name in self._stand_in else None


def recipe(type_name: str, *rules: str) -> Recipe:
    return Recipe(file_type_by_name(type_name), tuple(parse_tensor_type(rule) for rule in rules))


def test_a_copy_is_one_whole_piece_in_llama_quantizes_order(model_path: Path) -> None:
    with open_model(model_path) as model:
        plan = Plan.of(model)
        in_file = Plan.of(model, file_order=True)
        source_bytes = sum(t.nbytes for t in model.tensors)
    assert all(m.whole and m.copied for m in plan.moves)
    assert [m.name for m in in_file.moves] != [m.name for m in plan.moves]
    assert [m.name for m in plan.moves][:4] == [
        "output.weight",
        "output_norm.weight",
        "token_embd.weight",
        "blk.0.attn_k.weight",
    ]
    layers = [int(m.name.split(".")[1]) for m in plan.moves[3:]]
    assert layers == sorted(layers)
    assert plan.nbytes == source_bytes


def test_pruning_renames_and_keeps_the_origin(model_path: Path) -> None:
    with open_model(model_path) as model:
        plan = Plan.of(model).prune([3, 7])
    assert plan.metadata["llama.block_count"] == 10
    assert plan.dropped == (3, 7)
    origin = {m.name: m.pieces[0].source.name for m in plan.moves}
    assert origin["blk.3.attn_q.weight"] == "blk.4.attn_q.weight"
    assert origin["blk.9.ffn_up.weight"] == "blk.11.ffn_up.weight"
    assert origin["output.weight"] == "output.weight"
    assert "blk.10.attn_q.weight" not in origin


def test_importances_follow_the_source_and_rules_the_output(model_path: Path) -> None:
    entries = Shapes({"blk.4.attn_q.weight": (1, 256)}, {"blk.4.attn_k.weight": "blk.4.attn_q.weight"})
    with open_model(model_path) as model:
        plan = Plan.of(model).prune([3]).retype(recipe("q4_k_m", r"blk\.3\.attn_q=q8_0"), Importances(entries))
    moves = {m.name: m for m in plan.moves}
    assert moves["blk.3.attn_q.weight"].type == Q8_0
    assert moves["blk.3.attn_q.weight"].pieces[0].importance == "blk.4.attn_q.weight"
    assert moves["blk.3.attn_k.weight"].pieces[0].importance == "blk.4.attn_q.weight"
    assert moves["blk.4.attn_q.weight"].pieces[0].importance is None
    assert any("takes another's" in w for w in plan.warnings)


def test_filters_of_importances(model_path: Path) -> None:
    entries = Shapes({f"blk.{n}.attn_q.weight": (1, 256) for n in range(12)})
    assert Importances(entries, include=("blk.1",)).names == tuple(f"blk.{n}.attn_q.weight" for n in (1, 10, 11))
    assert len(Importances(entries, exclude=("blk.1.",)).names) == 11
    with open_model(model_path) as model:
        plan = Plan.of(model).retype(recipe("q4_0"), Importances(entries, exclude=("attn_q",)))
    assert all(p.importance is None for m in plan.moves for p in m.pieces)


def test_json_gives_an_equal_plan_back(model_path: Path) -> None:
    entries = Shapes({"blk.4.attn_q.weight": (1, 256)})
    with open_model(model_path) as model:
        plan = Plan.of(model, keep_split=True).prune([0]).retype(recipe("q4_k_m"), Importances(entries))
    plan = plan.with_metadata({"a.nan": MetaValue.of(float("nan"), ValueType.F32), "a.text": text("ä")})
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash


VALUES = st.one_of(
    st.tuples(st.just(ValueType.STRING), st.binary(max_size=9)).map(
        lambda v: MetaValue(v[0], struct.pack("<Q", len(v[1])) + v[1])
    ),
    st.tuples(st.sampled_from([ValueType.F32, ValueType.U32, ValueType.I32]), st.binary(min_size=4, max_size=4)).map(
        lambda v: MetaValue(*v)
    ),
    st.binary(min_size=8, max_size=8).map(lambda raw: MetaValue(ValueType.F64, raw)),
    st.lists(st.integers(-9, 9)).map(lambda v: MetaValue.of(v, ValueType.ARRAY, ValueType.I32)),
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4))
def test_json_keeps_every_metadata_byte(entries: dict[str, MetaValue]) -> None:
    plan = Plan(keys(1, 32, 32).replaced(entries), (), (), 32)
    again = Plan.from_json(plan.to_json())
    assert list(again.metadata.entries()) == list(plan.metadata.entries())


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"schema": 99}', '{"schema": 1, "metadata": 3}', "null"])
def test_what_is_no_plan_is_refused(damage: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(damage)


def test_the_hash_is_stable_and_ignores_what_changes_no_byte(model_path: Path) -> None:
    with open_model(model_path) as model:
        plan = Plan.of(model).retype(recipe("q4_k_m"))
        same = Plan.of(model).retype(recipe("q4_k_m"))
    assert plan.hash == same.hash
    reworded = replace(plan, moves=tuple(replace(m, reason="x") for m in plan.moves), warnings=("y",))
    assert reworded.hash == plan.hash
    assert plan.with_metadata({"k": u32(1)}).hash != plan.hash
    first = plan.moves[0]
    others = [
        replace(first, type=Q8_0),
        replace(first, name="else.weight"),
        replace(first, pieces=(replace(first.pieces[0], importance="e"),)),
    ]
    for other in others:
        assert replace(plan, moves=(other, *plan.moves[1:])).hash != plan.hash


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_offsets_are_aligned_and_in_order(tmp_path: Path, alignment: int) -> None:
    path = write_model(tmp_path / "m.gguf", alignment=alignment, vocab=33)
    with open_model(path) as model:
        plan = Plan.of(model).retype(recipe("q4_k_m"))
    (file,) = lay_out(plan)
    assert file.offsets[0] == len(file.header)
    end = len(file.header)
    for number, offset in zip(file.moves, file.offsets, strict=True):
        assert offset >= end and offset % alignment == 0 and offset - end < alignment
        end = offset + plan.moves[number].nbytes
    assert 0 <= file.size - end < alignment


def test_only_the_first_shard_has_metadata(tmp_path: Path) -> None:
    with open_model(split_model(tmp_path, 3)) as model:
        plan = Plan.of(model, keep_split=True)
        joined = Plan.of(model)
    files = lay_out(plan)
    assert [plan.moves[f.moves[0]].shard for f in files] == [0, 1, 2]
    assert b"general.architecture" in files[0].header and b"general.architecture" not in files[1].header
    assert all(b"split.tensors.count" in f.header for f in files)
    (one,) = lay_out(joined)
    assert b"split." not in one.header


def test_a_shard_that_pruning_empties_goes(tmp_path: Path) -> None:
    with open_model(split_model(tmp_path, 3, n_layer=3)) as model:
        plan = Plan.of(model, keep_split=True)
        only = tuple(m for m in plan.moves if m.shard != 1)
    assert len(lay_out(replace(plan, moves=only))) == 2


def test_pieces_know_their_rows() -> None:
    origin = Origin("e", (3, 4, 256), F16, 3 * 4 * 512, 0, 0)
    assert list(Piece(origin).row_runs()) == [(0, 4), (4, 8), (8, 12)]
    piece = Piece(origin, rows=((2, 6), (11, 12)), columns=((0, 64), (128, 256)))
    assert list(piece.row_runs()) == [(2, 4), (4, 6), (11, 12)]
    assert (piece.n_rows, piece.n_cols, piece.matrix_of(11)) == (5, 192, 2)
    assert not piece.cuts_blocks
    assert replace(piece, source=replace(origin, type=Q8_0)).cuts_blocks is False
    assert replace(piece, source=replace(origin, type=Q4_K)).cuts_blocks is True
    assert replace(piece, source=replace(origin, type=type_by_name("q8_KV"))).cuts_blocks is False


def test_an_unknown_type_is_one_whole_piece() -> None:
    origin = Origin("u", (2, 7), unknown_type(977), 96, 0, 4096)
    move = Move("u", (2, 7), origin.type, (Piece(origin),))
    assert move.nbytes == 96
    plan = Plan(keys(1, 32, 32), (), (move,), 32)
    assert Plan.from_json(plan.to_json()) == plan


def test_imatrix_helper_and_model_helper_agree(tmp_path: Path) -> None:
    path = write_imatrix(tmp_path / "i.gguf", {"blk.0.ffn_up_exps.weight": (4, 8, 32)})
    with open_model(path) as found:
        assert {t.name for t in found.tensors} == {f"blk.0.ffn_up_exps.weight.{x}" for x in ("in_sum2", "counts")}
