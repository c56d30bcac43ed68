"""From a recipe and the facts of a model to one decision per tensor, with the reason for each.

The order in which a tensor's type is decided: it may not be converted at all; its own option; the first rule that
matches; the mixture of the TYPE (or, with ``pure``, its base type); last the substitute where blocks do not fill rows.

Different from upstream, on purpose: mixtures are computed for every tensor first, so that a rule changes only the
tensors it names; rules hold under F16, BF16 and F32 too; types that do not fit are substituted wherever they come from;
``compat`` brings back upstream's counters and its lower-casing of patterns. ``mainline`` changes nothing here: the plan
replaces types that llama.cpp does not read afterwards, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gguftool.format.quanttypes import QuantType
from gguftool.recipe.eligible import n_dims, why_kept
from gguftool.recipe.facts import ModelFacts, TensorFacts, facts_of
from gguftool.recipe.fallback import fitting_type
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.lint import Hits, review
from gguftool.recipe.mixes import mixture
from gguftool.recipe.regex import compile_pattern
from gguftool.recipe.rules import Rule

__all__ = [
    "Decision",
    "Decisions",
    "FileType",
    "ModelFacts",
    "Recipe",
    "Rule",
    "TensorFacts",
    "decide",
    "facts_of",
    "file_type_by_name",
    "needs_importance",
    "rule_hits",
]

_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_ROUTER = "ffn_gate_inp.weight"
_LOW_BIT = frozenset(["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_kt", "iq2_kt"])


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a user asked for. Rules are in order, the first match wins.

    ``output_type``, ``embedding_type``, ``per_layer_embedding_type`` and ``router_type`` are the options for one tensor
    each and beat the rules. ``match_names`` is "output" (names after pruning, as upstream) or "source".
    ``strict_rules``: pasted rules that hit nothing are problems too. ``fallback=False``: so are types that do not fit.
    ``mainline``: the file is for llama.cpp, whatever types are named.
    """

    file_type: FileType
    rules: tuple[Rule, ...] = ()
    pure: bool = False
    leave_output_tensor: bool = False
    output_type: QuantType | None = None
    embedding_type: QuantType | None = None
    per_layer_embedding_type: QuantType | None = None
    router_type: QuantType | None = None
    match_names: str = "output"
    strict_rules: bool = False
    fallback: bool = True
    compat: bool = False
    mainline: bool = False

    def option_for(self, name: str) -> tuple[QuantType, str] | None:
        """The type that an option of its own gives to this tensor, and the option's name."""
        if name == "output.weight" and self.output_type:
            return self.output_type, "--output-tensor-type"
        if name == _EMBEDDINGS[1] and self.per_layer_embedding_type:
            return self.per_layer_embedding_type, "--per-layer-token-embedding-type"
        if name in _EMBEDDINGS and self.embedding_type:
            return self.embedding_type, "--token-embedding-type"
        if _ROUTER in name and self.router_type:
            return self.router_type, "--ffn-gate-inp-type"
        return None


@dataclass(frozen=True, slots=True)
class Decision:
    """The type of one tensor and why. ``fallback_from`` is the wished type where it did not fit the rows.

    ``kept``: the tensor may not be converted, its bytes are copied. ``rule`` is the rule that decided, if one did.
    """

    type: QuantType
    reason: str
    fallback_from: QuantType | None = None
    rule: Rule | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Decisions:
    """One decision per tensor, in the given order; what to tell the user; what makes the recipe impossible."""

    each: tuple[Decision, ...]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def decide(recipe: Recipe, facts: ModelFacts, tensors: Sequence[TensorFacts], has_imatrix: bool) -> Decisions:
    """The type of every tensor; pure, nothing is read.

    ``tensors`` are those of the output in any order; types do not depend on it. ``has_imatrix``: one with at least one
    entry is in use. Problems (rules that hit nothing, impossible shapes) are listed, not raised, so that a check can
    show all of them at once.
    """
    if recipe.file_type.is_copy:
        ignored = recipe.rules or recipe.pure or recipe.output_type or recipe.embedding_type
        told = ("TYPE COPY converts nothing: rules and type options have no effect",) if ignored else ()
        return Decisions(tuple(Decision(t.type, "COPY converts nothing", kept=True) for t in tensors), told)
    kept = {t.name: why for t in tensors if (why := _kept(recipe, t)) is not None}
    hits = _hits(recipe, tensors, kept)
    winners: dict[str, Rule] = {}
    for hit in hits:
        winners |= dict.fromkeys(hit.won, hit.rule)
    mixed = _mixed(recipe, facts, tensors, has_imatrix, kept, winners)
    each = tuple(_decision(recipe, t, kept.get(t.name), winners.get(t.name), mixed) for t in tensors)
    warnings, problems = review(hits, [(t.name, t.source_name or t.name) for t in tensors], strict=recipe.strict_rules)
    warnings += [*_idle_options(recipe, each), *_unknown_types(tensors)]
    problems += _shape_problems(recipe, tensors, each)
    return Decisions(each, tuple(warnings), tuple(problems))


def rule_hits(recipe: Recipe, tensors: Sequence[TensorFacts]) -> list[Hits]:
    """For every rule what it matches, may change and decides, as ``decide`` sees it."""
    return _hits(recipe, tensors, {t.name for t in tensors if _kept(recipe, t) is not None})


def needs_importance(wished: QuantType, file_type: FileType, name: str) -> bool:
    """Whether this tensor is refused in this type without importances of its own.

    llama-quantize's list (with ik_llama.cpp's iq1_kt and iq2_kt); never for the embeddings and ``output.weight``.
    iq3_xxs is on it except under ik's TYPE names, where that tool makes it without.
    """
    if name == "output.weight" or name in _EMBEDDINGS:
        return False
    plain = wished.unpacked or wished.name
    if plain == "q2_K":
        return file_type.name == "Q2_K_S"
    return plain in _LOW_BIT or (plain == "iq3_xxs" and file_type.family != "ik")


def _kept(recipe: Recipe, tensor: TensorFacts) -> str | None:
    return why_kept(
        tensor,
        family=recipe.file_type.family,
        leave_output_tensor=recipe.leave_output_tensor,
        router=recipe.router_type is not None,
    )


def _hits(recipe: Recipe, tensors: Sequence[TensorFacts], kept: Collection[str]) -> list[Hits]:
    """For every rule the tensors that it matches, may change, and wins; an option's tensors are won by the option."""
    by_option = {t.name: found[1] for t in tensors if (found := recipe.option_for(t.name)) is not None}
    takers: dict[str, str] = by_option
    hits: list[Hits] = []
    for rule in recipe.rules:
        pattern = compile_pattern(rule.pattern, lower=recipe.compat)
        matched = tuple(t.name for t in tensors if pattern.search(_matched_name(recipe, t)))
        usable = tuple(name for name in matched if name not in kept)
        won = tuple(name for name in usable if name not in takers)
        lost_to = tuple(dict.fromkeys(takers[name] for name in usable if name in takers))
        takers = takers | dict.fromkeys(won, str(rule))
        hits.append(Hits(rule, pattern, matched, usable, won, lost_to))
    return hits


def _matched_name(recipe: Recipe, tensor: TensorFacts) -> str:
    return tensor.source_name or tensor.name if recipe.match_names == "source" else tensor.name


def _mixed(
    recipe: Recipe,
    facts: ModelFacts,
    tensors: Sequence[TensorFacts],
    has_imatrix: bool,
    kept: Collection[str],
    winners: Collection[str],
) -> dict[str, QuantType]:
    """The types of the mixture, or the base type throughout with ``pure``."""
    base = recipe.file_type.base
    assert base is not None
    eligible = {t.name for t in tensors if t.name not in kept}
    if recipe.pure:
        return dict.fromkeys(eligible, base)
    decided = {name for name in eligible if name in winners or recipe.option_for(name) is not None}
    return mixture(
        recipe.file_type,
        facts,
        tensors,
        has_imatrix,
        output_type=recipe.output_type,
        eligible=eligible,
        uncounted=decided if recipe.compat else frozenset(),
    )


def _decision(
    recipe: Recipe, tensor: TensorFacts, kept: str | None, rule: Rule | None, mixed: dict[str, QuantType]
) -> Decision:
    if kept is not None:
        return Decision(tensor.type, f"copied: {kept}", kept=True)
    option = recipe.option_for(tensor.name)
    if option is not None:
        wished, reason = option
        rule = None
    elif rule is not None:
        wished, reason = rule.type, str(rule)
    else:
        wished, reason = mixed[tensor.name], _mixture_reason(recipe, tensor.name, mixed[tensor.name])
    fitting = fitting_type(wished, tensor.n_cols, recipe.file_type.family)
    if fitting == wished:
        return Decision(wished, reason, rule=rule)
    why = f"rows of {tensor.n_cols} are no multiple of {wished.block_size}"
    return Decision(fitting, f"{reason}; {fitting.name} instead of {wished.name}: {why}", wished, rule)


def _mixture_reason(recipe: Recipe, name: str, chosen: QuantType) -> str:
    if name in _EMBEDDINGS and chosen == recipe.output_type and not recipe.pure:
        return "--output-tensor-type, which tied embeddings take too"
    same = chosen == recipe.file_type.base
    return f"base type of {recipe.file_type.name}" if same else f"{recipe.file_type.name} mixture"


def _idle_options(recipe: Recipe, each: Sequence[Decision]) -> list[str]:
    """A warning for every option of one tensor that decided none."""
    asked = {
        "--output-tensor-type": recipe.output_type,
        "--token-embedding-type": recipe.embedding_type,
        "--per-layer-token-embedding-type": recipe.per_layer_embedding_type,
        "--ffn-gate-inp-type": recipe.router_type,
    }
    reasons = [decision.reason for decision in each]
    return [
        f"{option} {wished.name} decides no tensor of this model"
        for option, wished in asked.items()
        if wished is not None and not any(reason.startswith(option) for reason in reasons)
    ]


def _unknown_types(tensors: Sequence[TensorFacts]) -> list[str]:
    """A warning if tensors keep a type that nobody here knows, whatever was asked for."""
    names = [t.name for t in tensors if t.type.kind == "unknown"]
    types = ", ".join(dict.fromkeys(t.type.name for t in tensors if t.type.kind == "unknown"))
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return [f"{names[0]}{more} ({types}): types that are not known here are copied as they are"] if names else []


def _shape_problems(recipe: Recipe, tensors: Sequence[TensorFacts], each: Sequence[Decision]) -> list[str]:
    problems = []
    for tensor, decision in zip(tensors, each, strict=True):
        if decision.kept or decision.type == tensor.type:
            continue
        if n_dims(tensor.shape) > 3:
            problems.append(
                f"tensor '{tensor.name}': four dimensions {tensor.shape} cannot be quantized; "
                f"give it its own type with a rule to {tensor.type.name}"
            )
        if decision.fallback_from is not None and not recipe.fallback:
            wished = decision.fallback_from
            problems.append(
                f"tensor '{tensor.name}': rows of {tensor.n_cols} cannot be {wished.name} (multiples of "
                f"{wished.block_size}) and --no-fallback forbids {decision.type.name}; name one that fits by a rule"
            )
    return problems
