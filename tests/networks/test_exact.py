"""Sampled networks against the exact posterior of a deep linear network of finite width: nothing here is asymptotic."""

import numpy as np
import pytest

from linkern.networks import sample_posterior
from linkern.solution import Status

from .reference import finite_width, infinite_width, problem

X, Y, X_TEST = problem()


def compare(run, widths, gamma0, beta, variances=None, precision=0.02):
    mean, variance, kernels = finite_width(X, Y, X_TEST, widths, gamma0, beta, variances)
    f = np.concatenate([run.train.mean, run.test.mean])
    f_error = np.concatenate([run.train.standard_error, run.test.standard_error])
    assert f_error.max() < precision * np.abs(mean).max()
    assert (np.abs(f - mean) < 4 * f_error).all()

    assert run.kernels.standard_error.max() < precision * np.abs(kernels).max()
    assert (np.abs(run.kernels.mean - kernels) < 4 * run.kernels.standard_error).all()
    overlaps = np.einsum("p,lpq,q->l", Y, kernels, Y)
    assert (np.abs(run.overlaps.mean - overlaps) < 4 * run.overlaps.standard_error).all()

    f_variance = np.concatenate([run.train_variance, run.test_variance])
    # Effective samples of the overlaps stand in for those of f; f is close to Gaussian.
    noise = np.sqrt(2 / run.overlaps.effective_sample_size.min())
    assert np.abs(f_variance / variance - 1).max() < 6 * noise < 0.2

    # A test that the data moved the kernels far beyond the errors just compared.
    K = X @ X.T / X.shape[1]
    scale = np.cumprod(np.ones(len(widths)) if variances is None else variances[:-1])
    change = np.abs(kernels - scale[:, None, None] * K).max(axis=(1, 2))
    assert (change > 8 * run.kernels.standard_error.max(axis=(1, 2))).all()
    assert run.status is Status.CONVERGED, run.reasons
    assert (np.abs(run.virial.mean) < 4 * run.virial.standard_error).all()


@pytest.mark.parametrize(
    ("widths", "gamma0", "beta", "dtype"),
    [
        ((4,), 1.0, 4.0, "float64"),
        ((10,), 2.0, 4.0, "float32"),
        ((7,), 4.0, 20.0, "float64"),
        ((6, 6), 1.5, 4.0, "float64"),
        ((5, 5, 5), 1.0, 6.0, "float32"),
    ],
)
def test_hmc_is_exact_at_any_width(widths, gamma0, beta, dtype):
    run = sample_posterior(
        X, Y, X_test=X_TEST, depth=len(widths), width=widths, gamma0=gamma0, beta=beta,
        chains=128, samples=300, dtype=dtype, rng=11,
    )  # fmt: skip
    compare(run, widths, gamma0, beta)


def test_unequal_widths_and_prior_variances():
    widths, variances = (9, 5), (0.7, 1.6, 0.8)
    run = sample_posterior(
        X, Y, X_test=X_TEST, depth=2, width=widths, gamma0=1.5, beta=4.0, prior_variances=variances,
        chains=128, samples=300, rng=12,
    )  # fmt: skip
    compare(run, widths, 1.5, 4.0, variances)


def test_langevin_agrees_within_its_small_bias():
    run = sample_posterior(
        X, Y, X_test=X_TEST, depth=1, width=6, gamma0=1.5, beta=4.0, integrator="langevin",
        chains=64, samples=160, dtype="float32", rng=13,
    )  # fmt: skip
    compare(run, (6,), 1.5, 4.0, precision=0.04)


def test_langevin_bias_is_visible_at_a_large_step_and_has_the_documented_sign():
    """The likelihood energy is where the inflated variance of stiff directions shows."""
    settings = {"depth": 1, "width": 6, "gamma0": 1.5, "beta": 4.0, "chains": 128, "rng": 14, "dtype": "float32"}
    exact = sample_posterior(X, Y, **settings, samples=150)
    coarse = sample_posterior(
        X, Y, **settings, samples=150, integrator="langevin", step=1.0 / (1 + exact.stiffness), burn_in=300, thin=30
    )
    excess = float(coarse.energy.mean - exact.energy.mean)
    error = float(np.hypot(coarse.energy.standard_error, exact.energy.standard_error))
    assert excess > 4 * error
    # Each direction's variance is inflated by at most (2 - d)/(2 - d (1 + s)) <= 2 at d (1 + s) <= 1.
    assert coarse.energy.mean < 2 * exact.energy.mean


def test_reference_formulas_meet():
    """The two references used here agree with each other: exact finite width tends to the scalar equation as 1/N."""
    for depth in (1, 2, 3):
        limit = infinite_width(X, Y, depth, 1.5, 4.0)
        deviations = [N * (finite_width(X, Y, X_TEST, (N,) * depth, 1.5, 4.0)[2] - limit) for N in (100, 200, 400)]
        assert np.abs(deviations[2] - deviations[1]).max() < 0.02 * np.abs(deviations[2]).max()
        # The next order is 1/N: its contribution halves when N doubles.
        ratio = np.abs(deviations[2] - deviations[1]).max() / np.abs(deviations[1] - deviations[0]).max()
        assert 0.4 < ratio < 0.6
