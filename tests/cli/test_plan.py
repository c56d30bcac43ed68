"""``gguftool plan`` as people type it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support_models import shapes, write_imatrix, write_model

import gguftool
from gguftool.cli.main import cli
from gguftool.cli.plan import step_words
from gguftool.errors import UsageError
from gguftool.recipe.reading import read_recipe


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """(imatrix, model) of eight layers."""
    model = write_model(tmp_path / "m-f16.gguf", n_layer=8)
    return write_imatrix(tmp_path / "im.gguf", shapes(8, 256, 512, 64)), model


def plan(*words: object) -> Result:
    return CliRunner().invoke(cli, ["plan", *map(str, words)])


@pytest.mark.parametrize(
    "words",
    [
        "--up 15% --to q6_k --down 20% --to q3_k",
        "--up=15% --to=q6_k --down=20%:q3_k",
        "--up 15%:q6_k --down 20% --to q3_k",
    ],
)
def test_steps_keep_their_order_in_every_spelling(words: str) -> None:
    rest, steps = step_words(["a", *words.split(), "--by", "zd"])
    assert rest == ["a", "--by", "zd"]
    assert steps == [("up", "15%", "q6_k"), ("down", "20%", "q3_k")]


@pytest.mark.parametrize("words", ["--up 15%", "--to q6_k", "--up 15% --up 20% --to q6_k", "--up"])
def test_half_a_step_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        step_words(words.split())


def test_what_is_printed_can_be_pasted(files: tuple[Path, Path], tmp_path: Path) -> None:
    imatrix, model = files
    printed = plan(imatrix, "q4_k_m", "--up", "25%", "--to", "q6_k", "--down", "2", "--to", "q3_k", "--model", model)
    assert printed.exit_code == 0, printed.output
    words = shlex.split(printed.stdout.replace("\\\n", " "), comments=True)
    assert words[:2] == ["gguftool", "quantize"]
    words[-2] = str(tmp_path / words[-2])
    done = CliRunner().invoke(cli, words[1:])
    assert done.exit_code == 0, done.output
    expected = gguftool.plan_from_statistics(imatrix, "q4_k_m", up=("25%", "q6_k"), down=[("2", "q3_k")], model=model)
    with gguftool.open_model(words[-2]) as made:
        types = {t.name: t.type.name for t in made.tensors}
        assert {n: types[n] for n in expected.types} == {n: t.name for n, t in expected.types.items()}
        assert 8 * sum(t.nbytes for t in made.tensors) / sum(t.n_elements for t in made.tensors) == expected.bpw


@pytest.mark.parametrize("target", ["llama-quantize", "ik", "file", "card"])
def test_every_form_is_written_whole_and_says_the_same(files: tuple[Path, Path], tmp_path: Path, target: str) -> None:
    imatrix, model = files
    out = tmp_path / "recipe.txt"
    words = [imatrix, "q4_k_m", "--by", "zd", "--up", "25%:q8_0", "--model", model, "--for", target, "-o", out]
    first = plan(*words)
    assert first.exit_code == 0, first.output
    assert "rules for" in first.stdout
    read = read_recipe(out.read_text(), "x")
    assert read.file_type is not None
    assert read.file_type.name == "Q4_K_M"
    again = plan(*words)
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    checked = CliRunner().invoke(cli, ["recipe", "check", str(out), str(model), "--imatrix", str(imatrix)])
    assert checked.exit_code == 0, checked.output


def test_a_budget_is_met_from_below_and_said(files: tuple[Path, Path]) -> None:
    imatrix, model = files
    done = plan(imatrix, "q4_k_m", "--budget-bpw", "5.3", "--model", model, "--json")
    data = json.loads(done.stdout)
    assert 5.2 < data["bpw"] <= 5.3
    assert data["bytes_left"] >= 0
    taken = [t for t in data["tensors"] if t["type"] == "q5_K"]
    said = plan(imatrix, "q4_k_m", "--budget-bpw", "5.3", "--model", model).stdout
    assert f"of {len(data['tensors'])} tensors: q5_K for {len(taken)} (" in said
    assert "under the budget of 5.3" in plan(imatrix, "q4_k_m", "--budget-bpw", "5.3", "--model", model).stdout
    low = plan(imatrix, "q4_k_m", "--budget-bpw", "1", "--model", model)
    assert (low.exit_code, "is the least" in low.output) == (1, True)


def test_tensors_fixed_by_hand_and_kinds_left_alone(files: tuple[Path, Path]) -> None:
    imatrix, model = files
    done = plan(
        imatrix, "q4_k_m", "--up", "1:q8_0", "--kinds", "attn_k,attn_v", "--tensor-type", "^output=q8_0",
        "--tensor-type", "attn_v=q5_k", "--model", model,
    )  # fmt: skip
    rules = [f"{r.pattern}={r.type.name}" for r in read_recipe(done.stdout, "x").rules]
    assert r"^output\.weight=q8_0" in rules
    assert r"blk\.[0-9]+\.attn_v\.weight=q5_K" in rules
    assert not any("ffn" in rule or "attn_q" in rule for rule in rules)
    assert "by hand" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--up", "1:q6_k", "--kinds", "attn_x"], "the imatrix has attn_k"),
        (["--up", "1:q6_k", "--tensor", "nothing"], "no tensor"),
        (["--up", "1:banana"], "banana"),
        ([], "nothing to do"),
        (["--budget-bpw", "4"], "--model"),
        (["--up", "1:q6_k", "--protect", "2,2"], "--protect belongs to a pruning plan"),
        (["--up", "1:q6_k", "-f", "text.txt"], "--file belongs to a pruning plan"),
        (["--prune", "1", "--keep-layers", "1,x"], "--keep-layers '1,x'"),
        (["--prune", "1", "--keep-layers", "9"], "layers to keep 9: there are 0-7"),
    ],
)
def test_misuse_is_one_line(files: tuple[Path, Path], words: list[str], says: str) -> None:
    done = plan(files[0], "q4_k_m", *words)
    assert done.exit_code == 2
    assert says in done.output


def test_the_ranking_as_a_table(files: tuple[Path, Path]) -> None:
    done = plan(files[0], "q4_k_m", "--up", "1:q6_k", "--kinds", "ffn_down", "--table")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["kind", "rank", "layer", "act", "type", "step"]
    assert lines[2].split()[:2] == ["ffn_down", "1"]
    assert "up 1 to q6_K" in lines[2]


def test_layers_that_the_matrix_lacks_are_not_reached_by_accident(tmp_path: Path) -> None:
    known = {n: s for n, s in shapes(6, 256, 512, 64).items() if n != "blk.2.attn_v.weight"}
    imatrix = write_imatrix(tmp_path / "im.gguf", known)
    done = plan(imatrix, "q4_k_m", "--up", "100%:q6_k", "--kinds", "attn_v")
    assert [r.pattern for r in read_recipe(done.stdout, "x").rules] == [r"blk\.[013-5]\.attn_v\.weight"]
    model = write_model(tmp_path / "m.gguf", n_layer=6)
    done = plan(imatrix, "q4_k_m", "--up", "100%:q6_k", "--kinds", "attn_v", "--model", model)
    assert "no entry for 1 tensors, such as blk.2.attn_v.weight" in done.stderr


def test_gates_that_ik_records_as_up_get_rules_too(tmp_path: Path) -> None:
    known = {n: s for n, s in shapes(4, 256, 512, 64).items() if "gate" not in n}
    done = plan(write_imatrix(tmp_path / "im.gguf", known), "iq4_kss", "--up", "1:iq6_k", "--kinds", "ffn_up,ffn_gate")
    assert done.exit_code == 0, done.output
    assert "ffn_(gate|up)" in done.stdout
    assert "sees the same input" in done.stderr


def test_an_output_is_checked_before_the_work_and_never_an_input(files: tuple[Path, Path], tmp_path: Path) -> None:
    imatrix, model = files
    before = imatrix.read_bytes()
    words = [imatrix, "q4_k_m", "--up", "1:q6_k", "--model", model, "--force", "-o"]
    for path in (imatrix, model):
        done = plan(*words, path)
        assert (done.exit_code, done.output.count("\n"), "is an input" in done.output) == (1, 1, True)
    assert imatrix.read_bytes() == before
    done = plan(*words, tmp_path / "none" / "out")
    assert done.output == f"gguftool: {tmp_path / 'none'}: no such folder\n"
    extracted = CliRunner().invoke(cli, ["recipe", "extract", str(model), "-o", str(model), "--force"])
    assert (extracted.exit_code, "is an input" in extracted.output) == (1, True)


def test_a_file_without_an_architecture_is_planned_like_any_other(files: tuple[Path, Path]) -> None:
    imatrix, _ = files
    done = plan(imatrix, "q4_k_m", "--up", "1:q6_k", "--model", imatrix)
    assert "prune" not in done.output
