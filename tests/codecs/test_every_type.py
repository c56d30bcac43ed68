"""What holds for every type that can be encoded: finite scales whatever comes in, zeros that stay zeros, the same bytes
in every way, errors no larger than those of zeros, and the policy for importances that are zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_golden import BLOCKS, FP4, GRIDS, IK_ENCODED, IK_KT, LEGACY, TERNARY, golden_inputs, rel_wmse, scale_values
from support_search import awkward_importance, awkward_rows, in_every_way, lognormal, wild_rows

from gguftool.codecs import dispatch
from gguftool.errors import CodecError
from gguftool.format.quanttypes import type_by_name

Array = npt.NDArray[np.float32]

N = 512
TYPES = (*BLOCKS, *IK_ENCODED)
#: So many weights in a row that are all zeros are decoded to zeros, where that is not the type's block.
ZERO_UNITS = {
    **dict.fromkeys(("q4_0", "q5_0", "q3_K", "q6_K"), 1), **dict.fromkeys(("iq2_k", "iq4_k", "iq5_k", "iq6_k"), 16),
    **dict.fromkeys(("iq4_xs", "iq2_ks", "iq3_ks", "iq2_kl", "iq3_kt", "iq4_kt"), 32),
}  # fmt: skip
#: Types whose blocks have no scale 0 (and whose codebooks have no 0): in a row that is not all zeros they hold the
#: least values that there are, this much of the row's largest.
NO_ZERO_BLOCKS = {"iq4_kss": 1e-3, "iq4_ks": 1e-3, "iq5_ks": 1e-3, "iq1_kt": 0.02, "iq2_kt": 0.02}

#: Ways to fill a block of 256 columns, of a row and of an importance. Each gets a generator.
ROWS = {
    "zeros": lambda rng: np.zeros(256),
    "minus zeros": lambda rng: np.full(256, -0.0),
    "normal": lambda rng: 0.02 * rng.standard_normal(256),
    "heavy": lambda rng: 0.02 * rng.standard_t(3, 256),
    "spike": lambda rng: np.where(np.arange(256) == rng.integers(256), rng.choice((-0.5, 3e38, 1e-30, 1e-45)), 0.0),
    "spike in noise": lambda rng: 0.02 * rng.standard_normal(256) + 1e4 * (np.arange(256) == rng.integers(256)),
    "constant": lambda rng: np.full(256, rng.choice((0.01, -3.0, 1e-30, 1e30, 3e38, -1e-45))),
    "ternary": lambda rng: rng.choice((-0.7, 0.0, 0.7), 256) * rng.choice((1e-38, 1e-6, 1.0, 1e30)),
    "one sign": lambda rng: np.abs(rng.standard_normal(256)),
    "tiny": lambda rng: 1e-30 * rng.standard_normal(256),
    "subnormal": lambda rng: 1e-45 * rng.integers(-4, 5, 256),
    "large": lambda rng: 1e30 * rng.standard_normal(256),
    "largest": lambda rng: 3e38 * rng.choice((-1.0, 0.0, 1.0), 256) * rng.random(256),
    "all magnitudes": lambda rng: rng.standard_normal(256) * np.exp(25 * rng.standard_normal(256)),
    "sub-blocks of zeros": lambda rng: 0.02 * rng.standard_normal(256) * np.repeat(rng.integers(0, 2, 16), 16),
    "near half precision's end": lambda rng: 10.0 ** rng.uniform(-8, -4) * rng.standard_normal(256),
}
IMPORTANCES = {
    "lognormal": lambda rng: np.exp(rng.standard_normal(256)),
    "ones": lambda rng: np.ones(256),
    "zeros": lambda rng: np.zeros(256),
    "spike": lambda rng: np.where(np.arange(256) == rng.integers(256), rng.choice((1.0, 1e30, 1e-30)), 0.0),
    "sub-blocks of zeros": lambda rng: rng.random(256) * np.repeat(rng.integers(0, 2, 16), 16),
    "tiny": lambda rng: 1e-30 * rng.random(256),
    "large": lambda rng: 1e30 * rng.random(256),
    "all magnitudes": lambda rng: np.exp(25 * rng.standard_normal(256)),
    "subnormal": lambda rng: 5e-324 * rng.integers(0, 4, 256),
}


def only_rounds(name: str, weighted: bool, effort: str) -> bool:
    """Whether the encoder is the reference's rounding to the byte, with all its faults."""
    if effort == "fast" and name in (*TERNARY, *FP4):
        return True
    return name in ("q8_0", "q8_KV") or (name in LEGACY and not weighted)


def check_zeros(name: str, x: Array, y: Array) -> None:
    """Rows of zeros are zeros, and so are blocks of zeros where the type can say so."""
    assert not y[~x.any(axis=1)].any()
    shape = (len(x), -1, ZERO_UNITS.get(name, type_by_name(name).block_size))
    idle = ~x.reshape(shape).any(axis=2)
    least = NO_ZERO_BLOCKS.get(name, 0.0) * np.abs(np.float64(y)).max(axis=1)
    assert (np.abs(y.reshape(shape)).max(axis=2) <= least[:, None])[idle].all()


def check_signs(name: str, blocks: npt.NDArray[np.uint8]) -> None:
    """Nothing that other kernels negate in eight bits is -128, and no scale that says "nothing" has a sign."""
    scales = scale_values(blocks, name)
    if type_by_name(name).row_header:
        assert not np.signbit(scales[scales == 0]).any()
    if name == "iq6_k":
        assert (blocks.reshape(-1, 212)[:, 4:20].view(np.int8) > -128).all()
    if name == "q8_KV":
        assert (blocks[:, 8:].view(np.int8) > -128).all()


def check_sizes(name: str, x: Array, y: Array, objective: str) -> None:
    """No value is far larger than all that came in, but for the least that a scale can say."""
    factor = (3 if name in IK_KT else 2) * (1.4375 if objective == "unbiased" else 1)
    least = 2.0**-19 if name in GRIDS else 2.0**-90 if name in IK_KT else 0.0
    assert np.abs(np.float64(y)).max() <= max(factor * np.abs(np.float64(x)).max(), least)


def check(name: str, x: Array, a: npt.NDArray[np.float64] | None, objective: str, effort: str) -> None:
    """What must hold for any rows and importances that are finite."""
    n_cols = x.shape[1]
    blocks = dispatch.encode(x, name, a, objective=objective, effort=effort)
    y = dispatch.decode(blocks, name, n_cols)
    assert np.isfinite(scale_values(blocks, name)).all()
    assert np.isfinite(y).all()
    check_zeros(name, x, y)
    check_signs(name, blocks)
    check_sizes(name, x, y, objective)
    for r in range(len(x)):
        row = dispatch.encode(x[r : r + 1], name, a, objective=objective, effort=effort)
        assert row.tobytes() == blocks[r].tobytes(), "rows depend on each other"
    for way, found in in_every_way(x, name, a, objective, effort).items():
        assert found == blocks.tobytes(), way
    if objective == "imatrix" and not only_rounds(name, a is not None, effort):
        w = np.ones(n_cols) if a is None else dispatch.prepare_importance(a)[0].astype(np.float64)
        errors, signals = (w * (np.float64(x) - y) ** 2).sum(1), (w * np.float64(x) ** 2).sum(1)
        assert (errors <= signals * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", TYPES)
@given(
    kinds=st.lists(st.sampled_from(sorted(ROWS)), min_size=4, max_size=4),
    importances=st.none() | st.lists(st.sampled_from(sorted(IMPORTANCES)), min_size=2, max_size=2),
    seed=st.integers(0, 2**32 - 1),
    objective=st.sampled_from(dispatch.OBJECTIVES),
    effort=st.sampled_from(dispatch.EFFORTS),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_in(
    name: str, kinds: list[str], importances: list[str] | None, seed: int, objective: str, effort: str
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([ROWS[kind](rng) for kind in kinds]).reshape(2, N)
    a = None if importances is None else np.concatenate([IMPORTANCES[kind](rng) for kind in importances])
    check(name, np.clip(rows, -3.4e38, 3.4e38).astype(np.float32), a, objective, effort)


@pytest.mark.parametrize("name", TYPES)
def test_the_edge_set_and_awkward_rows(shared: Path, name: str) -> None:
    inputs = golden_inputs(shared)
    for effort in dispatch.EFFORTS:
        for objective in dispatch.OBJECTIVES if effort == "default" else ("imatrix",):
            for a in (inputs["edge_imatrix"].astype(np.float64), None):
                check(name, inputs["edge"], a, objective, effort)
            for a in (awkward_importance(N).astype(np.float64), None):
                for x in (awkward_rows(N), wild_rows(31, N)):
                    check(name, x, a, objective, effort)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("effort", dispatch.EFFORTS)
def test_every_way_gives_the_same_bytes(name: str, effort: str) -> None:
    n = 256 if effort == "best" else 768
    student = (0.02 * np.random.default_rng(2).standard_t(4, (2, n))).astype(np.float32)
    x = np.concatenate([awkward_rows(n)[:: 3 if effort == "best" else 1], student])
    for a in (lognormal(n), awkward_importance(n), None):
        for objective in dispatch.OBJECTIVES:
            found = in_every_way(x, name, a, objective, effort)
            assert len(set(found.values())) == 1, (objective, a is None)


@pytest.mark.parametrize("effort", dispatch.EFFORTS)
@pytest.mark.parametrize("name", [name for name in TYPES if not type_by_name(name).row_header])
def test_a_block_does_not_depend_on_its_neighbours(name: str, effort: str) -> None:
    size = type_by_name(name).block_size
    for n in (256, 480, 512, 544, 768, 1280):
        if n % size:
            continue
        x, a = awkward_rows(n), np.ones(n)
        a[-size:] = lognormal(size).clip(0.01, 1.9)
        a[-1] = 1.99  # so that the last block's importances alone are scaled as those of the row
        for weights in (a, None):
            whole = dispatch.encode(x, name, weights, objective="imatrix", effort=effort)
            last = None if weights is None else a[-size:]
            alone = dispatch.encode(x[:, -size:], name, last, objective="imatrix", effort=effort)
            assert whole[:, -alone.shape[1] :].tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", TYPES)
def test_unobserved_columns(name: str) -> None:
    """A slice of zeros is fitted as if unweighted, a block as if of average importance, a sub-block well enough."""
    x, a = np.random.default_rng(6).standard_normal((4, N)).astype(np.float32), lognormal(N).astype(np.float64)
    even = dispatch.encode(x, name, np.ones(N))
    assert dispatch.encode(x, name, np.zeros(N)).tobytes() == even.tobytes()
    a[:256] = 0
    blocks = dispatch.encode(x, name, a)
    a[:256] = np.cumsum(a)[-1] / N
    assert blocks.tobytes() == dispatch.encode(x, name, a).tobytes()
    a[32:64] = 0
    weighted, plain = (dispatch.decode(dispatch.encode(x, name, v), name, N) for v in (a, np.ones(N)))
    part = np.s_[:, 32:64]
    assert ((x[part] - weighted[part]) ** 2).sum() < 3 * ((x[part] - plain[part]) ** 2).sum()


@pytest.mark.parametrize("name", TYPES)
def test_importances_count_by_their_ratios(name: str) -> None:
    x, a = (0.02 * np.random.default_rng(7).standard_t(4, (2, N))).astype(np.float32), lognormal(N).astype(np.float64)
    blocks = dispatch.encode(x, name, a)
    for factor in (2.0**-100, 2.0**100):
        assert dispatch.encode(x, name, a * factor).tobytes() == blocks.tobytes()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_nan_and_infinity_are_refused(name: str, bad: float) -> None:
    x, a = (0.02 * np.random.default_rng(1).standard_normal((4, N))).astype(np.float32), np.ones(N)
    a[300] = bad
    with pytest.raises(CodecError, match="importance of column 300 is"):
        dispatch.encode(x, name, a)
    x[3, 500] = bad
    with pytest.raises(CodecError, match="row 3, column 500"):
        dispatch.encode(x, name)


@pytest.mark.parametrize("name", ("iq3_s", "iq3_xxs", "iq4_nl", "iq4_xs"))
def test_a_large_weight_that_does_not_matter_does_not_spoil_its_block(name: str) -> None:
    rng = np.random.default_rng(30)
    x = (0.02 * rng.standard_normal((8, 512))).astype(np.float32)
    a = np.exp(rng.standard_normal(512))
    plain = rel_wmse(x, dispatch.decode(dispatch.encode(x, name, a, objective="imatrix"), name, 512), a)
    x[:, 40::64] *= 100
    a[40::64] = 0
    spoiled = rel_wmse(x, dispatch.decode(dispatch.encode(x, name, a, objective="imatrix"), name, 512), a)
    assert spoiled < 3 * plain
