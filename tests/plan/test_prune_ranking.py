"""Layers are ranked by how much they look like what came before; ends, gaps and wishes are respected."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from gguftool.errors import UsageError
from gguftool.imatrix.figures import LayerStatistics
from gguftool.plan.prune_ranking import prune_lists, rank_layers


def layer(
    number: int, cosine: float = 0.5, gain: float = 1.0, entropy: float = 90.0, **more: object
) -> LayerStatistics:
    figures = {"cossim_pooled": cosine, "gain": gain, "entropy_norm_pct": entropy, "gap": 0, "mtp": None, **more}
    blank = {"tensors": 7, "n": 64, "total": 1.0, "mean": 1.0, "weighted_sum": 1.0, "zd_pct": 1.0, "cossim": 0.5}
    return LayerStatistics("blk", number, **{**blank, "compared": 7, **figures})  # type: ignore[arg-type]


STACK = [
    layer(0, math.nan, math.nan),
    layer(1, 0.6, 1.5, 91),
    layer(2, 0.9, 1.1, 97),
    layer(3, 0.8, 0.9, 95),
    layer(4, 0.1),
]


def everything(layers: Sequence[int]) -> bool:
    return True


def test_the_layer_most_like_the_one_before_comes_first() -> None:
    ranked = rank_layers(STACK)
    assert [(row.layer, row.rank) for row in ranked] == [(2, 1), (3, 2), (1, 3), (0, 0), (4, 0)]
    assert [row.protected for row in ranked] == ["", "", "", "first", "last"]
    assert ranked[0].score == 0 and ranked[0].cossim_next == 0.8 and ranked[2].score == 1


def test_gain_counts_in_both_directions() -> None:
    rows = [layer(0), layer(1, gain=0.5), layer(2, gain=2.0), layer(3, gain=1.2), layer(4)]
    ranked = rank_layers(rows)
    assert ranked[0].layer == 3 and ranked[1].score == ranked[2].score


def test_what_is_protected() -> None:
    rows = [layer(0), layer(1), layer(2, gap=1), layer(4, cosine=math.nan), layer(5), layer(6), layer(7)]
    reasons = {row.layer: row.protected for row in rank_layers(rows, protect_first=2, keep=[5])}
    assert reasons == {0: "first", 1: "first", 2: "the layer before is missing", 4: "no figures", 5: "kept by request",
                       6: "", 7: "last"}  # fmt: skip
    with pytest.raises(UsageError, match="no tensor of the importance matrix lies in a layer"):
        rank_layers([layer(0, mtp=0)])


def test_lists_come_best_first_and_only_if_allowed() -> None:
    ranked = rank_layers([layer(i, 0.9 - i / 100, entropy=99 - i) for i in range(12)])
    found = list(prune_lists(ranked, 2, everything))
    assert found[0] == (1, 2) and found[1] == (1, 3) and len(set(found)) == math.comb(10, 2)
    scores = {row.layer: row.score for row in ranked}
    sums = [scores[a] + scores[b] for a, b in found]
    assert sums == sorted(sums)
    assert next(prune_lists(ranked, 2, lambda layers: layers[1] - layers[0] == 4)) == (1, 5)
    with pytest.raises(UsageError, match="11 layers are to go, but 10 of 12 may"):
        next(prune_lists(ranked, 11, everything))


def test_the_lists_of_a_deep_model_are_made_quickly() -> None:
    ranked = rank_layers([layer(i, 0.9 - i / 1000) for i in range(126)])
    assert len(list(prune_lists(ranked, 20, everything))) <= 5000
