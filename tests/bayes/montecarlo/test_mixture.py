"""Proposals for directions: their density, their draws and their fits, against formulas written out here."""

import numpy as np
import pytest

from linkern.activations import get
from linkern.bayes.montecarlo.law import Law, Tilt
from linkern.bayes.montecarlo.lobes import minima
from linkern.bayes.montecarlo.mixture import Mixture

ANGLES = np.linspace(-np.pi, np.pi, 20001)[:-1]
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def lobes():
    directions = np.array([[0.6, 0.8], [-1.0, 0.0], [0.0, -1.0]])
    return Mixture.prior(2).with_lobes(directions, np.array([0.04, 0.3, 0.7]))


def test_the_density_of_directions_is_normalised():
    assert np.exp(lobes().log_density(CIRCLE)).mean() == pytest.approx(1, abs=1e-4)
    assert lobes().log_density(3.7 * CIRCLE) == pytest.approx(lobes().log_density(CIRCLE), abs=1e-12)
    np.testing.assert_array_equal(Mixture.prior(2).log_density(CIRCLE), 0)


def test_one_lobe_is_half_a_gaussian():
    d, low = np.array([0.6, 0.8]), 0.04
    along = CIRCLE @ d
    # 2 |Sigma|^(-1/2) (e^T Sigma^{-1} e)^(-r/2) with Sigma^{-1} = 1 - (1 - low) d d^T and r = 2, where e . d > 0.
    expected = np.where(along > 0, 2 * np.sqrt(low) / (1 - (1 - low) * along**2), 0)
    assert np.exp(Mixture.of_lobe(d, low).log_density(CIRCLE)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scrambled", [False, True])
def test_draws_follow_the_density(scrambled):
    mixture = lobes()
    eps = mixture.draw(60000, np.random.default_rng(0), scrambled=scrambled)
    assert np.linalg.norm(eps, axis=1) == pytest.approx(np.sqrt(2), abs=1e-5)
    edges = np.linspace(-np.pi, np.pi, 41)
    counts = np.histogram(np.arctan2(eps[:, 1], eps[:, 0]), edges)[0] / len(eps)
    expected = np.exp(mixture.log_density(CIRCLE)).reshape(40, -1).mean(axis=1) / 40
    assert counts == pytest.approx(expected, abs=5 * np.sqrt(expected.max() / len(eps)))


def test_opposite_lobes_are_the_law_of_a_linear_activation():
    rng = np.random.default_rng(1)
    root, V = rng.standard_normal((4, 4)), rng.standard_normal((4, 1)) / 8
    law, tilt = Law.of(get("linear"), 4), Tilt.of_readout(V, 1.0)
    eps = rng.standard_normal((500, 4))
    directions, lows = minima(law, root, tilt, eps, rng)
    w = root.T @ V[:, 0]
    assert lows == pytest.approx(np.full(2, 1 - w @ w), abs=1e-6)
    assert np.abs(directions @ w) == pytest.approx(np.linalg.norm(w), abs=1e-6)
    both = np.logaddexp(*(Mixture.of_lobe(d, low).log_density(eps) for d, low in zip(directions, lows, strict=True)))
    squared = np.square(eps).sum(axis=1)
    exact = -2 * np.log(1 - (eps @ w) ** 2 / squared)
    assert both - exact == pytest.approx(np.full(len(eps), (both - exact)[0]), abs=1e-4)


def test_fits_find_covariance_and_shares():
    rng = np.random.default_rng(2)
    scales, count = np.array([4.0, 1.5, 0.6]), 40000
    eps = rng.standard_normal((count, 3)) * scales
    eps[:, 0] = np.abs(eps[:, 0])
    eps[: count // 2] = rng.standard_normal((count // 2, 3))
    start = Mixture.prior(3).with_lobes(np.array([[0.8, 0.6, 0.0]]), np.array([0.3]))
    found = start.fitted(eps, np.full(count, 1 / count), steps=60)
    assert found.shares == pytest.approx([0.5, 0.5], abs=0.05)
    assert found.normals[0] == pytest.approx([1, 0, 0], abs=0.05)
    # A little wider than the samples.
    assert np.linalg.svd(found.factors[0], compute_uv=False) == pytest.approx(np.sqrt(1.05) * scales, rel=0.05)


def test_lobes_without_members_are_dropped():
    eps = np.random.default_rng(3).standard_normal((2000, 2))
    far = Mixture.prior(2).with_lobes(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1e-6, 0.5]))
    found = far.fitted(eps, np.full(2000, 1 / 2000), steps=5)
    assert len(found.normals) == 1
    assert found.shares.sum() == pytest.approx(1)
