"""Long runs of two-layer networks: the flow of short steps and of wide networks, to the end, where a kernel predicts f."""

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from linkern.activations import Activation, leaky_relu
from linkern.data import digits
from linkern.flow import march_montecarlo, relax
from linkern.flow.relaxation_neurons import kink_slopes, rounded
from linkern.flow.relaxation_steps import chebyshev_steps
from linkern.networks.gradient_flow import train_networks
from linkern.solution import ConvergenceError, Status


def task(seed=0, points=6, inputs=10):
    r = np.random.default_rng(seed)
    return r.standard_normal((points, inputs)), np.where(np.arange(points) % 2, 1.0, -1.0), r.standard_normal((4, inputs))


def test_steps_follow_stiff_flows():
    """A gradient flow with rates from 0.3 to 3000: exact for the linear one, SciPy's implicit method for the nonlinear one."""
    rates = np.geomspace(0.3, 3000.0, 40)
    calls = 0

    def drive(x):
        nonlocal calls
        calls += 1
        return rates * (1 - x)

    *_, last = chebyshev_steps(drive, np.full(40, 2.0), end=2.0, tol=1e-3)
    assert last.end == 2.0
    np.testing.assert_allclose(last.after, 1 + np.exp(-2 * rates), atol=1e-2)
    assert calls < 0.25 * 2.0 * rates[-1] / 2  # the number of stable Euler steps

    def nonlinear(x):
        return -rates * x - x**3 + np.roll(x, 1) + np.roll(x, -1) - 2 * x

    start = np.random.default_rng(0).standard_normal(40)
    steps = list(chebyshev_steps(nonlinear, start, end=3.0, tol=1e-5))
    reference = solve_ivp(lambda t, x: nonlinear(x), (0, 3), start, method="Radau", rtol=1e-9, atol=1e-11, dense_output=True)
    for step in steps[:: len(steps) // 7]:
        middle = 0.3 * step.start + 0.7 * step.end
        np.testing.assert_allclose(step.at(middle), reference.sol(middle), atol=2e-4)
    errors = [
        np.abs(list(chebyshev_steps(nonlinear, start, end=3.0, tol=tol))[-1].after - reference.y[:, -1]).max()
        for tol in (1e-3, 1e-6)
    ]
    assert errors[1] < 1e-6 < errors[0]


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_rounded_kinks(slope):
    """The rounded slope is the mean of phi' over a window, and integrates to a value that is phi outside of the window."""
    phi = leaky_relu(slope)
    assert kink_slopes(phi) == (slope, 1.0)
    h = np.array([-2.0, -0.11, -0.1, -0.04, 0.0, 0.03, 0.1, 0.2, 3.0])
    value, derivative = rounded(h.copy(), slope, 1.0, 0.1)
    outside = np.abs(h) >= 0.1
    np.testing.assert_allclose(value[outside], phi.value(h)[outside], atol=1e-15)
    for point, one, rise in zip(h, value, derivative, strict=True):
        mean = (np.clip(point + 0.1, 0, 0.2) + slope * np.clip(0.1 - point, 0, 0.2)) / 0.2
        assert rise == pytest.approx(mean, abs=1e-14)
        area = quad(lambda x: rounded(np.array([x]), slope, 1.0, 0.1)[1][0], -2.0, point, points=[-0.1, 0.1], limit=200)[0]
        assert one == pytest.approx(-2.0 * slope + area, abs=1e-8)
    assert kink_slopes(Activation("smooth", np.tanh, lambda h: 1 / np.cosh(h) ** 2)) is None


def test_linear_networks_reach_the_closed_form():
    """f = C (C + rho)^{-1} y, rho = decay/a, a^2 = gamma0^2 y^T C (C + rho)^{-2} y, without sampling error."""
    X, y, new = task()
    C = X @ X.T / 10
    run = relax(
        X, y, X_test=new, gamma0=1.5, weight_decay=0.7, activation="linear", times=[0, 0.5, 40], samples=200, replicas=2,
        tol=1e-3, rng=0,
    )  # fmt: skip

    def excess(a):
        resolvent = np.linalg.solve(C + 0.7 / a * np.eye(6), y)
        return 1.5**2 * resolvent @ C @ resolvent - a**2

    rho = 0.7 / brentq(excess, 0.05, 50, xtol=1e-14)
    v = np.linalg.solve(C + rho * np.eye(6), y)
    np.testing.assert_allclose(run.outputs[-1], C @ v, atol=1e-5)
    np.testing.assert_allclose(run.test_outputs[-1], new @ X.T / 10 @ v, atol=1e-5)
    np.testing.assert_allclose(run.kernel_outputs[:6], run.outputs[-1], atol=1e-4)
    np.testing.assert_allclose(run.kernel_outputs[6:], run.test_outputs[-1], atol=1e-4)
    assert run.rest < 1e-4
    assert run.residual < 1e-8
    assert run.status is Status.CONVERGED


def test_the_path_is_the_one_of_short_steps():
    """Same neurons, extrapolated Euler steps against long ones, before and after f has settled; the error estimate covers it."""
    X, y, new = task(1)
    settings = {"gamma0": 2.0, "weight_decay": 0.5, "activation": "tanh", "samples": 200, "replicas": 2, "rng": 3, "X_test": new}
    times = [0, 0.25, 1.0, 4.0]
    coarse, fine = (march_montecarlo(X, y, depth=1, steps=np.full(n, 4.0 / n), **settings) for n in (800, 1600))
    picks, half = [0, 100, 400, 1600], [0, 50, 200, 800]
    truth = 2 * fine.outputs[picks] - coarse.outputs[half]
    unseen = 2 * fine.test_outputs[picks] - coarse.test_outputs[half]
    for tol, bound in ((1e-2, 2e-2), (1e-4, 5e-4)):
        run = relax(X, y, times=times, tol=tol, **settings)
        assert np.abs(run.outputs - truth).max() < min(bound, 2 * run.error.max() + 1e-4)
        assert np.abs(run.test_outputs - unseen).max() < bound
        assert run.evaluations < 400
    Phi = 2 * fine.feature_kernels[-1] - coarse.feature_kernels[-1]
    np.testing.assert_allclose(run.feature_kernels[1], Phi, atol=2e-3)
    np.testing.assert_allclose(run.tangent_kernels[1], 2 * fine.tangent_kernels[0] - coarse.tangent_kernels[0], atol=5e-3)


def test_rest_is_stationary():
    """decay h = gamma0 C (Delta phi') z and decay z = gamma0 Delta . phi, neuron by neuron, from the samples returned."""
    X, y, _ = task(2)
    run = relax(X, y, gamma0=2.0, weight_decay=0.8, activation="tanh", samples=200, replicas=2, times=[0, 60], rng=0)
    C = X @ X.T / 10
    for h, z in zip(np.split(run.preactivations[0], 2), np.split(run.backward_fields[0, :, :1], 2), strict=True):
        Delta = y - (z * np.tanh(h)).mean(axis=0) / 2.0
        np.testing.assert_allclose(2.0 * (Delta * z / np.cosh(h) ** 2) @ C, 0.8 * h, atol=2e-3 * np.abs(h).max())
        np.testing.assert_allclose(2.0 * np.tanh(h) @ Delta, 0.8 * z[:, 0], atol=2e-3 * np.abs(z).max())
    assert run.rest < 2e-3
    assert run.kernel_outputs is None  # not homogeneous


@pytest.fixture(scope="module")
def trained():
    """ReLU on real images with and without weight decay, for the same neurons."""
    data = digits(classes=(3, 8), samples=20, test=20, rng=0)
    settings = {"X_test": data.X_test, "gamma0": 2.0, "activation": "relu", "samples": 300, "replicas": 2, "rng": 1}
    times = np.concatenate([[0.0], np.geomspace(0.01, 4.0, 8), [10.0]])
    return data, {decay: relax(data.X, data.y, weight_decay=decay, times=times, **settings) for decay in (0.0, 1.0)}


def test_final_kernel_predicts_the_network_only_with_weight_decay(trained):
    data, runs = trained
    y, P = data.y, data.y.size
    run = runs[1.0]
    f = np.concatenate([run.outputs[-1], run.test_outputs[-1]])
    K = run.tangent_kernels[1]
    by_hand = K @ np.linalg.solve(K[:P] + 2 * 1.0 * np.eye(P), y)
    np.testing.assert_allclose(run.kernel_outputs, by_hand, atol=1e-3)  # means over replicas against the mean kernel
    assert np.abs(run.kernel_outputs - f).max() < 2e-3
    assert np.abs(run.initial_kernel_outputs - f)[:P].max() > 0.2
    assert np.sqrt(np.mean((run.initial_kernel_outputs - f)[P:] ** 2)) > 0.2
    free = runs[0.0]
    assert np.abs(free.outputs[-1] - y).max() < 0.05
    gap = np.sqrt(np.mean((free.kernel_outputs[P:] - free.test_outputs[-1]) ** 2))
    assert gap > 0.05
    assert gap > 50 * np.sqrt(np.mean((run.kernel_outputs[P:] - run.test_outputs[-1]) ** 2))


def test_kinks_do_not_change_the_flow(trained):
    """Short Euler steps with the sharp kink end, and pass, where the rounded ones do, within the error estimate."""
    data, runs = trained
    run = runs[1.0]
    settings = {"X_test": data.X_test, "gamma0": 2.0, "activation": "relu", "samples": 300, "replicas": 2, "rng": 1}
    march = march_montecarlo(data.X, data.y, depth=1, weight_decay=1.0, steps=np.full(1000, 0.004), settle=250, **settings)
    for index in (3, 5, 8):
        t = run.times[index]
        between = np.array([np.interp(t, march.times, f) for f in march.outputs.T])
        assert np.abs(run.outputs[index] - between).max() < 2 * run.error[index] + 0.01
    assert np.abs(run.losses[8] - march.losses[-1]) < 0.02 * march.losses[-1]
    assert np.abs(run.kernel_outputs - march.kernel_outputs).max() < 0.02
    assert run.rest < 0.02
    assert run.evaluations < 1500


def test_wide_networks_within_error_bars(trained):
    data, runs = trained
    run = runs[1.0]
    nets = train_networks(
        data.X, data.y, depth=1, width=400, gamma0=2.0, steps=np.full(300, 4 / 300), activation="relu", weight_decay=1.0,
        networks=4, X_test=data.X_test, record_every=300, rng=3,
    )  # fmt: skip
    for values, mean, error in (
        (nets.outputs, run.outputs[8], run.outputs_error[8]),
        (nets.test_outputs, run.test_outputs[8], run.test_outputs_error[8]),
    ):
        sem = values[:, -1].std(axis=0, ddof=1) / 2
        combined = np.sqrt(np.mean(sem**2) + np.mean(error**2))
        assert combined < 0.02
        assert np.sqrt(np.mean((values[:, -1].mean(axis=0) - mean) ** 2)) < 3 * combined + 3 / 400


def test_same_seed_same_result_and_kernel_input():
    X, y, new = task(3)
    settings = {"gamma0": 1.0, "weight_decay": 0.3, "activation": "relu", "samples": 100, "replicas": 2, "times": [0, 0.5, 1]}
    one, two, other = (relax(X, y, X_test=new, rng=seed, **settings) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.outputs, two.outputs)
    assert not np.array_equal(one.outputs, other.outputs)
    everything = np.vstack([X, new])
    same = relax(kernel=everything @ everything.T / 10, y=y, rng=4, **settings)
    np.testing.assert_allclose(same.outputs, one.outputs, atol=1e-9)
    np.testing.assert_allclose(same.kernel_outputs, one.kernel_outputs, atol=1e-9)
    assert one.kernel_times.tolist() == [0, 1]
    assert one.feature_kernels.shape == (2, 1, 6, 6)
    assert one.tangent_kernels.shape == (2, 10, 6)
    assert one.preactivations.shape == one.backward_fields.shape == (1, 200, 6)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"times": [0.0]}, "times"), ({"times": [0.1, 1.0]}, "times"), ({"times": [0.0, 2.0, 1.0]}, "times"),
        ({"y": np.ones((6, 2))}, "y"), ({"y": None}, "y"), ({"kernel": np.eye(6)}, "X, kernel"), ({"kink": 0.0}, "kink"),
        ({"tol": -1.0}, "tol"), ({"samples": 10}, "samples"), ({"replicas": 1}, "replicas"),
        ({"gamma0": 0.0}, "gamma0"), ({"weight_decay": -1.0}, "weight_decay"), ({"activation": "nothing"}, "activation"),
    ],
)  # fmt: skip
def test_bad_input(change, name):
    X, y, _ = task()
    arguments = {"X": X, "y": y, "gamma0": 1.0, "times": [0.0, 1.0], "activation": "relu", "samples": 100} | change
    with pytest.raises((ValueError, TypeError), match=f"{name}: expected"):
        relax(**arguments)


def test_forces_that_are_not_finite():
    X, y, _ = task()
    broken = Activation("broken", lambda h: np.where(h > 2, np.nan, h), np.ones_like)
    with pytest.raises(ConvergenceError, match="finite"):
        relax(X, y, gamma0=1.0, times=[0.0, 1.0], activation=broken, samples=100, rng=0)
