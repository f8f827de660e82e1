"""The sampled solver against quadrature and closed forms, its symmetries, and what it says about itself."""

import math

import numpy as np
import pytest
from scipy import stats

from linkern import activations
from linkern.bayes import solve_linear
from linkern.bayes.montecarlo import solve_montecarlo, solve_quadrature, solver
from linkern.bayes.montecarlo.observables.estimate import Estimate
from linkern.bayes.montecarlo.observables.predict import NewInputs, predict
from linkern.lazy import layer_kernels
from linkern.solution import ConvergenceError, Status, load_npz

# Four standard deviations, as Student's t counts them for the few sections that errors come from.
LEVEL = 1 - 2 * stats.norm.sf(4)


def data(P, D=4, outputs=None, seed=5):
    rng = np.random.default_rng(seed)
    shape = P if outputs is None else (P, outputs)
    return rng.standard_normal((P, D)), rng.standard_normal(shape), rng.standard_normal((3, D))


def solve(X=None, y=None, **changes):
    """A solution from few particles."""
    options = {"depth": 1, "gamma0": 1.2, "beta": 8.0, "activation": "relu", "tol": 0.04, "particles": 512, "rng": 1}
    return solve_montecarlo(X, y, **(options | changes))


def close(estimate, truth, *, vague):
    """Within the interval everywhere, and that interval narrow."""
    lower, upper = estimate.interval(LEVEL)
    slack = 1e-6 * np.abs(truth).max()
    assert ((lower - slack <= truth) & (truth <= upper + slack)).all()
    assert np.linalg.norm(estimate.standard_error) < vague * np.linalg.norm(truth)


def agree(found, other, *, vague):
    """Two independent estimates of the same numbers."""
    error = np.hypot(found.standard_error, other.standard_error)
    close(Estimate(found.value, error, np.zeros_like(error), found.degrees), other.value, vague=vague)


def matches(found, kernels, duals, V, *, vague=0.05):
    """Kernels, duals and error signals of a solution are these."""
    assert found.status is Status.CONVERGED
    close(found.estimate(lambda s: s.kernels), kernels, vague=vague)
    close(found.estimate(lambda s: s.dual_kernels), duals, vague=2 * vague)
    close(found.estimate(lambda s: s.coefficients), V.reshape(len(V), -1), vague=vague)


def matches_oracle(found, oracle, X, X_new, **options):
    matches(found, oracle.kernels, oracle.dual_kernels, oracle.dual_coefficients, **options)
    exact = predict(oracle.sample, (), NewInputs.of(X, X_new), oracle.parameters["prior_variances"]).value
    close(found.prediction(X_new), exact.reshape(-1, *oracle.label_shape[1:]), vague=0.1)
    assert found.predict(X_new) == pytest.approx(found.prediction(X_new).value)
    assert found.fitted == pytest.approx(found.predict(X), abs=1e-2)


@pytest.mark.parametrize(
    ("activation", "P", "depth"),
    [
        ("relu", 2, 1),
        ("relu", 2, 2),
        ("relu", 3, 1),
        ("tanh", 2, 2),
        ("erf", 2, 1),
        ("erf", 2, 2),
        ("gelu", 2, 2),
        ("softplus", 2, 2),
    ],
)
def test_quadrature_is_reproduced(activation, P, depth):
    X, y, X_new = data(P)
    problem = {
        "depth": depth,
        "gamma0": 1.2,
        "beta": 8.0,
        "activation": activation,
        "prior_variances": [1.3, 0.8, 1.1][-depth - 1 :],
    }
    oracle = solve_quadrature(X, y, tol=1e-4, **problem)
    matches_oracle(solve(X, y, **problem), oracle, X, X_new)


@pytest.mark.parametrize(("P", "depth"), [(5, 1), (4, 2), (3, 3)])
def test_identity_activation_is_the_closed_form(P, depth):
    X, y, X_new = data(P, D=6)
    problem = {"depth": depth, "gamma0": 1.3, "beta": 6.0, "prior_variances": [0.9, 1.2, 0.8, 1.1][: depth + 1]}
    found, exact = solve(X, y, activation="linear", **problem), solve_linear(X, y, **problem)
    kernels, duals = (np.stack([K.dense() for K in which]) for which in (exact.kernels, exact.dual_kernels))
    matches(found, kernels, duals, exact.dual_coefficients, vague=0.06)
    close(found.prediction(X_new), exact.predict(X_new), vague=0.1)
    close(found.overlaps(), np.einsum("p,lpq,q->l", y, kernels, y) / P, vague=0.05)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_two_outputs_share_their_features(activation):
    X, Y, X_new = data(2, outputs=2)
    problem = {"depth": 1, "gamma0": 1.2, "beta": 8.0, "activation": activation}
    found = solve(X, Y, **problem)
    assert found.dual_coefficients.shape == found.fitted.shape == (2, 2)
    assert found.predict(X_new).shape == (3, 2)
    matches_oracle(found, solve_quadrature(X, Y, tol=1e-5, **problem), X, X_new)


def test_outputs_turn_with_their_labels():
    X, Y, _ = data(3, outputs=2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    found, turned = (solve(X, labels, depth=2, activation="erf", rng=seed) for seed, labels in enumerate((Y, Y @ turn)))
    agree(found.estimate(lambda s: s.kernels), turned.estimate(lambda s: s.kernels), vague=0.05)
    agree(found.estimate(lambda s: s.coefficients @ turn), turned.estimate(lambda s: s.coefficients), vague=0.05)


def test_the_data_enter_through_their_kernel_in_any_order():
    X, y, X_new = data(4)
    options = {"depth": 2, "activation": "tanh"}
    found, again = solve(X, y, **options), solve(kernel=X @ X.T / 4, y=y, **options)
    np.testing.assert_array_equal(found.kernels, again.kernels)
    np.testing.assert_array_equal(found.dual_coefficients, again.dual_coefficients)
    with pytest.raises(ValueError, match="X_new: expected a solution made from inputs"):
        again.predict(X_new)
    order = np.array([3, 0, 1, 2])
    mixed = solve(X[order], y[order], rng=2, **options)
    agree(found.estimate(lambda s: s.kernels[:, order][:, :, order]), mixed.estimate(lambda s: s.kernels), vague=0.07)
    agree(found.estimate(lambda s: s.coefficients[order]), mixed.estimate(lambda s: s.coefficients), vague=0.07)
    agree(found.prediction(X_new), mixed.prediction(X_new), vague=0.1)


def test_same_seed_same_bits():
    X, y, X_new = data(3)
    one, two, other = (solve(X, y, rng=seed, activation="erf") for seed in (7, 7, 8))
    for quantity in (lambda s: s.kernels, lambda s: s.dual_kernels, lambda s: s.coefficients):
        np.testing.assert_array_equal(quantity(one.sample), quantity(two.sample))
    np.testing.assert_array_equal(one.standard_error, two.standard_error)
    np.testing.assert_array_equal(one.predict(X_new), two.predict(X_new))
    assert (one.kernels[1:] != other.kernels[1:]).all()


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_more_points_than_dimensions(activation):
    """Five points in a plane: five preactivations, two Gaussian directions."""
    X, y, X_new = data(5, D=2)
    problem = {"depth": 1, "gamma0": 1.0, "beta": 5.0, "activation": activation}
    matches_oracle(solve(X, y, **problem), solve_quadrature(X, y, tol=1e-4, **problem), X, X_new, vague=0.06)


def test_deep_linear_network_of_low_rank():
    X, y, X_new = data(6, D=2)
    problem = {"depth": 2, "gamma0": 1.0, "beta": 5.0}
    found, exact = solve(X, y, activation="linear", **problem), solve_linear(X, y, **problem)
    close(found.estimate(lambda s: s.kernels), np.stack([K.dense() for K in exact.kernels]), vague=0.06)
    close(found.prediction(X_new), exact.predict(X_new), vague=0.1)


@pytest.mark.parametrize("labels", [(0.7, 0.7, -0.4), (1.5, -0.1, -0.4)])
def test_duplicates_with_equal_and_with_conflicting_labels(labels):
    """Two equal inputs are one with the mean label, seen twice as sharply."""
    X, _, _ = data(2)
    y = np.array(labels)
    found = solve(X[[0, 0, 1]], y, depth=2, activation="tanh")
    assert found.kernels[:, 0] == pytest.approx(found.kernels[:, 1], rel=1e-5)
    oracle = solve_quadrature(X[[0, 0, 1]], y, depth=2, gamma0=1.2, beta=8.0, activation="tanh", tol=1e-5)
    close(found.estimate(lambda s: s.kernels), oracle.kernels, vague=0.05)
    close(found.estimate(lambda s: s.coefficients[:, 0]), oracle.dual_coefficients, vague=0.05)


@pytest.mark.parametrize("depth", [1, 2])
def test_labels_that_symmetry_forbids_teach_nothing(depth):
    x, y, _ = data(2)
    X, even = np.vstack([x, -x]), np.concatenate([y, y])
    found = solve(X, even, activation="tanh", depth=depth, gamma0=2.0)
    assert found.status is Status.CONVERGED
    assert found.dual_coefficients == pytest.approx(8.0 * even, rel=1e-4)
    assert found.fitted == pytest.approx(0.0, abs=1e-4)
    close(found.estimate(lambda s: s.kernels), layer_kernels(X, depth=depth, activation="tanh"), vague=0.06)


def test_only_the_odd_part_of_the_labels_is_learnt():
    """An odd network sees (y(x) - y(-x))/2 on half the inputs, twice as sharply; the rest stays in the error signal."""
    x, odd, _ = data(2)
    even = np.array([0.9, -0.5])
    X, y = np.vstack([x, -x]), np.concatenate([even + odd, even - odd])
    found = solve(X, y, activation="tanh", depth=2)
    half = solve_quadrature(x, odd, depth=2, gamma0=1.2, beta=16.0, activation="tanh", tol=1e-5)
    signs = np.array([[1.0, -1.0], [-1.0, 1.0]])
    close(found.estimate(lambda s: s.kernels), np.stack([np.kron(signs, K) for K in half.kernels]), vague=0.05)
    f = half.fitted
    close(found.estimate(lambda s: s.coefficients[:, 0]), 8.0 * (y - np.concatenate([f, -f])), vague=0.05)


@pytest.mark.parametrize(("activation", "depth"), [("relu", 2), ("erf", 1)])
def test_weak_learning_leaves_lazy_kernels(activation, depth):
    X, y, _ = data(5)
    g = [1.3, 0.8, 1.1][-depth - 1 :]
    found = solve(X, y, activation=activation, depth=depth, gamma0=1e-3, prior_variances=g)
    lazy = layer_kernels(X, depth=depth, activation=activation, prior_variances=g)
    close(found.estimate(lambda s: s.kernels), lazy, vague=0.04)
    V = np.linalg.solve(g[-1] * lazy[-1] + np.eye(5) / 8.0, y)
    close(found.estimate(lambda s: s.coefficients[:, 0]), V, vague=0.05)


def test_any_function_serves_as_activation():
    """A smooth one, a kinked one, and one of degree one that does not say so."""
    X, y, X_new = data(2)
    smooth = activations.from_function(np.arctan, name="arctan", parity="odd")
    clipped = activations.from_function(lambda h: np.clip(h, -1, 1), lambda h: 1.0 * (np.abs(h) < 1), name="hard tanh")
    for phi, tol in ((smooth, 1e-5), (clipped, 1e-3)):
        problem = {"depth": 1, "gamma0": 1.2, "beta": 8.0, "activation": phi}
        matches_oracle(solve(X, y, **problem), solve_quadrature(X, y, tol=tol, **problem), X, X_new)


@pytest.mark.parametrize("declared", [True, False])
def test_leaky_relu_by_name_and_by_formula(declared):
    """Two algorithms: with the radius integrated out, and without."""
    X, y, _ = data(2)
    formula = activations.from_function(
        lambda h: np.where(h > 0, h, h / 5), lambda h: np.where(h > 0, 1.0, 0.2), name="leaky", degree=1 if declared else None
    )
    problem = {"depth": 2, "gamma0": 1.2, "beta": 8.0}
    oracle = solve_quadrature(X, y, activation=activations.leaky_relu(0.2), tol=1e-5, **problem)
    found = solve(X, y, activation=formula, **problem)
    matches(found, oracle.kernels, oracle.dual_kernels, oracle.dual_coefficients)


@pytest.mark.parametrize("method", ["importance", "particles"])
@pytest.mark.parametrize("depth", [2, 3])
def test_certificates(depth, method):
    X, y, _ = data(3)
    found = solve(X, y, depth=depth, method=method)
    assert found.status is Status.CONVERGED
    assert found.reasons == ()
    assert found.samples_needed is None
    assert found.residual < 0.01
    assert found.pareto_k < 0.7
    assert found.identity < 0.02
    assert found.effective_fraction > (0.9 if method == "particles" else 0.3)
    assert found.kernel_errors.max() < 1.05 * 0.04
    estimate = found.estimate(lambda sample: sample.kernels[1:])
    spread, bias, size = (np.linalg.norm(part, axis=(1, 2)) for part in (estimate.standard_error, estimate.bias, estimate.value))
    assert np.hypot(spread, bias) / size == pytest.approx(found.kernel_errors, rel=1e-6)
    assert (found.effective_sample_size > 100).all()
    assert len(found.acceptance) == (depth if method == "particles" else 0)
    assert all(0.4 < share <= 1 for share in found.acceptance)
    charges = np.einsum("lij,lij->l", found.kernels[1:], found.dual_kernels)
    assert np.ptp(charges) / np.abs(charges).max() == pytest.approx(found.identity)


def test_the_path_starts_lazy_and_ends_at_gamma0():
    X, y, _ = data(3)
    seen = []
    found = solve(X, y, gamma0=2.0, callback=seen.append)
    gammas = [rung.gamma0 for rung in found.path]
    assert seen == list(found.path)
    assert gammas == sorted(gammas)
    assert gammas[-1] == pytest.approx(2.0)
    first, last = found.path[0], found.path[-1]
    assert first.kernels == pytest.approx(layer_kernels(X, depth=1, activation="relu"), abs=0.3)
    assert np.trace(last.kernels[1]) > np.trace(first.kernels[1])
    assert last.signal == pytest.approx(found.dual_coefficients @ y, rel=0.1)


def test_saved_numbers_come_back(tmp_path):
    X, y, _ = data(2)
    found = solve(X, y)
    arrays, record = load_npz(found.save(tmp_path / "solution.npz"))
    np.testing.assert_array_equal(arrays["kernels"], found.kernels)
    np.testing.assert_array_equal(arrays["kernels_error"], found.standard_error)
    assert arrays["dual_coefficients"] == pytest.approx(found.dual_coefficients)
    assert record["status"] == "CONVERGED"
    assert record["seed"] == 1


@pytest.mark.parametrize(("method", "tol"), [("importance", 0.001), ("particles", 0.006)])
def test_too_small_a_budget_says_how_much_is_needed(method, tol):
    X, y, _ = data(3)
    short = solve(X, y, tol=tol, method=method, particles=512, max_samples=4096)
    assert short.status is Status.UNRELIABLE
    assert short.snapshots * short.particles == 4096
    assert "above tol" in short.reasons[0]
    assert f"max_samples = {short.samples_needed} would do" in short.reasons[0]
    assert short.samples_needed == pytest.approx(4096 * (short.kernel_errors.max() / tol) ** 2, rel=0.15)
    # The error that this rests on is that of a short run of eight groups.
    enough = solve(X, y, tol=tol, method=method, particles=512, max_samples=5 * short.samples_needed)
    assert enough.status is Status.CONVERGED
    assert enough.kernel_errors.max() < 1.05 * tol


@pytest.mark.parametrize("depth", [1, 2])
def test_methods_that_share_only_the_equations_agree(depth):
    rng = np.random.default_rng(4)
    X, y = rng.standard_normal((8, 8)), np.sign(rng.standard_normal(8))
    problem = {"depth": depth, "gamma0": 1.0, "beta": 20.0, "tol": 0.01}
    one, other = (solve(X, y, method=method, **problem) for method in ("importance", "particles"))
    assert one.status is other.status is Status.CONVERGED
    for quantity in (lambda s: s.kernels[1:], lambda s: s.coefficients[:, 0] @ y):
        first, second = one.estimate(quantity), other.estimate(quantity)
        error = np.hypot(first.standard_error, second.standard_error)
        assert (np.abs(first.value - second.value) < 6 * error).all()


def test_strong_learning_is_never_wrong_in_silence():
    X, y, _ = data(2)
    problem = {"gamma0": 20.0, "beta": 1e3, "depth": 1, "activation": "relu"}
    found = solve(X, y, **problem)
    exact = solve_quadrature(X, y, tol=1e-4, **problem).kernels
    lower, upper = found.estimate(lambda s: s.kernels).interval(LEVEL)
    right = ((lower - 1e-6 <= exact) & (exact <= upper + 1e-6)).all()
    assert right or found.reasons
    assert bool(found.reasons) == (found.status is not Status.CONVERGED)


def test_failure_is_raised_with_what_was_found_or_returned(monkeypatch):
    X, y, _ = data(2)
    # No residual is below this.
    monkeypatch.setattr(solver, "_LARGEST_RESIDUAL", -1.0)
    with pytest.raises(ConvergenceError, match=r"solve_montecarlo: the equations hold only to .* try more particles") as caught:
        solve(X, y)
    assert caught.value.solution.status is Status.NOT_CONVERGED
    found = solve(X, y, raise_on_failure=False)
    assert found.status is Status.NOT_CONVERGED
    np.testing.assert_array_equal(found.kernels, caught.value.solution.kernels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relu2"}, "activation: expected .* grow at most linearly.* 'relu2' of degree 2"),
        ({"activation": "exp"}, "activation: expected .* grow at most linearly"),
        ({"activation": activations.polynomial([0, 1, 0.1])}, "activation: expected .* grow at most linearly"),
        ({"activation": activations.from_function(np.cosh, np.sinh, np.cosh)}, "an overflow from 'custom'"),
        ({"activation": "no such"}, "activation: expected one of"),
        ({"activation": activations.from_function(np.sign, name="step")}, "activation: expected a continuous .* 'step'.* 2.0%"),
        ({"activation": activations.from_function(lambda h: np.tanh(200 * h))}, "activation: expected a continuous function"),
        ({"y": np.ones(3)}, "y: expected 2 labels"),
        ({"y": None}, "y: expected labels"),
        ({"y": np.ones((2, 2, 2))}, "y: "),
        ({"y": [1.0, np.nan]}, "y: "),
        ({"X": np.ones(2)}, "X: "),
        ({"X": np.zeros((2, 3))}, "X, kernel: expected at least one input that is not zero"),
        ({"X": None}, "X, kernel: expected exactly one"),
        ({"kernel": np.eye(2)}, "X, kernel: expected exactly one"),
        ({"X": None, "kernel": np.diag([1.0, -1.0])}, "kernel: expected a positive semi-definite matrix"),
        ({"X": None, "kernel": np.eye(3)}, "kernel: "),
        ({"depth": 0}, "depth: "),
        ({"gamma0": 0.0}, "gamma0: "),
        ({"beta": -1.0}, "beta: "),
        ({"beta": math.inf}, "beta: "),
        ({"prior_variances": [1.0, 1.0, 1.0]}, "prior_variances: "),
        ({"prior_variances": [1.0, 0.0]}, "prior_variances: "),
        ({"tol": 0.0}, "tol: "),
        ({"particles": 100}, "particles: "),
        ({"max_samples": 0}, "max_samples: "),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        solve(**({"X": np.eye(2), "y": np.ones(2)} | changes))
