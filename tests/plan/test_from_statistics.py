"""From ranks to types: steps, budgets, and rules that every reader takes for the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_recipe import RECORDED

from gguftool.errors import PlanError, UsageError
from gguftool.format.names import layer_of, tensor_kind
from gguftool.imatrix.statistics import TensorStatistics
from gguftool.plan.budget import Change, saved, spent
from gguftool.plan.from_statistics import Choices, choose
from gguftool.plan.quantmap import Known, rules_for
from gguftool.plan.ranking import CRITERIA, Ranked, ranking
from gguftool.plan.steps import assigned, parse_step
from gguftool.recipe.decide import Recipe, decide
from gguftool.recipe.filetypes import file_type_by_name
from gguftool.recipe.rules import Rule

Q4_K_M = file_type_by_name("q4_k_m")


def row(name: str, **figures: float) -> TensorStatistics:
    found = layer_of(name)
    kind = tensor_kind(name)
    bare = TensorStatistics(name, found[1] if found else None, kind, found[0] if found else "", 1, 1, 4, 9, 4)
    return replace(bare, **figures)


def of_layers(values: list[float], kind: str = "attn_v", field: str = "sum") -> list[TensorStatistics]:
    return [row(f"blk.{n}.{kind}.weight", **{field: value}) for n, value in enumerate(values)]


def ranked_layers(values: list[float], by: str = "act", **more: bool) -> list[int]:
    rows = of_layers(values, field=CRITERIA[by].field)
    found = ranking({r.name: r.name for r in rows}, rows, by, **more)
    return [r.layer for r in sorted(found, key=lambda r: r.rank) if r.layer is not None]


def known(name: str = "llama8b32", width: int | None = None) -> Known:
    facts, tensors = RECORDED[name]
    tensors = [replace(t, shape=(*t.shape[:-1], width or t.n_cols)) for t in tensors]
    base = decide(Recipe(Q4_K_M), facts, tensors, has_imatrix=True).each
    names = tuple(t.name for t in tensors)
    return Known(names, {t.name: t for t in tensors}, dict(zip(names, base, strict=True)), facts)


def ranked_all(of: Known, seed: int = 1) -> list[Ranked]:
    """All convertible tensors in blocks, with values that have nothing to do with the layer."""
    names = [n for n in of.names if layer_of(n) and not of.base[n].kept]
    rows = [row(n, sum=float(sum(map(ord, n)) * 7919 * seed % 1009)) for n in names]
    return ranking({n: n for n in names}, rows, "act")


@pytest.mark.parametrize("by", CRITERIA)
def test_each_figure_has_an_important_end_and_can_be_reversed(by: str) -> None:
    expected = [2, 0, 1] if CRITERIA[by].high_first else [1, 0, 2]
    assert ranked_layers([5.0, 1.0, 9.0], by) == expected
    assert ranked_layers([5.0, 1.0, 9.0], by, reverse=True) == expected[::-1]


def test_a_tensor_without_a_value_has_no_place() -> None:
    rows = of_layers([math.nan, 0.9, 0.5], field="cossim")
    found = {r.layer: r for r in ranking({r.name: r.name for r in rows}, rows, "cossim")}
    assert [found[n].rank for n in range(3)] == [0, 2, 1]
    assert {r.of for r in found.values()} == {2}


def test_kinds_are_never_compared() -> None:
    rows = [*of_layers([1, 2]), *of_layers([1000, 2000], "ffn_down")]
    found = ranking({r.name: r.name for r in rows}, rows, "act")
    assert [(r.kind, r.layer, r.rank) for r in found] == [
        ("attn_v", 1, 1), ("attn_v", 0, 2), ("ffn_down", 1, 1), ("ffn_down", 0, 2),
    ]  # fmt: skip


def test_experts_that_saw_no_token_are_no_demerit() -> None:
    full, half = row("blk.0.ffn_up_exps.weight", sum=80.0), row("blk.1.ffn_up_exps.weight", sum=50.0)
    rows = [replace(full, n_mat=8, n_reached=8), replace(half, n_mat=8, n_reached=4)]
    assert [r.layer for r in ranking({r.name: r.name for r in rows}, rows, "act")] == [1, 0]


def test_one_entry_may_stand_for_several_tensors() -> None:
    rows = of_layers([1, 2], "ffn_up")
    entries = {r.name.replace("up", kind): r.name for r in rows for kind in ("up", "gate")}
    found = ranking(entries, rows, "act")
    assert [(r.kind, r.layer) for r in found] == [("ffn_gate", 1), ("ffn_gate", 0), ("ffn_up", 1), ("ffn_up", 0)]


def test_steps_follow_one_another_and_shares_are_rounded_together() -> None:
    rows = of_layers([float(n) for n in range(12)])
    ranked = ranking({r.name: r.name for r in rows}, rows, "act")
    steps = [parse_step("up", "10%", "q6_k"), parse_step("up", "15%", "q5_k"), parse_step("down", "2", "q3_k")]
    taken = {layer_of(name)[1]: step.type.name for name, step in assigned(ranked, steps).items()}  # type: ignore[index]
    assert taken == {11: "q6_K", 10: "q5_K", 9: "q5_K", 0: "q3_K", 1: "q3_K"}
    tenths = [parse_step("up", "10%", "q6_k")] * 10
    assert len(assigned(ranked, tenths)) == 12


def test_steps_that_meet_are_refused() -> None:
    rows = of_layers([1, 2, 3])
    ranked = ranking({r.name: r.name for r in rows}, rows, "act")
    with pytest.raises(UsageError, match="meet in attn_v"):
        assigned(ranked, [parse_step("up", "60%", "q6_k"), parse_step("down", "60%", "q3_k")])


@pytest.mark.parametrize("amount", ["15 percent", "-1", "101%", "1.5", "", "%"])
def test_a_share_that_is_none_is_refused(amount: str) -> None:
    with pytest.raises(UsageError, match="15%"):
        parse_step("up", amount, "q6_k")


def test_a_step_up_lowers_nothing_and_a_step_down_raises_nothing() -> None:
    of = known()
    ranked = ranked_all(of)
    up = choose(ranked, [parse_step("up", "100%", "q5_k")], Q4_K_M, of)
    lowered = [c for c in up.each if of.base[c.ranked.name].type.name == "q6_K"]
    assert not lowered
    assert {r.name for r in up.untouched} == {n for n, d in of.base.items() if d.type.name == "q6_K" and layer_of(n)}
    down = choose(ranked, [parse_step("down", "100%", "q5_k")], Q4_K_M, of)
    assert {of.base[c.ranked.name].type.name for c in down.each} == {"q6_K"}


def test_types_that_do_not_fill_the_rows_are_replaced_and_told() -> None:
    of = known(width=96)
    found = choose(ranked_all(of), [parse_step("up", "10%", "q6_k")], Q4_K_M, of)
    assert {c.type.name for c in found.each} == {"q8_0"}
    assert any("q6_K does not fill their rows" in note for note in found.notes)


def size(of: Known, found: Choices) -> int:
    return sum(found.types.get(n, of.base[n].type).nbytes(t.shape) for n, t in of.facts.items())


@settings(max_examples=40, deadline=None)
@given(
    st.floats(2.5, 9.0),
    st.sampled_from([(), ("up",), ("down",), ("up", "down")]),
    st.sampled_from(["llama8b32", "moe8_24"]),
)
def test_a_budget_is_kept_and_used_up(budget: float, directions: tuple[str, ...], name: str) -> None:
    of = known(name)
    ranked = ranked_all(of)
    steps = [parse_step(d, "40%", {"up": "q6_k", "down": "q3_k"}[d]) for d in directions]
    try:
        found = choose(ranked, steps, Q4_K_M, of, budget_bpw=budget)
    except PlanError as trouble:
        assert "is the least" in str(trouble)
        return
    assert found.bpw <= budget
    assert found.nbytes == size(of, found)
    assert found.free == math.floor(budget * found.n_elements / 8) - found.nbytes
    if directions == ("up",) and found.free is not None:  # whatever is still open costs more than is left
        taken = assigned(ranked, steps)
        for r in ranked:
            base = of.base[r.name].type
            if r.name in taken and r.name not in found.types and taken[r.name].type.bpw > base.bpw:
                shape = of.facts[r.name].shape
                assert taken[r.name].type.nbytes(shape) - base.nbytes(shape) > found.free


def test_a_budget_without_shapes_is_refused() -> None:
    with pytest.raises(UsageError, match="--model"):
        choose([], [], Q4_K_M, Known(()), budget_bpw=4.0)


def test_spending_passes_over_what_is_too_dear() -> None:
    q6 = parse_step("up", "1", "q6_k").type
    changes = [Change("a", q6, 5), Change("b", q6, 9), Change("c", q6, 3)]
    assert [c.name for c in spent(changes, 9)[0]] == ["a", "c"]
    assert saved([Change("a", q6, -3), Change("b", q6, -4), Change("c", q6, -2)], -6) == (
        [Change("a", q6, -3), Change("b", q6, -4)], 1,
    )  # fmt: skip
    assert saved([Change("a", q6, -1), Change("b", q6, -6)], -6) == ([Change("b", q6, -6)], 0)


@pytest.mark.parametrize("name", ["llama8b32", "moe8_24", "falcon32", "gqa4_tied24"])
@pytest.mark.parametrize("target", ["gguftool", "llama-quantize", "ik"])
def test_rules_give_the_types_in_each_readers_own_way(name: str, target: str) -> None:
    of = known(name)
    steps = [parse_step("up", "12%", "q6_k"), parse_step("up", "10%", "q5_k"), parse_step("down", "25%", "q3_k")]
    for seed in (1, 2, 3):
        choices = choose(ranked_all(of, seed), steps, Q4_K_M, of)
        rules, _ = rules_for(choices, of, Q4_K_M, target)
        recipe = Recipe(
            Q4_K_M, tuple(Rule(r.pattern, r.type, "", True) for r in rules), compat=target == "llama-quantize"
        )
        decided = decide(recipe, of.model, list(of.facts.values()), has_imatrix=True)
        assert not decided.problems
        for n, decision in zip(of.names, decided.each, strict=True):
            assert decision.type == choices.types.get(n, of.base[n].type), n


def test_every_rule_says_which_figures_put_it_there() -> None:
    of = known()
    choices = choose(ranked_all(of), [parse_step("up", "2", "q8_0")], Q4_K_M, of)
    rules, _ = rules_for(choices, of, Q4_K_M, "gguftool")
    text = "\n".join(comment for rule in rules for comment in rule.comments)
    for choice in choices.each:
        assert f"{choice.ranked.layer} = {choice.ranked.value:.4g} (#{choice.ranked.rank})" in text
    assert all(rule.comments for rule in rules)
    assert "by act, 1 of 32, up 2 to q8_0" in text or "by act, 2 of 32, up 2 to q8_0" in text


def test_without_a_model_every_step_is_written_out() -> None:
    names = tuple(f"blk.{n}.attn_v.weight" for n in range(8))
    rows = of_layers([float(n) for n in range(8)])
    ranked = ranking({n: n for n in names}, rows, "act")
    choices = choose(ranked, [parse_step("up", "25%", "q4_k")], Q4_K_M, Known(names))
    rules, proven = rules_for(choices, Known(names), Q4_K_M, "file")
    assert [r.pattern for r in rules] == [r"blk\.[67]\.attn_v\.weight"]
    assert proven
    assert math.isnan(choices.bpw)


@pytest.mark.parametrize("n", range(1, 14))
@pytest.mark.parametrize("up", [10, 25, 50, 75, 87.5])
def test_shares_that_make_up_the_whole_do_not_meet(n: int, up: float) -> None:
    rows = of_layers([float(i) for i in range(n)])
    ranked = ranking({r.name: r.name for r in rows}, rows, "act")
    steps = [parse_step("up", f"{up}%", "q6_k"), parse_step("down", f"{100 - up}%", "q3_k")]
    taken = assigned(ranked, steps)
    assert len(taken) == n
    assert sum(step.up for step in taken.values()) == math.floor(up * n / 100 + 0.5)


def test_shares_of_more_than_the_whole_meet() -> None:
    rows = of_layers([1.0, 2.0, 3.0, 4.0])
    ranked = ranking({r.name: r.name for r in rows}, rows, "act")
    with pytest.raises(UsageError, match="meet"):
        assigned(ranked, [parse_step("up", "60%", "q6_k"), parse_step("down", "65%", "q3_k")])


@pytest.mark.parametrize("budget", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_budget_is_a_number_above_nothing(budget: float) -> None:
    of = known()
    with pytest.raises(UsageError, match="--budget-bpw"):
        choose(ranked_all(of), [], Q4_K_M, of, budget_bpw=budget)


def test_tensors_without_a_figure_are_told_of_where_something_ranks_them() -> None:
    rows = of_layers([math.nan, 0.9, 0.5], field="cossim")
    ranked = ranking({r.name: r.name for r in rows}, rows, "cossim")
    nothing = Known(tuple(r.name for r in rows))
    for steps, told in (([parse_step("up", "1", "q6_k")], 1), ([], 0)):
        notes = choose(ranked, steps, Q4_K_M, nothing, by="cossim").notes
        assert sum("no step takes them" in line for line in notes) == told
