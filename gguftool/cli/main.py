"""The command ``gguftool``: finds the subcommand, imports only that, and turns trouble into one line on stderr.

Exit status: 0 done, 1 trouble with data or environment, 2 misuse. A bug shows its traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from gguftool.errors import GGUFToolError, PlanError

#: Name: (module whose ``command`` it is, the line that ``--help`` shows for it).
COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("gguftool.cli.info", "Show what a model file holds: metadata, tensors, bytes per type."),
    "types": ("gguftool.cli.types", "List the tensor types: size, readers, what we can do with them."),
    "stats": ("gguftool.cli.stats", "Show the statistics of an importance matrix."),
    "imatrix": ("gguftool.cli.imatrix", "Convert, merge, compare, check and repair importance matrices."),
    "report": ("gguftool.cli.report", "Write a page about an importance matrix that works offline."),
    "plan": ("gguftool.cli.plan", "Make a recipe from the statistics of an importance matrix."),
    "recipe": ("gguftool.cli.recipe", "Show, check, convert and extract recipes."),
    "quantize": ("gguftool.cli.quantize", "Write a model with other tensor types, and fewer layers if asked."),
    "copy": ("gguftool.cli.copy", "Copy a model: join shards, prune layers, change metadata."),
    "verify": ("gguftool.cli.verify", "Check that model files are whole and that all of it decodes."),
    "calibration": ("gguftool.cli.calibration", "Mix texts for collecting an importance matrix."),
    "kld": ("gguftool.cli.kld", "Measure perplexity and KL divergence of models on a text."),
}


class Commands(click.Group):
    """A group whose members are imported when they are called, not when they are listed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{name}': {hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:
        """Runs the command line and exits with its status; the same for the console and for tests that invoke us.

        Misuse is one line as well, so click does not tell of it in its own way.
        """
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            with terminable():
                status = super().main(args, *rest, **{**more, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as trouble:
            click.echo(trouble.format_message(), err=True)
            sys.exit(trouble.exit_code)
        except click.UsageError as trouble:
            _complain(_misuse(trouble))
            sys.exit(trouble.exit_code)
        except click.Abort:
            _complain("stopped")
            sys.exit(1)
        except GGUFToolError as trouble:
            for line in trouble.problems if isinstance(trouble, PlanError) else [str(trouble)]:
                _complain(line)
            sys.exit(trouble.exit_code)
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as trouble:
            where = f"{trouble.filename}: " if trouble.filename is not None else ""
            _complain(f"{where}{trouble.strerror or trouble}")
            sys.exit(1)
        if more.get("standalone_mode", True):
            sys.exit(status if isinstance(status, int) else 0)
        return status


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a command as Ctrl-C does: journal written, temporary files removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    taken = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup, say, has set another
                taken[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread: whoever runs us there has its own way
        pass
    try:
        yield
    finally:
        for number, before in taken.items():
            signal.signal(number, before)


def _misuse(trouble: click.UsageError) -> str:
    """One line for what click says in several."""
    command = trouble.ctx.command_path if trouble.ctx is not None else "gguftool"
    message = " ".join(trouble.format_message().split()).rstrip(".")
    return f"{message}{'' if message.endswith('?') else ':'} `{command} --help` says more"


def _complain(line: str) -> None:
    from gguftool.show.tables import printable

    click.echo(f"gguftool: {printable(line)}", err=True)


def _version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        import gguftool

        click.echo(f"gguftool {gguftool.__version__}")
        ctx.exit()


@click.group("gguftool", cls=Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
def cli() -> None:
    """Quantize, prune, measure and repack GGUF models."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line of this process, or the one given; leaves by SystemExit."""
    cli.main(args, prog_name="gguftool")


if __name__ == "__main__":
    main()
