"""Any text with a recipe in it, read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguftool.errors import RecipeError
from gguftool.recipe.dialects import write
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.recipe.reading import read_recipe

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"


def rules(text: str) -> list[str]:
    return [f"{r.pattern}={r.type.name}" for r in read_recipe(text, "x").rules]


@pytest.mark.parametrize(
    "text",
    [
        "attn_v=q6_k ffn_down=q5_k",
        "# why\nattn_v=q6_k # because\nffn_down=q5_k\n",
        "attn_v=q6_K,ffn_down=q5_K",
        'custom="\n## why\nattn_v=q6_k\nffn_down=q5_k\n"\n',
        "--tensor-type attn_v=q6_k --tensor-type 'ffn_down=q5_k'",
        "llama-quantize --tensor-type attn_v=q6_k \\\n  --tensor-type ffn_down=q5_k a.gguf b.gguf q4_k_m 8",
    ],
)
def test_rules_in_every_form(text: str) -> None:
    assert rules(text) == ["attn_v=q6_K", "ffn_down=q5_K"]


def test_a_command_line_names_the_type_and_the_options_that_change_types() -> None:
    read = read_recipe(
        "./build/bin/llama-quantize --pure --output-tensor-type q8_0 --prune-layers 3,7 --attn-v-type q6_k \\\n"
        "  --imatrix im.dat --tensor-type ffn=q5_k in.gguf out.gguf IQ4_XS 24",
        "x",
    )
    recipe = read.recipe()
    assert recipe.file_type == file_type_by_name("iq4_xs")
    assert recipe.pure
    assert recipe.output_type is not None
    assert recipe.output_type.name == "q8_0"
    assert [r.pattern for r in recipe.rules] == ["ffn", r"attn_v\.weight"]
    assert read.command.value("--prune-layers") == "3,7"
    assert read.written.options == ("--pure", "--output-tensor-type q8_0", "--prune-layers 3,7")


def test_a_command_without_rules_is_a_recipe() -> None:
    read = read_recipe("llama-quantize --imatrix im.dat in.gguf out.gguf Q4_K_M", "x")
    assert (read.rules, read.file_type) == ((), file_type_by_name("Q4_K_M"))


def test_comments_go_with_the_rule_that_follows() -> None:
    read = read_recipe('custom="\n## Attention\n## all of it\nattn=q6_k # six\n\nffn=q4_k\n"\n', "x")
    assert [rule.comments for rule in read.written.rules] == [("Attention", "all of it", "six"), ()]


def test_a_given_type_beats_the_one_in_the_text() -> None:
    read = read_recipe("llama-quantize --tensor-type a=q6_k in.gguf q4_k_m", "x", file_type_by_name("q5_k_m"))
    assert read.recipe().file_type.name == "Q5_K_M"


def test_without_any_type_the_error_names_the_option() -> None:
    with pytest.raises(RecipeError, match="--type"):
        read_recipe("attn=q6_k", "x").recipe()


@pytest.mark.parametrize("text", ["", "no rules at all", "llama-quantize --tensor-type attn=banana a.gguf q4_k_m"])
def test_no_recipe_is_an_error(text: str) -> None:
    with pytest.raises(RecipeError):
        read_recipe(text, "x")


@pytest.mark.skipif(not SEEDS.is_dir(), reason="needs the model cards in ../shared/seeds")
def test_the_recipes_of_whole_model_cards() -> None:
    ik = read_recipe((SEEDS / "003_ca115dc0a87b1ed5.txt").read_text(errors="replace"), "card")
    assert (len(ik.rules), ik.recipe().file_type.name) == (8, "IQ4_KSS")
    assert ik.written.rules[0].comments == ("Attention", "Keep qkv the same to allow --merge-qkv")
    layers = read_recipe((SEEDS / "002_dd58699bed611c2e.txt").read_text(errors="replace"), "card")
    assert [r.pattern for r in layers.rules] == ["attn_v", r"\.([0-9]|1[01257]|31)\.attn_k", "attn"]
    assert layers.command.value("--prune-layers") == "3,7,11"
    for name in ("000_0b37eab711fa1ab4.txt", "001_27979e00a01e4fbb.txt", "004_8bc2fc55dfc850c0.txt"):
        with pytest.raises(RecipeError, match="no rule"):
            read_recipe((SEEDS / name).read_text(errors="replace"), "card")


PIECES = st.sampled_from(
    [
        *("attn_v=q6_k", 'custom="', '"', "#", " ", "\n", ",", "\\\n", "'", "=", "(", "[", "\0", "\u00e9", r"blk\..*"),
        *("--tensor-type ", "--custom-q '", "--pure ", "--prune-layers 1,2 ", "llama-quantize ", "gguftool quantize "),
        *("a.gguf ", "Q4_K_M", " 1. q6_K: x"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60))
def test_any_text_is_a_recipe_or_one_clear_line(text: str) -> None:
    try:
        read = read_recipe(text, "x")
    except RecipeError as trouble:
        assert "\n" not in str(trouble)
    else:
        assert len(read.written.rules) == len(read.rules)
        if read.rules:
            again = read_recipe(write(read.written, "gguftool"), "x")
            assert [r.type for r in again.rules] == [r.type for r in read.rules]
