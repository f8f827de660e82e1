"""First order in gamma0^2 against the full saddle point by quadrature, exact deep linear kernels, and Wick by brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import special

from linkern import activations
from linkern.bayes import solve_linear
from linkern.bayes.perturbation import solve_perturbation
from linkern.solution import Status

PHI = {
    "tanh": np.tanh,
    "relu": lambda h: np.maximum(h, 0),
    "erf": special.erf,
    "gelu": lambda h: h * special.ndtr(h),
    "sin": np.sin,
    "cos": np.cos,
    "gaussian": lambda h: np.exp(-h * h / 2),
    "softplus": lambda h: np.logaddexp(h, 0),
    "linear": lambda h: h,
}


def data(P=3, test=2, seed=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((P, 4)), rng.standard_normal(P), rng.standard_normal((test, 4))


class Saddle:
    """The saddle point of P <= 3 points (the last ones may be test points) by tensor quadrature, re-typed from its action."""

    def __init__(self, X, y, depth, phi, nodes, variances):
        self.C, self.y, self.depth, self.phi, self.g = X @ X.T / X.shape[1], y, depth, phi, variances
        if nodes > 0:
            z, w = np.polynomial.hermite_e.hermegauss(nodes)
        else:  # midpoint rule, for the kink
            z = (np.arange(-nodes) + 0.5) / -nodes * 16 - 8
            w = np.exp(-z * z / 2)
        grid = np.meshgrid(*[z] * len(X), indexing="ij")
        self.z = np.stack([t.ravel() for t in grid], axis=1)
        self.w = np.prod(np.meshgrid(*[w / w.sum()] * len(X), indexing="ij"), axis=0).ravel()

    def tilted(self, S, H):
        """ln Z and <phi phi^T>, at h = S^(1/2) z."""
        values, vectors = np.linalg.eigh(S)
        f = self.phi(self.z @ (vectors * np.sqrt(values) @ vectors.T))
        weight = self.w * np.exp(-np.einsum("sa,ab,sb->s", f, H, f) / 2)
        Z = weight.sum()
        return math.log(Z), (f * weight[:, None]).T @ f / Z

    def downward(self, S, H):
        """-2 d ln Z/dS by central differences in the symmetric entries."""
        n, step = len(S), 1e-4
        D = np.empty((n, n))
        for i, j in itertools.combinations_with_replacement(range(n), 2):
            E = np.zeros((n, n))
            E[i, j] = E[j, i] = step
            slope = (self.tilted(S + E, H)[0] - self.tilted(S - E, H)[0]) / (2 * step)
            D[i, j] = D[j, i] = -2 * slope / (1 if i == j else 2)
        return D

    def solve(self, gamma0, beta):
        """Iterate both sweeps to convergence from the lazy point; returns Phi^0.., hatPhi^1.., v."""
        P, n = len(self.y), len(self.C)
        H = [np.zeros((n, n)) for _ in range(self.depth)]
        for _ in range(60):
            kernels = [self.C]
            for l in range(self.depth):
                kernels.append(self.tilted(self.g[l] * kernels[-1], H[l])[1])
            v = np.zeros(n)
            v[:P] = np.linalg.solve(self.g[-1] * kernels[-1][:P, :P] + np.eye(P) / beta, self.y)
            new = [-self.g[-1] * gamma0**2 * np.outer(v, v)]
            for l in range(self.depth - 1, 0, -1):
                new.insert(0, self.g[l] * self.downward(self.g[l] * kernels[l], new[0]))
            change = max(np.abs(a - b).max() for a, b in zip(new, H, strict=True))
            H = new
            if change < 1e-13:
                break
        assert change < 1e-8
        return np.array(kernels), np.array(H), v


def slopes(saddle, beta, eps):
    """Derivative at gamma0^2 = 0 from 0, eps and 2 eps, second order."""
    zero, one, two = (saddle.solve(math.sqrt(e), beta) for e in (0.0, eps, 2 * eps))
    return [(4 * b - c - 3 * a) / (2 * eps) for a, b, c in zip(zero, one, two, strict=True)], zero


CASES = [
    ("tanh", 1, 24),
    ("tanh", 2, 24),
    ("erf", 3, 24),
    ("gelu", 2, 24),
    ("sin", 2, 24),
    ("cos", 3, 24),
    ("gaussian", 2, 30),
    ("softplus", 1, 24),
    ("relu", 1, -120),
]


@pytest.mark.parametrize(("name", "depth", "nodes"), CASES)
def test_slopes_of_the_full_saddle_point(name, depth, nodes):
    """Two training points and one test point; kernels, duals, error signal and prediction."""
    X, y, _ = data()
    g = (1.1, 0.9, 1.2, 0.8)[: depth + 1]
    (kernel, dual, signal), zero = slopes(Saddle(X, y[:2], depth, PHI[name], nodes, g), 2.0, 2e-3)
    found = solve_perturbation(
        X[:2], y[:2], depth=depth, activation=name, gamma0=0.1, beta=2.0, prior_variances=g, tol=5e-4, rng=1
    )
    assert found.method == ("closed form" if name in {"sin", "cos"} else "untilted averages")
    loose = 2e-3 if name == "relu" else 1e-4
    np.testing.assert_allclose(found.lazy_kernels, zero[0][:, :2, :2], atol=loose)
    scale = np.abs(kernel).max()
    for exact, value, error in (
        (kernel[:, :2, :2], found.kernel_slopes, found.kernel_slope_errors),
        (signal[:2], found.signal_slope, found.signal_slope_error),
    ):
        assert (np.abs(value - exact) < 6 * error + loose * np.abs(exact).max()).all()
        assert error.max() < 1e-3 * np.abs(exact).max()
    np.testing.assert_allclose(found.dual_slopes, dual[:, :2, :2], atol=loose * np.abs(dual).max())
    np.testing.assert_allclose(dual[:, 2], 0, atol=1e-6)
    prediction = found.predict(X[2:])
    exact = g[-1] * (kernel[-1][2, :2] @ zero[2][:2] + zero[0][-1][2, :2] @ signal[:2])
    assert abs(prediction.correction[0] / 0.01 - exact) < 4 * prediction.standard_error[0] / 0.01 + 2 * loose * (
        abs(exact) + scale
    )
    assert prediction.mean[0] == pytest.approx(prediction.lazy[0] + prediction.correction[0])


class ReluPlane(Saddle):
    """Two points of a ReLU network: the radius by hand, the angle by Gauss-Legendre between the kinks."""

    def tilted(self, S, H):
        A = np.linalg.cholesky(S)
        kinks = np.sort([(math.atan2(-row[0], row[1]) + k * math.pi) % (2 * math.pi) for row in A for k in (0, 1)])
        cuts = np.append(kinks, kinks[0] + 2 * math.pi)
        x, w = np.polynomial.legendre.leggauss(40)
        angle = np.concatenate([(a + b) / 2 + (b - a) / 2 * x for a, b in itertools.pairwise(cuts)])
        weight = np.concatenate([(b - a) / 2 * w for a, b in itertools.pairwise(cuts)]) / (2 * math.pi)
        f = np.maximum(np.stack([np.cos(angle), np.sin(angle)], axis=1) @ A.T, 0)
        Q = 1 + np.einsum("sa,ab,sb->s", f, H, f)
        Z = (weight / Q).sum()
        return math.log(Z), (f * (2 * weight / Q**2)[:, None]).T @ f / Z


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_slopes_of_relu_with_depth(depth):
    """The delta functions of phi'' enter the duals from the second layer down."""
    X, y, _ = data(P=2)
    (kernel, dual, signal), zero = slopes(ReluPlane(X, y, depth, None, 2, np.ones(depth + 1)), 2.0, 2e-5)
    found = solve_perturbation(X, y, depth=depth, activation="relu", gamma0=0.1, beta=2.0, tol=3e-4, rng=2)
    np.testing.assert_allclose(found.lazy_kernels, zero[0], rtol=1e-11)
    np.testing.assert_allclose(found.dual_slopes, dual, atol=1e-4 * np.abs(dual).max())
    assert (np.abs(found.kernel_slopes - kernel) < 4 * found.kernel_slope_errors + 1e-4 * np.abs(kernel).max()).all()
    assert (np.abs(found.signal_slope - signal) < 4 * found.signal_slope_error + 1e-4 * np.abs(signal).max()).all()
    assert found.relative_error < 2e-3


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("beta", [1.5, np.inf])
def test_linear_networks_have_the_exact_slope(beta, outputs):
    rng = np.random.default_rng(2)
    X, X_test = rng.standard_normal((5, 8)), rng.standard_normal((3, 8))
    y = rng.standard_normal(5 if outputs is None else (5, outputs))
    g = np.array((1.2, 0.8, 1.1, 0.9))
    found = solve_perturbation(X, y, depth=3, activation="linear", gamma0=0.02, beta=beta, prior_variances=g)
    C = X @ X.T / 8
    v = np.linalg.solve(g.prod() * C + (0 if beta == np.inf else np.eye(5) / beta), y)
    V = v.reshape(5, -1)
    for l in range(4):
        G = g[:l].prod()
        # Each hidden layer adds the same rank-one term per unit of the overall scale.
        np.testing.assert_allclose(found.kernel_slopes[l], l * G * g.prod() * C @ V @ V.T @ C, rtol=1e-10, atol=1e-12)
        if l:
            np.testing.assert_allclose(found.dual_slopes[l - 1], -g[l:].prod() * V @ V.T, rtol=1e-10)
    exact = solve_linear(X, y, depth=3, gamma0=0.02, beta=beta, prior_variances=g)
    lazy = solve_linear(X, y, depth=3, gamma0=0.0, beta=beta, prior_variances=g)
    change = exact.predict(X_test) - lazy.predict(X_test)
    prediction = found.predict(X_test)
    np.testing.assert_allclose(prediction.correction, change, rtol=0.05, atol=2e-2 * np.abs(change).max() + 1e-12)
    assert found.method == "closed form"
    assert (found.standard_error == 0).all()
    assert (prediction.standard_error == 0).all()
    np.testing.assert_allclose(
        found.fitted, y - (0 if beta == np.inf else 1 / beta) * (v + 4e-4 * found.signal_slope), atol=1e-12
    )


def wick(indices, S):
    """E of a product of fields, one pairing at a time."""
    if not indices:
        return 1.0
    if len(indices) % 2:
        return 0.0
    first, rest = indices[0], indices[1:]
    return sum(S[first, b] * wick(rest[:i] + rest[i + 1 :], S) for i, b in enumerate(rest))


@pytest.mark.parametrize("coefficients", [(0.3, 1.0, 0.5), (0.0, 0.8, 0.0, 0.3), (0.5,), (0.7, -1.0)])
def test_polynomials_by_brute_force(coefficients):
    """One hidden layer: Phi_1 = Cov(phi_m phi_n, (v . phi)^2)/2 with all pairings of all monomials."""
    X, y, _ = data(P=2)
    phi = activations.polynomial(coefficients)
    found = solve_perturbation(X, y, depth=1, activation=phi, gamma0=0.1, beta=2.0)
    S, v = X @ X.T / 4, found.signal

    def average(points):
        powers = itertools.product(range(len(coefficients)), repeat=len(points))
        return sum(
            math.prod(coefficients[k] for k in power)
            * wick(tuple(p for p, k in zip(points, power, strict=True) for _ in range(k)), S)
            for power in powers
        )

    K = np.array([[average((m, n)) for n in range(2)] for m in range(2)])
    np.testing.assert_allclose(found.lazy_kernels[1], K, rtol=1e-12)
    for m, n in ((0, 0), (0, 1), (1, 1)):
        four = sum(v[a] * v[b] * (average((m, n, a, b)) - K[m, n] * K[a, b]) for a in range(2) for b in range(2))
        assert found.kernel_slopes[1, m, n] == pytest.approx(four / 2, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("name", ["sin", "cos", "exp", "polynomial"])
def test_closed_forms_against_sampling(name, monkeypatch):
    """Deeper, more points and every layer: the sampled route within 6 of its standard errors (16 scrambles: long tails)."""
    rng = np.random.default_rng(8)
    # exp has heavy tails: small inputs, or no sampling resolves its eighth moments.
    X, y = (0.25 if name == "exp" else 0.7) * rng.standard_normal((6, 5)), rng.standard_normal(6)
    phi = activations.polynomial((0.2, 0.6, 0.2, -0.1)) if name == "polynomial" else activations.get(name)
    arguments = {"depth": 2 if name != "exp" else 1, "activation": phi, "gamma0": 0.1, "beta": 2.0, "rng": 5}
    exact = solve_perturbation(X, y, **arguments)
    monkeypatch.setattr("linkern.bayes.perturbation_fourpoint._LARGEST_CLOSED", 1)
    sampled = solve_perturbation(X, y, tol=0.003, **arguments)
    assert (exact.method, sampled.method) == ("closed form", "untilted averages")
    error = sampled.kernel_slope_errors[1:]
    assert (np.abs(sampled.kernel_slopes - exact.kernel_slopes)[1:] < 6 * error + 1e-12).all()
    assert sampled.relative_error < 0.05


def test_quoted_errors_cover():
    """z-scores of repeated coarse runs around a fine one have unit variance."""
    X, y, _ = data(P=3)
    arguments = {"depth": 1, "activation": "tanh", "gamma0": 0.1, "beta": 2.0}
    fine = solve_perturbation(X, y, tol=3e-4, rng=0, **arguments)
    scores = []
    for seed in range(1, 31):
        run = solve_perturbation(X, y, tol=1.0, samples=2**13, rng=seed, **arguments)
        scores.append((run.signal_slope - fine.signal_slope)[0] / np.hypot(run.signal_slope_error, fine.signal_slope_error)[0])
    assert 0.7 < np.std(scores) < 1.5
    assert abs(np.mean(scores)) < 4 / math.sqrt(30)


def test_truncation_error_and_status():
    X, y, _ = data(P=2)
    arguments = {"depth": 2, "activation": "sin", "beta": 2.0}
    small = solve_perturbation(X, y, gamma0=0.2, **arguments)
    truth = Saddle(X, y, 2, np.sin, 30, np.ones(3)).solve(0.2, 2.0)
    error = np.linalg.norm(truth[0] - small.kernels, axis=(1, 2))
    lazy = np.linalg.norm(truth[0] - small.lazy_kernels, axis=(1, 2))
    assert (error[1:] < 0.3 * lazy[1:]).all()
    assert (error[1:] < 10 * small.truncation_errors[1:]).all()
    assert (small.truncation_errors[1:] < 10 * error[1:]).all()
    np.testing.assert_allclose(small.dual_kernels, truth[1], atol=0.3 * np.abs(truth[1]).max())
    assert small.status is Status.CONVERGED
    assert small.residual < 1e-13
    assert solve_perturbation(X, y, gamma0=5.0, **arguments).status is Status.UNRELIABLE
    rough = solve_perturbation(X, y, depth=1, activation="relu", gamma0=0.1, beta=2.0, tol=1e-6, samples=2**13, rng=0)
    assert rough.status is Status.UNRELIABLE
    assert "more samples" in rough.reasons[0]


def test_symmetries():
    """Odd activations and even labels, permutations, seeds, and blocks of test points."""
    rng = np.random.default_rng(4)
    half = rng.standard_normal((3, 4))
    X, y = np.vstack([half, -half]), np.tile(rng.standard_normal(3), 2)
    even = solve_perturbation(X, y, depth=2, activation="sin", gamma0=0.3, beta=2.0)
    np.testing.assert_allclose(even.predict(rng.standard_normal((4, 4))).mean, 0, atol=1e-12)
    X, y, X_test = data(P=4, test=70)
    arguments = {"depth": 2, "gamma0": 0.1, "beta": 2.0}
    whole = solve_perturbation(X, y, activation="sin", **arguments)
    order = [2, 0, 3, 1]
    turned = solve_perturbation(X[order], y[order], activation="sin", **arguments)
    np.testing.assert_allclose(turned.kernel_slopes, whole.kernel_slopes[:, order][:, :, order], rtol=1e-10)
    mean = whole.predict(X_test).mean
    np.testing.assert_allclose(np.concatenate([whole.predict(x[None]).mean for x in X_test[::23]]), mean[::23], rtol=1e-10)
    np.testing.assert_allclose(whole.predict(X).mean, whole.fitted, rtol=1e-10)
    first, second = (solve_perturbation(X, y, activation="relu", rng=9, tol=0.05, **arguments) for _ in range(2))
    np.testing.assert_array_equal(first.kernel_slopes, second.kernel_slopes)
    # Sampled too: one more field per test input, the samples of the solution itself at the training inputs.
    mean = first.predict(X_test).mean
    np.testing.assert_allclose(np.concatenate([first.predict(x[None]).mean for x in X_test[::23]]), mean[::23], rtol=1e-10)
    np.testing.assert_allclose(first.predict(X).mean, first.fitted, rtol=1e-9)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_no_first_order_by_symmetry_is_exact(name):
    """Slopes that are the square of a rounding error have no relative error that matters."""
    found = solve_perturbation([[1, 2], [-1, -2]], [1, 1], depth=1, activation=name, gamma0=1.0, beta=10.0, samples=2**13, rng=0)
    assert found.status is Status.CONVERGED
    assert found.reasons == ()
    np.testing.assert_allclose(found.kernels, found.lazy_kernels, atol=1e-12)


def test_homogeneous_identity():
    """Rescaling symmetry of degree one: Tr(Phi^l hatPhi^l) is the same in every layer, at first order with K^l."""
    X, y, _ = data(P=4)
    X[3] = 0.0
    for name in ("relu", "leaky_relu", "linear"):
        found = solve_perturbation(X, y, depth=3, activation=name, gamma0=0.1, beta=2.0, rng=0, tol=0.05)
        traces = [(K * H).sum() for K, H in zip(found.lazy_kernels[1:], found.dual_slopes, strict=True)]
        np.testing.assert_allclose(traces, traces[0], rtol=1e-10)
        assert np.isfinite(found.kernel_slopes).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gamma0": -1.0}, ValueError, "gamma0: expected a finite number >= 0"),
        ({"beta": 0.0}, ValueError, "beta: expected a number > 0"),
        ({"depth": 0}, ValueError, "depth: expected an integer >= 1"),
        ({"activation": "swish"}, ValueError, "activation: expected one of"),
        ({"activation": activations.Activation("bare", np.tanh, np.cosh)}, ValueError, "activation: .*'bare' lacks them"),
        ({"tol": 0.0}, ValueError, "tol: expected a finite number > 0"),
        ({"samples": 100}, ValueError, "samples: expected an integer >= 8192"),
        ({"y": [1.0]}, ValueError, "y: expected 3 rows as in X"),
        ({"rng": "seed"}, TypeError, "rng: expected"),
    ],
)
def test_bad_input(change, error, message):
    X, y, _ = data()
    arguments = {"X": X, "y": y, "depth": 1, "activation": "relu", "gamma0": 0.1, "beta": 1.0} | change
    with pytest.raises(error, match=message):
        solve_perturbation(**arguments)


def test_bad_test_input():
    X, y, _ = data()
    found = solve_perturbation(X, y, depth=1, activation="sin", gamma0=0.1, beta=1.0)
    with pytest.raises(ValueError, match="X_test: expected 4 columns as in X"):
        found.predict(np.ones((2, 3)))


@pytest.mark.parametrize(("activation", "order"), [("sin", 1), ("relu", 2)])
def test_blocks_of_test_inputs(activation, order, monkeypatch):
    """Many test inputs are taken in blocks, which leave no trace."""
    X, y, X_test = data(P=3, test=20)
    found = solve_perturbation(X, y, depth=1, activation=activation, gamma0=0.2, beta=2.0, order=order, tol=0.05, rng=0)
    whole = found.predict(X_test)
    monkeypatch.setattr("linkern.bayes.perturbation_solution._LARGEST_BLOCK", 7)
    parts = found.predict(X_test)
    for name in ("mean", "lazy", "correction", "second_correction", "standard_error"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-13)
    assert parts.mean.shape == (20,)
