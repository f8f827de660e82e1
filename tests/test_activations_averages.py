"""Every average of every activation against 30-digit quadrature: generic points, correlation +-1, zero variance."""

import math

import mpmath as mp
import numpy as np
import pytest

from linkern import activations, lazy

ORDERS = [(0, 0), (1, 1), (2, 0), (2, 2), (3, 1), (4, 0)]


def _tanh(h):
    t = mp.tanh(h)
    w = 1 - t * t
    return t, w, -2 * t * w, (6 * t * t - 2) * w, (16 * t - 24 * t**3) * w


def _softplus(h):
    p = 1 / (1 + mp.exp(-h))
    w = p * (1 - p)
    return mp.log1p(mp.exp(h)), p, w, w * (1 - 2 * p), w * (1 - 6 * w)


def _gelu(h):
    q = mp.npdf(h)
    Q = mp.ncdf(h)
    return h * Q, Q + h * q, (2 - h * h) * q, (h**3 - 4 * h) * q, (-(h**4) + 7 * h * h - 4) * q


def _erf(h):
    q = 2 / mp.sqrt(mp.pi) * mp.exp(-h * h)
    return mp.erf(h), q, -2 * h * q, (4 * h * h - 2) * q, (12 * h - 8 * h**3) * q


def _gaussian(h):
    q = mp.exp(-h * h / 2)
    return q, -h * q, (h * h - 1) * q, (3 * h - h**3) * q, (h**4 - 6 * h * h + 3) * q


def _sin(h):
    x, y = mp.sin(h), mp.cos(h)
    return x, y, -x, -y, x


def _cos(h):
    x, y = mp.sin(h), mp.cos(h)
    return y, -x, -y, x, y


def _polynomial(h):
    value = mp.mpf("0.25") - h + h * h / 2 + h**3 / 4 + h**4 / 8
    return value, -1 + h + 3 * h * h / 4 + h**3 / 2, 1 + 3 * h / 2 + 3 * h * h / 2, mp.mpf("1.5") + 3 * h, mp.mpf(3)


SMOOTH = {
    "tanh": _tanh,
    "softplus": _softplus,
    "gelu": _gelu,
    "erf": _erf,
    "gaussian": _gaussian,
    "sin": _sin,
    "cos": _cos,
    "exp": lambda h: (mp.exp(h),) * 5,
    "polynomial": _polynomial,
}


def named(name):
    return activations.polynomial([0.25, -1, 0.5, 0.25, 0.125]) if name == "polynomial" else activations.get(name)


def plane(f, a, b, c):
    """All averages of ORDERS by the trapezoidal rule in two dimensions, which converges geometrically."""
    step = mp.mpf(1) / (6 if f is _tanh else 4)
    reach = int(12 / step)
    grid = [step * k for k in range(-reach, reach + 1)]
    weight = [step * mp.exp(-(x**2) / 2) / mp.sqrt(2 * mp.pi) for x in grid]
    slope, rest = c / mp.sqrt(a), mp.sqrt(b - c * c / a)
    totals = [mp.mpf(0)] * len(ORDERS)
    for x, wx in zip(grid, weight, strict=True):
        left = f(mp.sqrt(a) * x)
        given = [mp.mpf(0)] * 3
        for z, wz in zip(grid, weight, strict=True):
            if wx * wz > 1e-33:
                right = f(slope * x + rest * z)
                given = [g + wz * right[q] for q, g in enumerate(given)]
        totals = [t + wx * left[p] * given[q] for t, (p, q) in zip(totals, ORDERS, strict=True)]
    return totals


def line(function):
    """E[function(z)] in one dimension."""
    step = mp.mpf(1) / 16
    nodes = [step * k for k in range(-208, 209)]
    return mp.fsum(step * mp.npdf(z) * function(z) for z in nodes)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_at_a_generic_point(name):
    a, b, c = 0.75, 0.625, -0.25
    phi = named(name)
    with mp.workdps(30):
        truth = plane(SMOOTH[name], *map(mp.mpf, (a, b, c)))
    for (p, q), value in zip(ORDERS, truth, strict=True):
        found, error = phi.averages(p, q, a, b, c), phi.averages.error(p, q, a, b, c)
        assert abs(found - value) <= max(2e-14, float(error)), (p, q)
        assert error < 1e-13
        assert phi.averages(q, p, b, a, c) == pytest.approx(float(found), rel=1e-13)
    assert phi.method == ("quadrature" if name in {"tanh", "softplus"} else "closed form")


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_at_the_corners(name):
    f, phi = SMOOTH[name], named(name)
    a, b = 0.7, 1.3
    for sign in (1, -1):
        c = sign * math.sqrt(a) * math.sqrt(b)
        with mp.workdps(30):
            u, v = mp.sqrt(a), sign * mp.sqrt(b)
            for p, q in ORDERS:
                truth = line(lambda z, p=p, q=q, u=u, v=v: f(u * z)[p] * f(v * z)[q])
                assert abs(phi.averages(p, q, a, b, c) - truth) < 3e-14 * max(1, abs(truth)), (sign, p, q)
    with mp.workdps(30):
        for p, q in ORDERS:
            truth = line(lambda z, q=q: f(mp.sqrt(b) * z)[q]) * f(mp.mpf(0))[p]
            assert abs(phi.averages(p, q, 0.0, b, 0.0) - truth) < 2e-14 * max(1, abs(truth)), (p, q)
            truth = f(mp.mpf(0))[p] * f(mp.mpf(0))[q]
            assert abs(phi.averages(p, q, 0.0, 0.0, 0.0) - truth) < 2e-14, (p, q)


def wedge(m, n, a, b, c):
    """E[u_+^m v_+^n]: the radius by hand, the angle by quadrature."""
    angle = mp.acos(c / mp.sqrt(a * b))
    turn = mp.quad(lambda t: mp.cos(t) ** m * mp.cos(t - angle) ** n, [angle - mp.pi / 2, mp.pi / 2])
    half = mp.mpf(m + n) / 2
    return mp.sqrt(a) ** m * mp.sqrt(b) ** n * 2**half * mp.gamma(half + 1) / (2 * mp.pi) * turn


def kinked(power, p, q, a, b, c):
    """E[phi^(p)(u) phi^(q)(v)] for relu^power: delta functions by derivatives of the density times the conditional mean."""
    falling = [mp.ff(power, k) for k in range(power + 1)]
    if p <= power:
        return falling[p] * falling[q] * wedge(power - p, power - q, a, b, c)
    if q > power:
        return falling[power] ** 2 / (2 * mp.pi * mp.sqrt(a * b - c * c))
    rest = mp.sqrt(b - c * c / a)

    def given(u):
        mean, n = c / a * u, power - q
        return mp.quad(lambda z: (mean + rest * z) ** n * mp.npdf(z), [-mean / rest, -mean / rest + 5, 15])

    k = p - power - 1
    density = mp.diff(lambda u: mp.npdf(u, 0, mp.sqrt(a)) * given(u), 0, k) if k else mp.npdf(0, 0, mp.sqrt(a)) * given(mp.mpf(0))
    return (-1) ** k * falling[power] * falling[q] * density


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("covariance", [(1.5, 0.5, -0.5), (0.5, 2.0, 0.75), (1.0, 2.0, -1.40625)])
def test_powers_of_relu(power, covariance):
    phi = activations.relu_power(power)
    with mp.workdps(30):
        for p, q in ORDERS:
            truth = kinked(power, p, q, *map(mp.mpf, covariance))
            assert abs(phi.averages(p, q, *covariance) - truth) <= 2e-13 * abs(truth) + 1e-15, (p, q)
            if p == q < power + 1:
                assert abs(phi.averages(p, q, *covariance) - truth) <= 4e-15 * abs(truth), (p, q)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_powers_of_relu_at_the_corners(power):
    phi, a, b = activations.relu_power(power), 0.7, 2.8
    c = math.sqrt(a) * math.sqrt(b)
    moments = {k: math.prod(range(2 * k - 1, 0, -2)) / 2 for k in range(4)}
    assert phi.dual(a, b, c) == pytest.approx(c**power * moments[power], rel=1e-13)
    assert phi.dual_derivative(a, b, c) == pytest.approx(power**2 * c ** (power - 1) * moments[power - 1], rel=1e-13)
    expected = 0 if power == 1 else power * (power - 1) * c**power / a * moments[power - 1]
    assert phi.dual_second(a, b, c) == pytest.approx(expected, rel=1e-7, abs=1e-8)
    for p, q in [(0, 0), (1, 1), (2, 0)]:
        assert abs(phi.averages(p, q, a, b, -c)) < 1e-7
        for zero in ((0.0, b), (a, 0.0), (0.0, 0.0)):
            assert phi.averages(p, q, *zero, 0.0) == 0
    if power == 1:
        assert phi.averages(2, 2, a, b, c) > 1e7  # two delta functions on one point


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_leaky_relu(slope):
    phi, covariance = activations.leaky_relu(slope), (1.5, 0.5, -0.5)
    for p, q in ORDERS:
        with mp.workdps(30):
            a, b, c = map(mp.mpf, covariance)
            same, opposite = kinked(1, p, q, a, b, c), kinked(1, p, q, a, b, -c)
            truth = (1 + mp.mpf(slope) ** 2) * same - 2 * mp.mpf(slope) * (-1) ** p * opposite
        assert abs(phi.averages(p, q, *covariance) - truth) < 1e-14, (p, q)
    np.testing.assert_allclose(phi.value(np.array([-2.0, 3.0])), [-2 * slope, 3.0])
    assert phi.dual_derivative(0.0, 0.0, 0.0) == pytest.approx(float(phi.derivative(np.zeros(1))[0]) ** 2)
    assert phi.dual_derivative(0.0, 1.0, 0.0) == pytest.approx(slope * (1 + slope) / 2)


@pytest.mark.parametrize("name", activations.names())
def test_elementwise_functions(name):
    phi = activations.get(name)
    h = np.array([-2.0, -0.3, 0.4, 1.7])
    for f, g in ((phi.value, phi.derivative), (phi.derivative, phi.second_derivative)):
        np.testing.assert_allclose(g(h), (f(h + 1e-6) - f(h - 1e-6)) / 2e-6, atol=2e-9)
        assert f(h.astype(np.float32)).dtype == np.float32
    if phi.degree is not None:
        np.testing.assert_allclose(phi.value(3 * h), 3**phi.degree * phi.value(h), rtol=1e-14)
    sign = {"odd": -1, "even": 1}.get(phi.parity)
    if sign:
        np.testing.assert_allclose(phi.value(-h), sign * phi.value(h), rtol=1e-14)
    else:
        assert not np.allclose(np.abs(phi.value(-h)), np.abs(phi.value(h)))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4, 6))
    K = X @ X.T / 6
    a = K.diagonal()
    table = phi.dual(a[:, None], a, K)
    np.testing.assert_allclose(table, table.T, rtol=1e-13)
    step = 1e-5
    slope = (phi.dual(a[:, None], a, K * (1 - np.eye(4)) + step) - phi.dual(a[:, None], a, K * (1 - np.eye(4)) - step)) / (
        2 * step
    )
    np.testing.assert_allclose(phi.dual_derivative(a[:, None], a, K * (1 - np.eye(4))), slope, rtol=2e-8, atol=1e-9)


def test_any_function_by_formula_and_by_differences():
    tanh = activations.get("tanh")
    bare = activations.from_function(np.tanh, name="mine", parity="odd")
    exact = activations.from_function(np.tanh, tanh.derivative, tanh.second_derivative)
    assert (bare.derivative_source, exact.derivative_source) == ("numerical", "formula")
    assert bare.method == "quadrature"
    covariance = (0.8, 1.1, 0.3)
    for p, q in ORDERS:
        truth = tanh.averages(p, q, *covariance)
        assert exact.averages(p, q, *covariance) == pytest.approx(truth, abs=1e-12)
        assert bare.averages(p, q, *covariance) == pytest.approx(truth, abs=1e-7)
    with pytest.raises(ValueError, match="formula for derivative 3 of 'mine' at zero variance"):
        bare.averages(3, 1, 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="'exp2' to stay within"):
        activations.from_function(lambda h: np.exp(h**4), name="exp2").dual(1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="value: expected an elementwise function"):
        activations.from_function(np.sum)
    with pytest.raises(TypeError, match="value: expected an elementwise function"):
        activations.from_function(3)
    with pytest.raises(ValueError, match=r"^derivative: expected the derivative, got 0\.022.*, where differences give 0\.011"):
        activations.from_function(np.tanh, lambda h: 2 / np.cosh(h) ** 2)
    with pytest.raises(ValueError, match=r"^second_derivative: expected the derivative"):
        activations.from_function(np.sin, np.cos, np.sin)


def _writes(h):
    h[h < 0] = 0
    return h


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda h: h if h.ndim == 1 else h.sum(-1), r"an elementwise function, got shape \(2,\) from shape \(2, 3\)"),
        (lambda h: np.tanh(h) if h.ndim else np.zeros(1), r"an elementwise function, got shape \(1,\) from shape \(\)"),
        (lambda h: h - h.mean(), r"an elementwise function, got -0\.75 and -0\.416667 at h = -0\.5 in arrays of shapes \(3,\)"),
        # Without otypes it takes integers from a first entry below zero.
        (np.vectorize(lambda h: max(h, 0)), r"an elementwise function, got 1\.5 and 1 at h = 1\.5"),
        (math.tanh, r"an elementwise function, got TypeError\(.* from an array of shape \(3,\) \(np.vectorize"),
        (lambda h: h if h > 0 else 0, r"an elementwise function, got ValueError\("),
        (lambda h: np.exp(1j * h), "real values, got complex128 from float64"),
        (_writes, "a function that leaves its argument as it is"),
    ],
)
def test_functions_that_are_not_real_and_elementwise_are_named(function, message):
    with pytest.raises(ValueError, match=f"^value: expected {message}"):
        activations.from_function(function)
    with pytest.raises(ValueError, match=f"^derivative: expected {message}"):
        activations.from_function(np.tanh, function)


def test_values_become_floats_of_the_dtype_given():
    for function in (lambda h: (h > 0).astype(int), lambda h: h > 0, np.vectorize(lambda h: 1.0 * (h > 0), otypes=[object])):
        step = activations.from_function(function)
        for dtype in (np.float32, np.float64):
            for f in (step.value, step.derivative, step.second_derivative):
                assert f(np.array([-1.0, 2.0], dtype=dtype)).dtype == dtype
        np.testing.assert_array_equal(step.value(np.array([-1, 2])), [0.0, 1.0])
    np.testing.assert_allclose(step.value(np.float64(0.5)), 1.0)


@pytest.mark.filterwarnings("error")
def test_functions_that_overflow_do_so_in_silence():
    phi = activations.from_function(lambda h: np.exp(h) - np.sqrt(np.exp(2 * h)))
    for f in (phi.value, phi.derivative, phi.second_derivative):
        assert not np.isfinite(f(np.array([800.0]))).any()


@pytest.mark.parametrize(
    ("function", "claim", "kind", "message"),
    [
        (
            np.tanh,
            {"degree": 1.0},
            ValueError,
            r"degree: .*, got degree 1 and phi\(2h\) = -0\.05992.* in place of .* at h = -0\.03",
        ),
        (lambda h: np.where(h < 0, h, h**2), {"degree": 1.0}, ValueError, r"degree: .* at h = 0\.03"),
        (lambda h: np.clip(h, 0, 6), {"degree": 1}, ValueError, r"degree: .*phi\(2h\) = 6 in place of 8 at h = 4"),
        (np.square, {"degree": 1.0}, ValueError, "degree: .*, got degree 1 "),
        (np.tanh, {"degree": "one"}, TypeError, "degree: expected a finite number >= 0, got 'one'"),
        (np.tanh, {"degree": True}, TypeError, "degree: expected a finite number >= 0, got True"),
        (np.tanh, {"degree": math.inf}, ValueError, "degree: expected a finite number >= 0, got inf"),
        (np.tanh, {"degree": 5000.0}, ValueError, "degree: expected phi"),
        (np.tanh, {"parity": "foo"}, ValueError, "parity: expected 'odd', 'even' or None, got 'foo'"),
        (np.tanh, {"parity": "even"}, ValueError, r"parity: .*= phi\(h\), got 'even' and .* = -0\.029991 in place of 0\.029991"),
        (np.cosh, {"parity": "odd"}, ValueError, r"parity: .*= -phi\(h\), got 'odd' and phi\(-h\) = .* at h = 0\.03"),
    ],
)
def test_degrees_and_parities_that_do_not_hold(function, claim, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        activations.from_function(function, **claim)


@pytest.mark.parametrize(
    ("function", "claim"),
    [
        (np.abs, {"degree": 1, "parity": "even"}),
        (lambda h: 1e25 * h, {"degree": 1.0, "parity": "odd"}),
        (lambda h: np.maximum(h, 0) ** 3, {"degree": 3.0}),
        (lambda h: np.where(h < 0, -2.0, 3.0) * np.sqrt(np.abs(h)), {"degree": 0.5}),
        (np.sign, {"degree": 0.0, "parity": "odd"}),
        (lambda h: np.tanh(h.astype(np.float32)), {"parity": "odd"}),
        (lambda h: np.exp(h**2), {"parity": "even"}),
    ],
)
def test_degrees_and_parities_that_hold(function, claim):
    phi = activations.from_function(function, **claim)
    assert (phi.degree, phi.parity) == (claim.get("degree"), claim.get("parity"))


@pytest.mark.parametrize("variance", [0.2499, 0.25, 0.2501, 0.26, 0.4, 1.0])
def test_infinite_averages_are_refused(variance):
    """E[exp(2 h^2)] = (1 - 4 a)^(-1/2) is infinite from a = 1/4 on."""
    for function in (lambda h: np.exp(h**2), lambda h: np.where(h > 0, np.exp(h**2), np.exp(-h))):
        square = activations.from_function(function, name="square")
        with pytest.raises(
            ValueError, match=r"activation: expected the square of 'square' to have an average .*, got one that is inf"
        ):
            square.dual(variance, variance, 0.3 * variance)
    with pytest.raises(ValueError, match="the square of derivative 1 of 'square' to have"):
        square.dual_derivative(variance, 0.1, 0.0)
    with pytest.raises(ValueError, match="the square of 'square' to have"):
        lazy.nngp_kernel([[math.sqrt(variance)]], depth=1, activation=square)


@pytest.mark.parametrize("variance", [0.1, 0.2, 0.22, 0.23])
def test_quoted_errors_hold_next_to_an_infinite_average(variance):
    square = activations.from_function(lambda h: np.exp(h**2))
    for correlation in (0.0, 0.5, 1.0):
        point = (variance, variance, correlation * variance)
        # E[exp(u^2 + v^2)] = det(1 - 2 covariance)^(-1/2).
        truth = ((1 - 2 * variance) ** 2 - (2 * point[2]) ** 2) ** -0.5
        assert abs(square.dual(*point) - truth) < square.dual_error(*point) < 0.02 * truth


@pytest.mark.parametrize(
    ("function", "variance", "truth"),
    [
        (lambda h: h**6, 1.0, 10395.0),
        (np.exp, 1.0, math.exp(2)),
        (np.exp, 25.0, math.exp(50)),
        (np.cosh, 1.0, (math.exp(2) + 1) / 2),
        (lambda h: np.exp(h**2 / 8), 1.0, math.sqrt(2)),
        (np.ones_like, 1.0, 1.0),
        (np.zeros_like, 1.0, 0.0),
        (lambda h: np.where(h > 2, 1.0, 0.0), 0.0, 0.0),
    ],
)
def test_functions_that_grow_fast_keep_their_averages(function, variance, truth):
    phi = activations.from_function(function)
    assert phi.dual(variance, variance, variance) == pytest.approx(truth, rel=1e-8)
    assert phi.dual_error(variance, variance, variance) <= 2e-4 * truth


def test_derivatives_that_differences_cannot_judge_are_trusted():
    """Kinks, steps, and oscillations faster than the differences."""
    activations.from_function(np.abs, np.sign)
    activations.from_function(lambda h: np.floor(8 * h), np.zeros_like)
    activations.from_function(lambda h: np.sin(1e4 * h), lambda h: 1e4 * np.cos(1e4 * h))


@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0, 400.0])
def test_quoted_errors_hold_at_any_variance(scale):
    """tanh far out against a fine two-dimensional sum, and a kink against its closed form."""
    tanh = activations.get("tanh")
    a, b, c = scale, 0.7 * scale, 0.8 * scale
    z = np.arange(-8.5, 8.5, 1 / 64 if scale > 1 else 1 / 16)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    u = math.sqrt(a) * z
    v = (c / math.sqrt(a)) * z[:, None] + math.sqrt(b - c * c / a) * z
    truth = (weight * np.tanh(u)) @ (np.tanh(v) @ weight)
    assert abs(tanh.dual(a, b, c) - truth) < tanh.dual_error(a, b, c) + 1e-11
    relu, rough = activations.get("relu"), activations.from_function(lambda h: np.maximum(h, 0), lambda h: 1.0 * (h > 0))
    for correlation in (0.3, 1.0):
        point = (1.0, 2.0, correlation * math.sqrt(2))
        assert abs(rough.dual(*point) - relu.dual(*point)) < rough.dual_error(*point) < 1e-3
    assert abs(rough.dual_derivative(1.0, 2.0, 0.3) - relu.dual_derivative(1.0, 2.0, 0.3)) < 0.01


@pytest.mark.parametrize("name", activations.names())
def test_lazy_kernels_of_every_activation(name):
    """K^1 and Theta^1 entry by entry from one- and two-dimensional sums."""
    phi = activations.get(name)
    rng = np.random.default_rng(5)
    X = 0.5 * rng.standard_normal((3, 4))
    C = X @ X.T / 4
    layers = lazy.layer_kernels(X, depth=1, activation=name)
    tangent = lazy.ntk_kernel(X, depth=1, activation=name)
    z = np.linspace(-9, 9, 1201)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    for i, j in ((0, 1), (1, 2), (2, 0)):
        u = math.sqrt(C[i, i]) * z
        v = C[i, j] / math.sqrt(C[i, i]) * z[:, None] + math.sqrt(C[j, j] - C[i, j] ** 2 / C[i, i]) * z
        K = (weight * phi.value(u)) @ (phi.value(v) @ weight)
        dot = (weight * phi.derivative(u)) @ (phi.derivative(v) @ weight)
        assert layers[1, i, j] == pytest.approx(K, rel=1e-9, abs=3e-4 if "relu" in name else 1e-12)
        assert tangent[i, j] == pytest.approx(K + dot * C[i, j], rel=1e-8, abs=3e-3 if "relu" in name else 1e-12)


def test_bad_families():
    with pytest.raises(ValueError, match="power: expected 1, 2 or 3"):
        activations.relu_power(4)
    with pytest.raises(ValueError, match=r"slope: expected a number in \[0, 1\]"):
        activations.leaky_relu(1.5)
    with pytest.raises(ValueError, match="p, q: expected one of"):
        activations.get("relu").averages(1, 0, 1.0, 1.0, 0.0)
    bare = activations.Activation("bare", np.tanh, np.cosh)
    assert bare.method is None
    with pytest.raises(ValueError, match="'bare' lacks them"):
        bare.dual_second(1.0, 1.0, 0.0)
    for given, parity, degree in (([0, 0, 3], "even", 2.0), ([0, 1, 0, 2], "odd", None), ([1, 1], None, None)):
        made = activations.polynomial(given)
        assert (made.parity, made.degree) == (parity, degree)
