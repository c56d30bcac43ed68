"""Lines beside the result: warnings and notes, on stderr."""

from __future__ import annotations

from collections.abc import Iterable

import click


def say(lines: Iterable[str], what: str = "warning", *, file: object = None) -> None:
    """Each line to stderr, harmless to a terminal whatever names are in it: ``gguftool: warning: FILE: line``."""
    from gguftool.show.tables import printable

    where = "" if file is None else f"{file}: "
    for line in lines:
        click.echo(printable(f"gguftool: {what}: {where}{line}"), err=True)
