"""``gguftool recipe``: recipes shown, tried on a model, translated, and taken back out of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguftool.cli.notices import say

if TYPE_CHECKING:
    from gguftool.recipe.reading import ReadRecipe
    from gguftool.verbs.recipe import RecipeReport

_TARGETS = ("gguftool", "llama-quantize", "ik", "file", "card")
_MIB = 1 << 20

_RECIPE = click.argument("recipe", metavar="RECIPE")
_TYPE = click.option("--type", "type_name", metavar="TYPE", help="The TYPE under the rules, if not RECIPE's.")
_FORMAT = click.option("--format", "style", type=click.Choice(["table", "json", "markdown"]), default="table")
_FOR = click.option("--for", "target", type=click.Choice(_TARGETS), default="gguftool", show_default=True,
                    help="Who is to read it: a command line, a file of rules, a model card's block.")  # fmt: skip
_OUTPUT = click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write into this file.")
_FORCE = click.option("--force", is_flag=True, help="Overwrite the file if it exists.")


@click.group("recipe")
def command() -> None:
    """Show, check, convert and extract recipes.

    RECIPE is a file with rules in any form (a tensor-type file, a command line, ik_llama.cpp's string, a model card, or
    the whole page), - for standard input, or the rules themselves.
    """


@command.command("show")
@_RECIPE
@click.option("--model", type=click.Path(readable=False, path_type=Path), help="Try it on this model (header only).")
@_TYPE
@_FORMAT
def show(recipe: str, model: Path | None, type_name: str | None, style: str) -> None:
    """The rules of RECIPE in their order, and with --model what each of them hits and how large the result is."""
    from gguftool.verbs.recipe import recipe_report

    report = recipe_report(_read(recipe, type_name), model)
    _print(report, style)
    say(report.problems, "problem")


@command.command("check")
@_RECIPE
@click.argument("model", type=click.Path(readable=False, path_type=Path))
@click.option("--imatrix", type=click.Path(readable=False, path_type=Path), help="The importance matrix to be used.")
@_TYPE
@_FORMAT
@click.pass_context
def check(
    ctx: click.Context, recipe: str, model: Path, imatrix: Path | None, type_name: str | None, style: str
) -> None:
    """Try RECIPE on MODEL, of which only the header is read; exit 1 where something is wrong.

    Wrong are rules that hit nothing, that can change nothing or that others leave nothing to, types that do not fill a
    tensor's rows, types that need importances that are not there, and whatever else would keep MODEL from being made.
    """
    from gguftool.verbs.recipe import recipe_report

    report = recipe_report(_read(recipe, type_name), model, imatrix=imatrix)
    _print(report, style)
    say(report.problems, "problem")
    if not report.problems:
        click.echo("no problems", err=True)
    ctx.exit(1 if report.problems else 0)


@command.command("convert")
@_RECIPE
@_FOR
@_TYPE
@click.option("--compat", type=click.Choice(["mainline"]), help="llama.cpp's nearest type for each of ik_llama.cpp's.")
@click.option("--model", type=click.Path(readable=False, path_type=Path),
              help="Write the rules anew: the fewest that give this model's tensors the same types.")  # fmt: skip
@_OUTPUT
@_FORCE
def convert(
    recipe: str, target: str, type_name: str | None, compat: str | None, model: Path | None, output: Path | None,
    force: bool,
) -> None:  # fmt: skip
    """Write RECIPE in another form, its comments with it."""
    from gguftool.plan.quantmap import counts_along
    from gguftool.verbs.recipe import convert_recipe

    read = _read(recipe, type_name)
    text = convert_recipe(read, target, compat=compat, model=model)
    say((*read.warnings, *counts_along(target, read.file_type, model is not None)))
    _put(text, output, force=force, inputs=(model,) if model is not None else ())


@command.command("extract")
@click.argument("model", type=click.Path(readable=False, path_type=Path))
@_FOR
@click.option("--type", "type_name", metavar="TYPE", help="The TYPE to explain it by, instead of the best of all.")
@_OUTPUT
@_FORCE
def extract(model: Path, target: str, type_name: str | None, output: Path | None, force: bool) -> None:
    """The recipe that MODEL was made with: the TYPE that explains most, and the fewest rules for the rest."""
    from gguftool.verbs.recipe import extract_recipe, extracted_text

    _put(extracted_text(extract_recipe(model, type_name), target, model), output, force=force, inputs=(model,))


def write_text(path: Path, text: str, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Writes the text into the file, whole or not at all; over an existing one only with ``force``, never an input."""
    from gguftool.format.atomic import atomic_output, check_output

    check_output(path, overwrite=force, inputs=inputs)
    with atomic_output(path, overwrite=force) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def _put(text: str, output: Path | None, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text, force=force, inputs=inputs)
        click.echo(f"{output}: written")


def _read(recipe: str, type_name: str | None) -> ReadRecipe:
    from gguftool.verbs.recipe import open_recipe

    if recipe == "-":
        text = sys.stdin.buffer.read(1 << 21).decode("utf-8-sig", "surrogateescape")
        return open_recipe("standard input", type_name, text=text)
    return open_recipe(recipe, type_name)


def _print(report: RecipeReport, style: str) -> None:
    from gguftool.show.tables import Column, render

    say(report.warnings)
    tried = bool(report.n_elements)
    columns: list[str | Column] = ["#", Column("pattern"), "type"]
    numbers: list[str | Column] = ["matched", "decided", Column("tensors that it decides", key="where")]
    rows: list[list[Any]] = []
    for number, use in enumerate(report.rules, 1):
        row: list[Any] = [number, use.pattern, use.type.name]
        rows.append([*row, use.matched, use.decided, use.where or None] if tried else [*row, " / ".join(use.comments)])
    if tried:
        columns += numbers
    else:
        columns.append("comment")
    sizes = [[s.type.name, s.n_tensors, s.n_elements, s.nbytes / _MIB, s.bpw] for s in report.types]
    size_columns: list[str | Column] = [
        "type",
        Column("tensors"),
        Column("weights", ","),
        Column("MiB", ".2f"),
        Column("bpw", ".4f"),
    ]
    if style == "json":
        click.echo(_json(report, render(columns, rows, "json"), render(size_columns, sizes, "json")))
        return
    options = f" {' '.join(report.read.written.options)}" if report.read.written.options else ""
    base = report.file_type.name if report.file_type is not None else "a TYPE that it does not name"
    click.echo(f"{len(rows)} rule{'' if len(rows) == 1 else 's'} over {base}{options}")
    if rows:
        click.echo()
        click.echo(render(columns, rows, style))
    if tried:
        click.echo()
        click.echo(render(size_columns, sizes, style))
        click.echo(f"{report.nbytes / _MIB:.2f} MiB of tensors, {report.bpw:.4f} bpw")


def _json(report: RecipeReport, rules: str, types: str) -> str:
    import json

    data = {
        "type": report.file_type.name if report.file_type is not None else None,
        "options": list(report.read.written.options),
        "rules": json.loads(rules),
        "types": json.loads(types),
        "nbytes": report.nbytes or None,
        "bpw": report.bpw or None,
        "warnings": list(report.warnings),
        "problems": list(report.problems),
    }
    return json.dumps(data, indent=2)
