"""Q6_0, a search, and Q8_KV, the reference's rounding: errors, bytes, sums of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_golden import SETS, golden_blocks, golden_inputs, golden_ratios, rel_mse, rel_wmse
from support_search import awkward_importance, awkward_rows, in_every_way, lognormal, wild_rows

from gguftool.codecs import dispatch

#: Mean error ratios of Q6_0 to the reference that must be reached, with an importance and without one.
LIMITS = {"fast": (0.98, 0.955), "default": (0.96, 0.945), "best": (0.96, 0.94)}


@pytest.mark.parametrize("effort", LIMITS)
def test_error_of_q6_0_against_the_reference(shared: Path, effort: str) -> None:
    for imatrix, limit in zip((True, False), LIMITS[effort], strict=True):
        ratios = golden_ratios(shared, "q6_0", imatrix, effort=effort, objective="imatrix")
        assert ratios["mean"] <= limit, ratios
        assert max(ratios.values()) <= limit + 0.015, ratios


def test_no_row_of_q6_0_is_worse_than_the_reference(shared: Path) -> None:
    a = golden_inputs(shared)["imatrix"]
    for key in SETS:
        x, theirs = golden_inputs(shared)[key], golden_blocks(shared, "q6_0")[f"dq_{key}_im"]
        ours = dispatch.decode(dispatch.encode(x, "q6_0", a, objective="imatrix"), "q6_0", x.shape[1])
        for r in range(len(x)):
            assert rel_wmse(x[r], ours[r], a) < rel_wmse(x[r], theirs[r], a)


@pytest.mark.parametrize("n_cols", (32, 480, 544, 1056))
def test_a_block_of_q6_0_does_not_depend_on_its_neighbours(n_cols: int) -> None:
    x, a = awkward_rows(n_cols), lognormal(n_cols)
    for importance in (a, None):
        whole = dispatch.encode(x, "q6_0", importance, objective="imatrix")
        last = dispatch.encode(x[:, -32:], "q6_0", None if importance is None else a[-32:], objective="imatrix")
        assert whole[:, -26:].tobytes() == last.tobytes()


def test_each_objective_wins_by_its_own_measure() -> None:
    x, a = (0.02 * np.random.default_rng(8).standard_t(4, (8, 1024))).astype(np.float32), lognormal(1024)
    squares = x.astype(np.float64) ** 2
    for importance, theirs in ((a, a * np.sqrt(squares.mean(1, keepdims=True) + squares)), (None, squares)):
        rows = {
            o: dispatch.decode(dispatch.encode(x, "q6_0", importance, objective=o), "q6_0", 1024)
            for o in ("imatrix", "mse", "ref")
        }
        assert (
            min(rows, key=lambda o: rel_wmse(x, rows[o], a if importance is not None else np.ones(1024))) == "imatrix"
        )
        assert min(rows, key=lambda o: float((theirs * (x - rows[o]) ** 2).sum())) == "ref"
        assert rel_mse(x, rows["mse"]) <= rel_mse(x, rows["imatrix"])


def test_q8_kv_is_the_reference_to_the_byte(shared: Path) -> None:
    inputs, theirs = golden_inputs(shared), golden_blocks(shared, "q8_KV")
    for key in (*SETS, "edge"):
        assert dispatch.encode(inputs[key], "q8_KV").tobytes() == theirs[f"q_{key}_noim"].tobytes()


@pytest.mark.parametrize("n_cols", (32, 96, 1024, 4128))
def test_q8_kv_stores_the_sum_of_its_codes(n_cols: int) -> None:
    for x in (awkward_rows(n_cols), wild_rows(3, n_cols), np.full((1, n_cols), -0.5, np.float32)):
        blocks = dispatch.encode(x, "q8_KV")
        sums = np.ascontiguousarray(blocks[:, 4:8]).view(np.int32)[:, 0]
        assert (sums == blocks[:, 8:].view(np.int8).sum(1, dtype=np.int64)).all()
        y, largest = dispatch.decode(blocks, "q8_KV", n_cols).astype(np.float64), np.abs(x).max(1).astype(np.float64)
        assert (np.abs(x - y).max(1) <= largest / 253 + 1e-43).all()


@pytest.mark.parametrize("name", ("q6_0", "q8_KV"))
def test_every_way_gives_the_same_bytes(name: str) -> None:
    for n, x in ((1056, awkward_rows(1056)), (96, wild_rows(5, 96))):
        for a in (lognormal(n), awkward_importance(n), None):
            for objective in ("imatrix", "ref", "mse"):
                for effort in ("fast", "default"):
                    assert len(set(in_every_way(x, name, a, objective, effort).values())) == 1
