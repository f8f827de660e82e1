"""Sweeps find both solutions of deep linear networks with their actions, and one solution where there is one."""

from dataclasses import replace

import numpy as np
import pytest

from linkern.bayes import solve_linear
from linkern.bayes.montecarlo.anneal import Ensemble
from linkern.bayes.montecarlo.sweep import sweep_montecarlo
from linkern.bayes.montecarlo.task import Task
from linkern.data import digits
from linkern.solution import ConvergenceError, Status

T = 300.0


def whitened(P):
    """C = I and labels of norm one."""
    return {"kernel": np.eye(P), "y": np.resize([1.0, -1.0], P) / np.sqrt(P), "beta": 1 / T, "activation": "linear"}


def exact(depth, gamma0, T=T):
    """y . v and action of the lazy and of the rich stable solution, from k = (1 + A)^L, A = gamma0^2 k/(k + T)^2.

    S = gamma0^2/(2 (k + T)) + L/2 (A - ln(1 + A)): its derivative in A vanishes there.
    """
    A = np.geomspace(1e-6, 1e4, 200_001)
    k = (1 + A) ** depth
    excess = np.log(A) - np.log(gamma0**2 * k / (k + T) ** 2)
    crossing = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    share = -excess[crossing] / (excess[crossing + 1] - excess[crossing])
    A = A[crossing] * (A[crossing + 1] / A[crossing]) ** share
    k = (1 + A) ** depth
    return 1 / (k + T), gamma0**2 / (2 * (k + T)) + depth / 2 * (A - np.log1p(A))


def close(value, error, truth, relative):
    """Within four standard errors, which are small themselves; few particles are forgiven `relative` of the truth."""
    assert abs(value - truth) < 4 * error + relative * truth
    assert error < 2 * relative * truth


def test_exact_formulas_here_agree_with_the_closed_form():
    for depth, gamma0 in ((2, 140.0), (3, 90.0)):
        branches = [
            b for b in solve_linear(kernel=np.eye(1), y=[1.0], depth=depth, gamma0=gamma0, beta=1 / T).branches if b.stable
        ]
        signals, actions = exact(depth, gamma0)
        np.testing.assert_allclose(signals, [1 / (np.exp(b.log_rescaling) + T) for b in branches], rtol=1e-6)
        np.testing.assert_allclose(actions, [b.action for b in branches], rtol=1e-6)


def check_window(found, depth):
    for index, gamma0 in enumerate(found.gammas0):
        signals, actions = exact(depth, gamma0)
        kernels = [np.trace(branch.kernels[index, -1]) for branch in (found.lazy, found.rich)]
        if found.coexist[index]:
            branches, rank = (found.lazy, found.rich), int(np.argmin(actions))
            assert found.least[index] == ("lazy", "rich")[rank]
            assert kernels[1] > 5 * kernels[0]
        else:
            branches = (found.lazy,) if found.lazy.exists[index] else (found.rich,)
            assert found.least[index] == "only"
        assert len(signals) == len(branches)
        for branch, signal, action in zip(branches, signals, actions, strict=True):
            close(branch.signal[index], branch.signal_error[index], signal, 0.01)
            close(branch.action[index], branch.action_error[index], action, 0.005)


def test_both_solutions_of_a_linear_network_and_their_actions():
    """Coexistence between 76.03 and 116.79, equal actions at 82.94."""
    gammas0 = [70.0, 79.0, 90.0, 128.0]
    found = sweep_montecarlo(
        **whitened(2), depth=3, gammas0=gammas0, detour_beta=0.05, particles=512, rounds=3, replicas=3, rng=1
    )
    assert found.status is Status.CONVERGED
    assert found.coexist.tolist() == [False, True, True, False]
    check_window(found, 3)
    assert abs(found.transition - 82.94) < 0.5


@pytest.mark.slow
def test_shallower_window_with_the_default_detour():
    """Coexistence between 119.72 and 152.06, equal actions at 126.05."""
    found = sweep_montecarlo(**whitened(4), depth=2, gammas0=[110.0, 123.0, 130.0, 137.0, 145.0], rng=1)
    assert found.coexist.tolist() == [False, True, True, True, True]
    check_window(found, 2)
    assert abs(found.transition - 126.05) < 1.0


@pytest.mark.slow
def test_a_tilt_too_strong_for_the_particles_is_reported():
    """The kernels of the rich solution are 40 times those of the prior."""
    setting = whitened(2) | {
        "depth": 2,
        "gammas0": [300.0, 350.0],
        "detour_beta": 0.1,
        "particles": 512,
        "rounds": 1,
        "replicas": 2,
    }
    found = sweep_montecarlo(**setting, rng=1)
    assert (found.rich.bent > 0.1).all()
    assert found.status is Status.UNRELIABLE


def coincide(found, relative):
    """One solution: same labels' signal, same kernels, and an action that does not depend on the path."""
    assert not found.coexist.any()
    assert (found.least == "only").all()
    lazy, rich = found.lazy, found.rich
    for name in ("signal", "action"):
        first, second = getattr(lazy, name), getattr(rich, name)
        error = np.hypot(getattr(lazy, f"{name}_error"), getattr(rich, f"{name}_error"))
        assert (np.abs(first - second) < 4 * error + relative * np.abs(first)).all()
        assert (error < 2 * relative * np.abs(first)).all()
    distance = np.linalg.norm(lazy.kernels - rich.kernels, axis=(2, 3))[:, 1:] / np.linalg.norm(lazy.kernels, axis=(2, 3))[:, 1:]
    assert (distance < 4 * np.hypot(lazy.kernel_errors, rich.kernel_errors) + relative).all()


def task(P):
    data = digits(classes=(3, 8), samples=P, center=True, rng=0)
    return {"X": data.X, "y": data.y, "depth": 2, "beta": 50.0}


def test_one_solution_of_a_relu_network():
    coincide(sweep_montecarlo(**task(6), activation="relu", gammas0=[0.5, 1.5], particles=512, rounds=4, replicas=3, rng=2), 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_solution_with_more_data(activation):
    coincide(sweep_montecarlo(**task(10), activation=activation, gammas0=[0.3, 1.0, 3.0], rng=3), 0.02)


def test_actions_at_low_temperature():
    """Where the lazy regime ends far below the first gamma0, on both paths."""
    gammas0 = [0.25, 0.5, 1.0]
    options = {**whitened(2), "beta": 10.0, "depth": 2}
    found = sweep_montecarlo(gammas0=gammas0, particles=512, replicas=4, rng=2, **options)
    for index, gamma0 in enumerate(gammas0):
        (_,), (action,) = exact(2, gamma0, T=0.1)
        for branch in (found.lazy, found.rich):
            close(branch.action[index], branch.action_error[index], action, 0.02)


def test_one_hidden_layer_has_one_solution_of_known_action():
    """Hot and strong, where deeper networks have two; the detour in temperature leads to the same action."""
    setting = whitened(2) | {"depth": 1, "beta": 0.02, "detour_beta": 0.05, "particles": 512, "rounds": 3}
    found = sweep_montecarlo(**setting, gammas0=[10.0, 20.0, 40.0], rng=4)
    coincide(found, 0.02)
    for index, gamma0 in enumerate(found.gammas0):
        (signal,), (action,) = exact(1, gamma0, T=50.0)
        for branch in (found.lazy, found.rich):
            close(branch.signal[index], branch.signal_error[index], signal, 0.01)
            close(branch.action[index], branch.action_error[index], action, 0.02)


def test_reproducible():
    setting = whitened(2) | {
        "depth": 1,
        "gammas0": [100.0, 110.0],
        "detour_beta": 0.01,
        "particles": 512,
        "rounds": 1,
        "replicas": 2,
    }
    first, again, other = (sweep_montecarlo(**setting, rng=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.rich.kernels, again.rich.kernels)
    assert (first.rich.signal != other.rich.signal).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gammas0": [1.0]}, "gammas0: expected at least 2"),
        ({"gammas0": [2.0, 1.0]}, "gammas0: expected at least 2"),
        ({"gammas0": [0.0, 1.0]}, "gammas0: expected at least 2"),
        ({"detour_beta": 1e-4}, "detour_beta: expected at least beta = 0.00333333"),
        ({"particles": 10}, "particles"),
        ({"replicas": 1}, "replicas"),
        ({"beta": 0.0}, "beta"),
    ],
)
def test_arguments_are_checked(change, message):
    setting = whitened(2) | {"depth": 1, "gammas0": [1.0, 2.0]} | change
    with pytest.raises(ValueError, match=message):
        sweep_montecarlo(**setting)


def test_a_solution_that_particles_lose_ends(monkeypatch):
    task = digits(classes=(3, 8), samples=4, rng=0)
    climb = Ensemble.climb

    def losing(self, gamma0, temperature):
        climb(self, gamma0, temperature)
        if gamma0 > 0.5:
            raise ConvergenceError("lost")

    options = {
        "depth": 2,
        "gammas0": [0.3, 0.4, 0.6],
        "beta": 5.0,
        "activation": "tanh",
        "particles": 512,
        "replicas": 2,
        "rng": 0,
    }
    whole = sweep_montecarlo(task.X, task.y, **options)
    monkeypatch.setattr(Ensemble, "climb", losing)
    found = sweep_montecarlo(task.X, task.y, **options)
    np.testing.assert_array_equal(found.lazy.exists, [True, True, False])
    np.testing.assert_allclose(found.lazy.action[:2], whole.lazy.action[:2], rtol=0.02)
    assert np.isnan(found.lazy.action[2])
    assert whole.status is Status.CONVERGED
    assert (found.status is Status.UNRELIABLE) == (not found.rich.exists[2])


def test_tilts_without_an_average_lose_the_solution_in_words():
    task = Task.checked([[1.0, 0.2], [0.3, 1.0]], [1.0, -1.0], None, 2, 0.05, 5.0, "relu", 1.0)
    ensemble = Ensemble(task.problem, task.start, 512, 1, np.random.default_rng(0))
    ensemble.stay(1)
    ensemble.layers = [replace(layer, reference=layer.reference - 1e4) for layer in ensemble.layers]
    with pytest.raises(ConvergenceError, match="particles have lost the solution at gamma0"):
        ensemble.move(ensemble.law)
