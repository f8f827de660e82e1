"""One nonlinear hidden layer: against the linear closed forms, finite differences, and exact importance sampling."""

import numpy as np
import pytest
from scipy import optimize

from linkern.bayes.width import solve_width
from linkern.bayes.width.nonlinear import NeuronEnsemble, solve_width_nonlinear
from linkern.solution import Status


def problem(P=2, D=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(P, D)), rng.normal(size=P), rng.normal(size=(2, D))


@pytest.mark.parametrize("method", ["tree", "one-loop"])
@pytest.mark.parametrize(("width", "chi"), [(20, 1.0), (20, 20.0)])
def test_identity_activation_is_the_linear_expansion(width, chi, method):
    X, y, X_new = problem()
    options = {"width": width, "chi": chi, "ridge": 0.2 / chi, "readout_variance": 1.1, "method": method}
    found = solve_width_nonlinear(X, y, activation="linear", prior_variance=0.9, nodes=60, X_new=X_new, **options)
    linear = solve_width(X, y, depth=1, prior_variances=0.9, **options)
    assert found.status is Status.CONVERGED
    assert found.fitted == pytest.approx(linear.fitted, abs=1e-9)
    assert found.test == pytest.approx(linear.predict(X_new), abs=1e-9)
    assert found.kernel == pytest.approx(linear.kernels[1].dense(), abs=1e-9)
    # The density of ln Q carries Stirling's correction to the loop expansion's constant.
    stirling = 1 / (6 * width) if method == "one-loop" else 0.0
    assert found.log_evidence - stirling == pytest.approx(linear.log_evidence, abs=1e-5)


def test_tree_level_minimises_a_convex_function():
    X, y, _ = problem()
    N, ridge = 15, 0.05
    found = solve_width_nonlinear(X, y, activation="erf", width=N, chi=N, ridge=ridge, method="tree")
    features, weights = found.ensemble.features, np.exp(found.ensemble.log_weights)

    def objective(v):
        return ridge / 2 * v @ v - y @ v + N * np.log(weights @ np.exp((features @ v) ** 2 / (2 * N * N)))

    for start in np.random.default_rng(0).normal(size=(4, 2)) * 20:
        best = optimize.minimize(objective, start, method="BFGS", options={"gtol": 1e-9})
        assert best.x == pytest.approx(found.dual_coefficients, abs=1e-4)
    s = features @ found.dual_coefficients
    tilt = weights * np.exp(s**2 / (2 * N * N))
    Phi = np.einsum("s,si,sj->ij", tilt / tilt.sum(), features, features)
    assert found.kernel == pytest.approx(Phi, rel=1e-10)
    expected = np.linalg.solve(Phi / N + ridge * np.eye(2), y)
    assert found.dual_coefficients == pytest.approx(expected, rel=1e-9)


def exact_by_importance(X, y, X_new, N, chi, ridge, phi, seed, networks=100_000):
    """Posterior means by reweighting networks whose hidden weights are drawn from the prior; the readout is integrated."""
    rng = np.random.default_rng(seed)
    points = np.vstack([X, X_new])
    total, mean, kernel, square = 0.0, 0.0, 0.0, 0.0
    for _ in range(networks // 10_000):
        h = rng.normal(size=(10_000, N, X.shape[1])) @ points.T / np.sqrt(X.shape[1])
        F = phi(h)
        Phi = np.swapaxes(F, 1, 2) @ F / N
        P = y.size
        A = Phi[:, :P, :P] / chi + ridge * np.eye(P)
        v = np.linalg.solve(A, np.broadcast_to(y, (len(A), P))[..., None])[..., 0]
        w = np.exp(-0.5 * (v @ y)) / np.sqrt(np.linalg.det(A))
        f = np.einsum("sap,sp->sa", Phi[:, :, :P], v) / chi
        total, square = total + w.sum(), square + (w**2).sum()
        mean, kernel = mean + w @ f, kernel + np.einsum("s,sij->ij", w, Phi[:, :P, :P])
    return mean / total, kernel / total, total**2 / square


@pytest.mark.parametrize(("name", "nodes"), [("erf", 40), ("relu", 80)])
def test_one_loop_improves_on_tree_level_against_real_networks(name, nodes):
    from linkern import activations

    X, y, X_new = problem()
    N, chi, ridge = 12, 1.0, 0.3
    mean, kernel, ess = exact_by_importance(X, y, X_new, N, chi, ridge, activations.get(name).value, seed=3)
    assert ess > 20_000
    errors = {}
    for method in ("tree", "one-loop"):
        found = solve_width_nonlinear(
            X, y, activation=name, width=N, chi=chi, ridge=ridge, method=method, nodes=nodes, X_new=X_new
        )
        both = np.concatenate([found.fitted, found.test])
        errors[method] = np.abs(both - mean).max(), np.abs(found.kernel - kernel).max()
    assert errors["one-loop"][0] < 0.4 * errors["tree"][0]
    assert errors["one-loop"][1] < 0.5 * errors["tree"][1]
    assert errors["one-loop"][0] < 0.02
    assert errors["one-loop"][1] < 0.02


def test_sampled_features_through_the_same_interface():
    """Equal weights on prior draws: Monte Carlo in place of quadrature."""
    X, y, _ = problem()
    options = {"activation": "erf", "width": 30, "chi": 30.0, "ridge": 0.01}
    exact = solve_width_nonlinear(X, y, **options)
    rng = np.random.default_rng(1)
    count = 200_000
    h = rng.normal(size=(count, 4)) @ X.T / 2
    from scipy.special import erf

    draws = NeuronEnsemble(erf(h), np.empty((count, 0)), np.full(count, -np.log(count)))
    scale = exact.ensemble.features.max() / draws.features.max()
    sampled = solve_width_nonlinear(
        y=y, **options, ensemble=NeuronEnsemble(scale * draws.features, *(draws.test_features, draws.log_weights))
    )
    assert sampled.fitted == pytest.approx(exact.fitted, abs=0.02)
    assert sampled.kernel == pytest.approx(exact.kernel, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "exact"}, "method"),
        ({"ridge": 0.0}, "ridge"),
        ({"nodes": 2}, "nodes"),
        ({"X": np.eye(9), "y": np.ones(9)}, "nodes"),
        ({"y": np.ones(3)}, "y: expected"),
        ({"X_new": np.ones((1, 9))}, "X_new"),
        ({"X": np.zeros((2, 3)), "y": np.ones(2)}, "not zero"),
        ({"activation": "exp"}, "at most linearly"),
        ({"activation": "relu2"}, "at most linearly"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    X, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        solve_width_nonlinear(**({"X": X, "y": y, "activation": "erf", "width": 9, "ridge": 0.1} | changes))


def test_an_ensemble_is_one():
    X, y, _ = problem()
    with pytest.raises(TypeError, match="ensemble"):
        solve_width_nonlinear(X, y, activation="erf", width=9, ridge=0.1, ensemble=3)
