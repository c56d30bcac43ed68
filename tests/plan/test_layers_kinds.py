"""Every architecture whose layers differ by number, against functions of the index written down a second time here."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support_prune import described

from gguftool.errors import PlanError
from gguftool.format.metadata import Metadata
from gguftool.plan.layers import LayerPruning, prune_layers

SWP, SW, LDB = "attention.sliding_window_pattern", "attention.sliding_window", "leading_dense_block_count"
Keys = Mapping[str, Any]
Kinds = list[Any]


def last(p: int, n: int) -> str:
    return "".join("F" if p and (i + 1) % p == 0 else "S" for i in range(n))


def first(p: int, n: int) -> str:
    return "".join("F" if p and i % p == 0 else "S" for i in range(n))


def windowed(
    kinds: Callable[[int, int], str], default: int, *, needs_window: bool = False
) -> Callable[[Keys, int], Kinds]:
    def reference(keys: Keys, n: int) -> Kinds:
        if needs_window and not keys.get(SW):
            return ["F"] * n
        value = keys.get(SWP, default)
        if isinstance(value, list):
            return ["S" if v else "F" for v in value]
        return list(kinds(value, n))

    return reference


def with_dense(attention: Callable[[Keys, int], Kinds]) -> Callable[[Keys, int], Kinds]:
    return lambda keys, n: [(a, i < keys[LDB]) for i, a in enumerate(attention(keys, n))]


def llama4(keys: Keys, n: int) -> Kinds:
    step = keys["interleave_moe_layer_step"]
    chunked = last(keys.get(SWP, 4), n)
    return [(chunked[i], (i + 1) % 4 == 0, step > 0 and (i + 1) % step == 0) for i in range(n)]


def no_rope(attention: Callable[[Keys, int], Kinds], phase: int) -> Callable[[Keys, int], Kinds]:
    return lambda keys, n: [(a, (i + phase) % 4 == 0) for i, a in enumerate(attention(keys, n))]


def interval(default: int) -> Callable[[Keys, int], Kinds]:
    def reference(keys: Keys, n: int) -> Kinds:
        if "attention.recurrent_layers" in keys:
            return ["R" if v else "A" for v in keys["attention.recurrent_layers"]]
        return ["R" if (i + 1) % keys.get("full_attention_interval", default) else "A" for i in range(n)]

    return reference


WINDOW = {SW: 512}
DENSE = {SW: 512, LDB: 2}

#: name: keys, layers, kinds of all layers, whether every truth of the index can be written as an array
PERIODIC: dict[str, tuple[Keys, int, Callable[[Keys, int], Kinds], bool]] = {
    "gemma2": ({}, 7, windowed(last, 2), False),
    "gemma3": (WINDOW, 8, windowed(last, 6, needs_window=True), False),
    "gemma-embedding": (WINDOW, 8, windowed(last, 6), False),
    "cohere2": (WINDOW, 8, windowed(last, 4), False),
    "cohere2moe": (DENSE, 8, with_dense(windowed(first, 4)), True),
    "gpt-oss": (WINDOW, 7, windowed(last, 2), False),
    "llama4": ({"interleave_moe_layer_step": 2}, 8, llama4, False),
    "exaone-moe": (DENSE, 8, with_dense(windowed(last, 4)), False),
    "olmo2": (WINDOW, 8, windowed(last, 4, needs_window=True), False),
    "plamo3": (WINDOW, 17, windowed(last, 8, needs_window=True), False),
    "afmoe": (DENSE, 8, no_rope(with_dense(windowed(last, 4, needs_window=True)), 1), False),
    "smallthinker": (WINDOW, 8, no_rope(windowed(first, 4, needs_window=True), 0), False),
    "laguna": (DENSE, 8, with_dense(windowed(first, 4, needs_window=True)), False),
    "modern-bert": (WINDOW, 7, windowed(first, 3, needs_window=True), False),
    "muse-glimmer": (WINDOW, 8, windowed(last, 4), True),
    "mellum": (WINDOW, 8, windowed(last, 4, needs_window=True), True),
    "smollm3": ({}, 8, no_rope(lambda keys, n: ["F"] * n, 1), False),
    "qwen3next": ({}, 8, interval(4), True),
    "qwen35": ({}, 8, interval(4), True),
    "qwen35moe": ({"full_attention_interval": 3}, 7, interval(4), True),
    "minimax-01": ({}, 9, interval(8), True),
    "nomic-bert-moe": (
        {"moe_every_n_layers": 2},
        7,
        lambda keys, n: [keys["moe_every_n_layers"] > 0 and i % keys["moe_every_n_layers"] == 1 for i in range(n)],
        False,
    ),
}


def keys_of(metadata: Metadata, arch: str) -> dict[str, Any]:
    return {name.removeprefix(f"{arch}."): value for name, value in metadata.items() if name.startswith(f"{arch}.")}


def attempt(arch: str, n: int, keys: Keys, dropped: tuple[int, ...], **allowed: bool) -> LayerPruning | None:
    metadata, tensors = described(arch, n, keys)
    try:
        return prune_layers(metadata, tensors, dropped, **allowed)
    except PlanError as error:
        assert "cannot prune" in str(error)
        return None


def after(arch: str, n: int, keys: Keys, pruning: LayerPruning) -> dict[str, Any]:
    return keys_of(described(arch, n, keys)[0].replaced(pruning.edits), arch)


def subsets(n: int, seed: str, limit: int = 120) -> list[tuple[int, ...]]:
    every = [c for size in range(1, n) for c in itertools.combinations(range(n), size)]
    return every if len(every) <= limit else random.Random(seed).sample(every, limit)


def expressible(arch: str, n: int, keys: Keys, kept: list[int]) -> bool:
    """Whether some value of the periods gives the survivors their kinds, by trying all of them."""
    reference = PERIODIC[arch][2]
    wanted = [reference(keys, n)[i] for i in kept]
    base = dict(keys)
    if LDB in base:
        base[LDB] = sum(i < keys[LDB] for i in kept)
    # a period of 1 makes all layers full, which cannot be run; so does a period that only layer 0 fits
    periods = (
        [None, 0, *range(2, len(kept) + 2)] if SWP in base or SW in base or arch in ("gemma2", "llama4") else [None]
    )
    own = {"nomic-bert-moe": "moe_every_n_layers", "llama4": "interleave_moe_layer_step"}.get(arch)
    for period in periods:
        for other in range(len(kept) + 2) if own else [0]:
            trial = base if period is None else {**base, SWP: period}
            trial = {**trial, own: other} if own else trial
            if reference(trial, len(kept)) == wanted:
                return True
    return False


def only_full(kinds: Kinds) -> bool:
    return all(
        (kind if isinstance(kind, str) else kind[0][0] if isinstance(kind[0], tuple) else kind[0]) == "F"
        for kind in kinds
    )


@pytest.mark.parametrize("arch", PERIODIC)
def test_survivors_keep_their_kinds_or_nothing_is_pruned(arch: str) -> None:
    keys, n, reference, as_array = PERIODIC[arch]
    accepted = refused = 0
    for dropped in subsets(n, arch):
        kept = [i for i in range(n) if i not in dropped]
        wanted = [reference(keys, n)[i] for i in kept]
        pruning = attempt(arch, n, keys, dropped)
        if pruning is not None:
            accepted += 1
            assert pruning.kept == tuple(kept)
            assert reference(after(arch, n, keys, pruning), len(kept)) == wanted
            continue
        refused += 1
        if arch in ("qwen3next", "qwen35", "qwen35moe", "minimax-01"):
            assert len(set(wanted)) == 1  # only attention or only recurrent layers
        elif arch in ("smollm3", "nomic-bert-moe") or not only_full(wanted):
            assert not as_array
            assert not expressible(arch, n, keys, kept)
    assert accepted
    assert refused or as_array or arch == "nomic-bert-moe"


@pytest.mark.parametrize("arch", [name for name, row in PERIODIC.items() if SW in row[0] or name == "gemma2"])
def test_an_array_fits_what_no_period_fits_but_never_only_full_layers(arch: str) -> None:
    keys, n, reference, _ = PERIODIC[arch]
    hard_coded = arch in ("afmoe", "smallthinker")
    for dropped in subsets(n, arch, 60):
        kept = [i for i in range(n) if i not in dropped]
        wanted = [reference(keys, n)[i] for i in kept]
        pruning = attempt(arch, n, keys, dropped, allow_layer_arrays=True)
        if pruning is None:
            assert hard_coded or only_full(wanted)
        else:
            assert reference(after(arch, n, keys, pruning), len(kept)) == wanted


@pytest.mark.parametrize("arch", ["gemma3", "olmo2", "plamo3", "laguna", "modern-bert", "mellum"])
def test_the_window_goes_when_only_full_layers_are_left(arch: str) -> None:
    keys, n, reference, _ = PERIODIC[arch]
    dropped = tuple(i for i, kind in enumerate(reference(keys, n)) if "S" in kind)
    pruning = attempt(arch, n, keys, dropped)
    assert pruning is not None
    assert pruning.edits[f"{arch}.{SW}"] is None
    assert any("only layers with full attention" in note for note in pruning.notes)


@pytest.mark.parametrize("arch", ["gemma2", "cohere2", "gpt-oss", "smallthinker", "afmoe", "llama4", "exaone-moe"])
def test_only_full_layers_are_refused_where_the_window_must_stay(arch: str) -> None:
    keys, n, reference, _ = PERIODIC[arch]
    dropped = tuple(i for i, kind in enumerate(reference(keys, n)) if not only_full([kind]))
    metadata, tensors = described(arch, n, keys)
    with pytest.raises(PlanError, match="only layers with full attention would be left"):
        prune_layers(metadata, tensors, dropped, allow_layer_arrays=True)


@pytest.mark.parametrize("arch", ["gemma3", "olmo2", "plamo3", "laguna", "modern-bert", "mellum"])
def test_without_a_window_the_pattern_means_nothing(arch: str) -> None:
    _, n, _, _ = PERIODIC[arch]
    keys = {SW: 0, SWP: 3} if arch != "laguna" else {SW: 0, SWP: 3, LDB: 0}
    for dropped in ((0,), (1, 4), (2, 3)):
        pruning = attempt(arch, n, keys, dropped)
        assert pruning is not None
        assert set(pruning.edits) == {f"{arch}.block_count"}


def test_the_refusal_names_layer_kinds_key_and_a_way_out() -> None:
    metadata, tensors = described("gemma3", 26, {SW: 512, SWP: 6})
    with pytest.raises(PlanError) as caught:
        prune_layers(metadata, tensors, (3,))
    text = str(caught.value)
    assert "layer 5 (then 4) would change its attention from full to sliding" in text
    assert "gemma3.attention.sliding_window_pattern = 6" in text
    assert "--allow-layer-arrays" in text
    assert "nearest allowed: 24" in text
    assert attempt("gemma3", 26, {SW: 512, SWP: 6}, (24,)) is not None


def test_no_pattern_of_a_refused_hard_coded_rule_is_offered() -> None:
    metadata, tensors = described("smollm3", 36)
    with pytest.raises(PlanError) as caught:
        prune_layers(metadata, tensors, (5,))
    assert "layer 7 (then 6) would change its position encoding from no rope to rope: hard-coded" in str(caught.value)
    assert "nearest allowed: 35" in str(caught.value)
    assert "array" not in str(caught.value)
    assert attempt("smollm3", 36, {}, (4, 5, 6, 7)) is not None
    assert attempt("smollm3", 36, {}, (5, 6, 7, 8)) is not None


@pytest.mark.parametrize(
    ("n", "dropped", "fine"), [(64, (0, 1, 2, 3), False), (65, (0,), False), (65, (0, 1), True), (32, (5,), True)]
)
def test_exaone4_slides_with_exactly_64_layers(n: int, dropped: tuple[int, ...], fine: bool) -> None:
    assert (attempt("exaone4", n, WINDOW, dropped) is not None) is fine


@pytest.mark.parametrize(("arch", "n"), [("gemma2", 46), ("gemma3", 62)])
def test_attention_scale_hangs_on_the_number_of_layers(arch: str, n: int) -> None:
    sizes = {**WINDOW, "embedding_length": 4608, "attention.head_count": 32, "attention.key_length": 128}
    period = 2 if arch == "gemma2" else 6
    metadata, tensors = described(arch, n, sizes)
    with pytest.raises(PlanError, match=r"attention scale .* from 1/sqrt\(144\) to 1/sqrt\(128\)"):
        prune_layers(metadata, tensors, range(period))
    assert attempt(arch, n, {**sizes, "attention.key_length": 144}, tuple(range(period))) is not None
    assert attempt(arch, n + period, sizes, tuple(range(period))) is None
    assert attempt(arch, n + 2 * period, sizes, tuple(range(period))) is not None


def test_llama4_without_chunks_has_rope_everywhere() -> None:
    keys = {SW: 0, "interleave_moe_layer_step": 1}
    assert attempt("llama4", 8, keys, (2,)) is not None
    assert attempt("llama4", 8, {"interleave_moe_layer_step": 1}, (2,)) is None


def test_phi3_ignores_its_window() -> None:
    assert attempt("phi3", 6, {SW: 2048, SWP: 2}, (0, 3)) is not None
