"""The command ``gguftool``: finds the subcommand, and turns trouble into one line and an exit code.

Subcommands are modules that are imported only when they run, so ``--help`` costs click and nothing else.
Exit codes: 0 done, and --help; 1 data or environment; 2 misuse. A bug shows its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import sys

import click

from gguftool.errors import GGUFToolError

#: command -> (module of this package that defines ``command``, one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("info", "What a GGUF file holds: metadata, tensors, bytes per type, bits per weight."),
    "types": ("types", "Every tensor type: size, who reads it, whether it needs an importance matrix."),
    "stats": ("stats", "Statistics of an importance matrix, per tensor and per layer."),
    "quantize": ("quantize", "Write a quantized model: mixtures, recipes, pruned layers."),
    "copy": ("copy", "Copy a model, with fewer layers or other metadata if asked."),
    "kld": ("kld", "Perplexity, and KL divergence from a base model (needs llama-cpp-python)."),
    "verify": ("verify", "Check a model's structure and decode every tensor."),
}


class _Commands(click.Group):
    """A group whose commands are modules, imported when one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found = importlib.import_module(f"gguftool.cli.{COMMANDS[name][0]}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "`gguftool --help` lists the commands"
            raise click.UsageError(f"there is no command '{name}': {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"gguftool {version('gguftool')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Read, quantize, prune and measure GGUF models."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; leaves by SystemExit."""
    try:
        cli.main(args, prog_name="gguftool")
    except GGUFToolError as error:
        print(f"gguftool: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: not worth a word
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"gguftool: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
