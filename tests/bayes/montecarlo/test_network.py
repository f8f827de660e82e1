"""Finite networks at one width: exact one-dimensional laws, weighted prior draws, and what a snapshot holds."""

import numpy as np
import pytest
from scipy import stats

from linkern.bayes.montecarlo.task import Task
from linkern.bayes.montecarlo.wide.network import Networks


def networks(X, y, n, width, *, depth=1, activation="relu", gamma0=1.5, beta=20.0, prior_variances=1.0, rungs=12, seed=1):
    """Networks that have climbed to gamma0 and stopped adapting."""
    task = Task.checked(X, y, None, depth, gamma0, beta, activation, prior_variances)
    nets = Networks(task.problem, width, np.random.default_rng(seed), networks=n)
    nets.climb(0.1 * gamma0, rungs, lambda snapshot, rung: None)
    nets.settle(12)
    return nets


def test_one_datum_has_the_exact_kernel_of_its_width():
    N, n, gamma0, beta, y = 64, 160, 1.5, 20.0, 1.3
    nets = networks([[1.0]], [y], n, N, gamma0=gamma0, beta=beta)
    snapshots = nets.draw(25)
    draws = [np.square(np.maximum(snapshot.eps[0], 0)).mean(axis=(1, 2)) for snapshot in snapshots]
    # Half of the neurons are silent; k others have a chi^2_k.
    total = np.linspace(1e-3, 6 * N, 40001)
    k = np.arange(1, N + 1)
    prior = stats.chi2.pdf(total[:, None], k) @ stats.binom.pmf(k, N, 0.5)
    M = total / N + 1 / beta
    log_density = -N * gamma0**2 / 2 * y**2 / M - np.log(M) / 2
    density = prior * np.exp(log_density - log_density.max())
    density /= density.sum()
    for power in (1, 2):
        each = np.mean(np.power(draws, power), axis=0)
        expected = density @ (total / N) ** power
        error = each.std(ddof=1) / np.sqrt(n)
        assert error < 0.01 * expected
        assert abs(each.mean() - expected) < 4 * error


@pytest.mark.parametrize(("activation", "depth"), [("relu", 1), ("tanh", 2)])
def test_few_neurons_have_the_law_of_weighted_prior_draws(activation, depth):
    rng = np.random.default_rng(2)
    X, Y, N, gamma0, beta = rng.standard_normal((2, 2)), rng.standard_normal((2, 2)), 3, 1.0, 3.0
    g = (1.3, 0.8, 0.7) if depth == 2 else (1.3, 0.7)
    nets = networks(X, Y, 5000, N, depth=depth, activation=activation, gamma0=gamma0, beta=beta, prior_variances=g)
    K = np.mean([snapshot.kernels for snapshot in nets.draw(4)], axis=0)
    root, Phi = np.linalg.cholesky(X @ X.T / 2), []
    for l in range(depth):
        # Any root of the kernel below gives the same law.
        if l:
            values, vectors = np.linalg.eigh(Phi[-1])
            root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        h = np.sqrt(g[l]) * rng.standard_normal((400_000, N, 2)) @ np.swapaxes(root, -1, -2)
        phi = np.maximum(h, 0) if activation == "relu" else np.tanh(h)
        Phi.append(np.swapaxes(phi, 1, 2) @ phi / N)
    M = g[-1] * Phi[-1] + np.eye(2) / beta
    log_w = -N * gamma0**2 / 2 * np.einsum("po,spo->s", Y, np.linalg.solve(M, np.broadcast_to(Y, M.shape)))
    log_w -= np.log(np.linalg.det(M))
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    for l in range(depth):
        expected = np.einsum("s,spq->pq", w, Phi[l])
        error = np.sqrt(K[:, l].var(axis=0) / len(K) + np.einsum("s,spq->pq", w**2, (Phi[l] - expected) ** 2))
        assert np.linalg.norm(error) < 0.03 * np.linalg.norm(expected)
        assert (np.abs(K[:, l].mean(axis=0) - expected) < 4 * error).all()


def test_snapshots_hold_kernels_and_error_signals_of_their_neurons():
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((3, 4)), rng.standard_normal((3, 2))
    nets = networks(X, Y, 2, 64, depth=2, prior_variances=(1.0, 0.6, 0.5), rungs=2)
    assert nets.width == 64
    snapshot = nets.draw(2)[-1]
    assert 0 < nets.acceptance <= 1
    for n in range(2):
        first, second = (eps[n].astype(float) for eps in snapshot.eps)
        # Of layer 1 the root may be any: its neurons have the kernel that the second layer sees.
        Phi = snapshot.kernels[n]
        values, vectors = np.linalg.eigh(0.6 * Phi[0])
        phi = np.maximum(second @ (vectors * np.sqrt(values)) @ vectors.T, 0)
        np.testing.assert_allclose(phi.T @ phi / 64, Phi[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose((0.5 * Phi[1] + np.eye(3) / 20) @ snapshot.V[n], Y, atol=1e-4)
        assert first.shape == (64, 3)


def test_networks_climb_to_their_problem_and_start_where_they_are_told():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((3, 4)), rng.standard_normal(3)
    problem = Task.checked(X, y, None, 1, 0.7, 5.0, "tanh", 1.0).problem
    nets, seen = Networks(problem, 32, np.random.default_rng(0), networks=3), []
    nets.climb(0.1, 5, lambda snapshot, rung: seen.append(rung))
    assert seen[-1] == 0.7
    np.testing.assert_allclose(np.diff(np.log(seen)), np.log(7) / 5)
    before = nets.snapshot()
    heirs = Networks(problem, 32, np.random.default_rng(1), start=before.eps, step=nets.step)
    assert heirs.step == nets.step
    np.testing.assert_array_equal(heirs.snapshot().kernels, before.kernels)
    heirs.draw(3)
    np.testing.assert_array_equal(nets.snapshot().eps[0], before.eps[0])
