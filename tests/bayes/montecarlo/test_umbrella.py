"""Umbrellas: the mixture that they make of a density, and particles that move between lobes and keep the right shares of them."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit

from linkern.activations import from_function
from linkern.bayes.montecarlo.law import Law, Tilt
from linkern.bayes.montecarlo.particles import Population
from linkern.bayes.montecarlo.samples import SampledLayer
from linkern.bayes.montecarlo.umbrella import Umbrella

DIRECTION = np.array([0.6, -0.8])
# A feature that is there beyond h = 4 only: exp(-x^2/2 + STRENGTH phi^2/2) has its second lobe behind a dip of e^-6.
STRENGTH = 24.0


def bump(h):
    return expit(4 * (np.asarray(h) - 4))


def density(x):
    return np.exp(-(x**2) / 2 + STRENGTH * bump(x) ** 2 / 2)


def particles_after(rounds, *, umbrella):
    """Positions and weights of 4096 particles, half of which start in either lobe, and the lobes that they have come from."""
    law = Law.of(from_function(bump, lambda h: 4 * bump(h) * (1 - bump(h)), name="bump"), 1)
    root, tilt = np.eye(1), Tilt(np.array([[-STRENGTH]]), np.full((1, 1), STRENGTH**0.5))
    population, rng = Population(law, 4096, np.random.default_rng(0)), np.random.default_rng(1)
    start = (np.arange(4096) % 2 * 4.8 + 0.3 * rng.standard_normal(4096)).astype(np.float32)[:, None]
    population.become(start)
    layer = SampledLayer.following(law, start, root, tilt)
    for count in range(rounds):
        if umbrella and count < rounds // 2:
            view = layer.view(law, root)
            quadratic = view.tilt_of(tilt)
            population.cover(layer.eps, view.weights_of(quadratic)[0].w)
            population.become(layer.transported(law, quadratic, population.umbrella, 8, rng))
        if count == rounds // 2:
            population.frozen, before = True, population.eps[:, 0] > 3
        population.move(root, tilt)
        layer = SampledLayer.following(law, population.eps, root, tilt, population.umbrella)
    return layer.eps[:, 0].astype(float), layer.view(law, root).weights(tilt)[0].w, before


def test_particles_cross_and_lobes_have_their_shares():
    truth = integrate.quad(density, 3, 12)[0] / integrate.quad(density, -12, 12, points=[3, 5])[0]
    x, w, before = particles_after(120, umbrella=True)
    assert w @ (x > 3) == pytest.approx(truth, abs=0.015)
    # Who was where is forgotten.
    assert abs(np.corrcoef(before, x > 3)[0, 1]) < 0.1
    assert 1 / (len(w) * (w**2).sum()) > 0.7
    plain, _, before = particles_after(60, umbrella=False)
    assert np.corrcoef(before, plain > 3)[0, 1] > 0.5
    assert abs((plain > 3).mean() - truth) > 0.1


def test_the_density_becomes_a_mixture_of_itself_and_the_uniform():
    rng = np.random.default_rng(2)
    m = rng.standard_normal(400_000) * 0.7 + 3.0 * rng.choice([-1, 1], 400_000)
    eps = np.outer(m, DIRECTION) + np.outer(rng.standard_normal(400_000), [0.8, 0.6])
    weights, umbrella = np.full(400_000, 1 / 400_000), None
    for _ in range(12):
        umbrella = Umbrella.over(eps, weights, DIRECTION, umbrella)
    low, high = np.quantile(m, [1e-3, 1 - 1e-3])
    grid = np.linspace(low + 0.3, high - 0.3, 40)
    p = (stats.norm.pdf(grid, 3, 0.7) + stats.norm.pdf(grid, -3, 0.7)) / 2
    expected = np.log(0.75 + 0.25 / (high - low) / p)
    found = umbrella.height(np.outer(grid, DIRECTION))
    # Bins average over p, which varies by the factor 3 in some of them.
    np.testing.assert_allclose(found, expected, atol=0.6)
    assert found.max() > 3


def test_the_slope_is_that_of_the_height_and_nothing_pulls_outside():
    rng = np.random.default_rng(3)
    eps = rng.standard_normal((4096, 2)) * [1.0, 3.0]
    umbrella = Umbrella.over(eps, np.full(4096, 1 / 4096), np.array([0.0, 1.0]), None)
    m = np.linspace(umbrella.nodes[0], umbrella.nodes[-1], 500)[1:-1]
    finite = (umbrella.at(m + 1e-3)[0] - umbrella.at(m - 1e-3)[0]) / 2e-3
    np.testing.assert_allclose(umbrella.at(m)[1], finite, atol=0.1 * np.abs(finite).max())
    outside = np.array([umbrella.nodes[0] - 5, umbrella.nodes[-1] + 5])
    np.testing.assert_array_equal(umbrella.at(outside)[1], 0.0)
    np.testing.assert_allclose(umbrella.at(outside)[0], umbrella.heights[[0, -1]])


def test_directions_that_turn_round_keep_the_umbrella():
    eps = np.random.default_rng(4).standard_normal((4096, 2)) * [1.0, 3.0] + [0.0, 2.0]
    weights, direction = np.full(4096, 1 / 4096), np.array([0.0, 1.0])
    first = Umbrella.over(eps, weights, direction, None)
    same, turned = (Umbrella.over(eps, weights, sign * direction, first) for sign in (1, -1))
    np.testing.assert_allclose(turned.height(eps), same.height(eps))
