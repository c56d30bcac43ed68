"""``gguftool stats`` as a user meets it: headline, orders, formats, upstream's text, charts, complaints."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support_gguf import u32
from support_imatrix import F32, VECTORS, as_dat, dat, floats, imatrix_gguf, keys
from support_models import shapes, write_imatrix, write_model

from gguftool.cli.main import cli
from gguftool.imatrix.figures import FIGURES, LayerStatistics, TensorStatistics, columns


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


def test_names_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    odd = "blk.0.\x1b]0;x\x07ffn_<b>\n.weight"
    for name, entry in (("a.gguf", odd), ("b.gguf", odd.replace("0", "1", 1))):
        weird = [("x\x1b[31m.weird", [1], F32, floats([1]))]
        held = [(entry, (1, 2, 3, 4), (8,)), (f"{entry}2", (0,), (0,))]
        (tmp_path / name).write_bytes(imatrix_gguf(held, extra=weird))
    a, b, png = (str(tmp_path / name) for name in ("a.gguf", "b.gguf", "c.png"))
    commands = [["stats", "-v", "--all", a], ["stats", a, "--compat", "upstream"], ["stats", a, "--plot", png],
                ["stats", a, "--plot", png, "--plot-kind", "channels"], ["imatrix", "diff", a, b],
                ["imatrix", "coverage", a, "--tensors"], ["imatrix", "show", a]]  # fmt: skip
    for words in commands:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of glyphs that no font has, say
            done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0 and "\\x1b" in done.output, done.output
        assert not {c for c in done.output if c < " "} - {"\n", "\t"}


def test_an_expression_without_a_match_is_a_slip(file: Path, tmp_path: Path) -> None:
    commands = [["stats", file], ["stats", file, "--compat", "upstream"], ["stats", file, "--plot", tmp_path / "a.png"],
                ["imatrix", "diff", file, file]]  # fmt: skip
    for words in commands:
        done = CliRunner().invoke(cli, [*map(str, words), "--tensor", "ffn_donw"])
        assert done.exit_code == 2 and done.stderr.endswith("no tensor's name has a match of 'ffn_donw'\n")
        assert not done.stdout


def test_columns_may_be_named_as_orders(file: Path) -> None:
    assert run(file, "--columns", "zd,entropy-norm").stdout == run(file, "--columns", "zd_pct,entropy_norm_pct").stdout


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


def test_orders_may_be_named_as_columns(file: Path) -> None:
    assert run(file, "--sort", "entropy_norm_pct").stdout == run(file, "--sort", "entropy-norm").stdout
    for figure in FIGURES:
        assert run(file, "--sort", figure, "--format", "csv").exit_code == 0
    done = run(file, "--sort", "none")
    assert done.exit_code == 2 and "'none' is none of kind, layer," in done.stderr


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


def test_all_shows_every_figure_there_is(file: Path) -> None:
    text = run(file, "--all").stdout
    for head in ("skewness", "expert median", "pearson", "gain", "sum of inputs", "pooled cossim", "back"):
        assert head in text
    assert "u cossim" not in text, "no signed sums, no columns of them"
    assert run(file, "--all", "--columns", "sum").exit_code == 2


def test_chosen_columns(file: Path) -> None:
    done = run(file, "--columns", "gain,kurtosis", "--no-layers", "--sort", "kurtosis")
    assert done.stdout.splitlines()[4].split() == ["kind", "layer", "gain", "kurtosis"]
    assert done.stdout.splitlines()[6].split()[:2] == ["attn_q", "1"]
    assert run(file, "--columns", "gain", "--format", "csv").stdout.splitlines()[0] == "name,layer,kind,gain"
    done = run(file, "--columns", "gian")
    assert done.exit_code == 2 and "'gian' is no column of statistics: name, layer," in done.stderr


def test_json_and_csv_have_every_column(file: Path) -> None:
    found = json.loads(run(file, "--format", "json").stdout)
    assert tuple(found["tensors"][0]) == columns(TensorStatistics)
    assert tuple(found["layers"][0]) == columns(LayerStatistics)
    heads = [run(file, "--format", "csv", *more).stdout.splitlines()[0] for more in ((), ("--layers",))]
    assert heads == [",".join(columns(kind)) for kind in (TensorStatistics, LayerStatistics)]


def test_gaps_are_told_and_nothing_is_withheld(tmp_path: Path) -> None:
    path = tmp_path / "gap.imatrix"
    path.write_bytes(imatrix_gguf([(f"blk.{i}.a.weight", [1, i + 1], [1]) for i in (0, 1, 4, 5, 7)]))
    done = run(path)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 18
    first, second = done.stderr.splitlines()
    assert "blk.2 to 3: no entry" in first and "blk.6: no entry" in second
    assert run(path, "--tensor", "blk.[05]").stderr == done.stderr


def test_next_token_layers_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "mtp.imatrix"
    path.write_bytes(
        imatrix_gguf(
            [(f"blk.{i}.a.weight", [1, i + 1], [1]) for i in range(3)], [*keys(), ("imatrix.n_layer_nextn", u32(1))]
        )
    )
    lines = run(path).stdout.splitlines()
    assert lines[3].split()[:3] == ["kind", "layer", "mtp"] and lines[7].split()[:3] == ["a", "2", "0"]
    assert lines[7].split()[-1] == "-" and lines[9].split()[:2] == ["layer", "mtp"]


def test_weights_of_a_model_alone_and_beside(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=2)
    done = run("--model", model)
    assert done.exit_code == 0 and "weights in 21 tensors" in done.stdout and "small ZD is important" in done.stdout
    assert done.stdout.splitlines()[-1].split()[-1] in "12"
    alone = json.loads(run("--model", model, "--format", "json", "--sort", "zd-weight").stdout)
    queries = [row["zd_weight"] for row in alone["weights"] if row["kind"] == "attn_q"]
    assert queries == sorted(queries, reverse=True) and len(alone["weight_layers"]) == 2
    matrix = write_imatrix(tmp_path / "m.imatrix", shapes(2, 256, 512, 64))
    both = json.loads(run(matrix, "--model", model, "--format", "json").stdout)
    assert both["layers"] and both["weights"] == json.loads(run("--model", model, "--format", "json").stdout)["weights"]
    rows = list(csv.DictReader(io.StringIO(run(matrix, "--model", model, "--format", "csv").stdout)))
    by_name = {row["name"]: row for row in both["weights"]}
    assert all(float(row["zd_weight"]) == by_name[row["name"]]["zd_weight"] for row in rows)
    layers = list(csv.DictReader(io.StringIO(run(matrix, "--model", model, "--format", "csv", "--layers").stdout)))
    assert [row["rank"] for row in layers] == [str(row["rank"]) for row in both["weight_layers"]]
    assert run(matrix, "--model", model).stdout.count("cossim") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name an importance matrix, or a --model, or both"),
        (("--model", "{file}"), "this is an importance matrix, not a model"),
        (("--model", "{model}", "--all"), "are for an importance matrix"),
        (("--model", "{model}", "--sort", "gain"), "'gain' is no order of these statistics"),
        (("{file}", "--sort", "zd-weight"), "name a --model"),
        (("{file}", "--model", "{model}", "--compat", "upstream"), "leave the others out"),
    ],
)
def test_misuse(file: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    done = run(*(word.format(file=file, model=model) for word in words))
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [], ["--plot-of", "zd"], ["--plot-of", "zd", "--plot-of", "entropy"], ["--plot-kind", "heatmap"],
        ["--plot-kind", "lines", "--plot-of", "entropy_norm_pct"], ["--plot-kind", "channels"],
        ["--plot-kind", "experts"], ["--plot-kind", "channels", "--tensor", "blk.0.attn_q"],
    ],
)  # fmt: skip
def test_plot(file: Path, tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "chart.png"
    assert run(file, "--plot", out, *words).exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plots_that_cannot_be(file: Path, tmp_path: Path) -> None:
    done = run(file, "--plot", tmp_path / "chart.xyz")
    assert done.exit_code == 2 and "ends in one of" in done.stderr
    done = run(file, "--plot", tmp_path / "a.png", "--plot-kind", "experts", "--plot-of", "zd")
    assert done.exit_code == 2 and "draws no statistic" in done.stderr
    done = run(file, "--plot", tmp_path / "a.png", "--plot-kind", "experts", "--tensor", "attn")
    assert done.exit_code == 2 and "no tensor has experts" in done.stderr
    done = run(file, "--plot-kind", "lines")
    assert done.exit_code == 2 and "name a file with --plot" in done.stderr
    assert not list(tmp_path.glob("*.png"))


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
