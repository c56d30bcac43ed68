"""From types back to rules: they say exactly what they should, of every name, and are as few as can be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.compress import Merged, fewest_rules, kinds_pattern, literal, misfits
from gguftool.recipe.grammar import parse_custom_q, parse_tensor_type_file
from gguftool.recipe.regex import compile_pattern

Q3, Q4, Q6, Q8 = (type_by_name(name) for name in ("q3_K", "q4_K", "q6_K", "q8_0"))
KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_down_exps")
OUTSIDE = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight", "output_norm.weight")


def names(n_layer: int, kinds: tuple[str, ...] = KINDS, stack: str = "blk") -> list[str]:
    return [f"{stack}.{n}.{kind}.weight" for n in range(n_layer) for kind in kinds]


def patterns(wanted: dict[str, QuantType], every: list[str], free: QuantType | None = None) -> list[str]:
    found = fewest_rules(wanted, {name: free for name in every if name not in wanted})
    return [f"{rule.pattern}={rule.type.name}" for rule in found.rules]


def test_layers_are_merged_into_classes_and_kinds_of_the_same_layers_into_one_rule() -> None:
    every = names(40)
    layers = (0, 1, *range(20, 32))
    wanted = {f"blk.{n}.attn_{x}.weight": Q6 for n in layers for x in "qv"}
    assert patterns(wanted, every) == [r"blk\.([01]|2[0-9]|3[01])\.attn_(q|v)\.weight=q6_K"]


def test_one_layer_does_not_hit_those_that_begin_with_its_number() -> None:
    (rule,) = fewest_rules({"blk.1.attn_v.weight": Q6}, dict.fromkeys(names(20)[20:], None)).rules
    assert rule.pattern == r"blk\.1\.attn_v\.weight"
    assert not compile_pattern(rule.pattern).search("blk.11.attn_v.weight")


def test_the_rest_of_a_kind_is_left_to_a_rule_for_all_layers() -> None:
    every = names(12, ("attn_v",))
    wanted = dict.fromkeys(every, Q4) | {"blk.3.attn_v.weight": Q6}
    assert patterns(wanted, every) == [r"blk\.3\.attn_v\.weight=q6_K", r"blk\.[0-9]+\.attn_v\.weight=q4_K"]


def test_a_rule_may_run_over_tensors_that_have_its_type_anyway() -> None:
    every = names(12, ("attn_v",))
    wanted = {name: Q6 for name in every if "blk.7" in name or "blk.8" in name}
    assert patterns(wanted, every, free=Q6) == [r"blk\.[78]\.attn_v\.weight=q6_K"]
    wanted = {name: Q6 for name in every if int(name.split(".")[1]) % 2}
    assert patterns(wanted, every, free=Q6) == [r"blk\.[0-9]+\.attn_v\.weight=q6_K"]
    assert patterns(wanted, every, free=Q4) == [r"blk\.([13579]|11)\.attn_v\.weight=q6_K"]


def test_tensors_outside_of_blocks_are_anchored_where_others_end_like_them() -> None:
    every = [*names(2), *OUTSIDE]
    assert patterns({"output.weight": Q6, "token_embd.weight": Q4}, every) == [
        r"^output\.weight=q6_K",
        r"^token_embd\.weight=q4_K",
    ]
    assert patterns({"output.weight": Q6, "token_embd.weight": Q6}, every) == [r"^(output|token_embd)\.weight=q6_K"]


def test_stacks_are_told_apart() -> None:
    every = [*names(3, stack="blk"), *names(3, stack="enc.blk"), *names(3, stack="dec.blk")]
    wanted = {"blk.1.attn_q.weight": Q6, "enc.blk.1.attn_q.weight": Q8}
    assert patterns(wanted, every) == [r"^blk\.1\.attn_q\.weight=q6_K", r"enc\.blk\.1\.attn_q\.weight=q8_0"]


def test_capitals_survive_being_lower_cased() -> None:
    every = ["blk.0.Attn_V.weight", "blk.0.attn_v.weight"]
    (rule,) = fewest_rules({every[0]: Q6}, {every[1]: None}).rules
    assert compile_pattern(rule.pattern, lower=True).search(every[0])
    assert not compile_pattern(rule.pattern, lower=True).search(every[1])


def test_a_wrong_rule_is_found() -> None:
    wanted, others = {"blk.1.attn_v.weight": Q6}, {"blk.11.attn_v.weight": None}
    loose = Merged(r"blk\.1.*attn_v", Q6, ("blk.1.attn_v.weight",))
    assert misfits([loose], wanted, others) == ["blk.11.attn_v.weight"] * 2
    assert misfits([], wanted, others) == ["blk.1.attn_v.weight"] * 2
    assert misfits([Merged(r"BLK\.1\.attn_v", Q6, ())], wanted, {})  # only lower-casing makes it hit


@pytest.mark.parametrize(
    ("kinds", "pattern"),
    [
        (["attn_q.weight"], r"attn_q\.weight"),
        (["ffn_up_exps.weight", "ffn_gate_exps.weight"], r"ffn_(gate|up)_exps\.weight"),
        (["attn_q.weight", "attn_k.weight", "ffn_up.weight"], r"(attn_(k|q)|ffn_up)\.weight"),
        (["ffn_down.weight", "ffn_down_exps.weight"], r"ffn_(down|down_exps)\.weight"),
    ],
)
def test_what_names_have_in_common_is_written_once(kinds: list[str], pattern: str) -> None:
    assert kinds_pattern(kinds) == pattern


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12))
def test_a_literal_matches_its_text_only_lower_cased_or_not(text: str) -> None:
    pattern = f"^{literal(text)}$"
    assert compile_pattern(pattern).search(text)
    assert compile_pattern(pattern, lower=True).search(text)
    assert not compile_pattern(pattern).search(text + "x")
    assert not compile_pattern(pattern).search("x" + text)


@st.composite
def assignments(draw: st.DrawFn) -> tuple[dict[str, QuantType], dict[str, QuantType | None]]:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True))
    every = [*names(draw(st.integers(1, 14)), tuple(kinds)), *OUTSIDE]
    present = [name for name in every if draw(st.integers(0, 9))]
    types = st.sampled_from([Q3, Q4, Q6][: draw(st.integers(1, 3))])
    wanted = {name: draw(types) for name in present if draw(st.booleans())}
    others = {name: draw(st.none() | types) for name in present if name not in wanted}
    return wanted, others


@settings(max_examples=60)
@given(assignments())
def test_every_name_gets_exactly_its_type_and_no_other_is_hit(
    case: tuple[dict[str, QuantType], dict[str, QuantType | None]],
) -> None:
    wanted, others = case
    found = fewest_rules(wanted, others)
    assert {name for rule in found.rules for name in rule.names} == wanted.keys()
    lines = [f"{rule.pattern}={rule.type.name}" for rule in found.rules]
    for rules in (
        parse_custom_q(",".join(lines)).rules if lines else (),
        parse_tensor_type_file("\n".join(lines)),
    ):
        for name in (*wanted, *others):
            hits = [rule.type for rule in rules if re.search(compile_pattern(rule.pattern).python, name)]
            assert (hits[0] if hits else None) in ((wanted[name],) if name in wanted else (None, others[name]))


def test_many_layers_of_many_kinds_take_no_time() -> None:
    every = names(200)
    wanted = {name: Q6 for name in every if hash_of(name) % 7 == 0}
    found = fewest_rules(wanted, dict.fromkeys(set(every) - wanted.keys()))
    assert len(found.rules) <= len(KINDS)


def hash_of(name: str) -> int:
    return sum(map(ord, name)) * 2654435761 % 2**32
