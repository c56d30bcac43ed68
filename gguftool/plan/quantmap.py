"""Choices as the fewest rules, each with the figures that put it there.

llama-quantize counts along: a tensor that a rule decides does not move its mixture's counters on, so rules for some
layers change what the mixture gives to others of the role. For its dialects the result is put to the test with these
counters, and kinds that would shift are written out whole until the types come out as planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gguftool.format.names import layer_of, ranges, tensor_kind
from gguftool.format.quanttypes import QuantType
from gguftool.plan.from_statistics import Choice, Choices
from gguftool.recipe.compress import Compressed, Merged, fewest_rules
from gguftool.recipe.decide import Decision, Recipe, decide
from gguftool.recipe.dialects import Noted
from gguftool.recipe.facts import ModelFacts, TensorFacts
from gguftool.recipe.filetypes import FileType
from gguftool.recipe.rules import Rule

_UPSTREAM = ("llama-quantize", "file")


@dataclass(frozen=True)
class Known:
    """What is known of the model: nothing, or its facts, its tensors and what the base recipe decides of them.

    ``names`` are the tensors that rules must tell apart, with or without a model. ``pinned`` got their type by hand.
    """

    names: tuple[str, ...]
    facts: Mapping[str, TensorFacts] = field(default_factory=dict)
    base: Mapping[str, Decision] = field(default_factory=dict)
    model: ModelFacts = field(default_factory=ModelFacts)
    pinned: Mapping[str, Rule] = field(default_factory=dict)


def rules_for(choices: Choices, known: Known, file_type: FileType, target: str) -> tuple[tuple[Noted, ...], bool]:
    """(rules with their comments, whether fewer are proven to be impossible) for one of ``dialects.TARGETS``."""
    wanted = dict(choices.types) | {name: rule.type for name, rule in known.pinned.items()}
    found = fewest_for(wanted, known, file_type, target)
    by_name = {choice.ranked.name: choice for choice in choices.each}
    noted = tuple(Noted(r.pattern, r.type, comments(r, by_name, known, choices)) for r in found.rules)
    return noted, found.proven


def fewest_for(wanted: Mapping[str, QuantType], known: Known, file_type: FileType, target: str) -> Compressed:
    """The fewest rules for these types that hold in the target's program, its counters included."""
    held: set[str] = set()
    while True:
        every = {name: known.base[name].type for name in held} | dict(wanted)
        others = {name: _free(name, known) for name in known.names if name not in every}
        found = fewest_rules(every, others)
        shifted = _shifted(found.rules, every, known, file_type) if target in _UPSTREAM and known.facts else set()
        if not shifted:
            return found
        if shifted <= held:
            raise AssertionError(f"llama-quantize would not give {sorted(shifted)[0]} what the plan says")
        held |= shifted


def counts_along(target: str, file_type: FileType | None, with_model: bool) -> list[str]:
    """A warning where the target's program may move types that no rule names, because the model is not known."""
    if with_model or target not in _UPSTREAM or (file_type is not None and file_type.is_float):
        return []
    return [
        "llama-quantize does not count tensors that rules decide, which can move its mixture's types in other layers: "
        "with --model the rules are written so that they stay"
    ]


def _free(name: str, known: Known) -> QuantType | None:
    """The type that a rule may give this tensor, because it has it anyway; None where no rule may reach it."""
    decision = known.base.get(name)
    return None if decision is None or decision.kept else decision.type


def _shifted(rules: Sequence[Merged], every: Mapping[str, QuantType], known: Known, file_type: FileType) -> set[str]:
    """Convertible tensors of the kinds in which llama-quantize, counting its own way, would give other types."""
    recipe = Recipe(file_type, tuple(Rule(r.pattern, r.type, "", False) for r in rules), compat=True)
    tensors = list(known.facts.values())
    found = decide(recipe, known.model, tensors, has_imatrix=True).each
    wrong = {
        tensor_kind(t.name)
        for t, decision in zip(tensors, found, strict=True)
        if not decision.kept and decision.type != every.get(t.name, known.base[t.name].type)
    }
    return {t.name for t in tensors if tensor_kind(t.name) in wrong and not known.base[t.name].kept}


def comments(rule: Merged, by_name: Mapping[str, Choice], known: Known, choices: Choices) -> tuple[str, ...]:
    """What put the rule there: per kind the layers with their figures, places and the step; then what it keeps."""
    lines: dict[str, list[str]] = {}
    chosen: dict[str, list[Choice]] = {}
    for name in rule.names:
        if name in by_name:
            chosen.setdefault(tensor_kind(name), []).append(by_name[name])
    for kind, members in chosen.items():
        lines.setdefault(_figures(members, choices), []).append(kind)
    said = [f"{', '.join(kinds)} {line}" for line, kinds in lines.items()]
    pins = sorted({str(known.pinned[name]) for name in rule.names if name in known.pinned})
    said += [f"by hand: {pin}" for pin in pins]
    kept = [name for name in rule.names if name not in by_name and name not in known.pinned]
    if kept:
        said.append(f"held where the TYPE puts it, or llama-quantize would move it: {_places(kept)}")
    if rule.also:
        said.append(f"the TYPE's own type for {_places(rule.also)}")
    return tuple(said)


def _figures(members: Sequence[Choice], choices: Choices) -> str:
    ordered = sorted(members, key=lambda c: c.ranked.rank)
    steps = ", ".join(dict.fromkeys(choice.step for choice in ordered))
    order = " reversed" if choices.reverse else ""
    fallback = {c.wished.name for c in ordered if c.type != c.wished}
    instead = f" (instead of {', '.join(sorted(fallback))}, which does not fill the rows)" if fallback else ""
    places = ", ".join(f"{_where(c, n)} = {_number(c.ranked.value)} (#{c.ranked.rank})" for n, c in enumerate(ordered))
    return f"by {choices.by}{order}, {len(ordered)} of {ordered[0].ranked.of}, {steps}{instead}: {places}"


def _where(choice: Choice, number: int) -> str:
    layer = choice.ranked.layer
    return choice.ranked.name if layer is None else f"layer {layer}" if number == 0 else str(layer)


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def _places(names: Iterable[str]) -> str:
    """Kinds with their layers: attn_v of layers 0-3,7."""
    kinds: dict[str, list[int]] = {}
    for name in names:
        found = layer_of(name)
        kinds.setdefault(tensor_kind(name), []).extend([found[1]] if found else [])
    return "; ".join(f"{kind} of {_layers(layers)}" if layers else kind for kind, layers in kinds.items())


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(set(layers)) > 1 else ''} {ranges(sorted(set(layers)))}"
