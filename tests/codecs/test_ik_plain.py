"""Q8_KV: the reference's bytes, and the sum of its codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_golden import SETS, golden_blocks, golden_inputs
from support_search import awkward_rows, wild_rows

from gguftool.codecs import dispatch


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
