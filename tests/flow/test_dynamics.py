"""The march against whole-trajectory iteration on (T P) x (T P) matrices, wide networks, and limits known in closed form."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm

from linkern.bayes import Spectrum
from linkern.flow import gradient_flow, march, solve_fixed_point
from linkern.solution import ConvergenceError, Status, load_npz

from .networks import descend

_path = Path(__file__).parents[2] / "benchmarks" / "trajectory_iteration.py"
_module_spec = importlib.util.spec_from_file_location("trajectory_iteration", _path)
baseline = importlib.util.module_from_spec(_module_spec)
_module_spec.loader.exec_module(baseline)


def task(seed=0, points=5, inputs=8, outputs=None):
    r = np.random.default_rng(seed)
    shape = points if outputs is None else (points, outputs)
    return r.standard_normal((points, inputs)), r.standard_normal(shape)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_converged_iteration_of_whole_trajectories(depth, decay):
    X, y = task()
    y = y / np.linalg.norm(y)  # stronger labels make the iteration, not the march, overflow on its way
    C = X @ X.T / 8
    steps = 0.03 * (1 + 0.3 * np.sin(np.arange(24)))
    f, Phi, G, change = baseline.iterate_trajectories(
        C, y, depth=depth, gamma0=1.2, steps=steps, weight_decay=decay, iterations=100
    )
    assert change < 1e-13
    run = march(X, y, depth=depth, gamma0=1.2, steps=steps, weight_decay=decay)
    assert run.status is Status.CONVERGED
    assert run.residual < 1e-13
    np.testing.assert_allclose(run.outputs, f, atol=1e-11)
    np.testing.assert_allclose(run.gradient_kernels()[:-1], G, rtol=1e-10)
    for t, s in ((24, 24), (13, 13), (24, 7), (5, 19), (0, 24)):
        found = run.feature_kernels(t, s)
        np.testing.assert_allclose(found[0], C, rtol=1e-12, atol=1e-14)
        for l in range(depth):
            expected = Phi[l].reshape(25, 5, 25, 5)[t, :, s]
            np.testing.assert_allclose(found[l + 1], expected, atol=1e-10 * np.abs(expected).max())
    K = run.tangent_kernel(24, 24)
    last = [C, *(kernel.reshape(25, 5, 25, 5)[24, :, 24] for kernel in Phi)]
    expected = sum(g * kernel for g, kernel in zip([*(g[24, 24] for g in G), 1.0], last, strict=True))
    np.testing.assert_allclose(K, expected, rtol=1e-9, atol=1e-12)
    Psi = run.error_kernels()
    error = run.errors
    for l in range(1, depth + 1):
        full = np.einsum("tp,tpsq,sq->ts", error, Phi[l - 1].reshape(25, 5, 25, 5), error)
        np.testing.assert_allclose(Psi[l], full, atol=1e-9 * np.abs(full).max())


@pytest.mark.parametrize("outputs", [None, 1, 2, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_wide_networks(outputs, depth):
    """Means of four networks, whose scatter tells the error to expect; several outputs, a schedule, weight decay."""
    X, y = task(1, points=4, inputs=6, outputs=outputs)
    steps = np.linspace(0.01, 0.05, 25)
    run = march(X, y, depth=depth, gamma0=1.3, steps=steps, weight_decay=0.2)
    width = 900
    nets = [descend(X, y, depth=depth, gamma0=1.3, steps=steps, weight_decay=0.2, width=width, seed=seed) for seed in range(4)]
    f = np.array([net[0] for net in nets])
    sem = f.std(axis=0, ddof=1) / 2
    found = run.outputs.reshape(26, 4, -1)
    assert run.outputs.shape == (26, 4) if outputs is None else (26, 4, outputs)
    assert sem.max() < 0.05 * np.abs(found).max()
    # Four networks give a rough standard error: compare in the mean square, and allow for O(1/N).
    assert np.sqrt(np.mean((f.mean(axis=0) - found) ** 2)) < 3 * np.sqrt(np.mean(sem**2)) + 1 / width
    Phi = np.array([net[1] for net in nets])
    spread = Phi.std(axis=0, ddof=1) / 2
    apart = Phi.mean(axis=0) - run.feature_kernels()[1:]
    assert np.sqrt(np.mean(apart**2)) < 3 * np.sqrt(np.mean(spread**2)) + 4 * np.abs(Phi).max() / width


def test_depth_one_agrees_with_the_closed_dynamics_of_the_weights():
    """L = 1 at infinite width: second moments of (W row, w) obey linear equations with the data's drive; any outputs."""
    X, Y = task(2, points=4, inputs=5, outputs=2)
    D, gamma0, decay = 5, 1.4, 0.3
    steps = np.full(40, 0.02)
    # A neuron's vector (row of W, w_1, w_2) is multiplied by M(t) at every step, from the identity covariance.
    S = np.eye(D + 2)
    outputs = [np.zeros((4, 2))]
    for eta in steps:
        f = X @ S[:D, D:] / (gamma0 * D**0.5)
        drive = X.T @ (Y - f) / D**0.5
        M = (1 - eta * decay) * np.eye(D + 2)
        M[:D, D:] = eta * gamma0 * drive
        M[D:, :D] = eta * gamma0 * drive.T
        S = M @ S @ M.T
        outputs.append(X @ S[:D, D:] / (gamma0 * D**0.5))
    run = march(X, Y, depth=1, gamma0=gamma0, steps=steps, weight_decay=decay)
    np.testing.assert_allclose(run.outputs, outputs, atol=1e-13)
    np.testing.assert_allclose(run.feature_kernels()[1], X @ S[:D, :D] @ X.T / D, rtol=1e-11)
    G = run.gradient_kernels()
    assert G.shape == (2, 41, 2, 41, 2)
    np.testing.assert_allclose(G[0, -1, :, -1], S[D:, D:], rtol=1e-11)
    K = run.tangent_kernel()
    expected = np.einsum("mp,ij->mipj", X @ X.T / D, S[D:, D:]) + np.einsum("mp,ij->mipj", X @ S[:D, :D] @ X.T / D, np.eye(2))
    np.testing.assert_allclose(K, expected, rtol=1e-10)


def test_test_points_are_training_points_without_error():
    """Predictions and kernels at new inputs, against a network trained on them too with duplicated training labels."""
    X, y = task(3)
    run = march(X, y, depth=3, gamma0=1.1, steps=np.full(30, 0.03))
    np.testing.assert_allclose(run.predict(X), run.outputs, atol=1e-13)
    np.testing.assert_allclose(run.predict(kernel_new=X @ X.T / 8), run.outputs, atol=1e-13)
    np.testing.assert_allclose(run.feature_kernels(20, 9, X_new=X), run.feature_kernels(20, 9), rtol=1e-10)
    np.testing.assert_allclose(run.tangent_kernel(20, X_new=X), run.tangent_kernel(20), rtol=1e-10)
    # Linear: a new input that is a mixture of training inputs is predicted by the same mixture.
    mixture = np.random.default_rng(0).standard_normal((2, 5))
    np.testing.assert_allclose(run.predict(mixture @ X), run.outputs @ mixture.T, atol=1e-12)
    np.testing.assert_allclose(run.feature_kernels(30, X_new=mixture @ X), mixture @ run.feature_kernels(30), atol=1e-12)


def test_data_with_fewer_inputs_than_points_and_the_symmetries():
    X, y = task(4, points=9, inputs=3)
    steps = np.full(20, 0.02)
    run = march(X, y, depth=2, gamma0=1.5, steps=steps)
    f, Phi, _, _ = baseline.iterate_trajectories(X @ X.T / 3, y, depth=2, gamma0=1.5, steps=steps, iterations=60)
    np.testing.assert_allclose(run.outputs, f, atol=1e-11)
    np.testing.assert_allclose(run.feature_kernels()[2], Phi[1].reshape(21, 9, 21, 9)[20, :, 20], atol=1e-10)
    order, rotation = np.random.default_rng(0).permutation(9), np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    moved = march(X[order] @ rotation, y[order], depth=2, gamma0=1.5, steps=steps)
    np.testing.assert_allclose(moved.outputs, run.outputs[:, order], atol=1e-12)
    scaled = march(X, 2 * y, depth=2, gamma0=0.75, steps=steps)
    np.testing.assert_allclose(scaled.outputs, 2 * run.outputs, rtol=1e-12)
    np.testing.assert_allclose(scaled.feature_kernels(), run.feature_kernels(), rtol=1e-11)
    kernels = run.feature_kernels()
    np.testing.assert_array_equal(kernels, kernels.swapaxes(1, 2))
    assert min(np.linalg.eigvalsh(k).min() for k in kernels) > -1e-12
    np.testing.assert_allclose(march(kernel=X @ X.T / 3, y=y, depth=2, gamma0=1.5, steps=steps).outputs, run.outputs, atol=1e-11)
    np.testing.assert_allclose(
        march(spectrum=Spectrum.from_data(X, y), depth=2, gamma0=1.5, steps=steps).outputs, run.outputs, rtol=1e-12
    )


def test_lazy_limit():
    X, y = task(5)
    eta, depth = 0.03, 3
    run = march(X, y, depth=depth, gamma0=1e-6, steps=np.full(20, eta))
    C = X @ X.T / 8
    expected = [y - np.linalg.matrix_power(np.eye(5) - eta * (depth + 1) * C, t) @ y for t in range(21)]
    np.testing.assert_allclose(run.outputs, expected, atol=1e-10)
    assert run.sharpness(20) == pytest.approx((depth + 1) * np.linalg.eigvalsh(C)[-1], rel=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_gradient_flow_limit(decay):
    """Against ten times as many steps, extrapolated the same way from a finer pair, and the error estimate."""
    X, y = task(6)
    settings = {"depth": 3, "gamma0": 1.0, "time": 1.5, "weight_decay": decay}
    flow = gradient_flow(X, y, **settings, points=41)
    assert flow.status is Status.CONVERGED
    fine = gradient_flow(X, y, **settings, points=121)
    truth = fine.outputs[::3]
    apart = np.abs(flow.outputs - truth).max() / np.abs(y).max()
    assert fine.error < 1e-4
    assert apart < 2 * flow.error
    assert flow.error < 1e-3
    np.testing.assert_allclose(flow.times, fine.times[::3])
    np.testing.assert_allclose(flow.feature_kernels(-1), fine.feature_kernels(-1), rtol=2e-3)
    np.testing.assert_allclose(flow.gradient_kernels()[:, -1, 5], fine.gradient_kernels()[:, -1, 15], rtol=2e-3)
    # df/dt = K Delta - (L + 1) decay f.
    dt = fine.times[1]
    slope = (fine.outputs[61] - fine.outputs[59]) / (2 * dt)
    expected = fine.tangent_kernel(60) @ fine.errors[60] - 4 * decay * fine.outputs[60]
    np.testing.assert_allclose(slope, expected, rtol=5e-4, atol=5e-4)


def test_any_grid_of_times():
    """Long run on times that stretch: the same limit as on equidistant times, with fewer steps."""
    X, y = task(6)
    y = y / np.linalg.norm(y)
    grid = 4.0 * np.linspace(0, 1, 61) ** 2
    stretched = gradient_flow(X, y, depth=2, gamma0=1.0, times=grid)
    plain = gradient_flow(X, y, depth=2, gamma0=1.0, time=4.0, points=201)
    np.testing.assert_allclose(stretched.times, grid)
    np.testing.assert_allclose(stretched.outputs[-1], plain.outputs[-1], atol=max(stretched.error, 1e-6))
    new, labels = np.random.default_rng(0).standard_normal((3, 8)), np.ones(3)
    np.testing.assert_allclose(stretched.test_losses(labels, new), ((stretched.predict(new) - 1) ** 2).sum(axis=1) / 2)
    with pytest.raises(ValueError, match="y_new: expected shape"):
        stretched.test_losses(np.ones(2), new)
    with pytest.raises(ValueError, match="times: expected"):
        gradient_flow(X, y, depth=2, gamma0=1.0, times=[0.5, 1.0])
    with pytest.raises(ValueError, match="time, times: expected"):
        gradient_flow(X, y, depth=2, gamma0=1.0)


def test_gradient_flow_of_the_lazy_network_is_exponential():
    X, y = task(7)
    flow = gradient_flow(X, y, depth=1, gamma0=1e-6, time=2.0, points=41)
    C = X @ X.T / 8
    np.testing.assert_allclose(flow.errors[-1], expm(-4.0 * C) @ y, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2])
def test_weight_decay_leads_to_the_fixed_point(depth):
    X, y = task(8)
    run = march(X, y, depth=depth, gamma0=2.0, steps=np.full(400, 0.03), weight_decay=0.9)
    end = solve_fixed_point(X, y, depth=depth, gamma0=2.0, weight_decay=0.9)
    np.testing.assert_allclose(run.outputs[-1], end.fitted, atol=2e-6)
    for l in range(1, depth + 1):
        np.testing.assert_allclose(run.feature_kernels()[l], end.kernels[l].dense(), atol=2e-6)
    np.testing.assert_allclose(run.gradient_kernels()[:, -1, -1], end.gradient_kernels, rtol=1e-6)
    np.testing.assert_allclose(run.predict(X[:2] + 1)[-1], end.predict(X[:2] + 1), atol=5e-6)


def test_divergence_is_explained_and_keeps_what_was_computed():
    X, y = task(9)
    top = np.linalg.eigvalsh(X @ X.T / 8)[-1]
    with pytest.raises(ConvergenceError, match="steps: the loss grew") as caught:
        march(X, y, depth=2, gamma0=1.0, steps=np.full(200, 6 / (3 * top)))
    partial = caught.value.solution
    assert 1 < partial.times.size < 201
    assert np.isfinite(partial.outputs).all()
    assert np.isfinite(partial.feature_kernels()).all()
    assert f"{2 / (3 * top):.6g}" in str(caught.value)
    same = march(X, y, depth=2, gamma0=1.0, steps=np.full(200, 6 / (3 * top)), raise_on_failure=False)
    assert same.status is Status.NOT_CONVERGED
    with pytest.raises(ConvergenceError, match="points: the descent with 3 steps"):
        gradient_flow(X, y, depth=2, gamma0=1.0, time=100.0, points=4, levels=2)
    with pytest.raises(ConvergenceError, match="points: estimated error"):
        gradient_flow(X, y, depth=2, gamma0=1.0, time=1.0, points=8, tol=1e-9)


def test_labels_that_vanish_and_save(tmp_path):
    X, _ = task()
    run = march(X, np.zeros(5), depth=2, gamma0=1.0, steps=np.full(5, 0.1))
    assert not run.outputs.any()
    arrays, record = load_npz(run.save(tmp_path / "run.npz"))
    np.testing.assert_array_equal(arrays["times"], run.times)
    assert record["depth"] == 2


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"depth": 0}, "depth"), ({"gamma0": 0.0}, "gamma0"), ({"steps": [0.1, -0.1]}, "steps"), ({"steps": 0.1}, "steps"),
        ({"weight_decay": -1.0}, "weight_decay"), ({"weight_decay": 10.0}, "steps"), ({"y": np.ones(3)}, "y"),
        ({"X": None}, "X, kernel, spectrum"), ({"steps": [np.nan]}, "steps"),
    ],
)  # fmt: skip
def test_bad_input(change, name):
    X, y = task()
    with pytest.raises((ValueError, TypeError), match=f"{name}: expected"):
        march(**({"X": X, "y": y, "depth": 2, "gamma0": 1.0, "steps": [0.1, 0.1]} | change))


def test_bad_times_and_points():
    X, y = task()
    run = march(X, y, depth=1, gamma0=1.0, steps=[0.1])
    with pytest.raises(ValueError, match="t: expected"):
        run.feature_kernels(2)
    with pytest.raises(ValueError, match="X_new: expected 8 columns"):
        run.predict(np.ones((2, 3)))
    with pytest.raises(ValueError, match="points: expected"):
        gradient_flow(X, y, depth=1, gamma0=1.0, time=1.0, points=1)


@pytest.mark.parametrize("step", [0.02, 0.01])
def test_the_dynamics_decide_where_two_fixed_points_are_stable(step):
    """Whitened, L = 2, gamma0 |y| = 16: at 0.75 of the collapse line the trained state has the lower energy, yet training
    from random weights collapses; at 0.6 it does not. Halving the step changes nothing."""
    spectrum = Spectrum.from_modes([1.0], [1.0])
    line = 3 * (16 / 4) ** (4 / 3)
    for fraction, survives in ((0.75, False), (0.6, True)):
        decay = fraction * line
        end = solve_fixed_point(spectrum=spectrum, depth=2, gamma0=16.0, weight_decay=decay)
        assert end.dynamics_decide
        assert "dynamics decide" in end.advice
        assert end.global_index == 2
        count = round(2.5 / step)
        run = march(spectrum=spectrum, depth=2, gamma0=16.0, steps=np.full(count, step / 3), weight_decay=decay)
        target = end.fitted[0] if survives else 0.0
        assert abs(run.outputs[-1, 0] - target) < 1e-3


@pytest.mark.parametrize("array", ["Q", "c", "b", "N", "a", "G", "Psi"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_certificate_sees_a_damaged_entry(array, decay):
    X, y = task()
    run = march(X, y, depth=3, gamma0=1.0, steps=np.full(20, 0.03), weight_decay=decay)
    assert run._march.violation(20) < 1e-14
    stack = getattr(run._march, array)
    damage = 1e-3 * abs(stack[2]).max()
    stack[2][20, 7] += damage
    if array in ("G", "Psi"):
        stack[2][7, 20] += damage
    if array == "c":
        # c enters the readout through Q, a and N only: rebuild what follows from it.
        run._march.a[2][20, :20] = (run._march.c[2][20, :20] @ run._march.Q[2][:20, :20]) * run._march.R[:20]
    assert run._march.violation(20) > 1e-7
