"""Second order in gamma0^2: against one hidden layer in closed form, differences of the exact march, and the lags by mpmath."""

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from linkern.flow import gradient_flow, leading_perturbation, second_perturbation
from linkern.solution import Status


def task(k=1.7, points=4):
    y = np.random.default_rng(0).standard_normal(points)
    return k * np.eye(points), y / np.linalg.norm(y)


def fourth_order(quantity, strengths):
    """The coefficient of gamma0^4 of quantity(gamma0) from its values at gamma0^2 = 0 and `strengths`."""
    nodes = np.array([0.0, *strengths])
    values = np.array([quantity(max(float(node), 1e-10) ** 0.5) for node in nodes])
    powers = np.vander(nodes, increasing=True)
    return np.tensordot(np.linalg.inv(powers)[2], values, axes=1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_differences_of_the_exact_march(depth):
    C, y = task()
    times = np.linspace(0, 1.2, 25) / 1.7
    settings = {"kernel": C, "y": y, "depth": depth, "times": times}
    read = (
        lambda run: run.outputs,
        lambda run: run.gradient_kernels()[:, :, 12],
        lambda run: run.gradient_kernels()[:, -1],
        lambda run: run.feature_kernels(-1, 12),
        lambda run: run.tangent_kernel(-1),
    )
    strengths = np.array([0.3, 0.6, 0.9, 1.2]) * 0.06 / depth**2
    runs = {}

    def every(solver, gamma0):
        key = solver.__name__, gamma0
        runs[key] = runs.get(key) or solver(**settings, gamma0=gamma0)
        return runs[key]

    for quantity in read:
        exact = fourth_order(lambda gamma0, q=quantity: q(every(gradient_flow, gamma0)), strengths)
        found = fourth_order(lambda gamma0, q=quantity: q(every(second_perturbation, gamma0)), strengths)
        size = np.abs(exact).max()
        assert size > 1e-3
        np.testing.assert_allclose(found, exact, atol=1e-2 * size)


def test_one_hidden_layer_in_closed_form():
    """h = u cosh w + r sinh w: the error of the expansion falls as gamma0^6."""
    (C, y), k = task(), 1.7
    times = np.linspace(0, 0.8, 9)
    errors = []
    for gamma0 in (0.2, 0.4):
        run = second_perturbation(kernel=C, y=y, depth=1, gamma0=gamma0, times=times)
        assert run.status is Status.CONVERGED
        assert run.residual < 1e-12
        clock = solve_ivp(
            lambda _, w, s=gamma0: s * k**0.5 - k * np.sinh(2 * w), (0, 0.8), [0.0], t_eval=times, rtol=1e-12, atol=1e-14
        ).y[0]
        f = np.sinh(2 * clock)[:, None] * y * k**0.5 / gamma0
        G = np.cosh(clock[:, None] + clock)
        Phi = C + k * (G[-1, 4] - 1) * np.outer(y, y)
        K = 2 * C + (2 * k * (G[-1, -1] - 1)) * np.outer(y, y) + (G[-1, -1] - 1) * (C - k * np.outer(y, y))
        errors.append(
            [
                np.abs(run.outputs - f).max(),
                np.abs(run.gradient_kernels()[0] - G).max(),
                np.abs(run.feature_kernels(-1, 4)[1] - Phi).max(),
                np.abs(run.tangent_kernel(-1) - K).max(),
            ]
        )
    ratios = np.array(errors[1]) / np.array(errors[0])
    assert (np.abs(ratios / 64 - 1) < 0.3).all()


def test_error_terms_against_mpmath():
    (C, y), k, depth = task(), 1.7, 3
    times = np.array([0.0, 1e-3, 0.05, 0.4, 3.0, 50.0])
    run = second_perturbation(kernel=C, y=y, depth=depth, gamma0=0.5, times=times)
    first, second = 3 * 4 * 5 / 3, 3 * 4 * 5 * (17 * 27 + 47 * 9 + 5 * 3 - 29) / 360
    for t, found in zip(times, run.error_curvature @ y, strict=True):
        with mpmath.workdps(40):
            x = mpmath.mpf(float(t)) * (depth + 1) * mpmath.mpf(k)
            E = mpmath.exp(-x)
            b = -(x**2) * E / 2 - x * E / 6 - 2 * x * E**2 + x * E**3 / 2 + mpmath.mpf(1) / 3 + 49 * E / 72 - E**2 / 3
            b += -13 * E**3 / 12 + 4 * E**4 / 9 - E**5 / 24
            a = x * E - mpmath.mpf(1) / 3 - E / 2 + E**2 - E**3 / 6
            c = x * E - mpmath.mpf(1) / 5 - 13 * E / 12 + 2 * E**2 - E**3 + E**4 / 3 - E**5 / 20
            slope = first**2 * (-b - (1 - E) ** 2 * a) + second * (-c - (1 - E) ** 5 / 5)
            expected = float(slope / ((depth + 1) ** 4 * mpmath.mpf(k) ** 2))
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-11)
    loss, loss_slope = run.loss_expansion()
    expansion = loss + 0.25 * loss_slope + 0.0625 * run.loss_curvature()
    full = ((run.leading_errors + 0.25 * run.error_slope + 0.0625 * run.error_curvature) ** 2).sum(axis=1) / 2
    np.testing.assert_allclose(full, run.losses, atol=1e-12)
    assert np.abs(expansion - full).max() < 0.5 * np.abs(loss + 0.25 * loss_slope - full).max()


def test_labels_along_one_eigenvector_and_new_inputs():
    """General C with labels along an eigenvector, some of them outside its range; kernels at training inputs given as new."""
    X = np.random.default_rng(1).standard_normal((6, 4))
    lam, U = np.linalg.eigh(X @ X.T / 4)
    y = 0.8 * U[:, -2] + 0.5 * U[:, 0]
    settings = {"depth": 2, "gamma0": 0.3, "times": np.linspace(0, 1.0, 21)}
    run, lead, exact = (solver(X, y, **settings) for solver in (second_perturbation, leading_perturbation, gradient_flow))
    assert run.eigenvalue == pytest.approx(lam[-2])
    assert np.abs(run.outputs - exact.outputs).max() < 0.2 * np.abs(lead.outputs - exact.outputs).max()
    assert (
        np.abs(run.tangent_kernel() - exact.tangent_kernel()).max()
        < 0.2 * np.abs(lead.tangent_kernel() - exact.tangent_kernel()).max()
    )
    np.testing.assert_allclose(run.feature_kernels(10, 20, X_new=X), run.feature_kernels(10, 20), atol=1e-12)
    np.testing.assert_allclose(run.tangent_kernel(X_new=X), run.tangent_kernel(), atol=1e-12)
    np.testing.assert_allclose(run.predict(X), run.outputs, atol=1e-12)


def test_silence_and_bad_input():
    C, y = task()
    silent = second_perturbation(kernel=C, y=0 * y, depth=2, gamma0=1.0, times=[0.0, 1.0])
    assert not silent.outputs.any()
    np.testing.assert_allclose(silent.feature_kernels(), np.repeat(C[None], 3, axis=0))
    with pytest.raises(ValueError, match="y: expected labels in one eigenspace"):
        second_perturbation(kernel=np.diag([1.0, 2.0, 3.0, 4.0]), y=y, depth=2, gamma0=1.0, times=[1.0])
    with pytest.raises(ValueError, match="times: expected"):
        second_perturbation(kernel=C, y=y, depth=2, gamma0=1.0, times=[-1.0])
