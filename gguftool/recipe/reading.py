"""Any text that holds a recipe, read as one: rules with their comments, the TYPE, and the options that change types.

A file of rules, options of a command line, ik_llama.cpp's string, a block out of a model card, or the whole card.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gguftool.errors import RecipeError
from gguftool.recipe.decide import Recipe
from gguftool.recipe.dialects import Noted, Written
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.grammar import comment_cut, parse_custom_q, parse_tensor_type, passed_over
from gguftool.recipe.rules import ROLE_PATTERNS, Rule, role_rule, target_type

#: How a file of rules says over which TYPE it goes, and with which options.
_TYPE_SAID = re.compile(r"TYPE[:=]\s*(\w+)")
_OPTIONS_SAID = re.compile(r"OPTIONS:(--[^\s=]+)")
_ITEM = re.compile(r"[^\s=]+.*=\w+")
_NUMBERED = re.compile(r"([0-9]{1,4})\. \w+: ")
#: Lines of the shell around a card's block, and marks of the page around it.
_SHELL = re.compile(r"(custom=\$\(|echo \"?\$\w+\"? \||sed -|\)$|```|#!/|</?(details|summary))")
_PROGRAM = re.compile(r"(^|[\s/])(llama-quantize|gguftool\s+quantize)(\s|$)")
_SWITCHES = frozenset(
    f"--{name}"
    for name in (
        *("allow-requantize", "leave-output-tensor", "pure", "keep-split", "dry-run", "force", "restart", "unpack"),
        *("no-fallback", "strict-rules", "no-sync", "json", "allow-layer-arrays", "allow-unknown-arrays"),
        *("prune-nextn", "ignore-imatrix-rules", "hide-imatrix", "symmetric-q40", "slow-iq2ks", "repack"),
        "partial-requant",
    )
)
_RULES = ("--tensor-type", "--custom-q", "--tensor-type-file")
_TYPES: Mapping[str, str] = {
    "--output-tensor-type": "output_type",
    "--token-embedding-type": "embedding_type",
    "--per-layer-token-embedding-type": "per_layer_embedding_type",
    "--ffn-gate-inp-type": "router_type",
}


@dataclass(frozen=True, slots=True)
class Command:
    """What a pasted command line says besides rules: its options in order, its words, and the lines it stands on."""

    options: tuple[tuple[str, str | None], ...] = ()
    file_type: FileType | None = None
    source: str | None = None
    output: str | None = None
    lines: tuple[str, ...] = ()

    def value(self, option: str) -> str | None:
        """The last value that the option was given."""
        return next((value for name, value in self.options[::-1] if name == option), None)


@dataclass(frozen=True)
class ReadRecipe:
    """A recipe out of a text: ``recipe`` to decide with (None while no TYPE is known), ``written`` to write again."""

    written: Written
    rules: tuple[Rule, ...]
    command: Command
    warnings: tuple[str, ...] = ()
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def file_type(self) -> FileType | None:
        return self.written.file_type

    def recipe(self, default: FileType | None = None) -> Recipe:
        """The recipe over its own TYPE, or that one; RecipeError where neither is there."""
        file_type = self.file_type or default
        if file_type is None:
            raise RecipeError("the recipe does not say over which TYPE it goes: give it with --type, such as Q4_K_M")
        return Recipe(file_type, self.rules, **self.fields)  # type: ignore[arg-type]


def read_recipe(text: str, origin: str, file_type: FileType | None = None) -> ReadRecipe:
    """The recipe in the text; ``file_type`` beats the one that the text names. RecipeError where there is no rule."""
    command = _command_of(text)
    if command.file_type is None and _is_file(text):
        rules, comments, command = _file(text, origin)
        warnings: tuple[str, ...] = ()
    else:
        try:
            pasted = parse_custom_q(text, origin)
        except RecipeError:
            if command.file_type is None or _mentions_rules(text):
                raise
            rules, comments, warnings = (), (), ()  # a command without rules is a recipe, too
        else:
            rules, comments = pasted.rules, pasted.comments
            odd = [line for line in pasted.ignored if line not in command.lines and not _SHELL.match(line)]
            several = [w for w in pasted.warnings if "recipes and all" in w]
            warnings = (*several, *passed_over(odd, origin))
    fields, spelled, roles, missing = _options(command, origin)
    rules, (head, *said) = (*rules, *roles), _numbered((*comments, *((),) * len(roles)))
    written = Written(
        tuple(Noted(r.pattern, r.type, c) for r, c in zip(rules, said, strict=True)),
        file_type or command.file_type,
        spelled,
        head,
        imatrix=command.value("--imatrix"),
        source=command.source,
        output=command.output,
    )
    return ReadRecipe(written, rules, command, (*warnings, *missing), fields)


def with_type(read: ReadRecipe, file_type: FileType) -> ReadRecipe:
    """The same recipe over another TYPE."""
    return replace(read, written=replace(read.written, file_type=file_type))


def _is_file(text: str) -> bool:
    """Whether every word outside of comments is a rule: then white space parts them, not commas."""
    items = [item for line in text.splitlines() for item in comment_cut(line)[0].split()]
    return bool(items) and all(_ITEM.fullmatch(item) and item[0] not in "\"'" for item in items) and (
        len(items) > 1 or "," not in re.sub(r",(?=[0-9]*\})", "", items[0])
    )  # fmt: skip


def _file(text: str, origin: str) -> tuple[tuple[Rule, ...], tuple[tuple[str, ...], ...], Command]:
    rules: list[Rule] = []
    comments: list[tuple[str, ...]] = []
    above: list[str] = []
    command = Command()
    for number, line in enumerate(text.splitlines(), 1):
        items, comment = comment_cut(line.replace("\ufeff", ""))
        if (said := _TYPE_SAID.match(comment)) is not None:
            command = replace(command, file_type=_type_or_none(said[1]))
        elif (said := _OPTIONS_SAID.match(comment)) is not None:
            options = (option.partition(":") for option in said[1].split(";"))
            command = replace(command, options=tuple((name, value or None) for name, _, value in options))
        elif comment:
            above.append(_plain(comment))
        for item in items.split():
            rules.append(parse_tensor_type(item, f"{origin} line {number}", must_hit=False))
            comments.append(tuple(above))
            above = []
    return tuple(rules), tuple(comments), command


def _plain(comment: str) -> str:
    """A comment that was written as one word in the form of a rule, without the type at its end."""
    return re.sub(r"=\w+$", "", comment) if " " not in comment else comment


def _numbered(comments: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Comments on the whole, then those of each rule: above a command they stand together, "2. q6_K: " before each."""
    if not comments or any(comments[1:]) or not any(map(_NUMBERED.match, comments[0])):
        return [(), *comments]
    found: list[list[str]] = [[] for _ in range(len(comments) + 1)]
    at = 0
    for line in comments[0]:
        begun = _NUMBERED.match(line)
        if begun is not None and int(begun[1]) <= len(comments):
            at = int(begun[1])
        found[at].append(line[begun.end() :] if begun is not None else line)
    return [tuple(lines) for lines in found]


def _mentions_rules(text: str) -> bool:
    return any(option in text for option in _RULES) or "custom=" in text


def _command_of(text: str) -> Command:
    """The last llama-quantize or `gguftool quantize` command line in the text that names a TYPE."""
    found = Command()
    for line in re.sub(r"\\\r?\n", "\0", text).splitlines():
        begun = _PROGRAM.search(line)
        if begun is None or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line[begun.end() :].replace("\0", " ").strip(" `"))
        except ValueError:
            continue
        command = _parsed(words)
        if command.file_type is not None:
            found = replace(command, lines=tuple(part.strip() for part in _with_marks(line)))
    return found


def _with_marks(line: str) -> list[str]:
    """The lines that a joined one was made of, as they stood."""
    *parts, last = line.split("\0")
    return [*(f"{part}\\" for part in parts), last]


def _parsed(words: Sequence[str]) -> Command:
    options: list[tuple[str, str | None]] = []
    plain: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            plain.append(word)
            continue
        name, equals, value = word.partition("=")
        if name in _SWITCHES:
            options.append((name, None))
        elif equals:
            options.append((name, value))
        else:
            options.append((name, rest.pop(0) if rest else ""))
    for at in (1, 2):
        if at < len(plain) and (found := _type_or_none(plain[at])) is not None:
            return Command(tuple(options), found, plain[0], plain[1] if at == 2 else None)
    return Command(tuple(options))


def _type_or_none(word: str) -> FileType | None:
    try:
        return file_type_by_name(word)
    except RecipeError:
        return None


def _options(
    command: Command, origin: str
) -> tuple[dict[str, object], tuple[str, ...], tuple[Rule, ...], tuple[str, ...]]:
    """(fields of Recipe, options to write again, rules of roles, warnings) of a command's options."""
    fields: dict[str, object] = {}
    spelled: list[str] = []
    roles: list[Rule] = []
    odd: list[str] = []
    for name, value in command.options:
        role = name.removeprefix("--").removesuffix("-type")
        if name in ("--pure", "--leave-output-tensor"):
            fields[name[2:].replace("-", "_")] = True
            spelled.append(name)
        elif name in _TYPES and value:
            fields[_TYPES[name]] = target_type(value)
            spelled.append(f"{name} {target_type(value).name}")
        elif role in ROLE_PATTERNS and value:
            roles.append(role_rule(role, value))
        elif name == "--prune-layers" and value:
            spelled.append(f"{name} {value}")
        elif name == "--tensor-type-file":
            odd.append(f"{origin}: the rules of --tensor-type-file {value} are not in this text: give that file itself")
    return fields, tuple(spelled), tuple(roles), tuple(odd)
