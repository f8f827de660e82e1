"""Dual functions against two-dimensional quadrature, closed forms re-typed at 50 digits, and exact corner cases."""

import math

import mpmath as mp
import numpy as np
import pytest

from linkern import activations, lazy
from linkern.activations import Activation

MP_VALUE = {"linear": lambda h: h, "relu": lambda h: max(h, mp.mpf(0)), "erf": mp.erf}
MP_DERIVATIVE = {
    "linear": lambda h: mp.mpf(1),
    "relu": lambda h: mp.mpf(h > 0),
    "erf": lambda h: 2 / mp.sqrt(mp.pi) * mp.exp(-(h**2)),
}


def smooth_average(f, a, b, c):
    """E[f(u) f(v)] of an entire f by the trapezoidal rule on a Cartesian grid (it converges geometrically)."""
    step = mp.mpf(1) / 5
    grid = [step * k for k in range(-60, 61)]
    weight = [step * mp.exp(-(x**2) / 2) / mp.sqrt(2 * mp.pi) for x in grid]
    slope, rest = c / mp.sqrt(a), mp.sqrt(b - c * c / a)
    return mp.fsum(
        wx * f(mp.sqrt(a) * x) * mp.fsum(wz * f(slope * x + rest * z) for z, wz in zip(grid, weight, strict=True))
        for x, wx in zip(grid, weight, strict=True)
    )


def average_with_kinks(f, a, b, c):
    """The same in polar coordinates, with cuts along the rays where u or v changes sign."""
    r = c / mp.sqrt(a * b)

    def integrand(angle, radius):
        u = mp.sqrt(a) * radius * mp.cos(angle)
        v = mp.sqrt(b) * radius * (r * mp.cos(angle) + mp.sqrt(1 - r * r) * mp.sin(angle))
        return f(u) * f(v) * radius * mp.exp(-(radius**2) / 2) / (2 * mp.pi)

    kink = mp.atan2(-r, mp.sqrt(1 - r * r))
    cuts = sorted([-mp.pi, -mp.pi / 2, mp.pi / 2, mp.pi, kink, kink + mp.pi if kink < 0 else kink - mp.pi])
    return mp.quad(integrand, cuts, [0, 4, 12], method="gauss-legendre", maxdegree=5)


@pytest.mark.parametrize("name", ["linear", "relu", "erf"])
@pytest.mark.parametrize("covariance", [(1.5, 0.5, -0.25), (0.5, 2.0, 0.75)])
def test_duals_are_the_gaussian_averages(name, covariance):
    phi = activations.get(name)
    with mp.workdps(30):
        for dual, f in ((phi.dual, MP_VALUE[name]), (phi.dual_derivative, MP_DERIVATIVE[name])):
            truth = (average_with_kinks if name == "relu" else smooth_average)(f, *map(mp.mpf, covariance))
            assert abs(dual(*covariance) - truth) <= 4e-15 * abs(truth)


def closed_form(name, a, b, c):
    """(E[phi phi], E[phi' phi']) at the working precision of mpmath; a, b, c are taken as exact."""
    a, b, c = mp.mpf(a), mp.mpf(b), mp.mpf(c)
    if name == "relu":
        angle = mp.acos(c / mp.sqrt(a * b))
        return mp.sqrt(a * b) * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle)) / (2 * mp.pi), (mp.pi - angle) / (2 * mp.pi)
    ratio = 2 * c / mp.sqrt((1 + 2 * a) * (1 + 2 * b))
    return 2 / mp.pi * mp.asin(ratio), 4 / mp.pi / mp.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)


@pytest.mark.parametrize(("name", "decades"), [("relu", 8), ("relu", 145), ("erf", 8), ("erf", 100)])
def test_full_relative_accuracy_up_to_the_edge(name, decades):
    """Correlations within 1e-15 of +-1 and variances over many decades keep 15 digits."""
    rng = np.random.default_rng(5)
    n = 400
    a, b = 10.0 ** rng.uniform(-decades, decades, (2, n))
    correlation = rng.choice([-1, 1], n) * (1 - 10.0 ** rng.uniform(-15, 0, n))
    c = correlation * np.sqrt(a) * np.sqrt(b)
    phi = activations.get(name)
    values, derivatives = phi.dual(a, b, c), phi.dual_derivative(a, b, c)
    with mp.workdps(50 + 2 * decades):
        checked = 0
        for i in range(n):
            if mp.mpf(c[i]) ** 2 > mp.mpf(a[i]) * mp.mpf(b[i]):
                continue
            checked += 1
            for got, truth in zip((values[i], derivatives[i]), closed_form(name, a[i], b[i], c[i]), strict=True):
                assert abs(mp.mpf(float(got)) - truth) <= 2e-15 * abs(truth), (a[i], b[i], c[i])
    assert checked > 0.95 * n


@pytest.mark.parametrize("name", ["linear", "relu", "erf"])
def test_correlation_plus_and_minus_one(name):
    phi = activations.get(name)
    a, b, c = 0.7, 2.8, 1.4
    z = np.arange(-1500, 1501) / 128
    weight = np.exp(-(z**2) / 2) / (128 * math.sqrt(2 * math.pi))
    for sign in (1, -1):
        u, v = math.sqrt(a) * z, sign * math.sqrt(b) * z
        # The midpoint value at the jump of relu' is what makes the trapezoidal rule exact there.
        derivative = phi.derivative(u) * phi.derivative(v) + (name == "relu" and sign == 1) * 0.5 * (z == 0)
        for dual, product in ((phi.dual, phi.value(u) * phi.value(v)), (phi.dual_derivative, derivative)):
            assert dual(a, b, sign * c) == pytest.approx(product @ weight, rel=1e-13, abs=1e-15)
    # Rounding may carry a covariance past the Cauchy-Schwarz bound; that counts as the bound.
    assert phi.dual(1.0, 1.0, 1 + 1e-14) == pytest.approx(phi.dual(1.0, 1.0, 1.0), rel=1e-13)
    assert phi.dual_derivative(1.0, 1.0, -1 - 1e-14) == pytest.approx(phi.dual_derivative(1.0, 1.0, -1.0), abs=1e-13)


@pytest.mark.parametrize("name", ["linear", "relu", "erf"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_variance_is_evaluation_at_zero(name, zero):
    phi = activations.get(name)
    at_zero = np.zeros(1)
    for a, b in ((0.0, 0.0), (0.0, 2.0), (2.0, 0.0)):
        assert phi.dual(a, b, zero) == 0
    assert phi.dual_derivative(0.0, 0.0, zero) == pytest.approx(phi.derivative(at_zero)[0] ** 2, rel=1e-15)


@pytest.mark.parametrize("name", ["linear", "relu", "erf"])
def test_derivative_of_the_dual_is_the_dual_of_the_derivative(name):
    phi = activations.get(name)
    a, b, c, step = 1.3, 0.8, np.linspace(-0.9, 0.9, 7), 1e-5
    slope = (phi.dual(a, b, c + step) - phi.dual(a, b, c - step)) / (2 * step)
    np.testing.assert_allclose(phi.dual_derivative(a, b, c), slope, rtol=1e-8)


@pytest.mark.parametrize("name", ["linear", "relu", "erf"])
def test_value_derivative_degree_and_parity(name):
    phi = activations.get(name)
    h = np.array([-2.0, -0.3, 0.4, 1.7])
    slope = (phi.value(h + 1e-6) - phi.value(h - 1e-6)) / 2e-6
    np.testing.assert_allclose(phi.derivative(h), slope, atol=1e-9)
    if phi.degree is not None:
        np.testing.assert_allclose(phi.value(3 * h), 3**phi.degree * phi.value(h), rtol=1e-15)
    assert (phi.parity == "odd") == bool((phi.value(-h) == -phi.value(h)).all())
    for dtype in (np.float32, np.float64):
        for f in (phi.value, phi.derivative):
            given = h.astype(dtype)
            result = f(given)
            assert result.dtype == dtype
            assert not np.shares_memory(result, given)
    np.testing.assert_array_equal(activations.get("relu").derivative(np.array([-1.0, 0.0, 1.0])), [0, 0, 1])


@pytest.mark.parametrize("name", ["linear", "relu", "erf"])
def test_arguments_broadcast(name):
    phi = activations.get(name)
    a, b = np.array([1.0, 2.0])[:, None], np.array([1.0, 3.0, 4.0])
    c = np.array([[0.5, -0.5, 1.0], [0.1, 0.2, -2.8]])
    for dual in (phi.dual, phi.dual_derivative):
        table = dual(a, b, c)
        assert table.shape == (2, 3)
        assert table[1, 2] == dual(2.0, 4.0, -2.8)
        np.testing.assert_array_equal(dual(b[:, None], a[:, 0], c.T), table.T)


def test_bad_covariances_are_named():
    relu = activations.get("relu")
    with pytest.raises(ValueError, match="a: expected variances >= 0, got -1"):
        relu.dual(-1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="b: expected variances >= 0"):
        relu.dual_derivative(1.0, [1.0, -2.0], 0.0)
    for a, c in ((1.0, 1.001), (0.0, 0.1)):
        with pytest.raises(ValueError, match=r"c: expected \|c\| <= sqrt\(a b\)"):
            relu.dual(a, 1.0, c)


def test_get():
    assert {"linear", "relu", "relu3", "erf", "tanh", "gelu", "softplus"} <= set(activations.names())
    relu = activations.get("relu")
    assert activations.get(relu) is relu
    assert repr(relu) == "Activation(name='relu', degree=1.0, parity=None)"
    bare = Activation("tanh", np.tanh, lambda h: 1 - np.tanh(h) ** 2)
    assert activations.get(bare).dual is None
    with pytest.raises(ValueError, match=r"activation: expected one of linear, relu, .*, got 'swish'"):
        activations.get("swish")
    with pytest.raises(
        TypeError, match="activation: expected a name, an Activation or a function as from_function takes it, got 3"
    ):
        activations.get(3)


class Unhashable:
    __hash__ = None

    def __call__(self, h):
        return np.tanh(h)


@pytest.mark.parametrize("given", [np.tanh, lambda h: np.tanh(h), Unhashable()])
def test_get_takes_any_elementwise_function(given):
    X = np.random.default_rng(0).standard_normal((3, 2))
    phi = activations.get(given)
    assert (phi.name, phi.derivative_source) == ("custom", "numerical")
    expected = lazy.ntk_kernel(X, depth=2, activation="tanh")
    np.testing.assert_allclose(lazy.ntk_kernel(X, depth=2, activation=given), expected, rtol=1e-9)


def test_get_names_the_argument_of_what_is_not_elementwise():
    with pytest.raises(ValueError, match=r"activation: expected an elementwise function, got TypeError\(.*np.vectorize"):
        lazy.nngp_kernel([[1.0]], depth=1, activation=math.tanh)
