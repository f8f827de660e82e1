"""Finite networks sampled neuron by neuron: decisions against brute-force energies, laws against quadrature and closed forms."""

import numpy as np
import pytest
from scipy import stats

from linkern.bayes.montecarlo.network import Networks
from linkern.bayes.montecarlo.network_jumps import Lobes
from linkern.bayes.montecarlo.network_law import Conditional, accepted_in_turn
from linkern.bayes.montecarlo.task import Task


def networks(X, y, n, width, *, sweeps=12, activation="relu", gamma0=1.5, beta=20.0, prior_variances=1.0, seed=1):
    """Networks that have climbed to gamma0 and stopped adapting."""
    task = Task.checked(X, y, None, 1, gamma0, beta, activation, prior_variances)
    net = Networks(task.problem, task.problem.root, n, width, np.random.default_rng(seed))
    net.problem = Task.checked(X, y, None, 1, 0.1 * gamma0, beta, activation, prior_variances).problem
    net.climb(gamma0, 1 / beta, sweeps)
    net.frozen = True
    return net


def energy(phi, Y, gamma0, temperature, variance):
    """Of one network with features phi (N, P), apart from the prior."""
    N, P = phi.shape
    M = variance * phi.T @ phi / N + temperature * np.eye(P)
    return N * gamma0**2 / 2 * np.trace(Y.T @ np.linalg.solve(M, Y)) + Y.shape[1] / 2 * np.linalg.slogdet(M)[1]


def test_decisions_follow_the_energy_of_the_whole_network():
    rng = np.random.default_rng(0)
    n, N, B, P, O, gamma0, T, g = 3, 12, 5, 4, 2, 1.3, 0.1, 0.7
    phi, new, Y = rng.standard_normal((n, N, P)), rng.standard_normal((n, B, P)), rng.standard_normal((P, O))
    change, log_uniform = rng.standard_normal((n, B)), np.log(rng.random((n, B)))
    M = g / N * np.swapaxes(phi, 1, 2) @ phi + T * np.eye(P)
    accepted, log_ratio = accepted_in_turn(M, Y, phi[:, :B], new, change, log_uniform, g / N, gamma0**2 * g)
    for k in range(n):
        current = phi[k].copy()
        for i in range(B):
            trial = current.copy()
            trial[i] = new[k, i]
            expected = energy(current, Y, gamma0, T, g) - energy(trial, Y, gamma0, T, g) - change[k, i]
            assert log_ratio[k, i] == pytest.approx(expected, abs=1e-10)
            assert accepted[k, i] == (log_uniform[k, i] < expected)
            current = trial if accepted[k, i] else current
    assert 0 < accepted.mean() < 1


def test_law_of_one_neuron_is_the_energy_it_adds_and_its_gradient():
    rng = np.random.default_rng(1)
    N, P, O, gamma0, T, g = 7, 3, 2, 0.9, 0.2, 1.4
    phi, one, Y = rng.standard_normal((N - 1, P)), rng.standard_normal(P), rng.standard_normal((P, O))
    M = g / N * phi.T @ phi + T * np.eye(P)

    def added(feature):
        padded = np.vstack([phi, feature])
        zero = np.vstack([phi, np.zeros(P)])
        return energy(padded, Y, gamma0, T, g) - energy(zero, Y, gamma0, T, g)

    G = np.linalg.inv(M)[None]
    value, gradient = Conditional(G @ Y, g / N * G, gamma0**2 * g).at(one[None, None])
    assert value[0, 0] == pytest.approx(added(one), abs=1e-10)
    numeric = [(added(one + 1e-5 * e) - added(one - 1e-5 * e)) / 2e-5 for e in np.eye(P)]
    np.testing.assert_allclose(gradient[0, 0], numeric, atol=1e-7)


def test_one_datum_has_the_exact_kernel_of_its_width():
    N, n, gamma0, beta, y = 64, 160, 1.5, 20.0, 1.3
    net = networks([[1.0]], [y], n, N, gamma0=gamma0, beta=beta, sweeps=30)
    draws = []
    for _ in range(20):
        net.sweep()
        draws.append(net.kernels[:, 0, 0])
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


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_few_neurons_have_the_law_of_weighted_prior_draws(activation):
    rng = np.random.default_rng(2)
    X, Y, N, gamma0, beta, g = rng.standard_normal((2, 2)), rng.standard_normal((2, 2)), 3, 1.0, 3.0, (1.3, 0.7)
    net = networks(X, Y, 6000, N, activation=activation, gamma0=gamma0, beta=beta, prior_variances=g)
    for _ in range(6):
        net.sweep()
    K = net.kernels
    h = np.sqrt(g[0]) * rng.standard_normal((400_000, N, 2)) @ np.linalg.cholesky(X @ X.T / 2).T
    phi = np.maximum(h, 0) if activation == "relu" else np.tanh(h)
    Phi = np.swapaxes(phi, 1, 2) @ phi / N
    M = g[1] * Phi + np.eye(2) / beta
    log_w = -N * gamma0**2 / 2 * np.einsum("po,spo->s", Y, np.linalg.solve(M, np.broadcast_to(Y, Phi.shape)))
    log_w -= np.log(np.linalg.det(M))
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    expected = np.einsum("s,spq->pq", w, Phi)
    error = np.sqrt(K.var(axis=0) / len(K) + np.einsum("s,spq->pq", w**2, (Phi - expected) ** 2))
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(expected)
    assert (np.abs(K.mean(axis=0) - expected) < 4 * error).all()


def test_error_signals_belong_to_the_features():
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((3, 4)), rng.standard_normal((3, 2))
    net = networks(X, Y, 2, 64, prior_variances=(1.0, 0.5), sweeps=2)
    phi = np.maximum(net.eps @ net.root.T.astype(np.float32), 0).astype(float)
    Phi = np.swapaxes(phi, 1, 2) @ phi / 64
    np.testing.assert_allclose(net.kernels, Phi, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((0.5 * Phi + np.eye(3) / 20) @ net.V, np.broadcast_to(Y, net.V.shape), atol=1e-4)


def test_lobes_draw_from_the_density_that_they_state():
    rng = np.random.default_rng(5)
    eps = rng.standard_normal((4000, 2))
    eps[:100] = [5, 0] + 0.5 * eps[:100]
    eps[100:200] = [-4, 1] + 0.7 * eps[100:200]
    lobes = Lobes.fitted(eps.astype(np.float32), np.maximum(np.abs(eps[:, :1]) - 3, 0) * np.sign(eps[:, :1]))
    assert lobes is not None
    assert len(lobes.shares) == 3
    axis = np.arange(-16, 16, 0.05)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(lobes.log_density(grid))
    mass = density / density.sum()
    assert density.sum() * 0.05**2 / (2 * np.pi) == pytest.approx(1, abs=1e-6)
    draws = lobes.draw(100_000, rng)
    far = draws[:, 0] > 3
    assert far.mean() == pytest.approx(mass[grid[:, 0] > 3].sum(), abs=0.01)
    np.testing.assert_allclose(np.cov(draws.T), np.cov(grid.T, aweights=mass), rtol=0.03, atol=0.05)


def test_lobes_need_enough_neurons():
    eps = np.random.default_rng(6).standard_normal((100, 40)).astype(np.float32)
    assert Lobes.fitted(eps, eps[:, :1]) is None
