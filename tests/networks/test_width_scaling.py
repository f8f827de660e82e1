"""Networks approach the infinite-width theory, and the distance is c/N: estimated, not assumed."""

import numpy as np
import pytest

from linkern.networks import sample_posterior

from .reference import finite_width, infinite_width, problem

X, Y, X_TEST = problem()
GAMMA0, BETA = 2.0, 5.0


def deviations(depth, widths, networks, seed):
    """N (Tr Phi^L_N - Tr Phi^L_inf) with an upper bound on its standard error, for each N."""
    limit = np.trace(infinite_width(X, Y, depth, GAMMA0, BETA)[-1])
    values, errors = [], []
    for N in widths:
        run = sample_posterior(
            X, Y, depth=depth, width=N, gamma0=GAMMA0, beta=BETA,
            chains=64, samples=networks // 64, burn_in=120, dtype="float32", rng=seed + N,
        )  # fmt: skip
        values.append(N * (np.trace(run.kernels.mean[-1]) - limit))
        # Errors of the diagonal entries add up at worst.
        errors.append(N * np.trace(run.kernels.standard_error[-1]))
        # Resolved, not just bounded.
        assert abs(values[-1]) > 5 * errors[-1] or N > 64
    return np.array(values), np.array(errors)


def assert_one_over_n(depth, widths, networks, seed, tolerance):
    values, errors = deviations(depth, widths, networks, seed)
    # N * deviation is a constant: the weighted mean fits every width, ...
    constant = np.average(values, weights=errors**-2)
    assert (np.abs(values - constant) < 4 * errors + 0.1 * abs(constant)).all()
    # ... it is the constant of the exact theory, ...
    big = 400
    limit = infinite_width(X, Y, depth, GAMMA0, BETA)[-1]
    exact = big * np.trace(finite_width(X, Y, X_TEST, (big,) * depth, GAMMA0, BETA)[2][-1] - limit)
    assert abs(constant - exact) < 4 * np.sum(errors**-2) ** -0.5 + 0.05 * abs(exact)
    # ... and the exponent fitted to the deviations is -1.
    x = np.log(widths)
    weights = np.square(values / errors)
    x = x - np.average(x, weights=weights)
    slope = (weights * x * np.log(np.abs(values) / widths)).sum() / (weights * x * x).sum()
    slope_error = (weights * x * x).sum() ** -0.5
    assert slope_error < tolerance
    assert abs(slope + 1) < 4 * slope_error


def test_kernels_approach_the_theory_as_one_over_n():
    assert_one_over_n(2, (16, 32, 64), 9600, seed=0, tolerance=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_kernels_approach_the_theory_as_one_over_n_up_to_256(depth):
    assert_one_over_n(depth, (16, 32, 64, 128, 256), 16000, seed=100 * depth, tolerance=0.1)


def test_fluctuations_shrink_as_inverse_root_n():
    """A single wide network shows the theory: the spread of its overlap over time is of order N^{-1/2}."""
    spread = []
    for N in (16, 64, 256):
        run = sample_posterior(X, Y, depth=1, width=N, gamma0=GAMMA0, beta=BETA, chains=8, samples=150, dtype="float32", rng=N)
        spread.append(run.overlap_traces.std())
        overlap = Y @ infinite_width(X, Y, 1, GAMMA0, BETA)[0] @ Y
        assert abs(run.overlaps.mean[0] - overlap) < 4 * run.overlaps.standard_error[0] + 0.2 * overlap / N
    # 1200 correlated samples: about 5 % on each spread.
    assert np.abs(np.log2(np.divide(spread[:-1], spread[1:])) - 1).max() < 0.25
