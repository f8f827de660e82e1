"""The sampled equations: exact for the linear activation, and equal to wide networks within error bars for others."""

import numpy as np
import pytest

from linkern.activations import Activation
from linkern.flow import march, march_montecarlo
from linkern.networks.gradient_flow import train_networks
from linkern.solution import ConvergenceError, Status


def task(seed=0, points=4, inputs=8):
    r = np.random.default_rng(seed)
    y = r.standard_normal(points)
    return r.standard_normal((points, inputs)), y / np.linalg.norm(y)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_linear_activation_has_no_sampling_error(depth, decay):
    X, y = task()
    new = np.random.default_rng(9).standard_normal((2, 8))
    steps = np.linspace(0.02, 0.05, 25)
    exact = march(X, y, depth=depth, gamma0=1.0, steps=steps, weight_decay=decay)
    run = march_montecarlo(
        X, y, X_test=new, depth=depth, gamma0=1.0, steps=steps, weight_decay=decay, activation="linear",
        samples=400, replicas=2, tol=1e-13, gradient_tol=1e-13, kernels_at=(0, 10, -1), rng=1,
    )  # fmt: skip
    np.testing.assert_allclose(run.outputs, exact.outputs, atol=1e-9)
    np.testing.assert_allclose(run.test_outputs, exact.predict(new), atol=1e-9)
    np.testing.assert_allclose(run.losses, exact.losses, atol=1e-9)
    for index, t in enumerate((0, 10, 25)):
        np.testing.assert_allclose(run.feature_kernels[index], exact.feature_kernels(t)[1:], atol=1e-8)
        G = exact.gradient_kernels()[:-1, t, t][:, None, None]
        np.testing.assert_allclose(run.gradient_kernels[index], np.broadcast_to(G, (depth, 4, 4)), atol=1e-8)
        np.testing.assert_allclose(run.tangent_kernels[index, :4], exact.tangent_kernel(t), atol=1e-7)
        np.testing.assert_allclose(run.tangent_kernels[index, 4:], exact.tangent_kernel(t, X_new=new), atol=1e-7)
    assert run.residual < 1e-9
    assert run.status is Status.CONVERGED


@pytest.mark.parametrize(("activation", "depth"), [("erf", 2), ("relu", 1), ("tanh", 3)])
def test_wide_networks_within_error_bars(activation, depth):
    X, y = task(1)
    steps = np.full(30, 0.05)
    settings = {"depth": depth, "gamma0": 1.0, "steps": steps, "weight_decay": 0.1, "activation": activation}
    run = march_montecarlo(X, y, **settings, samples=1200, replicas=6, rng=2)
    nets = train_networks(X, y, **settings, width=600, networks=8, centred=True, rng=3)
    mean, sem = nets.outputs.mean(axis=0), nets.outputs.std(axis=0, ddof=1) / 8**0.5
    combined = np.sqrt(np.mean(sem**2) + np.mean(run.outputs_error**2))
    assert combined < 0.05 * np.abs(y).max()
    # Few replicas: compare in the mean square; O(1/N) and O(1/S) remain.
    assert np.sqrt(np.mean((run.outputs - mean) ** 2)) < 3 * combined + 2 / 600
    Phi = nets.kernels[:, 0]
    apart = run.feature_kernels[0] - Phi.mean(axis=0)
    error = np.sqrt(np.mean(Phi.var(axis=0, ddof=1) / 8) + np.mean(run.feature_kernels_error[0] ** 2))
    assert error < 0.1 * np.abs(Phi).max()
    assert np.sqrt(np.mean(apart**2)) < 3 * error + 4 * np.abs(Phi).max() / 600
    assert run.preactivations.shape == (depth, 7200, 4)


def test_tangent_kernel_drives_the_output():
    """df/dt = K (y - f) - 3 decay f for ReLU of depth 2, kappa = 3, replica by replica up to the step and the sampling noise."""
    X, y = task(5)
    new = np.random.default_rng(8).standard_normal((2, 8))
    run = march_montecarlo(
        X, y, X_test=new, depth=2, gamma0=1.0, steps=np.full(41, 0.01), weight_decay=0.5, activation="relu", samples=2000,
        kernels_at=(40,), rng=6,
    )  # fmt: skip
    everything = np.concatenate([run.outputs, run.test_outputs], axis=1)
    slope = (everything[41] - everything[39]) / 0.02
    expected = run.tangent_kernels[0] @ (y - run.outputs[40]) - 3 * 0.5 * everything[40]
    assert np.abs(slope - expected).max() < 0.06 * np.abs(run.tangent_kernels[0] @ (y - run.outputs[40])).max()


def test_final_kernel_predicts_the_trained_network():
    """Two-layer ReLU at rest: neurons sit on kinks, and only slopes averaged per neuron make the kernel predictor right."""
    X, y = task(6, points=8, inputs=12)
    y = np.sign(y)
    new = np.random.default_rng(8).standard_normal((4, 12))
    settings = {"depth": 1, "gamma0": 1.5, "activation": "relu", "samples": 800, "replicas": 2, "rng": 0, "X_test": new}
    run = march_montecarlo(X, y, **settings, steps=np.full(1200, 0.02), weight_decay=0.4, settle=400)
    apart = np.abs(run.kernel_outputs[:8] - run.outputs[-1]).max()
    K = run.tangent_kernels[0]
    naive = K @ np.linalg.solve(K[:8] + 2 * 0.4 * np.eye(8), y)
    assert apart < 2e-3
    assert np.abs(run.kernel_outputs[8:] - run.test_outputs[-1]).max() < 5e-3
    assert np.abs(naive[:8] - run.outputs[-1]).max() > 5 * apart
    # Without weight decay the network interpolates, and the final kernel predicts something else at test inputs.
    free = march_montecarlo(X, y, **settings, steps=np.full(600, 0.02))
    K = free.tangent_kernels[0]
    assert np.abs(free.outputs[-1] - y).max() < 1e-3
    gap = np.abs(K[8:] @ np.linalg.solve(K[:8], y) - free.test_outputs[-1]).max()
    assert gap > 0.05  # the same samples on both sides: no sampling error to speak of
    assert free.kernel_outputs is None


def test_final_kernel_predicts_a_deep_network():
    """Three-layer ReLU at rest: kinks above make z chatter too, and only averages of g = phi'(h) z make the predictor right."""
    r = np.random.default_rng(6)
    X, y, new = r.standard_normal((5, 10)), np.sign(r.standard_normal(5)), r.standard_normal((3, 10))
    run = march_montecarlo(
        X, y, X_test=new, depth=2, gamma0=2.0, steps=np.full(600, 0.03), weight_decay=0.4, activation="relu", samples=400,
        replicas=2, tol=1e-2, gradient_tol=3e-2, settle=200, rng=0,
    )  # fmt: skip
    f = np.concatenate([run.outputs[-1], run.test_outputs[-1]])
    apart = np.abs(run.kernel_outputs - f).max()
    K = run.tangent_kernels[0]
    naive = K @ np.linalg.solve(K[:5] + 3 * 0.4 * np.eye(5), y)
    assert np.abs(f[:5]).min() > 0.5
    assert apart < 4e-3
    assert np.abs(naive - f).max() > 4 * apart


def test_error_falls_with_samples_and_seeds_repeat():
    X, y = task(2)
    settings = {"depth": 2, "gamma0": 1.0, "steps": np.full(20, 0.05), "activation": "erf", "replicas": 8}
    errors = [march_montecarlo(X, y, **settings, samples=n, rng=4).outputs_error for n in (200, 1800)]
    ratio = np.sqrt(np.mean(errors[0] ** 2) / np.mean(errors[1] ** 2))
    assert 2.0 < ratio < 5.0  # 3, within what 8 replicas can tell
    one, two, other = (march_montecarlo(X, y, **settings, samples=200, rng=seed).outputs for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_users_activation_and_test_points_do_not_disturb_training():
    X, y = task(3)
    shifted = Activation("shifted", lambda h: np.sin(h) + 0.5, np.cos)
    settings = {"depth": 1, "gamma0": 1.0, "steps": np.full(20, 0.05), "activation": shifted, "samples": 800, "replicas": 6}
    plain = march_montecarlo(X, y, **settings, rng=1)
    padded = march_montecarlo(X, y, X_test=X[:2], **settings, rng=2)
    np.testing.assert_allclose(padded.test_outputs, padded.outputs[:, :2], atol=1e-12)
    error = np.sqrt(np.mean(plain.outputs_error**2) + np.mean(padded.outputs_error**2))
    assert np.sqrt(np.mean((plain.outputs - padded.outputs) ** 2)) < 3 * error
    C = np.vstack([X, X[:2]]) @ np.vstack([X, X[:2]]).T / 8
    same = march_montecarlo(kernel=C, y=y, **settings, rng=2)
    np.testing.assert_allclose(same.outputs, padded.outputs, atol=1e-10)


def test_too_few_samples_and_divergence_are_reported():
    X, y = task(4)
    few = march_montecarlo(
        X, y, depth=2, gamma0=1.0, steps=np.full(30, 0.1), activation="relu", samples=24, replicas=2, tol=1e-6,
        gradient_tol=1e-6, rng=0,
    )  # fmt: skip
    assert few.status is Status.UNRELIABLE
    assert few.samples_needed >= 48
    with pytest.raises(ConvergenceError, match="steps: the loss grew"):
        march_montecarlo(X, y, depth=2, gamma0=1.0, steps=np.full(60, 9.0), activation="linear", samples=200, rng=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"samples": 10}, "samples"), ({"replicas": 1}, "replicas"), ({"steps": [0.0]}, "steps"), ({"y": None}, "y"),
        ({"y": np.ones(3)}, "y"), ({"kernel": np.eye(4)}, "X, kernel"), ({"kernels_at": (7,)}, "kernels_at"),
        ({"activation": "nothing"}, "activation"), ({"X_test": np.ones((2, 3))}, "X_test"), ({"tol": 0.0}, "tol"),
        ({"settle": 1}, "settle"),
    ],
)  # fmt: skip
def test_bad_input(change, name):
    X, y = task()
    arguments = {"X": X, "y": y, "depth": 1, "gamma0": 1.0, "steps": [0.1], "activation": "relu", "samples": 100} | change
    with pytest.raises((ValueError, TypeError), match=f"{name}: expected"):
        march_montecarlo(**arguments)
