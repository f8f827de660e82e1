"""Theory typed in again for these tests: exact finite-width deep linear posterior, and its infinite-width limit."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln


def problem(seed=3, points=4, inputs=6, new=3):
    """Random inputs, unit-norm labels, test inputs."""
    r = np.random.default_rng(seed)
    X, y, X_test = r.standard_normal((points, inputs)), r.standard_normal(points), r.standard_normal((new, inputs))
    return X, y / np.linalg.norm(y), X_test


def finite_width(X, y, X_test, widths, gamma0, beta, variances=None, nodes=None):
    """Mean and variance of f (training, then test inputs) and Phi^1..Phi^L, by quadrature over t_l = ln q_l.

    Given Q = q_1...q_L with q_l ~ chi^2_{N_l}/N_l, f is Gaussian with covariance g Q K. Rows of W^l orthogonal to the
    backward vector keep their prior, which gives the recursion for the kernels.
    """
    L = len(widths)
    nodes = {1: 4001, 2: 301, 3: 61}[L] if nodes is None else nodes
    *hidden, readout = np.ones(L + 1) if variances is None else variances
    G = np.cumprod(hidden)
    chi = gamma0**2 * widths[-1]
    g, kappa = readout / chi * G[-1], 1 / (beta * chi)
    X_all = np.concatenate([X, X_test])
    K, K_all = X @ X.T / X.shape[1], X_all @ X.T / X.shape[1]
    own = np.square(X_all).sum(1) / X.shape[1]
    lam, U = np.linalg.eigh(K)
    b = U.T @ y

    def log_weight(axes):
        t = np.meshgrid(*axes, indexing="ij")
        prior = sum(N / 2 * np.log(N / 2) - gammaln(N / 2) + N / 2 * (s - np.exp(s)) for s, N in zip(t, widths, strict=True))
        A = g * np.exp(sum(t))[..., None] * lam + kappa
        return t, prior - 0.5 * (np.log(A) + b**2 / A).sum(-1)

    axes = [np.linspace(-40 / min(widths) ** 0.5 - 3, 5, 61)] * L
    for _ in range(3):  # shrink the box to where the weight is
        t, log_w = log_weight(axes)
        inside = np.argwhere(log_w > log_w.max() - 50)
        low, high = inside.min(0), inside.max(0)
        axes = [np.linspace(a[max(i - 1, 0)], a[min(j + 1, a.size - 1)], 61) for a, i, j in zip(axes, low, high, strict=True)]
    t, log_w = log_weight([np.linspace(a[0], a[-1], nodes) for a in axes])
    w = np.exp(log_w - log_w.max()).ravel()
    w /= w.sum()
    q = [np.exp(s).ravel() for s in t]
    Q = np.prod(q, axis=0)
    A = g * Q[:, None] * lam + kappa

    coefficient = g * Q[:, None] / A
    means = (coefficient * b) @ (K_all @ U).T
    mean = w @ means
    conditional = g * Q[:, None] * own - (g * Q[:, None] * coefficient) @ np.square(K_all @ U).T
    variance = w @ (conditional + np.square(means)) - mean**2

    kernels, scaled = [], K
    for l in range(L):
        u = w * np.prod(q[:l], axis=0)  # size-biased by the layers below
        tilt = np.einsum("a,ai,aj->ij", u * g * Q, b / A, b / A) - np.diag((u * g * Q) @ (1 / A))
        change = u.sum() * K + K @ U @ tilt @ U.T @ K
        scaled = (1 - 1 / widths[l]) * scaled + change / widths[l]
        kernels.append(G[l] * scaled)
    return mean, variance, np.array(kernels)


def infinite_width(X, y, depth, gamma0, beta):
    """Phi^1..Phi^L at N = infinity (prior variances 1), from the scalar equation ln k = L ln(1 + gamma0^2 k q(k))."""
    C = X @ X.T / X.shape[1]
    lam, U = np.linalg.eigh(C)
    b = U.T @ y

    def q(k):
        return (lam * b**2 / (k * lam + 1 / beta) ** 2).sum()

    x = brentq(lambda x: x - depth * np.log1p(gamma0**2 * np.exp(x) * q(np.exp(x))), 0, 50, xtol=1e-14)
    k = np.exp(x)
    v = np.linalg.solve(k * C + np.eye(y.size) / beta, y)
    Cv = C @ v
    return np.array([C + np.expm1(x * l / depth) / (v @ Cv) * np.outer(Cv, Cv) for l in range(1, depth + 1)])
