"""What Stein's identity takes off a kernel is noise: its average is zero, and less is left."""

from functools import cache

import numpy as np
import pytest

from linkern.activations import get
from linkern.bayes.montecarlo.averages import View
from linkern.bayes.montecarlo.law import Law, Tilt
from linkern.bayes.montecarlo.readout import Readout, maximise
from linkern.bayes.montecarlo.stein import excess

ROOT = np.array([[1.0, 0.0, 0.2], [0.6, 0.9, 0.0], [-0.3, 0.5, 0.4]])
V = np.array([[0.9], [-0.6], [0.4]])
GROUPS, SIZE = 64, 512


def tilted(phi, rng, count, bias=0.0):
    """Exact draws of exp(-|eps|^2/2 + (V . phi)^2/2 + bias sin eps_1), |phi| <= 1, by rejection."""
    drawn, most = [], np.abs(V).sum() ** 2 / 2 + bias
    while sum(map(len, drawn)) < count:
        eps = rng.standard_normal((4 * count, 3))
        exponent = (phi(eps @ ROOT.T) @ V)[:, 0] ** 2 / 2 + bias * np.sin(eps[:, 1])
        drawn.append(eps[rng.random(len(eps)) < np.exp(exponent - most)])
    return np.concatenate(drawn)[:count]


@cache
def kernels(activation):
    """<phi phi^T> with and without the tilt, by many more draws."""
    phi, rng = {"tanh": np.tanh, "cos": np.cos}[activation], np.random.default_rng(7)
    several = phi(tilted(phi, rng, 1_000_000) @ ROOT.T), phi(rng.standard_normal((1_000_000, 3)) @ ROOT.T)
    return [features.T @ features / len(features) for features in several]


@pytest.fixture(scope="module", params=[("tanh", 0.0), ("cos", 0.0), ("tanh", 0.7)])
def errors(request):
    """Errors of the kernels of groups, as they are and less what is in excess."""
    activation, bias = request.param
    phi, rng = {"tanh": np.tanh, "cos": np.cos}[activation], np.random.default_rng(3)
    truth, lazy = kernels(activation)
    eps = tilted(phi, rng, GROUPS * SIZE, bias)
    weights = np.exp(-bias * np.sin(eps[:, 1]))
    w = weights.reshape(GROUPS, SIZE, 1) / weights.reshape(GROUPS, SIZE, 1).sum(axis=1, keepdims=True)
    features = phi(eps @ ROOT.T).reshape(GROUPS, SIZE, 3)
    plain = (w * features).swapaxes(1, 2) @ features - truth
    noise = excess(Law.of(get(activation), 3), eps, weights, ROOT, Tilt(-V @ V.T, V), lazy, GROUPS)
    return activation, plain, plain - noise


def test_less_noise_is_left(errors):
    activation, plain, left = errors
    # Through cos there is no line, but its tilt is weak.
    assert (left**2).sum() < {"tanh": 0.25, "cos": 0.5}[activation] * (plain**2).sum()


def test_it_averages_to_zero(errors):
    left = errors[2]
    upper = left[(slice(None), *np.triu_indices(3))]
    assert np.abs(upper.mean(axis=0) / (upper.std(axis=0, ddof=1) / np.sqrt(GROUPS))).max() < 4


def test_the_readout_answers_to_the_kernel_without_the_noise():
    """Y = (g (<phi phi^T> - noise) + T) V at the maximum, and F has no slope there in any direction."""
    rng = np.random.default_rng(8)
    eps = rng.standard_normal((3000, 3))
    noise = 0.05 * np.array([[1.0, 0.4, -0.2], [0.4, -0.8, 0.3], [-0.2, 0.3, 0.6]])
    view = View(Law.of(get("tanh"), 3), eps, np.ones(3000), np.zeros(3000), ROOT, excess=noise)
    Y, T, g, gamma0 = np.array([[1.0], [-0.5], [0.3]]), 0.3, 0.8, 1.4
    point = maximise(view, Readout(Y, T, gamma0**2, g), np.zeros((3, 1)), 1e-10, 0.0)[0]
    phi = np.tanh(eps @ ROOT.T)

    def F(V):
        signal = gamma0**2 * ((V * Y).sum() - T * (V**2).sum() / 2 + g * (V.T @ noise @ V).item() / 2)
        return signal - np.log(np.exp(gamma0**2 * g * (phi @ V) ** 2 / 2).mean())

    w = np.exp(gamma0**2 * g * (phi @ point.V)[:, 0] ** 2 / 2)
    kernel = (phi * (w / w.sum())[:, None]).T @ phi - noise
    np.testing.assert_allclose((g * kernel + T * np.eye(3)) @ point.V, Y, atol=1e-8)
    slopes = [(F(point.V + d[:, None]) - F(point.V - d[:, None])) / 2e-4 for d in 1e-4 * np.eye(3)]
    np.testing.assert_allclose(slopes, 0.0, atol=1e-6)
    assert F(point.V) == pytest.approx(point.F, rel=1e-10)
