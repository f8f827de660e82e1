"""Lazy kernels against a re-typed recursion at 50 digits, finite-width Jacobians and predictors in independent algebra."""

import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
from scipy import linalg, special

from linkern import kernel_recursion, lazy
from linkern.activations import Activation
from linkern.solution import Status

NAMES = ["linear", "relu", "erf"]
PARAMETERS = {"depth": 2, "activation": "erf"}


def inputs_with_corners():
    """Generic rows, then a duplicate, an opposite, a rescaled and a zero row."""
    X = np.random.default_rng(11).standard_normal((9, 5))
    X[5], X[6], X[7], X[8] = X[0], -X[1], 3.1 * X[2], 0.0
    return X


def duals(name, a, b, c):
    """(E[phi phi], E[phi' phi']) by the textbook formulas with arccos and arcsin."""
    if name == "linear":
        return c, mp.mpf(1)
    if name == "erf":
        ratio = 2 * c / mp.sqrt((1 + 2 * a) * (1 + 2 * b))
        return 2 / mp.pi * mp.asin(ratio), 4 / mp.pi / mp.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)
    if a * b == 0:
        return mp.mpf(0), mp.mpf(0)
    cosine = min(max(c / mp.sqrt(a * b), mp.mpf(-1)), mp.mpf(1))
    angle = mp.acos(cosine)
    return mp.sqrt(a * b) * (mp.sin(angle) + (mp.pi - angle) * cosine) / (2 * mp.pi), (mp.pi - angle) / (2 * mp.pi)


def reference(X, name, g):
    """[K^0, ..., K^L], Theta^L for depth len(g) - 1, entry by entry at 50 digits, from the exact inner products."""
    P, D, L = *X.shape, len(g) - 1
    rows = [[mp.mpf(float(t)) for t in x] for x in X]
    K = [[mp.fdot(x, z) / D for z in rows] for x in rows]
    Theta, layers = K, [K]
    for l in range(L):
        pairs = [[duals(name, g[l] * K[i][i], g[l] * K[j][j], g[l] * K[i][j]) for j in range(P)] for i in range(P)]
        K = [[pairs[i][j][0] for j in range(P)] for i in range(P)]
        Theta = [[K[i][j] + g[l + 1] * pairs[i][j][1] * Theta[i][j] for j in range(P)] for i in range(P)]
        layers.append(K)
    return np.array(layers, dtype=float), np.array(Theta, dtype=float)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("g", [(1.0, 1.0), (2.0, 0.5, 1.5, 0.7), (2.0,) * 9])
def test_every_layer_against_the_recursion_at_50_digits(name, g):
    X = inputs_with_corners()
    with mp.workdps(50):
        layers, tangent = reference(X, name, [mp.mpf(v) for v in g])
    arguments = {"depth": len(g) - 1, "activation": name, "prior_variances": g}
    for X2 in (None, X):
        np.testing.assert_allclose(lazy.layer_kernels(X, X2, **arguments), layers, rtol=2e-13, atol=1e-15)
        np.testing.assert_allclose(lazy.nngp_kernel(X, X2, **arguments), g[-1] * layers[-1], rtol=2e-13, atol=1e-15)
        np.testing.assert_allclose(lazy.ntk_kernel(X, X2, **arguments), tangent, rtol=2e-13, atol=1e-15)


@pytest.mark.parametrize("block", [None, 40, 3000])
@pytest.mark.parametrize("name", NAMES)
def test_symmetry_blocks_and_permutations(name, block, monkeypatch):
    X = np.random.default_rng(2).standard_normal((230, 37))
    arguments = {"depth": 3, "activation": name, "prior_variances": (2.0, 1.5, 1.0, 0.8)}
    whole = [f(X, **arguments) for f in (lazy.nngp_kernel, lazy.ntk_kernel)]
    if block is not None:
        monkeypatch.setattr(kernel_recursion, "_BLOCK", block)
    layers = lazy.layer_kernels(X, **arguments)
    np.testing.assert_array_equal(layers, layers.transpose(0, 2, 1))
    order = np.random.default_rng(3).permutation(230)
    for f, expected in zip((lazy.nngp_kernel, lazy.ntk_kernel), whole, strict=True):
        K = f(X, **arguments)
        np.testing.assert_array_equal(K, K.T)
        np.testing.assert_allclose(K, expected, rtol=1e-13, atol=1e-15)
        assert linalg.eigvalsh(K)[0] > -1e-13 * np.trace(K)
        np.testing.assert_allclose(f(X[order], **arguments), K[np.ix_(order, order)], rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(f(X[:7], X[7:], **arguments), K[:7, 7:], rtol=1e-13, atol=1e-15)


def test_closed_forms_for_linear_and_relu():
    X = np.random.default_rng(4).standard_normal((6, 4))
    C = X @ X.T / 4
    np.testing.assert_allclose(
        lazy.nngp_kernel(X, depth=3, activation="linear", prior_variances=(2, 3, 5, 7)), 210 * C, rtol=1e-14
    )
    np.testing.assert_allclose(lazy.ntk_kernel(X, depth=40, activation="linear"), 41 * C, rtol=1e-13)
    layers = lazy.layer_kernels(X, depth=4, activation="relu")
    for l, K in enumerate(layers):
        np.testing.assert_allclose(K.diagonal(), C.diagonal() / 2**l, rtol=1e-14)
    # With g = 2, ReLU keeps variances and Theta^L(x, x) = (L + 1) K(x, x).
    tangent = lazy.ntk_kernel(X, depth=4, activation="relu", prior_variances=(2, 2, 2, 2, 2))
    np.testing.assert_allclose(tangent.diagonal(), 5 * C.diagonal(), rtol=1e-14)


def network_gradients(X, weights, phi, dphi):
    """Forward and backward pass of gamma f = w . phi(h^L)/sqrt(N); returns it and the Jacobian, weight by weight."""
    D, N = X.shape[1], len(weights[-1])
    activity, h = [X / np.sqrt(D)], []
    for W in weights[:-1]:
        h.append(activity[-1] @ W.T)
        activity.append(phi(h[-1]) / np.sqrt(N))
    output = activity[-1] @ weights[-1]
    jacobian, back = [activity[-1]], np.tile(weights[-1] / np.sqrt(N), (len(X), 1)) * dphi(h[-1])
    for l in range(len(h) - 1, -1, -1):
        jacobian.insert(0, (back[:, :, None] * activity[l][:, None, :]).reshape(len(X), -1))
        if l:
            back = (back @ weights[l]) / np.sqrt(N) * dphi(h[l - 1])
    return output, np.concatenate(jacobian, axis=1), activity[-1] @ activity[-1].T


FINITE = {
    "linear": (lambda h: h, np.ones_like),
    "relu": (lambda h: h * (h > 0), lambda h: 1.0 * (h > 0)),
    "erf": (special.erf, lambda h: 2 / np.sqrt(np.pi) * np.exp(-h * h)),
}


def draw(rng, D, N, g):
    shapes = [(N, D), *[(N, N)] * (len(g) - 2), (N,)]
    return [np.sqrt(v) * rng.standard_normal(shape) for v, shape in zip(g, shapes, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_the_jacobian_of_the_test_is_a_jacobian(name):
    rng = np.random.default_rng(0)
    X, weights = rng.standard_normal((3, 4)), draw(rng, 4, 5, (2.0, 1.5, 0.7))
    _, jacobian, _ = network_gradients(X, weights, *FINITE[name])
    column = 0
    for W in weights:
        for index in np.ndindex(W.shape):
            values = []
            for step in (1e-6, -1e-6):
                W[index] += step
                values.append(network_gradients(X, weights, *FINITE[name])[0])
                W[index] -= step
            np.testing.assert_allclose(jacobian[:, column], (values[0] - values[1]) / 2e-6, atol=1e-8)
            column += 1
    assert column == jacobian.shape[1]


@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_wide_networks(name):
    """J J^T and phi phi^T of width-500 networks, averaged over 60 draws: within 4 standard errors, each below 3 %."""
    rng = np.random.default_rng(7)
    g = (2.0, 1.5, 0.7)
    X = rng.standard_normal((4, 6))
    draws = []
    for _ in range(60):
        _, jacobian, feature = network_gradients(X, draw(rng, 6, 500, g), *FINITE[name])
        draws.append((jacobian @ jacobian.T, g[-1] * feature))
    arguments = {"depth": 2, "activation": name, "prior_variances": g}
    for got, theory in zip(
        zip(*draws, strict=True), (lazy.ntk_kernel(X, **arguments), lazy.nngp_kernel(X, **arguments)), strict=True
    ):
        error = np.std(got, axis=0, ddof=1) / np.sqrt(len(got))
        assert (np.abs(np.mean(got, axis=0) - theory) < 4 * error).all()
        assert error.max() < 0.03 * theory.max()


def task(P=8, test=5, outputs=None):
    rng = np.random.default_rng(21)
    shape = (P,) if outputs is None else (P, outputs)
    return rng.standard_normal((P, 6)), rng.standard_normal(shape), rng.standard_normal((test, 6))


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("beta", [0.3, 50.0, np.inf])
def test_nngp_prediction_conditions_the_joint_gaussian(beta, outputs):
    """Mean and variance from the precision matrix of (f, f_*): no kernel solve with the ridge added is shared."""
    X, y, X_test = task(outputs=outputs)
    K = lazy.nngp_kernel(np.vstack([X, X_test]), **PARAMETERS)
    with mp.workdps(40):
        precision = np.array(mp.inverse(mp.matrix(K)).tolist(), dtype=object)
        if beta == np.inf:
            covariance = mp.inverse(mp.matrix(precision[8:, 8:].tolist()))
            mean = -np.array(covariance.tolist(), dtype=object) @ precision[8:, :8] @ y
            expected = np.array(covariance.tolist(), dtype=float).diagonal()
        else:
            precision[:8, :8] = precision[:8, :8] + np.diag([mp.mpf(beta)] * 8)
            covariance = np.array(mp.inverse(mp.matrix(precision.tolist())).tolist(), dtype=object)
            mean = (covariance[:, :8] @ (mp.mpf(beta) * y))[8:]
            expected = covariance.astype(float).diagonal()[8:]
    result = lazy.nngp_predict(X, y, X_test, beta=beta, **PARAMETERS)
    np.testing.assert_allclose(result.mean, mean.astype(float), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(result.variance, expected, rtol=1e-11)
    np.testing.assert_allclose(result.fitted, y - result.dual_coefficients / beta, atol=1e-13)
    assert result.mean.shape == (5, *y.shape[1:])
    assert result.residual < 1e-13
    assert result.status is Status.CONVERGED
    assert result.parameters["beta"] == beta


def test_noiseless_nngp_interpolates_without_variance():
    X, y, _ = task()
    result = lazy.nngp_predict(X, y, X, beta=np.inf, **PARAMETERS)
    np.testing.assert_allclose(result.mean, y, atol=1e-13)
    assert (result.variance >= 0).all()
    assert result.variance.max() < 1e-14


def test_ntk_prediction_is_the_end_of_gradient_flow():
    """f(t) on train and test inputs from the exponential of the joint flow d(f, f_*)/dt = (Theta, Theta_*)(y - f)."""
    X, y, X_test = task()
    Theta = lazy.ntk_kernel(np.vstack([X, X_test]), **PARAMETERS)
    generator = np.zeros((14, 14))
    generator[:13, :8], generator[:13, 13] = -Theta[:, :8], Theta[:, :8] @ y
    final = linalg.expm(1e4 * generator)[:13, 13]
    result = lazy.ntk_predict(X, y, X_test, **PARAMETERS)
    np.testing.assert_allclose(result.fitted, final[:8], atol=1e-10)
    np.testing.assert_allclose(result.mean, final[8:], atol=1e-10)
    assert result.variance is None


def test_meaning_of_the_ridge():
    """ridge = lambda: decay to the initial weights, linearised; ridge = lambda kappa: where df/dt = K(y - f) - lambda kappa f."""
    X, y, X_test = task()
    Theta = lazy.ntk_kernel(np.vstack([X, X_test]), **PARAMETERS)
    decay = 0.37
    J = np.linalg.cholesky(Theta)
    # minimise 1/2 |y - J d|^2 + decay/2 |d|^2 over displacements d of the weights
    displacement = np.linalg.lstsq(
        np.vstack([J[:8], np.sqrt(decay) * np.eye(13)]), np.concatenate([y, np.zeros(13)]), rcond=None
    )[0]
    result = lazy.ntk_predict(X, y, X_test, ridge=decay, **PARAMETERS)
    np.testing.assert_allclose(np.concatenate([result.fitted, result.mean]), J @ displacement, rtol=1e-11)
    kappa = 3
    result = lazy.ntk_predict(X, y, X_test, ridge=decay * kappa, **PARAMETERS)
    f = np.concatenate([result.fitted, result.mean])
    np.testing.assert_allclose(Theta[:, :8] @ (y - f[:8]), decay * kappa * f, rtol=1e-11)


def test_test_inputs_in_blocks(monkeypatch):
    X, y, X_test = task(test=11)
    whole = lazy.nngp_predict(X, y, X_test, beta=5.0, **PARAMETERS)
    monkeypatch.setattr(lazy, "_TEST_BLOCK", 30)
    parts = lazy.nngp_predict(X, y, X_test, beta=5.0, **PARAMETERS)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.variance, whole.variance, rtol=1e-12)


def test_condition_number_and_status():
    X, y, X_test = task()
    result = lazy.ntk_predict(X, y, X_test, **PARAMETERS)
    truth = np.linalg.cond(lazy.ntk_kernel(X, **PARAMETERS), 1)
    assert 0.3 * truth < result.condition_number < 1.001 * truth
    X[1] = X[0] + 1e-5 * X[1]
    near = lazy.nngp_predict(X[:5], y[:5], X_test, beta=np.inf, depth=1, activation="linear")
    assert near.status is Status.ILL_CONDITIONED
    assert lazy.nngp_predict(X, y, X_test, beta=1.0, **PARAMETERS).status is Status.CONVERGED


def test_zero_labels_and_one_point():
    X, y, X_test = task()
    zero = lazy.ntk_predict(X, 0 * y, X_test, **PARAMETERS)
    assert zero.residual == 0
    assert (zero.mean == 0).all()
    single = lazy.nngp_predict(X[:1], y[:1], X[:1], beta=1.0, depth=1, activation="linear")
    c = X[0] @ X[0] / 6
    assert single.mean[0] == pytest.approx(c / (c + 1) * y[0], rel=1e-14)
    assert single.variance[0] == pytest.approx(c / (c + 1), rel=1e-13)


@pytest.mark.parametrize(
    ("predict", "argument", "advice"),
    [
        (lambda *data: lazy.nngp_predict(*data, beta=np.inf, **PARAMETERS), "beta", "expected a finite beta well below"),
        (lambda *data: lazy.ntk_predict(*data, **PARAMETERS), "ridge", "expected a ridge well above"),
    ],
)
@pytest.mark.parametrize("spoil", ["duplicate", "zero"])
def test_singular_kernels_are_refused_with_advice(predict, argument, advice, spoil):
    X, y, X_test = task()
    X[1] = X[0] if spoil == "duplicate" else 0.0
    with pytest.raises(ValueError, match=f"{argument}: the kernel is singular.*condition number.*7 of 8.*{advice}"):
        predict(X, y, X_test)
    assert lazy.nngp_predict(X, y, X_test, beta=10.0, **PARAMETERS).residual < 1e-13
    assert lazy.ntk_predict(X, y, X_test, ridge=0.1, **PARAMETERS).residual < 1e-13


def test_linear_kernel_with_more_points_than_dimensions():
    X, y, X_test = task(P=8)
    with pytest.raises(ValueError, match="6 of 8 above rounding"):
        lazy.ntk_predict(X, y, X_test, depth=2, activation="linear")
    with pytest.raises(ValueError, match="0 of 8 above rounding"):
        lazy.ntk_predict(0 * X, y, X_test, depth=2, activation="linear")


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales(scale):
    X, y, X_test = task()
    plain, scaled = (
        lazy.ntk_predict(s * X, y, X_test * s, depth=2, activation="relu", prior_variances=2.0) for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled.mean, plain.mean, rtol=1e-11)


@pytest.mark.parametrize("kernel", [lazy.layer_kernels, lazy.nngp_kernel, lazy.ntk_kernel])
@pytest.mark.parametrize(
    ("depth", "activation", "g", "kept"), [(1100, "relu", 1.0, 2.0), (60, "linear", 1e10, 1.0), (60, "linear", 1e-10, 1.0)]
)
def test_depths_that_leave_the_range_of_float64(kernel, depth, activation, g, kept):
    X = task(P=3)[0]
    for X2 in (None, X):
        with pytest.raises(ValueError, match=f"prior_variances: expected kernels that float64 can hold after {depth} layers"):
            kernel(X, X2, depth=depth, activation=activation, prior_variances=g)
    assert np.isfinite(kernel(X, depth=depth, activation=activation, prior_variances=kept)).all()


def test_bounded_activations_take_any_scale():
    """Far out erf is the sign function: K^1 = (2/pi) arcsin(correlation)."""
    X = task()[0]
    lengths = np.linalg.norm(X, axis=1)
    correlation = X @ X.T / np.outer(lengths, lengths)
    np.fill_diagonal(correlation, 1.0)
    layers = lazy.layer_kernels(1e80 * X, depth=2, activation="erf", prior_variances=(1.0, 1e200, 1.0))
    sign = 2 / np.pi * np.arcsin(correlation)
    np.testing.assert_allclose(layers[1], sign, rtol=1e-12)
    np.testing.assert_allclose(layers[2], 2 / np.pi * np.arcsin(sign), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": [[1.0, np.nan]]}, ValueError, "X: expected finite numbers"),
        ({"X": [1.0, 2.0]}, ValueError, "X: expected 2 axes"),
        ({"X": [["a"]]}, TypeError, "X: expected an array of real numbers"),
        ({"X": [[1e200, 1.0]]}, ValueError, "X: expected rows whose squared length"),
        ({"X": [[1e-170, 0.0]]}, ValueError, "X: expected rows whose squared length"),
        ({"X2": [[1.0, 2.0, 3.0]]}, ValueError, "X2: expected 2 columns as in X"),
        ({"X2": [[1e200, 2.0]]}, ValueError, "X2: expected rows whose squared length"),
        ({"depth": 0}, ValueError, "depth: expected an integer >= 1"),
        ({"depth": 1.5}, TypeError, "depth: expected an integer >= 1"),
        ({"activation": "swish"}, ValueError, "activation: expected one of"),
        ({"activation": Activation("tanh", np.tanh, np.cosh)}, ValueError, "activation: .* 'tanh' lacks them"),
        ({"prior_variances": -1.0}, ValueError, "prior_variances: expected numbers > 0"),
        ({"prior_variances": [1.0, 1.0]}, ValueError, "prior_variances: expected one number or 3 numbers .*readout"),
    ],
)
@pytest.mark.parametrize("kernel", [lazy.layer_kernels, lazy.nngp_kernel, lazy.ntk_kernel])
def test_bad_input_of_the_kernels(kernel, change, error, message):
    arguments = {"X": [[1.0, 2.0], [0.5, 1.0]], "X2": None, "depth": 2, "activation": "relu"} | change
    with pytest.raises(error, match=message):
        kernel(arguments.pop("X"), arguments.pop("X2"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [1.0]}, "y: expected 8 rows as in X"),
        ({"y": np.full(8, np.inf)}, "y: expected finite numbers"),
        ({"X_test": np.ones((2, 5))}, "X_test: expected 6 columns as in X"),
        ({"beta": 0.0}, "beta: expected a number > 0"),
        ({"beta": np.nan}, "beta: expected a number > 0"),
        ({"ridge": -1.0}, "ridge: expected a finite number >= 0"),
        ({"ridge": np.inf}, "ridge: expected a finite number >= 0"),
    ],
)
def test_bad_input_of_the_predictors(change, message):
    X, y, X_test = task()
    arguments = {"X": X, "y": y, "X_test": X_test} | change
    predict = lazy.ntk_predict if "ridge" in change else lazy.nngp_predict
    if predict is lazy.nngp_predict:
        arguments.setdefault("beta", 1.0)
    with pytest.raises(ValueError, match=message):
        predict(arguments.pop("X"), arguments.pop("y"), arguments.pop("X_test"), **arguments, **PARAMETERS)


def test_the_numerical_modules_do_not_import_sympy():
    code = (
        "import sys, linkern.lazy, linkern.data, linkern.conventions; "
        "sys.exit(bool({'sympy', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
