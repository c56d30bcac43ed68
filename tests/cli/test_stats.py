"""``gguftool stats`` as a user meets it: headline, orders, formats, upstream's text, charts, complaints."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support_imatrix import F32, VECTORS, as_dat, dat, floats, imatrix_gguf

from gguftool.cli.main import cli


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["stats", *map(str, args)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "six.imatrix"
    path.write_bytes(imatrix_gguf(VECTORS))
    return path


def test_table(file: Path) -> None:
    done = run(file)
    assert done.exit_code == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"{file}: importance matrix (GGUF), made from text.txt"
    assert lines[1] == "6 tensors in 4 layers, 2 chunks of 4 tokens, 8 tokens"
    assert lines[2] == "experts: 5 of 6 reached (83.33 %)"
    assert [" ".join(line.split()[:2]) for line in lines[6:12]] == [
        "attn_q 0", "attn_q 1", "attn_q 3", "ffn_down_exps 1", "ffn_down_exps 2", "output -"
    ]  # fmt: skip
    assert lines[6].split()[-2:] == ["-", "-"] and lines[8].split()[-2:] == ["0.9556", "2"]
    assert lines[15].split() == ["0", "1", "4", "10.00", "2.5000", "10.00", "25.0000", "-", "0"]
    assert len(lines) == 19


def test_no_layers(file: Path) -> None:
    assert len(run(file, "--no-layers").stdout.splitlines()) == 12


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("layer", [0, 1, 1, 2, 3, None]),
        ("name", [0, 1, 1, 2, 3, None]),
        ("kind", [0, 1, 3, 1, 2, None]),
        ("sum", [3, 0, 1, 2, 1, None]),
        ("entropy", [0, 1, 3, 2, 1, None]),
        ("cossim", [3, 1, 0, 2, 1, None]),
    ],
)
def test_orders(file: Path, sort: str, order: list[int | None]) -> None:
    rows = json.loads(run(file, "--sort", sort, "--format", "json").stdout)["tensors"]
    assert [row["layer"] for row in rows] == order


def test_json(file: Path) -> None:
    found = json.loads(run(file, "--format", "json").stdout)
    assert (found["format"], found["datasets"], found["tokens"]) == ("gguf", ["text.txt"], 8)
    assert (found["n_experts"], found["unreached"]) == (6, 1)
    first = found["tensors"][0]
    assert first["name"] == "blk.0.attn_q.weight" and first["sum"] == 10 and first["cossim"] is None
    assert found["layers"][1]["cossim"] == pytest.approx(0.897, abs=1e-3)
    assert "layers" not in json.loads(run(file, "--format", "json", "--no-layers").stdout)


def test_csv(file: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(file, "--format", "csv").stdout)))
    assert len(rows) == 6 and rows[0]["sum"] == "10.0" and rows[0]["cossim"] == ""
    layers = list(csv.DictReader(io.StringIO(run(file, "--format", "csv", "--layers").stdout)))
    assert [row["layer"] for row in layers] == ["0", "1", "2", "3"]


def test_markdown(file: Path) -> None:
    assert "| attn_q | 0 |" in run(file, "--format", "markdown").stdout.replace("  ", " ")


def test_tensor_filter_keeps_the_cosines(file: Path) -> None:
    found = json.loads(run(file, "--tensor", r"blk\.1\.attn", "--format", "json").stdout)
    assert [row["name"] for row in found["tensors"]] == ["blk.1.attn_q.weight"]
    assert found["tensors"][0]["cossim"] == pytest.approx(0.8971, abs=1e-4)
    done = run(file, "--tensor", "(")
    assert done.exit_code == 2 and "no regular expression" in done.stderr


@pytest.mark.parametrize("form", ["gguf", "dat", "moe-gguf", "moe-dat"])
def test_compat_is_upstreams_output(shared: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(shared / "imatrix")
    model = "prose-moe-8m" if form.startswith("moe") else "prose-llama-11m"
    done = run("--compat", "upstream", f"{model}.imatrix.{form.removeprefix('moe-')}")
    assert done.stdout.encode() == (shared / "imatrix" / f"show-statistics-{form}.txt").read_bytes()


def test_compat_in_other_formats(file: Path) -> None:
    found = json.loads(run(file, "--compat", "upstream", "--format", "json").stdout)
    assert [row["cossim"] for row in found["tensors"]][:2] == [0, 0] and len(found["layers"]) == 4
    assert run(file, "--compat", "upstream", "--format", "csv").stdout.count("\n") == 7
    assert run(file, "--compat", "upstream", "--no-layers").stdout.count("weighted") == 0
    assert run(file, "--compat", "upstream", "--sort", "sum").exit_code == 2


def test_older_form(tmp_path: Path) -> None:
    path = tmp_path / "six.dat"
    path.write_bytes(as_dat([*VECTORS, ("blk.1.ffn_gate_inp.weight", (1, 1, 1, 1), (4,))], 4))
    lines = run(path).stdout.splitlines()
    assert lines[0].endswith("importance matrix (older form), made from text.txt")
    assert lines[1] == "7 tensors in 4 layers, 1 chunk, 512 tokens (if chunks have 512)"


def test_experts_of_the_older_form_are_inferred(tmp_path: Path) -> None:
    name = "blk.1.ffn_up_exps.weight"
    entries = [(name, VECTORS[3][1], VECTORS[3][2]), ("blk.1.ffn_gate_inp.weight", (1, 1, 1, 1), (4,))]
    path = tmp_path / "experts.dat"
    path.write_bytes(as_dat(entries, 4))
    assert "experts: 2 of 3 reached (66.67 %), their number inferred from the routers" in run(path).stdout


def test_warnings_go_to_stderr(tmp_path: Path) -> None:
    path = tmp_path / "odd.dat"
    path.write_bytes(dat([("a.weight", 0, [1.0])]))
    done = run(path, "--format", "csv")
    assert done.exit_code == 0 and "warning" not in done.stdout
    assert done.stderr.startswith(f"gguftool: warning: {path}: a.weight: no number of calls")


def test_verbose_names_what_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "more.gguf"
    path.write_bytes(imatrix_gguf(VECTORS, extra=[("a.in_max", [1], F32, floats([1]))]))
    assert run(path).stderr == "" and "'a.in_max' belongs to no entry" in run(path, "-v").stderr


def test_trouble_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.dat"
    for raw in (b"", b"GGUF", dat([("a.weight", 1, [-1.0])])):
        path.write_bytes(raw)
        done = run(path)
        assert done.exit_code == 1 and done.stdout == "" and done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"gguftool: {path}: ")
    assert run(tmp_path / "none").exit_code == 1
    assert run(tmp_path).exit_code == 1


def test_plot(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "chart.png"
    assert run(file, "--plot", out, "--plot-of", "zd").exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    done = run(file, "--plot", tmp_path / "chart.xyz")
    assert done.exit_code == 2 and "ends in one of" in done.stderr


def test_neither_numba_nor_pandas_nor_matplotlib_is_imported(file: Path) -> None:
    script = (
        "import sys; from gguftool.cli.main import cli; cli.main(['stats', sys.argv[1]], standalone_mode=False);"
        "print([m for m in ('numba', 'llama_cpp', 'pandas', 'matplotlib', 'gguf') if m in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
