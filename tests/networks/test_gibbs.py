"""Networks with real weights, drawn layer by layer, against the exact theory: z-scores that are N(0, 1)."""

import numpy as np
import pytest

from linkern.bayes.width import solve_width
from linkern.networks.gibbs import LinearGibbs, sample_linear_posterior
from linkern.solution import Status

CASES = {
    "one layer, standard": {"depth": 1, "width": 10, "chi": 1.0, "ridge": 0.3, "readout_variance": 1.3, "prior_variances": 0.8},
    "one layer, rich": {"depth": 1, "width": 20, "chi": 20.0, "ridge": 0.015},
    "two layers, unequal": {"depth": 2, "width": (10, 15), "chi": 1.0, "ridge": 0.3},
    "two layers, rich": {"depth": 2, "width": (9, 6), "chi": 8.0, "ridge": 0.03},
    "three layers": {"depth": 3, "width": (5, 6, 4), "chi": 3.0, "ridge": 0.1, "prior_variances": (1.2, 0.8, 1.0)},
    "width one": {"depth": 1, "width": 1, "chi": 1.0, "ridge": 0.3},
}


def problem(P=4, D=4, m=2, seed=5):
    rng = np.random.default_rng(seed)
    X, w, X_new = rng.normal(size=(P, D)), rng.normal(size=D), rng.normal(size=(m, D))
    return X, X @ w / np.sqrt(D) + 0.3 * rng.normal(size=P), X_new


def scores(case, samples, chains):
    """z-scores of every measured entry, and the typical relative standard error of the last kernel."""
    X, y, X_new = problem()
    theory = solve_width(X, y, **case)
    seen = sample_linear_posterior(X, y, **case, X_test=X_new, samples=samples, chains=chains, burn_in=150, rng=11)
    new = theory.at(X_new)
    pairs = [
        (seen.fitted, theory.fitted),
        (seen.fitted_squared, theory.fitted**2 + theory.fitted_variance),
        (seen.test, new.mean),
        (seen.test_squared, new.mean**2 + new.variance),
        (seen.input_covariance, theory.input_weight_covariance()),
        (seen.log_q, theory.log_q_mean),
    ]
    kernels = []
    for l in range(1, case["depth"] + 1):
        side = new.kernel(l, training=True)
        kernels.append(np.block([[theory.kernels[l].dense(), side.T], [side, new.kernel(l)]]))
    pairs.append((seen.kernels, np.array(kernels)))
    z = [np.ravel((estimate.mean - truth) / estimate.standard_error) for estimate, truth in pairs]
    last = seen.kernels.standard_error[-1].max() / np.abs(kernels[-1]).max()
    return seen, z, last


@pytest.mark.parametrize("name", CASES)
def test_exact_theory_against_real_networks(name):
    seen, z, error = scores(CASES[name], samples=1500, chains=48)
    assert seen.status is Status.CONVERGED
    # Entries are strongly correlated: root mean squares scatter around 1 more than independent ones would.
    for group in z:
        assert np.abs(group).max() < 4.2
        assert group.size < 4 or np.sqrt(np.mean(group**2)) < 2.0
    assert error < 0.02
    assert seen.residual < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_exact_theory_against_long_runs(name):
    seen, z, error = scores(CASES[name], samples=15000, chains=64)
    for group in z:
        assert np.abs(group).max() < 4.2
        assert group.size < 4 or np.sqrt(np.mean(group**2)) < 2.0
    assert error < 0.006


def test_several_outputs_share_the_hidden_layers():
    """Two outputs with unit prior: without data (a large ridge) the sampler returns the prior's moments."""
    X, y, _ = problem()
    Y = np.column_stack([y, -2 * y])
    seen = sample_linear_posterior(X, Y, depth=2, width=(6, 5), ridge=1e6, samples=400, chains=32, burn_in=5, rng=0)
    K = X @ X.T / 4
    for o in range(2):
        squared = (seen.fitted_squared.mean[:, o] - np.diag(K)) / seen.fitted_squared.standard_error[:, o]
        assert np.abs(squared).max() < 4
    z = (seen.kernels.mean - K) / seen.kernels.standard_error
    assert np.abs(z).max() < 4.2
    assert seen.fitted.mean.shape == (4, 2)


def test_two_coupled_outputs_obey_the_virial_identity():
    """<|V|^2/s^2> + <V . dU/dV> = number of entries, layer by layer, for the conditional that diagonalises both sides."""
    X, y, _ = problem()
    gibbs = LinearGibbs(
        X,
        np.column_stack([y, y]),
        widths=(8,),
        standard_deviations=np.array([0.5, np.sqrt(1 / 8)]),
        ridge=0.3,
        chains=64,
        rng=np.random.default_rng(1),
    )
    virial = []
    for index in range(400):
        gibbs.sweep()
        if index >= 50:
            virial.append(gibbs.virial())
    virial = np.array(virial)
    error = virial.mean(axis=0).std(axis=0) / np.sqrt(64)
    assert np.abs(virial.mean(axis=(0, 1)) / error).max() < 4
    assert error.max() < 0.05


def test_same_seed_same_chain():
    X, y, _ = problem()
    runs = [sample_linear_posterior(X, y, depth=1, width=3, ridge=0.1, samples=32, chains=2, rng=4) for _ in range(2)]
    assert np.array_equal(runs[0].log_q_traces, runs[1].log_q_traces)
    assert runs[0].parameters["seed"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": 0.0}, "ridge"),
        ({"width": (3, 3)}, "width"),
        ({"samples": 3}, "samples"),
        ({"chi": -1.0}, "chi"),
        ({"X_test": np.ones((1, 7))}, "X_test"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    X, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        sample_linear_posterior(X, y, **({"depth": 1, "width": 4, "ridge": 0.1} | changes))
