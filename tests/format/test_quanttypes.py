"""The type table against both projects' tables, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguftool.errors import CodecError, UnknownTypeError
from gguftool.format.quanttypes import BY_ID, RETIRED_IDS, TYPES, type_by_name, unknown_type


def test_names_and_ids_are_unique() -> None:
    assert len({t.id for t in TYPES}) == len({t.name.lower() for t in TYPES}) == len(TYPES) == len(BY_ID)
    assert not RETIRED_IDS.keys() & BY_ID.keys()


def test_it_has_all_types_of_llama_cpp(shared: Path) -> None:
    table = json.loads((shared / "specs/ggml-types.json").read_text())["types"]
    for row in table:
        t = BY_ID[row["id"]]
        assert (t.name, t.block_size, t.block_bytes) == (row["ggml_name"], row["block_size"], row["type_size"])
        assert t.needs_imatrix == row["requires_imatrix_tool_policy"]
        assert (t.kind != "internal") == row["storable_in_gguf"]
        assert (t.row_header, t.rows_interleaved, t.tensor_trailer) == (0, 1, 0)
    assert {row["id"] for row in table} == {t.id for t in TYPES if t.runtime != "ik"}


def test_it_has_all_types_of_ik_llama_cpp(shared: Path) -> None:
    table = json.loads((shared / "specs/ik-types.json").read_text())["types"]
    for row in table:
        t = BY_ID[row["id"]]
        assert t.row_header == row["row_meta_size"]
        assert t.rows_interleaved == row["rows_interleaved"]
        assert (t.unpacked or "").lower() == (row["repacked_of"] or "").lower()
        if row["block_size"] and t.name != "q8_K":  # in memory ik's q8_K is four bytes longer
            assert (t.block_size, t.block_bytes) == (row["block_size"], row["type_size"])
        if t.runtime == "ik":
            assert t.name.lower() == row["name"].lower()
            assert t.needs_imatrix == row["tool_refuses_without_imatrix"]
            assert (t.kind != "internal") == row["storable_in_gguf"]
    assert {row["id"] for row in table} == {t.id for t in TYPES if t.runtime != "mainline"}


@pytest.mark.parametrize(
    ("name", "shape", "nbytes"),
    [
        ("f32", (3, 5), 60),
        ("q4_K", (2, 3, 512), 6 * 288),
        ("iq4_kss", (10, 512), 10 * (4 + 256)),
        ("q8_KV", (2, 64), 2 * (8 + 64)),
        ("iq1_s_r4", (4, 64), 4 * (2 + 12)),
        ("i2_s", (128, 256), 128 * 256 // 4 + 32),
        ("i2_s", (0, 256), 0),
        ("q4_K", (5, 0), 0),
        ("iq4_ks", (0, 256), 0),
    ],
)
def test_sizes_count_headers_and_trailers(name: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert type_by_name(name).nbytes(shape) == nbytes


def test_a_row_that_blocks_do_not_fill_is_refused() -> None:
    with pytest.raises(CodecError, match="no multiple of 256"):
        type_by_name("q4_K").nbytes((2, 300))


def test_names_are_taken_in_any_case_and_mistakes_get_help() -> None:
    assert type_by_name("Q4_k") is type_by_name(" q4_K ")
    assert type_by_name("Q1_0_G128").name == "q1_0"
    with pytest.raises(UnknownTypeError, match=r"did you mean .*iq4_kss"):
        type_by_name("iq4_ksss")
    with pytest.raises(UnknownTypeError, match="gguftool types"):
        type_by_name("?")


def test_what_may_be_a_target() -> None:
    targets = {t.name for t in TYPES if t.is_target}
    assert {"f32", "f16", "bf16", "q4_K", "iq4_kss", "mxfp4"} <= targets
    assert not targets & {"i32", "f64", "q8_K", "i2_s", "q4_k_r4", "bf16_r16", "q8_1"}
    assert not unknown_type(999).is_target
