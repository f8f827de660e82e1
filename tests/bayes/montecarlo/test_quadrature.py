"""The quadrature solution against exact linear networks, adaptive integrals, first order in gamma0^2, and its own laws."""

import math

import mpmath
import numpy as np
import pytest
from scipy import integrate, special

from linkern.activations import Activation, from_function, get, leaky_relu
from linkern.bayes import solve_linear, solve_perturbation
from linkern.bayes.montecarlo.quadrature.solve import solve_quadrature
from linkern.bayes.montecarlo.tilt import require_finite_tilt
from linkern.solution import ConvergenceError, Status


def data(P, D=4, seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((P, D)), rng.standard_normal(P)


def relu(h):
    return np.maximum(h, 0)


def relu_plane(K, H):
    """Z and <phi phi^T> for ReLU on two points, by adaptive quadrature over the angle: density 1/Q, <t^2> = 2/Q."""
    A = np.linalg.cholesky(K)
    kinks = sorted(np.arctan2(s * -row[0], s * row[1]) % (2 * np.pi) for row in A for s in (1, -1))

    def at(theta):
        phi = relu(A @ [np.cos(theta), np.sin(theta)])
        return phi, 1 + phi @ H @ phi

    def mean(f):
        edges = [0.0, *kinks, 2 * np.pi]
        pairs = zip(edges, edges[1:], strict=False)
        return sum(integrate.quad(f, a, b, epsabs=1e-13, epsrel=1e-13)[0] for a, b in pairs) / (2 * np.pi)

    Z = mean(lambda t: 1 / at(t)[1])
    Phi = np.empty((2, 2))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        Phi[i, j] = Phi[j, i] = mean(lambda t, i=i, j=j: 2 * at(t)[0][i] * at(t)[0][j] / at(t)[1] ** 2) / Z
    return Z, Phi


@pytest.mark.parametrize(
    ("P", "D", "depth"),
    [(1, 3, 1), (1, 3, 2), (2, 4, 1), (2, 4, 2), (3, 2, 2), (3, 4, 1), pytest.param(3, 4, 2, marks=pytest.mark.slow)],
)
def test_linear_networks_are_reproduced_with_duals_and_action(P, D, depth):
    X, y = data(P, D)
    setting = {"depth": depth, "gamma0": 1.3, "beta": 7.0, "prior_variances": [1.4, 0.6, 1.2][: depth + 1]}
    found, exact = solve_quadrature(X, y, activation="linear", **setting), solve_linear(X, y, **setting)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.kernels, [k.dense() for k in exact.kernels], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.dual_kernels, [k.dense() for k in exact.dual_kernels], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.dual_coefficients, exact.dual_coefficients, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.fitted, exact.fitted, rtol=0, atol=1e-10)
    assert found.action == pytest.approx(exact.action, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_three_points_and_two_layers_with_an_independent_residual(activation):
    X, y = data(3)
    found = solve_quadrature(X, y, depth=2, gamma0=1.0, beta=10.0, activation=activation)
    assert found.status is Status.CONVERGED
    assert max(found.error, found.residual) < 1e-10


def test_three_linear_layers():
    X, y = data(2)
    setting = {"depth": 3, "gamma0": 1.0, "beta": 5.0}
    found, exact = solve_quadrature(X, y, activation="linear", **setting), solve_linear(X, y, **setting)
    np.testing.assert_allclose(found.kernels, [k.dense() for k in exact.kernels], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.dual_kernels, [k.dense() for k in exact.dual_kernels], rtol=0, atol=1e-10)


def test_relu_on_one_point_solves_a_scalar_equation():
    gamma, beta, y, K = 1.5, 20.0, 1.3, 0.7

    # Z = 1/2 + 1/2 (1 - a)^(-1/2), a = gamma^2 v^2 K.
    def equation(v):
        a = gamma**2 * v**2 * K
        Z = (1 + (1 - a) ** mpmath.mpf(-0.5)) / 2
        return K / 2 * (1 - a) ** mpmath.mpf(-1.5) / Z * v + v / beta - y

    v = float(mpmath.findroot(equation, (0.3, 0.7), solver="anderson"))
    found = solve_quadrature(kernel=[[K]], y=[y], depth=1, gamma0=gamma, beta=beta, activation="relu")
    assert found.dual_coefficients[0] == pytest.approx(v, rel=1e-11)
    assert found.kernels[1, 0, 0] == pytest.approx((y / v) - 1 / beta, rel=1e-11)
    site = found.sample.sites[0]
    # An average of odd degree needs the radii: <phi> = sqrt(K / 2 pi) / (1 - a) / Z.
    a = gamma**2 * v**2 * K
    exact = math.sqrt(K / (2 * math.pi)) / (1 - a) / ((1 + (1 - a) ** -0.5) / 2)
    assert site.weights @ site.features[:, 0] == pytest.approx(exact, rel=1e-10)


def test_relu_on_two_points_against_adaptive_quadrature():
    X, y = data(2)
    found = solve_quadrature(X, y, depth=1, gamma0=1.2, beta=10.0, activation="relu")
    v = found.dual_coefficients
    Z, Phi = relu_plane(X @ X.T / 4, -(1.2**2) * np.outer(v, v))
    np.testing.assert_allclose(found.kernels[1], Phi, rtol=1e-10)
    np.testing.assert_allclose(Phi @ v + v / 10, y, atol=1e-10)
    action = 1.2**2 * (v @ y - v @ v / 20) - math.log(Z)
    assert found.action == pytest.approx(action, abs=1e-11)


def test_dual_kernel_below_a_relu_layer_is_a_derivative_kinks_included():
    X, y = data(2)
    found = solve_quadrature(X, y, depth=2, gamma0=1.0, beta=10.0, activation="relu", prior_variances=[1.0, 1.7, 0.8])
    Phi1, H2 = found.kernels[1], found.dual_kernels[1]
    _, Phi2 = relu_plane(1.7 * Phi1, H2)
    np.testing.assert_allclose(found.kernels[2], Phi2, rtol=1e-10)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        direction = np.zeros((2, 2))
        direction[i, j] = direction[j, i] = 1e-4
        up, down = (math.log(relu_plane(1.7 * (Phi1 + s * direction), H2)[0]) for s in (1, -1))
        # An off-diagonal step moves two entries.
        assert found.dual_kernels[0, i, j] * (1 + (i != j)) == pytest.approx(-(up - down) / 1e-4, abs=1e-6)


def test_tanh_on_one_point_against_mpmath():
    gamma, beta, y, K = 2.0, 10.0, 0.9, 1.5
    found = solve_quadrature(kernel=[[K]], y=[y], depth=1, gamma0=gamma, beta=beta, activation="tanh")
    v = found.dual_coefficients[0]

    def moment(k):
        def integrand(z):
            phi = mpmath.tanh(math.sqrt(K) * z)
            return phi**k * mpmath.exp(gamma**2 * v**2 * phi**2 / 2 - z**2 / 2)

        return float(mpmath.quad(integrand, np.arange(-10, 11, 2).tolist()))

    Phi = moment(2) / moment(0)
    assert found.kernels[1, 0, 0] == pytest.approx(Phi, rel=1e-11)
    assert Phi * v + v / beta == pytest.approx(y, rel=1e-11)


def test_tanh_on_two_points_against_adaptive_quadrature():
    X, y = data(2)
    found = solve_quadrature(X, y, depth=1, gamma0=1.0, beta=10.0, activation="tanh")
    v, A = found.dual_coefficients, np.linalg.cholesky(X @ X.T / 4)

    def integral(f):
        def integrand(b, a):
            phi = np.tanh(A @ [a, b])
            return f(phi) * math.exp((phi @ v) ** 2 / 2 - (a * a + b * b) / 2)

        return integrate.dblquad(integrand, -8.0, 8.0, -8.0, 8.0, epsabs=1e-8, epsrel=1e-8)[0]

    off_diagonal = integral(lambda phi: phi[0] * phi[1]) / integral(lambda phi: 1.0)
    assert found.kernels[1, 0, 1] == pytest.approx(off_diagonal, abs=1e-8)
    np.testing.assert_allclose(found.kernels[1] @ v + v / 10, y, atol=1e-11)


@pytest.mark.parametrize(
    ("activation", "step", "reach"), [("softplus", 0.4, 16.0), pytest.param("gelu", 0.3, 22.2, marks=pytest.mark.slow)]
)
def test_long_lobes_of_three_points_against_a_full_grid(activation, step, reach):
    X, y = np.random.default_rng(2).standard_normal((4, 3))[:3], np.array([1.0, -1.0, 0.5])
    found = solve_quadrature(X, y, depth=1, gamma0=1.0, beta=10.0, activation=activation, tol=1e-6)
    assert found.status is Status.CONVERGED
    v, axis = found.dual_coefficients, np.arange(-reach, reach + step / 2, step)
    eps = np.stack([a.ravel() for a in np.meshgrid(axis, axis, axis)], axis=1)
    h = eps @ np.linalg.cholesky(X @ X.T / 3).T
    phi = np.logaddexp(0, h) if activation == "softplus" else h * special.ndtr(h)
    log_density = (phi @ v) ** 2 / 2 - (eps**2).sum(axis=1) / 2
    density = np.exp(log_density - log_density.max())
    Phi = (density[:, None] * phi).T @ phi / density.sum()
    np.testing.assert_allclose(found.kernels[1], Phi, rtol=0, atol=1e-6)
    # F(v) = v.y - |v|^2 / (2 beta) - ln Z(v) is concave: where it is stationary is the solution.
    np.testing.assert_allclose(Phi @ v + v / 10, y, rtol=0, atol=3e-6)
    log_Z = math.log(density.sum()) + log_density.max() + 3 * math.log(step / math.sqrt(2 * math.pi))
    assert found.action == pytest.approx(v @ y - v @ v / 20 - log_Z, abs=1e-7)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_first_order_in_gamma_squared(activation):
    X, y = data(2)
    first = solve_perturbation(X, y, depth=2, activation=activation, gamma0=0.0, beta=5.0, rng=1, tol=3e-3)
    setting = {"depth": 2, "beta": 5.0, "activation": activation}
    lazy = solve_quadrature(X, y, gamma0=0.0, **setting)
    np.testing.assert_allclose(lazy.kernels, first.lazy_kernels, atol=1e-9)
    eps = 1e-4
    # Two steps remove the next order.
    half, whole = (solve_quadrature(X, y, gamma0=math.sqrt(e), **setting) for e in (eps / 2, eps))
    slope = (4 * (half.kernels - lazy.kernels) - (whole.kernels - lazy.kernels)) / eps
    dual_slope = (4 * half.dual_kernels - whole.dual_kernels) / eps
    np.testing.assert_allclose(dual_slope, first.dual_slopes, atol=3e-5)
    deviation = np.abs(slope - first.kernel_slopes)
    assert (deviation < 4 * first.kernel_slope_errors + 3e-5).all()
    assert first.relative_error < 0.01


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_action_grows_by_half_the_overlap_of_labels_and_coefficients(activation):
    X, y = data(2)
    step = 1e-3
    up, middle, down = (
        solve_quadrature(X, y, depth=2, gamma0=math.sqrt(0.8 + s * step), beta=8.0, activation=activation) for s in (1, 0, -1)
    )
    assert (up.action - down.action) / (2 * step) == pytest.approx(y @ middle.dual_coefficients / 2, rel=1e-6)


def test_degree_one_networks_conserve_the_charge_through_the_layers():
    X, y = data(2)
    found = solve_quadrature(X, y, depth=3, gamma0=0.9, beta=10.0, activation=leaky_relu(0.1), prior_variances=[1, 2, 1.5, 0.7])
    assert found.status is Status.CONVERGED
    charges = [-np.sum(Phi * H) for Phi, H in zip(found.kernels[1:], found.dual_kernels, strict=True)]
    v = found.dual_coefficients
    np.testing.assert_allclose(charges, 0.81 * 0.7 * v @ found.kernels[-1] @ v, rtol=1e-9)


def test_odd_network_that_cannot_fit_stays_lazy():
    x = np.array([1.0, -0.4, 0.8])
    setting = {"depth": 1, "beta": 50.0, "activation": "tanh"}
    found = solve_quadrature([x, -x], [1.0, 1.0], gamma0=2.0, **setting)
    lazy = solve_quadrature([x, -x], [1.0, 1.0], gamma0=0.0, **setting)
    np.testing.assert_allclose(found.dual_coefficients, 50.0, rtol=1e-10)
    np.testing.assert_allclose(found.fitted, 0.0, atol=1e-10)
    np.testing.assert_allclose(found.kernels, lazy.kernels, atol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_duplicated_point_is_one_point_at_twice_beta(activation):
    x = np.array([0.9, -1.1, 0.3])
    setting = {"depth": 2, "gamma0": 1.0, "activation": activation}
    twice = solve_quadrature([x, x], [1.4, 0.6], beta=6.0, **setting)
    once = solve_quadrature([x], [1.0], beta=12.0, **setting)
    assert twice.status is Status.CONVERGED
    np.testing.assert_allclose(twice.kernels, np.ones((2, 2)) * once.kernels, rtol=1e-10)
    np.testing.assert_allclose(twice.fitted, once.fitted[0], rtol=1e-10)


def test_rank_not_the_number_of_points_is_what_counts():
    X, y = data(5, 2)
    found = solve_quadrature(X, y, depth=1, gamma0=0.7, beta=4.0, activation="relu")
    assert found.status is Status.CONVERGED
    with pytest.raises(ValueError, match="quadrature serves at most 3"):
        solve_quadrature(X, y, depth=2, gamma0=0.7, beta=4.0, activation="relu")


def test_outputs_rotate_and_points_permute():
    X, y = data(2)
    Y = np.stack([y, [0.3, 0.8]], axis=1)
    setting = {"depth": 2, "gamma0": 1.0, "beta": 6.0, "activation": "erf"}
    found = solve_quadrature(X, Y, **setting)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = solve_quadrature(X, Y @ turn, **setting)
    np.testing.assert_allclose(turned.kernels, found.kernels, atol=1e-10)
    np.testing.assert_allclose(turned.dual_coefficients, found.dual_coefficients @ turn, atol=1e-10)
    swapped = solve_quadrature(X[::-1], Y[::-1], **setting)
    np.testing.assert_allclose(swapped.kernels, found.kernels[:, ::-1, ::-1], atol=1e-10)
    column, scalar = solve_quadrature(X, y[:, None], **setting), solve_quadrature(X, y, **setting)
    assert column.fitted.shape == (2, 1)
    np.testing.assert_array_equal(column.fitted[:, 0], scalar.fitted)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_populations_reproduce_the_kernels(activation):
    X, y = data(2)
    found = solve_quadrature(X, y, depth=2, gamma0=0.8, beta=6.0, activation=activation)
    for l, site in enumerate(found.sample.sites):
        phi = site.features
        np.testing.assert_allclose((site.weights[:, None] * phi).T @ phi, found.kernels[l + 1], atol=1e-9)
        np.testing.assert_allclose(site.root @ site.root.T, site.base, atol=1e-12)
        assert site.weights.sum() == pytest.approx(1)


def test_error_estimate_admits_an_undeclared_kink():
    X, y = data(2)
    setting = {"depth": 1, "gamma0": 1.0, "beta": 10.0}
    blind = Activation("unnamed", relu, lambda h: (h > 0) * 1.0)
    found = solve_quadrature(X, y, activation=blind, nodes=2**16, **setting)
    exact = solve_quadrature(X, y, activation="relu", **setting)
    error = np.abs(found.kernels[1] - exact.kernels[1]).max() / exact.kernels[1].max()
    assert found.status is Status.UNRELIABLE
    assert 0 < error < 3 * found.error < 0.03


@pytest.mark.parametrize("activation", ["relu2", "relu3", "exp"])
def test_superlinear_activations_are_refused(activation):
    with pytest.raises(ValueError, match="at most linearly"):
        solve_quadrature([[1.0]], [1.0], depth=1, gamma0=1.0, beta=1.0, activation=activation)


@pytest.mark.parametrize(
    "function",
    [lambda h: h * np.log1p(h * h), np.square, np.sinh, lambda h: np.where(h > 1e3, np.nan, h), lambda h: h * h * np.sin(h)],
)
def test_growth_of_a_users_function_is_probed(function):
    with pytest.raises(ValueError, match="at most linearly"):
        require_finite_tilt(Activation("mine", function, np.ones_like))


@pytest.mark.parametrize(
    "function",
    [np.sin, np.arctan, lambda h: h * np.sin(h), lambda h: np.maximum(h - 5000, 0), lambda h: np.sign(h) * np.sqrt(np.abs(h))],
)
def test_linear_growth_is_accepted(function):
    require_finite_tilt(Activation("mine", function, np.ones_like))


def test_users_function_of_degree_one():
    X, y = data(2)
    mine = from_function(np.abs, name="abs", degree=1.0)
    found = solve_quadrature(X, y, depth=2, gamma0=1.0, beta=20.0, activation=mine)
    assert found.status is Status.CONVERGED
    charges = [-np.sum(Phi * H) for Phi, H in zip(found.kernels[1:], found.dual_kernels, strict=True)]
    assert charges[0] == pytest.approx(charges[1], rel=1e-9)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_inputs_of_zero_cannot_be_told_apart_or_fitted(activation):
    found = solve_quadrature(np.zeros((2, 3)), [1.0, 2.0], depth=2, gamma0=1.0, beta=5.0, activation=activation)
    np.testing.assert_array_equal(found.kernels, 0)
    np.testing.assert_allclose(found.dual_coefficients, [5.0, 10.0])


def test_features_at_zero_are_all_that_vanishing_inputs_have():
    y, phi = np.array([1.0, 2.0]), np.full(2, math.log(2))
    found = solve_quadrature(np.zeros((2, 3)), y, depth=1, gamma0=1.0, beta=5.0, activation="softplus")
    v = np.linalg.solve(np.outer(phi, phi) + np.eye(2) / 5, y)
    np.testing.assert_allclose(found.dual_coefficients, v, rtol=1e-11)
    assert found.action == pytest.approx(v @ y - v @ v / 10 - (v @ phi) ** 2 / 2, rel=1e-11)


def test_kinks_of_new_inputs_between_the_nodes():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((2, 4))
    new = np.vstack([rng.standard_normal((6, 4)), [0.5, 0.3] @ X])
    found = solve_quadrature(X, [1.0, -1.0], depth=1, gamma0=1e-6, beta=5.0, activation="relu")
    powers, own = (new**2).sum(axis=1)[:, None] / 4, (X**2).sum(axis=1) / 4
    error = np.abs(found.kernels_at(new).value[1] - get("relu").dual(powers, own, new @ X.T / 4)).max(axis=1)
    assert error[:6].max() < 1e-8
    assert error[6] < 5e-6


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("size", [1e200, 1e20])
def test_huge_features_are_refused(size, depth):
    huge = from_function(lambda h: size * np.tanh(h), name="huge")
    X, y = data(2)
    with pytest.raises(ValueError, match=r"activation: expected features of order one.* from 'huge'"):
        solve_quadrature(X, y, depth=depth, gamma0=1.0, beta=5.0, activation=huge)


def test_what_stops_the_solution_is_named():
    X, y = np.random.default_rng(2).standard_normal((4, 3))[:3], np.array([1.0, -1.0, 0.5])
    setting = {"depth": 1, "gamma0": 1.0, "beta": 10.0}
    message = r"nodes: expected at least \d+ to follow the solution beyond gamma0 = 0\.\d+, got a limit of 100000"
    with pytest.raises(ValueError, match=message):
        solve_quadrature(X, y, activation="softplus", nodes=100000, tol=1e-6, **setting)
    with pytest.raises(ConvergenceError, match="so close to a divergent average"):
        solve_quadrature(X[:1], [1e6], activation="relu", **setting)


def test_users_smooth_function():
    X, y = data(2)
    setting = {"depth": 2, "gamma0": 1.0, "beta": 10.0}
    mine = from_function(lambda h: np.tanh(h), name="mine")
    found, named = solve_quadrature(X, y, activation=mine, **setting), solve_quadrature(X, y, activation="tanh", **setting)
    np.testing.assert_allclose(found.kernels, named.kernels, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": None}, "X, kernel: expected exactly one"),
        ({"y": None}, "y: expected labels"),
        ({"y": [1.0, 2.0, 3.0]}, "y: expected 2 labels"),
        ({"beta": math.inf}, "beta: expected a finite number > 0"),
        ({"gamma0": -1.0}, "gamma0: expected"),
        ({"X": None, "kernel": [[1.0, 2.0], [2.0, 1.0]]}, "kernel: expected a positive semi-definite"),
        ({"X": np.eye(4), "y": np.ones(4)}, "at most 3"),
        ({"nodes": 1000}, "nodes: expected at least .* got a limit of 1000"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"X": [[1.0, 0.0], [0.5, 1.0]], "y": [1.0, -1.0], "depth": 1, "gamma0": 1.0, "beta": 5.0, "activation": "tanh"}
    with pytest.raises(ValueError, match=message):
        solve_quadrature(**(arguments | change))
