"""Which layers to leave out: what an importance matrix says, what the running model says, and what the bytes cost else.

An importance matrix ranks layers (``plan.prune_ranking``), but is a weak witness. With the model and a text the best
lists are tried: each is written as a copy without its layers and its KL divergence from the whole model is measured.
What is named then is the least divergence. Beside it stands the model with all its layers, quantized so much harder
that it takes the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from gguftool.errors import PlanError, UsageError
from gguftool.format.names import ranges
from gguftool.format.reader import open_model
from gguftool.imatrix.file import open_imatrix
from gguftool.imatrix.layers import layer_statistics
from gguftool.imatrix.statistics import tensor_statistics
from gguftool.llama.perplexity import Divergence
from gguftool.plan.layers import prune_layers
from gguftool.plan.prune_ranking import RankedLayer, prune_lists, rank_layers
from gguftool.verbs.copy import copy
from gguftool.verbs.kld import check_measuring, kld
from gguftool.verbs.plan import StatisticsPlan, plan_from_statistics
from gguftool.verbs.quantize import quantize

WITNESS = (
    "an imatrix is a weak witness for pruning: it has sums of what went into the layers, not what each changed (Block "
    "Influence needs the running model)"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Layers that might go, ascending; their mean score; the divergence of the model without them, if measured."""

    layers: tuple[int, ...]
    score: float
    divergence: Divergence | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One way to spend the bytes: what it is called, its recipe, and what the quantized file diverges, if measured."""

    name: str
    plan: StatisticsPlan
    divergence: Divergence | None = None


@dataclass(frozen=True)
class PrunePlan:
    """A pruning plan: all layers ranked, the lists that were looked at (the named one first), and two ways to the size.

    ``pruned`` is the recipe without the layers; ``harder``, None without a model, has all layers at no more bytes, or
    ``why_not`` says why it cannot.
    """

    layers: tuple[RankedLayer, ...]
    candidates: tuple[Candidate, ...]
    pruned: Way
    harder: Way | None
    why_not: str
    warnings: tuple[str, ...]

    @property
    def chosen(self) -> tuple[int, ...]:
        return self.candidates[0].layers


@dataclass(frozen=True, slots=True)
class Trial:
    """How candidates are measured: the text, chunks of it, how many lists, threads, and where copies are put."""

    text: Path
    chunks: int | None = 20
    n_ctx: int = 512
    candidates: int = 6
    threads: int = 1
    folder: Path | None = None


def plan_pruning(
    imatrix: str | Path,
    type: str | int,
    count: int,
    *,
    model: str | Path | None = None,
    protect: tuple[int, int] = (1, 1),
    keep: Collection[int] = (),
    trial: Trial | None = None,
    step: Callable[[str], None] | None = None,
    **options: Any,
) -> PrunePlan:
    """The layers that may go, as far as can be told, and the recipe: TYPE, ``options`` of ``plan_from_statistics``.

    ``protect``: layers at the beginning and at the end that stay; ``keep``: more of them. With ``model`` only lists
    are looked at that it can do without; with ``trial`` too, they are measured, and so are the two quantized files.
    The copies take the model's size on disk, one at a time. UsageError if so many layers cannot go.
    """
    if trial is not None and model is None:
        raise UsageError("to measure what pruning does, give the model with --model")
    if trial is not None and trial.candidates < 1:
        raise UsageError(f"{trial.candidates} candidates: at least one list of layers has to be tried")
    if trial is not None:
        check_measuring(trial.text, trial.n_ctx, trial.chunks, trial.threads)
    with open_imatrix(imatrix) as stored:
        rows = tensor_statistics(stored.with_experts(stored.inferred_experts()))
    ranked = rank_layers(layer_statistics(rows), protect_first=protect[0], protect_last=protect[1], keep=keep)
    looked = _candidates(ranked, count, model, trial.candidates if trial else 1)
    warnings: list[str] = [WITNESS]
    if trial is not None and model is not None:
        looked = _measured(looked, Path(model), trial, step)
    made = plan_from_statistics(imatrix, type, model=model, prune_layers=looked[0].layers, **options)
    pruned = Way(f"{made.file_type.name} without layers {ranges(looked[0].layers)}", made)
    harder, why_not = _harder(imatrix, type, made, model, options)
    if trial is not None and model is not None:
        pruned, harder = _ways_measured(pruned, harder, Path(model), trial, step)
    pruned = replace(pruned, plan=replace(made, remarks=tuple(_remarks(looked, pruned, harder))))
    return PrunePlan(tuple(ranked), tuple(looked), pruned, harder, why_not, tuple(warnings))


def _candidates(ranked: Sequence[RankedLayer], count: int, model: str | Path | None, most: int) -> list[Candidate]:
    allowed = _allowed_by(model)
    lists = list(islice(prune_lists(ranked, count, allowed), most))
    if not lists:
        raise PlanError([
            f"{model}: no list of {count} among the layers ranked best can go without changing what the others are; "
            "`gguftool copy --prune-layers` says what this architecture allows"
        ])  # fmt: skip
    scores = {row.layer: row.score for row in ranked}
    return [Candidate(layers, sum(scores[n] for n in layers) / count) for layers in lists]


def _allowed_by(model: str | Path | None) -> Callable[[Sequence[int]], bool]:
    if model is None:
        return lambda layers: True
    with open_model(model) as opened:
        metadata, tensors = opened.metadata, opened.tensors

    def allowed(layers: Sequence[int]) -> bool:
        try:
            prune_layers(metadata, tensors, layers)
        except PlanError:
            return False
        return True

    return allowed


def _measured(
    candidates: Sequence[Candidate], model: Path, trial: Trial, step: Callable[[str], None] | None
) -> list[Candidate]:
    """The candidates with their divergence, least first."""
    found = []
    with tempfile.TemporaryDirectory(prefix="gguftool-", dir=trial.folder) as folder:
        place = Path(folder) / "candidate.gguf"
        for candidate in candidates:
            if step:
                step(f"without {ranges(candidate.layers)}")
            copy(model, place, prune_layers=candidate.layers, sync=False, force=True)
            found.append(replace(candidate, divergence=_divergence(place, model, trial)))
    return sorted(found, key=lambda c: c.divergence.kld.value if c.divergence else 0.0)


def _harder(
    imatrix: str | Path, type: str | int, pruned: StatisticsPlan, model: str | Path | None, options: dict[str, Any]
) -> tuple[Way | None, str]:
    """All layers in no more bytes than the pruned model takes."""
    if model is None:
        return None, "give the model with --model to see what the same bytes cost by quantizing harder"
    with open_model(model) as opened:
        budget = 8 * pruned.nbytes / sum(t.n_elements for t in opened.tensors)
    more = {name: value for name, value in options.items() if name not in ("up", "down", "steps", "budget_bpw")}
    try:
        made = plan_from_statistics(imatrix, type, model=model, budget_bpw=budget, **more)
    except PlanError as trouble:
        return None, f"quantizing all layers harder does not reach these bytes: {trouble}"
    return Way(f"{made.file_type.name} with all layers, quantized harder", made), ""


def _ways_measured(
    pruned: Way, harder: Way | None, model: Path, trial: Trial, step: Callable[[str], None] | None
) -> tuple[Way, Way | None]:
    with tempfile.TemporaryDirectory(prefix="gguftool-", dir=trial.folder) as folder:
        done: list[Way] = []
        for way in (pruned, *([harder] if harder else [])):
            if step:
                step(way.name)
            place = Path(folder) / "way.gguf"
            quantize(
                model,
                place,
                way.plan.file_type.name,
                imatrix=way.plan.imatrix,
                tensor_type=[f"{rule.pattern}={rule.type.name}" for rule in way.plan.rules()],
                prune_layers=way.plan.pruned,
                force=True,
                sync=False,
            )
            done.append(replace(way, divergence=_divergence(place, model, trial)))
    return done[0], done[1] if harder else None


def _divergence(candidate: Path, model: Path, trial: Trial) -> Divergence:
    (found,) = kld([candidate], trial.text, base=model, n_ctx=trial.n_ctx, chunks=trial.chunks, threads=trial.threads)
    assert isinstance(found.result, Divergence)
    return found.result


def _remarks(candidates: Sequence[Candidate], pruned: Way, harder: Way | None) -> list[str]:
    """Comments for the recipe: where the choice comes from, and what it costs."""
    best = candidates[0]
    if best.divergence is None:
        return [f"chosen by the imatrix alone (mean place {best.score:.3f}); {WITNESS}"]
    said = [
        f"chosen for the least KL divergence of {len(candidates)} lists tried: {best.divergence.kld.value:.4f} "
        f"before quantizing"
    ]
    if pruned.divergence and harder and harder.divergence:
        said.append(
            f"quantized {pruned.divergence.kld.value:.4f}; with all layers at the same bytes, quantized harder, "
            f"{harder.divergence.kld.value:.4f}"
        )
    return said
