"""Commands in README.md and docs/, run: ``python tests/support_readme.py`` writes their real output, a test compares.

A block fenced as ``console`` holds lines ``$ command`` and what they print; one fenced as ``python`` runs as it stands,
its output following in a block fenced as ``text``. Blocks run in order, in one folder that holds a copy of examples/.
A block whose first command says ``git``, ``pip`` or ``make`` is set-up: it is shown, not run. Times, speeds and
memory differ from run to run, figures of libllama from processor to processor: they are compared as ``#``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(?:(\n?)^```text\n(.*?)^```\n)?", re.M | re.S)
NEWLINE = "\n"
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (REPO / "docs").glob("*.md")))
SETUP = ("git ", "pip ", "make ", "python3 -m venv")
VOLATILE = re.compile(r"\d+(?:\.\d+)?(?= ?(?:s\b|ms\b|min\b|[KMG]i?B/s|Mw/s|MiB of memory|threads))")
MEASURED = re.compile(r"\d+\.\d+")  # by libllama, whose kernels differ from processor to processor in the last digits


def stable(text: str) -> str:
    """The text with everything that changes from run to run replaced."""
    lines = [MEASURED.sub("#", line) if "±" in line else line for line in text.splitlines()]
    return VOLATILE.sub("#", "\n".join(" ".join(line.split()) for line in lines).strip())


def _environment(folder: Path) -> dict[str, str]:
    shim = folder / ".bin"
    shim.mkdir(exist_ok=True)
    command = shim / "gguftool"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gguftool "$@"\n')
    command.chmod(0o755)
    path = f"{shim}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "COLUMNS": "120", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "Agg"}


def _shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=_environment(folder), text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"the README's command failed ({done.returncode}): {command}\n{done.stdout}")
    return done.stdout


def _commands(body: str) -> Iterator[str]:
    """Commands of a block; one goes on after a backslash and within single quotes."""
    held = ""
    for line in body.splitlines():
        if held:
            held += "\n" + line
        elif line.startswith("$ "):
            held = line[2:]
        if held and not held.endswith("\\") and held.count("'") % 2 == 0:
            yield held
            held = ""


def run_blocks(text: str, folder: Path) -> str:
    """The README with every block's output replaced by what its commands print now, in ``folder``."""
    shutil.copytree(REPO / "examples", folder / "examples", dirs_exist_ok=True)

    def fresh(block: re.Match[str]) -> str:
        kind, body, gap, _ = block.groups()
        if kind == "python":
            (folder / ".snippet.py").write_text(body)
            printed = _shell(f'"{sys.executable}" .snippet.py', folder)
            return f"```python\n{body}```\n" + (f"{gap or NEWLINE}```text\n{printed}```\n" if printed else "")
        if body.removeprefix("$ ").startswith(SETUP):
            return block.group(0)
        shown = [f"$ {c}\n{_shell(c, folder)}" for c in _commands(body)]
        return "```console\n" + "".join(shown) + "```\n"

    return BLOCK.sub(fresh, text)


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        page = REPO / name
        with tempfile.TemporaryDirectory() as scratch:
            page.write_text(run_blocks(page.read_text(), Path(scratch)))
