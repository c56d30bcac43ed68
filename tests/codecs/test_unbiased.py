"""The objective "unbiased": every row's weighted projection on what it came from is 1, on any backend."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from support_golden import GRIDS, IK_K, IK_KS, IK_KT, IQ4, KQUANTS, scale_values, set_scales

from gguftool.codecs import dispatch, jit
from gguftool.format.quanttypes import type_by_name

SOUGHT = (*KQUANTS, *IQ4, *IK_K, *IK_KS, *IK_KT, *GRIDS, "tq1_0", "tq2_0", "q2_0", "q6_0")
TYPES = tuple(name for name in SOUGHT if dispatch.can_encode(type_by_name(name)))
IN_NUMBA = tuple(name for name in TYPES if jit.codecs()[type_by_name(name).id].encodes)

#: Bytes of a block that hold its scales, where it is not the first two.
PLACES = {"q2_K": range(80, 84), "q3_K": range(108, 110), "q4_K": range(4), "q5_K": range(4), "q6_K": range(208, 210)}
PLACES |= {"tq1_0": range(52, 54), "tq2_0": range(64, 66)}

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


@pytest.mark.parametrize("kind", [kind for kind in TYPES if not kind.startswith("tq")])  # these may need more than 1.5
@pytest.mark.parametrize("weighted", [True, False])
def test_rows_keep_their_gain(kind: str, weighted: bool, rows: np.ndarray, importance: np.ndarray) -> None:
    a = importance if weighted else None
    w = importance if weighted else np.ones(512)
    stored = dispatch.decode(dispatch.encode(rows, kind, a, objective="unbiased"), kind, 512).astype(np.float64)
    live = [0, 1, 2, 3, 5]
    gain = (w * rows * stored).sum(1)[live] / (w * rows * rows).sum(1)[live]
    assert np.abs(gain - 1).max() < 2e-3
    assert not stored[4].any()
    if kind in ("q2_K", "q3_K") or kind in GRIDS:
        _shrinks(kind, rows[live], a, w)


def _shrinks(kind: str, rows: np.ndarray, a: np.ndarray | None, w: np.ndarray) -> None:
    shrunk = dispatch.decode(dispatch.encode(rows, kind, a, objective="imatrix"), kind, 512)
    assert ((w * rows * shrunk).sum(1) < 0.99 * (w * rows * rows).sum(1)).all()


@pytest.mark.parametrize("kind", TYPES)
def test_only_scales_change(kind: str, rows: np.ndarray, importance: np.ndarray) -> None:
    plain = dispatch.encode(rows, kind, importance, objective="imatrix")
    fair = dispatch.encode(rows, kind, importance, objective="unbiased")
    differing = np.flatnonzero((plain != fair).any(axis=0))
    header = type_by_name(kind).row_header
    size = plain.shape[1] if header else type_by_name(kind).block_bytes
    places = {"iq1_m": range(49, 56, 2)}.get(kind) or PLACES.get(kind, range(header or 2))
    assert differing.size or kind == "iq6_k"  # whose gain is 1, to the precision of its scales
    assert all(i % size in places for i in differing)
    if kind == "iq1_m":  # the lower nibbles of those bytes are sub-block scales
        assert (plain[:, :56][:, 49::2] & 15 == fair[:, :56][:, 49::2] & 15).all()


@pytest.mark.parametrize("kind", [kind for kind in TYPES if type_by_name(kind).row_header >= 4])
def test_no_gain_makes_the_largest_numbers_infinite(kind: str, importance: np.ndarray) -> None:
    rng = np.random.default_rng(9)
    for x in (rng.choice((-1, 1), (4, 512)), rng.uniform(-1, 1, (4, 512)), 0.4 * rng.standard_normal((4, 512))):
        rows = (np.clip(x, -1, 1) * np.finfo(np.float32).max).astype(np.float32)
        for a in (importance, None):
            blocks = dispatch.encode(rows, kind, a, objective="unbiased")
            assert np.isfinite(dispatch.decode(blocks, kind, 512)).all()


def test_legacy_types_keep_their_bytes(rows: np.ndarray) -> None:
    for kind in ("q8_0", "q4_0", "f16"):
        assert (dispatch.encode(rows, kind, objective="unbiased") == dispatch.encode(rows, kind)).all()


def test_every_backend_gives_the_same_bytes(rows: np.ndarray, importance: np.ndarray, tmp_path: object) -> None:
    paths = [f"{tmp_path}/{name}.npy" for name in ("rows", "importance")]
    np.save(paths[0], rows)
    np.save(paths[1], importance)
    seen = {}
    for setting in ({}, {"GGUFTOOL_ISA": "base"}, {"GGUFTOOL_BACKEND": "numba"}):
        kinds = IN_NUMBA if "GGUFTOOL_BACKEND" in setting else TYPES
        command = [sys.executable, "-c", SCRIPT, *paths, *kinds]
        hashes = subprocess.run(command, env=os.environ | setting, check=True, capture_output=True).stdout.split()
        for k, kind in enumerate(kinds):
            assert seen.setdefault(kind, hashes[2 * k : 2 * k + 2]) == hashes[2 * k : 2 * k + 2], (kind, setting)


@pytest.mark.parametrize("kind", [kind for kind in jit.SCALES if type_by_name(kind).row_header])
def test_the_scale_in_a_rows_header_is_multiplied(kind: str) -> None:
    t = type_by_name(kind)
    for scale in (0.0, 0.01171875, -0.75):
        row = np.random.default_rng(8).integers(0, 256, t.row_nbytes(512), dtype=np.uint8)
        row[: t.row_header] = np.array([scale], np.float16 if t.row_header == 2 else np.float32).view(np.uint8)
        before = row.copy()
        jit._scale_row(t, 1.25, row)
        assert scale_values(row[None], kind) == scale * 1.25
        assert (row[t.row_header :] == before[t.row_header :]).all()


@pytest.mark.parametrize("kind", [kind for kind in jit.SCALES if not type_by_name(kind).row_header])
def test_a_rows_scales_are_multiplied_wherever_they_lie(kind: str) -> None:
    rng = np.random.default_rng(8)
    t = type_by_name(kind)
    row = rng.integers(0, 256, 6 * t.block_bytes, dtype=np.uint8)
    halves = np.array([0, 0x8000, 0x3C00, 0xBC00, 0x0400, 0x7BFF], np.uint16)
    set_scales(row.reshape(6, -1), kind, halves)
    before = row.copy()
    jit._scale_row(t, 1.25, row)
    expected = np.minimum(halves.view(np.float16) * np.float32(1.25), np.float32(65504)).astype(np.float16)
    assert (scale_values(row, kind) == expected.astype(np.float32)).all()
    set_scales(row.reshape(6, -1), kind, halves)
    assert (row == before).all()


def test_defaults_are_known_objectives() -> None:
    assert set(dispatch.DEFAULT_OBJECTIVE.values()) <= set(dispatch.OBJECTIVES)
    assert dispatch.default_objective(dispatch.type_by_name("q2_K")) == "unbiased"
    assert dispatch.default_objective(dispatch.type_by_name("q4_K")) == "imatrix"
