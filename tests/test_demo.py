"""What ``make demo`` runs: all of it, and what is left of it where nothing can be measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO


def demo(folder: Path, python: str) -> str:
    """What demo.sh prints, with the command and a ``python`` of our choice first in PATH; it must succeed."""
    shims = {"gguftool": f'exec "{sys.executable}" -m gguftool "$@"', "python": python}
    for name, line in shims.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "examples/demo.sh", str(folder / "out")], cwd=REPO, env=os.environ | {"PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def test_the_plan_is_nearer_to_the_original_than_the_stock_mixture_in_no_more_bytes(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("jinja2")
    printed = demo(tmp_path, f'exec "{sys.executable}" "$@"')
    out = tmp_path / "out"
    planned, stock = out / "planned-q4_k_s.gguf", out / "stock-q4_k_m.gguf"
    assert planned.stat().st_size <= stock.stat().st_size
    divergence = {name: float(value) for name, value in re.findall(r"^(\w+)-\S+\.gguf .* (0\.\d+) ± ", printed, re.M)}
    assert divergence["planned"] < 0.9 * divergence["stock"]
    assert "quantized harder" in printed and "0 damaged" in printed
    for name in ("layers.png", "texts.png", "errors.csv", "plan.txt", "report.html", "pruned-q4_k_m.gguf"):
        assert (out / name).stat().st_size > 500, name
    assert f"In {out}:" in printed


def test_nothing_is_measured_without_llama_cpp(tmp_path: Path) -> None:
    printed = demo(tmp_path, "exit 1")
    assert "Without llama-cpp-python nothing is measured" in printed
    assert "± " not in printed and "report.html" not in printed
    assert (tmp_path / "out" / "pruned-q4_k_m.gguf").is_file()
