"""The last-layer overlap as a power series in gamma0^2: all orders, radius of convergence, any temperature.

At beta = inf the scalar equation c = (1 + g/c)^L becomes w = 1 + g w^{-L} with c = w^L, w = 1 + u: u = g (1 + u)^{-L}. Lagrange
inversion and the binomial theorem give the coefficient of g^k for symbolic k (a Fuss-Catalan series with alternating signs).
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mp, mpf

from linkern.derivations.notation import L, T, g, gamma0
from linkern.derivations.routes import contour_coefficient, lazy_side_overlap, log_uniform
from linkern.derivations.whitened import PAPER, reduction
from linkern.symbolic import (
    Kind,
    NumPyFunction,
    claim,
    equal,
    holds,
    lagrange_coefficient,
    lagrange_general_term,
    tends_to,
    vanishes,
)

u = sp.Symbol("u")
w = sp.Symbol("w", positive=True)
order = sp.Symbol("k", integer=True, positive=True)

#: u = g * step(u), c_L = overlap(u); `step_hot` is the same at finite temperature T.
step = (1 + u) ** (-L)
overlap = (1 + u) ** L
step_hot = overlap / (overlap + T) ** 2

#: The coefficient of g^k, k >= 1, without the removable pole of its textbook form.
coefficient = (-1) ** (order - 1) * L / order * sp.binomial((L + 1) * (order - 1), order - 1)
lazy_second = -L * (L + 1 - (3 * L - 1) * T) / (2 * (1 + T) ** 5)
radius = L**L / (L + 1) ** (L + 1)


@claim(
    r"\beta = \infty:\quad c_L = 1 + \sum_{k \ge 1} \frac{(-1)^{k-1} L}{k} \binom{(L+1)(k-1)}{k-1}\, \gamma_0^{2k}",
    Kind.SERIES,
    "linkern; all orders of the expansion behind Lauditi et al. (2025), eq. 42",
)
def overlap_series_all_orders():
    """Lagrange inversion for symbolic k; then upper negation of the binomial, by induction on its lower index."""
    c = reduction.order_parameter[L]
    excess = (reduction.scalar_equation.rhs - reduction.scalar_equation.lhs).subs(T, 0)
    at_root = excess.subs(c, w**L).subs(gamma0**2, (w - 1) * w**L)
    yield vanishes("w = 1 + g w^{-L} solves the scalar equation with c = w^L", at_root)

    term = lagrange_general_term(step, overlap, u, order)
    yield equal("Lagrange's coefficient", term, L / order * sp.binomial(L - 1 - L * order, order - 1))

    x, m = sp.Symbol("x", positive=True), sp.Symbol("m", integer=True, nonnegative=True)
    yield equal("binomial(-x, m) at m = 0", sp.binomial(-x, 0), (-1) ** 0 * sp.binomial(x - 1, 0))
    # binomial(y, m+1) = binomial(y, m) (y - m)/(m + 1): the same factor on both sides of the negation.
    left = (-x - m) / (m + 1)
    negated = (-1) * sp.gammasimp((sp.binomial(x + m, m + 1) / sp.binomial(x + m - 1, m)).rewrite(sp.gamma))
    yield equal("step of the induction in m", left, negated)
    upper = -(L - 1 - L * order)
    yield equal("the negated upper index is (L+1)(k-1)", upper + (order - 1) - 1, (L + 1) * (order - 1))


@overlap_series_all_orders.check
def _(rng):
    depth = rng.randint(1, 8)
    strength = mpf(rng.uniform(0.02, 0.3)) * mpf(depth) ** depth / mpf(depth + 1) ** (depth + 1)
    total, k = mpf(1), 1
    while k < 400:
        sign = -1 if k % 2 == 0 else 1
        total += sign * mpf(depth) / k * mpmath.binomial((depth + 1) * (k - 1), k - 1) * strength**k
        k += 1
    yield total, lazy_side_overlap(depth, strength, mpf(0))


@claim(
    r"\text{the series converges for } |\gamma_0^2| < g_* = \frac{L^L}{(L+1)^{L+1}},\quad \text{its singularity is the branch"
    r" point } \gamma_0^2 = -g_*,\; c_L = \left(\tfrac{L}{L+1}\right)^L",
    Kind.LIMIT,
    "linkern",
)
def radius_of_convergence():
    """The branch point of w, and the ratio test with symbolic depth through Stirling's formula."""
    inverse = (w - 1) * w**L
    branch = L / (L + 1)
    slope = sp.factor(sp.simplify(sp.diff(inverse, w) / w ** (L - 1)))
    yield equal("dg/dw has the single positive zero w = L/(L+1)", slope, (L + 1) * w - L)
    yield equal("value there", sp.expand_power_base(inverse.subs(w, branch), force=True), -radius)

    # ln|coefficient_{k+1}/coefficient_k| with ln Gamma(z+1) = (z + 1/2) ln z - z + ln(2 pi)/2 + O(1/z), z -> infinity.
    z, t = sp.Symbol("z", positive=True), sp.Symbol("t", positive=True)

    def ln_factorial(argument):
        return (argument + sp.Rational(1, 2)) * sp.log(argument) - argument

    def ln_coefficient(index):
        m = index - 1
        return ln_factorial((L + 1) * m) - ln_factorial(m) - ln_factorial(L * m) - sp.log(index)

    growth = sp.expand(sp.expand_log(sp.expand((ln_coefficient(z + 2) - ln_coefficient(z + 1)).subs(z, 1 / t)), force=True))
    target = sp.expand_log(-sp.log(radius), force=True)
    yield tends_to("ln of the coefficients' ratio tends to -ln g_*", sp.expand(sp.simplify(growth)), t, 0, target)


@radius_of_convergence.check
def _(rng):
    depth = rng.randint(1, 8)
    with mpmath.workdps(200):
        # The ratio of consecutive coefficients, extrapolated to k -> infinity by Richardson's table over doublings of k.
        table = []
        for j in range(6, 30):
            k = mpf(2) ** j
            upper = mpmath.loggamma((depth + 1) * k + 1) - mpmath.loggamma((depth + 1) * (k - 1) + 1)
            lower = mpmath.loggamma(k + 1) - mpmath.loggamma(k) + mpmath.loggamma(depth * k + 1)
            table.append(mpmath.exp(upper - lower + mpmath.loggamma(depth * (k - 1) + 1)) * k / (k + 1))
        level = 1
        while len(table) > 1:
            table = [(2**level * b - x) / (2**level - 1) for x, b in zip(table, table[1:], strict=False)]
            level += 1
        yield 1 / table[0], mpf(depth) ** depth / mpf(depth + 1) ** (depth + 1)


@claim(
    r"c_L = 1 + \frac{L}{(1+T)^2} \gamma_0^2 - \frac{L\,[L + 1 - (3L - 1)T]}{2(1+T)^5} \gamma_0^4 + O(\gamma_0^6),"
    r"\quad T = 1/\beta",
    Kind.SERIES,
    f"{PAPER}, eqs. 17 and 42, with the next orders",
)
def lazy_series():
    """Lagrange inversion at finite temperature T = 1/beta, checked by insertion into the scalar equation."""
    coefficients = [lagrange_coefficient(step_hot, overlap, u, i) for i in range(4)]
    yield holds("c_L = 1 at gamma0 = 0", sp.Eq(coefficients[0], 1))
    yield equal("first order", coefficients[1], L / (1 + T) ** 2)
    yield equal("second order", coefficients[2], lazy_second)
    trial = sum(v * g**i for i, v in enumerate(coefficients))
    remainder = sp.log(trial) - L * sp.log(1 + g * trial / (trial + T) ** 2)
    for i in range(4):
        yield vanishes(f"the scalar equation holds at order g^{i}", sp.diff(remainder, g, i).subs(g, 0))


@lazy_series.check
def _(rng):
    depth, temperature = rng.randint(1, 8), log_uniform(rng, 0.01, 3)

    def continued(strength):
        # The analytic continuation from c = 1, by Newton's method in the complex plane.
        x = mpmath.mpc(0)
        for _ in range(200):
            c = mpmath.exp(x)
            charge = strength * c / (c + temperature) ** 2
            slope = 1 - depth * charge / (1 + charge) * (temperature - c) / (temperature + c)
            delta = (x - depth * mpmath.log(1 + charge)) / slope
            x -= delta
            if abs(delta) < mpf(10) ** (-mp.dps + 2):
                break
        return mpmath.exp(x)

    reach = mpf(depth) ** depth / mpf(depth + 1) ** (depth + 1) / 20
    values = {L: depth, T: sp.Float(str(temperature), mp.dps)}
    yield contour_coefficient(continued, 1, reach), depth / (1 + temperature) ** 2
    second = mpf(str(sp.N(lazy_second.subs(values), mp.dps)))
    yield contour_coefficient(continued, 2, reach), second


_lazy_first = gamma0**2 * L / (1 + T) ** 2
FUNCTIONS = (
    NumPyFunction(
        "lazy_excess",
        (gamma0, T, L),
        _lazy_first,
        "Growth c_L - 1 of the last overlap (whitened data) for small gamma0: leading order.",
        "L gamma0^2 / (1 + T)^2",
        "derivations/series.py",
    ),
    NumPyFunction(
        "lazy_excess_corrected",
        (gamma0, T, L),
        _lazy_first + gamma0**4 * lazy_second,
        "Growth c_L - 1 of the last overlap (whitened data) for small gamma0: two orders.",
        "L gamma0^2 / (1 + T)^2 - L [L + 1 - (3L - 1) T] gamma0^4 / (2 (1 + T)^5)",
        "derivations/series.py",
    ),
)

CLAIMS = (overlap_series_all_orders, radius_of_convergence, lazy_series)
