"""Which entries of an importance matrix a plan may use, and which of them it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gguftool.plan.moves import Plan

#: Where an importance vector of the wrong size is left aside instead of refused.
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


class ImatrixNames(Protocol):
    """What a plan asks of an importance matrix: names and shapes, no values."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def lookup(self, name: str) -> tuple[str, str | None] | None: ...


@dataclass(frozen=True)
class Importances:
    """The entries of an importance matrix that may be used: ``include`` and ``exclude`` are plain substrings."""

    source: ImatrixNames
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def allows(self, name: str) -> bool:
        """Whether an entry of that name survives the filters."""
        if self.include and not any(part in name for part in self.include):
            return False
        return not any(part in name for part in self.exclude)

    @property
    def names(self) -> tuple[str, ...]:
        """The entries that are left."""
        return tuple(name for name in self.source.names if self.allows(name))

    def find(self, tensor: str) -> tuple[str, str] | None:
        """The entry for a tensor and a note when another tensor of the same input stands in; None without one."""
        found = self.source.lookup(tensor)
        if found is None or not self.allows(found[0]) or not self.allows(tensor):
            return None
        return found[0], found[1] or ""

    def fits(self, name: str, n_mat: int, n_cols: int) -> bool:
        """Whether an entry is for ``n_mat`` matrices of ``n_cols`` columns; the older format joins the matrices."""
        return self.source.shape(name) in ((n_mat, n_cols), (1, n_mat * n_cols))


def uncovered(plan: Plan) -> tuple[str, ...]:
    """Names of the tensors that change type without an importance vector."""
    return tuple(m.name for m in plan.moves if not m.copied and any(p.importance is None for p in m.pieces))


def unused(plan: Plan, importances: Importances) -> tuple[str, ...]:
    """Entries of the importance matrix that no tensor of the plan uses."""
    used = {p.importance for m in plan.moves for p in m.pieces}
    return tuple(name for name in importances.names if name not in used)


def bpw_cost(plan: Plan) -> Mapping[str, float]:
    """What each fallback costs, by tensor name: bits per weight of the whole model above the type that was wanted."""
    cost = {}
    for move in plan.moves:
        if move.wanted is not None:
            wanted = move.wanted.bpw * move.n_elements + 8 * move.wanted.row_header * move.n_elements // move.shape[-1]
            cost[move.name] = (8 * move.nbytes - wanted) / plan.n_elements
    return cost
