"""What the README shows is what the commands print."""

from __future__ import annotations

from pathlib import Path

from support_readme import REPO, run_blocks, stable


def test_every_command_prints_what_the_readme_shows(tmp_path: Path) -> None:
    text = (REPO / "README.md").read_text()
    assert stable(run_blocks(text, tmp_path)) == stable(text)
