"""What README.md and the pages in docs/ show is what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support_readme import PAGES, REPO, run_blocks, stable


@pytest.mark.parametrize("page", PAGES)
def test_every_command_prints_what_the_page_shows(page: str, tmp_path: Path) -> None:
    text = (REPO / page).read_text("utf-8")
    assert stable(run_blocks(text, tmp_path)) == stable(text)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    text = (REPO / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"\w+:", target):
            assert ((REPO / page).parent / target).exists(), f"{page}: {target}"
