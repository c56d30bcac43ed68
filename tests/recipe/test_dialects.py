"""Recipes written for every reader: each reads back what was meant."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

from gguftool.errors import RecipeError
from gguftool.format.quanttypes import type_by_name
from gguftool.recipe.dialects import TARGETS, Noted, Written, portable, write
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.recipe.grammar import parse_custom_q
from gguftool.recipe.reading import read_recipe
from gguftool.recipe.regex import compile_pattern

RULES = (
    Noted(r"blk\.([01]|2[0-9])\.attn_(k|v)\.weight", type_by_name("q6_K"), ("attn_k by act: layer 0 = 1.8e+04 (#1)",)),
    Noted(r"^output\.weight", type_by_name("q8_0"), ("by hand", 'and 50% "more", $HOME `x`')),
)
OPTIONS = ("--leave-output-tensor", "--token-embedding-type q8_0")
RECIPE = Written(RULES, file_type_by_name("q4_k_m"), OPTIONS, ("the whole",), "im.dat", "in.gguf", "out.gguf")


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_is_read_back(target: str) -> None:
    read = read_recipe(write(RECIPE, target), "x")
    assert [(r.pattern, r.type) for r in read.rules] == [(r.pattern, r.type) for r in RULES]
    assert read.file_type == RECIPE.file_type
    assert not read.warnings
    assert read.written.options == OPTIONS
    if target != "file":
        assert [len(rule.comments) for rule in read.written.rules] == [1, 2]
        assert (read.written.imatrix, read.written.source, read.written.output) == ("im.dat", "in.gguf", "out.gguf")


@pytest.mark.parametrize("target", ["gguftool", "llama-quantize", "ik"])
def test_a_command_line_is_one_command_for_the_shell(target: str) -> None:
    text = write(RECIPE, target)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any("layer 0 = 1.8e+04" in line for line in comments)
    words = shlex.split(text, comments=True)
    assert words[-3:] == ["in.gguf", "out.gguf", "Q4_K_M"]
    spelled = [f"{rule.pattern}={rule.type.name}" for rule in RULES]
    assert set(spelled) <= set(words) if target != "ik" else ",".join(spelled) in words


def test_the_block_of_a_card_is_joined_by_its_own_shell_lines() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    text = write(RECIPE, "card").replace("./build/bin/llama-quantize", "printf '%s\\n'")
    run = subprocess.run([bash, "-c", text], capture_output=True, text=True, check=True)
    words = run.stdout.splitlines()
    joined = words[words.index("--custom-q") + 1]
    assert joined == ",".join(f"{rule.pattern}={rule.type.name}" for rule in RULES)
    assert [r.pattern for r in parse_custom_q(joined).rules] == [r.pattern for r in RULES]


def test_comments_in_a_file_are_rules_that_llama_quantize_can_read_and_that_hit_nothing() -> None:
    words = write(RECIPE, "file").split()
    assert len(words) == 7
    for word in words:
        pattern, sign, type_name = word.partition("=")  # as llama-quantize splits it
        assert sign
        assert type_by_name(type_name)
        hits = compile_pattern(pattern, lower=True).search("blk.0.attn_k.weight")
        assert hits == (word == r"blk\.([01]|2[0-9])\.attn_(k|v)\.weight=q6_K")


def test_types_that_a_reader_does_not_know_are_refused_with_the_way_out() -> None:
    ik = Written((Noted("attn_v", type_by_name("iq5_ks")),), file_type_by_name("IQ4_KSS"))
    with pytest.raises(RecipeError, match=r"TYPE IQ4_KSS, iq5_ks: llama.cpp does not know that.*--compat mainline`"):
        write(ik, "llama-quantize")
    mainline = Written((Noted("attn_v", type_by_name("nvfp4")),), file_type_by_name("Q4_K_M"))
    with pytest.raises(RecipeError, match=r"nvfp4: ik_llama\.cpp does not know that"):
        write(mainline, "card")
    with pytest.raises(RecipeError, match="no form of a recipe"):
        write(mainline, "yaml")


@pytest.mark.parametrize(
    ("file_type", "options", "target", "says"),
    [
        ("F16", (), "llama-quantize", "ignore rules under F16"),
        ("BF16", (), "card", "ignore rules under BF16"),
        ("Q4_K_M", ("--pure",), "ik", "ignores rules under --pure"),
        ("Q4_K_M", ("--prune-layers 3,7",), "card", "cannot prune"),
        ("Q4_K_M", ("--ffn-gate-inp-type q8_0",), "llama-quantize", "converts routers"),
    ],
)
def test_what_a_program_would_not_follow_is_refused(
    file_type: str, options: tuple[str, ...], target: str, says: str
) -> None:
    recipe = Written(RULES, file_type_by_name(file_type), options)
    with pytest.raises(RecipeError, match=says):
        write(recipe, target)


def test_an_option_of_ik_becomes_a_rule_elsewhere() -> None:
    recipe = Written(RULES, file_type_by_name("q4_k_m"), ("--per-layer-token-embedding-type q8_0",))
    assert r"'^per_layer_token_embd\.weight=q8_0'" in write(recipe, "gguftool")
    assert "--per-layer-token-embedding-type q8_0" in write(recipe, "ik")


@pytest.mark.parametrize(
    ("pattern", "target", "spelled"),
    [
        (r"ATTN_v", "llama-quantize", r"\x41\x54\x54\x4e_v"),
        (r"blk\.\D", "llama-quantize", r"blk\.[^0-9]"),
        (r"blk\.\D", "ik", r"blk\.\D"),
        ("a,b", "ik", r"a\x2cb"),
        ("a=b", "llama-quantize", r"a\x3db"),
        ("a b", "file", r"a\x20b"),
        (r"a\$'\"`", "card", r"a\x24\x27\x22\x60"),
    ],
)
def test_patterns_are_spelled_so_that_the_reader_finds_the_same(pattern: str, target: str, spelled: str) -> None:
    assert portable(pattern, target) == spelled
    names = ["ATTN_v", "attn_v", "blk.x", "blk.3", "a,b", "a=b", "a b", "a$'\"`"]
    lower = target in ("llama-quantize", "file")
    before, after = compile_pattern(pattern), compile_pattern(spelled, lower=lower)
    assert [before.search(name) for name in names] == [after.search(name) for name in names]


@pytest.mark.parametrize(
    ("pattern", "target"), [("a{1,2}", "ik"), ("(?=a)b", "ik"), ("(?=a)b", "file"), (r"\Ba", "file"), (r"[\D]", "file")]
)
def test_patterns_that_a_reader_would_misread_are_refused(pattern: str, target: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(pattern)):
        portable(pattern, target)
    assert portable(pattern, "gguftool") == pattern
