"""Rules in every dialect that people paste."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguftool.errors import RecipeError
from gguftool.recipe.grammar import parse_custom_q, parse_tensor_type, parse_tensor_type_file
from gguftool.recipe.rules import ROLE_PATTERNS, Rule, role_rule


def _pairs(rules: tuple[Rule, ...]) -> list[tuple[str, str]]:
    return [(rule.pattern, rule.type.name) for rule in rules]


@pytest.mark.parametrize(
    ("text", "pattern", "type_name"),
    [
        ("attn_v=q6_k", "attn_v", "q6_K"),
        (r"\.([0-9]|1[01257]|31)\.attn_k=Q4_K", r"\.([0-9]|1[01257]|31)\.attn_k", "q4_K"),
        (r"(?=blk)a=q8_0", "(?=blk)a", "q8_0"),
        (r"blk\.(?!0\.)(?=1).*=IQ4_KSS", r"blk\.(?!0\.)(?=1).*", "iq4_kss"),
        ("  attn_v = bf16 ", "attn_v", "bf16"),
        ("a==q8_0", "a=", "q8_0"),
    ],
)
def test_one_rule(text: str, pattern: str, type_name: str) -> None:
    rule = parse_tensor_type(text)
    assert (rule.pattern, rule.type.name, rule.must_hit) == (pattern, type_name, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attn_v", "PATTERN=TYPE"),
        ("=q6_k", "PATTERN=TYPE"),
        ("attn_v=", "PATTERN=TYPE"),
        ("attn_v=q6k", "did you mean"),
        ("attn_v=q8_K", "cannot be converted to q8_K"),
        ("attn_v=i8", "cannot be converted to i8"),
        ("attn_v=q4_k_r4", "make q4_K"),
        ("attn_v=Q4_K_M", "unknown tensor type 'Q4_K_M'"),
        ("attn(v=q6_k", r"character 5: '\(' without"),
        ("(?<=a)v=q6_k", r"character 1: of the groups"),
    ],
)
def test_one_rule_that_is_none(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_tensor_type(text)


def test_a_file_of_rules() -> None:
    text = "\ufeff# all of them\nattn_v=q6_k  ffn_down=q5_K # why\n\n  # blk=q4_0\n\toutput=q8_0\r\na#b=q4_0\n"
    rules = parse_tensor_type_file(text, "rules.txt")
    assert _pairs(rules) == [("attn_v", "q6_K"), ("ffn_down", "q5_K"), ("output", "q8_0"), ("a#b", "q4_0")]
    assert rules[2].origin == "rules.txt line 5" and not rules[2].must_hit
    with pytest.raises(RecipeError, match=r"rules\.txt line 2 'b'"):
        parse_tensor_type_file("a=q4_0\nb\n", "rules.txt")


def test_a_model_cards_block_in_place_of_a_file_is_told_where_to_go() -> None:
    with pytest.raises(RecipeError, match=r"rules\.txt line 1 'custom=\"'.*goes to --custom-q"):
        parse_tensor_type_file('custom="\n## Attention\nattn_v\\.weight=q6_k\n"', "rules.txt")
    with pytest.raises(RecipeError) as caught:
        parse_tensor_type_file("attn_v=q9_k\n", "rules.txt")
    assert "--custom-q" not in str(caught.value)


def test_iks_string_is_split_at_commas_that_are_not_in_a_count() -> None:
    found = parse_custom_q(r"blk\.\d{1,2}\.attn_v=q6_K,token_embd=iq4_k,, output\.weight=Q6_K ,")
    assert _pairs(found.rules) == [
        (r"blk\.\d{1,2}\.attn_v", "q6_K"),
        ("token_embd", "iq4_k"),
        (r"output\.weight", "q6_K"),
    ]
    assert found.warnings == ()


BLOCK = r'''
#!/usr/bin/env bash

custom="
# Attention
blk\..*\.attn_q.*=iq6_k
blk\.(0|1)\.ffn_down\.weight=q8_0   # the first two
'blk\..*\.ffn_(gate|up)\.weight = iq4_kss' \
“token_embd\.weight=iq4_k”
output\.weight=iq6_k
"""

custom=$(
  echo "$custom" | grep -v '^#' | \
  sed -Ez 's:\n+:,:g;s:,$::;s:^,::'
)
TYPE=IQ4_KSS
CUDA_VISIBLE_DEVICES=0 ./build/bin/llama-quantize \
    --custom-q "$custom" \
    --token-embedding-type q8_0 \
    --imatrix "/data/my model/imatrix.dat" \
    model-BF16.gguf out.gguf IQ4_KSS 24
'''


def test_a_block_with_its_shell_around_it() -> None:
    found = parse_custom_q(BLOCK)
    assert _pairs(found.rules) == [
        (r"blk\..*\.attn_q.*", "iq6_k"),
        (r"blk\.(0|1)\.ffn_down\.weight", "q8_0"),
        (r"blk\..*\.ffn_(gate|up)\.weight", "iq4_kss"),
        (r"token_embd\.weight", "iq4_k"),
        (r"output\.weight", "iq6_k"),
    ]
    assert not any(rule.must_hit for rule in found.rules)
    options, passed = found.warnings
    assert "--token-embedding-type q8_0" in options and "--imatrix /data/my model/imatrix.dat" in options
    assert "passed over" in passed


@pytest.mark.parametrize(
    "text",
    [
        'custom="blk.a=q4_K\nblk.b=q5_K"',
        "custom='blk.a=q4_K,blk.b=q5_K'",
        "custom=$'blk.a=q4_K,blk.b=q5_K'",
        'export custom="blk.a=q4_K,blk.b=q5_K"',
        '--custom-q "blk.a=q4_K,blk.b=q5_K" \\',
        "llama-quantize --custom-q blk.a=q4_K --custom-q=blk.b=q5_K in.gguf out.gguf Q4_K_M",
        "llama-quantize --tensor-type blk.a=q4_K --tensor-type 'blk.b=q5_K' in.gguf out.gguf Q4_K_M",
        "```bash\nblk.a=q4_K\nblk.b=q5_K\n```",
        '"blk.a=q4_K"\n"blk.b=q5_K"',
        "blk.a=q4_K \\\r\nblk.b=q5_K \\",
        "\u200bblk.a=q4_K\u00a0\nblk.b=q5_K;",
    ],
)
def test_many_ways_to_quote(text: str) -> None:
    found = parse_custom_q(text)
    assert _pairs(found.rules) == [("blk.a", "q4_K"), ("blk.b", "q5_K")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attn_v:q6_K", "no rule PATTERN=TYPE found"),
        ("", "no rule"),
        ("# blk=q4_K", "no rule"),
        ("TYPE=Q4_K_M", "no rule"),
        ("attn_v=q6_K,ffn", "'ffn'"),
        ("blk.a=q4_K\nblk\\..*\\.attn_v=iq4_kzs", "line 2 .*unknown tensor type 'iq4_kzs'"),
        ("blk.a=q4_K\nblk.(b=q4_K", "line 2 .*without"),
        ("blk.a=q4_K\nattn_v=", "PATTERN=TYPE"),
        ("x" * (1 << 21), "no recipe"),
    ],
)
def test_what_was_meant_as_a_rule_and_is_none(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_custom_q(text)


def test_two_recipes_in_one_text_are_told() -> None:
    found = parse_custom_q('custom="\nblk.a=q4_K\n"\ncustom="\nblk.a=q5_K\n"\n')
    assert len(found.rules) == 2 and "2 recipes" in found.warnings[0]


def test_damaged_encodings_are_read_around() -> None:
    raw = b'## \xf0\xff Secret \x80\ncustom="\nblk\\..*\\.attn_v.*=q6_K\n\xe2\x80"\n'
    for text in (raw.decode("utf-8", "surrogateescape"), raw.decode("latin-1"), raw.decode("utf-8", "replace")):
        assert _pairs(parse_custom_q(text).rules) == [(r"blk\..*\.attn_v.*", "q6_K")]


def test_options_of_roles_are_rules_too() -> None:
    for role in ROLE_PATTERNS:
        assert role_rule(role, "q8_0").origin == f"--{role}-type"
    with pytest.raises(RecipeError, match="no role"):
        role_rule("attn", "q8_0")


_WORDS = [
    "blk",
    "\\.",
    "attn_v",
    "=",
    ",",
    "'",
    "#",
    "--custom-q",
    "custom=",
    "$(",
    "q4_K",
    "iq",
    "(",
    "{1,",
    "}",
    "\\",
    "(?=",
]
_ODD = ['"', " ", "\n", "--tensor-type ", "\u201c", "\udc80", "\x00"]
_LINES = st.lists(st.sampled_from([*_WORDS, *_ODD]), max_size=14).map("".join)


@given(st.one_of(st.text(), _LINES))
def test_any_text_gives_rules_or_a_recipe_error(text: str) -> None:
    for parse in (parse_tensor_type, parse_tensor_type_file, parse_custom_q):
        try:
            parse(text)
        except RecipeError as error:
            assert str(error)
