"""The policy for importances (ggml-types.md 5.1), clause by clause."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguftool.codecs import dispatch
from gguftool.codecs.dispatch import prepare_importance
from gguftool.errors import CodecError


def test_all_zero_counts_every_block_and_weighs_alike() -> None:
    weights, unobserved = prepare_importance(np.zeros(600))
    assert weights.dtype == np.float32
    assert (weights == 1).all()
    assert unobserved == 3  # 256 + 256 + 88


@pytest.mark.parametrize("scale", (1e-37, 1.0, 3.0, 1e30, 1e-300))
def test_scaled_by_a_power_of_two_to_a_maximum_in_1_2(scale: float) -> None:
    a = np.exp(np.random.default_rng(1).standard_normal(512)) * scale
    weights, unobserved = prepare_importance(a)
    assert unobserved == 0
    assert 1 <= weights.max() < 2
    ratio = a / np.float64(weights)
    step = 2.0 ** np.round(np.log2(ratio.mean()))
    np.testing.assert_array_equal(weights, (a / step).astype(np.float32))


def test_the_smallest_numbers_still_scales() -> None:
    weights, _ = prepare_importance(np.array([5e-324, 1e-323]))
    np.testing.assert_array_equal(weights, np.float32([0.5, 1.0]))


def test_an_unobserved_block_gets_the_average_weight() -> None:
    a = np.full(700, 1.5)
    a[256:512] = 0
    weights, unobserved = prepare_importance(a)
    assert unobserved == 1
    average = np.float32(np.cumsum(a)[-1] / 700)
    np.testing.assert_array_equal(weights[256:512], average)
    np.testing.assert_array_equal(weights[512:], np.float32(1.5))


def test_the_last_block_may_be_short_and_its_mean_is_its_own() -> None:
    a = np.zeros(260)
    a[:256] = 1.0
    a[259] = 0.5
    weights, unobserved = prepare_importance(a)
    assert unobserved == 0
    np.testing.assert_array_equal(weights[256:259], np.float32(0.125 * 2.0**-20))
    assert weights[259] == 0.5


def test_zeros_beside_observed_columns_weigh_next_to_nothing() -> None:
    a = np.ones(256)
    a[10:42] = 0
    weights, unobserved = prepare_importance(a)
    assert unobserved == 0
    np.testing.assert_array_equal(weights[10:42], np.float32(224 / 256 * 2.0**-20))
    assert (np.delete(weights, np.s_[10:42]) == 1).all()


def test_a_block_far_below_the_others_stays_above_2_to_the_minus_60() -> None:
    a = np.ones(512)
    a[256:] = 1e-30
    weights, unobserved = prepare_importance(a)
    assert unobserved == 0
    np.testing.assert_array_equal(weights[256:], np.float32(2.0**-60))


def test_positive_values_above_the_floor_stay_exactly() -> None:
    a = np.float64(np.exp(3 * np.random.default_rng(2).standard_normal(1024)).astype(np.float32))
    weights, _ = prepare_importance(a)
    mean = a.reshape(4, 256).mean(axis=1).repeat(256)
    kept = a > 2.0**-19 * mean
    step = a.max() / np.float64(weights.max())
    np.testing.assert_array_equal(np.float64(weights[kept]) * step, a[kept])


@pytest.mark.parametrize(
    ("value", "says"), ((-1.0, "column 7 is -1"), (np.nan, "column 7 is nan"), (np.inf, "column 7 is inf"))
)
def test_what_is_no_importance_is_refused(value: float, says: str) -> None:
    a = np.ones(32)
    a[7] = value
    with pytest.raises(CodecError, match=says):
        prepare_importance(a)
    with pytest.raises(CodecError, match=says):
        dispatch.encode(np.ones((1, 32), np.float32), "q4_0", a)


@pytest.mark.parametrize("shape", ((0,), (2, 32), ()))
def test_only_a_vector_will_do(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="one vector"):
        prepare_importance(np.ones(shape))


@given(
    st.lists(
        st.one_of(st.just(0.0), st.floats(0, 1e38, allow_subnormal=True), st.floats(0, 1e-300, allow_subnormal=True)),
        min_size=1,
        max_size=700,
    )
)
@settings(max_examples=60, deadline=None)
def test_weights_are_always_usable(values: list[float]) -> None:
    weights, unobserved = prepare_importance(np.array(values))
    assert ((weights >= 2.0**-60) & (weights <= 2)).all()
    blocks = -(-len(values) // 256)
    assert 0 <= unobserved <= blocks
    again, _ = prepare_importance(np.array(values) * 1.0)
    np.testing.assert_array_equal(weights, again)


def test_no_zeros_means_no_change_but_a_power_of_two() -> None:
    rng = np.random.default_rng(4)
    x, a = rng.standard_normal((2, 256)).astype(np.float32), np.exp(rng.standard_normal(256))
    assert dispatch.encode(x, "q4_0", a).tobytes() == dispatch.encode(x, "q4_0", a * 2.0**40).tobytes()


@pytest.mark.parametrize("name", ("q4_0", "q4_1", "q5_0", "q5_1"))
def test_unobserved_columns_are_fitted_as_if_unweighted(name: str) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 512)).astype(np.float32)
    a = np.exp(rng.standard_normal(512))
    a[:256], a[300:332] = 0, 0
    y = dispatch.decode(dispatch.encode(x, name, a), name, 512)
    even = dispatch.decode(dispatch.encode(x, name, np.ones(512)), name, 512)
    for part in (np.s_[:, :256], np.s_[:, 320:352]):
        assert ((x[part] - y[part]) ** 2).sum() < 3 * ((x[part] - even[part]) ** 2).sum()
