"""Rules of more architectures, run: models of random weights made for the purpose, pruned, against libllama."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_logits import logits_of
from support_oracle import attempt, check_against_oracle, needs_libllama, write_pruned, write_switched_off
from support_tiny import BLOCK, HEAD, HEADS, POST_NORMS, WIDTH, WINDOW, Shapes, write_tiny

from gguftool.errors import PlanError
from gguftool.format.metadata import MetaValue, ValueType
from gguftool.format.reader import Model, open_model
from gguftool.plan.layers import LayerPruning, prune_layers

E = 8
SWP, SW = "attention.sliding_window_pattern", "attention.sliding_window"
GEMMA4_LAYERS = 9
NO_FFN_NORM = {name: shape for name, shape in BLOCK.items() if name != "ffn_norm"}
OLMO2 = {name: shape for name, shape in BLOCK.items() if name not in ("attn_norm", "ffn_norm")}

#: architecture: number of layers, keys, tensors of a layer, tensors outside
TINY: dict[str, tuple[int, dict[str, Any], Shapes, Shapes]] = {
    "gemma2": (6, {SW: WINDOW}, {**BLOCK, **POST_NORMS}, {}),
    "smollm3": (8, {}, BLOCK, {}),
    "cohere2": (
        8,
        {SW: WINDOW, "attention.layer_norm_epsilon": 1e-6, "logit_scale": 1.0},
        NO_FFN_NORM,
        {},
    ),
    "olmo2": (
        8,
        {SW: WINDOW},
        {**OLMO2, **POST_NORMS, "attn_q_norm": (HEADS * HEAD,), "attn_k_norm": (HEAD,)},
        {"output": (288, WIDTH)},
    ),
    "llama4": (
        8,
        # no layer has experts, but the loader wants the model to have some
        {"interleave_moe_layer_step": 9, "expert_feed_forward_length": 8, "expert_count": 16, "expert_used_count": 1},
        BLOCK,
        {},
    ),
    "gemma4": (
        GEMMA4_LAYERS,
        {
            SW: WINDOW,
            SWP: [True, True, False, True, True, False, True, False, True],
            "attention.shared_kv_layers": 3,
            "attention.key_length_swa": HEAD,
            "attention.value_length_swa": HEAD,
            "embedding_length_per_layer_input": E,
            "rope.dimension_count": HEAD,
            "rope.dimension_count_swa": HEAD,
        },
        {
            **BLOCK,
            **POST_NORMS,
            "attn_q_norm": (HEAD,),
            "attn_k_norm": (HEAD,),
            "inp_gate": (E, WIDTH),
            "proj": (WIDTH, E),
            "post_norm": (WIDTH,),
        },
        {
            "per_layer_token_embd": (288, E * GEMMA4_LAYERS),
            "per_layer_model_proj": (E * GEMMA4_LAYERS, WIDTH),
            "per_layer_proj_norm": (E,),
            "rope_freqs": (HEAD // 2,),
        },
    ),
}


def made(arch: str, shared: Path, folder: Path) -> Model:
    n, keys, block, extra = TINY[arch]
    with open_model(shared / "models" / "arch" / "gemma3-period3.gguf") as other:
        return open_model(write_tiny(folder / f"{arch}.gguf", arch, n, other, keys, block, extra))


def sorted_out(model: Model) -> tuple[dict[tuple[int, ...], LayerPruning], list[tuple[int, ...]]]:
    """Lists of up to three layers that are allowed, with what follows, and those that are not."""
    allowed, refused = {}, []
    for dropped in (
        c for size in (1, 2, 3) for c in itertools.combinations(range(TINY[str(model.architecture)][0]), size)
    ):
        try:
            allowed[dropped] = attempt(model, dropped)
        except PlanError:
            refused.append(dropped)
    return allowed, refused


@needs_libllama
@pytest.mark.parametrize("arch", TINY)
def test_lists_that_are_allowed_run_like_the_whole(arch: str, shared: Path, tmp_path: Path) -> None:
    with made(arch, shared, tmp_path) as model:
        allowed, _ = sorted_out(model)
        lists = [dropped for dropped, found in allowed.items() if not any("borrow" in note for note in found.notes)]
        assert lists
        check_against_oracle(model, lists[:: max(1, len(lists) // 12)], tmp_path)


@needs_libllama
@pytest.mark.parametrize("arch", TINY)
def test_lists_that_are_refused_would_run_otherwise(arch: str, shared: Path, tmp_path: Path) -> None:
    """With the survivors in their places and nothing but the count and the lengths put right."""
    pairs = {}
    with made(arch, shared, tmp_path) as model:
        n = TINY[arch][0]
        refused = sorted_out(model)[1]
        for dropped in refused[:: max(1, len(refused) // 5)]:
            kept = tuple(i for i in range(n) if i not in dropped)
            edits = {f"{arch}.block_count": MetaValue.of(len(kept), ValueType.U32)}
            slices = ()
            if arch == "gemma4":
                unshared = model.metadata.replaced({"gemma4.attention.shared_kv_layers": None})
                easy = prune_layers(unshared, model.tensors, dropped)
                edits, slices = dict(easy.edits), easy.slices
                shared_kv = 3 - sum(i >= n - 3 for i in dropped)
                edits["gemma4.attention.shared_kv_layers"] = MetaValue.of(shared_kv, ValueType.U32)
            naive = LayerPruning(dropped, kept, {old: new for new, old in enumerate(kept)}, edits, slices, ())
            tag = "-".join(map(str, dropped))
            wrong = write_pruned(model, naive, tmp_path / f"wrong-{tag}.gguf")
            pairs[dropped] = wrong, write_switched_off(model, dropped, tmp_path / f"whole-{tag}.gguf")
    logits = logits_of([path for pair in pairs.values() for path in pair])
    for dropped, (wrong, whole) in pairs.items():
        got, expected = logits[wrong], logits[whole]
        assert isinstance(expected, np.ndarray)
        assert isinstance(got, str) or np.abs(got - expected).max() > 0.02 * expected.std(), dropped


@needs_libllama
def test_a_borrower_of_other_keys_and_values_runs_too(shared: Path, tmp_path: Path) -> None:
    with made("gemma4", shared, tmp_path) as model:
        pruning = attempt(model, (3, 4, 5))
        assert any("now borrow" in note for note in pruning.notes)
        path = write_pruned(model, pruning, tmp_path / "pruned.gguf")
    logits = logits_of([path])[path]
    assert isinstance(logits, np.ndarray) and np.isfinite(logits).all()
