"""The solver by finite networks: closed forms, quadrature, independent samples, and what it says about itself."""

import numpy as np
import pytest
from scipy import stats

from linkern.bayes import solve_linear
from linkern.bayes.montecarlo import networked as module
from linkern.bayes.montecarlo import solve_montecarlo, solve_quadrature, solver
from linkern.bayes.montecarlo.networked import width_for
from linkern.lazy import layer_kernels
from linkern.solution import Status

# Four standard deviations, as Student's t counts them for eight networks.
LEVEL = 1 - 2 * stats.norm.sf(4)


def solve(X, y, **changes):
    options = {"depth": 1, "gamma0": 1.2, "beta": 8.0, "activation": "relu", "tol": 0.03, "method": "networks", "rng": 1}
    return solve_montecarlo(X, y, **(options | changes))


def data(P, D=4, outputs=None, seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((P, D)), rng.standard_normal(P if outputs is None else (P, outputs)), rng.standard_normal((3, D))


def near(estimate, truth, *, bias, error=0.0):
    """Within the interval, widened by the bias of the width and by the truth's own error."""
    half = stats.t.ppf((1 + LEVEL) / 2, estimate.degrees) * np.hypot(estimate.standard_error, error)
    assert (np.abs(estimate.value - truth) < half + bias * np.abs(truth).max()).all()


def consistent(found, tol):
    """The equations hold with what is returned, and neurons reproduce the kernel."""
    g, T, Y = found.parameters["prior_variances"], 1 / found.parameters["beta"], found.labels
    V, kernel = found.sample.coefficients, found.kernels[-1]
    np.testing.assert_allclose((g[-1] * kernel + T * np.eye(len(Y))) @ V, Y, atol=1e-9 * np.abs(Y).max())
    np.testing.assert_allclose(found.dual_kernels[0], -(found.parameters["gamma0"] ** 2) * g[-1] * V @ V.T, rtol=1e-9)
    for part in (found.sample, *found.sections):
        phi = part.sites[0].features
        average = (phi * part.sites[0].weights[:, None]).T @ phi
        np.testing.assert_allclose(average, part.kernels[-1], atol=1e-5 * np.abs(kernel).max())
    assert found.status is Status.CONVERGED
    assert found.residual < tol
    assert found.kernel_errors[0] <= 1.05 * tol
    assert found.particles * found.snapshots == len(found.sample.sites[0].weights)
    assert len(found.sections) == solver.GROUPS


def test_linear_activation_is_the_closed_form():
    X, y, X_new = data(5, D=6)
    problem = {"depth": 1, "gamma0": 1.3, "beta": 6.0, "prior_variances": [0.9, 1.2]}
    exact = solve_linear(X, y, **problem)
    found = solve(X, y, activation="linear", **problem)
    consistent(found, 0.03)
    near(found.estimate(lambda s: s.kernels), np.stack([K.dense() for K in exact.kernels]), bias=0.01)
    near(found.estimate(lambda s: s.coefficients[:, 0]), exact.dual_coefficients, bias=0.01)
    near(found.prediction(X_new), exact.predict(X_new), bias=0.01)


@pytest.mark.parametrize(("activation", "outputs"), [("relu", None), ("tanh", 2)])
def test_quadrature_is_reproduced(activation, outputs):
    X, y, _ = data(2, outputs=outputs)
    problem = {"depth": 1, "gamma0": 1.2, "beta": 8.0, "activation": activation, "prior_variances": [0.8, 1.1]}
    exact, found = solve_quadrature(X, y, tol=1e-4, **problem), solve(X, y, **problem)
    consistent(found, 0.03)
    assert found.dual_coefficients.shape == y.shape
    near(found.estimate(lambda s: s.kernels), exact.kernels, bias=0.01)
    near(found.estimate(lambda s: s.coefficients), exact.dual_coefficients.reshape(2, -1), bias=0.01)


def test_independent_samples_agree():
    X, y, X_new = data(8, D=6)
    found, other = (solve(X, y, beta=50.0, method=method) for method in ("networks", "importance"))
    consistent(found, 0.03)
    for quantity in (lambda s: s.kernels, lambda s: s.coefficients):
        truth = other.estimate(quantity)
        near(found.estimate(quantity), truth.value, bias=0.015, error=truth.standard_error)
    truth = other.prediction(X_new)
    near(found.prediction(X_new), truth.value, bias=0.015, error=truth.standard_error)


@pytest.fixture
def hurried(monkeypatch):
    """Few sweeps: what is tested does not need networks that have arrived."""
    for name, value in (
        ("_CLIMB", 4),
        ("_RATIO", 4.0),
        ("_ADAPTING", 4),
        ("_WAITS", 1),
        ("_FIRST_SWEEPS", 4),
        ("_LEAST_SWEEPS", 4),
        ("_RESTARTS", 0),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("hurried")
def test_networks_stand_in_where_proposals_do_not_cover(monkeypatch):
    X, y, _ = data(2)
    monkeypatch.setattr(solver, "_LARGEST_RANK", 1)
    options = {"tol": 0.1, "max_samples": 1, "raise_on_failure": False}
    runs = ("auto", 3), ("networks", 3), ("auto", 4)
    one, two, other = (solve(X, y, method=method, rng=seed, **options) for method, seed in runs)
    np.testing.assert_array_equal(one.kernels, two.kernels)
    np.testing.assert_array_equal(one.standard_error, two.standard_error)
    assert (one.kernels[1:] != other.kernels[1:]).all()


def test_forbidden_labels_leave_the_kernel_lazy():
    X = np.vstack([data(2)[0], -data(2)[0]])
    seen = []
    found = solve(X, [1.0, -0.5, 1.0, -0.5], activation="tanh", callback=seen.append)
    assert found.status is Status.CONVERGED
    near(found.estimate(lambda s: s.kernels), layer_kernels(X, depth=1, activation="tanh"), bias=0.02)
    assert found.fitted == pytest.approx(0, abs=1e-6)
    assert seen == list(found.path)
    assert found.path[-1].temperature == pytest.approx(1 / 8)


@pytest.mark.usefixtures("hurried")
def test_narrow_networks_and_small_budgets_raise_doubts():
    X, y, _ = data(3)
    found = solve(X, y, gamma0=2.0, beta=50.0, particles=512, tol=1e-3, max_samples=1, raise_on_failure=False)
    assert found.status is Status.UNRELIABLE
    assert any("width 64 leaves a bias" in reason for reason in found.reasons)
    assert found.samples_needed > found.particles * found.snapshots


def test_networks_that_disagree_are_reported():
    rng = np.random.default_rng(0)
    problem = module.Task.checked(*data(2)[:2], None, 1, 1.0, 8.0, "relu", 1.0).problem

    def history(shift):
        noise = 1e-2 * rng.standard_normal((20, 8, 1, 1))
        return [module._Snapshot(None, np.eye(2) * size, problem.Y * size) for size in 1 + noise + shift]

    same = np.zeros((20, 8, 1, 1))
    trend = same + np.linspace(0, 0.1, 20)[:, None, None, None]
    sides = same + 0.1 * (np.arange(8) < 4)[:, None, None]
    assert module._least_likely(problem, history(same))[0] > 1e-3
    for shift, reason in ((trend, "drift"), (sides, "cold and warm have not met")):
        chance, doubt = module._least_likely(problem, history(shift))
        assert chance < 1e-3
        assert reason in doubt


def test_width_follows_points_and_tolerance():
    assert width_for(3, 0.007) == 512
    assert width_for(50, 0.007) >= 1000
    assert width_for(3, 0.5) == 128
    assert width_for(1000, 0.007) == 2048


def test_depth_must_be_one():
    X, y, _ = data(2)
    with pytest.raises(ValueError, match="method: expected depth 1 for 'networks', got depth 2"):
        solve(X, y, depth=2)
