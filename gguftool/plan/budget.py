"""How far to go: changes of types until a budget of bytes is spent, or met from above.

The order is that of the ranking, the most important first over all kinds (a tensor's place among its own kind counts,
so that every kind is treated alike). A change that does not fit is passed over and smaller ones after it are tried, so
what is left at the end is less than any change still open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguftool.errors import PlanError
from gguftool.format.quanttypes import QuantType, type_by_name

#: Types to go through one after the other where nobody names any.
LADDERS: Mapping[str, tuple[str, ...]] = {
    "mainline": ("iq2_xxs", "iq2_xs", "q2_K", "iq3_xxs", "q3_K", "iq4_xs", "q4_K", "q5_K", "q6_K", "q8_0"),
    "ik": ("iq2_ks", "iq2_k", "iq3_ks", "iq3_k", "iq4_kss", "iq4_ks", "iq4_k", "iq5_ks", "iq5_k", "iq6_k", "q8_0"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that would get ``type``, for ``cost`` bytes more than before (less if negative)."""

    name: str
    type: QuantType
    cost: int


def spent(changes: Sequence[Change], free: int) -> tuple[list[Change], int]:
    """(the changes that are made, bytes left): in order, each that costs no more than is left."""
    made = []
    for change in changes:
        if change.cost <= free:
            made.append(change)
            free -= change.cost
    return made, free


def saved(changes: Sequence[Change], free: int) -> tuple[list[Change], int]:
    """(the changes that are made, bytes left) until ``free``, negative at first, is not any more.

    What is then too much is given back, from the last change (the most important tensor) to the first.
    """
    made: list[Change] = []
    for change in changes:
        if free >= 0:
            break
        made.append(change)
        free -= change.cost
    for change in made[::-1]:
        if -change.cost <= free:
            made.remove(change)
            free += change.cost
    return made, free


def ladder(base: QuantType, family: str, *, up: bool) -> list[QuantType]:
    """The types above (or below) the base, nearest first."""
    types = [type_by_name(name) for name in LADDERS["ik" if family == "ik" else "mainline"]]
    if up:
        return [t for t in types if t.bpw > base.bpw]
    return [t for t in types if t.bpw < base.bpw][::-1]


def out_of_reach(budget: float, least: float) -> PlanError:
    """The error for a budget below the least that the changes lead to."""
    return PlanError([
        f"--budget-bpw {budget:g}: {least:.4f} bits per weight is the least that these steps lead to: "
        "start from a smaller TYPE, or allow more with --down"
    ])  # fmt: skip
