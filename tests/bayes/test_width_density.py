"""The density of ln Q against Bessel functions, its own moments and finite differences, at 40 digits."""

import mpmath as mp
import numpy as np
import pytest

from linkern.bayes.width.density import ProductDensity


def bessel_log_density(shapes, t, rates=None):
    """ln p(t) of ln(q_1 q_2), q_l ~ Gamma(shape_l, rate_l)."""
    (a, c), (b, d) = [mp.mpf(s) for s in shapes], [mp.mpf(r) for r in rates or shapes]
    z = b * d * mp.exp(mp.mpf(t))
    value = mp.log(2) + (a + c) / 2 * mp.log(z) + mp.log(mp.besselk(a - c, 2 * mp.sqrt(z)))
    return value - mp.loggamma(a) - mp.loggamma(c)


@pytest.mark.parametrize(
    ("widths", "points"),
    [
        ((1, 1), (-60.0, -5.0, 0.0, 3.0, 6.0)),
        ((1, 3), (-30.0, -8.0, 0.0, 3.0)),
        ((10, 10), (-8.0, -2.0, 0.0, 1.0, 5.0)),
        ((3, 70), (-20.0, -1.0, 0.0, 2.0)),
        ((1, 1000000), (-10.0, 0.0, 1.0)),
        ((1000000, 1000000), (-0.01, 0.0, 0.01, 0.3)),
    ],
)
def test_two_layers_match_bessel_functions(widths, points):
    found = ProductDensity(np.array(widths, float)).exact(np.array(points)).log
    with mp.workdps(40):
        for t, value in zip(points, found, strict=True):
            expected = bessel_log_density([mp.mpf(N) / 2 for N in widths], t)
            # An error of ln p is a relative error of p; beyond a thousand nats rounding of the exponent shows.
            assert abs(value - expected) < 2e-12 + 1e-15 * abs(expected)


@pytest.mark.parametrize("width", [1, 7, 33, 1000, 1000000])
def test_one_layer_is_the_closed_form(width):
    t = np.array([-2.0, -0.3, 0.0, 0.001, 0.4, 1.5]) / np.sqrt(width)
    found = ProductDensity(np.array([width], float)).exact(t)
    with mp.workdps(40):
        n = mp.mpf(width) / 2
        for point, value, slope in zip(t, found.log, found.slope, strict=True):
            expected = n * mp.log(n) - mp.loggamma(n) + n * (mp.mpf(point) - mp.exp(mp.mpf(point)))
            assert abs(value - expected) < 1e-13
            assert slope == pytest.approx(float(n * (1 - mp.exp(mp.mpf(point)))), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("widths", [(2, 5, 9), (1, 1, 1), (40, 40, 40, 40), (3, 500, 20, 20, 7)])
def test_moments_are_ratios_of_gamma_functions(widths):
    """int p(t) e^{st} dt = prod Gamma(a + s)/(Gamma(a) a^s), for s > 0 and s < 0: both tails, several layers."""
    t = np.arange(-260.0 if min(widths) < 3 else -60.0, 14.0, 0.02)
    p = ProductDensity(np.array(widths, float)).exact(t).log
    for s in (-0.3, 0.0, 1.0, 2.5):
        expected = mp.fprod(mp.gamma(mp.mpf(N) / 2 + s) / mp.gamma(mp.mpf(N) / 2) / (mp.mpf(N) / 2) ** s for N in widths)
        assert np.exp(p + s * t).sum() * 0.02 == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("widths", [(4, 9), (1, 30), (300, 300)])
def test_growth_is_the_ratio_of_the_size_biased_density(widths):
    points = np.array([-3.0, -0.2, 0.0, 0.4])
    growth = ProductDensity(np.array(widths, float)).exact(points).growth
    assert np.array_equal(growth[0], np.ones(points.size))
    with mp.workdps(40):
        a, c = (mp.mpf(N) / 2 for N in widths)
        for t, value in zip(points, growth[1], strict=True):
            expected = mp.exp(bessel_log_density((a + 1, c), t, (a, c)) - bessel_log_density((a, c), t))
            assert value == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("widths", [(2, 5, 9), (100, 100), (1, 1)])
def test_slope_is_the_derivative(widths):
    density = ProductDensity(np.array(widths, float))
    t, h = np.array([-4.0, -0.5, 0.0, 0.3, 1.0]), 1e-4
    values = [density.exact(t + k * h).log for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert density.exact(t).slope == pytest.approx(slope, rel=1e-8, abs=1e-8)


def test_approximation_is_close_and_its_stiffness_is_the_slope_of_c():
    density = ProductDensity(np.array([50.0, 80.0]))
    t = np.array([-0.8, 0.0, 0.5])
    log_p, slope, stiffness = density.approximate(t)
    assert np.abs(log_p - density.exact(t).log).max() < 0.02
    difference = (density.saddle(t + 1e-5) - density.saddle(t - 1e-5)) / 2e-5
    assert stiffness == pytest.approx(difference, rel=1e-6)
    assert slope == pytest.approx(-density.saddle(t), rel=1e-12, abs=1e-12)
