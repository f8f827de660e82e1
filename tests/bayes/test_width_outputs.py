"""Several outputs: the matrix saddle point against infinite width and the scalar theory, importance sampling against networks."""

import numpy as np
import pytest

from linkern.bayes.linear import solve_linear
from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width import solve_width
from linkern.bayes.width.outputs import solve_width_outputs
from linkern.networks.gibbs import sample_linear_posterior
from linkern.solution import Status


def problem(P=5, D=6, O=2, seed=0):
    rng = np.random.default_rng(seed)
    X, W, X_new = rng.normal(size=(P, D)), rng.normal(size=(D, O)), rng.normal(size=(3, D))
    return X, X @ W / 2 + 0.3 * rng.normal(size=(P, O)), X_new


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_tree_level_is_infinite_width(depth):
    X, Y, X_new = problem()
    tree = solve_width_outputs(X, Y, depth=depth, width=40, chi=40.0, ridge=0.3 / 40, method="tree")
    limit = solve_linear(X, Y, depth=depth, gamma0=1.0, beta=1 / 0.3)
    assert tree.predict(X_new) == pytest.approx(limit.predict(X_new), rel=1e-9)
    for l in range(depth + 1):
        assert tree.kernels[l].dense() == pytest.approx(limit.kernels[l].dense(), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_one_output_is_the_scalar_saddle(depth):
    X, Y, X_new = problem()
    many = solve_width_outputs(X, Y[:, :1], depth=depth, width=10, ridge=0.3)
    one = solve_width(X, Y[:, 0], depth=depth, width=10, ridge=0.3, method="saddle")
    assert many.predict(X_new)[:, 0] == pytest.approx(one.predict(X_new), rel=1e-10)
    assert many.rescaling[0, 0] == pytest.approx(np.exp(one.log_q_mean), rel=1e-10)
    assert many.kernels[depth].dense() == pytest.approx(one.kernels[depth].dense(), rel=1e-10)


def test_saddle_obeys_its_matrix_equation():
    X, Y, _ = problem(P=7, O=3)
    N, depth, chi, ridge = 12, 2, 3.0, 0.1
    solution = solve_width_outputs(X, Y, depth=depth, width=N, chi=chi, ridge=ridge)
    values, basis = np.linalg.eigh(solution.rescaling)
    rho = (basis * np.sqrt(values)) @ basis.T
    K = X @ X.T / 6
    # vec of F in order (sample, output): covariance (K kron rho^2)/chi + ridge.
    A = np.kron(K, rho @ rho) / chi + ridge * np.eye(21)
    v, inverse = np.linalg.solve(A, Y.ravel()).reshape(7, 3), np.linalg.inv(A).reshape(7, 3, 7, 3)
    trace = np.einsum("pq,qopr->or", K, inverse)
    right = rho @ (v.T @ K @ v - trace) @ rho / chi
    assert N * (rho - np.eye(3)) == pytest.approx(right, abs=1e-10)


def test_importance_sampling_against_the_scalar_theory():
    X, Y, X_new = problem()
    many = solve_width_outputs(X, Y[:, :1], width=8, ridge=0.2, method="importance", samples=40_000, rng=1)
    one = solve_width(X, Y[:, 0], depth=1, width=8, ridge=0.2)
    assert many.status is Status.CONVERGED
    assert abs(many.log_evidence - one.log_evidence) < 4 * many.residual
    assert many.residual < 5e-3
    assert np.abs((many.fitted[:, 0] - one.fitted) / many.fitted_error[:, 0]).max() < 4
    assert many.fitted_error.max() < 2e-3
    assert many.kernels[1].dense() == pytest.approx(one.kernels[1].dense(), abs=5e-3)
    assert many.predict(X_new)[:, 0] == pytest.approx(one.predict(X_new), abs=5e-3)


@pytest.mark.parametrize("chi", [1.0, 20.0])
def test_importance_sampling_against_real_networks(chi):
    X, Y, X_new = problem()
    options = {"width": 20, "chi": chi, "ridge": 0.3 / chi}
    theory = solve_width_outputs(X, Y, **options, method="importance", samples=20_000, rng=1)
    seen = sample_linear_posterior(X, Y, depth=1, **options, samples=800, chains=32, burn_in=150, X_test=X_new, rng=2)
    assert theory.status is Status.CONVERGED
    assert theory.effective_sample_size > 2000
    z = (theory.fitted - seen.fitted.mean) / np.hypot(seen.fitted.standard_error, theory.fitted_error)
    assert np.abs(z).max() < 4
    mean, error = seen.kernels.mean[0, :5, :5], seen.kernels.standard_error[0, :5, :5]
    assert np.abs((theory.kernels[1].dense() - mean) / error).max() < 4.2
    assert error.max() < 0.01 * np.abs(mean).max()
    z = (theory.predict(X_new) - seen.test.mean) / seen.test.standard_error
    assert np.abs(z).max() < 4.2


def test_saddle_error_falls_in_the_proportional_regime():
    """P = N/2 growing together: the saddle's training output tends to the exact one, tree level's does not."""
    errors = []
    for N in (20, 80):
        rng = np.random.default_rng(N)
        X = rng.normal(size=(N // 2, N // 2))
        Y = X @ rng.normal(size=(N // 2, 2)) / np.sqrt(N // 2) + 0.5 * rng.normal(size=(N // 2, 2))
        options = {"width": N, "ridge": 0.3}
        exact = solve_width_outputs(X, Y, **options, method="importance", samples=20_000, rng=0)
        found = [solve_width_outputs(X, Y, **options, method=m).fitted for m in ("saddle", "tree")]
        errors.append([np.linalg.norm(f - exact.fitted) / np.linalg.norm(exact.fitted) for f in found])
    (small_saddle, small_tree), (large_saddle, large_tree) = errors
    assert large_saddle < 0.4 * small_saddle
    assert large_saddle < 6e-3
    assert large_tree > 5 * large_saddle
    assert large_tree > 0.3 * small_tree


def test_too_few_samples_are_reported():
    X, Y, _ = problem(P=30, D=30, O=3)
    solution = solve_width_outputs(X, 5 * Y, width=4, chi=50.0, ridge=1e-3, method="importance", samples=300, rng=0)
    assert solution.status is Status.UNRELIABLE


def test_outputs_rotate_together():
    X, Y, X_new = problem(O=3)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    options = {"depth": 2, "width": 9, "chi": 4.0, "ridge": 0.1}
    base, turned = solve_width_outputs(X, Y, **options), solve_width_outputs(X, Y @ rotation, **options)
    assert turned.predict(X_new) == pytest.approx(base.predict(X_new) @ rotation, rel=1e-9, abs=1e-11)
    assert turned.kernels[2].dense() == pytest.approx(base.kernels[2].dense(), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 1}, "width"),
        ({"method": "exact"}, "method"),
        ({"method": "importance", "depth": 2}, "depth"),
        ({"ridge": 0.0}, "ridge"),
        ({"spectrum": Spectrum.from_modes([1.0], [[1.0, 2.0]])}, "X, spectrum"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    X, Y, _ = problem()
    with pytest.raises(ValueError, match=message):
        solve_width_outputs(X, Y, **({"width": 9, "ridge": 0.1} | changes))
