import mpmath
import numpy as np
import pytest

from linkern.networks import MLP, sample_posterior

RNG_SEED = 21


def network(activation="linear", depth=2, width=5, **options):
    mlp = MLP(3, depth=depth, width=width, gamma0=0.7, activation=activation, **options)
    rng = np.random.default_rng(RNG_SEED)
    X = rng.standard_normal((4, 3)).astype(mlp.dtype)
    y = rng.standard_normal(4)
    return mlp, X, y, mlp.draw_prior(rng, 2)


PHI = {
    "linear": lambda h: h,
    "relu": lambda h: h * (h > 0),
    "erf": lambda h: np.vectorize(lambda z: float(mpmath.erf(z)))(h),
}


@pytest.mark.parametrize("activation", PHI)
@pytest.mark.parametrize("width", [(6, 6), (4, 7)])
def test_forward_is_the_definition(activation, width):
    """One input at a time, plain matrix-vector products, weights in their original units."""
    variances = (0.5, 2.0, 1.5)
    mlp, X, _, weights = network(activation, 2, width, prior_variances=variances)
    passed = mlp.forward(weights, X)
    kernels = mlp.kernels(passed)
    for chain in range(2):
        W0, W1, w = (np.sqrt(g) * W[chain] for g, W in zip(variances, weights, strict=True))
        features = []
        for mu in range(4):
            h1 = W0 @ X[mu] / np.sqrt(3)
            h2 = W1 @ PHI[activation](h1) / np.sqrt(width[0])
            f = w[0] @ PHI[activation](h2) / (0.7 * width[1])
            features.append((PHI[activation](h1), PHI[activation](h2)))
            np.testing.assert_allclose(passed.output[chain, mu], f, rtol=1e-12)
        for l in (0, 1):
            phi = np.array([pair[l] for pair in features])
            np.testing.assert_allclose(kernels[chain, l], phi @ phi.T / width[l], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", PHI)
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_gradient_against_finite_differences(activation, depth):
    mlp, X, y, weights = network(activation, depth, prior_variances=np.linspace(0.5, 1.5, depth + 1))

    def loss(ws):
        return 0.5 * np.square(mlp.forward(ws, X).output - y).sum(axis=1)

    step = 1e-5
    for W, G in zip(weights, mlp.gradient(weights, X, y), strict=True):
        numeric = np.empty_like(W)
        for index in np.ndindex(*W.shape[1:]):
            kept = W[:, *index].copy()
            W[:, *index] = kept + step
            up = loss(weights)
            W[:, *index] = kept - step
            numeric[:, *index] = (up - loss(weights)) / (2 * step)
            W[:, *index] = kept
        assert np.abs(G).max() > 1e-3
        np.testing.assert_allclose(G, numeric, rtol=0, atol=1e-8 * max(1.0, np.abs(G).max()))


@pytest.mark.parametrize("activation", ["linear", "erf"])
def test_tangent_kernel_is_the_squared_jacobian(activation):
    mlp, X, y, weights = network(activation, 3)
    jacobian = []
    for mu in range(4):
        error_free = mlp.forward(weights, X).output
        target = error_free.copy()
        target[:, mu] -= 1.0  # the loss gradient is then the gradient of f_mu
        gradient = mlp.gradient(weights, X, target)
        jacobian.append(np.concatenate([G.reshape(2, -1) for G in gradient], axis=1))
    expected = np.einsum("mca,nca->cmn", jacobian, jacobian)
    np.testing.assert_allclose(mlp.tangent_kernel(weights, mlp.forward(weights, X)), expected, rtol=1e-10)


@pytest.mark.parametrize("activation", PHI)
def test_float32_stays_float32(activation):
    mlp, X, y, weights = network(activation, 3, dtype=np.float32)
    passed = mlp.forward(weights, X)
    arrays = [*weights, *passed.preactivations, *passed.features, passed.output]
    arrays += mlp.gradient(weights, X, y.astype(np.float32))
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    assert mlp.kernels(passed).dtype == np.float64
    wide = MLP(3, depth=3, width=5, gamma0=0.7, activation=activation)
    reference = wide.forward([W.astype(float) for W in weights], X.astype(float))
    np.testing.assert_allclose(passed.output, reference.output, rtol=2e-5, atol=1e-6)


def nngp(activation, C, depth):
    """Kernel recursion typed from the arc-cosine and arc-sine formulas."""
    for _ in range(depth):
        s = np.sqrt(np.outer(np.diag(C), np.diag(C)))
        if activation == "relu":
            theta = np.arccos(np.clip(C / s, -1, 1))
            C = s * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
        if activation == "erf":
            d = 1 + 2 * np.diag(C)
            C = 2 / np.pi * np.arcsin(2 * C / np.sqrt(np.outer(d, d)))
    return C


@pytest.mark.parametrize("activation", ["relu", "erf", "linear"])
@pytest.mark.parametrize("limit", [{"gamma0": 1.0, "beta": 0.0}, {"gamma0": 1e-3, "beta": 2.0}])
def test_prior_and_lazy_kernels_are_the_nngp_kernel(activation, limit):
    r = np.random.default_rng(4)
    X, y = r.standard_normal((4, 6)), r.standard_normal(4)
    run = sample_posterior(
        X, y, depth=2, width=256, activation=activation, **limit,
        chains=8, samples=60, burn_in=100, dtype="float32", rng=5,
    )  # fmt: skip
    expected = np.array([nngp(activation, X @ X.T / 6, l) for l in (1, 2)])
    # Finite width moves the mean by O(1/N).
    slack = 4.0 / 256 * np.abs(expected).max()
    error = run.kernels.standard_error
    assert error.max() < 0.02 * np.abs(expected).max()
    assert (np.abs(run.kernels.mean - expected) < 4 * error + slack).all()


def test_prior_has_no_finite_width_correction_in_the_first_layer():
    r = np.random.default_rng(4)
    X, y = r.standard_normal((4, 6)), r.standard_normal(4)
    run = sample_posterior(X, y, depth=1, width=3, gamma0=1.0, beta=0.0, chains=64, samples=400, rng=6)
    assert (np.abs(run.kernels.mean[0] - X @ X.T / 6) < 4 * run.kernels.standard_error[0]).all()
    assert run.kernels.standard_error.max() < 0.02
    assert (run.acceptance > 1 - 1e-12).all()


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("inputs", 0, ValueError), ("inputs", 3.0, TypeError),
        ("depth", 0, ValueError), ("depth", 2.0, TypeError),
        ("width", 0, ValueError), ("width", (4, 5, 6), ValueError), ("width", (4, 2.5), TypeError), ("width", "ab", TypeError),
        ("gamma0", 0.0, ValueError), ("gamma0", np.nan, ValueError),
        ("activation", "sine", ValueError), ("activation", 3, TypeError),
        ("prior_variances", (1.0, 2.0), ValueError), ("prior_variances", 0.0, ValueError),
        ("dtype", "float16", ValueError), ("dtype", "no such", ValueError),
    ],
)  # fmt: skip
def test_bad_network(argument, value, error):
    settings = {"inputs": 3, "depth": 2, "width": 4, "gamma0": 1.0} | {argument: value}
    with pytest.raises(error, match=f"{argument}: expected"):
        MLP(settings.pop("inputs"), **settings)
