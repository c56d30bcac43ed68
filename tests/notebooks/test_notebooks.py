"""The notebooks run from top to bottom, show their charts, and are stored as an author wants to read them in a diff."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from support_notebooks import FOLDER, NOTEBOOKS, REPO, cleaned, executed, images, picture_of, read, text_of

#: Charts that each shows; those that need a running model are the second number.
CHARTS = {"01_layer_importance": (7, 0), "02_compare_calibrations": (3, 1), "03_from_importance_to_recipe": (2, 2)}
PNG = b"\x89PNG\r\n\x1a\n"

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_these_are_the_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(CHARTS)


@each
def test_runs_without_an_error_and_shows_its_charts(path: Path) -> None:
    pytest.importorskip("nbclient")
    before = path.read_bytes()
    notebook = executed(path)
    drawn = [image for cell in notebook.cells for image in images(cell)]
    plain, measured = CHARTS[path.stem]
    assert len(drawn) == plain + (measured if importlib.util.find_spec("llama_cpp") else 0)
    assert all(image.startswith(PNG) and len(image) > 5_000 for image in drawn)
    assert picture_of(notebook) in drawn
    said = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()) if o.get("name") == "stderr")
    assert not said
    assert path.read_bytes() == before


@each
def test_is_stored_without_outputs_and_with_numbered_cells(path: Path) -> None:
    stored = path.read_text("utf-8")
    assert stored == text_of(cleaned(read(path), path.stem)), "python tests/support_notebooks.py tidies it"
    assert not re.search(r'["\'(](/|~|[A-Z]:\\)[\w./-]+', stored), "an absolute path"
    cells = json.loads(stored)["cells"]
    assert [cell["id"] for cell in cells] == [f"{path.stem[:2]}-{n:02}" for n in range(1, len(cells) + 1)]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len(cells) - len(code) >= len(code) / 2, "charts without prose"


@each
def test_names_files_that_are_there(path: Path) -> None:
    for cell in read(path).cells:
        for link in re.findall(r"\]\(([^)#]+)\)", cell.source) if cell.cell_type == "markdown" else ():
            assert (FOLDER / link).is_file(), link
        for page in re.findall(r"\bdocs/\w+\.md", cell.source):
            assert (REPO / page).is_file(), page


@each
def test_has_a_picture_for_the_readme(path: Path) -> None:
    picture = (FOLDER / "pictures" / f"{path.stem}.png").read_bytes()
    assert picture.startswith(PNG) and 10_000 < len(picture) < 150_000
