"""``gguftool quantize``: llama-quantize's command line, word for word, and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gguftool.cli.words import Words, order_of, parse_bytes, parse_threads, parse_words, prune_switches

Command = TypeVar("Command", bound=Callable[..., Any])

_RULE_OPTIONS = ("--tensor-type", "--tensor-type-file", "--custom-q")

_EPILOG = """\b
TYPE is a name such as Q4_K_M, IQ4_KSS, F16 or COPY, in any case, or its number. `gguftool types` lists tensor types.

\b
Differences from llama-quantize:
  Options may stand anywhere; numbers must be whole words; exit 1 is data or environment, 2 misuse.
  Everything is checked before a byte is written; an existing output needs --force.
  The output grows as OUTPUT.part and is renamed when complete; the same command resumes an interrupted run.
  The mixture is computed for every tensor, then rules override it, and pruned layers do not count;
    --compat upstream lets rules shift the mixture's counters and lower-cases patterns, as upstream does.
  ik_llama.cpp's TYPEs and types are known too; llama.cpp does not read them: --compat mainline replaces them.
  Types do not depend on --keep-split. Rules hold under F16, BF16 and F32 too.
  A type that does not fit a row falls back, in the end to F16, and says so; --no-fallback forbids it.
  A --tensor-type rule that hits nothing is an error, one from a file or a pasted recipe a warning.
  --prune-layers takes ranges, moves per-layer metadata along, and refuses what would not run right.
  All imatrix datasets are recorded, stale imatrix keys removed; the file's own alignment is kept.
  Integer tensors are copied, four-dimensional ones refused where their type would change.
  Importances are checked whole: negative or non-finite ones are refused, blocks without any are fitted evenly.
"""


class _Ordered(click.Command):
    """A command that remembers in which order its rule options came, and lets NTHREADS be negative."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["rule_order"] = order_of(args, _RULE_OPTIONS)
        if args and args[-1][:1] == "-" and args[-1][1:].isdigit():
            args = [*args[:-1], "0"]
        return super().parse_args(ctx, args)


def _path(name: str, help: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(name, type=click.Path(readable=False, path_type=Path), help=help, **more)


def _many(name: str, metavar: str, help: str) -> Callable[[Command], Command]:
    return click.option(name, multiple=True, metavar=metavar, help=help)


@click.command("quantize", cls=_Ordered, epilog=_EPILOG)
@click.argument("words", nargs=-1, metavar="INPUT [OUTPUT] TYPE [NTHREADS]")
@click.option("--allow-requantize", is_flag=True, help="Permit sources that are quantized already.")
@click.option("--leave-output-tensor", is_flag=True, help="output.weight keeps its type.")
@click.option("--pure", is_flag=True, help="No mixture: every tensor gets the base type of TYPE.")
@_path("--imatrix", "Importance matrix, .dat or .gguf.")
@_many("--include-weights", "TEXT", "Use only imatrix entries whose name contains TEXT.")
@_many("--exclude-weights", "TEXT", "Leave out imatrix entries whose name contains TEXT.")
@click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight.")
@click.option("--token-embedding-type", metavar="TYPE", help="Type of the token embeddings.")
@_many("--tensor-type", "REGEX=TYPE", "Type of the tensors that REGEX finds; the first match wins.")
@_path("--tensor-type-file", "File of such rules; # begins a comment.", multiple=True)
@_many("--custom-q", "RULES", "ik_llama.cpp's R1=T1,R2=T2 form, or a model card's whole block.")
@click.option("--prune-layers", metavar="L,L-L", help="Layers to leave out: 3,7 or 10-14.")
@click.option(
    "--allow-layer-arrays",
    is_flag=True,
    help="Pruning: write a per-layer array where no period fits; older programs then run the wrong layers.",
)
@click.option("--allow-unknown-arrays", is_flag=True, help="Pruning: cut unknown arrays of one entry per layer too.")
@click.option("--prune-nextn", is_flag=True, help="Pruning: next-token layers may go.")
@click.option("--keep-split", is_flag=True, help="Keep the shards of the input.")
@click.option("--unpack", is_flag=True, help="With TYPE COPY: take the interleaved rows of _R4 types apart.")
@_many("--override-kv", "KEY=TYPE:VALUE", "Set metadata; TYPE is int, float, bool or str.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; reads headers only.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
@click.option("--restart", is_flag=True, help="Give up an unfinished output and start anew.")
@click.option("--effort", type=click.Choice(["fast", "default", "best"]), default="default", show_default=True)
@click.option(
    "--objective", type=click.Choice(["imatrix", "ref", "mse", "unbiased"]), help="The error that the search minimises."
)
@click.option("--threads", metavar="N", help="Threads; all cores by default.")
@click.option("--max-buffer-size", default="256M", show_default=True, metavar="SIZE", help="Memory for rows in flight.")
@click.option("--no-fallback", is_flag=True, help="Refuse types that do not fit instead of replacing them.")
@click.option("--strict-rules", is_flag=True, help="Every rule must hit something, pasted ones too.")
@click.option("--match-names", type=click.Choice(["output", "source"]), default="output", show_default=True,
              help="Which names rules are put to when layers are pruned.")  # fmt: skip
@click.option("--compat", type=click.Choice(["upstream", "mainline"]),
              help="upstream: counters and lower-case patterns as upstream. mainline: a file for llama.cpp; types of "
              "ik_llama.cpp become the nearest of its own.")  # fmt: skip
@_path("--report", "CSV with type, bytes, weighted MSE and SQNR per tensor.")
@click.option("--no-sync", is_flag=True, help="Do not wait until the disk has the last bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the dry run, as JSON.")
@click.pass_context
def command(ctx: click.Context, /, words: tuple[str, ...], **options: Any) -> None:
    """Write a GGUF with other types, fewer layers or other metadata.

    OUTPUT is ggml-model-TYPE.gguf beside INPUT when it is left out.
    """
    from gguftool.cli.running import describe, run

    prepared = _prepared(parse_words(words), options, ctx.meta["rule_order"])
    with prepared:
        if options["dry_run"]:
            describe(prepared, as_json=options["as_json"])
        else:
            run(prepared, as_json=options["as_json"])


def _prepared(words: Words, options: dict[str, Any], order: list[str]) -> Any:
    from gguftool.plan.layers import parse_layers
    from gguftool.verbs.quantize import recipe_of, rules_of
    from gguftool.verbs.rewrite import Request, prepare

    rules, remarks = rules_of(_in_order(options, order))
    recipe = recipe_of(
        words.file_type,
        rules,
        strict_rules=options["strict_rules"],
        pure=options["pure"],
        leave_output_tensor=options["leave_output_tensor"],
        output_tensor_type=options["output_tensor_type"],
        token_embedding_type=options["token_embedding_type"],
        match_names=options["match_names"],
        compat=options["compat"],
        fallback=not options["no_fallback"],
    )
    threads = parse_threads(options["threads"]) if options["threads"] else words.threads
    return prepare(
        Request(
            src=words.src,
            dst=words.dst,
            recipe=recipe,
            imatrix=options["imatrix"],
            include_weights=options["include_weights"],
            exclude_weights=options["exclude_weights"],
            prune_layers=parse_layers(options["prune_layers"]) if options["prune_layers"] is not None else (),
            prune_allowed=prune_switches(options),
            overrides=options["override_kv"],
            keep_split=options["keep_split"],
            unpack=options["unpack"],
            allow_requantize=options["allow_requantize"],
            force=options["force"],
            threads=threads,
            max_buffer=parse_bytes(options["max_buffer_size"]),
            objective=options["objective"],
            effort=options["effort"],
            report=options["report"],
            restart=options["restart"],
            sync=not options["no_sync"],
            remarks=remarks,
            rule_files=options["tensor_type_file"],
        )
    )


def _in_order(options: dict[str, Any], order: list[str]) -> list[tuple[str, Any]]:
    """(option, value) of all rules as they stand on the command line: click keeps the order within an option only."""
    values = {name: iter(options[name[2:].replace("-", "_")]) for name in _RULE_OPTIONS}
    return [(name, value) for name in order if (value := next(values[name], None)) is not None]
