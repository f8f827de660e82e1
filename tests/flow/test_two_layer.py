"""Two-layer networks on whitened data: the closed form against networks and particles, transitions, and inherited densities."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from linkern.flow import gradient_flow, march_montecarlo, solve_fixed_point, solve_two_layer_whitened
from linkern.networks.gradient_flow import train_networks


def whitened(points, inputs):
    """Orthogonal inputs along axes: rounding of other ones would push neurons back over kinks that they never cross twice."""
    return np.sqrt(inputs) * np.eye(points, inputs)


def soft_threshold(y, gamma0, decay):
    """Labels of one sign shrink as a block."""
    f = np.zeros_like(y)
    for part in (y > 0, y < 0):
        size = np.linalg.norm(y[part])
        if gamma0 * size > decay:
            f[part] = y[part] * (1 - decay / (gamma0 * size))
    return f


def descend(h, z, y, gamma0, decay, step, count, *, relu):
    """Gradient descent of neurons (h, z) as particles on whitened points."""
    for _ in range(count):
        phi, slope = (np.maximum(h, 0), h > 0) if relu else (h, 1.0)
        error = y - z @ phi / (z.size * gamma0)
        h, z = (
            (1 - step * decay) * h + step * gamma0 * slope * error * z[:, None],
            (1 - step * decay) * z + step * gamma0 * phi @ error,
        )
    return h, z


@pytest.mark.parametrize(
    ("y", "gamma0", "decay"),
    [
        ([1.0, 0.7, -0.6], 2.0, 0.5),  # both signs are learned
        ([1.0, 0.7, -0.3], 1.0, 0.5),  # only the positive labels
        ([0.9], 1.5, 0.5),
    ],
)
def test_relu_networks_end_on_the_closed_form_at_any_width(y, gamma0, decay):
    y = np.array(y)
    point = solve_two_layer_whitened(y, gamma0=gamma0, weight_decay=decay)
    nets = train_networks(
        whitened(y.size, y.size + 2), y, depth=1, width=400, gamma0=gamma0, activation="relu", weight_decay=decay,
        steps=np.full(2500, 0.05), networks=2, record_every=2500, rng=1,
    )  # fmt: skip
    expected = np.broadcast_to(soft_threshold(y, gamma0, decay), (2, y.size))
    np.testing.assert_allclose(nets.outputs[:, -1], expected, atol=1e-9)
    np.testing.assert_allclose(point.fitted, expected[0], atol=1e-14)
    np.testing.assert_allclose(nets.kernels[:, 0, 0], np.stack([point.feature_kernel] * 2), atol=1e-9)
    np.testing.assert_allclose((nets.final_weights[1] ** 2).mean(axis=(1, 2)), point.moments.sum(), atol=1e-9)
    np.testing.assert_allclose(nets.tangent_kernels[:, 0] @ point.error, 2 * decay * expected, atol=1e-9)
    new = np.random.default_rng(3).standard_normal((5, y.size + 2))
    V, w = (weights[0].astype(float) for weights in nets.final_weights)
    output = np.maximum(V @ new.T / np.sqrt(new.shape[1]), 0).T @ w[0] / (gamma0 * 400)
    rows = new @ whitened(y.size, y.size + 2).T / new.shape[1]
    np.testing.assert_allclose(point.predict(rows), output, atol=1e-8)
    assert point.residual < 1e-13


def test_sampled_dynamics_reach_it_and_kernel_predictor_agrees():
    y = np.array([0.8, -0.6, 0.5])
    point = solve_two_layer_whitened(y, gamma0=2.0, weight_decay=0.6)
    run = march_montecarlo(
        kernel=np.eye(3), y=y, depth=1, gamma0=2.0, weight_decay=0.6, activation="relu", steps=np.full(2500, 0.05),
        samples=400, replicas=2, settle=10, rng=4,
    )  # fmt: skip
    np.testing.assert_allclose(run.outputs[-1], point.fitted, atol=1e-9)
    np.testing.assert_allclose(run.feature_kernels[0, 0], point.feature_kernel, atol=1e-9)
    np.testing.assert_allclose(run.kernel_outputs, point.fitted, atol=1e-9)
    alive = np.abs(run.backward_fields[0, :, 0]) > 1e-3
    ratio = run.preactivations[0, alive] / run.backward_fields[0, alive, 0][:, None]
    for own in ratio:
        assert np.abs(np.abs(own) - np.abs(point.directions)).sum(axis=1).min() < 1e-6


def test_linear_activation_is_the_deep_linear_fixed_point():
    y = np.array([0.9, -0.4, 0.3])
    point = solve_two_layer_whitened(y, gamma0=1.4, weight_decay=0.5, activation="linear")
    closed = solve_fixed_point(kernel=np.eye(3), y=y, depth=1, gamma0=1.4, weight_decay=0.5)
    np.testing.assert_allclose(point.fitted, closed.fitted, rtol=1e-12)
    np.testing.assert_allclose(point.moments[0], closed.branch.amplitude, rtol=1e-12)
    np.testing.assert_allclose(point.tangent_kernel @ y, closed.tangent_kernel.dense() @ y, rtol=1e-12)
    assert point.energy == pytest.approx(closed.energy, rel=1e-12)
    assert point.alignment() == pytest.approx(1.0)
    np.testing.assert_allclose(point.predict([[0.2, 0.1, -0.3]]), closed.predict(kernel_new=[[0.2, 0.1, -0.3]]), rtol=1e-12)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_transition(activation):
    y = np.array([0.6, 0.8, -0.5])
    sizes = [np.linalg.norm(y)] if activation == "linear" else [1.0, 0.5]
    above = solve_two_layer_whitened(y, gamma0=2.0, weight_decay=2.0 * max(sizes) * (1 - 1e-9), activation=activation)
    below = solve_two_layer_whitened(y, gamma0=2.0, weight_decay=2.0 * max(sizes), activation=activation)
    np.testing.assert_allclose(above.critical_weight_decay, 2.0 * np.array(sizes), rtol=1e-15)
    assert not above.collapsed
    assert 0 < above.moments[0] < 1e-8
    assert below.collapsed
    assert below.alignment() == 0
    np.testing.assert_array_equal(below.fitted, 0)
    np.testing.assert_allclose(below.error, y, rtol=1e-15)
    # The lazy limit after training, and the end of training without ridge.
    assert solve_two_layer_whitened(y, gamma0=1e-3, weight_decay=0.1, activation=activation).collapsed
    ridgeless = solve_two_layer_whitened(y, gamma0=1e-3, weight_decay=1e-12, activation=activation)
    np.testing.assert_allclose(ridgeless.fitted, y, rtol=1e-8)
    assert np.trace(ridgeless.feature_kernel) == pytest.approx(1e-3 * sum(sizes), rel=1e-8)


def test_no_network_has_less_regularised_loss():
    y = np.array([0.6, 0.8, -0.5])
    point = solve_two_layer_whitened(y, gamma0=2.0, weight_decay=0.4)
    best = np.sum((y - point.fitted) ** 2) / 2 + 0.4 / 8 * 2 * point.moments.sum()
    assert point.energy == pytest.approx(best, rel=1e-14)
    r = np.random.default_rng(0)
    for _ in range(300):
        # Random networks, and small changes of the best one.
        h, z = r.standard_normal((6, 3)), r.standard_normal(6)
        if r.random() < 0.5:
            scale = np.sqrt(3 * point.moments / 3)[[0, 0, 0, 1, 1, 1]] * np.sqrt(2)
            sign = np.array([1, 1, 1, -1, -1, -1])
            h = scale[:, None] * np.abs(point.directions[[0, 0, 0, 1, 1, 1]]) + 0.02 * h
            z = scale * sign + 0.02 * z
        f = z @ np.maximum(h, 0) / (6 * 2.0)
        energy = np.sum((y - f) ** 2) / 2 + 0.4 / 8 * np.mean((h**2).sum(axis=1) + z**2)
        assert energy >= point.energy - 1e-14


def test_neurons_that_never_fire_together_end_elsewhere():
    """History decides f itself where the initial weights lack the pattern of the labels."""
    y, r = np.array([1.0, 0.7]), np.random.default_rng(0)
    h = np.abs(r.standard_normal((200, 2))) * np.where(r.random((200, 1)) < 0.5, [1, -1], [-1, 1])
    h, z = descend(h, r.standard_normal(200), y, 1.0, 0.4, 0.05, 4000, relu=True)
    np.testing.assert_allclose(z @ np.maximum(h, 0) / 200, y - 0.4, atol=1e-9)
    together = solve_two_layer_whitened(y, gamma0=1.0, weight_decay=0.4).fitted
    assert np.abs(together - (y - 0.4)).min() > 0.05


def test_history_of_linear_networks_in_bessel_functions():
    """theta(t) by modified Bessel functions, and outputs by the gradient-flow limit of the exact march."""
    y, gamma0, decay, S = np.array([0.9, -0.5]), 1.3, 0.35, 1.0
    point = solve_two_layer_whitened(y, gamma0=gamma0, weight_decay=decay, activation="linear")
    r = np.random.default_rng(2)
    h, z = r.standard_normal((500, 2)), r.standard_normal(500)
    # Second moments as those of infinitely many neurons.
    fields = np.linalg.qr(np.column_stack([h, z]))[0] * np.sqrt(500)
    h, z = fields[:, :2], fields[:, 2]
    pull = gamma0 * np.linalg.norm(y) - decay
    nu, x0 = pull / (2 * decay), S / (2 * decay)

    def pairs(x):
        I, K = special.iv(nu, x), special.kv(nu, x)
        return I, nu * I + x * special.iv(nu + 1, x), K, nu * K - x * special.kv(nu + 1, x)

    I, dI, K, dK = pairs(x0)
    ratio = (pull - S) / (2 * decay)
    weight = -(dI - ratio * I) / (dK - ratio * K)
    for t in (0.5, 2.0, 6.0):
        I, dI, K, dK = pairs(x0 * np.exp(-2 * decay * t))
        u = (pull - 2 * decay * (dI + weight * dK) / (I + weight * K)) / S
        moved, readout = point.push_forward(h, z, time=t)
        p0, p = (field @ (y / np.linalg.norm(y)) for field in (h, moved))
        np.testing.assert_allclose(p + readout, np.sqrt(u) * (p0 + z), rtol=1e-7)
        np.testing.assert_allclose(np.mean((moved**2).sum(axis=1) - readout**2), np.exp(-2 * decay * t), rtol=1e-7)
        exact = gradient_flow(kernel=np.eye(2), y=y, depth=1, gamma0=gamma0, times=np.linspace(0, t, 60), weight_decay=decay)
        np.testing.assert_allclose(readout @ moved / (500 * gamma0), exact.outputs[-1], rtol=1e-4)


@pytest.mark.parametrize(("label", "decay"), [(1.2, 0.4), (-1.2, 0.4), (0.5, 1.0)])
def test_push_forward_of_relu_neurons(label, decay):
    r = np.random.default_rng(5)
    h, z = r.laplace(size=(1000, 1)), r.standard_normal(1000)
    point = solve_two_layer_whitened([label], gamma0=1.1, weight_decay=decay)
    coarse, fine = (descend(h, z, np.array([label]), 1.1, decay, 2.0 / n, n, relu=True) for n in (1000, 2000))
    for moved, rough, better in zip(point.push_forward(h, z, time=2.0), coarse, fine, strict=True):
        error = np.abs(moved - (2 * better - rough))
        assert np.quantile(error, 0.8) < 1e-6  # extrapolated to second order, but for neurons that meet their kink
        assert error.max() < 5e-3
    end, readout = point.push_forward(h, z)
    assert np.mean(end**2) == pytest.approx(point.moments.sum(), abs=1e-14)
    trained, _ = descend(h, z, np.array([label]), 1.1, decay, 0.01, 6000, relu=True)
    np.testing.assert_allclose(end, trained, atol=0.02)
    np.testing.assert_allclose(readout @ end[:, 0] / 1100, point.fitted[0], atol=1e-13)


def test_density_of_a_relu_network_on_one_point():
    """Above the transition 5/8 of the neurons are dead, the others follow a density that is not half a Gaussian."""
    point = solve_two_layer_whitened([1.0], gamma0=1.5, weight_decay=0.5)
    mass, first, second = (integrate.quad(lambda s, k=k: s**k * float(point.density(s)), 0, 20)[0] for k in (0, 1, 2))
    assert mass == pytest.approx(3 / 8, rel=1e-9)
    assert second == pytest.approx(1.0, rel=1e-9)
    nets = train_networks(
        [[1.0]], [1.0], depth=1, width=4000, gamma0=1.5, activation="relu", weight_decay=0.5, steps=np.full(2000, 0.02),
        networks=2, record_every=2000, rng=6,
    )  # fmt: skip
    h = nets.final_weights[0].ravel()
    alive = h[h > 1e-6]
    assert abs(alive.size / h.size - 3 / 8) < 4 * np.sqrt(15 / 64 / h.size)
    grid = np.linspace(0, 12, 4001)
    cumulative = integrate.cumulative_simpson(point.density(grid), x=grid, initial=0) * 8 / 3
    assert stats.kstest(alive, lambda s: np.interp(s, grid, cumulative)).pvalue > 1e-3
    half_gaussian = stats.kstest(alive, stats.halfnorm(scale=np.sqrt(8 / 3)).cdf)
    assert half_gaussian.pvalue < 1e-6
    assert abs(h.mean() - first) < 4 * h.std() / np.sqrt(h.size) + 0.01
    assert stats.norm.pdf(0) > 10 * point.density(-0.1)


def test_laplace_weights_leave_a_density_that_is_not_gaussian():
    """Second moments of theory, fourth cumulants of the start; networks trained here with their own weights."""
    y, gamma0, decay, width, inputs = np.array([0.8, -0.6]), 1.5, 0.5, 4000, 3
    X, r = whitened(2, inputs), np.random.default_rng(8)
    point = solve_two_layer_whitened(y, gamma0=gamma0, weight_decay=decay, activation="linear")
    v = X.T @ y / np.sqrt(inputs)  # a unit vector: |y| = 1
    fields = []
    for _ in range(10):
        W, w = r.laplace(scale=np.sqrt(0.5), size=(width, inputs)), r.laplace(scale=np.sqrt(0.5), size=width)
        h, z = descend(W @ X.T / np.sqrt(inputs), w, y, gamma0, decay, 0.05, 900, relu=False)
        assert np.mean(z**2) == pytest.approx(gamma0 - decay, rel=1e-9)
        np.testing.assert_allclose(h.T @ h / width, (gamma0 - decay) * np.outer(y, y), atol=1e-9)
        moved, readout = point.push_forward(W @ X.T / np.sqrt(inputs), w)
        # The sample correlates z with h across the labels at order 1/sqrt(width), which the map neglects.
        assert np.sqrt(np.mean((moved - h) ** 2)) < 4 / np.sqrt(width)
        fields.append(z)
    excess = np.array([np.mean(z**4) / np.mean(z**2) ** 2 - 3 for z in fields])
    error = excess.std(ddof=1) / np.sqrt(10)
    assert error < 0.1
    assert abs(excess.mean() - 3 / 4 * (1 + np.sum(v**4))) < 4 * error
    assert excess.mean() > 8 * error


def test_closed_densities_and_refusals():
    linear = solve_two_layer_whitened([0.8, -0.6], gamma0=1.5, weight_decay=0.5, activation="linear")
    np.testing.assert_allclose(linear.density([0.1, 0.7], point=1), stats.norm.pdf([0.1, 0.7], scale=0.6), rtol=1e-12)
    relu = solve_two_layer_whitened([0.8, -0.6], gamma0=1.5, weight_decay=0.5)
    with pytest.raises(ValueError, match=r"density: .* 2 labels"):
        relu.density(0.1)
    with pytest.raises(ValueError, match="push_forward"):
        relu.push_forward(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ValueError, match="survives"):
        solve_two_layer_whitened([1.0], gamma0=2.0, weight_decay=0.5).push_forward(-np.ones((3, 1)), np.ones(3))
    with pytest.raises(ValueError, match="h, z: expected shapes"):
        linear.push_forward(np.ones((3, 3)), np.ones(3))
    with pytest.raises(ValueError, match="point"):
        linear.density(0.0, point=2)
    with pytest.raises(ValueError, match="kernel_new"):
        linear.predict(np.ones((2, 3)))
    with pytest.raises(ValueError, match="nonzero labels"):
        solve_two_layer_whitened([1.0, 0.0], gamma0=1.0, weight_decay=0.1)
    with pytest.raises(ValueError, match="activation"):
        solve_two_layer_whitened([1.0], gamma0=1.0, weight_decay=0.1, activation="tanh")
    with pytest.raises(ValueError, match="weight_decay"):
        solve_two_layer_whitened([1.0], gamma0=1.0, weight_decay=0.0)
