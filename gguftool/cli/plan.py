"""``gguftool plan``: from the statistics of an importance matrix to a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguftool.cli.notices import say
from gguftool.cli.plan_prune import PRUNE_ONLY, as_json, planned, prune_options, tables
from gguftool.errors import UsageError

if TYPE_CHECKING:
    from gguftool.verbs.plan import StatisticsPlan
    from gguftool.verbs.prune_plan import PrunePlan

_BY = ("act", "entropy", "zd", "cossim", "gain", "kurtosis")
_TARGETS = ("gguftool", "llama-quantize", "ik", "file", "card")

_EPILOG = """\b
What --by ranks by, and which end is the important one (--reverse turns it around):
  act       sum of squared activations, high: where more goes in, the same error does more harm
  entropy   evenness of the channels, low: few channels carry the result
  zd        channels above one deviation, low: few that stand out, stand out far
  cossim    likeness to the layer before, low: the layer does something of its own
  gain      energy over the layer before, high: what amplifies, amplifies errors
  kurtosis  tails of the channels' energies, high: outliers want finer scales
Only tensors of one kind are compared; a share is taken of every kind. Tensors outside of blocks (output, token_embd)
keep what TYPE gives them unless --tensor-type, --kinds or --tensor names them.

\b
With --prune N layers are ranked by how much they look like the layer before (pooled cosine, gain near 1, evenness of
the channels), and the recipe is that of the model without them. An imatrix is a weak witness for this: with --model
and --file the best lists are tried on the text, and what the same bytes cost by quantizing harder stands beside.

\b
With --budget-bpw the shares are the most that a step may take: steps up go as far as the budget allows, steps down are
taken whole where there are steps up, else as far as needed. Without steps the types next to TYPE's are tried in turn.

\b
Examples:
  gguftool plan imatrix.dat q4_k_m --up 15% --to q6_k --down 20% --to q3_k
  gguftool plan imatrix.dat iq4_kss --by cossim --up 10% --to iq6_k --up 10% --to iq5_k --for card
  gguftool plan imatrix.gguf q4_k_m --model model-f16.gguf --budget-bpw 5 --for llama-quantize
  gguftool plan imatrix.gguf q4_k_m --prune 2 --model model-f16.gguf -f text.txt
"""


class _Ordered(click.Command):
    """A command whose --up and --down belong to the --to behind them; click alone loses the order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest, ctx.meta["steps"] = step_words(args)
        return super().parse_args(ctx, rest)


def step_words(args: Sequence[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """(the other words, steps as (direction, share, type)) of a command line.

    ``--up 15% --to q6_k``, ``--up=15% --to=q6_k`` and ``--up 15%:q6_k``. UsageError for one half without the other.
    """
    rest: list[str] = []
    steps: list[tuple[str, str, str]] = []
    begun: tuple[str, str] | None = None
    words = list(args)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word == "--" or name not in ("--up", "--down", "--to"):
            rest += [word, *words] if word == "--" else [word]
            if word == "--":
                break
            continue
        if not equals:
            if not words:
                raise UsageError(f"{name} needs a value, as in --up 15% --to q6_k")
            value = words.pop(0)
        if name == "--to":
            if begun is None:
                raise UsageError(f"--to {value}: before it comes what is to get that type, --up 15% or --down 20%")
            steps.append((*begun, value))
            begun = None
            continue
        if begun is not None:
            raise UsageError(f"--{begun[0]} {begun[1]}: say the type with --to before the next step")
        share, colon, type_name = value.partition(":")
        begun = (name[2:], share)
        if colon:
            steps.append((*begun, type_name))
            begun = None
    if begun is not None:
        raise UsageError(f"--{begun[0]} {begun[1]}: say the type with --to, as in --{begun[0]} {begun[1]} --to q6_k")
    return rest, steps


@click.command("plan", cls=_Ordered, epilog=_EPILOG)
@click.argument("imatrix", type=click.Path(readable=False, path_type=Path))
@click.argument("type_name", metavar="TYPE")
@click.option("--by", type=click.Choice(_BY), default="act", show_default=True, help="The figure that ranks tensors.")
@click.option("--reverse", is_flag=True, help="The other end of the figure is the important one.")
@click.option("--up", metavar="SHARE", help="The most important SHARE (15%, or a number) of each kind gets --to TYPE.")
@click.option("--down", metavar="SHARE", help="The least important SHARE of each kind gets --to TYPE.")
@click.option("--to", metavar="TYPE", help="The type of the step before; steps may be repeated.")
@click.option("--budget-bpw", type=float, metavar="X", help="Go only as far as X bits per weight; needs --model.")
@click.option("--model", type=click.Path(readable=False, path_type=Path), help="The model; only its header is read.")
@click.option("--kinds", multiple=True, metavar="K,K", help="Only these kinds, such as attn_v,ffn_down.")
@click.option("--tensor", metavar="REGEX", help="Only tensors whose names REGEX finds.")
@click.option("--tensor-type", multiple=True, metavar="REGEX=TYPE", help="Fix types by hand, before all steps.")
@prune_options
@click.option("--for", "target", type=click.Choice(_TARGETS), default="gguftool", show_default=True,
              help="Who is to read it: a command line, a file of rules, a model card's block.")  # fmt: skip
@click.option("--comments/--no-comments", default=True, help="Say for every rule which figures put it there.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it into this file.")
@click.option("--force", is_flag=True, help="Overwrite it if it exists.")
@click.option("--table", is_flag=True, help="Print the ranking as a table instead of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print ranking, rules and sizes as JSON.")
@click.pass_context
def command(
    ctx: click.Context, /, imatrix: Path, type_name: str, target: str, comments: bool, output: Path | None,
    **options: Any,
) -> None:  # fmt: skip
    """A recipe from the statistics of IMATRIX: TYPE, with the important tensors moved up and the others down."""
    from gguftool.plan.quantmap import counts_along
    from gguftool.plan.steps import parse_step
    from gguftool.verbs.plan import plan_from_statistics

    if output is not None:  # measuring can take hours
        from gguftool.format.atomic import check_output

        inputs = [p for p in (imatrix, options["model"], options["text"]) if p is not None]
        check_output(output, overwrite=options["force"], inputs=inputs)
    _check_unused(ctx, options)
    asked = {n: options[n] for n in ("by", "reverse", "budget_bpw", "model", "kinds", "tensor", "tensor_type")}
    asked["steps"] = [parse_step(*step) for step in ctx.meta["steps"]]
    pruning = None
    if options["prune"] is None:
        plan = plan_from_statistics(imatrix, type_name, **asked)
    else:
        pruning = planned(imatrix, type_name, asked, options)
        plan = pruning.pruned.plan
        if not options["as_json"]:
            click.echo(tables(pruning) + "\n", err=True)
        say(pruning.warnings, "note")
    say((*plan.warnings, *counts_along(target, plan.file_type, plan.model is not None)))
    if options["as_json"]:
        text = _json(plan, target, pruning)
    else:
        text = _table(plan) if options["table"] else plan.text(target, comments=comments)
    if output is None:
        click.echo(text, nl=False)
        return
    from gguftool.cli.recipe import write_text

    write_text(output, text, force=options["force"])
    click.echo(f"{output}: {_summary(plan, target)}")


def _check_unused(ctx: click.Context, options: dict[str, Any]) -> None:
    """UsageError for options of a pruning plan without --prune, which would do nothing."""
    if options["prune"] is not None:
        return
    for name, said in PRUNE_ONLY.items():
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(f"{said} belongs to a pruning plan: add --prune N, or leave it out")


def _summary(plan: StatisticsPlan, target: str) -> str:
    from gguftool.verbs.plan import budget_line

    rules = plan.rules(target)
    parts = [f"{len(rules)} rule{'' if len(rules) == 1 else 's'} for {len(plan.types)} tensors"]
    if plan.nbytes:
        parts.append(f"{plan.bpw:.4f} bpw ({plan.file_type.name} alone {plan.base_bpw:.4f})")
    if plan.choices.budget_bpw is not None:
        parts.append(budget_line(plan.choices))
    return ", ".join(parts)


def _table(plan: StatisticsPlan) -> str:
    from gguftool.show.tables import Column, render

    columns: list[str | Column] = [
        Column("kind"),
        Column("rank"),
        Column("layer"),
        Column(plan.choices.by, ".5g"),
        "type",
        "step",
    ]
    steps = {c.ranked.name: c for c in plan.choices.each}
    rows = []
    for r in plan.ranked:
        choice, base = steps.get(r.name), plan.known.base.get(r.name)
        kept = base.type.name if base is not None else None
        rows.append([
            r.kind, r.rank or None, r.layer, r.value, choice.type.name if choice else kept,
            choice.step if choice else None,
        ])  # fmt: skip
    return render(columns, rows) + "\n"


def _json(plan: StatisticsPlan, target: str, pruning: PrunePlan | None) -> str:
    import json

    rules = plan.rules(target)
    data = {
        "type": plan.file_type.name,
        "by": plan.choices.by,
        "bpw": plan.bpw if plan.nbytes else None,
        "base_bpw": plan.base_bpw if plan.nbytes else None,
        "budget_bpw": plan.choices.budget_bpw,
        "bytes_left": plan.choices.free,
        "fewest": plan.fewest(target),
        "rules": [{"pattern": r.pattern, "type": r.type.name, "comments": list(r.comments)} for r in rules],
        "tensors": json.loads(plan.frame().to_json(orient="records")),
        "warnings": list(plan.warnings),
    }
    if pruning is not None:
        data["pruning"] = as_json(pruning)
    return json.dumps(data, indent=2) + "\n"
