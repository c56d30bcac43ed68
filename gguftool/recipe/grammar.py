"""Rules in every dialect that people paste: options, files, ik_llama.cpp's one-line string, whole recipe blocks.

    attn_v=q6_k                                     one rule, as --tensor-type takes it
    attn_v=q6_k  \\.[0-7]\\.ffn_down=q5_k # why       a file: rules between white space, comments to the end of the line
    blk\\..*\\.attn_v.*=iq6_k,output\\.weight=q6_K     --custom-q: rules between commas
    custom="                                        a block out of a model card: one or more rules a line, with
    ## Attention                                    comments, stray quotes and the shell around it; what is no rule
    blk\\..*\\.attn_v.*=iq6_k                          is passed over, and the reader is told
    "

A rule is split at its first ``=``, as upstream does. A pattern can hold one itself, as in ``(?=...)``: when the first
split makes no sense (the pattern or the type is refused), the last ``=`` is tried.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.errors import RecipeError
from gguftool.recipe.regex import NamePattern, compile_pattern
from gguftool.recipe.rules import Rule, make_rule

__all__ = [
    "NamePattern",
    "Pasted",
    "Rule",
    "compile_pattern",
    "parse_custom_q",
    "parse_tensor_type",
    "parse_tensor_type_file",
]

MAX_TEXT = 1 << 20
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060\x00"))
_QUOTES = "\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
#: A comma of {2,5} belongs to the pattern; every other one ends a rule.
_COMMA = re.compile(r",(?![0-9]*\})")
_ASSIGNMENT = re.compile(rf"^(?:export\s+|local\s+)?[A-Za-z_]\w*\s*\+?=\s*(?=[{_QUOTES}]|\$\(|\$['\"])")
_OPTION = re.compile(r"(?<!\S)(--[a-z][a-z0-9-]*)(?:[ \t=]+(\"[^\"]*\"|'[^']*'|[^\s\\]\S*))?")
_RULE_OPTIONS = ("--custom-q", "--tensor-type")
#: Options of a pasted command that change types and must be given again by hand.
_TYPE_OPTIONS = re.compile(r"--(pure|leave-output-tensor|imatrix|prune-layers|tensor-type-file|[a-z-]+-type)")
_TYPE_LIKE = re.compile(r"(i?q\d|tq\d|mxfp|nvfp|bf16|f16|f32|f64|i8)\w*", re.IGNORECASE)
#: TYPE words that are no tensor types.
_TYPE_ONLY = frozenset(f"Q{n}_K_{size}" for n in "2345" for size in "SML") | {"IQ2_M", "IQ3_M", "IQ3_XS"}
_TENSOR_LIKE = re.compile(r"\\|\.\*|^blk|^\^|attn_|ffn_|token_embd|output|\.weight|_exps|_shexp|ssm_")


@dataclass(frozen=True, slots=True)
class Pasted:
    """The rules of a pasted text in their order, and what its reader should be told.

    ``comments`` has what was written above or behind each rule, line by line. ``options`` are those of a pasted command
    that change types besides rules, ``ignored`` the lines without a rule.
    """

    rules: tuple[Rule, ...]
    warnings: tuple[str, ...] = ()
    comments: tuple[tuple[str, ...], ...] = ()
    options: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def parse_tensor_type(text: str, origin: str = "--tensor-type", *, must_hit: bool = True) -> Rule:
    """The rule that ``RE=TYPE`` spells; RecipeError names what is wrong with it."""
    item = text.strip()
    first, last = item.find("="), item.rfind("=")
    if first <= 0 or last == len(item) - 1:
        raise RecipeError(f"{origin} '{_short(item)}': a rule reads PATTERN=TYPE, such as attn_v=q6_K")
    try:
        return make_rule(item[:first].rstrip(), item[first + 1 :].strip(), origin, must_hit=must_hit)
    except RecipeError as error:
        if first == last:
            raise
        try:
            return make_rule(item[:last].rstrip(), item[last + 1 :].strip(), origin, must_hit=must_hit)
        except RecipeError as second:
            looks_right = _TYPE_LIKE.fullmatch(item[last + 1 :].strip())
            raise (second if looks_right else error) from None


def parse_tensor_type_file(text: str, origin: str = "--tensor-type-file") -> tuple[Rule, ...]:
    """The rules of a file: items between white space; an item that begins with ``#`` begins a comment."""
    _check_length(text, origin)
    rules = []
    for number, line in enumerate(text.translate(_INVISIBLE).splitlines(), 1):
        for item in comment_cut(line)[0].split():
            try:
                rules.append(parse_tensor_type(item, f"{origin} line {number}", must_hit=False))
            except RecipeError as error:
                raise RecipeError(f"{error}{_as_block(text)}") from None
    return tuple(rules)


def _as_block(text: str) -> str:
    """The way out where a text that is no file of rules would do as a block; else nothing."""
    try:
        parse_custom_q(text)
    except RecipeError:
        return ""
    return "; a model card's text or block goes to --custom-q, which passes over what is no rule"


def parse_custom_q(text: str, origin: str = "--custom-q") -> Pasted:
    """The rules of ik_llama.cpp's string, or of a whole block pasted out of a model card.

    Shell text around the rules is passed over with a warning. RecipeError for what was surely meant as a rule and is
    none (an unknown type, a bad pattern), and when there is no rule at all.
    """
    _check_length(text, origin)
    reader = _BlockReader(origin)
    lines = text.translate(_INVISIBLE).splitlines()
    for number, line in enumerate(lines, 1):
        reader.line(line, f"{origin} line {number}" if len(lines) > 1 else origin)
    return reader.result()


class _BlockReader:
    """Collects the rules of a block line by line, and what was passed over."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.rules: list[Rule] = []
        self.comments: list[tuple[str, ...]] = []
        self.pending: list[str] = []
        self.ignored: list[str] = []
        self.options: list[str] = []
        self.blocks_with_rules = 0
        self.in_new_block = True

    def line(self, line: str, origin: str) -> None:
        text = line.strip()
        if text.startswith("#"):
            if not text.startswith("#!"):
                self.pending.append(text.lstrip("#").strip())
            return
        if not text:
            return
        if text.startswith("--") or re.search(r"\s--[a-z]", text):
            self.command_line(text, origin)
            return
        started = _ASSIGNMENT.match(text)
        if started:
            self.in_new_block = True
            self.pending = []
            text = text[started.end() :]
        text, behind = comment_cut(text)
        items = [_bare(item) for item in _COMMA.split(_bare(text))]
        items = [item for item in items if item]
        if not items:
            return
        if not any(_is_rule_like(item) for item in items):
            self.ignored.append(line.strip())
            if not text.endswith("\\"):  # a command that goes on may come to its rules
                self.pending = []
            return
        self.pending += [behind] if behind else []
        for item in items:
            self.add(parse_tensor_type(item, origin, must_hit=False))

    def add(self, rule: Rule) -> None:
        self.blocks_with_rules += self.in_new_block
        self.in_new_block = False
        self.rules.append(rule)
        self.comments.append(tuple(filter(None, self.pending)))
        self.pending = []

    def command_line(self, text: str, origin: str) -> None:
        """A line with options: the rules in them are taken, type options are reported, the rest is passed over."""
        taken = False
        for option, value in _OPTION.findall(text):
            value = value.strip(_QUOTES)
            if option in _RULE_OPTIONS and "=" in value:
                for item in _COMMA.split(value) if option == "--custom-q" else [value]:
                    self.add(parse_tensor_type(_bare(item), f"{origin} {option}", must_hit=False))
                taken = True
            elif _TYPE_OPTIONS.fullmatch(option) and option not in _RULE_OPTIONS:
                self.options.append(f"{option} {value}".strip())
        if not taken:
            self.ignored.append(text)

    def result(self) -> Pasted:
        if not self.rules:
            seen = _short(" ".join(self.ignored))
            raise RecipeError(f"{self.origin}: no rule PATTERN=TYPE found in the text '{seen}'")
        warnings = []
        if self.blocks_with_rules > 1:
            warnings.append(
                f"{self.origin}: the text holds {self.blocks_with_rules} recipes and all their rules were taken, "
                "the first match wins; paste one recipe only"
            )
        if self.options:
            shown = ", ".join(_short(option) for option in self.options)
            warnings.append(f"{self.origin}: options of the pasted command are not taken over, give them here: {shown}")
        warnings += passed_over(self.ignored, self.origin)
        comments, options = tuple(self.comments), tuple(self.options)
        return Pasted(tuple(self.rules), tuple(warnings), comments, options, tuple(self.ignored))


def passed_over(ignored: Sequence[str], origin: str) -> list[str]:
    """A warning that names some of these lines, which hold no rule; none for none."""
    if not ignored:
        return []
    shown = "; ".join(f"'{_short(line, 40)}'" for line in ignored[:3])
    rest = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
    lines = "1 line" if len(ignored) == 1 else f"{len(ignored)} lines"
    return [f"{origin}: passed over {lines} without a rule: {shown}{rest}"]


def comment_cut(line: str) -> tuple[str, str]:
    """(text, comment) of a line: a word that begins with ``#`` begins a comment."""
    text, mark, comment = re.sub(r"(^|\s)#", r"\1\0", line, count=1).partition("\0")
    return text, comment.strip("# \t") if mark else ""


def _bare(text: str) -> str:
    """The text without white space, quotes, continuation marks and separators around it."""
    before = None
    while before != text:
        before = text
        text = text.strip().removeprefix("$'").strip(_QUOTES).strip(",;").strip()
        if text.endswith(" \\") or text == "\\":
            text = text[:-1]
    return text


def _is_rule_like(item: str) -> bool:
    """Whether this was surely meant as a rule: a name or pattern of tensors, and one word behind the last ``=``."""
    left, sign, right = (part.strip() for part in item.rpartition("="))
    if not sign or not left or re.search(r"\s", left) or not re.fullmatch(r"\w*", right, re.ASCII):
        return False
    if _TENSOR_LIKE.search(left):
        return True
    # What is left may be a shell variable, such as TYPE=IQ4_KSS or quant=Q4_K_M.
    return _TYPE_LIKE.fullmatch(right) is not None and not left.isupper() and right.upper() not in _TYPE_ONLY


def _check_length(text: str, origin: str) -> None:
    if len(text) > MAX_TEXT:
        raise RecipeError(f"{origin}: a text of {len(text)} characters is no recipe")


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
