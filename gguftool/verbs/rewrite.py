"""A model written again: what ``quantize`` and ``copy`` share, from the request to the finished file.

``prepare`` reads headers only and knows everything that will happen: types, sizes, problems. ``Prepared.run`` does it.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gguftool.errors import PlanError, UsageError
from gguftool.format.reader import Model, open_model
from gguftool.format.shortened import trouble
from gguftool.plan.check import Facts, check
from gguftool.plan.importances import Importances, bpw_cost, uncovered, unused
from gguftool.plan.mainline import Replacement, replacements
from gguftool.plan.moves import Plan
from gguftool.plan.overrides import parse_overrides
from gguftool.recipe.mainline import mainline_number
from gguftool.run.execute import MAX_BUFFER, Options, execute
from gguftool.run.measure import Estimate, estimate
from gguftool.run.outputs import Target, report_trouble, survey, targets
from gguftool.run.pool import Progress
from gguftool.run.report import TensorRow, tensor_rows, write_report
from gguftool.verbs.provenance import Edits, ImatrixUse, copy_edits, our_edits, quantizer_edits

if TYPE_CHECKING:
    from gguftool.imatrix.file import Imatrix
    from gguftool.recipe.decide import Recipe


@dataclass(frozen=True)
class Request:
    """Everything that a run is asked for. ``recipe`` None copies every tensor as it is.

    ``dst`` None takes llama-quantize's default name (-mainline behind the TYPE where the recipe asks for that).
    ``file_order`` keeps the source's order of tensors, else they go by layer and name. ``unpack`` takes interleaved
    rows apart. ``overrides`` are ``KEY=TYPE:VALUE``. ``prune_allowed`` are the switches of ``prune_layers``.
    ``remarks`` are warnings from reading the request itself, ``rule_files`` the files that rules were read from.
    """

    src: Path
    dst: Path | None
    recipe: Recipe | None = None
    imatrix: Path | None = None
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    prune_layers: tuple[int, ...] = ()
    prune_allowed: Mapping[str, bool] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    keep_split: bool = False
    unpack: bool = False
    file_order: bool = False
    allow_requantize: bool = False
    force: bool = False
    threads: int | None = None
    max_buffer: int = MAX_BUFFER
    objective: str | None = None
    effort: str = "default"
    report: Path | None = None
    restart: bool = False
    sync: bool = True
    remarks: tuple[str, ...] = ()
    rule_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Result:
    """What came of a run. ``path`` is the output, or its first shard; ``nbytes`` counts tensors, ``file_bytes`` all.

    ``rows`` has one TensorRow per tensor. ``resumed`` tasks of ``n_tasks`` had been done by an earlier run.
    ``unobserved`` importance blocks were never reached by a token and were fitted evenly. ``replaced`` says which types
    of ik_llama.cpp made way for llama.cpp's.
    """

    path: Path
    paths: tuple[Path, ...]
    nbytes: int
    file_bytes: int
    bpw: float
    rows: tuple[TensorRow, ...]
    warnings: tuple[str, ...]
    unobserved: int
    resumed: int
    n_tasks: int
    seconds: float
    replaced: tuple[Replacement, ...] = ()


class Prepared:
    """A run that is fully known and not begun: the plan, everything in its way, everything worth a warning."""

    def __init__(self, request: Request, model: Model, imatrix: Imatrix | None, dst: Path) -> None:
        self.request, self.model, self.dst = request, model, dst
        self.imatrix = imatrix
        self.importances: Importances | None = None
        if imatrix is not None:
            self.importances = Importances(imatrix, request.include_weights, request.exclude_weights)
        self.plan, self.problems = _planned(request, model, imatrix, self.importances)
        self.problems += _damage(model, self.plan)
        self.problems += check(self.plan, _facts(request, self.plan, dst, self.importances))
        if imatrix is not None:
            imatrix.check_finite()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before starting, one line each."""
        odd = self.imatrix.warnings if self.imatrix is not None else ()
        return (
            *self.request.remarks,
            *odd,
            *self.plan.warnings,
            *_readers(self.plan),
            *_coverage(self.plan, self.importances),
        )

    @property
    def fallback_bpw(self) -> Mapping[str, float]:
        """Bits per weight of the whole model that each fallback adds to what was wanted, by tensor."""
        return bpw_cost(self.plan)

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """What ``compat`` "mainline" changed, by pair of types."""
        return replacements(self.plan)

    @property
    def threads(self) -> int:
        return max(1, self.request.threads or os.cpu_count() or 1)

    def estimate(self) -> Estimate:
        """Time and peak memory, from a sample of some milliseconds per type."""
        r = self.request
        return estimate(self.plan, self.threads, r.max_buffer, objective=r.objective, effort=r.effort)

    def rows(self) -> tuple[TensorRow, ...]:
        """What every tensor was and will be."""
        return tensor_rows(self.plan)

    def run(self, progress: Callable[[Progress], None] | None = None) -> Result:
        """Does it; PlanError with all problems when there are any, and nothing is written then."""
        if self.problems:
            raise PlanError(self.problems)
        r = self.request
        options = Options(
            self.threads,
            r.max_buffer,
            r.objective,
            r.effort,
            r.report is not None,
            r.restart,
            r.sync,
            progress,
            overwrite=r.force,
        )
        outcome = execute(self.plan, self.dst, options, self.imatrix)
        rows = tensor_rows(self.plan, outcome.sums)
        if r.report is not None:
            write_report(r.report, rows)
        return Result(
            outcome.paths[0],
            outcome.paths,
            self.plan.nbytes,
            outcome.nbytes,
            self.plan.bpw,
            rows,
            self.warnings,
            sum(row.unobserved for row in rows),
            outcome.resumed,
            outcome.n_tasks,
            outcome.seconds,
            self.replaced,
        )

    def close(self) -> None:
        """Closes the model and the importance matrix."""
        self.model.close()
        if self.imatrix is not None:
            self.imatrix.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def prepare(request: Request) -> Prepared:
    """The run that the request means, from the headers of its files.

    Problems with the plan are collected, not raised. FormatError, ImatrixError for files that cannot be read,
    RecipeError and UsageError for requests that mean nothing.
    """
    if request.include_weights and request.exclude_weights:
        raise UsageError("--include-weights and --exclude-weights together: give one of them")
    if request.dst is not None and not request.dst.name:
        raise UsageError(f"'{request.dst}' is no name for an output: give the name of a file")
    if request.recipe is not None:
        _check_words(request)
        if request.unpack and not request.recipe.file_type.is_copy:
            raise UsageError("--unpack changes no value: give it with TYPE COPY, and convert the result")
        if request.unpack and request.recipe.mainline:
            raise UsageError("--unpack changes no value: leave --compat mainline out, and convert the result")
    model = open_model(request.src)
    imatrix: Imatrix | None = None
    try:
        if request.imatrix is not None:
            from gguftool.imatrix.file import open_imatrix

            imatrix = open_imatrix(request.imatrix)
        return Prepared(request, model, imatrix, request.dst or _default_name(request))
    except BaseException:
        model.close()
        if imatrix is not None:
            imatrix.close()
        raise


def _check_words(request: Request) -> None:
    """UsageError for an objective, effort or buffer that means nothing: workers would find out too late."""
    from gguftool.codecs.dispatch import EFFORTS, OBJECTIVES

    if request.effort not in EFFORTS:
        raise UsageError(f"effort={request.effort!r}: choose one of {', '.join(EFFORTS)}")
    if request.objective not in (None, *OBJECTIVES):
        raise UsageError(f"objective={request.objective!r}: choose one of {', '.join(OBJECTIVES)}")
    if not isinstance(request.max_buffer, int) or request.max_buffer < 1:
        raise UsageError(f"max_buffer_size={request.max_buffer!r}: give a number of bytes")
    if request.threads is not None and not isinstance(request.threads, int):
        raise UsageError(f"threads={request.threads!r}: give a whole number, or None for all cores")


def texts_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of a list; one text alone is a list of one, never of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def layers_of(given: str | Collection[int]) -> tuple[int, ...]:
    """Layer numbers, ascending, each once, of whole numbers of any kind or "3,7,10-14"; UsageError for others."""
    if isinstance(given, str):
        from gguftool.plan.layers import parse_layers

        return parse_layers(given)
    try:
        return tuple(sorted({operator.index(layer) for layer in given}))
    except TypeError:
        raise UsageError(f"prune_layers={given!r}: give whole numbers, such as [3, 7]") from None


def _default_name(request: Request) -> Path:
    name = request.recipe.file_type.name if request.recipe is not None else "COPY"
    if request.recipe is not None and request.recipe.mainline:
        name += "-mainline"  # neither that TYPE's file nor that of another
    return request.src.parent / f"ggml-model-{name}.gguf"


def _planned(
    request: Request, model: Model, imatrix: Imatrix | None, importances: Importances | None
) -> tuple[Plan, list[str]]:
    """The plan, and what kept parts of it from being made."""
    overrides = parse_overrides(request.overrides)
    problems: list[str] = []
    plan = Plan.of(model, keep_split=request.keep_split, file_order=request.file_order).with_metadata(overrides)
    if request.prune_layers:
        try:
            plan = plan.prune(request.prune_layers, **request.prune_allowed)
        except PlanError as trouble:
            problems += trouble.problems
    recipe = request.recipe
    if recipe is not None:
        plan = plan.retype(recipe, importances)
    if request.unpack:
        plan = plan.unpack()
    return _told(plan, request, imatrix, importances, tuple(overrides)), problems


def _told(
    plan: Plan, request: Request, imatrix: Imatrix | None, importances: Importances | None, given: Sequence[str]
) -> Plan:
    """The plan with the metadata that say what was done; those ``given`` by hand stay as they are."""
    recipe = request.recipe
    if recipe is None or (recipe.file_type.is_copy and not any(m.replaces for m in plan.moves)):
        plan = plan.with_metadata(copy_edits(plan.metadata, given, unpacked=request.unpack))
        if plan.dropped:
            plan = plan.with_metadata(our_edits(plan.metadata, (), plan.dropped, request.effort, None))
        return plan
    use = None
    if imatrix is not None and importances is not None and importances.names:
        use = ImatrixUse(str(request.imatrix), imatrix.datasets, len(importances.names), imatrix.chunk_count or 0)
    number = recipe.file_type.number
    if recipe.mainline:
        number = mainline_number(recipe.file_type, use is not None, plan.metadata.get("general.file_type"))
    edits: Edits = quantizer_edits(plan.metadata, number, use, given)
    edits |= our_edits(plan.metadata, _recipe_text(recipe), plan.dropped, request.effort, request.objective)
    return plan.with_metadata(edits)


def _damage(model: Model, plan: Plan) -> list[str]:
    """A problem for tensors whose ends an older program left empty, unless they are pruned away."""
    used = {piece.source.name for move in plan.moves for piece in move.pieces}
    bad = [t for t in model.hollow() if t.name in used]
    return [str(trouble(model.shards[bad[0].shard].path, bad))] if bad else []


def _recipe_text(recipe: Recipe) -> list[str]:
    rules = [f"{rule.pattern}={rule.type.name}" for rule in recipe.rules]
    return [recipe.file_type.name, *rules, *(["--compat mainline"] if recipe.mainline else [])]


def _places(plan: Plan, dst: Path) -> tuple[Target, ...]:
    shards = len({m.shard for m in plan.moves}) if plan.keep_split else 1
    return targets(dst, plan, max(1, shards))


def _facts(request: Request, plan: Plan, dst: Path, importances: Importances | None) -> Facts:
    places = _places(plan, dst)
    read = [path for path in (request.imatrix, *request.rule_files) if path is not None]
    world = survey(places, plan, read)
    report = request.report
    return Facts(
        existing=world.existing,
        is_source=world.is_source,
        is_folder=world.is_folder,
        is_special=world.is_special,
        report_trouble=None if report is None else report_trouble(report, places, plan, read, force=request.force),
        folder=world.folder,
        folder_trouble=world.folder_trouble,
        free_bytes=world.free_bytes,
        force=request.force,
        allow_requantize=request.allow_requantize,
        file_type=request.recipe.file_type if request.recipe is not None else None,
        importances=importances if importances is not None and importances.names else None,
    )


def _readers(plan: Plan) -> list[str]:
    """Which programs alone will read the output, where types are made that not all of them know."""
    made = {move.type for move in plan.moves if not move.copied}
    ours, theirs = ([t.name for t in made if t.runtime == who] for who in ("ik", "mainline"))
    forks = ", ".join(sorted(ours))
    if ours and theirs:
        return [f"no program reads {forks} and {', '.join(sorted(theirs))} in one file: leave one of both out"]
    if ours:
        told = f"{forks}: ik_llama.cpp and its relatives read such files, llama.cpp refuses them"
        return [f"{told} (--compat mainline takes the nearest types of its own)"]
    return []


def _coverage(plan: Plan, importances: Importances | None) -> list[str]:
    """What of an imatrix finds no tensor, and which tensors find nothing in it."""
    if importances is None:
        return []
    notes = []
    if spare := unused(plan, importances):
        notes.append(f"{len(spare)} entries of the imatrix match no quantized tensor, such as {spare[0]}")
    if bare := uncovered(plan):
        notes.append(f"{len(bare)} tensors are quantized without importances, such as {bare[0]}")
    return notes
