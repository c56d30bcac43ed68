"""``gguftool info``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_gguf import Tensor, array, gguf, number, split_keys, string, u32, write_shards

import gguftool
from gguftool.cli.main import cli


def output(*words: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(cli, ["info", *map(str, words)])
    assert result.exit_code == status, result.output
    return result.output


def layer(n: int, type_id: int, nbytes: int) -> Tensor:
    return f"blk.{n}.ffn_down.weight", [256, 2], type_id, bytes(nbytes)


TENSORS: list[Tensor] = [
    ("token_embd.weight", [256, 4], 1, bytes(2048)),
    *[layer(n, 12, 288) for n in (0, 1, 2, 4)],
    layer(3, 14, 420),
    ("blk.0.attn_q.weight", [256, 2], 146, bytes(2 * (4 + 128))),
]
KV = [
    ("general.architecture", string("llama")),
    ("general.name", string("Näme\x1b[2J")),
    ("general.file_type", u32(15)),
    ("llama.block_count", u32(5)),
    ("llama.attention.head_count", array(5, [4, 8])),
    ("llama.rope.freq_base", number(6, 10000.0)),
    ("not.finite", number(6, math.inf)),
    ("tokenizer.ggml.tokens", array(8, [f"t{i}" for i in range(1000)])),
    ("tokenizer.ggml.scores", array(6, [0.25, math.nan] * 4)),
    ("tokenizer.ggml.add_bos_token", number(7, True)),
    ("tokenizer.chat_template", string("{% for m in messages %}\n" + "x" * 300)),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(KV, TENSORS))
    return path


def field(text: str, name: str) -> str:
    return next(line[14:] for line in text.splitlines() if line.startswith(f"{name} "))


def test_the_summary(model: Path) -> None:
    text = output(model)
    n_elements, nbytes = 1024 + 6 * 512, 2048 + 4 * 288 + 420 + 264
    assert field(text, "architecture") == "llama"
    assert field(text, "name") == "Näme\\x1b[2J"
    assert field(text, "file type") == "Q4_K_M"
    assert field(text, "model") == "5 layers, 4-8 heads, vocabulary 1000"
    assert field(text, "parameters") == f"{n_elements:,}"
    assert field(text, "tensor data") == f"{nbytes / 1024:.2f} KiB, {8 * nbytes / n_elements:.3f} bits per weight"
    assert "about" not in text


def test_long_values_are_cut_and_shown_whole_when_asked(model: Path) -> None:
    text = output(model)
    assert '["t0", "t1", "t2", "t3", "t4", "t5", ... 1000 strings]' in text
    assert "[0.25, nan, 0.25, nan, 0.25, nan, ... 8 values]" in text
    assert "string[1000]" in text
    assert "x" * 100 not in text
    whole = output(model, "--full")
    assert '"t999"]' in whole
    assert "x" * 300 in whole


def test_long_strings_of_an_array_leave_room(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(
        gguf([("words", array(8, ["w" * 30] * 9)), ("long", array(8, ["l" * 300])), ("pi", number(12, 3.1))])
    )
    text = output(path)
    assert f'["{"w" * 30}", "{"w" * 30}", ... 9 strings]' in text
    assert f'["{"l" * 72}...]' in text
    assert "3.1\n" in text


def test_what_is_no_model_says_so(shared: Path) -> None:
    assert field(output(shared / "imatrix/prose-moe-8m.imatrix.gguf"), "kind").startswith("imatrix")


def test_tensors_are_grouped_by_everything_but_the_layer(model: Path) -> None:
    lines = [line.split() for line in output(model).splitlines()]
    assert ["blk.*.ffn_down.weight", "0-2,4", "q4_K", "2", "x", "256", "4", "1.12", "KiB"] in lines
    assert ["blk.*.ffn_down.weight", "3", "q6_K", "2", "x", "256", "1", "420", "B"] in lines
    assert ["token_embd.weight", "-", "f16", "4", "x", "256", "1", "2.00", "KiB"] in lines


def test_every_tensor_is_listed_when_asked(model: Path) -> None:
    text = output(model, "--tensors")
    with gguftool.open_model(model) as opened:
        for tensor in opened.tensors:
            line = next(line.split() for line in text.splitlines() if line.startswith(f"{tensor.name} "))
            assert line[-1] == f"{tensor.offset:,}"


def test_bytes_per_type_count_row_headers(model: Path) -> None:
    lines = [line.split() for line in output(model).splitlines()]
    assert ["iq4_kss", "1", "512", "264", "6.8", "4.125"] in lines
    assert ["all", "7", "4,096", "3,884", "100.0", "7.586"] in lines


def test_json_is_complete(model: Path) -> None:
    found = json.loads(output(model, "--json"), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    with gguftool.open_model(model) as opened:
        assert list(found["metadata"]) == list(opened.metadata)
        assert [(t["name"], t["shape"], t["type"], t["offset"], t["bytes"]) for t in found["tensors"]] == [
            (t.name, list(t.shape), t.type.name, t.offset, t.nbytes) for t in opened.tensors
        ]
    assert found["metadata"]["general.file_type"] == {"type": "u32", "value": 15}
    assert found["metadata"]["not.finite"] == {"type": "f32", "value": "Infinity"}
    assert found["metadata"]["tokenizer.ggml.scores"]["value"][:2] == [0.25, "NaN"]
    tokens = found["metadata"]["tokenizer.ggml.tokens"]
    assert (tokens["type"], tokens["element_type"], len(tokens["value"])) == ("array", "string", 1000)
    assert found["file_type"] == {"name": "Q4_K_M", "number": 15}
    assert sum(t["bytes"] for t in found["types"]) == found["tensor_bytes"] == 3884
    assert (found["n_elements"], found["bpw"], found["approximate"]) == (4096, 8 * 3884 / 4096, False)


def test_the_library_says_the_same(model: Path) -> None:
    found = gguftool.info(model)
    assert (found.nbytes, found.n_elements, found.bpw) == (3884, 4096, 8 * 3884 / 4096)
    assert [(use.type.name, use.n_tensors) for use in found.types][:2] == [("f16", 1), ("q4_K", 4)]


@pytest.mark.parametrize(
    ("key", "printed"),
    [
        ("general.architecture", "llama"),
        ("tokenizer.chat_template", "{% for m in messages %}\n" + "x" * 300),
        ("llama.attention.head_count", "[4, 8]"),
        ("tokenizer.ggml.add_bos_token", "true"),
        ("not.finite", '"Infinity"'),
    ],
)
def test_one_value(model: Path, key: str, printed: str) -> None:
    assert output(model, "--key", key) == printed + "\n"


def test_a_key_that_is_not_there_gets_a_suggestion(model: Path) -> None:
    text = output(model, "--key", "llama.block_cuont", status=2)
    assert "there is no metadata key 'llama.block_cuont': did you mean llama.block_count" in text


def test_any_shard_shows_the_set(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "model", [TENSORS[:3], TENSORS[3:]])
    texts = [output(path, "--tensors").splitlines() for path in paths]
    assert "in 2 shards" in texts[0][0]
    assert texts[0][1:] == texts[1][1:]
    assert next(line for line in texts[0] if line.startswith("blk.3.ffn_down")).split()[-1] == "2"
    alone = output(paths[1], "--single-shard")
    assert "shards" not in alone
    assert "tensors: 4" in alone


def test_a_tensor_of_unknown_type_makes_it_approximate(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(gguf(KV[:1], [*TENSORS, ("new", [100], 999, bytes(96))]))
    text = output(path)
    assert field(text, "tensor data").startswith("about 3.89 KiB, about 7.588 bits per weight")
    assert field(text, "note").startswith("1 of the tensors")
    assert "type 999" in text
    assert "at most 96" in output(path, "--tensors")
    assert json.loads(output(path, "--json"))["approximate"] is True


@pytest.mark.parametrize(
    ("kv", "tensors"),
    [
        ([], []),
        ([("general.type", string("mmproj")), ("general.architecture", string("clip"))], TENSORS[:1]),
        ([("general.architecture", string("nobody-knows"))], [("v.blk.0.x", [0, 3], 0, b"")]),
        ([("general.architecture", u32(3)), ("general.name", u32(4)), ("general.file_type", string("F16"))], TENSORS),
        ([("general.type", string("adapter")), ("adapter.lora.alpha", number(6, 32.0))], TENSORS[:1]),
        (split_keys(0, 0, 7), TENSORS[:1]),
    ],
)
def test_files_of_every_kind(tmp_path: Path, kv: Any, tensors: list[Tensor]) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(gguf(kv, tensors))
    assert "GGUF version 3" in output(path)
    assert len(json.loads(output(path, "--json"))["tensors"]) == len(tensors)


@pytest.mark.parametrize(
    ("number", "type_id", "name"),
    [
        (1, 1, "F16"),
        (1024 + 1, 1, "F16 (guessed)"),
        (41, 41, "Q1_0_G128"),
        (41, 42, "Q2_0"),
        (148, 146, "IQ4_KSS"),
        (214, 212, "Q4_K_R4"),
        (777, 1, "unknown file type 777"),
    ],
)
def test_file_types(tmp_path: Path, number: int, type_id: int, name: str) -> None:
    from gguftool.format.quanttypes import BY_ID

    path = tmp_path / "a.gguf"
    data = bytes(BY_ID[type_id].nbytes((4, 256)))
    path.write_bytes(gguf([("general.file_type", u32(number))], [("a", [256, 4], type_id, data)]))
    assert gguftool.info(path).file_type == name


ODD = st.one_of(
    st.integers(0, 255).map(lambda n: number(0, n)),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: number(11, n)),
    st.floats(width=32).map(lambda x: number(6, x)),
    st.booleans().map(lambda b: number(7, b)),
    st.binary(max_size=20).map(string),
    st.lists(st.binary(max_size=9), max_size=9).map(lambda v: array(8, v)),
    st.lists(st.floats(width=32), max_size=9).map(lambda v: array(6, v)),
    st.lists(st.booleans(), max_size=9).map(lambda v: array(7, v)),
)
WELL_KNOWN = [
    "general.architecture",
    "general.type",
    "general.name",
    "general.file_type",
    "llama.block_count",
    "llama.attention.head_count",
    "tokenizer.ggml.tokens",
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kv=st.dictionaries(st.sampled_from(WELL_KNOWN), ODD))
def test_no_metadata_can_upset_it(tmp_path: Path, kv: dict[str, Any]) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(gguf(list(({"general.architecture": string("llama")} | kv).items()), TENSORS[:1]))
    for words in (["--full"], [], ["--json"]):
        assert output(path, *words)


def test_the_models_at_hand(shared: Path) -> None:
    for file in [*(shared / "models").rglob("*.gguf"), *(shared / "imatrix").glob("*.gguf")]:
        text = output(file)
        assert "tensors: " in text
        assert "bytes per type" in text


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(gguf(KV, TENSORS)[:-400])
    assert output(path, status=1).count("\n") == 1
