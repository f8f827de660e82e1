"""Every conversion is checked as a statement about distributions: log densities of both sides differ by a constant."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from linkern import conventions
from linkern.conventions import FiniteWidthBayes, Langevin, MeanField

D, N, P = 3, 5, 4
rng = np.random.default_rng(8)
X, Y = rng.standard_normal((P, D)), rng.standard_normal(P)


def phi(h):
    """An activation that is analytic, so that complex steps differentiate it to machine precision."""
    return h + 0.3 * h**2


def draw(depth, generator):
    shapes = [(N, D), *[(N, N)] * (depth - 1), (N,)]
    return [generator.standard_normal(shape) for shape in shapes]


def mean_field_output(weights, gamma0):
    h = X @ weights[0].T / np.sqrt(D)
    for W in weights[1:-1]:
        h = phi(h) @ W.T / np.sqrt(N)
    return phi(h) @ weights[-1] / (gamma0 * N)


def physical_output(weights):
    h = X @ weights[0].T
    for V in weights[1:-1]:
        h = phi(h) @ V.T
    return phi(h) @ weights[-1]


def mean_field_log_density(weights, m):
    misfit = ((mean_field_output(weights, m.gamma0) - Y) ** 2).sum()
    prior = sum((W**2).sum() / (2 * g) for W, g in zip(weights, m.prior_variances, strict=True))
    return -m.beta * m.gamma0**2 * N / 2 * misfit - prior


def physical_log_density(weights, b):
    g, depth = b.prior_variances, len(b.prior_variances) - 1
    variances = [g[0] / D, *(v / N for v in g[1:depth]), g[-1] / (b.chi * N)]
    prior = sum((V**2).sum() / (2 * s) for V, s in zip(weights, variances, strict=True))
    return -((physical_output(weights) - Y) ** 2).sum() / (2 * b.ridge) - prior


def assert_same_distribution(left, right, change, depth):
    """log p_left(W) - log p_right(change(W)) does not depend on W although each term does."""
    generator = np.random.default_rng(1)
    draws = [draw(depth, generator) for _ in range(12)]
    a = np.array([left(W) for W in draws])
    b = np.array([right(change(W)) for W in draws])
    assert np.ptp(a) > 1
    assert np.ptp(a - b) < 1e-11 * np.abs(a).max()


CASES = [
    MeanField(0.7, 3.0, (1.0, 1.0)),
    MeanField(1.9, 0.4, (2.0, 0.5, 1.7)),
    MeanField(0.2, 11.0, (0.3, 1.2, 2.5, 0.8)),
]


@pytest.mark.parametrize("m", CASES)
def test_finite_width_bayes(m):
    b = m.finite_width(N)
    scales = [1 / math.sqrt(D), *[1 / math.sqrt(N)] * (m.depth - 1), 1 / (m.gamma0 * N)]
    assert_same_distribution(
        lambda W: mean_field_log_density(W, m),
        lambda V: physical_log_density(V, b),
        lambda W: [c * w for c, w in zip(scales, W, strict=True)],
        m.depth,
    )
    np.testing.assert_allclose(
        conventions.weight_scales(gamma0=m.gamma0, width=N, dimension=D, depth=m.depth), scales, rtol=1e-15
    )
    np.testing.assert_allclose(np.hstack(astuple(b.mean_field())), np.hstack(astuple(m)), rtol=1e-14)
    np.testing.assert_allclose(np.hstack(astuple(b.mean_field().finite_width(N))), np.hstack(astuple(b)), rtol=1e-14)


@pytest.mark.parametrize("m", CASES)
def test_unit_readout(m):
    unit = m.unit_readout()
    assert unit.prior_variances == (*m.prior_variances[:-1], 1.0)
    assert_same_distribution(
        lambda W: mean_field_log_density(W, m),
        lambda W: mean_field_log_density(W, unit),
        lambda W: [*W[:-1], W[-1] / math.sqrt(m.prior_variances[-1])],
        m.depth,
    )


def test_textbook_table():
    """gamma0^2 = chi/(g_w N) and 1/beta = ridge chi/g_w, for standard, intermediate and mean-field scaling."""
    g_w, kappa0, width = 1.6, 0.3, 400
    for chi in (1.0, 20.0, 400.0):
        m = FiniteWidthBayes(width, chi, kappa0 / chi, (1.0, 1.0, g_w)).mean_field().unit_readout()
        assert m.gamma0**2 == pytest.approx(chi / (g_w * width), rel=1e-14)
        assert m.beta == pytest.approx(g_w / kappa0, rel=1e-14)
    b = MeanField(0.5, 20.0, (1.0, 1.0)).finite_width(width)
    assert (b.chi, b.ridge) == pytest.approx((0.25 * width, 1 / (20.0 * 0.25 * width)), rel=1e-14)


@pytest.mark.parametrize("decay", [0.6, (0.6, 0.1, 2.0)])
def test_weight_decay(decay):
    beta, gamma0, depth = 2.5, 0.8, 2
    m = MeanField.from_weight_decay(gamma0, beta, decay, depth=depth)

    def energy(W):
        penalties = np.broadcast_to(decay, depth + 1)
        misfit = ((mean_field_output(W, gamma0) - Y) ** 2).sum()
        return gamma0**2 * N / 2 * misfit + sum(k / 2 * (w**2).sum() for k, w in zip(penalties, W, strict=True))

    assert_same_distribution(lambda W: mean_field_log_density(W, m), lambda W: -beta * energy(W), lambda W: W, depth)
    np.testing.assert_allclose(m.weight_decay, np.broadcast_to(decay, depth + 1), rtol=1e-14)


def test_ntk_parameterisation():
    """Gaussian likelihood of variance 1/beta on f = w . phi/sqrt(N), unit weights."""
    beta, depth = 4.0, 2
    m = MeanField.ntk(N, depth=depth, beta=beta)

    def log_density(W):
        f = mean_field_output(W, 1.0) * np.sqrt(N)
        return -beta / 2 * ((f - Y) ** 2).sum() - sum((w**2).sum() for w in W) / 2

    assert_same_distribution(lambda W: mean_field_log_density(W, m), log_density, lambda W: W, depth)
    assert m.gamma0**2 * N == pytest.approx(1, rel=1e-15)
    assert MeanField.ntk(N, depth=1, beta=np.inf, prior_variances=(2.0, 3.0)).prior_variances == (2.0, 3.0)


def gradient(function, weights):
    """Complex-step gradient of a scalar function of the list of weight arrays."""
    out = []
    for l, W in enumerate(weights):
        slot = np.zeros(W.shape)
        for index in np.ndindex(W.shape):
            moved = [w.astype(complex) for w in weights]
            moved[l][index] += 1e-30j
            slot[index] = function(moved).imag / 1e-30
        out.append(slot)
    return out


def test_one_step_is_the_same_in_mean_field_and_in_physical_weights():
    """Trajectories agree, not only stationary distributions: step eta gamma0^2 N c_l^2, temperature 1/(beta gamma0^2 N)."""
    m, eta = MeanField(0.7, 3.0, (1.4, 0.6, 2.0)), 0.01
    generator = np.random.default_rng(3)
    W, noise = draw(2, generator), draw(2, generator)
    slope = gradient(lambda w: ((mean_field_output(w, m.gamma0) - Y) ** 2).sum() / 2, W)
    after = [
        w - eta * (m.gamma0**2 * N * s + w / (m.beta * g)) + math.sqrt(2 * eta / m.beta) * xi
        for w, s, g, xi in zip(W, slope, m.prior_variances, noise, strict=True)
    ]
    c = conventions.weight_scales(gamma0=m.gamma0, width=N, dimension=D, depth=2)
    b = m.finite_width(N)
    V = [k * w for k, w in zip(c, W, strict=True)]
    slope = gradient(lambda v: ((physical_output(v) - Y) ** 2).sum() / 2, V)
    spread = [b.prior_variances[0] / D, b.prior_variances[1] / N, b.prior_variances[2] / (b.chi * N)]
    for l in range(3):
        step = eta * m.gamma0**2 * N * c[l] ** 2
        drift = slope[l] + b.ridge * V[l] / spread[l]
        moved = V[l] - step * drift + math.sqrt(2 * step * b.ridge) * noise[l]
        np.testing.assert_allclose(moved, c[l] * after[l], rtol=1e-12, atol=1e-15)


LOSS = {
    "sum": lambda f: ((f - Y) ** 2).sum() / 2,
    "mean": lambda f: ((f - Y) ** 2).sum() / (2 * P),
    "mse": lambda f: ((f - Y) ** 2).sum() / P,
}


@pytest.mark.parametrize("given", list(LOSS))
@pytest.mark.parametrize("wanted", list(LOSS))
def test_losses(given, wanted):
    gamma0 = 0.7
    generator = np.random.default_rng(4)
    W, noise = draw(2, generator), draw(2, generator)

    def update(r):
        slope = gradient(lambda w: LOSS[r.loss](mean_field_output(w, gamma0)), W)
        return [
            w - r.step * (gamma0**2 * N * s + r.weight_decay * w) + math.sqrt(2 * r.step / r.beta) * xi
            for w, s, xi in zip(W, slope, noise, strict=True)
        ]

    rule = Langevin(0.02, 5.0, 0.3, P, given)
    other = rule.with_loss(wanted)
    assert other.loss == wanted
    for a, b in zip(update(rule), update(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    back = other.with_loss(given)
    np.testing.assert_allclose(astuple(back)[:3], astuple(rule)[:3], rtol=1e-15)
    assert Langevin(0.02, np.inf, 0.0, P, given).with_loss(wanted).beta == np.inf


@pytest.mark.parametrize("loss", list(LOSS))
def test_what_langevin_samples(loss):
    """Drift = (step/beta) grad log p and noise variance 2 step/beta: the Fokker-Planck stationary density is p."""
    rule, gamma0 = Langevin(0.02, 5.0, 0.3, P, loss), 0.7
    m = rule.mean_field(gamma0, depth=2)
    W = draw(2, np.random.default_rng(6))
    slope = gradient(lambda w: LOSS[loss](mean_field_output(w, gamma0)), W)
    force = gradient(lambda w: mean_field_log_density(w, m), W)
    for w, s, k in zip(W, slope, force, strict=True):
        drift = -rule.step * (gamma0**2 * N * s + rule.weight_decay * w)
        np.testing.assert_allclose(drift, rule.step / rule.beta * k, rtol=1e-12, atol=1e-15)
    again = m.langevin(rule.with_loss("sum").step, P).with_loss(loss)
    np.testing.assert_allclose(astuple(again)[:3], astuple(rule)[:3], rtol=1e-14)


def test_zero_temperature():
    b = MeanField(0.5, np.inf, (1.0, 2.0)).finite_width(10)
    assert b.ridge == 0
    assert b.mean_field().beta == np.inf
    assert (MeanField(0.5, np.inf, (1.0, 2.0)).weight_decay == 0).all()
    with pytest.raises(ValueError, match="beta: expected a finite number > 0"):
        Langevin(0.1, np.inf, 0.1, P).mean_field(1.0, 2)
    with pytest.raises(ValueError, match="weight_decay: expected numbers > 0"):
        Langevin(0.1, 1.0, 0.0, P).mean_field(1.0, 2)


@pytest.mark.parametrize(("depth", "degree"), [(1, 1), (4, 1), (2, 2), (3, 0), (2, 0.5)])
def test_homogeneity_degree(depth, degree):
    generator = np.random.default_rng(0)
    weights = [np.abs(w) for w in draw(depth, generator)]
    x = np.abs(generator.standard_normal(D))

    def f(s):
        h = s * weights[0] @ x
        for W in weights[1:-1]:
            h = s * W @ h**degree
        return s * weights[-1] @ h**degree

    measured = math.log(f(3.0) / f(1.0)) / math.log(3.0)
    assert conventions.homogeneity_degree(depth, degree) == pytest.approx(measured, rel=1e-12)


def test_bad_input():
    for arguments, message in (
        ((0.0, 1.0, (1.0, 1.0)), "gamma0: expected a finite number > 0"),
        ((1.0, -1.0, (1.0, 1.0)), "beta: expected a number > 0"),
        ((1.0, 1.0, (1.0,)), "prior_variances: expected at least two numbers > 0"),
        ((1.0, 1.0, (1.0, 0.0)), "prior_variances: expected at least two numbers > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanField(*arguments)
    for arguments, message in (
        ((0, 1.0, 1.0, (1.0, 1.0)), "width: expected an integer >= 1"),
        ((5, 0.0, 1.0, (1.0, 1.0)), "chi: expected a finite number > 0"),
        ((5, 1.0, -1.0, (1.0, 1.0)), "ridge: expected a finite number >= 0"),
        ((5, 1.0, 1.0, (1.0,)), "prior_variances: expected at least two"),
    ):
        with pytest.raises(ValueError, match=message):
            FiniteWidthBayes(*arguments)
    with pytest.raises(ValueError, match="loss: expected one of sum, mean, mse, got 'l2'"):
        Langevin(0.1, 1.0, 1.0, P, "l2")
    with pytest.raises(ValueError, match="prior_variances: expected equal numbers"):
        MeanField(1.0, 1.0, (1.0, 2.0)).langevin(0.1, P)
    with pytest.raises(ValueError, match="depth: expected an integer >= 1"):
        conventions.homogeneity_degree(0)


def test_the_table_of_symbols_is_latex():
    matplotlib = pytest.importorskip("matplotlib.mathtext")
    parser = matplotlib.MathTextParser("path")
    for word, symbol in conventions.SYMBOLS.items():
        assert word == word.strip()
        parser.parse(f"${symbol}$")
