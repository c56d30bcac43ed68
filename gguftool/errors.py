"""The error family. One line each: what is wrong, where, and the way out.

The library raises these and nothing else for trouble that a user can cause or meet; the command line turns
them into one line on stderr. ``exit_code`` says which exit status that is: 1 for data or environment, 2 for misuse.
"""

from __future__ import annotations

from collections.abc import Sequence


class GGUFToolError(Exception):
    """Trouble that a user can act on; the text is complete without a traceback."""

    exit_code = 1


class FormatError(GGUFToolError):
    """A file is not what its format demands: ``path``, ``offset`` in bytes (None if it has no place), reason."""

    def __init__(self, path: object, reason: str, offset: int | None = None) -> None:
        self.path = str(path)
        self.offset = offset
        self.reason = reason
        where = self.path if offset is None else f"{self.path}: at byte {offset}"
        super().__init__(f"{where}: {reason}")


class ShortenedError(FormatError):
    """Tensors lost their ends to a program that does not count what some types store at the head of every row.

    ``details`` has a line for each tensor, with its name and place.
    """

    def __init__(self, path: object, details: Sequence[str]) -> None:
        self.details = tuple(details)
        more = len(details) - 1
        others = f", {more} more have lost theirs (`gguftool verify` lists them)" if more else ""
        super().__init__(
            path,
            f"{details[0]}{others}: a program that does not count the heads of rows cut them off, and nothing brings "
            "them back: get or make the file anew",
        )


class ImatrixError(FormatError):
    """An importance matrix is malformed, or holds values that cannot be importances."""


class UnknownTypeError(GGUFToolError):
    """A tensor type name or id that no table knows, or that cannot do what was asked of it."""


class CodecError(GGUFToolError):
    """Rows cannot be encoded or decoded: NaN or Inf in them, a width that does not fit, a missing kernel."""


class RecipeError(GGUFToolError):
    """A rule, a TYPE name or an option of a recipe cannot be understood."""

    exit_code = 2


class UsageError(GGUFToolError):
    """The request itself makes no sense, whatever the files hold."""

    exit_code = 2


class PlanError(GGUFToolError):
    """A plan cannot be carried out; ``problems`` lists every reason found, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class JournalError(GGUFToolError):
    """An unfinished output belongs to another plan, or another process is writing it."""
