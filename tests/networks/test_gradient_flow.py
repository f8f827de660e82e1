"""Training of finite networks: plain loops, finite differences, conservation laws, and the infinite-width limit."""

import numpy as np
import pytest
from scipy.special import erf

from linkern.flow import march, solve_fixed_point
from linkern.networks.gradient_flow import balance, train_networks
from linkern.solution import ConvergenceError, Status


def task(seed=0, points=4, inputs=6):
    r = np.random.default_rng(seed)
    y = r.standard_normal(points)
    return r.standard_normal((points, inputs)), y / np.linalg.norm(y)


PHI = {
    "linear": lambda h: h,
    "relu": lambda h: np.maximum(h, 0),
    "erf": erf,
}


def output(W, X, gamma0, phi):
    h = W[0] @ X.T / X.shape[1] ** 0.5
    for V in W[1:-1]:
        h = V @ phi(h) / h.shape[0] ** 0.5
    return (W[-1] @ phi(h) / (gamma0 * h.shape[0]))[0]


@pytest.mark.parametrize("activation", ["linear", "relu", "erf"])
@pytest.mark.parametrize("centred", [False, True])
def test_one_step_is_the_gradient_by_finite_differences(activation, centred):
    X, y = task()
    gamma0, eta, decay, N = 1.3, 0.05, 0.4, 5
    run = train_networks(
        X, y, depth=2, width=N, gamma0=gamma0, steps=[eta], activation=activation, weight_decay=decay, networks=2,
        centred=centred, keep_initial=True, rng=1,
    )  # fmt: skip
    for m in range(2):
        start = [W[m] for W in run.initial_weights]
        offset = output(start, X, gamma0, PHI[activation]) * centred

        def loss(W, offset=offset):
            return np.sum((output(W, X, gamma0, PHI[activation]) - offset - y) ** 2) / 2

        for l, W in enumerate(start):
            gradient = np.zeros_like(W)
            for index in np.ndindex(W.shape):
                values = []
                for sign in (1, -1):
                    moved = [V.copy() for V in start]
                    moved[l][index] += sign * 1e-5
                    values.append(loss(moved))
                gradient[index] = (values[0] - values[1]) / 2e-5
            expected = (1 - eta * decay) * W - eta * gamma0**2 * N * gradient
            np.testing.assert_allclose(run.final_weights[l][m], expected, atol=2e-8 * max(1, np.abs(gradient).max()))
        f = output([W[m] for W in run.final_weights], X, gamma0, PHI[activation]) - offset
        np.testing.assert_allclose(run.outputs[m, 1], f, rtol=1e-12)
    if centred:
        assert not run.outputs[:, 0].any()


def test_records():
    X, y = task(1)
    new = np.random.default_rng(2).standard_normal((3, 6))
    settings = {"depth": 2, "width": 30, "gamma0": 1.0, "networks": 3, "rng": 5, "X_test": new}
    steps = np.linspace(0.02, 0.05, 10)
    full = train_networks(X, y, steps=steps, kernels_at=(0, 4, -1), **settings)
    sparse = train_networks(X, y, steps=steps, record_every=4, **settings)
    np.testing.assert_array_equal(sparse.outputs, full.outputs[:, [0, 4, 8, 10]])
    np.testing.assert_array_equal(sparse.times, full.times[[0, 4, 8, 10]])
    np.testing.assert_allclose(full.times, np.concatenate([[0], np.cumsum(steps)]))
    assert full.test_outputs.shape == (3, 11, 3)
    assert full.kernels.shape == (3, 3, 2, 4, 4)
    np.testing.assert_array_equal(full.kernel_times, full.times[[0, 4, 10]])
    np.testing.assert_allclose(full.losses, ((full.outputs - y) ** 2).sum(axis=2) / 2)
    W = [w[1] for w in full.final_weights]
    np.testing.assert_allclose(full.test_outputs[1, -1], output(W, new, 1.0, PHI["linear"]), rtol=1e-11)
    h = W[0] @ X.T / 6**0.5
    np.testing.assert_allclose(full.kernels[1, -1, 0], h.T @ h / 30, rtol=1e-12)
    # The tangent kernel drives the output: df = step K (y - f) to first order.
    tiny = train_networks(X, y, steps=[1e-7], kernels_at=(0,), **settings)
    slope = (tiny.outputs[:, 1] - tiny.outputs[:, 0]) / 1e-7
    expected = np.einsum("mpq,mq->mp", tiny.tangent_kernels[:, 0], y - tiny.outputs[:, 0])
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
    again = train_networks(X, y, steps=steps, kernels_at=(0, 4, -1), **settings)
    np.testing.assert_array_equal(again.outputs, full.outputs)
    single = train_networks(X, y, steps=steps, dtype=np.float32, **settings)
    assert single.final_weights[0].dtype == np.float32


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("depth", [1, 3])
def test_error_of_the_mean_falls_with_width(depth, decay):
    X, y = task(3)
    steps = np.full(40, 0.03)
    exact = march(X, y, depth=depth, gamma0=1.0, steps=steps, weight_decay=decay)
    scatter = []
    for width, count in ((64, 24), (512, 12)):
        run = train_networks(
            X, y, depth=depth, width=width, gamma0=1.0, steps=steps, weight_decay=decay, networks=count, rng=width
        )
        error = run.outputs - exact.outputs
        scatter.append(np.sqrt(np.mean(error**2)))
        mean, sem = error.mean(axis=0), error.std(axis=0, ddof=1) / count**0.5
        assert sem.max() < 0.03 * 8 / np.sqrt(width / 8)
        # A systematic part of order 1/N remains.
        assert np.sqrt(np.mean(mean**2)) < 3 * np.sqrt(np.mean(sem**2)) + 2 / width
        Phi = run.kernels[:, 0].mean(axis=0)
        spread = run.kernels[:, 0].std(axis=0, ddof=1) / count**0.5
        apart = Phi - exact.feature_kernels()[1:]
        assert np.sqrt(np.mean(apart**2)) < 3 * np.sqrt(np.mean(spread**2)) + 4 * np.abs(Phi).max() / width
    # Eight times the width: scatter down by 2.8, give or take what 12 networks can tell.
    assert 2.0 < scatter[0] / scatter[1] < 4.2


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_balance_of_layers(decay):
    """Conserved, or an exact exponential with weight decay, up to the step: halving the step halves the defect."""
    X, y = task(4)
    defects = []
    for count in (200, 400):
        eta = 1.0 / count
        run = train_networks(
            X, y, depth=3, width=6, gamma0=2.0, steps=np.full(count, eta), weight_decay=decay, keep_initial=True, rng=7
        )
        before, after = balance(run.initial_weights), balance(run.final_weights)
        factor = (1 - eta * decay) ** (2 * count)
        defects.append(max(np.abs(b - factor * a).max() for a, b in zip(before, after, strict=True)))
        moved = max(np.abs(a - b).max() for a, b in zip(run.initial_weights, run.final_weights, strict=True))
        assert moved > 0.3
        norms = [np.square(W).sum() for W in run.final_weights]
        start = [np.square(W).sum() for W in run.initial_weights]
        for l in range(1, 4):
            drift = (norms[l] - norms[0]) - factor * (start[l] - start[0])
            assert abs(drift) < 20 * eta
    assert defects[1] == pytest.approx(defects[0] / 2, rel=0.1)
    assert defects[1] < 0.05


def test_small_steps_extrapolate_to_gradient_flow():
    X, y = task(5)
    settings = {"depth": 2, "width": 20, "gamma0": 1.0, "rng": 3}
    ends = [train_networks(X, y, steps=np.full(n, 1.0 / n), record_every=n, **settings).outputs[0, -1] for n in (50, 100, 200)]
    first = [2 * ends[1] - ends[0], 2 * ends[2] - ends[1]]
    truth = (4 * first[1] - first[0]) / 3
    assert np.abs(ends[2] - truth).max() < 0.02
    assert np.abs(first[1] - truth).max() < np.abs(first[0] - truth).max() / 3.5


def test_trained_to_rest_with_weight_decay():
    """A wide linear network ends exactly on the fixed point of the theory, at any width."""
    X, y = task(6)
    run = train_networks(X, y, depth=2, width=40, gamma0=2.0, steps=np.full(1500, 0.02), weight_decay=0.4, rng=0)
    end = solve_fixed_point(X, y, depth=2, gamma0=2.0, weight_decay=0.4)
    np.testing.assert_allclose(run.outputs[0, -1], end.fitted, atol=1e-8)
    np.testing.assert_allclose(run.kernels[0, -1, 1], end.kernels[2].dense(), atol=1e-7)
    assert run.residual < 1e-8


def test_divergence():
    X, y = task()
    with pytest.raises(ConvergenceError, match="steps: the loss grew") as caught:
        train_networks(X, y, depth=2, width=20, gamma0=1.0, steps=np.full(100, 5.0), rng=0)
    assert np.isfinite(caught.value.solution.outputs).all()
    kept = train_networks(X, y, depth=2, width=20, gamma0=1.0, steps=np.full(100, 5.0), rng=0, raise_on_failure=False)
    assert kept.status is Status.NOT_CONVERGED


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"y": np.ones(3)}, "y"), ({"steps": [0.0]}, "steps"), ({"steps": [0.5], "weight_decay": 3.0}, "steps"),
        ({"networks": 0}, "networks"), ({"record_every": 0}, "record_every"), ({"kernels_at": (5,)}, "kernels_at"),
        ({"weight_decay": -1}, "weight_decay"), ({"X_test": np.ones((2, 3))}, "X_test"), ({"depth": 0}, "depth"),
    ],
)  # fmt: skip
def test_bad_input(change, name):
    X, y = task()
    arguments = {"X": X, "y": y, "depth": 1, "width": 4, "gamma0": 1.0, "steps": [0.1]} | change
    with pytest.raises((ValueError, TypeError), match=f"{name}: expected"):
        train_networks(**arguments)
