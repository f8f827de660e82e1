"""Sampled neurons against the quadrature version, the linear closed form and networks of finite width."""

import numpy as np
import pytest

from linkern.bayes.montecarlo import solve_quadrature
from linkern.bayes.montecarlo.observables.predict import NewInputs
from linkern.bayes.width import solve_width
from linkern.bayes.width.nonlinear import solve_width_nonlinear
from linkern.bayes.width.nonlinear_sampled import neuron_prior, solve_width_nonlinear_sampled
from linkern.networks import sample_collapsed
from linkern.solution import Status

QUANTITIES = ("fitted", "test", "kernel", "covariance", "dual_coefficients", "log_evidence")


def problem(P, D=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(P, D)), rng.normal(size=P), rng.normal(size=(2, D))


def close(estimate, truth, *, vague):
    """Within four standard deviations (as Student's t counts them), and these small."""
    lower, upper = estimate.interval(1 - 6.3e-5)
    assert ((lower <= truth) & (truth <= upper)).all()
    assert np.linalg.norm(estimate.standard_error) < vague * np.linalg.norm(truth)


@pytest.mark.parametrize("method", ["tree", "one-loop"])
@pytest.mark.parametrize(("activation", "chi"), [("erf", 1.0), ("erf", 20.0), ("relu", 4.0)])
def test_quadrature_is_reproduced(activation, chi, method):
    X, y, X_new = problem(2)
    options = {"width": 20, "chi": chi, "ridge": 0.3 / chi, "readout_variance": 1.1, "prior_variance": 0.9, "method": method}
    exact = solve_width_nonlinear(X, y, activation=activation, nodes=90, X_new=X_new, **options)
    found = solve_width_nonlinear_sampled(X, y, activation=activation, X_new=X_new, tol=0.02, particles=1024, rng=1, **options)
    assert found.status is Status.CONVERGED
    for name in QUANTITIES:
        close(getattr(found, name), getattr(exact, name), vague=0.1)


def test_reweighting_a_quadrature_solution_gives_its_tree_level():
    """No sampling anywhere: conventions alone."""
    X, y, X_new = problem(2)
    N, chi, ridge, g_w, g_1 = 20, 5.0, 0.06, 1.1, 0.9
    gamma0, beta = np.sqrt(chi / (g_w * N)), g_w / (ridge * chi)
    wide = solve_quadrature(X, y, depth=1, gamma0=gamma0, beta=beta, activation="erf", prior_variances=[g_1, 1.0])
    ensemble = neuron_prior(wide.sample, gamma0, g_1, NewInputs.of(X, X_new))
    options = {"activation": "erf", "width": N, "ridge": ridge, "chi": chi, "readout_variance": g_w, "prior_variance": g_1}
    for method in ("tree", "one-loop"):
        found = solve_width_nonlinear(y=y, ensemble=ensemble, method=method, **options)
        exact = solve_width_nonlinear(X, y, nodes=90, X_new=X_new, method=method, **options)
        for name in QUANTITIES:
            assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-7, abs=1e-9)
        if method == "tree":
            assert found.dual_coefficients == pytest.approx(wide.dual_coefficients * chi / g_w, rel=1e-8)
            assert found.kernel == pytest.approx(wide.kernels[1], rel=1e-8)


@pytest.mark.parametrize("method", ["tree", "one-loop"])
def test_identity_activation_is_the_linear_expansion(method):
    X, y, X_new = problem(8)
    options = {"width": 30, "chi": 3.0, "ridge": 0.1, "method": method}
    linear = solve_width(X, y, depth=1, **options)
    found = solve_width_nonlinear_sampled(X, y, activation="linear", X_new=X_new, tol=0.02, particles=2048, rng=2, **options)
    close(found.fitted, linear.fitted, vague=0.02)
    close(found.test, linear.predict(X_new), vague=0.03)
    close(found.kernel, linear.kernels[1].dense(), vague=0.03)


def test_one_loop_is_what_networks_of_forty_neurons_do():
    rng = np.random.default_rng(3)
    X, X_new = rng.normal(size=(8, 6)), rng.normal(size=(3, 6))
    y = np.sign(X[:, 0] * X[:, 1] + 0.3 * X[:, 2])
    N, chi, ridge = 40, 4.0, 0.05
    finite = sample_collapsed(
        X, y, depth=1, width=N, gamma0=np.sqrt(chi / N), beta=1 / (ridge * chi), activation="relu",
        samples=300, chains=16, X_test=X_new, rng=1,
    )  # fmt: skip
    options = {"activation": "relu", "width": N, "chi": chi, "ridge": ridge, "X_new": X_new, "tol": 0.02, "rng": 1}
    tree, loop = (solve_width_nonlinear_sampled(X, y, method=method, **options) for method in ("tree", "one-loop"))
    assert finite.test is not None
    pairs = {"fitted": finite.train, "test": finite.test, "kernel": finite.kernels}
    for name, truth in pairs.items():
        found = getattr(loop, name)
        mean, error = (np.reshape(part, found.value.shape) for part in (truth.mean, truth.standard_error))
        both = np.hypot(found.standard_error, error)
        # Two loops are of relative order 1/N^2.
        assert (np.abs(found.value - mean) < 4 * both + 5 * np.abs(mean).max() / N**2).all()
        assert both.max() < 0.04
    distance = np.linalg.norm(tree.fitted.value - finite.train.mean)
    assert np.linalg.norm(loop.fitted.value - finite.train.mean) < 0.3 * distance


def test_a_small_budget_is_reported():
    X, y, _ = problem(3)
    options = {"activation": "tanh", "width": 20, "ridge": 0.1, "tol": 1e-3, "particles": 512, "max_samples": 4096, "rng": 1}
    found = solve_width_nonlinear_sampled(X, y, **options)
    assert found.status is Status.UNRELIABLE
    assert "max_samples" in found.reasons[0]
    assert found.test.value.shape == (0,)
    assert found.parameters["seed"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": 0.0}, "ridge: "),
        ({"width": 0}, "width: "),
        ({"chi": -1.0}, "chi: "),
        ({"method": "exact"}, "method: "),
        ({"y": np.ones((3, 2))}, "y: "),
        ({"X_new": np.ones((1, 9))}, "X_new: "),
        ({"activation": "relu2"}, "activation: expected"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    X, y, _ = problem(3)
    with pytest.raises(ValueError, match=message):
        solve_width_nonlinear_sampled(**({"X": X, "y": y, "activation": "erf", "width": 9, "ridge": 0.1} | changes))
