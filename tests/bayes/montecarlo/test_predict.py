"""Predictors against closed forms, lazy limits and brute-force quadrature over training and new preactivations together."""

from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from bayes.montecarlo.hand_made import cubature, deep_linear, hermite, lazy_in_sections, tilted
from linkern import activations, lazy
from linkern.bayes import solve_linear
from linkern.bayes.montecarlo.observables.compare import compare_predictors
from linkern.bayes.montecarlo.observables.estimate import over_sections
from linkern.bayes.montecarlo.observables.pairs import pair_kernels
from linkern.bayes.montecarlo.observables.predict import (
    Extension,
    NewInputs,
    new_kernels,
    new_variances,
    predict,
    prediction_error,
)
from linkern.bayes.montecarlo.observables.sampled import SampledSolution
from linkern.bayes.montecarlo.observables.smoothing import smoothed_moments
from linkern.bayes.montecarlo.quadrature.solve import solve_quadrature
from linkern.networks import sample_posterior
from linkern.solution import Status

FUNCTIONS = {
    "linear": lambda h: h,
    "relu": lambda h: max(h, mp.mpf(0)),
    "leaky_relu": lambda h: max(h, h / 100),
    "tanh": mp.tanh,
    "erf": mp.erf,
    "gelu": lambda h: h * mp.ncdf(h),
    "softplus": lambda h: mp.log1p(mp.exp(h)),
    "gaussian": lambda h: mp.exp(-h * h / 2),
    "sin": mp.sin,
    "cos": mp.cos,
}


@pytest.fixture(name="data")
def _data():
    rng = np.random.default_rng(5)
    X, X_new = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    return X, np.sign(X[:, 0] + 0.1), X_new, np.sign(X_new[:, 0] + 0.1)


def close(estimate, truth, *, vague):
    """Within four standard errors everywhere (as Student's t counts them), and standard errors small: neither wrong nor vague."""
    lower, upper = estimate.interval(level=1 - 6.3e-5)
    assert ((lower - 1e-12 <= truth) & (truth <= upper + 1e-12)).all()
    assert estimate.standard_error.max() < vague


@pytest.mark.parametrize("name", FUNCTIONS)
def test_smoothing_is_the_gaussian_average(name):
    phi = activations.get(name)
    for m, s in [(0.9, 0.6), (-0.4, 4.0), (2.5, 1e-3)]:
        kink = -m / s
        nodes = sorted({-12, -4, -2, -1, 0, 1, 2, 4, 12} | ({kink} if abs(kink) < 12 else set()))
        for power, found in enumerate(smoothed_moments(phi, np.array(m), np.array(s)), start=1):
            expected = float(mp.quad(lambda z: FUNCTIONS[name](m + s * z) ** power * mp.npdf(z), nodes))  # noqa: B023
            assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_smoothing_over_no_width_is_the_value(name):
    phi, m = activations.get(name), np.array([-3.0, -0.2, 0.0, 0.7])
    for s in (0.0, 1e-300, 1e-9):
        first, second = smoothed_moments(phi, m, np.array(s))
        assert first == pytest.approx(phi.value(m), abs=2e-9)
        assert second == pytest.approx(phi.value(m) ** 2, abs=2e-9)


@pytest.mark.parametrize(("depth", "samples"), [(1, 6), (3, 6), (2, 3)])
def test_deep_linear_predictor_is_the_closed_form(depth, samples):
    """With exact second moments nothing is left to sampling; 6 points in 4 dimensions make the kernels singular."""
    rng = np.random.default_rng(depth)
    X, Y, X_new = rng.standard_normal((samples, 4)), rng.standard_normal((samples, 2)), rng.standard_normal((5, 4))
    solution = solve_linear(X, Y, depth=depth, gamma0=1.3, beta=8.0)
    sample = deep_linear(solution, cubature)
    new = NewInputs.of(X, X_new)
    f = predict(sample, (), new, 1.0)
    assert f.value == pytest.approx(solution.predict(X_new), rel=1e-9, abs=1e-9)
    assert not f.standard_error.any()
    features = new_kernels(sample, (), new, 1.0).value
    K = np.stack([np.asarray(kernel) for kernel in solution.kernels])
    b = np.linalg.pinv(X.T) @ X_new.T
    assert features == pytest.approx((K @ b).transpose(0, 2, 1), rel=1e-9, abs=1e-9)


def test_training_inputs_are_predicted_as_fitted(data):
    X, y, _, _ = data
    rng = np.random.default_rng(0)
    sample, _ = lazy_in_sections(X @ X.T / 4, y, size=500, sections=2, depth=2, rng=rng, activation="gelu", beta=20.0)
    extension = Extension.of(sample, NewInputs.of(X, X), 1.0)
    assert extension.predictions == pytest.approx(sample.kernels[-1] @ sample.coefficients, rel=1e-9)
    assert extension.cross_kernels == pytest.approx(sample.kernels, rel=1e-9, abs=1e-12)
    assert extension.variances == pytest.approx(np.diagonal(sample.kernels, axis1=1, axis2=2), rel=1e-9)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_untilted_populations_give_the_lazy_limit(data, activation):
    X, y, X_new, y_new = data
    g, rng = [1.5, 0.7, 1.2], np.random.default_rng(11)
    sample, sections = lazy_in_sections(
        X @ X.T / 4, y, size=24000, sections=16, depth=2, rng=rng, activation=activation, beta=5.0, variances=g
    )
    new = NewInputs.of(X, X_new)
    network = {"depth": 2, "activation": activation, "prior_variances": g}
    close(new_kernels(sample, sections, new, g), lazy.layer_kernels(X_new, X, **network), vague=0.03)
    whole = lazy.layer_kernels(X_new, **network)
    close(new_variances(sample, sections, new, g), np.diagonal(whole, axis1=1, axis2=2), vague=0.03)
    close(pair_kernels(sample, sections, X, X_new, g, rng=3), whole, vague=0.04)
    exact = lazy.nngp_predict(X, y, X_new, beta=5.0, **network).mean
    close(predict(sample, sections, new, g), exact[:, None], vague=0.03)
    error = prediction_error(sample, sections, new, y_new, g)
    close(error, np.mean((exact - y_new) ** 2), vague=0.03)


def test_pair_kernels_contain_the_others_and_are_positive(data):
    X, y, X_new, _ = data
    rng = np.random.default_rng(2)
    sample, _ = lazy_in_sections(X @ X.T / 4, y, size=4000, sections=2, depth=2, rng=rng, activation="tanh", beta=5.0)
    points = np.concatenate([X_new, X[:2], X_new[:1]])
    K = pair_kernels(sample, (), X, points, 1.0, rng=0).value
    extension = Extension.of(sample, NewInputs.of(X, points), 1.0)
    # Towards training inputs nothing is drawn; equal inputs have equal rows.
    assert K[:, :, 5:7] == pytest.approx(extension.cross_kernels[:, :, :2], abs=1e-6)
    assert K[:, 0] == pytest.approx(K[:, 7], abs=1e-6)
    assert np.linalg.eigvalsh(K).min() > -1e-12
    assert np.diagonal(K, axis1=1, axis2=2) == pytest.approx(extension.variances, rel=0.03)
    again = pair_kernels(sample, (), X, points, 1.0, rng=0).value
    assert np.array_equal(K, again)


@pytest.mark.parametrize("samples", [1, 2])
def test_new_kernels_against_quadrature_over_all_preactivations(samples):
    """Two tilted tanh layers; the new input is integrated over together with the training inputs, the tilt ignoring it."""
    rng = np.random.default_rng(samples)
    points = 0.4 * rng.standard_normal((samples + 1, 3))
    C, g = points @ points.T / 3, np.array([1.4, 1.1, 0.8])
    V = rng.standard_normal((samples, 1))
    lower = 0.3 * np.eye(samples) - 0.5 * np.ones((samples, samples))
    duals = np.stack([lower, -(0.9**2) * V @ V.T])
    sample = tilted(C[:-1, :-1], duals, V, activation="tanh", nodes=50, variances=g)
    extension = Extension.of(sample, NewInputs(C[:-1, -1:], C[-1:, -1]), g)
    full = C
    z, w = hermite(50, samples + 1)
    for l, H in enumerate(duals):
        phi = np.tanh(z @ np.linalg.cholesky(g[l] * full).T)
        train = phi[:, :-1]
        p = w * np.exp(-np.einsum("sp,pq,sq->s", train, H, train) / 2)
        full = phi.T @ (p[:, None] * phi) / p.sum()
        assert extension.cross_kernels[l + 1, 0] == pytest.approx(full[-1, :-1], abs=1e-8)
        assert extension.variances[l + 1, 0] == pytest.approx(full[-1, -1], abs=1e-8)
    assert extension.predictions[0, 0] == pytest.approx(g[-1] * full[-1, :-1] @ V[:, 0], abs=1e-8)


def test_noise_in_the_kernels_cancels_at_the_training_inputs(data):
    """Kernels averaged over other samples than the sites: the predictor still fits the training inputs exactly."""
    X, y, _, _ = data
    rng = np.random.default_rng(4)
    sample, sections = lazy_in_sections(X @ X.T / 4, y, size=800, sections=2, depth=1, rng=rng, activation="relu", beta=50.0)
    mixed = type(sample)(sample.kernels, sample.dual_kernels, sample.coefficients, sections[0].sites)
    f = Extension.of(mixed, NewInputs.of(X, X), 1.0).predictions
    assert f == pytest.approx(y[:, None] - sample.coefficients / 50.0, rel=1e-8)


def test_errors_cover_and_the_bias_is_most_of_it():
    """A hundred-odd particles, again and again; a squared error is too large by the variance of the predictor."""
    rng = np.random.default_rng(8)
    X, y, X_new = np.array([[1.0, 0.4], [0.3, -1.0]]), np.array([1.0, -1.0]), np.array([[0.8, 0.9]])
    new = NewInputs.of(X, X_new)
    exact = lazy.nngp_predict(X, y, X_new, depth=1, activation="relu", beta=50.0).mean
    predictions, squares = [], []
    for _ in range(200):
        problem = {"activation": "relu", "beta": 50.0}
        sample, sections = lazy_in_sections(X @ X.T / 2, y, size=160, sections=8, depth=1, rng=rng, **problem)
        predictions.append(predict(sample, sections, new, 1.0))
        squares.append(prediction_error(sample, sections, new, exact, 1.0))
    f, errors = (np.array([getattr(p, name).item() for p in predictions]) for name in ("value", "standard_error"))
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(f.std(), rel=0.15)
    covered = [lower.item() <= exact.item() <= upper.item() for lower, upper in (p.interval(0.9) for p in predictions)]
    assert 0.85 < np.mean(covered) < 0.95
    raw, bias = (np.array([getattr(e, name).item() for e in squares]) for name in ("value", "bias"))
    noise = (raw - bias).std() / np.sqrt(len(raw))
    assert raw.mean() > 7 * noise
    assert abs((raw - bias).mean()) < 0.1 * raw.mean() + 3 * noise


def test_over_sections_states_the_textbook_formulas(data):
    X, y, _, _ = data
    rng = np.random.default_rng(1)
    sample, sections = lazy_in_sections(X @ X.T / 4, y, size=300, sections=5, depth=1, rng=rng, activation="tanh", beta=5.0)
    estimate = over_sections(lambda s: s.kernels[1], sample, sections)
    parts = np.stack([s.kernels[1] for s in sections])
    assert estimate.value == pytest.approx(sample.kernels[1])
    assert estimate.standard_error == pytest.approx(parts.std(axis=0, ddof=1) / np.sqrt(5), rel=1e-8)
    # A plain average of disjoint halves has no bias.
    assert estimate.bias == pytest.approx(np.zeros((6, 6)), abs=1e-14)
    lower, upper = estimate.interval(0.9)
    assert upper - lower == pytest.approx(2 * stats.t.ppf(0.95, 4) * estimate.standard_error)
    exact = over_sections(lambda s: s.kernels[1], sample, ())
    assert np.array_equal(*exact.interval())
    with pytest.raises(ValueError, match="sections: expected none, or at least 2"):
        over_sections(lambda s: 0.0, sample, sections[:1])
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        estimate.interval(1.0)


def test_comparison_of_predictors(data):
    X, y, X_new, y_new = data
    rng = np.random.default_rng(6)
    problem = {"depth": 1, "activation": "relu", "beta": 5.0}
    sample, sections = lazy_in_sections(X @ X.T / 4, y, size=20000, sections=10, rng=rng, **problem)
    solution = SampledSolution(
        parameters={"beta": 5.0, "prior_variances": [1.0, 1.0]}, residual=0.0, status=Status.CONVERGED,
        sample=sample, sections=sections, labels=y[:, None], label_shape=y.shape, X=X,
    )  # fmt: skip
    found = compare_predictors(solution, X_new, y_new, ridge=0.1)
    assert list(found) == ["NNGPK", "NNGP", "NTK", "aNBK"]
    nngp = lazy.nngp_predict(X, y, X_new, **problem)
    squares = (nngp.mean - y_new) ** 2
    assert found["NNGPK"].loss == pytest.approx(squares.mean())
    assert found["NNGPK"].loss_spread == pytest.approx(squares.std(ddof=1) / np.sqrt(5))
    assert found["NNGP"].loss == pytest.approx(squares.mean() + nngp.variance.mean())
    ntk = lazy.ntk_predict(X, y, X_new, depth=1, activation="relu", ridge=0.1)
    assert found["NTK"].loss == pytest.approx(np.mean((ntk.mean - y_new) ** 2))
    adaptive = found["aNBK"]
    assert abs(adaptive.loss - found["NNGPK"].loss) < 4 * adaptive.loss_error
    assert 0 < adaptive.loss_error < 0.02
    assert (np.abs(adaptive.mean - found["NNGPK"].mean) < 4 * adaptive.mean_error).all()
    assert np.isnan(compare_predictors(solution, X_new, ridge=0.1)["NNGP"].loss)
    with pytest.raises(ValueError, match="y_new: expected shape"):
        compare_predictors(solution, X_new, y, ridge=0.1)
    with pytest.raises(ValueError, match="X_new: expected a solution made from inputs X"):
        compare_predictors(replace(solution, X=None), X_new)


def test_solutions_answer_for_new_inputs():
    """One point, one layer, h = x and h_* = .6 x + .8 z: the trapezoidal rule in x and z, exact for such integrands."""
    root2, y_new = np.sqrt(2), 0.3
    x = np.linspace(-9, 9, 601)
    h, h_new = np.tanh(x), np.tanh(0.6 * x[:, None] + 0.8 * x)

    def law(v):
        weights = np.exp(-(x**2) / 2 + v**2 * h**2 / 2)
        return weights / weights.sum()

    v = brentq(lambda v: (law(v) @ h**2 + 1 / 4) * v - 0.8, 0.1, 3, xtol=1e-14)
    z = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    phi, cross, power = law(v) @ h**2, law(v) @ (h * (h_new @ z)), law(v) @ (h_new**2 @ z)
    X, X_new = np.array([[root2, 0.0]]), root2 * np.array([[0.6, 0.8]])
    found = solve_quadrature(X, [0.8], depth=1, gamma0=1.0, beta=4.0, activation="tanh")
    assert found.kernels[1, 0, 0] == pytest.approx(phi, rel=1e-9)
    assert found.fitted == pytest.approx([phi * v], rel=1e-9)
    assert found.overlaps().value == pytest.approx([0.64, phi * 0.64], rel=1e-9)
    assert found.alignment().value == pytest.approx([1, 1])
    assert found.kernels_at(X_new).value[:, 0, 0] == pytest.approx([0.6, cross], rel=1e-9)
    assert found.variances_at(X_new).value[:, 0] == pytest.approx([1.0, power], rel=1e-9)
    assert found.predict(X_new) == pytest.approx([cross * v], rel=1e-9)
    assert found.test_error(X_new, [y_new]).value == pytest.approx((cross * v - y_new) ** 2, rel=1e-9)
    # Draws, one per node, take no part where features explain each other.
    among = found.kernels_among(np.vstack([X_new, X]), rng=0).value[1]
    assert among[:, 1] == pytest.approx([cross, phi], rel=1e-9)
    neurons = found.preactivations(40000, layer=1, rng=5)[:, 0]
    squares = np.tanh(neurons) ** 2
    assert abs(squares.mean() - phi) < 4 * squares.std() / 200
    assert np.isinf(found.effective_sample_size).all()


def test_bad_input_is_named(data):
    X, y, X_new, y_new = data
    rng = np.random.default_rng(6)
    sample, _ = lazy_in_sections(X @ X.T / 4, y, size=100, sections=2, depth=1, rng=rng, activation="relu", beta=5.0)
    new = NewInputs.of(X, X_new)
    with pytest.raises(ValueError, match="X_new: expected 4 columns"):
        NewInputs.of(X, X_new[:, :2])
    with pytest.raises(ValueError, match="prior_variances: expected one number or 2"):
        predict(sample, (), new, [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"y_new: expected shape \(5,\)"):
        prediction_error(sample, (), new, y_new[:2], 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "depth"), [("relu", 1), ("tanh", 2)])
def test_wide_networks_predict_the_same(activation, depth):
    """Networks sampled at two widths, extrapolated to infinite width; they know nothing of kernels."""
    rng = np.random.default_rng(0)
    X, y, X_new = rng.standard_normal((2, 3)), np.array([1.0, -1.0]), rng.standard_normal((4, 3))
    problem = {"depth": depth, "activation": activation, "gamma0": 1.5, "beta": 5.0}
    f = predict(solve_quadrature(X, y, **problem).sample, (), NewInputs.of(X, X_new), 1.0).value[:, 0]
    narrow, wide = (
        sample_posterior(X, y, width=N, samples=3000, chains=8, rng=N, X_test=X_new, **problem).test for N in (50, 100)
    )
    error = np.hypot(2 * wide.standard_error, narrow.standard_error)
    assert (np.abs(2 * wide.mean - narrow.mean - f) < 4 * error).all()
    assert error.max() < 0.01
