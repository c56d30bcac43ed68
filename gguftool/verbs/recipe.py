"""Recipes read, tried on a model, translated, and taken back out of a file. Of models only headers are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gguftool.errors import PlanError, RecipeError
from gguftool.format.names import layer_of, ranges, tensor_kind
from gguftool.format.quanttypes import QuantType
from gguftool.format.reader import open_model
from gguftool.imatrix.file import open_imatrix
from gguftool.plan.check import Facts, check
from gguftool.plan.importances import Importances
from gguftool.plan.layers import parse_layers
from gguftool.plan.moves import Plan
from gguftool.plan.quantmap import Known, fewest_for
from gguftool.recipe.decide import Recipe, decide, rule_hits
from gguftool.recipe.dialects import Noted, Written, write
from gguftool.recipe.extract import Extracted, extract
from gguftool.recipe.facts import TensorFacts, facts_of
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.mainline import is_read, nearest_mainline
from gguftool.recipe.reading import ReadRecipe, read_recipe

_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RuleUse:
    """What one rule does to a model: tensors that it matches, may change, and decides; ``lost_to`` decided the rest.

    ``where`` says which tensors it decides, as kinds and layers. ``fallback`` counts those whose rows its type does
    not fill. Without a model the numbers are None.
    """

    pattern: str
    type: QuantType
    comments: tuple[str, ...]
    matched: int | None = None
    usable: int | None = None
    decided: int | None = None
    fallback: int | None = None
    where: str = ""
    lost_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeShare:
    """What a type takes of a model: tensors, elements, bytes."""

    type: QuantType
    n_tensors: int
    n_elements: int
    nbytes: int

    @property
    def bpw(self) -> float:
        return 8 * self.nbytes / self.n_elements if self.n_elements else 0.0


@dataclass(frozen=True)
class RecipeReport:
    """A recipe, and what it does to a model if there is one: rules, types, size; what is wrong and what is odd."""

    read: ReadRecipe
    file_type: FileType | None
    rules: tuple[RuleUse, ...]
    types: tuple[TypeShare, ...] = ()
    nbytes: int = 0
    n_elements: int = 0
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def bpw(self) -> float:
        """Bits per weight of all tensors, 0 without a model."""
        return 8 * self.nbytes / self.n_elements if self.n_elements else 0.0


def open_recipe(source: str | Path, type: str | int | None = None, *, text: str | None = None) -> ReadRecipe:
    """The recipe in a file, in ``text`` (then ``source`` is its name), or in ``source`` itself where it holds a rule.

    ``type`` beats the TYPE that the text names. RecipeError for what holds no recipe, OSError for what cannot be read.
    """
    file_type = file_type_by_name(str(type)) if type is not None else None
    if text is None and not str(source).strip():
        raise RecipeError("an empty word is no recipe: give a file, or rules such as attn_v=q6_K")
    place = Path(source)
    if text is None and "=" in str(source) and not _is_file(place):
        return read_recipe(str(source), "the recipe", file_type)
    return read_recipe(_text_of(place) if text is None else text, str(source), file_type)


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False


def _text_of(place: Path) -> str:
    try:
        with place.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as trouble:
        raise OSError(trouble.errno, trouble.strerror, str(place)) from None
    if data[:4] == b"GGUF":
        raise RecipeError(f"{place}: this is a model: `gguftool recipe extract` gets the recipe out of it")
    if len(data) > _MOST_BYTES or b"\0" in data:
        raise RecipeError(f"{place}: this is no text with rules PATTERN=TYPE")
    return data.decode("utf-8-sig", errors="surrogateescape")


def recipe_report(
    read: ReadRecipe,
    model: str | Path | None = None,
    *,
    imatrix: str | Path | None = None,
    default: str | None = None,
) -> RecipeReport:
    """What the recipe says, and what it does to ``model``; ``default`` is the TYPE where the recipe names none.

    Problems: rules that match nothing, that can change nothing, or that others leave nothing to; their types where they
    do not fill the rows; types that need importances without an importance matrix (one that the recipe's own command
    names counts as there); whatever else would keep a model from being written.
    """
    base = file_type_by_name(default) if default is not None and read.file_type is None else None
    if model is None:
        rules = tuple(RuleUse(r.pattern, r.type, r.comments) for r in read.written.rules)
        return RecipeReport(read, read.file_type or base, rules, warnings=read.warnings)
    recipe = replace(read.recipe(base), strict_rules=True)
    importances: Importances | None = None
    if imatrix is not None:
        with open_imatrix(imatrix) as stored:
            importances = Importances(stored)
            plan, problems = _planned(model, read, recipe, importances)
    else:
        plan, problems = _planned(model, read, recipe, None)
    stated = imatrix is None and read.written.imatrix is not None
    facts = Facts(allow_requantize=True, file_type=None if stated else recipe.file_type, importances=importances)
    problems += check(plan, facts)
    tensors = [
        TensorFacts(m.name, m.shape, m.pieces[0].source.type, m.pieces[0].source.name) for m in plan.moves
    ]  # fmt: skip
    uses, idle = _uses(read, recipe, tensors, plan)
    notes = [w for w in plan.warnings if not any(w.startswith(said) for said in idle)]
    if stated:
        notes.append(f"{read.written.imatrix} is taken to cover all tensors: give it with --imatrix to be sure")
    return RecipeReport(
        read,
        recipe.file_type,
        uses,
        _shares(plan),
        plan.nbytes,
        plan.n_elements,
        (*read.warnings, *notes),
        tuple(dict.fromkeys([*problems, *idle.values(), *_misfits(uses, plan)])),
    )


def _planned(
    model: str | Path, read: ReadRecipe, recipe: Recipe, importances: Importances | None
) -> tuple[Plan, list[str]]:
    problems: list[str] = []
    with open_model(model) as opened:
        plan = Plan.of(opened)
        dropped = read.command.value("--prune-layers")
        if dropped is not None:
            try:
                plan = plan.prune(parse_layers(dropped))
            except PlanError as trouble:
                problems += trouble.problems
        return plan.retype(recipe, importances), problems


def _uses(
    read: ReadRecipe, recipe: Recipe, tensors: Sequence[TensorFacts], plan: Plan
) -> tuple[tuple[RuleUse, ...], dict[str, str]]:
    """(what each rule does, rule -> problem for those to which others leave nothing)."""
    misfit = {m.name for m in plan.moves if m.wanted is not None}
    uses = []
    idle: dict[str, str] = {}
    for noted, hit in zip(read.written.rules, rule_hits(recipe, tensors), strict=True):
        if hit.usable and not hit.won:
            taken = ", ".join(hit.lost_to[:3])
            idle[str(hit.rule)] = f"{hit.rule} never applies: all that it matches is taken by {taken}"
        fallback = sum(name in misfit for name in hit.won)
        numbers = len(hit.matched), len(hit.usable), len(hit.won), fallback
        uses.append(RuleUse(noted.pattern, noted.type, noted.comments, *numbers, places(hit.won), hit.lost_to))
    return tuple(uses), idle


def _misfits(uses: Sequence[RuleUse], plan: Plan) -> list[str]:
    found = []
    for use in uses:
        if use.fallback:
            got = sorted({m.type.name for m in plan.moves if m.wanted == use.type})
            found.append(
                f"'{use.pattern}={use.type.name}': {use.type.name} does not fill the rows of {use.fallback} tensors, "
                f"which would get {', '.join(got)}"
            )
    return found


def _shares(plan: Plan) -> tuple[TypeShare, ...]:
    found: dict[str, TypeShare] = {}
    for m in plan.moves:
        old = found.get(m.type.name, TypeShare(m.type, 0, 0, 0))
        found[m.type.name] = TypeShare(
            m.type, old.n_tensors + 1, old.n_elements + m.n_elements, old.nbytes + m.nbytes
        )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda share: -share.nbytes))


def places(names: Sequence[str]) -> str:
    """Names as kinds and layers, kinds of the same layers together: ``attn_k, attn_q 0-3,7``."""
    layers: dict[str, list[int]] = {}
    for name in names:
        found = layer_of(name)
        layers.setdefault(tensor_kind(name), []).extend([found[1]] if found else [])
    groups: dict[str, list[str]] = {}
    for kind, numbers in layers.items():
        groups.setdefault(ranges(sorted(set(numbers))), []).append(kind)
    return "; ".join(f"{', '.join(kinds)} {text}".rstrip() for text, kinds in groups.items())


def convert_recipe(
    read: ReadRecipe,
    target: str,
    *,
    compat: str | None = None,
    model: str | Path | None = None,
) -> str:
    """The recipe as text for ``target``, one of ``recipe.dialects.TARGETS``.

    ``compat="mainline"`` takes llama.cpp's nearest type for each of ik_llama.cpp's. With ``model`` the rules are
    written anew: the fewest that give its tensors the same types.
    """
    if compat not in (None, "mainline"):
        raise RecipeError(f"compat='{compat}': the only other way is 'mainline'")
    written = read.written
    if model is not None:
        options = tuple(option for option in written.options if "-type " not in option)
        written = replace(written, rules=_anew(read, model, target), options=options)
    if compat == "mainline":
        written = _for_mainline(written)
    return write(written, target)


def _anew(read: ReadRecipe, model: str | Path, target: str) -> tuple[Noted, ...]:
    recipe = read.recipe()
    with open_model(model) as opened:
        tensors = [TensorFacts(t.name, t.shape, t.type) for t in opened.tensors]
        facts = facts_of(opened.metadata, tensors)
    bare = Recipe(recipe.file_type, pure=recipe.pure, leave_output_tensor=recipe.leave_output_tensor)
    goal = decide(recipe, facts, tensors, has_imatrix=True).each
    base = decide(bare, facts, tensors, has_imatrix=True).each
    wanted = {t.name: g.type for t, g, b in zip(tensors, goal, base, strict=True) if g.type != b.type}
    decided = {t.name: b for t, b in zip(tensors, base, strict=True)}
    known = Known(tuple(decided), {t.name: t for t in tensors}, decided, facts)
    found = fewest_for(wanted, known, recipe.file_type, target)
    return tuple(Noted(r.pattern, r.type, (places(r.names),)) for r in found.rules)


def _for_mainline(written: Written) -> Written:
    rules = []
    for rule in written.rules:
        nearest, _ = nearest_mainline(rule.type, 256, True)
        comments = rule.comments if is_read(rule.type) else (*rule.comments, f"instead of {rule.type.name}")
        rules.append(Noted(rule.pattern, nearest, comments))
    base = written.file_type
    if base is not None and base.family == "ik":
        from gguftool.recipe.mainline import mainline_number

        base = file_type_by_name(str(mainline_number(base, True)))
    return replace(written, rules=tuple(rules), file_type=base)


def extract_recipe(model: str | Path, type: str | int | None = None) -> Extracted:
    """The recipe that a finished model was made with, as the fewest rules over the TYPE that explains most.

    ``type`` is the only TYPE to try. Nothing but the header is read.
    """
    only = file_type_by_name(str(type)) if type is not None else None
    with open_model(model) as opened:
        tensors = [TensorFacts(t.name, t.shape, t.type) for t in opened.tensors]
        facts = facts_of(opened.metadata, tensors)
        number = opened.metadata.get("general.file_type")
        file = opened.metadata.get("quantize.imatrix.file")
    known = isinstance(file, str)
    found = extract(tensors, facts, recorded=_recorded(number), imatrix=True if known else None, file_type=only)
    return replace(found, imatrix_file=file) if known else found


def _recorded(number: object) -> FileType | None:
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    try:
        found = file_type_by_name(str(number & ~1024))
    except RecipeError:
        return None
    return None if found.is_copy else found


def extracted_text(found: Extracted, target: str, source: str | Path) -> str:
    """What was extracted, as text for ``target``."""
    rules = tuple(Noted(r.pattern, r.type, (places(r.names),)) for r in found.rules)
    head = tuple(_told(found, source))
    options = ("--pure",) if found.pure else ()
    return write(Written(rules, found.file_type, options, head, imatrix=found.imatrix_file), target)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _told(found: Extracted, source: str | Path) -> list[str]:
    n, rules = len(found.exceptions), len(found.rules)
    how = {None: "", True: " with an importance matrix", False: " without an importance matrix"}[found.imatrix]
    count = f"{found.n_decided - n} of {found.n_decided}" if n else f"all {n + found.n_decided}"
    lines = [f"out of {Path(source).name}: {count} tensors are as {found.file_type.name} makes them{how}"]
    if n:
        lines[0] += f", {n} follow from {_count(rules, 'rule')}"
    if found.recorded is not None and found.recorded.mixture != found.file_type.mixture:
        tried = found.recorded_rules is not None
        would = f", which would need {_count(found.recorded_rules or 0, 'rule')}" if tried else ""
        lines.append(f"the file calls itself {found.recorded.name}{would}")
    if found.woven:
        lines.append(f"{_count(len(found.woven), 'tensor')} with interleaved rows: plain types are named")
    if found.impossible:
        lines.append(
            f"no recipe makes the types of {_count(len(found.impossible), 'tensor')}, such as {found.impossible[0]}"
        )
    return lines
