"""``gguftool recipe show|check|convert|extract``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support_models import shapes, write_imatrix, write_model

import gguftool
from gguftool.cli.main import cli
from gguftool.recipe.reading import read_recipe

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.gguf", n_layer=6)


def recipe(*words: object, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["recipe", *map(str, words)], input=text)


def test_show_lists_the_rules_and_with_a_model_what_they_do(model: Path) -> None:
    bare = recipe("show", "attn_v=q6_k,ffn=q5_k")
    assert bare.exit_code == 0
    assert "2 rules over a TYPE that it does not name" in bare.stdout
    tried = recipe("show", "-", "--model", model, "--type", "q4_k_m", "--format", "json", text="attn_v=q6_k ffn=q5_k")
    data = json.loads(tried.stdout)
    assert [(r["matched"], r["decided"], r["where"]) for r in data["rules"]] == [
        (6, 6, "attn_v 0-5"),
        (24, 18, "ffn_down, ffn_gate, ffn_up 0-5"),
    ]
    assert data["bpw"] > 4.5


def test_the_size_is_that_of_the_file_that_is_made(model: Path, tmp_path: Path) -> None:
    data = json.loads(
        recipe("show", "attn_v=q6_k,ffn=q5_k", "--model", model, "--type", "q4_k_m", "--format", "json").stdout
    )
    done = gguftool.quantize(model, tmp_path / "out.gguf", "q4_k_m", tensor_type=["attn_v=q6_k", "ffn=q5_k"])
    assert (data["nbytes"], data["bpw"]) == (done.nbytes, done.bpw)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("ssm=q6_k", "matches no tensor"),
        ("attn_norm=q6_k", "may not be converted"),
        ("attn=q6_k,attn_v=q5_k", "never applies"),
        ("attn_v=iq2_xs", "importance"),
    ],
)
def test_check_finds_what_is_wrong(model: Path, rules: str, says: str) -> None:
    done = recipe("check", rules, model, "--type", "q4_k_m")
    assert done.exit_code == 1
    assert says in done.stderr


def test_check_finds_types_that_do_not_fill_the_rows(tmp_path: Path) -> None:
    narrow = write_model(tmp_path / "n.gguf", width=96, ff=192)
    done = recipe("check", "attn_v=q6_k", narrow, "--type", "q8_0")
    assert done.exit_code == 1
    assert "q6_K does not fill the rows of 3 tensors, which would get q8_0" in done.stderr


def test_check_is_content_with_a_good_recipe(model: Path, tmp_path: Path) -> None:
    assert recipe("check", "attn_v=q6_k", model, "--type", "q4_k_m").exit_code == 0
    imatrix = write_imatrix(tmp_path / "im.gguf", shapes(6, 256, 512, 64))
    assert recipe("check", "attn_v=iq2_xs", model, "--type", "q4_k_m", "--imatrix", imatrix).exit_code == 0
    without = recipe("check", "attn_v=q6_k", model)
    assert (without.exit_code, "--type" in without.stderr) == (2, True)


@pytest.mark.parametrize("target", ["gguftool", "ik", "file", "card", "llama-quantize"])
def test_convert_says_the_same_in_another_form(target: str) -> None:
    text = 'custom="\n## why\nblk\\..*\\.attn_v.*=q6_K\noutput\\.weight=q8_0\n"\n'
    done = recipe("convert", "-", "--for", target, "--type", "q4_k_m", text=text)
    assert done.exit_code == 0, done.output
    read = read_recipe(done.stdout, "x")
    assert [f"{r.pattern}={r.type.name}" for r in read.rules] == [r"blk\..*\.attn_v.*=q6_K", r"output\.weight=q8_0"]
    assert read.file_type is not None
    assert "why" in done.stdout


def test_convert_for_llama_cpp_takes_the_nearest_types() -> None:
    refused = recipe("convert", "attn=iq6_k,ffn=iq4_ks", "--for", "llama-quantize", "--type", "iq4_kss")
    assert (refused.exit_code, "--compat mainline" in refused.stderr) == (2, True)
    done = recipe(
        "convert", "attn=iq6_k,ffn=iq4_ks", "--for", "llama-quantize", "--type", "iq4_kss", "--compat", "mainline"
    )
    read = read_recipe(done.stdout, "x")
    assert [r.type.name for r in read.rules] == ["q6_K", "iq4_xs"]
    assert read.file_type is not None
    assert read.file_type.name == "IQ4_XS"
    assert "instead of iq6_k" in done.stdout


def test_convert_with_a_model_writes_the_fewest_rules(model: Path) -> None:
    many = "\n".join(f"blk.{n}.{kind}=q6_k" for n in range(6) for kind in ("attn_q", "attn_k"))
    done = recipe("convert", "-", "--type", "q4_k_m", "--model", model, text=many)
    assert [r.pattern for r in read_recipe(done.stdout, "x").rules] == [r"blk\.[0-9]+\.attn_(k|q)\.weight"]


def test_extract_gives_back_what_quantize_was_told(model: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.gguf"
    gguftool.quantize(model, made, "q4_k_m", tensor_type=[r"\.[34]\.ffn_down=q8_0", "attn_q=q5_k"])
    out = tmp_path / "recipe.txt"
    done = recipe("extract", made, "--for", "file", "-o", out)
    assert done.exit_code == 0, done.output
    read = read_recipe(out.read_text(), "x")
    assert {f"{r.pattern}={r.type.name}" for r in read.rules} == {
        r"blk\.[34]\.ffn_down\.weight=q8_0",
        r"blk\.[0-9]+\.attn_q\.weight=q5_K",
    }
    again = tmp_path / "again.gguf"
    gguftool.quantize(model, again, read.recipe().file_type.name, tensor_type=read.rules)
    with gguftool.open_model(made) as one, gguftool.open_model(again) as two:
        assert {t.name: t.type for t in one.tensors} == {t.name: t.type for t in two.tensors}


def test_extract_by_a_type_of_ones_choice_counts_no_rules_of_types_that_were_not_tried(
    model: Path, tmp_path: Path
) -> None:
    gguftool.quantize(model, tmp_path / "made.gguf", "q4_0")
    done = recipe("extract", tmp_path / "made.gguf", "--type", "q8_0")
    assert "# the file calls itself Q4_0\n" in done.stdout, done.output


def test_an_empty_word_is_no_recipe() -> None:
    done = recipe("show", "")
    assert (done.exit_code, "an empty word is no recipe" in done.stderr) == (2, True)


def test_a_model_given_as_a_recipe_is_sent_to_extract(model: Path) -> None:
    done = recipe("show", model)
    assert (done.exit_code, "recipe extract" in done.stderr) == (2, True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the model cards and models in ../shared")
def test_the_recipes_of_model_cards_on_a_real_model() -> None:
    card = SHARED / "seeds" / "003_ca115dc0a87b1ed5.txt"
    for name, imatrix in (("prose-llama-11m", "prose-llama-11m.imatrix.dat"), ("prose-llama-11m", None)):
        given = ("--imatrix", SHARED / "imatrix" / imatrix) if imatrix else ()
        done = recipe("check", card, SHARED / "models" / f"{name}-f16.gguf", *given, "--format", "json")
        assert done.exit_code == 0, done.output
        data = json.loads(done.stdout)
        assert data["type"] == "IQ4_KSS"
        assert data["nbytes"] == 7_136_256  # what ik_llama.cpp's own tool made of it
    moe = recipe("check", card, SHARED / "models" / "prose-moe-8m-f16.gguf")
    assert moe.exit_code == 1
    assert "ffn_down" in moe.stderr  # the card is for a dense model: its rules say ffn_down\.weight
