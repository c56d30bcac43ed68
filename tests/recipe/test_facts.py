"""The facts that mixtures look at, out of metadata of any kind."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support_recipe import DENSE, model, tensor

from gguftool.recipe.facts import facts_of


def test_a_plain_model() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 4,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
        "llama.embedding_length": 256,
        "llama.vocab_size": 1000,
    }
    facts = facts_of(metadata, model(DENSE, 4))
    assert (facts.n_layer, facts.n_layer_source, facts.gqa, facts.n_expert, facts.n_vocab) == (4, 4, 4, 0, 1000)
    assert facts_of(metadata, model(DENSE, 3), n_layer=3).n_layer == 3
    assert facts_of(metadata, model(DENSE, 3), n_layer=3).n_layer_source == 4


def test_per_layer_heads_count_by_layer_0() -> None:
    metadata: dict[str, Any] = {"general.architecture": "lfm2", "lfm2.attention.head_count": 8}
    assert facts_of(metadata | {"lfm2.attention.head_count_kv": [0, 2, 2]}, []).gqa == 0
    assert facts_of(metadata | {"lfm2.attention.head_count_kv": [2, 0, 2]}, []).gqa == 4
    assert facts_of(metadata, []).gqa == 1


def test_files_without_a_block_count_are_counted_by_their_names() -> None:
    vision = [tensor(f"v.blk.{i}.attn_q.weight", 8, 8) for i in range(5)]
    assert facts_of({"general.architecture": "clip"}, vision).n_layer == 5
    assert facts_of({}, []).n_layer == 0


@given(
    st.dictionaries(
        st.sampled_from(
            ["general.architecture", "a.block_count", "a.attention.head_count", "a.expert_count", "a.vocab_size"]
        ),
        st.one_of(st.just("a"), st.integers(), st.floats(), st.booleans(), st.text(), st.lists(st.integers())),
    )
)
def test_odd_metadata_is_tolerated(metadata: dict[str, Any]) -> None:
    facts = facts_of(metadata, model(["attn_q"], 2))
    assert facts.n_layer >= 0 and facts.gqa >= 0
