"""What stands in the way of a plan, all of it at once, before a byte is written. Pure: the world comes in as values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguftool.errors import CodecError
from gguftool.format.quanttypes import TYPES, QuantType, why_woven
from gguftool.plan.layout import lay_out
from gguftool.plan.moves import Move, Plan

if TYPE_CHECKING:
    from gguftool.plan.importances import Importances
    from gguftool.recipe.filetypes import FileType

_GIB = 1 << 30


@dataclass(frozen=True)
class Facts:
    """What a check needs to know besides the plan.

    The place: outputs that exist, that are files the run reads, folders or devices, the ``folder`` and what is wrong
    with it, its free bytes (None: unknown), what is wrong with the place of the report. The wishes: requantization
    allowed, overwriting allowed (``force``), the TYPE (None for a copy). ``importances`` is None without an importance
    matrix.
    """

    existing: Sequence[str] = ()
    is_source: Sequence[str] = ()
    is_folder: Sequence[str] = ()
    is_special: Sequence[str] = ()
    report_trouble: str | None = None
    folder: str = "."
    folder_trouble: str | None = None
    free_bytes: int | None = None
    force: bool = False
    allow_requantize: bool = False
    file_type: FileType | None = None
    importances: Importances | None = None


def check(plan: Plan, facts: Facts) -> list[str]:
    """Every reason why the plan cannot be carried out, one line each; an empty list when there is none."""
    problems = [*plan.problems, *_place(facts)]
    if not plan.moves:
        problems.append("no tensor would be left")
    problems += _sources(plan, facts)
    problems += _shapes(plan)
    problems += _codecs(plan)
    problems += _importances(plan, facts)
    problems += _space(plan, facts)
    return problems


def _place(facts: Facts) -> Iterable[str]:
    for path in facts.is_source:
        yield f"{path}: the output would overwrite the input: choose another name"
    for path in facts.is_folder:
        yield f"{path}: this is a folder: give the name of a file in it"
    for path in facts.is_special:
        yield f"{path}: this is no regular file: an output must lie on a disk"
    for path in facts.existing:
        if path not in (*facts.is_source, *facts.is_folder, *facts.is_special) and not facts.force:
            yield f"{path}: exists already: remove it, choose another name, or use --force"
    if facts.report_trouble:
        yield facts.report_trouble
    if facts.folder_trouble:
        yield f"{facts.folder}: {facts.folder_trouble}"


def _sources(plan: Plan, facts: Facts) -> Iterable[str]:
    if facts.allow_requantize:
        return

    def quantized(move: Move) -> bool:
        return any(
            p.source.type.kind == "quant"
            and (p.cuts_blocks or not (p.source.type == move.type or p.unpacks_to(move.type)))
            for p in move.pieces
        )

    for (old, new), names in _grouped(plan, quantized, lambda m: (m.pieces[0].source.type, m.type)):
        replaced = {m.name for m in plan.moves if m.replaces == old}  # kept, but for llama.cpp
        unread = ", which llama.cpp does not read" if replaced.issuperset(names) else ""
        yield (
            f"{_some(names)}: already quantized ({old.name}{unread}), and {new.name} would lose more than from the "
            "original: use an F16, BF16 or F32 source, or --allow-requantize"
        )


def _shapes(plan: Plan) -> Iterable[str]:
    for move in plan.moves:
        if move.whole:
            continue
        try:
            nbytes = move.nbytes
        except CodecError as trouble:
            yield f"{move.name}: {trouble}"
            continue
        rows = sum(p.n_rows for p in move.pieces)
        if any(p.n_cols != move.shape[-1] for p in move.pieces) or rows * move.shape[-1] != move.n_elements:
            yield f"{move.name}: its pieces do not add up to shape {move.shape} ({nbytes} bytes)"
        yield from _cuts(move)


def _cuts(move: Move) -> Iterable[str]:
    group = move.type.rows_interleaved
    if group > 1 and len(move.shape) > 1 and move.shape[-2] % group:
        yield f"{move.name}: {move.type.name} weaves {group} rows together, and {move.shape[-2]} is no multiple of that"
    for piece in move.pieces:
        source = piece.source.type
        if piece.rows is None and piece.columns is None:
            continue
        woven = source.rows_interleaved
        if (
            source.kind == "unknown"
            or source.tensor_trailer
            or any(edge % woven for run in piece.rows or () for edge in run)
        ):
            yield f"{move.name}: {piece.source.name} ({source.name}) cannot be cut at these rows"
        elif woven > 1 and piece.columns is not None:
            yield f"{move.name}: {piece.source.name} ({source.name}) cannot be cut at columns: {why_woven(source)}"


def _codecs(plan: Plan) -> Iterable[str]:
    def worked(move: Move) -> bool:
        return not move.copied or any(p.cuts_blocks for p in move.pieces)

    if not any(worked(m) for m in plan.moves):
        return
    from gguftool.codecs import dispatch  # a plain copy has no use for kernels
    from gguftool.recipe.mainline import NEAREST

    compiled = dispatch.backend() != "numba"
    when = "yet" if compiled else "without the compiled kernels"
    others = "choose a type that numba encodes (`gguftool types` tells)"
    remedy = "" if compiled else f": reinstall gguftool where a C compiler is found, or {others}"
    for (source,), names in _grouped(plan, worked, lambda m: (m.pieces[0].source.type,)):
        if not dispatch.can_decode(source):
            why = f": {why_woven(source)}" if source.rows_interleaved > 1 else f" {when}"
            yield f"cannot decode {source.name}{why} ({_some(names)})"
    for (target,), names in _grouped(plan, worked, lambda m: (m.type,)):
        if not target.is_target:
            yield f"{target.name} is no type that a tensor can be converted to ({_some(names)})"
        elif not dispatch.can_encode(target):
            near = f": {NEAREST[target.name][0]} comes nearest" if compiled and target.name in NEAREST else remedy
            yield f"cannot encode {target.name} {when} ({_some(names)}){near}"


def _importances(plan: Plan, facts: Facts) -> Iterable[str]:
    if facts.file_type is None:
        return
    from gguftool.recipe.decide import needs_importance

    def lacking(move: Move) -> bool:
        if move.copied or not facts.file_type or all(p.importance for p in move.pieces):
            return False
        return needs_importance(move.type, facts.file_type, move.name)

    groups = dict(_grouped(plan, lacking, lambda m: (m.type,)))
    if groups:
        types = " and ".join(target.name for (target,) in groups) + (" need" if len(groups) > 1 else " needs")
        names = _some([name for group in groups.values() for name in group])
        reader = "ik" if facts.file_type.family == "ik" else "mainline"
        content = [t.name for t in TYPES if _is_made_for(t, reader) and not needs_importance(t, facts.file_type, "")]
        others = f"a type that needs none: {', '.join(sorted(content, key=str.lower))}"
        if facts.importances is None:
            yield f"{types} an importance matrix ({names}): give one with --imatrix, or choose {others}"
        else:
            yield f"{types} importances, and the imatrix has none for {names}: choose {others}"
    yield from _misfits(plan, facts.importances)


def _is_made_for(t: QuantType, reader: str) -> bool:
    """Whether it is a block type that this project reads and that can be made here."""
    from gguftool.codecs.dispatch import can_encode

    return t.is_target and t.kind == "quant" and t.runtime in ("both", reader) and can_encode(t)


def _misfits(plan: Plan, importances: Importances | None) -> Iterable[str]:
    """One line for all entries that are not made for their tensors: the whole imatrix belongs to another model."""
    if importances is None:
        return
    shown = ""
    names = []
    for move in plan.moves:
        for piece in move.pieces:
            source = piece.source
            if piece.importance is None or importances.fits(piece.importance, source.n_matrices, source.n_cols):
                continue
            names.append(move.name)
            n_mat, n_cols = importances.source.shape(piece.importance)
            theirs, ours = f"{n_mat} x {n_cols}", f"{source.n_matrices} x {source.n_cols}"
            shown = shown or f"{theirs} values for {piece.importance}, whose tensor has {ours}"
    if names:
        more = f", and {len(names) - 1} more like it" if len(names) > 1 else ""
        yield f"the imatrix was made from another model: {shown}{more}"


def _space(plan: Plan, facts: Facts) -> Iterable[str]:
    if facts.free_bytes is None:
        return
    try:
        needed = sum(f.size for f in lay_out(plan))
    except CodecError:
        return  # told of with the shapes
    if needed > facts.free_bytes:
        yield (
            f"{facts.folder}: the output takes {needed / _GIB:.3f} GiB and {facts.free_bytes / _GIB:.3f} GiB are free: "
            "make room, or write elsewhere"
        )


def _grouped(
    plan: Plan, chosen: Callable[[Move], bool], key: Callable[[Move], tuple[QuantType, ...]]
) -> Iterable[tuple[tuple[QuantType, ...], list[str]]]:
    groups: dict[tuple[QuantType, ...], list[str]] = {}
    for move in plan.moves:
        if chosen(move):
            groups.setdefault(key(move), []).append(move.name)
    return groups.items()


def _some(names: Sequence[str]) -> str:
    """A few of the names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
