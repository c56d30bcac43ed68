"""From an importance matrix to a recipe: ranks, steps, a budget, and out comes the shortest quant map."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguftool.errors import UsageError
from gguftool.format.names import layer_of, parse_shard_name, ranges, tensor_kind
from gguftool.format.quanttypes import QuantType
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.imatrix.statistics import tensor_statistics
from gguftool.plan.from_statistics import Choices, choose
from gguftool.plan.quantmap import Known, rules_for
from gguftool.plan.ranking import CRITERIA, Ranked, ranking
from gguftool.plan.steps import Step, parse_step
from gguftool.recipe.dialects import Noted, Written, write
from gguftool.recipe.eligible import why_kept
from gguftool.recipe.facts import TensorFacts
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.grammar import compile_pattern
from gguftool.verbs.model_known import header_without, known_of
from gguftool.verbs.quantize import rules_of
from gguftool.verbs.rewrite import layers_of

if TYPE_CHECKING:
    import pandas as pd

    from gguftool.imatrix.statistics import TensorStatistics
    from gguftool.recipe.rules import Rule

_PRECISION = re.compile(r"[-.](f16|bf16|f32|fp16)$", re.IGNORECASE)


@dataclass(frozen=True)
class StatisticsPlan:
    """A recipe made from statistics: ``choices`` has every tensor that a step moved, ``types`` what they get.

    ``base_bpw`` and ``bpw`` (bits per weight of all tensors, NaN without a model) are those of the TYPE alone and of
    this recipe. ``warnings`` say what was left aside. ``pruned`` are layers that go; all names are those after it.
    ``remarks`` are more comments on the whole.
    """

    file_type: FileType
    choices: Choices
    ranked: tuple[Ranked, ...]
    known: Known = field(repr=False)
    imatrix: Path
    model: Path | None
    datasets: tuple[str, ...]
    base_bpw: float
    warnings: tuple[str, ...]
    pruned: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def types(self) -> Mapping[str, QuantType]:
        return self.choices.types

    @property
    def bpw(self) -> float:
        return self.choices.bpw

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, 0 without a model."""
        return self.choices.nbytes

    def rules(self, target: str = "gguftool") -> tuple[Noted, ...]:
        """The fewest rules that say it, in the order in which the first match wins."""
        return self._rules(target)[0]

    def fewest(self, target: str = "gguftool") -> bool:
        """Whether it is proven that no shorter list of such rules exists."""
        return self._rules(target)[1]

    def text(self, target: str = "gguftool", *, comments: bool = True) -> str:
        """The recipe for ``target``, one of ``recipe.dialects.TARGETS``: a command line, a file, a card's block."""
        rules = self.rules(target)
        if not comments:
            rules = tuple(Noted(rule.pattern, rule.type) for rule in rules)
        written = Written(
            rules,
            self.file_type,
            options=self._options(target),
            head=tuple(self._head(target)) if comments else (),
            imatrix=str(self._read(self.imatrix, target)),
            source=str(self._read(self.model, target)) if self.model is not None else None,
            output=self._output(),
        )
        return write(written, target)

    def frame(self) -> pd.DataFrame:
        """One row per ranked tensor: name, kind, layer, value, rank, of ..., and its type (None: TYPE's own)."""
        import pandas as pd

        rows = [asdict(r) | {"type": t.name if (t := self.types.get(r.name)) else None} for r in self.ranked]
        return pd.DataFrame(rows)

    @cached_property
    def _cache(self) -> dict[str, tuple[tuple[Noted, ...], bool]]:
        return {}

    def _rules(self, target: str) -> tuple[tuple[Noted, ...], bool]:
        key = "counted" if target in ("llama-quantize", "file") else "plain"
        if key not in self._cache:
            self._cache[key] = rules_for(self.choices, self.known, self.file_type, target)
        return self._cache[key]

    def _read(self, path: Path, target: str) -> Path:
        """The file that the target's program reads: a pruned copy where it cannot prune."""
        return path.with_stem(f"{path.stem}-pruned") if self.pruned and target != "gguftool" else path

    def _output(self) -> str | None:
        """A name for the model that the recipe makes, in the current folder; not that of the TYPE alone."""
        if self.model is None:
            return None
        shard = parse_shard_name(self.model)
        stem = _PRECISION.sub("", Path(shard[0]).name if shard else self.model.stem)
        return f"{stem}{'-pruned' if self.pruned else ''}-{self.file_type.name}-{self.choices.by}.gguf"

    def _options(self, target: str) -> tuple[str, ...]:
        return (f"--prune-layers {ranges(self.pruned)}",) if self.pruned and target == "gguftool" else ()

    def _pruning(self, target: str) -> Iterator[str]:
        """What to know of the pruned layers: others' quantizers take them out wrongly or not at all."""
        if self.pruned:
            which = f"--prune-layers {ranges(self.pruned)}"
            yield f"layers {ranges(self.pruned)} are pruned, and layers are counted without them from here on"
            if target != "gguftool":
                yield f"gguftool copy and gguftool imatrix convert, with {which}, make the files that are read here"
        yield from self.remarks

    def _ranking(self) -> str:
        criterion = CRITERIA[self.choices.by]
        end = "high" if criterion.high_first != self.choices.reverse else "low"
        steps = f" with steps by {self.choices.by} ({criterion.title}, {end} first, within kinds)"
        return steps if self.choices.each else ""

    def _head(self, target: str) -> list[str]:
        source = f"{self.imatrix.name} ({', '.join(self.datasets)})" if self.datasets else self.imatrix.name
        lines = [f"{self.file_type.name}{self._ranking()}, importances of {source}"]
        if not math.isnan(self.bpw):
            lines.append(f"{self.bpw:.4f} bpw; {self.file_type.name} alone {self.base_bpw:.4f}")
        if self.choices.budget_bpw is not None and self.choices.free is not None:
            lines[-1] += f"; {budget_line(self.choices)}"
            if self.choices.each:
                lines.append(f"of {len(self.ranked)} tensors: {self.choices.shares(len(self.ranked))}")
        return [*lines, *self._pruning(target)]


def budget_line(choices: Choices) -> str:
    """By how much the result stays under the budget."""
    assert choices.budget_bpw is not None and choices.free is not None
    under = choices.budget_bpw - choices.bpw
    return f"{under:.4f} bpw ({choices.free:,} bytes) under the budget of {choices.budget_bpw:g}"


def plan_from_statistics(
    imatrix: str | os.PathLike[str] | Imatrix,
    type: str | int,
    *,
    up: Sequence[Any] = (),
    down: Sequence[Any] = (),
    steps: Sequence[Step] = (),
    by: str = "act",
    reverse: bool = False,
    budget_bpw: float | None = None,
    model: str | os.PathLike[str] | None = None,
    kinds: str | Sequence[str] = (),
    tensor: str | None = None,
    tensor_type: str | Sequence[str | Rule] = (),
    prune_layers: str | Collection[int] = (),
) -> StatisticsPlan:
    """The recipe that moves the more important tensors of every kind up from TYPE, and the less important down.

    ``up`` and ``down`` are (share, type) pairs, or lists of such: ``up=("15%", "q6_k")``; ``steps`` the same as
    ``Step`` objects. ``by`` is one of act, entropy, zd, cossim, gain, kurtosis; ``reverse`` turns it around. With
    ``budget_bpw`` (needs ``model``, of which only the header is read) steps go as far as it allows. ``kinds`` and
    ``tensor``, a pattern over names, limit what is moved; ``tensor_type`` rules fix types by hand and come first.
    ``prune_layers`` go; rules, ranks and sizes are then those of the model without them.

    UsageError and RecipeError for arguments that mean nothing, PlanError for a budget that cannot be met.
    """
    file_type = file_type_by_name(str(type))
    if file_type.is_copy:
        raise UsageError("TYPE COPY converts nothing: name the TYPE that most tensors are to have")
    every = [*steps, *_steps("up", up), *_steps("down", down)]
    gone = layers_of(prune_layers)
    if not every and budget_bpw is None and not gone:
        raise UsageError("nothing to do: give --up SHARE --to TYPE, --down SHARE --to TYPE, or --budget-bpw")
    pins, remarks = rules_of([("--tensor-type", r) for r in _listed(tensor_type)])
    with _opened(imatrix) as whole:
        header = header_without(None if model is None else Path(model), whole, gone)
        stored = whole.renamed(header.new_name) if gone else whole
        cut = stored.with_experts(stored.inferred_experts())
        rows = tensor_statistics(cut)
        place = None if model is None else Path(model)
        known, notes = known_of(header, stored, file_type, pins)
        entries = _entries(known, stored, _listed(kinds), tensor)
        ranked = ranking(entries, rows, by, reverse=reverse)
        choices = choose(ranked, every, file_type, known, by=by, reverse=reverse, budget_bpw=budget_bpw)
        warnings = (*remarks, *stored.warnings, *header.notes, *notes, *_experts(rows, ranked), *choices.notes)
        return StatisticsPlan(
            file_type,
            choices,
            tuple(ranked),
            known,
            stored.path,
            place,
            stored.datasets,
            _base_bpw(known),
            warnings,
            gone,
        )


def _opened(imatrix: str | os.PathLike[str] | Imatrix) -> Any:
    import contextlib

    return contextlib.nullcontext(imatrix) if isinstance(imatrix, Imatrix) else open_imatrix(imatrix)


def _listed(given: Any) -> Sequence[Any]:
    return (given,) if isinstance(given, str) else tuple(given)


def _steps(direction: str, given: Sequence[Any]) -> list[Step]:
    """The steps of one pair, or of a list of pairs."""
    pairs = [given] if len(given) == 2 and not isinstance(given[0], (tuple, list)) else given
    try:
        return [parse_step(direction, amount, type_name) for amount, type_name in pairs]
    except (TypeError, ValueError):
        raise UsageError(f"{direction}={given!r}: give (share, type) pairs, such as ('15%', 'q6_k')") from None


def _entries(known: Known, imatrix: Imatrix, kinds: Sequence[str], tensor: str | None) -> dict[str, str]:
    """Tensor -> entry for all that may be moved: convertible, in a block or named, not pinned, with an entry."""
    pattern = compile_pattern(tensor) if tensor is not None else None
    wanted = [kind for text in kinds for kind in text.split(",") if kind]
    present = {tensor_kind(name) for name in known.names if imatrix.lookup(name) is not None}
    if missing := [kind for kind in wanted if kind not in present]:
        raise UsageError(f"--kinds {','.join(missing)}: the imatrix has {', '.join(sorted(present))}")
    found: dict[str, str] = {}
    for name in known.names:
        kind, entry = tensor_kind(name), imatrix.lookup(name)
        named = kind in wanted or (pattern is not None and pattern.search(name))
        if entry is None or name in known.pinned or _is_kept(name, known, imatrix, entry[0]):
            continue
        limited = bool(wanted) or pattern is not None
        if named if limited else layer_of(name) is not None:
            found[name] = entry[0]
    if not found:
        raise UsageError("no tensor of the imatrix is left to rank: see --kinds and --tensor")
    return found


def _is_kept(name: str, known: Known, imatrix: Imatrix, entry: str) -> bool:
    if known.base:
        return known.base[name].kept
    n_mat, n_cols = imatrix.shape(entry)
    f16 = file_type_by_name("F16").base
    assert f16 is not None
    shape = (n_mat, 2, n_cols) if n_mat > 1 else (2, n_cols)
    return why_kept(TensorFacts(name, shape, f16)) is not None


def _experts(rows: Sequence[TensorStatistics], ranked: Sequence[Ranked]) -> list[str]:
    """A line where experts without tokens make figures of layers hard to compare."""
    used = {r.entry for r in ranked}
    idle = [row for row in rows if row.name in used and 0 < row.n_reached < row.n_mat]
    if not idle:
        return []
    lost = sum(row.n_mat - row.n_reached for row in idle)
    return [f"{lost} experts in {len(idle)} tensors saw no token: their layers' figures come from the others only"]


def _base_bpw(known: Known) -> float:
    elements = sum(math.prod(t.shape) for t in known.facts.values())
    if not elements:
        return math.nan
    return 8 * sum(known.base[name].type.nbytes(t.shape) for name, t in known.facts.items()) / elements
