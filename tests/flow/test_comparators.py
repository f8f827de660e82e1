"""Perturbation theory against differences of the exact solver; static kernel and gradient independence against plain loops."""

import mpmath
import numpy as np
import pytest
from scipy.linalg import expm

from linkern.bayes import Spectrum
from linkern.flow import gradient_flow, gradient_independence, leading_perturbation, march, static_ntk
from linkern.solution import ConvergenceError, Status


def task(seed=0, points=4, inputs=7):
    r = np.random.default_rng(seed)
    y = r.standard_normal(points)
    return r.standard_normal((points, inputs)), y / np.linalg.norm(y)


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_slopes_are_those_of_the_exact_solver(depth):
    """Three values of gamma0^2 and one at zero, extrapolated linearly and quadratically; Richardson in the step."""
    X, y = task(1)
    C = X @ X.T / 7
    settings = {"depth": depth, "time": 1.2 / (depth + 1), "points": 17, "levels": 4, "tol": 1.0}
    runs = [gradient_flow(X, y, gamma0=g**0.5, **settings) for g in (0.01, 0.005, 0.0025)]
    lazy = gradient_flow(X, y, gamma0=1e-8, **settings)
    theory = leading_perturbation(X, y, depth=depth, gamma0=1.0, times=lazy.times)
    assert theory.status is Status.CONVERGED
    assert theory.residual < 1e-14

    def slope(read):
        first = [(read(run) - read(lazy)) / g for run, g in zip(runs, (0.01, 0.005, 0.0025), strict=True)]
        second = [2 * first[1] - first[0], 2 * first[2] - first[1]]
        return (4 * second[1] - second[0]) / 3

    assert relative(slope(lambda run: run.errors), theory.error_slope) < 1e-5
    assert relative(slope(lambda run: run.losses), theory.loss_expansion()[1]) < 1e-5
    assert relative(slope(lambda run: run.gradient_kernels()), theory.gradient_kernels() - 1) < 1e-5
    assert relative(slope(lambda run: run.tangent_kernel()), theory.tangent_kernel() - (depth + 1) * C) < 1e-5
    for t, s in ((16, 16), (16, 5), (3, 9)):
        assert relative(slope(lambda run, t=t, s=s: run.feature_kernels(t, s)), theory.feature_kernels(t, s) - C) < 1e-5
    new = np.random.default_rng(5).standard_normal((3, 7))
    change = slope(lambda run: run.feature_kernels(12, 7, X_new=new))
    assert relative(change, theory.feature_kernels(12, 7, X_new=new) - new @ X.T / 7) < 1e-5
    gain = slope(lambda run: run.predict(new))
    far = leading_perturbation(X, y, depth=depth, gamma0=0.1, times=lazy.times).predict(new)
    near = leading_perturbation(X, y, depth=depth, gamma0=1e-6, times=lazy.times).predict(new)
    assert relative(gain, (far - near) / 0.01) < 1e-5


def test_zero_and_tiny_eigenvalues():
    """Explicit modes over 40 decades against the same integrals at 40 digits, and the limit of a vanishing eigenvalue."""
    lam, b, depth, time = np.array([1e-40, 1e-12, 1e-4, 0.7, 30.0]), np.array([0.5, 1.0, -0.3, 0.8, 0.6]), 2, 3.0
    theory = leading_perturbation(spectrum=Spectrum.from_modes(lam, b), depth=depth, gamma0=1.0, times=[time])
    rates = [mpmath.mpf(3 * value) for value in lam]
    with mpmath.workdps(40):
        for k, slope in enumerate(theory.error_slope[0]):

            def source(u, k=k):
                total = mpmath.mpf(0)
                slow = -mpmath.expm1(-rates[k] * u)
                for rate, weight in zip(rates, b, strict=True):
                    fast = -mpmath.expm1(-rate * u)
                    lag = mpmath.exp(-rates[k] * time)
                    total += weight**2 * (slow * fast * mpmath.exp(-rates[k] * (time - u) - rate * u))
                    total += weight**2 * rates[k] / rate * fast**2 * lag
                return total

            exact = mpmath.quad(source, [0, 0.01, 0.05, 0.2, 0.5, 1, 2, time])
            expected = -float(b[k] * exact) * (depth * (depth + 2) / 6)
            assert abs(slope - expected) < 1e-14 * np.abs(theory.error_slope).max() + 1e-12 * abs(expected)
    rank = leading_perturbation(spectrum=Spectrum.from_modes(lam[2:], b[2:]), depth=depth, gamma0=1.0, times=[0.5, time])
    zero = Spectrum.from_modes(np.concatenate([[0.0], lam[2:]]), np.concatenate([[0.4], b[2:]]))
    padded = leading_perturbation(spectrum=zero, depth=depth, gamma0=1.0, times=[0.5, time])
    np.testing.assert_allclose(padded.error_slope[:, 1:], rank.error_slope, rtol=1e-13)
    assert not padded.error_slope[:, 0].any()
    np.testing.assert_allclose(padded.leading_errors[:, 0], 0.4)
    kernels = theory.feature_kernels()
    assert np.isfinite(kernels).all()
    np.testing.assert_allclose(kernels, kernels.swapaxes(1, 2), atol=1e-13 * np.abs(kernels).max())


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("outputs", [None, 2])
def test_static_kernel(decay, outputs):
    X, y = task(2)
    labels = y if outputs is None else np.column_stack([y, y[::-1]])
    run = static_ntk(X, labels, depth=2, gamma0=0.7, times=[0.0, 0.3, 2.0, 50.0], weight_decay=decay)
    K = 3 * X @ X.T / 7
    M = K + 3 * decay * np.eye(4)
    for index, t in enumerate(run.times):
        expected = np.linalg.solve(M, (np.eye(4) - expm(-M * t)) @ K @ labels)
        np.testing.assert_allclose(run.outputs[index], expected, atol=1e-12)
    kernels = run.tangent_kernel() if outputs is None else run.tangent_kernel()[:, 1, :, 1]
    np.testing.assert_allclose(kernels, K, rtol=1e-12)
    np.testing.assert_allclose(run.predict(X), run.outputs, atol=1e-13)
    assert run.gradient_kernels().shape == ((3, 4, 4) if outputs is None else (3, 4, 2, 4, 2))
    np.testing.assert_allclose(run.feature_kernels(X_new=X), run.feature_kernels(), atol=1e-12)


def plain_gradient_independence(C, y, depth, gamma0, steps, decay):
    """A = B = 0 with Euler steps of df/dt = K Delta - (L + 1) decay f, on full (T P) matrices, one time after the other."""
    T, P = len(steps) + 1, len(y)
    f = np.zeros((T, P))
    R = np.concatenate([[1.0], np.cumprod(1 - np.asarray(steps) * decay)])
    for now in range(T):
        n = now + 1
        Delta = y - f[:n]
        pick = np.zeros((n, n * P))
        for t in range(n):
            pick[t, t * P : (t + 1) * P] = Delta[t]
        mem = np.array([[gamma0 * steps[s] * R[t] / R[s + 1] if s < t else 0.0 for s in range(n)] for t in range(n)])
        Phi = [np.kron(np.ones((n, n)), C) for _ in range(depth + 1)]
        G = [np.ones((n, n)) for _ in range(depth + 2)]
        Ru, Rr = np.diag(np.repeat(R[:n], P)), np.diag(R[:n])
        for _ in range(2 * n * depth):
            for l in range(1, depth + 1):
                c = np.repeat(mem, P, axis=0) * (Phi[l - 1] @ pick.T)
                d = (mem * G[l + 1]) @ pick
                inverse = np.linalg.inv(np.eye(n) - d @ c)
                g_r, g_u = inverse @ Rr, inverse @ d @ Ru
                h_r, h_u = c @ g_r, Ru + c @ g_u
                Phi[l] = h_u @ Phi[l - 1] @ h_u.T + h_r @ G[l + 1] @ h_r.T
                G[l] = g_u @ Phi[l - 1] @ g_u.T + g_r @ G[l + 1] @ g_r.T
        K = sum(G[l + 1][now, now] * Phi[l].reshape(n, P, n, P)[now, :, now] for l in range(depth + 1))
        if now + 1 < T:
            f[now + 1] = f[now] + steps[now] * (K @ Delta[now] - (depth + 1) * decay * f[now])
    return f, [kernel.reshape(T, P, T, P) for kernel in Phi], G


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("depth", [1, 3])
def test_gradient_independence_by_a_plain_loop(depth, decay):
    X, y = task(3)
    steps = np.linspace(0.03, 0.08, 11)
    run = gradient_independence(X, y, depth=depth, gamma0=1.2, steps=steps, weight_decay=decay)
    assert run.residual < 1e-12
    f, Phi, G = plain_gradient_independence(X @ X.T / 7, y, depth, 1.2, steps, decay)
    np.testing.assert_allclose(run.outputs, f, atol=1e-12)
    np.testing.assert_allclose(run.gradient_kernels(), G[1:], rtol=1e-11)
    for t, s in ((11, 11), (4, 9)):
        np.testing.assert_allclose(run.feature_kernels(t, s), [kernel[t, :, s] for kernel in Phi], atol=1e-12)


def test_gradient_independence_is_exact_at_depth_one_and_wrong_beyond():
    X, y = task(4)
    apart = {}
    for depth in (1, 3):
        for count in (100, 200):
            steps = np.full(count, 1.5 / count)
            exact = march(X, y, depth=depth, gamma0=1.0, steps=steps)
            neglect = gradient_independence(X, y, depth=depth, gamma0=1.0, steps=steps)
            apart[depth, count] = np.abs(exact.outputs[-1] - neglect.outputs[-1]).max()
    assert apart[1, 200] == pytest.approx(apart[1, 100] / 2, rel=0.05)
    assert apart[3, 200] > 3 * apart[1, 100]
    assert apart[3, 200] == pytest.approx(apart[3, 100], rel=0.2)


def test_several_outputs_of_gradient_independence_decouple_where_they_must():
    """Whitened data and orthogonal labels: every output learns its own mode, as one output alone would."""
    Y = np.zeros((4, 2))
    Y[0, 0], Y[1, 1] = 1.0, 0.6
    steps = np.full(15, 0.05)
    both = gradient_independence(kernel=np.eye(4), y=Y, depth=2, gamma0=1.5, steps=steps)
    for o in (0, 1):
        alone = gradient_independence(kernel=np.eye(4), y=Y[:, o], depth=2, gamma0=1.5, steps=steps)
        np.testing.assert_allclose(both.outputs[:, :, o], alone.outputs, atol=1e-13)


def test_bad_input():
    X, y = task()
    with pytest.raises(ValueError, match="times: expected"):
        static_ntk(X, y, depth=1, gamma0=1.0, times=[1.0, 0.5])
    with pytest.raises(ValueError, match="gamma0: expected"):
        leading_perturbation(X, y, depth=1, gamma0=0.0, times=[1.0])
    with pytest.raises(ConvergenceError, match="steps: the loss grew"):
        gradient_independence(X, y, depth=2, gamma0=1.0, steps=np.full(100, 3.0))
