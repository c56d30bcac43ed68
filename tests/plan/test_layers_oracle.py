"""Pruned models with per-layer metadata against libllama: bit for bit the whole model with the layers switched off."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from support_logits import logits_of
from support_oracle import attempt, check_against_oracle, needs_libllama, write_pruned, write_switched_off

from gguftool.errors import PlanError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.format.reader import open_model
from gguftool.plan.layers import LayerPruning

#: The cases of the models' README, by file: lists of layers that may go.
ALLOWED: dict[str, list[tuple[int, ...]]] = {
    "openelm-arrays": [(1,), (0, 3, 5), (2, 3, 4, 5)],
    "gemma3-period3": [(0, 1, 2), (3, 4, 5), (2,), (0, 3), (2, 5), (0, 1, 3, 4)],
    "gpt-oss-expert-bias": [(0, 1), (2, 3), (4, 5), (0, 1, 2, 3), (0, 1, 4, 5), (2, 3, 4, 5), (5,), (1, 3), (1, 3, 5)],
    "mellum-swa-array": [(0,), (2, 3), (0, 1, 3), (0, 1, 3, 5)],
    "glm4moe-dense2-nextn1": [(0,), (0, 1), (3,), (1, 4)],
    "lfm2-hybrid": [(0,), (2, 3)],
}

#: Lists that may not go, with words of the reason.
REFUSED: dict[str, list[tuple[tuple[int, ...], str]]] = {
    "gemma3-period3": [((0,), r"layer 2 \(then 1\) .* full to sliding.*sliding_window_pattern = 3")],
    "gpt-oss-expert-bias": [
        ((1,), r"layer 2 \(then 1\) .* sliding to full"),
        ((0, 2, 4), "only layers with full attention would be left"),
    ],
    "glm4moe-dense2-nextn1": [
        ((5,), "layer 5 is a next-token layer"),
        ((0, 1, 2, 3, 4), "only next-token layers would be left"),
    ],
    "lfm2-hybrid": [((2, 4), "no attention layer"), ((0, 1, 3, 5), "no recurrent layer")],
}


@pytest.fixture(scope="module")
def arch(shared: Path) -> Path:
    return shared / "models" / "arch"


@needs_libllama
@pytest.mark.parametrize("name", ALLOWED)
def test_pruned_files_run_like_the_whole_with_layers_off(name: str, arch: Path, tmp_path: Path) -> None:
    with open_model(arch / f"{name}.gguf") as model:
        check_against_oracle(model, ALLOWED[name], tmp_path)


@needs_libllama
@pytest.mark.parametrize(("name", "dropped"), [("gemma3-period3", (0,)), ("gpt-oss-expert-bias", (1,))])
def test_arrays_for_newer_programs_run_too(name: str, dropped: tuple[int, ...], arch: Path, tmp_path: Path) -> None:
    with open_model(arch / f"{name}.gguf") as model:
        check_against_oracle(model, [dropped, (0, 3, 4)], tmp_path, allow_layer_arrays=True)


@needs_libllama
def test_a_next_token_layer_that_was_asked_for(arch: Path, tmp_path: Path) -> None:
    with open_model(arch / "glm4moe-dense2-nextn1.gguf") as model:
        assert attempt(model, (5,), prune_nextn=True).edits["glm4moe.nextn_predict_layers"] == MetaValue.of(
            0, ValueType.U32
        )
        check_against_oracle(model, [(5,), (1, 3, 5)], tmp_path, prune_nextn=True)


@needs_libllama
def test_the_real_model_runs_without_two_layers(shared: Path, tmp_path: Path) -> None:
    with open_model(shared / "models" / "prose-llama-11m-f16.gguf") as model:
        assert set(attempt(model, (3, 7)).edits) == {"llama.block_count"}
        check_against_oracle(model, [(3, 7)], tmp_path)


@needs_libllama
def test_the_oracle_tells_wrong_metadata_apart(arch: Path, tmp_path: Path) -> None:
    """What is refused, written all the same with nothing but the count changed, runs differently or not at all."""
    cases = {
        ("gemma3-period3", (0,)): "other",
        ("gemma3-period3", (2,)): "other",
        ("gpt-oss-expert-bias", (1,)): "other",
    }
    cases |= {("openelm-arrays", (1,)): "does not load", ("lfm2-hybrid", (2, 4)): "aborted"}
    paths = {}
    for i, (name, dropped) in enumerate(cases):
        with open_model(arch / f"{name}.gguf") as model:
            n = 6 - len(dropped)
            key = f"{model.architecture}.block_count"
            renumber = {old: new for new, old in enumerate(k for k in range(6) if k not in dropped)}
            naive = LayerPruning(dropped, tuple(renumber), renumber, {key: MetaValue.of(n, ValueType.U32)}, (), ())
            edits = dict(naive.edits)
            if name == "lfm2-hybrid":
                heads = [v for k, v in enumerate(model.metadata["lfm2.attention.head_count_kv"]) if k in renumber]
                edits["lfm2.attention.head_count_kv"] = MetaValue.of(heads, ValueType.ARRAY, ValueType.I32)
            wrong = write_pruned(model, naive, tmp_path / f"wrong-{i}.gguf", model.metadata.replaced(edits))
            paths[name, dropped] = wrong, write_switched_off(model, dropped, tmp_path / f"whole-{i}.gguf")
    logits = logits_of([path for pair in paths.values() for path in pair])
    for case, expected in cases.items():
        got, whole = (logits[path] for path in paths[case])
        if expected == "other":
            assert isinstance(got, np.ndarray) and isinstance(whole, np.ndarray)
            assert np.abs(got - whole).max() > 0.1 * whole.std()
        else:
            assert isinstance(got, str) and expected in got


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, arch: Path) -> None:
    with open_model(arch / f"{name}.gguf") as model:
        for dropped, reason in REFUSED[name]:
            with pytest.raises(PlanError, match=reason):
                attempt(model, dropped)


@pytest.mark.parametrize("name", ALLOWED)
def test_no_model_loses_all_layers_or_one_it_does_not_have(name: str, arch: Path) -> None:
    with open_model(arch / f"{name}.gguf") as model:
        for dropped in (range(6), (6,), (1, 17)):
            with pytest.raises(PlanError, match=r"all 6 layers|has blk\.0 to blk\.5"):
                attempt(model, dropped)


@pytest.mark.parametrize(("name", "counts"), [("gemma3-period3", (44, 3, 15)), ("gpt-oss-expert-bias", (29, 7, 26))])
def test_all_62_lists_of_two_models_fall_where_they_were_found_to(
    name: str, counts: tuple[int, int, int], arch: Path
) -> None:
    fitting = only_full = nothing = 0
    with open_model(arch / f"{name}.gguf") as model:
        for dropped in (c for size in range(1, 6) for c in itertools.combinations(range(6), size)):
            try:
                gone = [key for key, value in attempt(model, dropped).edits.items() if value is None]
                only_full += bool(gone)
                fitting += not gone
            except PlanError as error:
                no_window = "only layers with full attention" in str(error)
                only_full += no_window
                nothing += not no_window
    assert (fitting, only_full, nothing) == counts


@needs_libllama
@pytest.mark.parametrize("name", ["gemma3-period3", "gpt-oss-expert-bias"])
def test_every_list_that_fits_runs_like_the_whole(name: str, arch: Path, tmp_path: Path) -> None:
    with open_model(arch / f"{name}.gguf") as model:
        allowed = []
        for dropped in (c for size in range(1, 6) for c in itertools.combinations(range(6), size)):
            try:
                attempt(model, dropped)
            except PlanError:
                continue
            allowed.append(dropped)
        check_against_oracle(model, allowed, tmp_path)


@pytest.mark.parametrize("name", ALLOWED)
def test_integers_and_elements_keep_their_types(name: str, arch: Path) -> None:
    with open_model(arch / f"{name}.gguf") as model:
        for dropped in ALLOWED[name]:
            for key, value in attempt(model, dropped).edits.items():
                if value is not None and key in model.metadata:
                    before = model.metadata.entry(key)
                    assert (value.type, value.element_type) == (before.type, before.element_type)
