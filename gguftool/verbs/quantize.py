"""The main job: a model written again with other types, fewer layers, other metadata.

``quantize`` is the library's face of it; ``verbs.rewrite`` does the work for it and for the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from gguftool.errors import RecipeError, UsageError
from gguftool.format.quanttypes import QuantType
from gguftool.recipe.decide import Recipe
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.grammar import Rule, parse_custom_q, parse_tensor_type, parse_tensor_type_file
from gguftool.recipe.rules import target_type
from gguftool.run.execute import MAX_BUFFER
from gguftool.run.pool import Progress
from gguftool.verbs.rewrite import Request, Result, layers_of, prepare, texts_of

#: Above this a file of rules is something else: a model given by mistake.
_RULE_FILE_BYTES = 1 << 24
#: What ``compat`` may be: count and spell as llama-quantize does, or write what llama.cpp reads.
COMPAT = ("upstream", "mainline")


def quantize(
    src: str | Path,
    dst: str | Path | None,
    type: str | int,
    *,
    imatrix: str | Path | None = None,
    tensor_type: str | Sequence[str | Rule] = (),
    tensor_type_file: str | Path | None = None,
    custom_q: str | None = None,
    prune_layers: str | Collection[int] = (),
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | QuantType | None = None,
    token_embedding_type: str | QuantType | None = None,
    include_weights: str | Sequence[str] = (),
    exclude_weights: str | Sequence[str] = (),
    override_kv: str | Sequence[str] = (),
    allow_requantize: bool = False,
    no_fallback: bool = False,
    strict_rules: bool = False,
    match_names: str = "output",
    compat: str | None = None,
    keep_split: bool = False,
    unpack: bool = False,
    force: bool = False,
    restart: bool = False,
    threads: int | None = None,
    max_buffer_size: int = MAX_BUFFER,
    objective: str | None = None,
    effort: str = "default",
    report: str | Path | None = None,
    sync: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """What was written: path, bytes, bits per weight, one row per tensor (with errors if ``report`` names a CSV file).

    ``type`` is a TYPE of llama-quantize or ik_llama.cpp ("q4_k_m", "IQ4_KSS", "copy" or a number), ``dst`` None its
    default output name. ``tensor_type`` holds "REGEX=type" rules, first match wins, then those of
    ``tensor_type_file`` and of ``custom_q`` (also a model card's whole block). ``threads`` None means all cores.
    ``compat`` "upstream" counts and spells rules as llama-quantize does; "mainline" gives llama.cpp's nearest type for
    each of ik_llama.cpp's, and ``Result.replaced`` says what that costs. ``unpack``, with "copy", takes interleaved
    rows apart. ``progress`` is called from this thread after every task.

    Nothing is written before everything was checked: PlanError lists all problems, RecipeError and UsageError say
    which argument means nothing. An interrupted call leaves ``<dst>.part`` and a journal; the same call goes on.
    """
    spelled: list[tuple[str, str | Path | Rule]] = [
        ("--tensor-type", rule) for rule in ([tensor_type] if isinstance(tensor_type, str) else tensor_type)
    ]
    spelled += [("--tensor-type-file", path) for path in (tensor_type_file,) if path is not None]
    spelled += [("--custom-q", text) for text in (custom_q,) if text is not None]
    rules, remarks = rules_of(spelled)
    request = Request(
        src=Path(src),
        dst=None if dst is None else Path(dst),
        recipe=recipe_of(
            file_type_by_name(str(type)),
            rules,
            strict_rules=strict_rules,
            pure=pure,
            leave_output_tensor=leave_output_tensor,
            output_tensor_type=output_tensor_type,
            token_embedding_type=token_embedding_type,
            match_names=match_names,
            compat=compat,
            fallback=not no_fallback,
        ),
        imatrix=None if imatrix is None else Path(imatrix),
        include_weights=texts_of(include_weights),
        exclude_weights=texts_of(exclude_weights),
        prune_layers=layers_of(prune_layers),
        overrides=texts_of(override_kv),
        keep_split=keep_split,
        unpack=unpack,
        allow_requantize=allow_requantize,
        force=force,
        threads=threads,
        max_buffer=max_buffer_size,
        objective=objective,
        effort=effort,
        report=None if report is None else Path(report),
        restart=restart,
        sync=sync,
        remarks=remarks,
        rule_files=() if tensor_type_file is None else (Path(tensor_type_file),),
    )
    with prepare(request) as prepared:
        return prepared.run(progress)


def recipe_of(
    file_type: FileType,
    rules: Sequence[Rule],
    *,
    output_tensor_type: str | QuantType | None,
    token_embedding_type: str | QuantType | None,
    compat: str | None,
    **switches: Any,
) -> Recipe:
    """The recipe that those options spell; ``switches`` are fields of ``Recipe``. RecipeError for unknown types."""
    if compat not in (None, *COMPAT):
        raise UsageError(f"compat='{compat}': choose {' or '.join(map(repr, COMPAT))}")
    if switches.get("match_names", "output") not in ("output", "source"):
        raise UsageError(f"match_names='{switches['match_names']}': choose 'output' or 'source'")
    return Recipe(
        file_type,
        tuple(rules),
        output_type=_target(output_tensor_type),
        embedding_type=_target(token_embedding_type),
        compat=compat == "upstream",
        mainline=compat == "mainline",
        **switches,
    )


def _target(word: str | QuantType | None) -> QuantType | None:
    return target_type(word) if isinstance(word, str) else word


def rules_of(spelled: Sequence[tuple[str, str | Path | Rule]]) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules of (option, value) pairs in their order, and remarks on pasted text.

    Options are --tensor-type, --tensor-type-file (a path) and --custom-q. RecipeError for what is no rule,
    OSError for a file that cannot be read.
    """
    rules: list[Rule] = []
    remarks: list[str] = []
    for option, value in spelled:
        if isinstance(value, Rule):
            rules.append(value)
        elif option == "--tensor-type":
            rules.append(parse_tensor_type(str(value)))
        elif option == "--tensor-type-file":
            rules += parse_tensor_type_file(_text_of(Path(value)), f"{option} {value}")
        else:
            pasted = parse_custom_q(str(value))
            rules += pasted.rules
            remarks += pasted.warnings
    return tuple(rules), tuple(remarks)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_RULE_FILE_BYTES + 1)
    except OSError as trouble:
        raise OSError(trouble.errno, trouble.strerror, str(path)) from None
    if len(data) > _RULE_FILE_BYTES or b"\0" in data:
        raise RecipeError(f"{path}: this is no text file with rules PATTERN=TYPE")
    return data.decode("utf-8-sig", errors="surrogateescape")
