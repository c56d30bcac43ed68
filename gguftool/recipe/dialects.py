"""A recipe written for whoever is to read it: this tool, llama-quantize, ik_llama.cpp, a file of rules, a model card.

Every rule carries its comments. Where a dialect reads something differently (llama-quantize lower-cases patterns and
splits a rule at its first ``=``, ik_llama.cpp splits at every comma, a file at white space, a shell at quotes), the
pattern is spelled so that it means the same there; RecipeError where it cannot be.

llama-quantize knows no comments in a file of rules: a ``#`` ends its run. There a comment is one word that has the form
of a rule and whose pattern no tensor's name can hold, ``#layers:3,7;by:act=q6_K``: that tool looks for it in vain, and
this one knows that a word that begins with ``#`` is a comment.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from gguftool.errors import RecipeError
from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.filetypes import FileType

_WIDTH = 110
_ESCAPES = re.compile(r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\.|\[|\]|.", re.DOTALL)
#: What llama-quantize's lower-casing turns into its opposite, and what says the same in lower case.
_TURNED = {r"\D": "[^0-9]", r"\W": r"[^0-9_a-z\x41-\x5a]", r"\S": r"[^ \t\n\r\f\v]"}
#: Escapes and characters that a shell's quotes, white space or comments would get at.
_SPELLED = {
    "\\\\": r"\x5c", r"\$": r"\x24", r"\"": r"\x22", r"\`": r"\x60", '"': r"\x22", "'": r"\x27", "`": r"\x60",
    " ": r"\x20", "#": r"\x23", r"\ ": r"\x20", r"\#": r"\x23", r"\'": r"\x27", r"\=": r"\x3d", r"\,": r"\x2c",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Noted:
    """A rule and what is to be said of it, a line each."""

    pattern: str
    type: QuantType
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A whole recipe: rules in their order, the TYPE under them, options of the command besides rules.

    ``head`` are comments on the whole. File names are for the command line that a recipe is written into; None where
    nobody said.
    """

    rules: tuple[Noted, ...]
    file_type: FileType | None = None
    options: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    imatrix: str | None = None
    source: str | None = None
    output: str | None = None


def write(recipe: Written, target: str) -> str:
    """The recipe as text, ending in a line end; ``target`` is one of TARGETS.

    RecipeError for a target that is none, types that its reader does not know, and patterns that it would misread.
    """
    if target not in TARGETS:
        raise RecipeError(f"'{target}' is no form of a recipe: choose one of {', '.join(TARGETS)}")
    runtime, writer = TARGETS[target]
    if runtime:
        _check_types(recipe, runtime, target)
    _check_heeded(recipe, target)
    recipe = _with_own_options(recipe, target)
    rules = tuple(replace(rule, pattern=portable(rule.pattern, target)) for rule in recipe.rules)
    return writer(replace(recipe, rules=rules))


def portable(pattern: str, target: str) -> str:
    """The pattern spelled so that the target's reader finds the same names with it."""
    mainline, ik = target in ("llama-quantize", "file"), target in ("ik", "card")
    inside = False
    parts = []
    for part in _ESCAPES.findall(pattern):
        if part == "[" and not inside:
            inside = True
        elif part == "]":
            inside = False
        parts.append(_spelled(part, inside, mainline, pattern))
    text = "".join(parts)
    if ik and "," in text:
        text = re.sub(r",(?![0-9]*\})", r"\\x2c", text)
        if "," in text:
            raise RecipeError(f"pattern '{pattern}': ik_llama.cpp splits at the comma of a count; write it out")
    if (mainline or ik) and "=" in text:
        text = re.sub(r"(?<!\(\?)=", r"\\x3d", text)
        if "=" in text:
            raise RecipeError(f"pattern '{pattern}': a rule is split at the '=' of '(?=' there; say it without")
    return text


def _spelled(part: str, inside: bool, mainline: bool, pattern: str) -> str:
    if mainline and len(part) == 1 and "A" <= part <= "Z":
        return f"\\x{ord(part):02x}"
    if mainline and (part == r"\B" or (part in _TURNED and inside)):
        raise RecipeError(f"pattern '{pattern}': llama-quantize lower-cases {part}, which turns its meaning around")
    if mainline and part in _TURNED:
        return _TURNED[part]
    if mainline and len(part) == 2 and part[0] == "\\" and part[1].isupper():
        return f"\\x{ord(part[1]):02x}"  # an unknown letter escape is the letter
    return _SPELLED.get(part, part)


def _check_types(recipe: Written, runtime: str, target: str) -> None:
    wrong = sorted({r.type.name for r in recipe.rules if r.type.runtime not in ("both", runtime)})
    base = recipe.file_type
    if runtime == "mainline" and base is not None and base.family == "ik":
        wrong.insert(0, f"TYPE {base.name}")
    if runtime == "ik" and base is not None and base.base is not None and base.base.runtime == "mainline":
        wrong.insert(0, f"TYPE {base.name}")
    if wrong:
        reader, other = ("llama.cpp", "ik") if runtime == "mainline" else ("ik_llama.cpp", "llama-quantize")
        way_out = f"write it for {other} or gguftool"
        if runtime == "mainline":
            way_out += ", or let `gguftool recipe convert --compat mainline` take llama.cpp's nearest types"
        raise RecipeError(f"{', '.join(wrong)}: {reader} does not know that: {way_out}")


def _check_heeded(recipe: Written, target: str) -> None:
    """RecipeError for rules and options that the target's program would read and not follow."""
    base, ik = recipe.file_type, target in ("ik", "card")
    if target == "gguftool":
        return
    if recipe.rules and base is not None and base.is_float:
        raise RecipeError(f"other quantizers ignore rules under {base.name}: write it for gguftool, or take TYPE Q8_0")
    if ik and recipe.rules and "--pure" in recipe.options:
        raise RecipeError("ik_llama.cpp ignores rules under --pure: write it for gguftool or llama-quantize")
    if ik and any(option.startswith("--prune-layers") for option in recipe.options):
        raise RecipeError("ik_llama.cpp cannot prune: write it for gguftool, or prune first with `gguftool copy`")


def _with_own_options(recipe: Written, target: str) -> Written:
    """The recipe with options that only ik_llama.cpp has said otherwise."""
    if target in ("ik", "card"):
        return recipe
    options, rules = [], list(recipe.rules)
    for option in recipe.options:
        name, _, value = option.partition(" ")
        if name == "--ffn-gate-inp-type":
            raise RecipeError(f"only ik_llama.cpp has {name}, which converts routers: leave it out")
        if name == "--per-layer-token-embedding-type":
            rules.insert(0, Noted(r"^per_layer_token_embd\.weight", type_by_name(value), (name,)))
        else:
            options.append(option)
    return replace(recipe, options=tuple(options), rules=tuple(rules))


def _command(program: str, recipe: Written, options: Iterable[str]) -> str:
    """A command line, an option to a line."""
    lines = [program]
    if recipe.imatrix is not None:
        lines.append(f"--imatrix {quoted(recipe.imatrix)}")
    lines += options
    lines.append(f"{quoted(recipe.source or 'INPUT.gguf')} {quoted(recipe.output or 'OUTPUT.gguf')} {_type(recipe)}")
    return " \\\n    ".join(lines) + "\n"


def _type(recipe: Written) -> str:
    return recipe.file_type.name if recipe.file_type is not None else "TYPE"


def quoted(text: str) -> str:
    """The text as one word of a shell."""
    if re.fullmatch(r"[\w@%+:,./=-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _comments(recipe: Written) -> str:
    """Comments on the whole, then on each rule: its number and type in front, further lines under it."""
    lines = [wrapped for line in recipe.head for wrapped in _wrapped(line, "# ")]
    for n, rule in enumerate(recipe.rules, 1):
        for number, comment in enumerate(rule.comments):
            lines += _wrapped(comment if number else f"{n}. {rule.type.name}: {comment}", "#    " if number else "# ")
    return "".join(line + "\n" for line in lines)


def _wrapped(text: str, mark: str) -> list[str]:
    clean = " ".join(text.replace('"', "'").replace("`", "'").replace("$", "").replace("\\", "/").split())
    wrapper = textwrap.TextWrapper(
        _WIDTH, initial_indent=mark, subsequent_indent=mark + "  ", break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(clean) or [mark.rstrip()]


def _flags(recipe: Written) -> list[str]:
    return [*recipe.options, *(f"--tensor-type '{rule.pattern}={rule.type.name}'" for rule in recipe.rules)]


def _for_gguftool(recipe: Written) -> str:
    return _comments(recipe) + _command("gguftool quantize", recipe, _flags(recipe))


def _for_llama_quantize(recipe: Written) -> str:
    return _comments(recipe) + _command("llama-quantize", recipe, _flags(recipe))


def _for_ik(recipe: Written) -> str:
    joined = ",".join(f"{rule.pattern}={rule.type.name}" for rule in recipe.rules)
    custom = [f"--custom-q '{joined}'"] if recipe.rules else []
    return _comments(recipe) + _command("llama-quantize", recipe, [*recipe.options, *custom])


def _for_file(recipe: Written) -> str:
    lines = []
    if recipe.file_type is not None and recipe.rules:
        lines.append(f"#TYPE:{recipe.file_type.name}={recipe.rules[0].type.name}")
    if recipe.options and recipe.rules:
        options = ";".join(option.replace(" ", ":") for option in recipe.options)
        lines.append(f"#OPTIONS:{options}={recipe.rules[0].type.name}")
    for rule in recipe.rules:
        lines += [f"#{_word(comment)}={rule.type.name}" for comment in rule.comments]
        lines.append(f"{rule.pattern}={rule.type.name}")
    return "".join(line + "\n" for line in lines)


def _word(comment: str) -> str:
    """The comment as one word that is a pattern, without ``=`` and without anything that a pattern gives a meaning."""
    text = re.sub(r"\s*=\s*", ":", re.sub(r"([,;:])\s+", r"\1", comment.strip()))
    return re.sub(r"[^A-Za-z0-9_.,:;%/#-]", "", re.sub(r"\s+", "_", text))[:1000] or "-"


def _for_card(recipe: Written) -> str:
    lines = ["#!/usr/bin/env bash", "", *(w for line in recipe.head for w in _wrapped(line, "# "))]
    if recipe.rules:
        lines += [""] if recipe.head else []
        lines.append('custom="')
        for rule in recipe.rules:
            lines += [w for comment in rule.comments for w in _wrapped(comment, "## ")]
            lines.append(f"{rule.pattern}={rule.type.name}")
        lines += ['"', "", "custom=$(", "  echo \"$custom\" | grep -v '^#' | \\"]
        lines += ["  sed -Ez 's:\\n+:,:g;s:,$::;s:^,::'", ")", ""]
    custom = ['--custom-q "$custom"'] if recipe.rules else []
    words = ["./build/bin/llama-quantize", *recipe.options, *custom]
    if recipe.imatrix is not None:
        words.append(f"--imatrix {quoted(recipe.imatrix)}")
    words += [quoted(recipe.source or "INPUT.gguf"), quoted(recipe.output or "OUTPUT.gguf"), _type(recipe)]
    return "\n".join(lines) + "\n" + " \\\n    ".join(words) + "\n"


#: Form: (whose types it takes, "" for all; what writes it).
TARGETS: dict[str, tuple[str, Callable[[Written], str]]] = {
    "gguftool": ("", _for_gguftool),
    "llama-quantize": ("mainline", _for_llama_quantize),
    "ik": ("ik", _for_ik),
    "file": ("", _for_file),
    "card": ("ik", _for_card),
}
