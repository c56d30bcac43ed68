"""``gguftool imatrix`` as a user meets it: what it writes, prints and complains of, and with which status."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support_imatrix import F32, VECTORS, as_dat, dat, floats, imatrix_gguf

from gguftool.cli.main import cli
from gguftool.imatrix.file import open_imatrix


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["imatrix", *map(str, args)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "six.gguf"
    path.write_bytes(imatrix_gguf(VECTORS))
    return path


def test_convert(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "six.dat"
    done = run("convert", file, out)
    assert done.exit_code == 0
    assert done.stdout == f"{out}: older form, 6 tensors (10 matrices), 2 chunks, {out.stat().st_size} B\n"
    assert all(line.startswith("gguftool: lost: ") for line in done.stderr.splitlines())
    assert "blk.1.ffn_down_exps.weight[1]: not reached by any token" in done.stderr
    back = run("convert", out, tmp_path / "back.gguf", "--chunk-size", 4, "--experts", 3)
    assert back.exit_code == 0 and "gguftool: note:" in back.stderr
    with open_imatrix(tmp_path / "back.gguf") as found:
        assert found.counts("blk.1.ffn_down_exps.weight").tolist() == [4, 0, 4]


SLOW = """
import time
from gguftool.imatrix import writer
once = writer._put
writer._put = lambda *args: (once(*args), print("wrote", flush=True), time.sleep(60))
from gguftool.cli.main import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(file: Path, number: signal.Signals) -> None:
    words = [sys.executable, "-c", SLOW, "imatrix", "convert", str(file), str(file.with_name("out.gguf"))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline() == "wrote\n" and len(list(file.parent.iterdir())) == 2
        run.send_signal(number)
        assert run.stderr.read().strip() == "gguftool: stopped"
    assert run.returncode == 1 and list(file.parent.iterdir()) == [file]


def test_merge(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.dat").write_bytes(as_dat(VECTORS, 4))
    out = tmp_path / "m.gguf"
    done = run("merge", file, tmp_path / "b.dat", "-o", out, "--weight", 1, "--weight", 3, "--chunk-size", 4)
    assert done.exit_code == 0 and done.stdout.startswith(f"{out}: GGUF, 6 tensors (10 matrices), 8 chunks of 4 tokens")
    assert "so those weights are guesses" in done.stderr
    done = run("merge", file, file, "-o", tmp_path / "n.gguf")
    assert "the same content as" in done.stderr
    assert run("merge", file, "-o", tmp_path / "x.gguf", "--weight", 1, "--weight", 2).exit_code == 2
    assert run("merge", "-o", tmp_path / "x.gguf").exit_code == 2


def test_repair(file: Path, tmp_path: Path) -> None:
    done = run("repair", file, tmp_path / "r.gguf")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["tensor", "experts", "of", "filled", "with", "from"]
    assert " ".join(lines[2].split()) == "blk.1.ffn_down_exps.weight 1 3 ones 1 everywhere"
    assert lines[3].startswith(f"{tmp_path / 'r.gguf'}: GGUF, 6 tensors")
    rows = json.loads(run("repair", file, tmp_path / "s.gguf", "--missing", "ones", "--format", "json").stdout)
    assert rows == [{"name": "blk.1.ffn_down_exps.weight", "matrices": [1], "n_mat": 3, "way": "ones",
                     "source": "1 everywhere"}]  # fmt: skip
    done = run("repair", file, tmp_path / "t.gguf", "--missing", "error")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and not (tmp_path / "t.gguf").exists()
    assert run("repair", file, tmp_path / "t.gguf", "--missing", "median").exit_code == 2


def test_coverage_and_its_status(file: Path, tmp_path: Path) -> None:
    done = run("coverage", file)
    assert done.exit_code == 0 and "experts in 2 tensors: 5 of 6 reached (83.33 %)" in done.stdout
    assert run("coverage", file, "--check").exit_code == 1
    assert run("coverage", file, "--check", "--format", "json").exit_code == 1
    repaired = tmp_path / "r.gguf"
    run("repair", file, repaired)
    assert run("coverage", repaired, "--check").exit_code == 0
    assert run("coverage", repaired, "--check", "--min-tokens", 4).exit_code == 1
    found = json.loads(run("coverage", file, "--format", "json", "--min-tokens", 3).stdout)
    assert found["complete"] is False and len(found["tensors"]) == 6 and found["layers"][0]["least"] == 0
    assert found["sparse"][0] == {"name": "blk.1.ffn_down_exps.weight", "n_mat": 3, "never": [1], "below": [2]}
    rows = list(csv.DictReader(io.StringIO(run("coverage", file, "--format", "csv").stdout)))
    assert len(rows) == 6 and rows[2]["n_reached"] == "2"
    assert len(run("coverage", file, "--format", "csv", "--layers").stdout.splitlines()) == 3
    assert "| layer |" in run("coverage", file, "--format", "markdown").stdout.replace("  ", " ")
    assert "output.weight" in run("coverage", file, "--tensors").stdout


def test_coverage_of_a_model(shared: Path) -> None:
    model = shared / "models" / "prose-moe-8m-f16.gguf"
    done = run("coverage", shared / "imatrix" / "prose-moe-8m.imatrix.gguf", "--model", model, "--check")
    assert done.exit_code == 0 and "50 weights, 0 without an entry" in done.stdout and done.stderr == ""
    done = run("coverage", shared / "imatrix" / "prose-llama-11m.imatrix.gguf", "--model", model, "--check")
    assert done.exit_code == 1 and "no entry            ffn_up_exps    0-5" in done.stdout


def test_diff(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(imatrix_gguf([("blk.0.attn_q.weight", (32, 24, 16, 8), (8,)), *VECTORS[1:4],
                                    ("blk.2.ffn_down_exps.weight", (8, 8, 8, 8) * 3, (4, 0, 1))]))  # fmt: skip
    done = run("diff", file, other)
    assert done.exit_code == 0 and "only in A: output.weight" in done.stdout
    lines = done.stdout.splitlines()
    moved = lines.index("moved most:")
    assert lines[moved + 3].split()[:5] == ["blk.0.attn_q.weight", "0", "attn_q", "4", "-1.0000"]
    reached = lines.index("experts reached:")
    assert lines[reached + 3].split() == ["blk.2.ffn_down_exps.weight", "3", "2"]
    found = json.loads(run("diff", file, other, "--format", "json").stdout)
    assert len(found["tensors"]) == 6 and [k["kind"] for k in found["kinds"]] == ["attn_q", "ffn_down_exps", "output"]
    rows = list(csv.DictReader(io.StringIO(run("diff", file, other, "--format", "csv").stdout)))
    assert rows[0]["tv"] and rows[-1]["only_in"] == "a"
    assert "moved most" not in run("diff", file, other, "--top", 0).stdout
    assert run("diff", file, other, "--tensor", "blk.0").stdout.count("blk.") == 1
    assert run("diff", file, other, "--all", "--format", "markdown").stdout.count("| blk.") == 6


@pytest.mark.parametrize(
    "words",
    [[], ["--sort", "rank"], ["--plot-of", "mean"], ["--plot-of", "zd_pct", "--tensor", "q"], ["--plot-of", "zd"]],
)
def test_diff_draws(file: Path, tmp_path: Path, words: list[str]) -> None:
    other, out = tmp_path / "other.gguf", tmp_path / "chart.svg"
    other.write_bytes(imatrix_gguf([("blk.0.attn_q.weight", (32, 24, 16, 8), (8,)), *VECTORS[1:]]))
    done = run("diff", file, other, "--plot", out, *words)
    assert done.exit_code == 0 and "attn_q" in done.stdout
    assert b"</svg>" in out.read_bytes()


def test_diff_draws_no_nonsense(file: Path, tmp_path: Path) -> None:
    done = run("diff", file, file, "--plot", tmp_path / "chart.png", "--plot-of", "nonsense")
    assert done.exit_code == 2 and "'nonsense' is none of sum, min, " in done.stderr
    done = run("diff", file, file, "--plot-of", "mean")
    assert done.exit_code == 2 and "name a file with --plot" in done.stderr
    assert run("diff", file, file, "--top", -1).exit_code == 2


def test_show(file: Path) -> None:
    done = run("show", file)
    assert done.exit_code == 0 and "6 tensors, 40 values" in done.stdout
    assert "made from: text.txt\n2 chunks of 4 tokens, 8 tokens\n" in done.stdout
    found = json.loads(run("show", file, "--format", "json").stdout)
    assert found["n_entries"] == 6 and found["kinds"][0]["layers"] == [0, 1, 3]
    assert len(run("show", file, "--format", "csv").stdout.splitlines()) == 4
    done = run("show", file, "--tensor", "blk.1.ffn_down_exps", "--top", 1)
    assert done.stdout.splitlines()[0] == "blk.1.ffn_down_exps.weight: 3 experts (2 reached) of 4 channels, 6 tokens"
    assert done.stdout.splitlines()[-1].split() == ["2", "3", "9", "75.000", "9.0"]
    found = json.loads(run("show", file, "--tensor", "output", "--format", "json").stdout)
    assert found["counts"] == [8] and found["channels"][0]["channel"] == 3
    assert run("show", file, "--tensor", "nope").exit_code == 2 and run("show", file, "--matrix", 1).exit_code == 2


def test_trouble_is_one_line_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.dat"
    for raw in (b"", b"GGUF", b"\1\0\0\0", dat([("a.weight", 1, [-1.0])]), dat([("a.weight", 1, [float("nan")])])):
        bad.write_bytes(raw)
        for words in (
            ("convert", bad, tmp_path / "o.gguf"), ("merge", file, bad, "-o", tmp_path / "o.gguf"),
            ("repair", bad, tmp_path / "o.gguf"), ("diff", bad, bad), ("show", bad, "--tensor", "a"),
        ):  # fmt: skip
            done = run(*words)
            assert done.exit_code == 1 and done.stdout == "", words
            assert done.stderr.startswith(f"gguftool: {bad}: ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.dat", "six.gguf"]
    assert run("convert", file, file, "--force").exit_code == 2
    assert run("convert", file, tmp_path / "x.imatrix").exit_code == 2
    assert run("convert", file, bad).exit_code == 1
    assert run("convert", tmp_path / "none", tmp_path / "o.gguf").exit_code == 1
    assert run("convert", tmp_path, tmp_path / "o.gguf").exit_code == 1
    assert run("frobnicate").exit_code == 2


def test_without_a_subcommand_the_help_is_shown() -> None:
    done = run()
    assert done.exit_code == 2 and "convert" in done.stderr and done.stderr.count("\n") > 5


def test_names_that_would_upset_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(imatrix_gguf([("a\x1b[31m.weight", (1, 2), (0,))], extra=[("x\n.in_max", [1], F32, floats([1]))]))
    for words in (
        ("show", path),
        ("coverage", path, "--tensors"),
        ("diff", path, path),
        ("repair", path, tmp_path / "o.gguf"),
    ):
        done = run(*words)
        assert done.exit_code == 0 and "\x1b" not in done.output and "x\n.in" not in done.output


def test_neither_numba_nor_pandas_is_imported(file: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from gguftool.cli.main import cli\n"
        "for words in (['show', sys.argv[1]], ['coverage', sys.argv[1]], ['diff', sys.argv[1], sys.argv[1]],"
        " ['convert', sys.argv[1], sys.argv[2]]): cli.main(['imatrix', *words], standalone_mode=False)\n"
        "print([m for m in ('numba', 'llama_cpp', 'pandas', 'matplotlib', 'gguf') if m in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(file), str(tmp_path / "o.dat")], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
