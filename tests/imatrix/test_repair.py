"""Holes of an importance matrix filled: from what, by how much, and never at the price of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_imatrix import F32, Entry, floats, imatrix_gguf

from gguftool.errors import ImatrixError, UsageError
from gguftool.imatrix.aliases import has_own_channels
from gguftool.imatrix.file import ImatrixEntry, open_imatrix
from gguftool.imatrix.matrices import Matrices, matrices_of
from gguftool.imatrix.repair import Repair, parse_policies, repaired

UP, GATE, DOWN = (f"blk.1.ffn_{kind}_exps.weight" for kind in ("up", "gate", "down"))
SOLE = "blk.1.ffn_other_exps.weight"


def mended(
    tmp_path: Path,
    entries: Sequence[Entry],
    *policies: str,
    wanted: Mapping[str, tuple[int, int]] | None = None,
    extra: Sequence[object] = (),
    use_same_input: bool = True,
) -> tuple[Matrices, list[Repair]]:
    (tmp_path / "x").write_bytes(imatrix_gguf(entries, extra=extra))  # type: ignore[arg-type]
    source = matrices_of(open_imatrix(tmp_path / "x"))
    return repaired(source, wanted or {}, policies, "x", use_same_input=use_same_input)


def means(entry: ImatrixEntry) -> list[list[float]]:
    return [list(row) for row in entry.mean_squares]


def test_same_input_is_exact_and_keeps_its_tokens(tmp_path: Path) -> None:
    found, rows = mended(tmp_path, [(UP, (4, 8, 0, 0), (4, 0)), (GATE, (4, 8, 6, 3), (4, 3))], "mean")
    entry = found.read(UP)
    assert entry.counts.tolist() == [4, 3] and means(entry) == [[1, 2], [2, 1]]
    assert rows == [Repair(UP, 2, (1,), "same input", GATE)]
    assert next(o for o in found.outlines if o.name == UP).counts.tolist() == [4, 3]


def test_same_input_can_be_declined_and_must_have_the_same_width(tmp_path: Path) -> None:
    entries: list[Entry] = [(UP, (4, 8, 0, 0), (4, 0)), (GATE, (4, 8, 6, 3), (4, 3))]
    _, rows = mended(tmp_path, entries, "mean", use_same_input=False)
    assert [row.way for row in rows] == ["mean"]
    _, rows = mended(tmp_path, [entries[0], (GATE, (4, 8, 1, 6, 3, 2), (4, 3))], "mean")
    assert [row.way for row in rows] == ["mean"]


def test_mean_weighs_every_token_alike_and_counts_as_one(tmp_path: Path) -> None:
    found, rows = mended(tmp_path, [(SOLE, (1, 3, 0, 0, 6, 6), (1, 0, 3))], "mean")
    entry = found.read(SOLE)
    assert means(entry) == [[1, 3], [7 / 4, 9 / 4], [2, 2]] and entry.counts.tolist() == [1, 1, 3]
    assert rows == [Repair(SOLE, 3, (1,), "mean", "the mean of its 2 reached")]


def test_neighbour_is_the_nearest_layer_and_the_earlier_of_two(tmp_path: Path) -> None:
    names = [f"blk.{i}.ffn_other.weight" for i in range(6)]
    entries = [(name, (i, 1), (bool(i % 2) and 1,)) for i, name in enumerate(names)]
    entries[0] = (names[0], (0, 0), (0,))
    found, rows = mended(tmp_path, entries, "neighbour")
    assert means(found.read(names[0])) == [[1, 1]] and means(found.read(names[2])) == [[1, 1]]
    assert means(found.read(names[4])) == [[3, 1]]
    assert [row.source for row in rows] == [f"the mean of {names[i]}" for i in (1, 1, 3)]


def test_mean_of_a_tensor_without_any_is_over_all_layers(tmp_path: Path) -> None:
    entries: list[Entry] = [("blk.0.x.weight", (2, 4), (2,)), ("blk.1.x.weight", (0, 0), (0,)),
                            ("blk.7.x.weight", (6, 0), (2,)), ("blk.8.x.weight", (1, 2, 3), (1,))]  # fmt: skip
    found, rows = mended(tmp_path, entries, "mean")
    assert means(found.read("blk.1.x.weight")) == [[2, 1]] and rows[0].source == "the mean of 2 layers"


def test_ones(tmp_path: Path) -> None:
    found, _ = mended(tmp_path, [(SOLE, (8, 8, 0, 0), (2, 0))], "ones")
    assert means(found.read(SOLE)) == [[4, 4], [1, 1]]


def test_error_names_the_hole(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"'blk\.1\.ffn_other_exps\.weight', matrix 1, has no importances"):
        mended(tmp_path, [(SOLE, (8, 8, 0, 0), (2, 0))], "error")
    found, _ = mended(tmp_path, [(UP, (4, 8, 0, 0), (4, 0)), (GATE, (4, 8, 6, 3), (4, 3))], "error")
    assert found.read(UP).counts.all()  # what is exact is no stand-in


def test_policies_are_tried_in_order(tmp_path: Path) -> None:
    lonely: list[Entry] = [("output.weight", (0, 0), (0,)), ("blk.0.x.weight", (1, 1), (1,))]
    found, rows = mended(tmp_path, lonely, "mean")
    assert [(row.name, row.way) for row in rows] == [("output.weight", "left")]
    assert found.read("output.weight").counts.tolist() == [0]
    _, rows = mended(tmp_path, lonely, "mean", "neighbour", "ones")
    assert [row.way for row in rows] == ["ones"]
    with pytest.raises(ImatrixError, match=r"'output\.weight' has no importances"):
        mended(tmp_path, lonely, "mean", "error")


def test_wanted_entries_appear(tmp_path: Path) -> None:
    entries: list[Entry] = [("blk.0.ffn_up.weight", (2, 4), (2,)), ("blk.1.attn_q.weight", (9, 3), (3,)),
                            ("blk.0.attn_within.weight", (1, 2), (1,))]  # fmt: skip
    wanted = {
        "blk.0.ffn_gate.weight": (1, 2),
        "blk.1.attn_k.weight": (1, 2),
        "blk.1.attn_within.weight": (1, 2),
        "blk.1.ssm_in.weight": (1, 2),
    }
    found, rows = mended(tmp_path, entries, "neighbour", wanted=wanted)
    assert [(row.name, row.way) for row in rows] == [
        ("blk.0.ffn_gate.weight", "same input"), ("blk.1.attn_k.weight", "same input"),
        ("blk.1.attn_within.weight", "neighbour"), ("blk.1.ssm_in.weight", "left"),
    ]  # fmt: skip
    assert found.read("blk.1.attn_k.weight").sums.tolist() == [[9, 3]]
    names = [*(name for name, _, _ in entries), *list(wanted)[:3]]
    assert [outline.name for outline in found.outlines] == sorted(names)


def test_signed_sums_follow(tmp_path: Path) -> None:
    signed = [
        (f"{UP}.in_sum", [2, 2], F32, floats([-2, 2, 0, 0])),
        (f"{GATE}.in_sum", [2, 2], F32, floats([1, 1, -3, 3])),
    ]
    entries: list[Entry] = [(UP, (4, 8, 0, 0), (4, 0)), (GATE, (4, 8, 6, 3), (4, 3)), (DOWN, (4, 8, 0, 0), (4, 0))]
    found, _ = mended(tmp_path, entries, "mean", extra=signed, wanted={"blk.1.ffn_gate_up_exps.weight": (2, 2)})
    entry = found.read(UP)
    assert entry.signed is not None and entry.signed.tolist() == [[-2, 2], [-3, 3]]
    assert found.read(DOWN).signed is None
    anew = found.read("blk.1.ffn_gate_up_exps.weight")
    assert anew.signed is not None and anew.signed.tolist() == [[-2, 2], [-3, 3]]


def test_channels_of_their_own_are_not_guessed_from_others(tmp_path: Path) -> None:
    entries: list[Entry] = [(DOWN, (4, 8, 0, 0), (4, 0)), ("blk.0.attn_output.weight", (1, 2), (1,)),
                            ("blk.2.attn_output.weight", (0, 0), (0,))]  # fmt: skip
    _, rows = mended(tmp_path, entries, "mean", "neighbour")
    assert [(row.way, row.source) for row in rows] == [("left", "its channels mean nothing elsewhere")] * 2
    found, rows = mended(tmp_path, entries, "mean", "ones")
    assert [row.way for row in rows] == ["ones"] * 2 and means(found.read(DOWN)) == [[1, 2], [1, 1]]


@pytest.mark.parametrize("model", ["llama-11m", "moe-8m"])
def test_stand_ins_are_nearer_the_truth_than_ones(shared: Path, model: str) -> None:
    """One entry or expert left out at a time: what --missing mean makes of it, against what the text gave."""
    whole = open_imatrix(shared / "imatrix" / f"prose-{model}.imatrix.gguf")
    moved: dict[str, list[float]] = {"mean": [], "ones": []}
    for name in whole.names:
        if not name.startswith("blk.3.") or has_own_channels(name):
            continue
        for policy, distances in moved.items():
            holed = matrices_of(whole.without_matrices({name: [0]}))
            found, _ = repaired(holed, {}, [policy], "x", use_same_input=False)
            a, b = found.read(name).mean_squares[0], whole.mean_squares(name, 0)
            distances.append(float(np.abs(a / a.sum() - b / b.sum()).sum() / 2))
    assert len(moved["mean"]) >= 5 and np.mean(moved["mean"]) < 0.75 * np.mean(moved["ones"])


def test_words_of_policies() -> None:
    assert parse_policies("mean, ones") == parse_policies(["mean", "ones"]) == ("mean", "ones")
    for words in ("median", "mean,", "", []):
        with pytest.raises(UsageError):
            parse_policies(words)


_COUNTS = st.lists(st.integers(0, 3), min_size=3, max_size=3)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(_COUNTS, min_size=2, max_size=6), st.sampled_from(["mean", "neighbour", "ones"]), st.randoms())
def test_what_was_measured_stays_and_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, counts: list[list[int]], policy: str, random: object
) -> None:
    kinds = ("up", "gate", "down")
    entries = [
        (
            f"blk.{i // 3}.ffn_{kinds[i % 3]}_exps.weight",
            [float(c * (k + j + 1)) for k, c in enumerate(row) for j in (0, 1)],
            row,
        )
        for i, row in enumerate(counts)
    ]
    folder = tmp_path_factory.mktemp("r")
    found, rows = mended(folder, entries, policy, "ones")
    assert all(row.way != "left" for row in rows)
    assert sum(len(row.matrices) for row in rows) == sum(c == 0 for row in counts for c in row)
    before = open_imatrix(folder / "x")
    for outline in found.outlines:
        entry, old = found.read(outline.name), before.entry(outline.name)
        assert (entry.counts == outline.counts).all() and entry.counts.all()
        kept = old.counts > 0
        assert (entry.sums[kept] == old.sums[kept]).all() and (entry.counts[kept] == old.counts[kept]).all()
        assert np.isfinite(entry.sums).all() and (entry.mean_squares[~kept] > 0).all()
