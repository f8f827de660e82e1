"""The estimate of what the series leaves out, against solvers that leave out nothing."""

import numpy as np
import pytest

from linkern.bayes import solve_linear, solve_perturbation, solve_quadrature
from linkern.bayes.perturbation_truncation import missing_terms
from linkern.solution import Status


def ratios(found, exact):
    """True error over estimate, hidden layers; those that sampling does not resolve are left out."""
    truth = np.linalg.norm(np.array(exact.kernels) - found.kernels, axis=(1, 2))[1:]
    resolved = truth > 5 * np.linalg.norm(found.standard_error, axis=(1, 2))[1:]
    return (truth / found.truncation_errors[1:])[resolved]


@pytest.mark.parametrize("beta", [5.0, 50.0])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_linear_networks(depth, beta):
    """Every layer, from weak to strong feature learning, where the series has long diverged."""
    rng = np.random.default_rng(depth)
    first, second = [], []
    for points in (2, 5, 20):
        X, y = rng.standard_normal((points, 30)), rng.standard_normal(points)
        for gamma0 in (0.05, 0.15, 0.5):
            exact = solve_linear(X, y, depth=depth, gamma0=gamma0, beta=beta)
            arguments = {"depth": depth, "gamma0": gamma0, "beta": beta, "activation": "linear"}
            first.extend(ratios(solve_perturbation(X, y, **arguments), exact))
            second.extend(ratios(solve_perturbation(X, y, order=2, **arguments), exact))
    assert min(first) > 0.6
    assert max(first) < 1.2
    assert 0.7 < np.median(second) < 1.3
    assert max(second) < 1.4


def test_the_second_order_where_it_cancels():
    """One point with ridge equal to its kernel: C (1 - T)/(1 + T) = 0, and the third term is what is missing."""
    X, y = np.array([[1.0]]), np.array([1.0])
    arguments = {"depth": 1, "gamma0": 0.2, "beta": 1.0}
    exact = solve_linear(X, y, **arguments)
    for order in (1, 2):
        found = solve_perturbation(X, y, activation="linear", order=order, **arguments)
        truth = abs(np.array(exact.kernels)[1, 0, 0] - found.kernels[1, 0, 0])
        assert 0.3 * truth < found.truncation_errors[1] < 1e-4 * found.kernel_slopes[1, 0, 0]


@pytest.mark.parametrize("name", ["relu", "tanh", "erf"])
def test_nonlinear_networks(name):
    """Seldom below the truth; with order 2 close to it. Worst: inner layers whose own first order nearly cancels (tanh, erf)."""
    rng = np.random.default_rng(9)
    first, second = [], []
    for depth, beta in ((1, 5.0), (1, 50.0), (3, 5.0), (3, 50.0)):
        X, y = rng.standard_normal((2, 6)), rng.standard_normal(2)
        for gamma0 in (0.15, 0.5):
            arguments = {"depth": depth, "gamma0": gamma0, "beta": beta, "activation": name}
            exact = solve_quadrature(X, y, tol=1e-5, **arguments)
            first.extend(ratios(solve_perturbation(X, y, tol=5e-3, rng=0, **arguments), exact))
            if depth == 1:
                better = solve_perturbation(X, y, tol=2e-3, rng=0, order=2, **arguments)
                second.extend(ratios(better, exact))
    assert 0.2 < np.median(first) < 1.2
    assert np.mean(np.array(first) > 1) < 0.4
    assert max(first) < 3.5
    assert min(second) > 0.6
    assert max(second) < 1.7


def test_three_points():
    """P = 3, one hidden layer."""
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((3, 5)), rng.standard_normal(3)
    arguments = {"depth": 1, "gamma0": 0.4, "beta": 20.0, "activation": "erf"}
    exact = solve_quadrature(X, y, tol=1e-5, **arguments)
    for order, low, high in ((1, 0.4, 1.5), (2, 0.7, 1.5)):
        found = solve_perturbation(X, y, order=order, tol=2e-3, rng=1, **arguments)
        assert low < ratios(found, exact)[0] < high


def test_arithmetic():
    first, second = np.array([0.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(missing_terms(first, None, 1, 0.5, 1.0), first / 2)
    np.testing.assert_allclose(missing_terms(first, None, 1, 2.0, 0.5), first * 2.5)
    np.testing.assert_allclose(missing_terms(first, second, 1, 0.0, 0.0), [0, 2 / 3, 0.8])
    np.testing.assert_allclose(missing_terms(first, second, 2, 0.0, 0.0), np.array([0, 1, 1]) * 0.75 / 1.75)
    np.testing.assert_array_equal(missing_terms(0 * first, None, 1, 0.0, 0.0), 0)


def test_the_status_sees_the_labels():
    """Many points: the correction is one direction of a large kernel, yet the error signal has changed by a third."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 60)), rng.standard_normal(40)
    weak, strong = (solve_perturbation(X, y, depth=1, activation="linear", gamma0=gamma0, beta=50.0) for gamma0 in (0.01, 0.15))
    assert weak.status is Status.CONVERGED
    assert strong.ratio < 0.3 < strong.feedback / 2
    assert strong.status is Status.UNRELIABLE
    zero = solve_perturbation(X, 0 * y, depth=1, activation="linear", gamma0=1.0, beta=50.0)
    assert zero.growth == zero.feedback == 0.0
    np.testing.assert_array_equal(zero.truncation_errors, 0)
