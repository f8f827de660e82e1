import numpy as np
import pytest
from scipy import stats

from linkern import activations, data
from linkern.activations import from_function
from linkern.bayes import solve_linear, solve_width_mean_field
from linkern.networks import (
    Estimate,
    extrapolate_width,
    sample_collapsed,
    sample_linear_posterior,
    sample_posterior,
)
from linkern.networks.collapsed_target import CollapsedPosterior, symmetric_root
from linkern.networks.hmc import HamiltonianSampler
from linkern.solution import Status

from .reference import finite_width, infinite_width, problem

X, Y, X_TEST = problem()
SMALL = {"depth": 2, "width": 8, "gamma0": 1.0, "beta": 3.0, "activation": "tanh", "chains": 4, "samples": 30, "burn_in": 40}


def target(activation, widths, *, points=5, outputs=1, rank=5, seed=0):
    """A random problem, and a random state of two chains."""
    rng = np.random.default_rng(seed)
    chosen = CollapsedPosterior(
        rng.standard_normal((rank, points)),
        rng.standard_normal((points, outputs)),
        widths=widths,
        gamma0=1.3,
        beta=4.0,
        activation=activations.get(activation),
        prior_variances=np.array([1.2, 0.7, 1.1, 0.9])[: len(widths) + 1],
    )
    return chosen, [rng.standard_normal((2, *shape)) for shape in chosen.shapes]


@pytest.mark.parametrize("outputs", [1, 3])
def test_energy_is_the_gaussian_density_of_the_labels(outputs):
    chosen, state = target("tanh", (9, 7), outputs=outputs)
    energy = chosen.potential(chosen.forward(state))
    points = chosen.Y.shape[0]
    data_root = np.random.default_rng(0).standard_normal((5, 5))
    for chain in range(2):
        h = np.sqrt(1.2) * state[0][chain] @ data_root
        eigenvalues, U = np.linalg.eigh(np.tanh(h).T @ np.tanh(h) / 9)
        h = np.sqrt(0.7) * state[1][chain] @ (U * np.sqrt(eigenvalues)) @ U.T
        prior = 1.1 * np.tanh(h).T @ np.tanh(h) / 7 / (1.3**2 * 7)
        law = stats.multivariate_normal(np.zeros(points), prior + np.eye(points) / (4.0 * 1.3**2 * 7))
        # The energy leaves out the factors of 2 pi and of gamma0^2 N.
        constant = outputs * points / 2 * np.log(2 * np.pi / (1.3**2 * 7))
        np.testing.assert_allclose(energy[chain], -constant - law.logpdf(chosen.Y.T).sum(), rtol=1e-10)


@pytest.mark.parametrize(
    ("activation", "widths", "rank", "outputs"),
    [
        ("tanh", (12,), 5, 1),
        ("erf", (12, 9), 5, 2),
        ("tanh", (12, 9, 11), 4, 1),
        ("linear", (9, 9, 9), 3, 1),  # singular kernels: rank 3 of 5
        ("tanh", (3, 4, 3), 5, 2),  # singular kernels: fewer neurons than points
    ],
)
def test_gradient_is_that_of_the_energy(activation, widths, rank, outputs):
    chosen, state = target(activation, widths, rank=rank, outputs=outputs)
    gradient = {l: left @ right.swapaxes(1, 2) for l, left, right in chosen.gradient_factors(state, chosen.forward(state))}
    rng = np.random.default_rng(1)
    for l in range(len(widths)):
        direction = rng.standard_normal(state[l].shape)

        def energy(t, l=l, direction=direction):
            moved = [eps + t * direction if m == l else eps for m, eps in enumerate(state)]
            return chosen.potential(chosen.forward(moved))

        h = 1e-3
        numerical = (8 * (energy(h) - energy(-h)) - energy(2 * h) + energy(-2 * h)) / (12 * h)
        np.testing.assert_allclose((gradient[l] * direction).sum(axis=(1, 2)), numerical, rtol=1e-7)
    virial = chosen.virial(state, chosen.forward(state))
    for l, eps in enumerate(state):
        np.testing.assert_allclose(virial[:, l], (gradient[l] * eps).sum(axis=(1, 2)), rtol=1e-10)


def test_root_of_a_singular_kernel():
    A = np.random.default_rng(0).standard_normal((2, 5))
    root = symmetric_root(A.T @ A)
    np.testing.assert_allclose(root.matrix @ root.matrix, A.T @ A, atol=1e-13)
    assert (root.singular_values > 0).sum() == 2
    # Columns of the kernel itself are whitened to columns of the root.
    np.testing.assert_allclose(root.whiten(A.T @ A), root.matrix, atol=1e-13)


def test_averaged_force_accepts_longer_steps_across_kinks():
    task = data.digits(classes=(3, 8), samples=10, rng=0)
    root = symmetric_root(task.X @ task.X.T / 64).matrix
    acceptance = []
    for window in (0.0, 0.15):
        settings = {"widths": (64, 64), "gamma0": 1.0, "beta": 5.0, "prior_variances": np.ones(3)}
        chosen = CollapsedPosterior(root, task.y[:, None], activation=activations.get("relu"), **settings)
        chosen.window = window
        rng = np.random.default_rng(0)
        sampler = HamiltonianSampler(chosen, [rng.standard_normal((8, *s)) for s in chosen.shapes], rng, step=0.15, descent=0)
        acceptance.append(np.mean([sampler.update().mean() for _ in range(30)][10:]))
    assert acceptance[1] > acceptance[0] + 0.2


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.2, 1.0), (0.0, -1.0), (-1.0, 1.0), (1.0, 0.3)])
def test_averaged_force_of_degree_one_is_that_of_any_function(slopes):
    left, right = slopes

    def value(h):
        return np.where(h > 0, right * h, left * h)

    forces = []
    for degree in (1.0, None):
        chosen, state = target(from_function(value, degree=degree), (12, 9))
        chosen.window = 0.3
        forces.append([part for _, part, _ in chosen.gradient_factors(state, chosen.forward(state))])
    for one, other in zip(*forces, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def assert_within(estimate, truth, precision, variance=0.0):
    """At most four standard errors off, and precise."""
    error = np.sqrt(np.square(estimate.standard_error) + variance)
    assert error.max() < precision * np.abs(truth).max()
    assert (np.abs(estimate.mean - truth) < 4 * error).all()


@pytest.mark.parametrize("widths", [(8,), (10, 6), (3, 3)])
def test_linear_networks_of_finite_width_are_exact(widths):
    """Kernels, mean and variance of f at old and new inputs, fewer neurons than points included."""
    depth, variances = len(widths), [1.2, 0.8, 1.1][-len(widths) - 1 :]
    settings = {"depth": depth, "width": widths, "gamma0": 1.5, "beta": 3.0, "prior_variances": variances}
    run = sample_collapsed(X, Y, **settings, activation="linear", samples=150, chains=32, X_test=X_TEST, rng=0)
    mean, variance, kernels = finite_width(X, Y, X_TEST, widths, 1.5, 3.0, variances)
    assert run.status is Status.CONVERGED, run.reasons
    assert_within(run.kernels, kernels[:, :4, :4], 0.05)
    assert_within(run.train, mean[:4], 0.02)
    assert_within(run.test, mean[4:], 0.04)
    np.testing.assert_allclose(np.append(run.train_variance, run.test_variance), variance, rtol=0.1)
    assert (np.abs(run.virial.mean) < 4 * run.virial.standard_error).all()
    assert run.virial.standard_error.max() < 0.02


def test_linear_network_on_digits():
    task = data.digits(classes=(3, 8), samples=20, rng=0)
    settings = {"depth": 2, "width": 40, "gamma0": 1.0, "beta": 5.0}
    run = sample_collapsed(task.X, task.y, **settings, activation="linear", samples=60, chains=8, rng=1)
    exact = solve_width_mean_field(task.X, task.y, **settings)
    assert run.status is Status.CONVERGED, run.reasons
    for l in range(2):
        layer = Estimate(run.kernels.mean[l], run.kernels.standard_error[l])
        assert_within(layer, np.asarray(exact.kernels[l + 1]), 0.03)
    assert_within(run.train, exact.fitted, 0.02)


def test_several_outputs_against_gibbs_sampling_of_the_weights():
    labels = np.random.default_rng(5).standard_normal((4, 2))
    run = sample_collapsed(
        X, labels, depth=2, width=6, gamma0=1.2, beta=2.0, activation="linear", samples=120, chains=32, X_test=X_TEST, rng=0
    )
    chi = 1.2**2 * 6
    weights = sample_linear_posterior(
        X, labels, depth=2, width=6, ridge=1 / (2.0 * chi), chi=chi, samples=200, chains=32, X_test=X_TEST, rng=1
    )
    assert run.train.mean.shape == run.train_variance.shape == (4, 2)
    assert run.test.mean.shape == run.test_variance.shape == (3, 2)
    kernels = weights.kernels
    assert_within(run.kernels, kernels.mean[:, :4, :4], 0.08, np.square(kernels.standard_error[:, :4, :4]))
    for mine, theirs in ((run.train, weights.fitted), (run.test, weights.test)):
        assert_within(mine, theirs.mean, 0.08, np.square(theirs.standard_error))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_nonlinear_networks_agree_with_their_weights(activation):
    settings = {"depth": 2, "width": 12, "gamma0": 1.5, "beta": 3.0, "activation": activation, "prior_variances": [1.3, 0.9, 1.2]}
    run = sample_collapsed(X, Y, **settings, samples=100, chains=32, X_test=X_TEST, rng=0)
    weights = sample_posterior(X, Y, **settings, samples=100, chains=32, X_test=X_TEST, rng=1)
    assert run.status is Status.CONVERGED, run.reasons
    assert weights.status is Status.CONVERGED, weights.reasons
    for mine, theirs in ((run.kernels, weights.kernels), (run.train, weights.train), (run.test, weights.test)):
        assert_within(mine, theirs.mean, 0.05, np.square(theirs.standard_error))
    assert_within(run.overlaps, weights.overlaps.mean, 0.05, np.square(weights.overlaps.standard_error))
    np.testing.assert_allclose(run.test_variance, weights.test_variance, rtol=0.15)


def test_extrapolation_of_linear_networks():
    settings = {"depth": 2, "gamma0": 1.5, "beta": 3.0}
    found = extrapolate_width(X, Y, **settings, widths=(24, 48, 96), activation="linear", samples=100, chains=12, rng=0)
    exact = solve_linear(X, Y, **settings)
    limit = np.stack([np.asarray(kernel) for kernel in exact.kernels[1:]])
    np.testing.assert_allclose(limit, infinite_width(X, Y, 2, 1.5, 3.0), rtol=1e-9, atol=1e-12)
    assert found.status is Status.CONVERGED
    assert found.fit_p_value > 0.01
    assert_within(found.kernels, limit, 0.05)
    assert_within(found.overlaps, np.einsum("p,lpq,q->l", Y, limit, Y), 0.03)
    assert_within(found.train, exact.fitted, 0.02)


def test_extrapolation_is_weighted_least_squares():
    settings = {name: value for name, value in SMALL.items() if name != "width"}
    found = extrapolate_width(X, Y, **settings, widths=(8, 16, 32), X_test=X_TEST, rng=0)
    for name in ("overlaps", "train", "test"):
        means, errors = (
            np.array([getattr(getattr(run, name), part)[-1] for run in found.runs]) for part in ("mean", "standard_error")
        )
        A = np.column_stack([np.ones(3), 1 / np.array([8, 16, 32])]) / errors[:, None]
        limit, covariance = np.linalg.lstsq(A, means / errors)[0], np.linalg.inv(A.T @ A)
        np.testing.assert_allclose(getattr(found, name).mean[-1], limit[0], rtol=1e-9)
        np.testing.assert_allclose(getattr(found, name).standard_error[-1], np.sqrt(covariance[0, 0]), rtol=1e-9)


def test_known_inputs_predict_themselves():
    run = sample_collapsed(X, Y, **SMALL, X_test=X, rng=0)
    np.testing.assert_allclose(run.test.mean, run.train.mean, atol=1e-6)
    np.testing.assert_allclose(run.test_variance, run.train_variance, atol=1e-6)


def test_same_seed_same_result():
    C = X @ X.T / 6
    first, second, other = (sample_collapsed(kernel=C, y=Y, **SMALL, rng=rng) for rng in (3, np.random.default_rng(3), 4))
    np.testing.assert_array_equal(first.kernels.mean, second.kernels.mean)
    assert not np.array_equal(first.kernels.mean, other.kernels.mean)
    from_inputs = sample_collapsed(X, Y, **SMALL, rng=3)
    np.testing.assert_array_equal(first.kernels.mean, from_inputs.kernels.mean)
    assert (first.parameters["seed"], second.parameters["seed"]) == (3, None)
    assert first.test is None


def test_alignment_and_duplicated_inputs():
    doubled, labels = np.concatenate([X, X[:1]]), np.append(Y, Y[0])
    run = sample_collapsed(doubled, labels, **SMALL, rng=0)
    np.testing.assert_allclose(run.kernels.mean[:, 0], run.kernels.mean[:, 4], atol=1e-6)
    assert ((run.alignment.mean > 0) & (run.alignment.mean < 1)).all()
    np.testing.assert_allclose(
        run.overlaps.mean * (labels @ labels), np.einsum("p,lpq,q->l", labels, run.kernels.mean, labels), rtol=1e-9
    )


def test_untrustworthy_runs_say_so():
    short = sample_collapsed(X, Y, **(SMALL | {"chains": 1, "samples": 8}), rng=0)
    assert short.status is Status.UNRELIABLE
    assert any("effective sample size" in reason for reason in short.reasons)
    rough = sample_collapsed(X, Y, **(SMALL | {"gamma0": 4.0, "beta": 50.0}), step=3.0, rng=0)
    assert any("decrease step" in reason for reason in rough.reasons)


def test_overflow_is_named():
    steep = from_function(np.exp, derivative=np.exp, second_derivative=np.exp, name="exp")
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=r"activation: .* 'exp' overflows"):
        sample_collapsed(X, Y, **(SMALL | {"activation": steep, "prior_variances": 1e5}), rng=0)


def test_a_trajectory_that_overflows_is_rejected():
    chosen, state = target("linear", (6, 6))
    state[0][0] *= 1e300
    with np.errstate(over="ignore", invalid="ignore"):
        energy = chosen.potential(chosen.forward(state))
    assert np.isinf(energy[0])
    assert np.isfinite(energy[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": None}, "X, kernel: expected exactly one"),
        ({"kernel": np.eye(4)}, "X, kernel: expected exactly one"),
        ({"X": None, "kernel": np.diag([1.0, 1.0, 1.0, -1.0])}, "kernel: expected a positive semi-definite"),
        ({"X": None, "kernel": np.zeros((4, 4))}, "not zero"),
        ({"X": None, "kernel": np.eye(4), "X_test": X_TEST}, "X_test: expected with X"),
        ({"X_test": X_TEST[:, :2]}, "X_test: expected 6 columns"),
        ({"y": None}, "y: expected labels"),
        ({"y": Y[:3]}, "y: expected 4 labels"),
        ({"y": 0 * Y}, "y: expected at least one label that is not zero"),
        ({"width": [4]}, "width: expected one integer or 2"),
        ({"step": 4.0}, "step: expected a rotation angle below pi"),
        ({"beta": np.inf}, "beta"),
        ({"samples": 3}, "samples"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        sample_collapsed(**({"X": X, "y": Y} | SMALL | change))


def test_extrapolation_needs_two_widths():
    with pytest.raises(ValueError, match="widths: expected at least two different"):
        extrapolate_width(X, Y, widths=(8, 8))
    with pytest.raises(TypeError, match="widths: expected two widths or more, got 8"):
        extrapolate_width(X, Y, widths=8)
