"""What is odd about rules: they hit nothing, can never win, or hit more than their writer meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.recipe.regex import NamePattern, compile_pattern
from gguftool.recipe.rules import Rule, lowered

_LAYER = re.compile(r"(?<=blk\.)[0-9]+(?=\.)")


@dataclass(frozen=True, slots=True)
class Hits:
    """The tensors (output names) that a rule matches, those of them that may be converted, and those that it decides.

    ``lost_to`` names what decided the others: earlier rules, or options.
    """

    rule: Rule
    pattern: NamePattern
    matched: tuple[str, ...]
    usable: tuple[str, ...]
    won: tuple[str, ...]
    lost_to: tuple[str, ...]


def review(hits: Sequence[Hits], names: Sequence[tuple[str, str]], *, strict: bool) -> tuple[list[str], list[str]]:
    """(warnings, problems) about the rules of a recipe over a model with these (output, source) names.

    Problems are rules that must hit something and match no tensor; with ``strict`` that is every rule.
    """
    warnings: list[str] = []
    problems: list[str] = []
    for hit in hits:
        if not hit.matched:
            (problems if strict or hit.rule.must_hit else warnings).append(_no_hit(hit, names))
        elif not hit.usable:
            (problems if strict else warnings).append(
                f"{hit.rule} hits only tensors that may not be converted ({_some(hit.matched)})"
            )
        elif not hit.won:
            warnings.append(f"{hit.rule} never applies: all it matches is taken by {_some(hit.lost_to)}")
        caught = _unanchored_output(hit)
        if caught:
            warnings.append(caught)
    return warnings, problems


def _no_hit(hit: Hits, names: Sequence[tuple[str, str]]) -> str:
    text = f"{hit.rule} matches no tensor"
    small = lowered(hit.rule.pattern)
    if small != hit.rule.pattern and _matches(small, [name for name, _ in names]):
        return f"{text}: case counts, '{small}' would match"
    if _matches(hit.rule.pattern, [source for _, source in names]):
        return f"{text} of the output, only names of the input: layers are renumbered; see --match-names"
    near = nearest_names(hit.rule.pattern, [name for name, _ in names])
    return f"{text}; the nearest names are {', '.join(near)}" if near else text


def _matches(pattern: str, names: Sequence[str]) -> bool:
    compiled = compile_pattern(pattern)
    return any(compiled.search(name) for name in names)


def nearest_names(pattern: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The tensor names most like what the pattern seems to spell; of several layers' namesakes the first."""
    distinct: dict[str, str] = {}
    for name in names:
        distinct.setdefault(_LAYER.sub("", name), name)
    spelled = re.sub(r"(?<!\\)\.[*+?]+|\\[A-Za-z]|\[[^]]*\]|\{[^}]*\}", "", pattern).lower()
    spelled = re.sub(r"\.[0-9]+\.|[^a-z0-9_.]", "", spelled)
    wished = spelled.removeprefix("blk").removesuffix("weight").strip(".")

    def likeness(key: str) -> float:
        short = key.removeprefix("blk..").removesuffix(".weight")
        return difflib.SequenceMatcher(None, wished, short).ratio()

    ranked = sorted(distinct, key=lambda key: (-likeness(key), key))
    return [distinct[key] for key in ranked[:count]]


def _unanchored_output(hit: Hits) -> str | None:
    """A warning for ``output\\.weight`` and its like, which also find attn_output."""
    caught = [name for name in hit.matched if "attn_output" in name]
    if not caught or "attn" in hit.rule.pattern or not hit.pattern.search("output.weight"):
        return None
    if any("attn_output" not in name and not name.startswith("output") for name in hit.matched):
        return None  # a broad pattern, which was not meant for the output alone
    decides = sum(name in hit.won for name in caught)
    effect = f"and decides {decides} of them" if decides else "which earlier rules decide here"
    return (
        f"{hit.rule} is not anchored and also hits attn_output ({len(caught)} tensors), {effect}; "
        r"'^output\.weight' would not"
    )


def _some(items: Sequence[str], count: int = 3) -> str:
    rest = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + rest
