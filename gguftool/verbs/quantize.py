"""The main job: a model written again with other types, fewer layers, other metadata.

``quantize`` is the library's face of it; ``verbs.rewrite`` does the work for it and for the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.decide import Recipe
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.grammar import Rule, parse_custom_q, parse_tensor_type, parse_tensor_type_file
from gguftool.run.execute import MAX_BUFFER
from gguftool.run.pool import Progress
from gguftool.verbs.rewrite import Request, Result, prepare


def quantize(
    src: str | Path,
    dst: str | Path | None,
    type: str | int,
    *,
    imatrix: str | Path | None = None,
    tensor_type: Sequence[str | Rule] = (),
    tensor_type_file: str | Path | None = None,
    custom_q: str | None = None,
    prune_layers: Collection[int] = (),
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | QuantType | None = None,
    token_embedding_type: str | QuantType | None = None,
    include_weights: Sequence[str] = (),
    exclude_weights: Sequence[str] = (),
    override_kv: Sequence[str] = (),
    allow_requantize: bool = False,
    no_fallback: bool = False,
    strict_rules: bool = False,
    match_names: str = "output",
    compat: str | None = None,
    keep_split: bool = False,
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
    ``progress`` is called from this thread after every task.

    Nothing is written before everything was checked: PlanError lists all problems, RecipeError and UsageError say
    which argument means nothing. An interrupted call leaves ``<dst>.part`` and a journal; the same call goes on.
    """
    request = Request(
        src=Path(src),
        dst=None if dst is None else Path(dst),
        recipe=recipe_of(
            file_type_by_name(str(type)),
            gathered_rules(tensor_type, tensor_type_file, custom_q, strict=strict_rules),
            pure=pure,
            leave_output_tensor=leave_output_tensor,
            output_tensor_type=output_tensor_type,
            token_embedding_type=token_embedding_type,
            match_names=match_names,
            compat=compat,
        ),
        imatrix=None if imatrix is None else Path(imatrix),
        include_weights=tuple(include_weights),
        exclude_weights=tuple(exclude_weights),
        prune_layers=tuple(sorted(set(prune_layers))),
        overrides=tuple(override_kv),
        keep_split=keep_split,
        allow_requantize=allow_requantize,
        no_fallback=no_fallback,
        force=force,
        threads=threads,
        max_buffer=max_buffer_size,
        objective=objective,
        effort=effort,
        report=None if report is None else Path(report),
        restart=restart,
        sync=sync,
    )
    with prepare(request) as prepared:
        return prepared.run(progress)
