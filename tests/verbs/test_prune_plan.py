"""A pruning plan names layers, renumbers the recipe for what is left, and measures before it names if it can."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support_models import shapes, write_imatrix, write_model

from gguftool.cli.main import cli
from gguftool.cli.plan_prune import as_json
from gguftool.errors import UsageError
from gguftool.format.reader import open_model
from gguftool.imatrix.file import open_imatrix
from gguftool.llama.runtime import RuntimeUnavailable
from gguftool.verbs.imatrix_files import convert_imatrix
from gguftool.verbs.plan import plan_from_statistics
from gguftool.verbs.prune_plan import Trial, plan_pruning
from gguftool.verbs.quantize import quantize

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL, IMATRIX, TEXT = (
    EXAMPLES / "prose-llama-11m-f16.gguf",
    EXAMPLES / "prose-llama-11m.imatrix.gguf",
    EXAMPLES / "prose.txt",
)
STEPS = {"up": ("20%", "q6_k"), "down": ("20%", "q3_k")}


def test_the_recipe_is_that_of_the_model_without_the_layers(tmp_path: Path) -> None:
    plan = plan_pruning(IMATRIX, "q4_k_m", 2, model=MODEL, **STEPS)
    assert plan.chosen == (6, 7) and plan.pruned.plan.pruned == (6, 7)
    made = plan.pruned.plan
    rules = [f"{rule.pattern}={rule.type.name}" for rule in made.rules()]
    quantize(MODEL, tmp_path / "o.gguf", "q4_k_m", imatrix=IMATRIX, tensor_type=rules, prune_layers=plan.chosen)
    with open_model(tmp_path / "o.gguf") as written:
        assert sum(t.nbytes for t in written.tensors) == made.nbytes
        types = {t.name: t.type for t in written.tensors}
    assert made.types and all(types[name] == type for name, type in made.types.items())
    assert max(r.layer for r in made.ranked if r.layer is not None) == 9


def test_all_layers_in_the_same_bytes_stand_beside_it() -> None:
    plan = plan_pruning(IMATRIX, "q4_k_m", 3, model=MODEL)
    assert plan.harder is not None and not plan.harder.plan.pruned
    assert 0.98 * plan.pruned.plan.nbytes < plan.harder.plan.nbytes <= plan.pruned.plan.nbytes
    out_of_reach = plan_pruning(IMATRIX, "iq2_xxs", 9, model=MODEL, protect=(1, 1))
    assert out_of_reach.harder is None and "does not reach these bytes" in out_of_reach.why_not
    bare = plan_pruning(IMATRIX, "q4_k_m", 2)
    assert (
        bare.harder is None and "--model" in bare.why_not and bare.chosen == plan_pruning(IMATRIX, "q4_k_m", 2).chosen
    )


def test_layers_are_protected_and_counts_checked() -> None:
    plan = plan_pruning(IMATRIX, "q4_k_m", 2, protect=(7, 1), keep=[8])
    assert plan.chosen == (7, 9)
    with pytest.raises(UsageError, match="11 layers are to go, but 10 of 12 may"):
        plan_pruning(IMATRIX, "q4_k_m", 11)
    with pytest.raises(UsageError, match="give the model"):
        plan_pruning(IMATRIX, "q4_k_m", 1, trial=Trial(TEXT))


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_candidates_are_measured_before_one_is_named(tmp_path: Path) -> None:
    trial = Trial(TEXT, chunks=2, candidates=3, threads=2, folder=tmp_path)
    plan = plan_pruning(IMATRIX, "q4_k_m", 1, model=MODEL, trial=trial)
    divergences = [c.divergence.kld.value for c in plan.candidates if c.divergence is not None]
    assert len(divergences) == 3 and divergences == sorted(divergences) and divergences[0] > 0.01
    assert {c.layers for c in plan.candidates} == {(4,), (6,), (7,)}
    assert plan.harder is not None and plan.harder.divergence is not None and plan.pruned.divergence is not None
    assert plan.harder.divergence.kld.value < plan.pruned.divergence.kld.value
    said = plan.pruned.plan.text()
    assert "chosen for the least KL divergence of 3 lists tried" in said and "with all layers at the same bytes" in said
    assert not list(tmp_path.iterdir())


def test_what_measuring_needs_is_asked_for_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(*_: object, **__: object) -> None:
        raise AssertionError("a model was copied")

    monkeypatch.setattr("gguftool.verbs.prune_plan.copy", copied)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(UsageError, match="shorter than one chunk"):
        plan_pruning(IMATRIX, "q4_k_m", 1, model=MODEL, trial=Trial(tmp_path / "short.txt"))
    with pytest.raises(FileNotFoundError):
        plan_pruning(IMATRIX, "q4_k_m", 1, model=MODEL, trial=Trial(tmp_path / "none.txt"))
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(RuntimeUnavailable, match="pip install"):
        plan_pruning(IMATRIX, "q4_k_m", 1, model=MODEL, trial=Trial(TEXT))


def test_an_imatrix_with_more_layers_than_the_model_is_told_of(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=6)
    imatrix = write_imatrix(tmp_path / "im.gguf", shapes(8, 256, 512, 64))
    for gone in ([], [2]):
        plan = plan_from_statistics(imatrix, "q4_k_m", model=model, up=("1", "q6_k"), prune_layers=gone)
        assert any("has layers 6-7, which the model has not" in line for line in plan.warnings)
    fits = plan_from_statistics(imatrix, "q4_k_m", model=write_model(tmp_path / "8.gguf", n_layer=8), up=("1", "q6_k"))
    assert not any("which the model has not" in line for line in fits.warnings)


def test_pruned_plans_without_a_model_count_layers_anew() -> None:
    plan = plan_from_statistics(IMATRIX, "q4_k_m", prune_layers="3,7", **STEPS)  # type: ignore[arg-type]
    assert {r.layer for r in plan.ranked} == set(range(10))
    assert "--prune-layers 3,7" in plan.text() and "--prune-layers" not in plan.text("file")
    assert "prose-llama-11m.imatrix-pruned.gguf" in plan.text("llama-quantize")
    with pytest.raises(UsageError, match="there is no layer 12; there are 0-11"):
        plan_from_statistics(IMATRIX, "q4_k_m", prune_layers=[12])


def test_an_imatrix_is_renumbered_like_its_model(tmp_path: Path) -> None:
    convert_imatrix(IMATRIX, tmp_path / "p.gguf", prune_layers="3,7")
    with open_imatrix(IMATRIX) as before, open_imatrix(tmp_path / "p.gguf") as after:
        assert len(after.names) == len(before.names) * 10 // 12
        for new, old in ((2, 2), (3, 4), (6, 8), (9, 11)):
            name = "blk.{}.ffn_down.weight"
            assert (after.raw_sums(name.format(new)) == before.raw_sums(name.format(old))).all()


def test_the_command_prints_what_can_be_pasted_and_tables_beside(tmp_path: Path) -> None:
    arguments = ["plan", str(IMATRIX), "q4_k_m", "--prune", "2", "--model", str(MODEL), "--up", "15%", "--to", "q6_k"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.stderr
    assert "weak witness" in done.stderr and "stays: first" in done.stderr and "quantized harder" in done.stderr
    command = re.sub(r"\\\n", "", "".join(line + "\n" for line in done.stdout.splitlines() if not line.startswith("#")))
    words = shlex.split(command)
    assert words[:2] == ["gguftool", "quantize"] and words[words.index("--prune-layers") + 1] == "6-7"
    words[-2] = str(tmp_path / "o.gguf")
    assert CliRunner().invoke(cli, words[1:]).exit_code == 0
    as_json = CliRunner().invoke(cli, [*arguments, "--json"])
    assert json.loads(as_json.stdout)["pruning"]["prune_layers"] == [6, 7]
    wrong = CliRunner().invoke(cli, [*arguments, "--protect", "a"])
    assert wrong.exit_code == 2 and "give two numbers" in wrong.stderr


def test_scores_are_numbers_where_there_are_figures() -> None:
    plan = plan_pruning(IMATRIX, "q4_k_m", 1)
    assert all(math.isnan(row.score) == bool(row.protected) for row in plan.layers)


def test_what_programs_read_holds_no_number_that_json_does_not_know() -> None:
    plan = plan_pruning(IMATRIX, "q4_k_m", 1)
    bent = replace(plan, layers=(replace(plan.layers[0], gain=math.inf, cossim_next=math.nan), *plan.layers[1:]))
    row = as_json(bent)["layers"][0]
    assert (row["gain"], row["cossim_next"], row["score"]) == (None, None, plan.layers[0].score)
    json.dumps(as_json(bent), allow_nan=False)


def test_all_layers_are_not_pruned_from_an_imatrix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no entry would be left"):
        convert_imatrix(IMATRIX, tmp_path / "p.gguf", prune_layers="0-11")
