"""Neurons that are accepted one by one: their forces, the work they do, the law they end in, and what a snapshot leaves out."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from linkern import activations
from linkern.bayes.montecarlo.task import Task
from linkern.bayes.montecarlo.wide import neuron_moves, neurons
from linkern.bayes.montecarlo.wide.neuron_moves import work
from linkern.bayes.montecarlo.wide.neurons import Neurons
from linkern.numerics.threads import blas_in_one_thread

GAMMA0, BETA, G = 1.1, 6.0, (1.2, 0.7)


def labelled(P=3, outputs=2, seed=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((P, 4)), rng.standard_normal((P, outputs))


def problem(X, Y, activation="erf", gamma0=GAMMA0, beta=BETA):
    return Task.checked(X, Y, None, 1, gamma0, beta, activation, G).problem


def population(posed, width, networks=2, seed=0):
    return Neurons(posed, width, np.random.default_rng(seed), networks=networks)


def energy(phi, Y):
    """Of readouts at their mode, by explicit ridge regression on the readout."""
    N, strength = len(phi), BETA * GAMMA0**2 * len(phi)
    f = phi.T / (GAMMA0 * N)
    w = np.linalg.solve(strength * f.T @ f + np.eye(N) / G[1], strength * f.T @ Y)
    return strength / 2 * np.square(f @ w - Y).sum() + np.square(w).sum() / (2 * G[1])


@pytest.mark.parametrize("outputs", [1, 2])
def test_force_is_the_gradient_of_the_networks_energy(outputs):
    X, Y = labelled(outputs=outputs)
    posed = problem(X, Y)
    (part,) = population(posed, 5)._parts
    part._p[:] = 0
    part._kick(part.gamma0**2 * G[1], 0.1)
    rng, h = np.random.default_rng(1), 1e-3
    for eps, force in zip(part.eps.astype(float), part._p, strict=True):
        direction = rng.standard_normal(eps.shape)
        down, up = (energy(special.erf((eps + t * direction) @ posed.root.T), Y) for t in (-h, h))
        assert (force * direction).sum() == pytest.approx(-(up - down) / (2 * h), rel=1e-4)


@pytest.mark.parametrize("outputs", [1, 2])
def test_work_of_all_neurons_is_the_change_of_energy(outputs):
    X, Y = labelled(outputs=outputs)
    posed = problem(X, Y)
    (part,) = population(posed, 7)._parts
    here, before = part._here, part.eps.astype(float)
    part._rotate(0.9)
    done = GAMMA0**2 * G[1] * work(here, part._here).sum(axis=1)
    for n, eps in enumerate(part.eps.astype(float)):
        change = energy(special.erf(eps @ posed.root.T), Y) - energy(special.erf(before[n] @ posed.root.T), Y)
        assert abs(change) > 0.05
        assert -done[n] == pytest.approx(change, rel=1e-4)


def test_neurons_that_stay_turn_round_and_signals_are_those_of_where_neurons_are():
    X, Y = labelled()
    posed = problem(X, Y, "relu")
    (part,) = population(posed, 64)._parts
    start, momenta, refreshed = part.eps.copy(), [], part._refreshed
    part._refreshed = lambda angle: momenta.append(refreshed(angle).copy()) or part._p
    probability = part.move(1.5, 2)[0]
    assert 0.05 < probability.mean() < 0.95
    stayed = (part.eps == start).all(axis=-1)
    assert stayed.any()
    assert not stayed.all()
    np.testing.assert_array_equal(part._p[stayed], -momenta[0][stayed])
    assert (part._p[~stayed] != -momenta[0][~stayed]).any(axis=-1).all()
    for eps, V in zip(part.eps.astype(float), part.V, strict=True):
        phi = np.maximum(eps @ posed.root.T, 0)
        np.testing.assert_allclose((G[1] * phi.T @ phi / 64 + np.eye(3) / BETA) @ V, Y, atol=1e-4)


def test_the_last_snapshots_hold_neurons():
    X, Y = labelled()
    posed = problem(X, Y)
    some, all_of_them = (
        Neurons(posed, 64, np.random.default_rng(5), networks=2, **options).draw(5) for options in ({"hold": 2}, {})
    )
    assert [len(snapshot.eps) for snapshot in some] == [0, 0, 0, 1, 1]
    for one, other in zip(some[3:], all_of_them[3:], strict=True):
        np.testing.assert_array_equal(one.eps[0], other.eps[0])


def test_small_steps_lose_no_energy():
    X, Y = labelled()
    nets = population(problem(X, Y, "tanh"), 128)
    losses = []
    for step in (0.2, 0.1):
        probability = np.hstack([[part.move(step, 2)[0] for part in nets._parts] for _ in range(40)])
        losses.append(1 - probability.mean())
    # Errors of energy are of order step^3 after one step and step^2 after many.
    assert losses[0] < 0.05
    assert losses[1] < losses[0] / 3


@pytest.mark.parametrize(("activation", "level"), [("relu", False), ("tanh", False), ("relu", True), ("tanh", True)])
def test_a_wide_network_has_the_law_of_infinite_width(activation, level):
    """Of one datum: V solves V (g <phi^2> + T) = y with <.> a one-dimensional integral."""
    gamma0, beta, y = 1.5, 20.0, 1.3
    phi = {"relu": lambda h: np.maximum(h, 0.0), "tanh": np.tanh}[activation]

    def law(V, power):
        def density(x):
            f = phi(np.sqrt(G[0]) * x)
            return f**power * np.exp(-(x**2) / 2 + gamma0**2 * G[1] * V**2 * f**2 / 2)

        return integrate.quad(density, -40, 40, points=[0.0], limit=400, epsabs=0)[0]

    # With ReLU the tilt is bounded by the prior's 1/2.
    low, high = 1e-3, min(y * beta, np.sqrt(1 / (G[0] * G[1])) / gamma0) if activation == "relu" else y * beta
    for _ in range(60):
        V = (low + high) / 2
        excess = V * (G[1] * law(V, 2) / law(V, 0) + 1 / beta) - y
        low, high = (low, V) if excess > 0 else (V, high)
    exact = law(V, 2) / law(V, 0)
    posed = problem([[1.0]], [y], activation, gamma0, beta)
    nets = Neurons(posed, 1024, np.random.default_rng(0), networks=16, level=level)
    nets.climb(0.1, 20, lambda snapshot, rung: None)
    nets.settle(10)
    snapshots = nets.draw(12)
    weights = snapshots[-1].weights
    assert (weights.std() > 0.2) == level
    np.testing.assert_allclose(weights.mean(axis=1), 1)
    averages = np.mean([(s.weights * phi(np.sqrt(G[0]) * s.eps[0][..., 0]) ** 2).mean(axis=1) for s in snapshots], axis=0)
    assert abs(averages.mean() - law(V, 2) / law(V, 0)) < 4 * averages.std(ddof=1) / 4 + 0.002 * averages.mean()
    each = np.mean([snapshot.kernels[:, 0, 0, 0] for snapshot in snapshots], axis=0)
    error = each.std(ddof=1) / 4
    assert error < 0.01 * exact
    assert abs(each.mean() - exact) < 4 * error + 0.002 * exact
    signals = np.array([snapshot.V for snapshot in snapshots])
    assert signals.mean() == pytest.approx(V, rel=0.01)
    # They fluctuate like 1/sqrt(N): with weights they might swing.
    assert signals.std() < 0.05 * V
    assert 0.7 < nets.acceptance <= 1


def test_kernels_leave_out_what_averages_to_zero():
    X, Y = labelled()
    posed = problem(X, Y)
    nets = population(posed, 5, networks=3)
    nets.climb(0.3, 6, lambda snapshot, rung: None)
    snapshot = nets.draw(1)[0]
    C = G[0] * X @ X.T / 4
    lazy = 2 / np.pi * np.arcsin(2 * C / np.sqrt(np.outer(1 + 2 * np.diag(C), 1 + 2 * np.diag(C))))
    np.testing.assert_allclose(posed.root @ posed.root.T, C, atol=1e-12)
    assert snapshot.kernels.shape == (3, 1, 3, 3)
    for n, eps in enumerate(snapshot.eps[0].astype(float)):
        phi = special.erf(eps @ posed.root.T)
        # The tilt of a neuron is what leaving it out costs, the prior of its width kept.
        M = G[1] * phi.T @ phi / 5 + np.eye(3) / BETA
        costs = [np.trace(Y.T @ np.linalg.solve(M - rest, Y)) for rest in (0, *(G[1] * np.outer(f, f) / 5 for f in phi))]
        weights = np.exp(-5 * GAMMA0**2 / 2 * (np.array(costs[1:]) - costs[0]))
        vanishing = np.einsum("i,ipq->pq", weights, phi[:, :, None] * phi[:, None, :] - lazy) / 5
        np.testing.assert_allclose(snapshot.kernels[n, 0], phi.T @ phi / 5 - vanishing, atol=1e-4)
        np.testing.assert_allclose(M @ snapshot.V[n], Y, atol=1e-4)


def test_weak_feature_learning_leaves_prior_draws():
    X, Y = labelled()
    nets = population(problem(X, Y, "relu", gamma0=1e-3), 512)
    nets.settle(4)
    eps = np.concatenate([snapshot.eps[0].ravel() for snapshot in nets.draw(3)])
    assert stats.kstest(eps[::7], "norm").pvalue > 1e-3


def test_networks_climb_to_their_problem():
    X, Y = labelled()
    nets, seen = population(problem(X, Y, "tanh"), 32, networks=4), []
    (part,) = nets._parts

    def note(snapshot, rung):
        assert snapshot.kernels.shape == (2, 1, 3, 3)
        np.testing.assert_array_equal(snapshot.V, part.V[:2])
        seen.append((rung, *part.gamma0[1:3, 0]))

    nets.climb(0.1, 5, note, beyond=1.5, turns=1)
    rungs, first, second = np.array(seen).T
    np.testing.assert_array_equal(rungs, first)
    assert rungs[-1] == GAMMA0
    assert second[-1] == pytest.approx(1.5 * GAMMA0)
    for path in (first, second):
        np.testing.assert_allclose(np.diff(np.log(path)), np.log(path[-1] / 0.1) / 5)
    np.testing.assert_array_equal(part.gamma0, GAMMA0)
    nets.settle(3)
    assert 0.003 <= nets.step <= 0.8


def test_threads_and_blocks_leave_results_alone(monkeypatch):
    X, Y = labelled(P=4)
    monkeypatch.setattr(neurons, "_WORTH_THREADS", 0)
    found = []
    with blas_in_one_thread():
        for shared in (side_by_side_of(2), side_by_side_of(1)):
            monkeypatch.setattr(neurons, "side_by_side", shared)
            nets = population(problem(X, Y, "relu"), 48, networks=5)
            assert len(nets._parts) == len(shared(lambda some: some, 5))
            nets.climb(0.2, 3, lambda snapshot, rung: None)
            found.append(nets.draw(2)[-1])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(neuron_moves, "_BLOCK", 4 * 10)
    nets = population(problem(X, Y, "relu"), 48, networks=5)
    nets.climb(0.2, 3, lambda snapshot, rung: None)
    np.testing.assert_allclose(nets.draw(2)[-1].V, found[0].V, rtol=1e-3, atol=1e-3)


def side_by_side_of(parts):
    def side_by_side(function, count, *, worthwhile=True):
        edges = [count * index // min(parts, count) for index in range(min(parts, count) + 1)]
        return [function(slice(*ends)) for ends in zip(edges[:-1], edges[1:], strict=True)]

    return side_by_side


def test_an_activation_that_overflows_single_precision_is_named():
    X, Y = labelled()
    steep = activations.from_function(lambda h: 1e25 * h, name="steep")
    with pytest.raises(ValueError, match=r"activation: expected finite feature kernels on prior draws, 'steep' overflows"):
        population(problem(X, Y, steep), 16)


def test_an_umbrella_leaves_kernels_of_two_outputs_alike():
    posed, found = problem(*labelled(), activation="relu", gamma0=1.5, beta=20.0), []
    for level in (False, True):
        nets = Neurons(posed, 768, np.random.default_rng(1), networks=8, level=level)
        nets.climb(0.1, 20, lambda snapshot, rung: None)
        nets.settle(15)
        snapshots = nets.draw(30)
        assert (snapshots[-1].weights.std() > 0.1) == level
        found.append(np.mean([snapshot.kernels[:, 0] for snapshot in snapshots], axis=0))
    error = np.sqrt(sum(kernels.var(axis=0, ddof=1) / 8 for kernels in found))
    plain, levelled = (kernels.mean(axis=0) for kernels in found)
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(plain)
    assert np.linalg.norm(levelled - plain) < 2 * np.linalg.norm(error) + 0.005 * np.linalg.norm(plain)
