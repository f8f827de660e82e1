"""Second order in gamma0^2 against the full saddle point (quadrature, exact deep linear kernels) and re-typed series."""

import math

import numpy as np
import pytest
from scipy import special

from linkern import activations
from linkern.bayes import solve_linear, solve_perturbation, solve_quadrature
from linkern.derivations.perturbation_second import expansion

PHI = {"tanh": np.tanh, "erf": special.erf, "relu": lambda h: np.maximum(h, 0), "softplus": lambda h: np.logaddexp(h, 0)}
G = (1.1, 0.8)


def gauss(points, nodes):
    """Tensor Gauss-Hermite rule of independent normal variables."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack([t.ravel() for t in np.meshgrid(*[z] * points, indexing="ij")], axis=1)
    return grid, np.prod(np.meshgrid(*[w / w.sum()] * points, indexing="ij"), axis=0).ravel()


def plane(root):
    """Rule for two ReLU neurons: Gauss-Legendre in the angle between their kinks, Gauss-Laguerre in half the squared radius."""
    kinks = np.sort([(math.atan2(-row[0], row[1]) + k * math.pi) % (2 * math.pi) for row in root for k in (0, 1)])
    x, w = np.polynomial.legendre.leggauss(40)
    u, v = np.polynomial.laguerre.laggauss(12)
    points, masses = [], []
    for a, b in zip(kinks, np.append(kinks[1:], kinks[0] + 2 * math.pi), strict=True):
        angle, mass = (a + b) / 2 + (b - a) / 2 * x, (b - a) / 2 * w / (2 * math.pi)
        for half_square, weight in zip(u, v, strict=True):
            points.append(math.sqrt(2 * half_square) * np.stack([np.cos(angle), np.sin(angle)], axis=1))
            masses.append(mass * weight)
    return np.concatenate(points), np.concatenate(masses)


def rule(X, name, nodes):
    """phi at every node for the points X of one hidden layer, and the nodes' masses."""
    root = np.linalg.cholesky(G[0] * X @ X.T / X.shape[1])
    z, mass = plane(root) if name == "relu" else gauss(len(X), nodes)
    return PHI[name](z @ root.T), mass


def series(f, mass, Y, T):
    """Kernels between all points and V, orders 0, 1, 2; the first len(Y) points are trained. Moments, not central ones."""
    P, g = len(Y), G[1]

    def average(weight):
        return (f * (mass * weight)[:, None]).T @ f

    K = average(np.ones(len(f)))
    A = g * K[:P, :P] + T * np.eye(P)
    V0 = np.linalg.solve(A, Y)
    q = g * ((f[:, :P] @ V0) ** 2).sum(axis=1)
    K1 = (average(q) - K * (mass @ q)) / 2
    V1 = -np.linalg.solve(A, g * K1[:P, :P] @ V0)
    r = 2 * g * ((f[:, :P] @ V0) * (f[:, :P] @ V1)).sum(axis=1)
    m1, m2 = mass @ q, mass @ q**2
    cubic = average(q**2) - 2 * m1 * average(q) - K * m2 + 2 * K * m1**2
    K2 = (average(r) - K * (mass @ r)) / 2 + cubic / 8
    V2 = -np.linalg.solve(A, g * (K1[:P, :P] @ V1 + K2[:P, :P] @ V0))
    return (K, K1, K2), (V0, V1, V2)


CASES = [("tanh", 2, 70, 1), ("erf", 3, 60, 2), ("softplus", 3, 40, 1), ("relu", 2, None, 2)]


@pytest.mark.parametrize(("name", "points", "nodes", "outputs"), CASES)
def test_the_remainder_is_of_third_order(name, points, nodes, outputs):
    """The formulas against the oracle: halving gamma0^2 divides what is left by eight."""
    rng = np.random.default_rng(11)
    X, Y = rng.standard_normal((points, 4)), 0.7 * rng.standard_normal((points, outputs))
    K, V = series(*rule(X, name, nodes), Y, 0.2)
    left = []
    for eps in (0.02, 0.01):
        exact = solve_quadrature(X, Y, depth=1, activation=name, gamma0=math.sqrt(eps), beta=5.0, prior_variances=G, tol=1e-11)
        kernel = exact.kernels[1] - sum(x * eps**k for k, x in enumerate(K))
        signal = exact.dual_coefficients - sum(x * eps**k for k, x in enumerate(V))
        left.append([np.linalg.norm(kernel), np.linalg.norm(signal)])
    order = np.log2(np.divide(*left))
    np.testing.assert_allclose(order, 3, atol=0.12)


@pytest.mark.parametrize(("name", "points", "nodes", "outputs"), CASES)
def test_sampled_second_order(name, points, nodes, outputs):
    """Kernels, error signal, duals and prediction at a new point within 6 standard errors, and these small."""
    rng = np.random.default_rng(12)
    X, Y = rng.standard_normal((points, 4)), 0.7 * rng.standard_normal((points, outputs))
    train = points if name == "relu" else points - 1  # one point is a test point, for ReLU it has its own rule
    K, V = series(*rule(X, name, nodes), Y[:train], 0.2)
    arguments = {"depth": 1, "activation": name, "beta": 5.0, "prior_variances": G}
    found = solve_perturbation(X[:train], Y[:train], gamma0=0.1, order=2, tol=1e-3, rng=3, **arguments)
    assert (found.second_method, found.order) == ("untilted averages", 2)
    for value, error, exact in (
        (found.kernel_curvatures[1], found.kernel_curvature_errors[1], K[2][:train, :train]),
        (found.signal_curvature, found.signal_curvature_error, V[2]),
    ):
        assert (np.abs(value - exact) < 6 * error + 1e-9).all()
        assert error.max() < 0.02 * np.abs(exact).max()
    mixed = -G[1] * (V[0] @ V[1].T + V[1] @ V[0].T)
    np.testing.assert_allclose(found.dual_curvatures[0], mixed, atol=0.01 * np.abs(mixed).max())
    np.testing.assert_allclose(found.fitted, Y[:train] - 0.2 * found.dual_coefficients, atol=1e-14)
    np.testing.assert_allclose(found.predict(X[:train]).mean, found.fitted, atol=1e-12)
    if train < points:
        prediction = found.predict(X[train:])
        exact = G[1] * sum(K[k][train, :train] @ V[2 - k] for k in range(3))
        error = prediction.standard_error[0]
        assert (np.abs(prediction.second_correction[0] - 1e-4 * exact) < 6 * error).all()
        total = prediction.lazy + prediction.correction + prediction.second_correction
        np.testing.assert_allclose(prediction.mean, total, rtol=1e-14)


@pytest.mark.parametrize("coefficients", [(0.3, 1.0, 0.5), (0.0, 0.8, 0.0, 0.3), (0.7, -1.0)])
def test_polynomials_are_exact(coefficients, monkeypatch):
    """Against a finer rule, prediction included, and against sampling; two outputs."""
    rng = np.random.default_rng(5)
    X, Y = 0.6 * rng.standard_normal((3, 4)), rng.standard_normal((2, 2))
    root = np.linalg.cholesky(G[0] * X @ X.T / 4)
    z, mass = gauss(3, 18)
    K, V = series(np.polynomial.polynomial.polyval(z @ root.T, coefficients), mass, Y, 0.5)
    arguments = {"depth": 1, "activation": activations.polynomial(coefficients), "beta": 2.0, "prior_variances": G, "rng": 0}
    found = solve_perturbation(X[:2], Y, gamma0=0.1, order=2, **arguments)
    assert found.second_method == ("closed form" if len(coefficients) == 2 else "exact quadrature")
    assert (found.kernel_curvature_errors == 0).all()
    np.testing.assert_allclose(found.kernel_curvatures[1], K[2][:2, :2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.signal_curvature, V[2], rtol=1e-9, atol=1e-12)
    prediction = found.predict(X[2:])
    exact = G[1] * sum(K[k][2, :2] @ V[2 - k] for k in range(3))
    np.testing.assert_allclose(prediction.second_correction[0], 1e-4 * exact, rtol=1e-9)
    monkeypatch.setattr("linkern.bayes.perturbation_second._MOST_NODES", 1)
    monkeypatch.setattr("linkern.bayes.perturbation_fourpoint._LARGEST_CLOSED", 1)
    sampled = solve_perturbation(X[:2], Y, gamma0=0.1, order=2, tol=3e-3, **arguments)
    if len(coefficients) > 2:
        error = sampled.signal_curvature_error
        assert (np.abs(sampled.signal_curvature - found.signal_curvature) < 6 * error).all()
        assert error.max() < 0.3 * np.abs(found.signal_curvature).max()


def test_the_symbolic_expansion():
    """One point of a cubic network: the cumulants of the derivation, by Wick's theorem."""
    import sympy as sp

    coefficients, eps = (0.2, 0.6, 0.2, -0.1), sp.Symbol("eps")
    (last,) = expansion(coefficients, 1, sp.Matrix([[0.7]]), sp.Matrix([[1.3]]), 0.5)[-1]
    found = solve_perturbation(
        [[math.sqrt(0.7)]], [1.3], depth=1, activation=activations.polynomial(coefficients), gamma0=0.3, beta=2.0, order=2
    )
    assert found.kernel_slopes[1, 0, 0] == pytest.approx(float(last.coeff(eps, 1)), rel=1e-12)
    assert found.kernel_curvatures[1, 0, 0] == pytest.approx(float(last.coeff(eps, 2)), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(("outputs", "beta"), [(None, 5.0), (2, 5.0), (None, math.inf)])
def test_linear_networks_of_any_depth(depth, outputs, beta):
    """Remainders of kernels, duals and predictions against the exact solution, third order in gamma0^2."""
    rng = np.random.default_rng(depth)
    X, X_test = rng.standard_normal((5, 8)), rng.standard_normal((4, 8))
    y = rng.standard_normal(5 if outputs is None else (5, outputs))
    g = np.array((1.2, 0.8, 1.1, 0.9, 1.0))[: depth + 1]
    arguments = {"depth": depth, "beta": beta, "prior_variances": g}
    left = []
    for gamma0 in (0.04, 0.02):
        found = solve_perturbation(X, y, activation="linear", gamma0=gamma0, order=2, **arguments)
        exact = solve_linear(X, y, gamma0=gamma0, **arguments)
        prediction = found.predict(X_test)
        pairs = (
            (found.kernels, np.array(exact.kernels)),
            (found.dual_kernels, np.array(exact.dual_kernels)),
            (prediction.mean, exact.predict(X_test)),
        )
        left.append([np.abs(a - b).max() for a, b in pairs])
        assert (prediction.standard_error == 0).all()
        np.testing.assert_allclose(found.predict(X).mean, found.fitted, atol=1e-11)
    if beta == math.inf:  # without a ridge the data alone fix the prediction
        assert max(left[0].pop(), left[1].pop()) < 1e-11
    np.testing.assert_allclose(np.log2(np.divide(*left)) / 2, 3, atol=0.25)
    assert found.second_method == "closed form"


@pytest.mark.parametrize(("name", "points", "nodes"), [("relu", 2, None), ("tanh", 2, 90), ("tanh", 3, 64)])
def test_slope_at_small_gamma(name, points, nodes):
    """(Phi - K)/gamma0^2 projected on the first order is 1 + gamma0^2 s + ..., s predicted by the second order."""
    rng = np.random.default_rng(21)
    X, Y = 0.5 * rng.standard_normal((points, 5)), rng.standard_normal((points, 1))
    K, _ = series(*rule(X, name, nodes), Y, 0.02)
    norm = (K[1] ** 2).sum()
    steps = np.array([0.5, 1.0, 2.0, 4.0]) * 0.0005 * math.sqrt(norm) / np.linalg.norm(K[2])
    slopes = []
    for eps in steps:
        exact = solve_quadrature(X, Y, depth=1, activation=name, gamma0=math.sqrt(eps), beta=50.0, prior_variances=G, tol=1e-12)
        slopes.append(((exact.kernels[1] - K[0]) * K[1]).sum() / eps / norm)
    # A cubic through four points: the value and the derivative at gamma0 = 0.
    limit, derivative, *_ = np.polynomial.polynomial.polyfit(steps, slopes, 3)
    assert 0.99 < slopes[0] < 1 - 1e-5
    assert limit == pytest.approx(1, abs=1e-8)
    assert derivative == pytest.approx((K[2] * K[1]).sum() / norm, rel=2e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"order": 3}, ValueError, "order: expected 1 or 2, got 3"),
        ({"order": 0}, ValueError, "order: expected an integer >= 1, got 0"),
        ({"order": 2.0}, TypeError, "order: expected an integer >= 1, got 2.0"),
        ({"order": 2, "depth": 2}, ValueError, "order: expected 1 for depth 2 and activation 'relu', got 2"),
    ],
)
def test_bad_order(change, error, message):
    arguments = {"X": np.eye(3), "y": np.ones(3), "depth": 1, "activation": "relu", "gamma0": 0.1, "beta": 1.0}
    with pytest.raises(error, match=message):
        solve_perturbation(**(arguments | change))
