"""The umbrella over the strength of tilts: its slope, its weights, and that neurons spread evenly under it."""

import numpy as np
import pytest

from linkern.bayes.montecarlo.wide.levelling import Levelling


@pytest.fixture(scope="module")
def tau(count=60_000):
    """ln(1 + tau) of a hundredth around 5, of all others around 1."""
    rng = np.random.default_rng(0)
    return np.expm1(np.abs(np.where(rng.random(count) < 0.01, 5.0, 1.0) + 0.4 * rng.standard_normal(count)))


@pytest.fixture
def adapted(tau, rounds=200):
    levelling = Levelling()
    for _ in range(rounds):
        levelling.adapt(tau, np.ones(len(tau)))
    return levelling


def test_nothing_before_the_first_histogram():
    levelling, tau = Levelling(), np.array([0.0, 3.0, 1e6])
    np.testing.assert_array_equal(levelling.height(tau), 0)
    np.testing.assert_array_equal(levelling.slope(tau), 0)


def test_slope_is_the_derivative_of_the_height(adapted):
    strengths = np.array([0.3, 2.0, 7.0, 40.0, 130.0, 2000.0])
    change = adapted.height(strengths + 1e-5) - adapted.height(strengths - 1e-5)
    assert np.abs(change).max() > 1e-6
    np.testing.assert_allclose(adapted.slope(strengths), change / 2e-5, rtol=1e-4, atol=1e-8)


def test_rare_neurons_become_common_and_weights_stay_bounded(tau, adapted):
    boost = np.exp(adapted.height(tau))
    assert boost.min() > 0.4
    assert boost.max() < 100
    share = boost[tau > 40].sum() / boost.sum()
    assert 0.1 < share < 0.5
    # The gap between is filled: under the umbrella a fair part of neurons is there.
    between = np.expm1(3.0)
    assert adapted.height(np.array([between]))[0] > np.log(20)


def test_weights_undo_the_umbrella(tau, adapted):
    rng = np.random.default_rng(1)
    boost = np.exp(adapted.height(tau))
    followed = rng.choice(tau, 100_000, p=boost / boost.sum())
    weights = np.exp(-adapted.height(followed))
    assert np.average(followed > 40, weights=weights) == pytest.approx((tau > 40).mean(), rel=0.05)
    before = adapted.height(np.array([0.5, 100.0]))
    adapted.adapt(followed, weights)
    np.testing.assert_allclose(adapted.height(np.array([0.5, 100.0])), before, atol=0.05)
