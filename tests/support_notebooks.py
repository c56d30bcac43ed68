"""The notebooks: ``python tests/support_notebooks.py`` tidies them, runs them, and draws their pictures anew.

They are stored without outputs, cells numbered in order, so that a diff shows what an author changed. Each has one cell
tagged ``picture``, whose figure goes into notebooks/pictures/.
"""

from __future__ import annotations

import base64
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

REPO = Path(__file__).resolve().parents[1]
FOLDER = REPO / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURE = "picture"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cleaned(notebook: Any, name: str) -> Any:
    """The notebook as it is stored: no outputs, no counts, no trace of who ran it; cells numbered."""
    fresh = copy.deepcopy(notebook)
    fresh.nbformat, fresh.nbformat_minor, fresh.metadata = 4, 5, nbformat.from_dict(_METADATA)
    for number, cell in enumerate(fresh.cells, 1):
        tags = cell.metadata.get("tags")
        cell.id, cell.metadata = f"{name[:2]}-{number:02}", nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return fresh


def text_of(notebook: Any) -> str:
    """The file's text."""
    written: str = nbformat.writes(notebook)
    return written.rstrip("\n") + "\n"


def read(path: Path) -> Any:
    """The notebook of a file, with no repair of what is wrong in it."""
    return nbformat.reads(path.read_text("utf-8"), as_version=nbformat.NO_CONVERT)


def executed(path: Path, timeout: int = 600) -> Any:
    """The notebook run from its first cell in its own folder, outputs in place; an error of a cell is raised."""
    from nbclient import NotebookClient

    notebook = read(path)
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    return notebook


def images(cell: Any) -> Iterator[bytes]:
    """The PNGs that a cell shows."""
    for output in cell.get("outputs", ()):
        if "image/png" in output.get("data", {}):
            yield base64.b64decode(output["data"]["image/png"])


def picture_of(notebook: Any) -> bytes:
    """The one figure of the cell tagged ``picture``."""
    (cell,) = (cell for cell in notebook.cells if PICTURE in cell.metadata.get("tags", ()))
    (image,) = images(cell)
    return image


def main() -> None:
    for path in NOTEBOOKS:
        path.write_text(text_of(cleaned(read(path), path.stem)), "utf-8")
        picture = FOLDER / "pictures" / f"{path.stem}.png"
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(picture_of(executed(path)))
        print(f"{picture.relative_to(REPO)}: {picture.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
