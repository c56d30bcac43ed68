"""``gguftool.plan_from_statistics`` on the importance matrices of real models."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_models import shapes, split_model, write_imatrix

import gguftool
from gguftool.errors import RecipeError, UsageError
from gguftool.format.names import tensor_kind
from gguftool.plan.ranking import CRITERIA
from gguftool.recipe.dialects import TARGETS
from gguftool.recipe.reading import read_recipe

SHARED = Path(__file__).resolve().parents[3] / "shared"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the models and importance matrices in ../shared")
STEPS = {"up": [("15%", "q6_k"), ("15%", "q5_k")], "down": ("25%", "q3_k")}


def files(name: str, form: str = "gguf") -> tuple[Path, Path]:
    return SHARED / "imatrix" / f"{name}.imatrix.{form}", SHARED / "models" / f"{name}-f16.gguf"


@real
@pytest.mark.parametrize("by", CRITERIA)
@pytest.mark.parametrize("name", ["prose-llama-11m", "prose-moe-8m"])
def test_both_forms_of_an_importance_matrix_give_the_same_recipe(name: str, by: str) -> None:
    gguf, model = files(name)
    dat, _ = files(name, "dat")
    one, other = (gguftool.plan_from_statistics(f, "q4_k_m", by=by, model=model, **STEPS) for f in (gguf, dat))
    assert one.types == other.types
    assert one.types
    assert [(r.pattern, r.type) for r in one.rules()] == [(r.pattern, r.type) for r in other.rules()]


@real
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["prose-llama-11m", "prose-moe-8m"])
def test_every_form_reads_back_as_the_same_rules_with_their_figures(name: str, target: str) -> None:
    imatrix, model = files(name)
    plan = gguftool.plan_from_statistics(imatrix, "q4_k_m", model=model, **STEPS)
    read = read_recipe(plan.text(target), "x")
    assert [(r.pattern, r.type) for r in read.rules] == [(r.pattern, r.type) for r in plan.rules(target)]
    assert read.file_type == plan.file_type
    assert all(rule.comments for rule in read.written.rules)
    bare = read_recipe(plan.text(target, comments=False), "x")
    assert [r.pattern for r in bare.rules] == [r.pattern for r in read.rules]


@real
def test_tensors_of_one_input_rank_alike_and_share_their_rules() -> None:
    imatrix, _ = files("prose-llama-11m")
    plan = gguftool.plan_from_statistics(imatrix, "q4_k_m", up=("20%", "q6_k"), kinds="attn_q,attn_k,attn_v")
    assert len(plan.rules()) == 1
    assert {tensor_kind(name) for name in plan.types} == {"attn_q", "attn_k", "attn_v"}
    frame = plan.frame()
    assert list(frame.columns[:3]) == ["name", "kind", "stack"]
    assert (frame["type"] == "q6_K").sum() == len(plan.types) == 6


@real
def test_experts_norms_and_routers_are_what_they_are() -> None:
    imatrix, model = files("prose-moe-8m")
    plan = gguftool.plan_from_statistics(imatrix, "q4_k_m", up=("100%", "q8_0"), model=model)
    kinds = {tensor_kind(name) for name in plan.types}
    assert {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"} <= kinds
    assert not {"ffn_gate_inp", "attn_norm", "output", "token_embd"} & kinds


def test_a_model_in_shards_and_another_models_importance_matrix(tmp_path: Path) -> None:
    model = split_model(tmp_path, 2, n_layer=4)
    imatrix = write_imatrix(tmp_path / "im.gguf", shapes(4, 512, 1024, 64))
    plan = gguftool.plan_from_statistics(imatrix, "q4_k_m", up=("1", "q6_k"), model=model)
    assert plan.types
    assert any("of other sizes than the model's" in line for line in plan.warnings)
    assert "-00001-of" not in plan.text().split()[-2]


def test_arguments_that_mean_nothing(tmp_path: Path) -> None:
    imatrix = write_imatrix(tmp_path / "im.gguf", shapes(4, 256, 512, 64))
    with pytest.raises(UsageError, match="pairs"):
        gguftool.plan_from_statistics(imatrix, "q4_k_m", up="15%")
    with pytest.raises(UsageError, match="choose one of act"):
        gguftool.plan_from_statistics(imatrix, "q4_k_m", up=("15%", "q6_k"), by="size")
    with pytest.raises(UsageError, match="COPY"):
        gguftool.plan_from_statistics(imatrix, "copy", up=("15%", "q6_k"))
    with pytest.raises(RecipeError, match="matches no entry"):
        gguftool.plan_from_statistics(imatrix, "q4_k_m", up=("15%", "q6_k"), tensor_type="ssm=q8_0")
