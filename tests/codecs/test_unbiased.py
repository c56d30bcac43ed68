"""The objective "unbiased": every row's weighted projection on what it came from is 1, on any backend."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from gguftool.codecs import dispatch

TYPES = ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")

SCRIPT = """
import hashlib, sys
import numpy as np
from gguftool.codecs.dispatch import encode
rows, importance = np.load(sys.argv[1]), np.load(sys.argv[2])
for kind in sys.argv[3:]:
    for a in (importance, None):
        print(hashlib.sha256(encode(rows, kind, a, objective="unbiased").tobytes()).hexdigest())
"""


@pytest.fixture
def rows() -> np.ndarray:
    found = (np.random.default_rng(5).standard_t(4, (6, 512)) * 0.02).astype(np.float32)
    found[4] = 0
    found[5, :256] = 0
    return found


@pytest.fixture
def importance() -> np.ndarray:
    return np.exp(np.random.default_rng(6).standard_normal(512))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("weighted", [True, False])
def test_rows_keep_their_gain(kind: str, weighted: bool, rows: np.ndarray, importance: np.ndarray) -> None:
    a = importance if weighted else None
    w = importance if weighted else np.ones(512)
    stored = dispatch.decode(dispatch.encode(rows, kind, a, objective="unbiased"), kind, 512).astype(np.float64)
    live = [0, 1, 2, 3, 5]
    gain = (w * rows * stored).sum(1)[live] / (w * rows * rows).sum(1)[live]
    assert np.abs(gain - 1).max() < 2e-3
    assert not stored[4].any()
    if kind in ("q2_K", "q3_K"):
        _shrinks(kind, rows[live], a, w)


def _shrinks(kind: str, rows: np.ndarray, a: np.ndarray | None, w: np.ndarray) -> None:
    shrunk = dispatch.decode(dispatch.encode(rows, kind, a, objective="imatrix"), kind, 512)
    assert ((w * rows * shrunk).sum(1) < 0.99 * (w * rows * rows).sum(1)).all()


@pytest.mark.parametrize("kind", TYPES)
def test_only_scales_change(kind: str, rows: np.ndarray, importance: np.ndarray) -> None:
    plain = dispatch.encode(rows, kind, importance, objective="imatrix")
    fair = dispatch.encode(rows, kind, importance, objective="unbiased")
    differing = {int(i) for i in np.flatnonzero((plain != fair).any(axis=0) % 2)}
    block = plain.shape[1] // 2
    places = {"q2_K": range(80, 84), "q3_K": range(108, 110), "q6_K": range(208, 210)}.get(kind, range(4))
    assert differing and all(i % block in places for i in differing)


def test_legacy_types_keep_their_bytes(rows: np.ndarray) -> None:
    for kind in ("q8_0", "q4_0", "f16"):
        assert (dispatch.encode(rows, kind, objective="unbiased") == dispatch.encode(rows, kind)).all()


def test_every_backend_gives_the_same_bytes(rows: np.ndarray, importance: np.ndarray, tmp_path: object) -> None:
    paths = [f"{tmp_path}/{name}.npy" for name in ("rows", "importance")]
    np.save(paths[0], rows)
    np.save(paths[1], importance)
    seen = set()
    for setting in ({"GGUFTOOL_BACKEND": "numba"}, {"GGUFTOOL_ISA": "base"}, {}):
        command = [sys.executable, "-c", SCRIPT, *paths, *TYPES]
        seen.add(subprocess.run(command, env=os.environ | setting, check=True, capture_output=True).stdout)
    assert len(seen) == 1


def test_defaults_are_known_objectives() -> None:
    assert set(dispatch.DEFAULT_OBJECTIVE.values()) <= set(dispatch.OBJECTIVES)
    assert dispatch.default_objective(dispatch.type_by_name("q2_K")) == "unbiased"
    assert dispatch.default_objective(dispatch.type_by_name("q4_K")) == "imatrix"
