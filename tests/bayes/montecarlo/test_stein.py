"""What Stein's identity takes off a kernel is noise: its average is zero, and less is left."""

import numpy as np
import pytest

from linkern.activations import get
from linkern.bayes.montecarlo.law import Law, Tilt
from linkern.bayes.montecarlo.stein import excess

ROOT = np.array([[1.0, 0.0, 0.2], [0.6, 0.9, 0.0], [-0.3, 0.5, 0.4]])
V = np.array([[0.9], [-0.6], [0.4]])
GROUPS, SIZE = 64, 512


def tilted(phi, rng, count):
    """Exact draws of exp(-|eps|^2/2 + (V . phi)^2/2), |phi| <= 1, by rejection."""
    drawn, most = [], np.abs(V).sum() ** 2 / 2
    while sum(map(len, drawn)) < count:
        eps = rng.standard_normal((4 * count, 3))
        drawn.append(eps[rng.random(len(eps)) < np.exp((phi(eps @ ROOT.T) @ V)[:, 0] ** 2 / 2 - most)])
    return np.concatenate(drawn)[:count]


@pytest.fixture(scope="module", params=["tanh", "cos"])
def errors(request):
    """Errors of the kernels of groups, as they are and less what is in excess; the truth is an average over many more draws."""
    phi, rng = {"tanh": np.tanh, "cos": np.cos}[request.param], np.random.default_rng(3)
    features = phi(tilted(phi, rng, 2_000_000) @ ROOT.T)
    truth = features.T @ features / len(features)
    eps = tilted(phi, rng, GROUPS * SIZE)
    features = phi(eps @ ROOT.T).reshape(GROUPS, SIZE, 3)
    plain = features.swapaxes(1, 2) @ features / SIZE - truth
    h = rng.standard_normal((2_000_000, 3)) @ ROOT.T
    lazy = phi(h).T @ phi(h) / len(h)
    return request.param, plain, plain - excess(Law.of(get(request.param), 3), eps, ROOT, Tilt(-V @ V.T, V), lazy, GROUPS)


def test_less_noise_is_left(errors):
    activation, plain, left = errors
    # Through cos there is no line, but its tilt is weak.
    assert (left**2).sum() < {"tanh": 0.25, "cos": 0.5}[activation] * (plain**2).sum()


def test_it_averages_to_zero(errors):
    left = errors[2]
    upper = left[(slice(None), *np.triu_indices(3))]
    assert np.abs(upper.mean(axis=0) / (upper.std(axis=0, ddof=1) / np.sqrt(GROUPS))).max() < 4
