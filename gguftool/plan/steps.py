"""Steps of a layer-wise recipe: ``up 15% to q6_K``, taken from the important end, or ``down``, from the other."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.errors import UsageError
from gguftool.format.quanttypes import QuantType
from gguftool.plan.ranking import Ranked
from gguftool.recipe.rules import target_type


@dataclass(frozen=True, slots=True)
class Step:
    """``amount`` tensors of every kind, or percent of them, get ``type``: the most important left, or the least."""

    up: bool
    amount: float
    percent: bool
    type: QuantType

    def __str__(self) -> str:
        share = f"{self.amount:g}%" if self.percent else f"{self.amount:g}"
        return f"{'up' if self.up else 'down'} {share} to {self.type.name}"


def parse_step(direction: str, amount: str, type_name: str | QuantType) -> Step:
    """The step of ``--up`` or ``--down`` with its ``--to``; UsageError or RecipeError for one that means nothing."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*(%?)", str(amount).strip())
    if found is None or (not found[2] and "." in found[1]) or (found[2] and float(found[1]) > 100):
        raise UsageError(f"--{direction} {amount}: give a share of each kind's tensors, such as 15%, or a number, as 3")
    target = target_type(type_name) if isinstance(type_name, str) else type_name
    return Step(direction == "up", float(found[1]), bool(found[2]), target)


def assigned(ranked: Sequence[Ranked], steps: Sequence[Step]) -> dict[str, Step]:
    """The step of every tensor that one reaches, by name.

    Steps of one direction follow one another: the first takes the most (or least) important, the next those after it.
    Shares are added up before they are rounded, so ten steps of 10 % take all. Where both directions claim the tensor
    in the middle, as 50 % and 50 % of three do, it goes up. UsageError where they claim more than there are.
    """
    found: dict[str, Step] = {}
    for kind in sorted({(r.stack, r.kind) for r in ranked}):
        members = sorted((r for r in ranked if (r.stack, r.kind) == kind and r.rank), key=lambda r: r.rank)
        claimed = {up: sum(_amount(s, len(members)) for s in steps if s.up == up) for up in (True, False)}
        end = {True: len(members), False: len(members)}
        if sum(claimed.values()) <= len(members) + 1e-9:
            end[False] -= _round(claimed[True])
        for up in (True, False):
            ordered = members if up else members[::-1]
            start = share = 0.0
            for step in (s for s in steps if s.up == up):
                share += _amount(step, len(members))
                for r in ordered[_round(start) : min(_round(share), end[up])]:
                    if r.name in found:
                        raise UsageError(f"the steps up and down meet in {r.kind}: give smaller shares")
                    found[r.name] = step
                start = share
    return found


def _amount(step: Step, n: int) -> float:
    """How many of ``n`` tensors the step takes, before rounding."""
    return step.amount * n / 100 if step.percent else step.amount


def idle(ranked: Sequence[Ranked], steps: Sequence[Step], taken: dict[str, Step]) -> list[str]:
    """A line for every step that takes no tensor of some kind, because there are too few of it."""
    lines = []
    for step in dict.fromkeys(steps):
        kinds = {r.kind: r.of for r in ranked if r.of}
        reached = {r.kind for r in ranked if taken.get(r.name) == step}
        if missed := sorted(kinds.keys() - reached):
            lines.append(f"{step}: takes no tensor of {', '.join(f'{kind} (of {kinds[kind]})' for kind in missed)}")
    return lines


def _round(number: float) -> int:
    return math.floor(number + 0.5 + 1e-9)
