r"""Smooth activations: where their closed forms come from, and Wick's theorem for polynomials.

`duals.py` writes the formulas down and differentiates them; here each is derived from a Gaussian integral that is a determinant.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mp

from linkern.derivations.duals import (
    ORIGIN,
    SETS,
    a,
    along,
    b,
    c,
    conditional,
    cos_value,
    d,
    density,
    draw,
    erf_cross,
    erf_value,
    gaussian_value,
    line,
    r,
    rational,
    reduced,
    s,
    sin_value,
    tilted,
    value_at,
)
from linkern.symbolic import Kind, claim, equal, vanishes


@claim(
    r"E[\operatorname{erf} u \operatorname{erf} v] = \frac{2}{\pi} \arctan\frac{2c}{\sqrt{1 + 2a + 2b + 4s^2}}",
    Kind.SOLUTION,
    ORIGIN,
)
def erf_duals():
    """The average of two Gaussians is a determinant; its integral over c, from the odd value 0, is an arctangent."""
    covariance = sp.Matrix([[a, c], [c, b]])
    determinant = (sp.eye(2) + 2 * covariance).det()
    yield equal("E[phi' phi'] is 4/pi times det(1 + 2K)^(-1/2)", reduced(determinant), 1 + 2 * a + 2 * b + 4 * s**2)
    yield equal("derivative in c", along(erf_value, c), erf_cross)
    yield vanishes("value at c = 0", erf_value.subs(c, 0))


@erf_duals.check
def _(rng):
    variance, other, covariance = draw(rng)
    slope, rest = conditional(variance, other, covariance)
    shrink = slope / mpmath.sqrt(1 + 2 * rest)
    table = SETS["erf"]
    yield value_at(table[0, 0], variance, other, covariance), line(lambda u: mpmath.erf(u) * mpmath.erf(shrink * u), variance)
    second = line(lambda u: -4 * u / mpmath.sqrt(mp.pi) * mpmath.exp(-u * u) * mpmath.erf(shrink * u), variance)
    yield value_at(table[2, 0], variance, other, covariance), second


@claim(
    r"E[\varphi\varphi] = \frac{c\,\operatorname{atan2}(r, -c)}{2\pi} + \frac{1}{2\pi r}"
    r"\left[\frac{a(b + s^2)}{1 + a} + \frac{c^2}{1 + b}\right],\quad \varphi = \mathrm{GELU},\; r^2 = 1 + a + b + s^2",
    Kind.SOLUTION,
    "linkern; Tsuchida et al. (2021)",
)
def gelu_duals():
    """Stein's lemma gives it; Price's theorem returns from it the Gaussian average of phi'' = (2 - h^2) q, found by Wick."""
    weight, (A, B, C) = tilted(1, 1)
    wick = (4 - 2 * A - 2 * B + A * B + 2 * C**2) * weight / (2 * sp.pi)
    found = SETS["gelu"][2, 2].subs(r, sp.sqrt(1 + a + b + s**2))
    yield equal("second derivative in c", rational(found), rational(wick))
    at_zero = {c: 0, s: sp.sqrt(a * b)}
    cross = SETS["gelu"][1, 1].subs(r, sp.sqrt(1 + a + b + s**2)).subs(at_zero)
    yield equal("slope at c = 0 is E[phi']^2", cross, sp.Rational(1, 4))
    value = SETS["gelu"][0, 0].subs(r, sp.sqrt(1 + a + b + s**2)).subs(at_zero)
    means = a * b / (2 * sp.pi * sp.sqrt((1 + a) * (1 + b)))
    yield equal("value at c = 0 is E[phi] E[phi]", sp.factor(value**2), sp.factor(means**2))


@gelu_duals.check
def _(rng):
    variance, other, covariance = draw(rng)
    slope, rest = conditional(variance, other, covariance)
    wide = mpmath.sqrt(1 + rest)

    def given(u):
        mean = slope * u
        return mean * mpmath.ncdf(mean / wide) + rest / wide * density(mean / wide)

    table = SETS["gelu"]
    yield value_at(table[0, 0], variance, other, covariance), line(lambda u: u * mpmath.ncdf(u) * given(u), variance)
    yield value_at(table[2, 0], variance, other, covariance), line(lambda u: (2 - u * u) * density(u) * given(u), variance)
    fourth = line(lambda u: (-(u**4) + 7 * u**2 - 4) * density(u) * given(u), variance)
    yield value_at(table[4, 0], variance, other, covariance), fourth


@claim(
    r"E[e^{-u^2/2} e^{-v^2/2}] = (1 + a + b + s^2)^{-1/2},\quad E[\sin u \sin v] = e^{-(a+b)/2} \sinh c,\quad"
    r" E[\cos u \cos v] = e^{-(a+b)/2} \cosh c",
    Kind.SOLUTION,
    ORIGIN,
)
def waves_and_gaussian_duals():
    """A determinant, and characteristic functions of u + v and u - v."""
    determinant = (sp.eye(2) + sp.Matrix([[a, c], [c, b]])).det()
    yield equal("the determinant", reduced(determinant), 1 + a + b + s**2)
    apart, together = sp.exp(-(a + b - 2 * c) / 2), sp.exp(-(a + b + 2 * c) / 2)
    gap = (a + b) / 2 - c
    yield equal("sin sin = (cos(u - v) - cos(u + v))/2", (apart - together) / 2, sin_value.subs(d, gap))
    yield equal("cos cos = (cos(u - v) + cos(u + v))/2", (apart + together) / 2, cos_value.subs(d, gap))
    yield equal("Price links them", sp.diff(sin_value.subs(d, gap), c), cos_value.subs(d, gap))


@waves_and_gaussian_duals.check
def _(rng):
    variance, other, covariance = draw(rng)
    slope, rest = conditional(variance, other, covariance)
    gap = (variance + other) / 2 - covariance
    for value, wave in ((sin_value, mpmath.sin), (cos_value, mpmath.cos)):
        found = mpmath.mpmathify(sp.lambdify((d, c), value, modules="mpmath")(gap, covariance))
        yield found, line(lambda u, wave=wave: wave(u) * mpmath.exp(-rest / 2) * wave(slope * u), variance)
    bell = line(lambda u: mpmath.exp(-u * u / 2 - (slope * u) ** 2 / (2 + 2 * rest)) / mpmath.sqrt(1 + rest), variance)
    yield value_at(gaussian_value, variance, other, covariance), bell


@claim(
    r"E[p(u) q(v)] = \sum_k \frac{c^k}{k!} E[p^{(k)}(u)]\, E[q^{(k)}(v)]",
    Kind.SERIES,
    "linkern; Mehler's formula for any variances",
)
def polynomial_duals():
    """Price's theorem k times at c = 0, where u and v are independent; Taylor's series in c ends with the degree."""
    for m in range(6):
        for n in range(m, 6):
            if (m + n) % 2 == 0:
                series = sum(c**k / sp.factorial(k) * polynomial_mean(m, k, a) * polynomial_mean(n, k, b) for k in range(m + 1))
                yield equal(f"E[u^{m} v^{n}] by Wick's theorem", series, wick_pair(m, n, a, b, c))


def polynomial_mean(power, order, variance):
    """E of the k-th derivative of u^m."""
    left = power - order
    return sp.ff(power, order) * (sp.factorial2(left - 1) * variance ** (left // 2) if left % 2 == 0 else 0)


def wick_pair(m, n, variance, other, covariance):
    """E[u^m v^n] as a sum over pairings: the first factor is paired with one of the others, recursively."""
    if m + n == 0:
        return sp.S.One
    if m == 0:
        return (n - 1) * other * wick_pair(0, n - 2, variance, other, covariance) if n > 1 else sp.S.Zero
    inside = (m - 1) * variance * wick_pair(m - 2, n, variance, other, covariance) if m > 1 else 0
    return inside + (n * covariance * wick_pair(m - 1, n - 1, variance, other, covariance) if n > 0 else 0)


@polynomial_duals.check
def _(rng):
    variance, other, covariance = draw(rng)
    slope, rest = conditional(variance, other, covariance)

    def means(m, n, k):
        return sp.lambdify((a, b), polynomial_mean(m, k, a) * polynomial_mean(n, k, b), "mpmath")

    for m, n in ((3, 3), (4, 2)):
        total = mpmath.fsum(covariance**k / mpmath.factorial(k) * means(m, n, k)(variance, other) for k in range(min(m, n) + 1))
        given = (lambda x: x**3 + 3 * x * rest) if n == 3 else (lambda x: x**2 + rest)
        yield total, line(lambda u, m=m, given=given: u**m * given(slope * u), variance)


CLAIMS = (erf_duals, gelu_duals, waves_and_gaussian_duals, polynomial_duals)
