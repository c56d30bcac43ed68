"""The recipe back out of a model: the TYPE whose mixture explains most, and the fewest rules for the rest.

Every TYPE is tried, with and without an importance matrix (mixtures differ) and with ``--pure``; the one that needs the
fewest rules wins, and among equals the one that the file says it is, then the one with the fewest exceptions. What is
found is put to the test: deciding with it gives every tensor the type that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gguftool.errors import RecipeError
from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.compress import Merged, fewest_rules
from gguftool.recipe.decide import Recipe, decide
from gguftool.recipe.eligible import n_dims, why_kept
from gguftool.recipe.facts import ModelFacts, TensorFacts
from gguftool.recipe.fallback import fitting_type
from gguftool.recipe.filetypes import FILE_TYPES, FileType
from gguftool.recipe.mixes import mixture
from gguftool.recipe.rules import Rule

#: TYPEs for which rules are made, those with the fewest exceptions first: a model of random types needs time for each.
_MAX_COMPRESSED = 24
#: What a mixture gives each tensor.
_Types = Mapping[str, QuantType]


@dataclass(frozen=True)
class Extracted:
    """A TYPE with rules that gives every tensor that can be converted the type that it has.

    ``exceptions`` are the tensors that the TYPE alone gets wrong, ``fallbacks`` those whose substitute for a type that
    does not fit it gets right. ``recorded`` is the TYPE that the file names, and ``recorded_rules`` how many rules it
    would need; None where the file names none. ``imatrix``: the TYPE's mixture is that with an importance matrix, None
    where that makes no difference; ``imatrix_file`` is what the file names. ``woven``: tensors with interleaved rows,
    taken for their plain type. ``impossible``: tensors of types that nothing can be converted to.
    """

    file_type: FileType
    rules: tuple[Merged, ...]
    pure: bool
    imatrix: bool | None
    proven: bool
    exceptions: tuple[str, ...]
    fallbacks: Mapping[str, QuantType] = field(default_factory=dict)
    recorded: FileType | None = None
    recorded_rules: int | None = None
    woven: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()
    n_decided: int = 0
    imatrix_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Try:
    file_type: FileType
    pure: bool
    imatrix: bool | None
    types: _Types
    exceptions: tuple[str, ...]
    least: int


def extract(
    tensors: Sequence[TensorFacts],
    facts: ModelFacts,
    *,
    recorded: FileType | None = None,
    imatrix: bool | None = None,
    file_type: FileType | None = None,
) -> Extracted:
    """The shortest recipe for these tensors, whose types are those of the finished model.

    ``recorded`` is what ``general.file_type`` says, ``imatrix`` whether one was used (None: both are tried),
    ``file_type`` the only TYPE to try. RecipeError where nothing can be converted.
    """
    woven = tuple(t.name for t in tensors if t.type.unpacked is not None)
    plain = [_plain(t) for t in tensors]
    kept = _kept(plain, "mainline")
    impossible = tuple(t.name for t in plain if not t.type.is_target and t.type.kind != "int" and n_dims(t.shape) > 1)
    goal = {t.name: t.type for t in plain if t.name not in kept and t.type.is_target}
    if not goal:
        raise RecipeError("no tensor of this file could have been converted: there is no recipe to find")
    wanted = [file_type] if file_type is not None else _ordered(recorded)
    settings = (True, False) if imatrix is None else (imatrix,)
    tries = list(_tries(wanted, settings, plain, facts, goal))
    best = _best(tries, goal, plain, recorded)
    chosen, found = best
    said = None
    if recorded is not None:
        mine = [t for t in tries if t.file_type == recorded]
        said = len(_best(mine, goal, plain, recorded)[1].rules) if mine else None
    fits = {t.name: t for t in plain}
    fallbacks = {
        name: wished
        for name, wished in chosen.types.items()
        if name not in chosen.exceptions and fitting_type(wished, fits[name].n_cols, chosen.file_type.family) != wished
    }
    result = Extracted(
        chosen.file_type,
        found.rules,
        chosen.pure,
        chosen.imatrix,
        found.proven,
        chosen.exceptions,
        fallbacks,
        recorded,
        said,
        woven,
        impossible,
        len(goal),
    )
    _prove(result, plain, facts, goal)
    return result


def recipe_of(found: Extracted) -> Recipe:
    """The extracted recipe, to decide with."""
    rules = tuple(Rule(r.pattern, r.type, "extracted", True) for r in found.rules)
    return Recipe(found.file_type, rules, pure=found.pure)


def _plain(tensor: TensorFacts) -> TensorFacts:
    """The tensor with its rows taken apart, if they are interleaved in a way that has a plain form."""
    if tensor.type.unpacked is None:
        return tensor
    return TensorFacts(tensor.name, tensor.shape, type_by_name(tensor.type.unpacked))


def _kept(tensors: Sequence[TensorFacts], family: str) -> frozenset[str]:
    """Names of the tensors that no recipe over a TYPE of that family converts."""
    return frozenset(t.name for t in tensors if why_kept(t, family=family) is not None)


def _ordered(recorded: FileType | None) -> list[FileType]:
    """All TYPEs whose mixtures differ, the recorded one first."""
    found: dict[tuple[str, str], FileType] = {}
    for file_type in (*([recorded] if recorded is not None else []), *FILE_TYPES):
        if not file_type.is_copy:
            found.setdefault((file_type.family, file_type.mixture), file_type)
    return list(found.values())


def _tries(
    wanted: Iterable[FileType],
    settings: Sequence[bool],
    tensors: Sequence[TensorFacts],
    facts: ModelFacts,
    goal: _Types,
) -> Iterator[_Try]:
    columns = {t.name: t.n_cols for t in tensors}
    eligible = {family: goal.keys() - _kept(tensors, family) for family in ("mainline", "ik")}
    for file_type in wanted:
        assert file_type.base is not None
        names = eligible[file_type.family]
        mixed = {s: mixture(file_type, facts, tensors, s, eligible=names) for s in (True, False)}
        made: list[tuple[bool, bool | None, _Types]] = [(True, None, dict.fromkeys(names, file_type.base))]
        if mixed[True] == mixed[False]:
            made.insert(0, (False, None, mixed[True]))
        else:
            made[:0] = [(False, s, mixed[s]) for s in settings]
        for pure, imatrix, types in made:
            if pure and types in [m[2] for m in made[:-1]]:
                continue
            got = {name: fitting_type(t, columns[name], file_type.family) for name, t in types.items()}
            wrong = tuple(name for name in goal if name in names and got[name] != goal[name])
            yield _Try(file_type, pure, imatrix, types, wrong, _least(wrong, goal))


def _least(wrong: Iterable[str], goal: _Types) -> int:
    """A number of rules that no list for these tensors stays under: every type needs its own, in and out of blocks."""
    return len({(goal[name], name.startswith(("blk.", "enc.", "dec."))) for name in wrong})


def _best(
    tries: Sequence[_Try], goal: _Types, tensors: Sequence[TensorFacts], recorded: FileType | None
) -> tuple[_Try, _Rules]:
    """The try with the fewest rules; rules are made only for those that could still win, nearest first."""
    order = sorted(tries, key=lambda t: (t.least + len(t.exceptions) / len(goal), _preference(t, recorded)))
    best: tuple[tuple[int, int, int, int], _Try, _Rules] | None = None
    for number, one in enumerate(order):
        if best is not None and (one.least > best[0][0] or (number >= _MAX_COMPRESSED and one.file_type != recorded)):
            continue
        found = _rules(one, goal, tensors)
        key = (len(found.rules), *_preference(one, recorded), len(one.exceptions))
        if best is None or key < best[0]:
            best = (key, one, found)
    assert best is not None
    return best[1], best[2]


def _preference(one: _Try, recorded: FileType | None) -> tuple[int, int]:
    return int(recorded is not None and one.file_type != recorded), int(one.pure)


@dataclass(frozen=True, slots=True)
class _Rules:
    rules: tuple[Merged, ...]
    proven: bool


def _rules(one: _Try, goal: _Types, tensors: Sequence[TensorFacts]) -> _Rules:
    wrong = set(one.exceptions)
    wanted = {name: goal[name] for name in one.exceptions}
    others: dict[str, QuantType | None] = {t.name: goal.get(t.name) for t in tensors if t.name not in wrong}
    found = fewest_rules(wanted, others)
    return _Rules(found.rules, found.proven)


def _prove(found: Extracted, tensors: Sequence[TensorFacts], facts: ModelFacts, goal: _Types) -> None:
    decided = decide(recipe_of(found), facts, tensors, found.imatrix is not False).each
    for tensor, decision in zip(tensors, decided, strict=True):
        if tensor.name in goal and decision.type != goal[tensor.name]:
            raise AssertionError(f"{tensor.name} would get {decision.type.name}, not {goal[tensor.name].name}")
