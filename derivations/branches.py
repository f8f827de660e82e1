"""Several solutions: stability, certified isolation, spinodals and the critical point of the first-order transition.

In x = ln k the scalar equation is F(x) = x - sum_l ln(1 + A(x)/n_l) = 0. For whitened data the saturation s = k beta
parametrises the spinodals in closed form.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations import whitened
from linkern.derivations.notation import L, T, a, c, gamma0, n, s
from linkern.derivations.routes import log_uniform
from linkern.symbolic import Kind, NumPyFunction, claim, equal, holds, tends_to, vanishes

ORIGIN = "linkern; not in the papers"
HOME = "derivations/branches.py"

x = sp.Symbol("x", real=True)
slope = sp.Symbol("D", real=True)  # d ln A / dx, the average of the modes' slopes

#: Spinodals: charge, gamma0^2 and beta on the curve F = F' = 0, as functions of the saturation s.
spinodal_charge = (1 + s) / ((L - 1) - (L + 1) * s)
_growth = sp.exp(L * sp.log(1 + spinodal_charge))
spinodal_beta = s / _growth
spinodal_gamma0_squared = spinodal_charge * _growth * (1 + s) ** 2 / s**2
critical_saturation = (L - 1) / (2 * L + sp.sqrt(3 * L**2 + 1))


def _equation(depth, strength, temperature):
    """F and its first two derivatives at a point, for whitened data, by mpmath's numerical differentiation."""

    def F(value):
        k = mpmath.exp(value)
        return value - depth * mpmath.log1p(strength * k / (k + temperature) ** 2)

    return F


@claim(
    r"\frac{dS}{d\ln c_L} = \frac{1}{2}\big[a(c_L) - a_{\rm data}(c_L)\big],\; (1+a(c_L))^L = c_L:\quad"
    r" \text{a root of } F \text{ is a minimum of } S \text{ iff } F' > 0",
    Kind.IDENTITY,
    ORIGIN,
)
def stability():
    """The reduced force has the sign of F, because ln(1 + a) increases with a."""
    demanded = gamma0**2 * c[L] / (c[L] + T) ** 2
    yield equal("force", whitened.reduction.force, (a - demanded) / 2)
    # F = ln c_L - L ln(1 + demanded) = L [ln(1 + a) - ln(1 + demanded)] on the chain.
    chain = sp.log(whitened.reduction.profile(L))
    yield equal("F on the chain", sp.expand_log(chain, force=True), L * sp.log(1 + a))
    yield holds("ln(1 + a) is increasing", sp.diff(sp.log(1 + a), a).is_positive)


@stability.check
def _(rng):
    depth, strength, temperature = rng.randint(1, 6), log_uniform(rng, 0.1, 10), log_uniform(rng, 0.01, 10)
    point = mpf(rng.uniform(0.1, 4))

    def reduced(value):
        overlap = mpmath.exp(value)
        charge = mpmath.expm1(value / depth)
        return strength / (2 * (overlap + temperature)) + mpf(depth) / 2 * (charge - mpmath.log1p(charge))

    k = mpmath.exp(point)
    with mpmath.workdps(140):
        numeric = mpmath.diff(reduced, point)
    yield numeric, (mpmath.expm1(point / depth) - strength * k / (k + temperature) ** 2) / 2


@claim(
    r"|F'| \le 1 + E,\qquad |F''| \le E,\qquad E = \sum_{l=1}^{L} \frac{A}{n_l + A} \le L \quad \text{for any spectrum}",
    Kind.INEQUALITY,
    ORIGIN,
)
def isolation_bounds():
    """With D = d ln A/dx an average of slopes d_i in (-1, 1): F' = 1 - sum_l r_l D, r_l = A/(n_l + A) in (0, 1)."""
    charge, mode = sp.symbols("A s", positive=True)
    d = (1 - mode) / (1 + mode)
    yield holds("d < 1", sp.factor(1 - d).is_positive)
    yield holds("d > -1", sp.factor(1 + d).is_positive)
    r = charge / (n + charge)
    yield holds("0 < r", r.is_positive)
    yield holds("r < 1", sp.factor(1 - r).is_positive)
    yield equal("d ln(1 + A/n)/dx = r D", sp.diff(sp.log(1 + charge / n), charge) * charge * slope, r * slope)
    yield equal("dr/dx = r (1 - r) D", sp.diff(r, charge) * charge, r * (1 - r))
    # Each layer adds -r B to F'', B = (1 - r) D^2 + D'. One mode has d' = -(1 - d^2)/2, and the derivative of an average
    # adds its variance: D' = -(1 - m)/2 + m - D^2 with m = <d^2>, D^2 <= m <= 1. To be shown: -1/2 <= B <= 1.
    yield equal("slope of one mode", sp.diff(d, mode) * mode, -(1 - d**2) / 2)
    share, rest = sp.symbols("r t", positive=True)  # r and 1 - r
    below_one, variance = sp.symbols("w v", nonnegative=True)  # 1 - m and m - D^2

    def layer_part(mean_square):
        return (1 - share) * slope**2 - (1 - mean_square) / 2 + mean_square - slope**2

    yield holds("B <= 1", sp.expand(1 - layer_part(1 - below_one)).is_nonnegative)
    above = layer_part(slope**2 + variance) + sp.Rational(1, 2)
    yield holds("B >= -1/2", sp.expand(above.subs(share, 1 - rest)).is_nonnegative)


@isolation_bounds.check
def _(rng):
    # The identities behind the bounds, with five modes: F' and F'' from averages against numerical differentiation.
    depth, temperature = rng.randint(1, 6), log_uniform(rng, 0.01, 10)
    modes = [(log_uniform(rng, 1e-3, 10), log_uniform(rng, 0.01, 1)) for _ in range(5)]

    def charge(value):
        k = mpmath.exp(value)
        return mpmath.fsum(b * lam * k / (k * lam + temperature) ** 2 for lam, b in modes)

    point = mpf(rng.uniform(0, 3))
    k, total = mpmath.exp(point), charge(point)
    shares = [b * lam * k / (k * lam + temperature) ** 2 / total for lam, b in modes]
    slopes = [(temperature - k * lam) / (temperature + k * lam) for lam, _ in modes]
    mean = mpmath.fsum(p * d for p, d in zip(shares, slopes, strict=True))
    square = mpmath.fsum(p * d**2 for p, d in zip(shares, slopes, strict=True))
    r = total / (1 + total)
    with mpmath.workdps(140):
        first = mpmath.diff(lambda v: v - depth * mpmath.log1p(charge(v)), point)
        second = mpmath.diff(lambda v: v - depth * mpmath.log1p(charge(v)), point, 2)
    yield first, 1 - depth * r * mean
    yield second, -depth * (r * (1 - r) * mean**2 + r * ((3 * square - 1) / 2 - mean**2))


@claim(
    r"L = 1:\; F' = \frac{T + c + 2ac}{(1+a)(T+c)} > 0: \text{ the solution is unique}",
    Kind.INEQUALITY,
    ORIGIN,
)
def unique_for_one_layer():
    """F' at L = 1 is a ratio of positive terms (for a general spectrum r < 1 and |D| < 1 give the same)."""
    overlap = sp.Symbol("c", positive=True)
    derivative = 1 - a / (1 + a) * (T - overlap) / (T + overlap)
    stated = (T + overlap + 2 * a * overlap) / ((1 + a) * (T + overlap))
    yield equal("F'", derivative, stated)
    yield holds("positive", stated.is_positive)


@unique_for_one_layer.check
def _(rng):
    strength, temperature = log_uniform(rng, 1, 1e4), log_uniform(rng, 0.01, 100)
    point = mpf(rng.uniform(0, 5))
    k = mpmath.exp(point)
    charge = strength * k / (k + temperature) ** 2
    with mpmath.workdps(140):
        numeric = mpmath.diff(_equation(1, strength, temperature), point)
    yield numeric, (temperature + k + 2 * charge * k) / ((1 + charge) * (temperature + k))


@claim(
    r"\text{whitened: at most three solutions;}\quad F' = 0 \Leftrightarrow"
    r" s^3 + [3 + (L+1)\theta] s^2 + [3 - (L-1)\theta] s + 1 = 0,\; s = \beta c_L,\; \theta = \gamma_0^2 \beta",
    Kind.IDENTITY,
    ORIGIN,
)
def at_most_three():
    """The numerator of F' in s; Descartes' rule: its coefficients change sign at most twice."""
    theta = sp.Symbol("theta", positive=True)
    charge = theta * s / (1 + s) ** 2
    derivative = 1 - L * charge / (1 + charge) * (1 - s) / (1 + s)
    cubic = s**3 + (3 + (L + 1) * theta) * s**2 + (3 - (L - 1) * theta) * s + 1
    yield equal("F' times its denominator", derivative * (1 + s) * ((1 + s) ** 2 + theta * s), cubic)
    signs = sp.Poly(cubic, s).all_coeffs()
    yield holds("the other three coefficients are positive", all(signs[i].is_positive for i in (0, 1, 3)))
    overlap = s * T
    yield equal("charge in s", (gamma0**2 * overlap / (overlap + T) ** 2).subs(gamma0, sp.sqrt(theta * T)), charge)


@at_most_three.check
def _(rng):
    depth, strength, temperature = rng.randint(2, 6), log_uniform(rng, 1, 1e4), log_uniform(rng, 0.1, 100)
    point = mpf(rng.uniform(0, 5))
    saturation, theta = mpmath.exp(point) / temperature, strength / temperature
    cubic = saturation**3 + (3 + (depth + 1) * theta) * saturation**2 + (3 - (depth - 1) * theta) * saturation + 1
    with mpmath.workdps(140):
        numeric = mpmath.diff(_equation(depth, strength, temperature), point)
    yield numeric, cubic / ((1 + saturation) * ((1 + saturation) ** 2 + theta * saturation))


@claim(
    r"\text{spinodals } (F = F' = 0):\; a = \frac{1+s}{(L-1) - (L+1)s},\quad \beta = \frac{s}{(1+a)^L},\quad"
    r" \gamma_0^2 = \frac{a (1+a)^L (1+s)^2}{s^2},\qquad 0 < s < \frac{L-1}{L+1}",
    Kind.SOLUTION,
    ORIGIN,
)
def spinodals():
    """F' = 0 solved for the charge; then beta from s = beta c_L and gamma0^2 from the charge."""
    derivative = 1 - L * a / (1 + a) * (1 - s) / (1 + s)
    yield vanishes("F' = 0", derivative.subs(a, spinodal_charge))
    overlap = _growth
    yield equal("s = beta c_L", spinodal_beta * overlap, s)
    temperature = 1 / spinodal_beta
    charge = spinodal_gamma0_squared * overlap / (overlap + temperature) ** 2
    yield equal("F = 0", charge, spinodal_charge)


@spinodals.check
def _(rng):
    depth = rng.randint(2, 6)
    saturation = mpf(rng.uniform(0.05, 0.95)) * (depth - 1) / (depth + 1)
    charge = (1 + saturation) / ((depth - 1) - (depth + 1) * saturation)
    overlap = (1 + charge) ** depth
    strength = charge * overlap * (1 + saturation) ** 2 / saturation**2
    F = _equation(depth, strength, overlap / saturation)
    yield 1 + F(mpmath.log(overlap)), mpf(1)
    with mpmath.workdps(140):
        yield 1 + mpmath.diff(F, mpmath.log(overlap)), mpf(1)


@claim(
    r"\text{critical point } (F = F' = F'' = 0):\; (L+1)s^2 - 4Ls + (L-1) = 0,\quad s_c = \frac{L-1}{2L + \sqrt{3L^2+1}}",
    Kind.SOLUTION,
    ORIGIN,
)
def critical_point():
    """The two spinodals meet where beta is stationary along the curve; the smaller root lies inside 0 < s < (L-1)/(L+1)."""
    condition = sp.diff(sp.log(spinodal_beta), s)
    numerator = (L + 1) * s**2 - 4 * L * s + (L - 1)
    denominator = s * (1 - s) * ((L - 1) - (L + 1) * s)
    yield equal("d ln beta/ds", sp.simplify(condition), numerator / denominator)
    yield vanishes(
        "d ln gamma0^2/ds vanishes at the same points",
        sp.rem(sp.numer(sp.together(sp.simplify(sp.diff(sp.log(spinodal_gamma0_squared), s)))), numerator, s),
    )
    yield vanishes("root", numerator.subs(s, critical_saturation))
    other = (2 * L + sp.sqrt(3 * L**2 + 1)) / (L + 1)
    m = sp.Symbol("m", nonnegative=True)
    beyond = sp.factor(sp.together(other - 1)).subs(L, m + 2)
    yield holds("the other root lies outside, at s > 1", sp.expand(beyond * (m + 3)).is_positive)
    room = sp.expand((2 * L + sp.sqrt(3 * L**2 + 1) - (L + 1)).subs(L, m + 2))
    yield holds("s_c < (L-1)/(L+1)", room.is_positive)


@critical_point.check
def _(rng):
    depth = rng.randint(2, 8)
    saturation = mpf(depth - 1) / (2 * depth + mpmath.sqrt(3 * depth**2 + 1))
    charge = (1 + saturation) / ((depth - 1) - (depth + 1) * saturation)
    overlap = (1 + charge) ** depth
    F = _equation(depth, charge * overlap * (1 + saturation) ** 2 / saturation**2, overlap / saturation)
    with mpmath.workdps(180):
        for order in (0, 1, 2):
            yield 1 + mpmath.diff(F, mpmath.log(overlap), order), mpf(1)


@claim(
    r"\beta \to 0 \text{ along the small branch's spinodal:}\quad \gamma_0^2 \beta^2 \to \frac{(L-1)^{L-1}}{L^L},\quad"
    r" c_L \to \Big(\frac{L}{L-1}\Big)^L",
    Kind.LIMIT,
    ORIGIN,
)
def hot_spinodal():
    """The limit s -> 0 of the curve; depth L = 2 + m, so that L >= 2 is an assumption SymPy can use."""
    m = sp.Symbol("m", nonnegative=True)
    product = sp.powsimp(sp.simplify(spinodal_gamma0_squared * spinodal_beta**2), force=True).subs(L, m + 2)
    value = ((L - 1) ** (L - 1) / L**L).subs(L, m + 2)
    at_zero = product.subs(s, 0)
    yield vanishes("gamma0^2 beta^2", sp.expand_log(sp.log(at_zero) - sp.log(value), force=True))
    overlap = _growth.subs(L, m + 2).subs(s, 0)
    yield vanishes("c_L", sp.expand_log(sp.log(overlap) - (m + 2) * sp.log((m + 2) / (m + 1)), force=True))
    yield tends_to("beta -> 0", spinodal_beta.subs(L, m + 2), s, 0, sp.S.Zero)


@hot_spinodal.check
def _(rng):
    depth = rng.randint(2, 8)
    tiny = mpf(10) ** -55
    charge = (1 + tiny) / ((depth - 1) - (depth + 1) * tiny)
    product = charge * (1 + tiny) ** 2 / (1 + charge) ** depth
    yield product, mpf(depth - 1) ** (depth - 1) / mpf(depth) ** depth


FUNCTIONS = (
    NumPyFunction(
        "spinodal_charge",
        (s, L),
        spinodal_charge,
        "Charge on the spinodals of whitened data at saturation s = beta c_L, 0 < s < (L-1)/(L+1).",
        "a = (1 + s) / ((L-1) - (L+1) s)",
        HOME,
    ),
    NumPyFunction(
        "spinodal_beta",
        (s, L),
        s * sp.exp(-L * sp.log(1 + a)),
        "Inverse temperature on the spinodals of whitened data at saturation s.",
        "beta = s / (1 + a)^L",
        HOME,
        let=((a, spinodal_charge),),
    ),
    NumPyFunction(
        "spinodal_gamma0_squared",
        (s, L),
        a * sp.exp(L * sp.log(1 + a)) * ((1 + s) / s) ** 2,
        "Squared feature-learning strength on the spinodals of whitened data at saturation s.",
        "gamma0^2 = a (1 + a)^L (1 + s)^2 / s^2",
        HOME,
        let=((a, spinodal_charge),),
    ),
    NumPyFunction(
        "critical_saturation",
        (L,),
        critical_saturation,
        "Saturation at the critical point of whitened data, where the two spinodals meet.",
        "s_c = (L-1) / (2L + sqrt(3L^2 + 1))",
        HOME,
    ),
)

CLAIMS = (
    stability,
    isolation_bounds,
    unique_for_one_layer,
    at_most_three,
    spinodals,
    critical_point,
    hot_spinodal,
)
