"""Patterns: the same answer as C++ std::regex, or a refusal that names the place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguftool.errors import RecipeError
from gguftool.recipe.regex import compile_pattern, lower_outside_escapes
from gguftool.recipe.regex_tree import reachable

NAMES = (
    "blk.0.attn_v.weight",
    "blk.12.ffn_down_exps.weight",
    "output.weight",
    "aaa",
    "ab]a",
    "{x,2}",
    "z-9",
    "A_Z",
    "7",
)


def _hits(pattern: str) -> list[str]:
    compiled = compile_pattern(pattern)
    return [name for name in NAMES if compiled.search(name)]


@pytest.mark.parametrize(
    ("pattern", "hits"),
    [
        ("attn_v", NAMES[:1]),
        ("ATTN_V", ()),
        (r"^output\.weight$", NAMES[2:3]),
        (r"blk\.(0|1[0-2])\.", NAMES[:2]),
        (r"blk\.(?!0\.)", NAMES[1:2]),
        (r"^(?=blk).*exps", NAMES[1:2]),
        (r"^(a)\1+$", ("aaa",)),
        (r"^[[:digit:]]$", ("7",)),
        (r"^[[:upper:]_]+$", ("A_Z",)),
        (r"^[[:alpha:]-]+[^[:alpha:]]$", ("z-9",)),
        (r"^[[.a.]]+$", ("aaa",)),
        ("[]", ()),
        ("^[^]$", ("7",)),
        ("[]a]", ()),
        ("[^]a]", ()),
        ("b[^]a", ("ab]a",)),
        (r"\z", ("z-9",)),
        (r"^\{", ("{x,2}",)),
        ("2}", ("{x,2}",)),
        ("b]a", ("ab]a",)),
        (r"^\w_\w$", ("A_Z",)),
        (r"\x62lk\.\u0030", NAMES[:1]),
        ("^a{2,3}$", ("aaa",)),
        ("^a{2}$", ()),
        ("^a{1,}?$", ("aaa",)),
        ("x|7|", NAMES),
        ("^(|A_)Z$", ("A_Z",)),
        (r"\battn", NAMES[:1]),
        (r"\Battn", ()),
        (r"\.\battn\B", NAMES[:1]),
        ("^[a-z]-[\\d]$", ("z-9",)),
        ("^.-.$", ("z-9",)),
        (r"^[\D]-9$", ("z-9",)),
        ("[.]weight", NAMES[:3]),
    ],
)
def test_what_a_pattern_finds(pattern: str, hits: tuple[str, ...]) -> None:
    assert _hits(pattern) == list(hits)


@pytest.mark.parametrize(
    ("pattern", "at"),
    [
        ("a(?<=a)b", 2),
        ("(?<!a)b", 1),
        ("(?P<n>a)", 1),
        ("(?i)a", 1),
        ("(?i:a)", 1),
        ("(?#a)", 1),
        ("(?>a)", 1),
        (r"\Aa", 1),
        (r"a\Z", 2),
        (r"a\cA", 2),
        (r"\101", 1),
        (r"a\01", 2),
        ("[[=a=]]", 2),
        ("[[:digits:]]", 2),
        ("a{,2}", 2),
        ("a{", 2),
        ("{2}", 1),
        ("a**", 3),
        ("a++", 3),
        ("a{2}{3}", 5),
        ("a???", 4),
        ("(?=a)*", 1),
        ("^*", 1),
        ("a{3,2}", 2),
        ("*a", 1),
        ("a|+b", 3),
        ("(a", 1),
        ("a)", 2),
        ("a[b", 2),
        ("[b-a]", 2),
        (r"[\w-z]", 2),
        ("ab\\", 3),
        (r"\x4", 1),
        (r"\xe9", 1),
        (r"\u00e9", 1),
        (r"(a\1)", 3),
        (r"\2(a)", 1),
        (r"\a", 1),
        ("[\u00e9]", 2),
    ],
)
def test_what_is_refused_and_where(pattern: str, at: int) -> None:
    with pytest.raises(RecipeError, match=f"character {at}:"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["", "a{100001}", "(a{1000}){1000}", "a" * 5000, "(" * 100 + ")" * 100, "((a*)*)\\1"]
)
def test_what_is_refused_as_a_whole(pattern: str) -> None:
    with pytest.raises(RecipeError):
        compile_pattern(pattern)


def test_names_are_compared_byte_by_byte() -> None:
    assert compile_pattern("^..$").search("\u00e9")
    assert compile_pattern("^\u00e9$").search("\u00e9")
    assert not compile_pattern(r"\w").search("\u00e9")
    assert compile_pattern("weight").search("\udcff.weight")
    assert not compile_pattern("^a$").search("a\n")
    assert not compile_pattern("^a.b$").search("a\rb")


def test_lower_casing_leaves_escapes_alone() -> None:
    assert lower_outside_escapes(r"BLK\.\D\S\x4A[A-F]\W") == r"blk\.\D\S\x4A[a-f]\W"
    assert compile_pattern("ATTN_V", lower=True).search("blk.0.attn_v.weight")
    assert not compile_pattern(r"blk\.\D\.attn_v", lower=True).search("blk.0.attn_v.weight")


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(a|.){30}b",
        ".*" * 12 + "b",
        "(.?){40}b$",
        "(a|.)" * 30 + "b",
        "(((a*)*)*)*b",
        "(?=(a+)+b)c",
    ],
)
def test_patterns_that_would_backtrack_for_ever_are_followed_by_positions(pattern: str) -> None:
    compiled = compile_pattern(pattern)
    assert compiled._fast is None
    assert compiled.search("a" * 63 + "!") is False


def test_long_names_are_followed_by_positions_too() -> None:
    compiled = compile_pattern(".*x.*y.*")
    assert compiled._fast is not None
    assert not compiled.search("x" * 500) and compiled.search("x" * 500 + "y")


def test_ordinary_patterns_are_matched_by_pythons_engine() -> None:
    for pattern in (r"blk\..*\.attn_q.*\.weight", r"blk\.([0-9]|1[01257]|31)\..*ffn_(gate|up|down)_exps.*\.weight"):
        assert compile_pattern(pattern)._fast is not None


_TOKENS = [
    r"\.",
    r"\d",
    r"\W",
    r"\b",
    r"\z",
    r"\1",
    r"(?:",
    r"(?=",
    r"(?!",
    r"{2}",
    r"{1,}",
    r"{0,2}",
    r"[a-z]",
    r"[^0-9]",
    r"[]",
    r"[^]",
    r"[[:alpha:]_]",
    r"[a-c-e]",
    r"[[]",
    r"\x61",
    r"\A",
]
_PIECES = st.sampled_from([*"abkl.w19_-^$|*+?()[]{},=:", *_TOKENS, "\u00e9", "\udc80", "\ud800"])


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=9).map("".join), st.text(alphabet="ab.k1_w]-", max_size=10))
def test_any_pattern_compiles_or_is_refused_and_both_engines_agree(pattern: str, name: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except RecipeError:
        return
    re.compile(compiled.python, re.ASCII)
    if not compiled._has_references:
        followed = any(reachable(compiled._tree, name, start, {}) for start in range(len(name) + 1))
        assert compiled.search(name) == followed == bool(re.search(compiled.python, name, re.ASCII))


@given(st.text(max_size=50))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        compile_pattern(text).search("blk.0.attn_q.weight")
    except RecipeError:
        return
