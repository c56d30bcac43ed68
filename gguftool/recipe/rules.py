"""A rule: which names it is for, and which type they get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gguftool.errors import RecipeError, UnknownTypeError
from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.regex import compile_pattern


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose name the pattern finds get ``type``; among several rules the first that matches wins.

    ``origin`` says where the rule was written. ``must_hit``: matching nothing is an error, not a warning.
    """

    pattern: str
    type: QuantType
    origin: str
    must_hit: bool

    def __str__(self) -> str:
        shown = self.pattern if len(self.pattern) <= 100 else self.pattern[:97] + "..."
        return f"{self.origin} '{shown}={self.type.name}'"


def target_type(text: str) -> QuantType:
    """The type of that name (any case) if a tensor can be converted to it; RecipeError with the way out if not."""
    word = text.strip()
    if not 0 < len(word) <= 40:
        raise RecipeError(f"'{word[:40]}' is no tensor type; `gguftool types` lists them")
    try:
        found = type_by_name(word)
    except UnknownTypeError as error:
        raise RecipeError(str(error)) from None
    if not found.is_target:
        if found.unpacked is not None:
            way_out = f"it interleaves rows; make {found.unpacked} and let ik_llama.cpp interleave it when it loads"
        else:
            way_out = "`gguftool types` lists those that it can"
        raise RecipeError(f"a tensor cannot be converted to {found.name}: {way_out}")
    return found


def make_rule(pattern: str, type_name: str, origin: str, *, must_hit: bool) -> Rule:
    """A checked rule; RecipeError says what is wrong with the pattern or the type."""
    try:
        compile_pattern(pattern)
        return Rule(pattern, target_type(type_name), origin, must_hit)
    except RecipeError as error:
        raise RecipeError(f"{origin} '{_short(pattern)}={_short(type_name)}': {error}") from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


#: ik_llama.cpp's options for one role each, as the patterns that say the same.
ROLE_PATTERNS: Mapping[str, str] = {
    "attn-q": r"attn_q\.weight",
    "attn-k": r"attn_k\.weight",
    "attn-v": r"attn_v\.weight",
    "attn-qkv": r"attn_qkv\.weight",
    "attn-output": r"attn_output\.weight",
    "ffn-gate": r"ffn_gate(_exps|_shexp|_chexps)?\.weight",
    "ffn-down": r"ffn_down(_exps|_shexp|_chexps)?\.weight",
    "ffn-up": r"ffn_up(_exps|_shexp|_chexps)?\.weight",
}


def role_rule(role: str, type_name: str) -> Rule:
    """The rule that ik_llama.cpp's ``--<role>-type`` option stands for; put it behind all typed and pasted rules.

    There the option works only inside some mixtures; here it always does.
    """
    if role not in ROLE_PATTERNS:
        raise RecipeError(f"there is no role '{role}'; the roles are {', '.join(ROLE_PATTERNS)}")
    return make_rule(ROLE_PATTERNS[role], type_name, f"--{role}-type", must_hit=True)


def lowered(pattern: str) -> str:
    """The pattern in lower case, for a hint when its case is all that keeps it from matching."""
    return re.sub(r"[A-Z]", lambda found: found[0].lower(), pattern)
