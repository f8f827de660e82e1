"""Several outputs of the sampled equations: exact for the linear activation, and equal to wide networks typed in again here."""

import numpy as np
import pytest

from linkern.flow import march, march_montecarlo
from linkern.solution import Status


def task(seed=0, points=4, inputs=8, outputs=2):
    r = np.random.default_rng(seed)
    Y = r.standard_normal((points, outputs))
    return r.standard_normal((points, inputs)), Y / np.linalg.norm(Y)


def descend(X, Y, *, depth, gamma0, steps, weight_decay, width, rng):
    """A tanh network with O readouts: f at all times (T, P, O), f(0) subtracted, and Phi^L at the end."""
    P, D = X.shape
    W = [rng.standard_normal((width, D)), *(rng.standard_normal((width, width)) for _ in range(depth - 1))]
    w = rng.standard_normal((Y.shape[1], width))
    scales = [D**-0.5] + [width**-0.5] * (depth - 1)
    outputs = []
    for eta in (*steps, None):
        activity = [X.T]
        for V, scale in zip(W, scales, strict=True):
            activity.append(np.tanh(scale * V @ activity[-1]))
        outputs.append((w @ activity[-1] / (gamma0 * width)).T)
        if eta is None:
            break
        rate, keep = eta * gamma0**2 * width, 1 - eta * weight_decay
        error = (Y - outputs[-1] + outputs[0]).T
        pulled = w.T @ error / (gamma0 * width)
        w = keep * w + rate * error @ activity[-1].T / (gamma0 * width)
        for l in range(depth - 1, -1, -1):
            pulled = pulled * (1 - activity[l + 1] ** 2) * scales[l]
            below = W[l].T @ pulled
            W[l] = keep * W[l] + rate * pulled @ activity[l].T
            pulled = below
    return np.array(outputs) - outputs[0], activity[-1].T @ activity[-1] / width


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_linear_activation_has_no_sampling_error(depth, decay):
    X, Y = task()
    new = np.random.default_rng(9).standard_normal((2, 8))
    steps = np.linspace(0.02, 0.05, 25)
    exact = march(X, Y, depth=depth, gamma0=1.0, steps=steps, weight_decay=decay)
    run = march_montecarlo(
        X, Y, X_test=new, depth=depth, gamma0=1.0, steps=steps, weight_decay=decay, activation="linear",
        samples=400, replicas=2, tol=1e-13, gradient_tol=1e-13, kernels_at=(0, -1), rng=1,
    )  # fmt: skip
    assert run.status is Status.CONVERGED
    np.testing.assert_allclose(run.outputs, exact.outputs, atol=1e-9)
    np.testing.assert_allclose(run.test_outputs, exact.predict(new), atol=1e-9)
    np.testing.assert_allclose(run.losses, exact.losses, atol=1e-9)
    for index, t in enumerate((0, 25)):
        np.testing.assert_allclose(run.feature_kernels[index], exact.feature_kernels(t)[1:], atol=1e-8)
        G = exact.gradient_kernels()[:-1, t, :, t][:, None, :, None, :]
        np.testing.assert_allclose(run.gradient_kernels[index], np.broadcast_to(G, (depth, 4, 2, 4, 2)), atol=1e-8)
        np.testing.assert_allclose(run.tangent_kernels[index, :4], exact.tangent_kernel(t), atol=1e-7)
        np.testing.assert_allclose(run.tangent_kernels[index, 4:], exact.tangent_kernel(t, X_new=new), atol=1e-7)
    assert run.preactivations.shape == (depth, 800, 4)
    assert run.backward_fields.shape == (depth, 800, 4, 2)


@pytest.mark.parametrize("depth", [1, 2])
def test_wide_networks_within_error_bars(depth):
    X, Y = task(1, outputs=3)
    settings = {"depth": depth, "gamma0": 1.5, "steps": np.full(30, 0.05), "weight_decay": 0.1}
    run = march_montecarlo(X, Y, **settings, activation="tanh", samples=1000, replicas=6, rng=2)
    nets = [descend(X, Y, **settings, width=500, rng=child) for child in np.random.default_rng(3).spawn(10)]
    f = np.array([net[0] for net in nets])
    sem = f.std(axis=0, ddof=1) / 10**0.5
    combined = np.sqrt(np.mean(sem**2) + np.mean(run.outputs_error**2))
    assert run.outputs.shape == f.shape[1:]
    assert combined < 0.05 * np.abs(Y).max()
    # Few networks and replicas: compare in the mean square; O(1/N) and O(1/S) remain.
    assert np.sqrt(np.mean((run.outputs - f.mean(axis=0)) ** 2)) < 3 * combined + 2 / 500
    Phi = np.array([net[1] for net in nets])
    error = np.sqrt(np.mean(Phi.var(axis=0, ddof=1) / 10) + np.mean(run.feature_kernels_error[0, -1] ** 2))
    assert error < 0.05 * np.abs(Phi).max()
    assert np.sqrt(np.mean((run.feature_kernels[0, -1] - Phi.mean(axis=0)) ** 2)) < 3 * error + 2 / 500


def test_one_output_with_an_axis_is_one_output():
    X, Y = task(2, outputs=1)
    settings = {"depth": 2, "gamma0": 1.0, "steps": np.full(10, 0.05), "activation": "erf", "samples": 200, "replicas": 2}
    column, flat = march_montecarlo(X, Y, **settings, rng=4), march_montecarlo(X, Y[:, 0], **settings, rng=4)
    np.testing.assert_array_equal(column.outputs[:, :, 0], flat.outputs)
    np.testing.assert_array_equal(column.tangent_kernels[:, :, 0, :, 0], flat.tangent_kernels)


def test_outputs_without_labels_stay_silent():
    """An output with labels zero is not excited at infinite width, and does not disturb the other one."""
    X, Y = task(3)
    Y[:, 1] = 0
    settings = {"depth": 2, "gamma0": 1.5, "steps": np.full(20, 0.05), "activation": "tanh", "samples": 1500, "replicas": 6}
    both, alone = march_montecarlo(X, Y, **settings, rng=5), march_montecarlo(X, Y[:, 0], **settings, rng=6)
    noise = np.sqrt(np.mean(both.outputs_error[:, :, 0] ** 2) + np.mean(alone.outputs_error**2))
    assert noise < 0.02 * np.abs(Y).max()
    assert np.sqrt(np.mean((both.outputs[:, :, 0] - alone.outputs) ** 2)) < 3 * noise
    assert np.abs(both.outputs[:, :, 1]).max() < 0.05 * np.abs(both.outputs[:, :, 0]).max()


def test_final_kernel_predicts_all_outputs():
    """ReLU of depth 1 at rest: K (K + 2 weight_decay)^{-1} Y couples points and outputs."""
    X, Y = task(4, points=6, inputs=12)
    Y = 2 * Y / np.abs(Y).max()
    new = np.random.default_rng(8).standard_normal((3, 12))
    run = march_montecarlo(
        X, Y, X_test=new, depth=1, gamma0=1.5, steps=np.full(900, 0.02), weight_decay=0.4, activation="relu", samples=500,
        replicas=2, settle=300, rng=0,
    )  # fmt: skip
    assert np.linalg.norm(run.outputs[-1]) > 0.3 * np.linalg.norm(Y)
    everything = np.concatenate([run.outputs[-1], run.test_outputs[-1]])
    assert np.abs(run.kernel_outputs - everything).max() < 1e-2 * np.abs(everything).max()


@pytest.mark.parametrize(("change", "name"), [({"y": np.ones((3, 2))}, "y"), ({"samples": 20}, "samples")])
def test_bad_input(change, name):
    X, Y = task()
    arguments = {"X": X, "y": Y, "depth": 1, "gamma0": 1.0, "steps": [0.1], "activation": "relu", "samples": 100} | change
    with pytest.raises(ValueError, match=f"{name}: expected"):
        march_montecarlo(**arguments)
