"""From the statistics of an importance matrix to a type for every tensor: the layer-wise method of the model cards.

Tensors are ranked within their kinds (``ranking``), steps move shares of each kind up or down from what the base TYPE
gives them (``steps``), or as far as a budget allows (``budget``). What comes out is a type per tensor with its reason;
``recipe.compress`` makes the fewest rules of it.

A step never works against its name: a tensor that the TYPE's mixture makes larger than the target of a step up already
keeps its type, and so downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from gguftool.errors import UsageError
from gguftool.format.quanttypes import QuantType
from gguftool.plan.budget import Change, ladder, out_of_reach, saved, spent
from gguftool.plan.ranking import Ranked, criterion_of, without_value
from gguftool.plan.steps import Step, assigned, idle
from gguftool.recipe.decide import Decision
from gguftool.recipe.facts import TensorFacts
from gguftool.recipe.fallback import fitting_type
from gguftool.recipe.filetypes import FileType


class Tensors(Protocol):
    """What is known of the model: shapes and the base TYPE's decisions; both empty without one."""

    @property
    def facts(self) -> Mapping[str, TensorFacts]: ...
    @property
    def base(self) -> Mapping[str, Decision]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A tensor that gets another type than the TYPE's: where it ranks, what it gets, and which step said so.

    ``wished`` differs from ``type`` where the blocks of the wished type do not fill the tensor's rows.
    """

    ranked: Ranked
    type: QuantType
    wished: QuantType
    step: str


@dataclass(frozen=True)
class Choices:
    """All choices, and what is to be said of them. ``nbytes`` and ``n_elements`` are 0 without a model.

    ``free`` is what is left of the budget in bytes, None without one. ``untouched`` are tensors that a step reached
    and that have its type, or a better one, from the TYPE already.
    """

    each: tuple[Choice, ...]
    by: str
    reverse: bool
    untouched: tuple[Ranked, ...] = ()
    notes: tuple[str, ...] = ()
    nbytes: int = 0
    n_elements: int = 0
    budget_bpw: float | None = None
    free: int | None = None
    types: Mapping[str, QuantType] = field(default_factory=dict)

    @property
    def bpw(self) -> float:
        """Bits per weight of all tensors; NaN without a model."""
        return 8 * self.nbytes / self.n_elements if self.n_elements else math.nan

    def shares(self, n_ranked: int) -> str:
        """How many of the ranked tensors get which type, for people: q5_K for 31 (37 %)."""
        counts: dict[str, int] = {}
        for choice in self.each:
            counts[choice.type.name] = counts.get(choice.type.name, 0) + 1
        return ", ".join(f"{name} for {n} ({100 * n / n_ranked:.0f} %)" for name, n in counts.items())


def choose(
    ranked: Sequence[Ranked],
    steps: Sequence[Step],
    file_type: FileType,
    tensors: Tensors,
    *,
    by: str = "act",
    reverse: bool = False,
    budget_bpw: float | None = None,
) -> Choices:
    """The types that the steps give, within the budget if there is one; pure.

    Without a budget every step is taken whole. With one, steps down are taken whole where there are steps up too (they
    pay for these), else only as far as needed; steps up as far as the budget goes, their shares being the most that
    they may take; without steps the types next to the TYPE's base are tried one after the other. UsageError for steps
    that meet or a budget without a model, PlanError for a budget that cannot be met.
    """
    if budget_bpw is not None and not tensors.facts:
        raise UsageError("--budget-bpw needs the shapes: give the model with --model")
    if budget_bpw is not None and not (0 < budget_bpw < math.inf):
        raise UsageError(f"--budget-bpw {budget_bpw:g}: give bits per weight, a number above 0 such as 4.8")
    maker = _Maker(ranked, file_type, tensors)
    if budget_bpw is None:
        taken = assigned(ranked, steps)
        each = [c for r in ranked if r.name in taken and (c := maker.choice(r, taken[r.name])) is not None]
        missed = idle(ranked, steps, taken)
        free = None
    else:
        each, free = _within(maker, steps, budget_bpw)
        taken, missed = {}, []
    changed = {choice.ranked.name for choice in each}
    nbytes, n_elements = maker.size({choice.ranked.name: choice.type for choice in each})
    return Choices(
        tuple(each),
        by,
        reverse,
        tuple(r for r in ranked if r.name in taken and r.name not in changed),
        tuple([*missed, *(_unranked(ranked, by) if steps or budget_bpw is not None else ()), *_fallbacks(each)]),
        nbytes,
        n_elements,
        budget_bpw,
        free,
        {choice.ranked.name: choice.type for choice in each},
    )


@dataclass(frozen=True)
class _Maker:
    """What the choices are made from."""

    ranked: Sequence[Ranked]
    file_type: FileType
    tensors: Tensors

    def fitted(self, name: str, wished: QuantType) -> QuantType:
        facts = self.tensors.facts.get(name)
        return wished if facts is None else fitting_type(wished, facts.n_cols, self.file_type.family)

    def choice(self, ranked: Ranked, step: Step, reason: str = "") -> Choice | None:
        """What the step makes of the tensor; None where that would be no step into its direction."""
        base = self.tensors.base.get(ranked.name)
        fitted = self.fitted(ranked.name, step.type)
        if base is not None and (fitted.bpw <= base.type.bpw if step.up else fitted.bpw >= base.type.bpw):
            return None
        return Choice(ranked, fitted, step.type, reason or str(step))

    def nbytes(self, name: str, type: QuantType) -> int:
        return type.nbytes(self.tensors.facts[name].shape)

    def size(self, types: Mapping[str, QuantType]) -> tuple[int, int]:
        """(bytes, elements) of the whole model with these types in place of the TYPE's."""
        nbytes = n_elements = 0
        for name, facts in self.tensors.facts.items():
            nbytes += self.nbytes(name, types.get(name, self.tensors.base[name].type))
            n_elements += math.prod(facts.shape)
        return nbytes, n_elements

    def change(self, choice: Choice, before: QuantType) -> Change:
        name = choice.ranked.name
        return Change(name, choice.type, self.nbytes(name, choice.type) - self.nbytes(name, before))


def _within(maker: _Maker, steps: Sequence[Step], budget_bpw: float) -> tuple[list[Choice], int]:
    """(choices, bytes left) of the steps as far as the budget goes."""
    nbytes, n_elements = maker.size({})
    free = math.floor(budget_bpw * n_elements / 8) - nbytes
    ups, downs = [s for s in steps if s.up], [s for s in steps if not s.up]
    reason = f"--budget-bpw {budget_bpw:g}"
    if not steps:
        made, free = _along_ladder(maker, free, reason)
    else:
        made, free = _along_steps(maker, ups, downs, free, reason)
    if free < 0:
        raise out_of_reach(budget_bpw, budget_bpw - 8 * free / n_elements)
    return sorted(made.values(), key=lambda c: (c.ranked.stack, c.ranked.kind, c.ranked.rank)), free


def _along_steps(
    maker: _Maker, ups: Sequence[Step], downs: Sequence[Step], free: int, reason: str
) -> tuple[dict[str, Choice], int]:
    made: dict[str, Choice] = {}
    taken = assigned(maker.ranked, [*ups, *downs])
    for step_up in (False, True):
        order = sorted((r for r in maker.ranked if r.name in taken), key=_by_share, reverse=not step_up)
        choices = {
            r.name: choice
            for r in order
            if taken[r.name].up == step_up and (choice := maker.choice(r, taken[r.name])) is not None
        }
        changes = [maker.change(c, maker.tensors.base[name].type) for name, c in choices.items()]
        if step_up:
            kept, free = spent(changes, free)
        elif ups:
            kept, free = changes, free - sum(change.cost for change in changes)
        else:
            kept, free = saved(changes, free)
        made |= {c.name: replace(choices[c.name], step=f"{choices[c.name].step}, {reason}") for c in kept}
    return made, free


def _along_ladder(maker: _Maker, free: int, reason: str) -> tuple[dict[str, Choice], int]:
    """Types above the base while the budget lasts, or below it until the budget is met; one after the other."""
    made: dict[str, Choice] = {}
    assert maker.file_type.base is not None
    up = free >= 0
    order = sorted((r for r in maker.ranked if r.rank), key=_by_share, reverse=not up)
    for type in ladder(maker.file_type.base, maker.file_type.family, up=up):
        step = Step(up, 100.0, True, type)
        choices = {r.name: c for r in order if (c := maker.choice(r, step, f"{'up' if up else 'down'}, {reason}"))}
        before = {name: made[name].type if name in made else maker.tensors.base[name].type for name in choices}
        changes = [maker.change(choice, before[name]) for name, choice in choices.items()]
        changes = [change for change in changes if (change.cost > 0) == up and change.cost]
        kept, free = spent(changes, free) if up else saved(changes, free)
        made |= {change.name: choices[change.name] for change in kept}
        if len(kept) < len(changes):
            break
    return made, free


def _by_share(r: Ranked) -> tuple[float, str, int]:
    return r.share, r.kind, -1 if r.layer is None else r.layer


def _unranked(ranked: Sequence[Ranked], by: str) -> Iterator[str]:
    bare = without_value(ranked)
    if bare:
        names = ", ".join(r.name for r in bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
        yield f"no {criterion_of(by).title} for {names}: no step takes them"


def _fallbacks(each: Sequence[Choice]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for choice in each:
        if choice.type != choice.wished:
            groups.setdefault((choice.wished.name, choice.type.name), []).append(choice.ranked.name)
    for (wished, got), names in groups.items():
        yield f"{len(names)} tensors get {got}, because {wished} does not fill their rows, such as {names[0]}"
