"""The last-layer overlap far from the lazy limit: rich (gamma0 -> infinity) and deep (L -> infinity) networks.

Rich, beta = inf: with w = c^{1/L}, w^L (w - 1) = g. In p = 1/w and t = g^{-1/(L+1)} this is p = t (1 - p)^{1/(L+1)}, so that
Lagrange inversion gives the whole Puiseux series of c = t^{-L} (1 - p)^{-L/(L+1)}. Deep: ln c = L ln(1 + Lambda/(L c)) with
Lambda = L gamma0^2 fixed; Lambda = W e^W turns the Lambert function W(Lambda) into an ordinary symbol.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mp, mpf

from linkern.derivations.notation import L, T, gamma0
from linkern.derivations.routes import contour_coefficient, lazy_side_overlap, log_uniform
from linkern.derivations.whitened import PAPER
from linkern.symbolic import (
    Kind,
    NumPyFunction,
    claim,
    equal,
    implicit_series,
    lagrange_coefficient,
    lagrange_general_term,
    tends_to,
    vanishes,
)

p, t = sp.Symbol("p"), sp.Symbol("t", positive=True)
order = sp.Symbol("k", integer=True, positive=True)
W = sp.Symbol("W", positive=True)  # Lambert W(Lambda), Lambda = W e^W
inverse_depth = sp.Symbol("epsilon", positive=True)  # 1/L

rich_step = (1 - p) ** (1 / (L + 1))
rich_outer = (1 - p) ** (-L / (L + 1))
rich_coefficient = (-1) ** (order - 1) * L / ((L + 1) * order) * sp.binomial((order - 2 * L - 1) / (L + 1), order - 1)
#: Coefficients of t, and of the leading effect of temperature T t^L, relative to the leading power.
rich_first, rich_thermal = L / (L + 1), -2 * L / (L + 1)
deep_first = -(W**2) / (2 * (1 + W))


@claim(
    r"\beta = \infty:\quad c_L = \gamma_0^{\frac{2L}{L+1}} \Big[1 + \sum_{k \ge 1} \frac{(-1)^{k-1} L}{(L+1) k}"
    r" \binom{\frac{k-2L-1}{L+1}}{k-1} \gamma_0^{-\frac{2k}{L+1}}\Big]",
    Kind.SERIES,
    f"{PAPER}, eqs. 17 and 43 (leading power); all orders: linkern",
)
def rich_series():
    """Change of variables, then Lagrange inversion for symbolic k."""
    w = 1 / p
    strength = t ** (-(L + 1))
    balance = w**L * (w - 1) / strength
    solved = sp.powsimp(sp.expand_power_base(balance.subs(p, sp.Symbol("p", positive=True)), force=True))
    q = sp.Symbol("p", positive=True)
    yield vanishes("p = t (1-p)^{1/(L+1)} is the scalar equation", sp.powsimp(solved - (1 - q) * (t / q) ** (L + 1), force=True))
    term = lagrange_general_term(rich_step, rich_outer, p, order)
    yield equal("Lagrange's coefficient", term, rich_coefficient)
    yield equal("first correction", lagrange_coefficient(rich_step, rich_outer, p, 1), rich_first)


@rich_series.check
def _(rng):
    depth, strength = rng.randint(1, 6), log_uniform(rng, 1e9, 1e12)
    small = strength ** (-mpf(1) / (depth + 1))
    total = mpf(1)
    for k in range(1, 120):
        sign = -1 if k % 2 == 0 else 1
        upper = mpf(k - 2 * depth - 1) / (depth + 1)
        total += sign * mpf(depth) / ((depth + 1) * k) * mpmath.binomial(upper, k - 1) * small**k
    yield total * strength ** (mpf(depth) / (depth + 1)), lazy_side_overlap(depth, strength, mpf(0))


@claim(
    r"c_L = \gamma_0^{\frac{2L}{L+1}} \Big[1 + \frac{L}{L+1}\, t - \frac{2L}{L+1}\, T t^L + O\big((t + T t^L)^2\big)\Big],"
    r"\quad t = \gamma_0^{-\frac{2}{L+1}},\; T = 1/\beta",
    Kind.SERIES,
    "linkern",
)
def rich_temperature():
    """Two small quantities, t and tau = T t^L; the expansion in each at zero of the other (implicit function theorem)."""
    x, tau = sp.Symbol("x", positive=True), sp.Symbol("tau", positive=True)
    # c = t^{-L} x^L: x^L (x - t) (1 + tau x^{-L})^2 = 1.
    equation = sp.log(x) * L + sp.log(x - t) + 2 * sp.log(1 + tau * x ** (-L))
    original = x**L * (x - t) * (1 + tau * x ** (-L)) ** 2
    yield equal("logarithm of the balance", sp.expand_log(sp.log(original), force=True), equation)
    in_t = implicit_series(equation.subs(tau, 0), x, sp.S.One, t, 1)
    in_tau = implicit_series(equation.subs(t, 0), x, sp.S.One, tau, 1)
    yield equal("coefficient of t in x^L", L * in_t[1], rich_first)
    yield equal("coefficient of tau in x^L", L * in_tau[1], rich_thermal)


@rich_temperature.check
def _(rng):
    depth = rng.randint(1, 5)

    def root(small, tau):
        x = mpmath.mpc(1)
        for _ in range(200):
            value = depth * mpmath.log(x) + mpmath.log(x - small) + 2 * mpmath.log(1 + tau * x ** (-depth))
            slope = depth / x + 1 / (x - small) - 2 * depth * tau / (x * (x**depth + tau))
            x -= value / slope
            if abs(value) < mpf(10) ** (-mp.dps + 2):
                break
        return x**depth

    reach = mpf(1) / 50
    yield contour_coefficient(lambda z: root(z, 0), 1, reach), mpf(depth) / (depth + 1)
    yield contour_coefficient(lambda z: root(0, z), 1, reach), -mpf(2 * depth) / (depth + 1)


@claim(
    r"L \to \infty,\; \Lambda = L\gamma_0^2 \text{ fixed},\; \beta = \infty:\quad"
    r" c_L = e^{W}\Big[1 - \frac{W^2}{2(1+W)}\frac{1}{L} + O(L^{-2})\Big],\quad W = W(\Lambda)",
    Kind.SERIES,
    f"{PAPER}, eqs. 17 and 44, with the 1/L correction",
)
def deep_limit():
    """Order-by-order solution of ln c = ln(1 + eps Lambda/c)/eps in eps = 1/L; the start is the Lambert equation."""
    x = sp.Symbol("c", positive=True)
    equation = sp.log(x) - sp.log(1 + inverse_depth * W * sp.exp(W) / x) / inverse_depth
    coefficients = implicit_series(equation, x, sp.exp(W), inverse_depth, 1)
    yield equal("limit: c ln c = Lambda", sp.exp(W) * sp.log(sp.exp(W)), W * sp.exp(W))
    yield equal("1/L correction", coefficients[1], sp.exp(W) * deep_first)


@deep_limit.check
def _(rng):
    strength = log_uniform(rng, 0.1, 20)

    def continued(eps):
        x = mpmath.mpc(mpmath.lambertw(strength))
        for _ in range(200):
            scaled = strength * mpmath.exp(-x)
            value = x - mpmath.log1p(eps * scaled) / eps
            delta = value / (1 + scaled / (1 + eps * scaled))
            x -= delta
            if abs(delta) < mpf(10) ** (-mp.dps + 3):
                break
        return mpmath.exp(x)

    lambert = mpmath.lambertw(strength).real
    reach = mpf(1) / (10 * (1 + lambert))
    yield contour_coefficient(continued, 0, reach), mpmath.exp(lambert)
    yield contour_coefficient(continued, 1, reach), -mpmath.exp(lambert) * lambert**2 / (2 * (1 + lambert))


@claim(
    r"\Lambda \to \infty:\quad e^{W(\Lambda)} = \frac{\Lambda}{\ln \Lambda}\Big[1 + \frac{\ln\ln\Lambda}{\ln\Lambda} +"
    r" o\Big(\frac{\ln\ln\Lambda}{\ln\Lambda}\Big)\Big]",
    Kind.LIMIT,
    f"{PAPER}, eqs. 17 and 44, with the correction",
)
def deep_and_rich():
    """Limits in W -> infinity, where ln Lambda = W + ln W; ln ln Lambda ~ ln W is part of the statement proved."""
    ratio = (W + sp.log(W)) / W  # e^W ln(Lambda) / Lambda
    correction = sp.log(W + sp.log(W)) / (W + sp.log(W))
    yield equal("ln Lambda = W + ln W", sp.expand_log(sp.log(W * sp.exp(W)), force=True) - W, sp.log(W))
    yield tends_to("leading behaviour", ratio, W, sp.oo, 1)
    yield tends_to("correction", (ratio - 1) / correction, W, sp.oo, 1)


@deep_and_rich.check
def _(rng):
    strength = log_uniform(rng, 10, 1e6)
    lambert = mpmath.lambertw(strength).real
    yield mpmath.exp(lambert) * mpmath.log(strength) / strength, (lambert + mpmath.log(lambert)) / lambert


@claim(
    r"L \to \infty \text{ at fixed } \Lambda = L\gamma_0^2 \text{ and } T = 1/\beta:\quad \ln c = \frac{\Lambda\, c}{(c + T)^2}",
    Kind.LIMIT,
    "linkern; finite temperature of the deep limit",
)
def deep_temperature():
    """The limit of L ln(1 + charge), term by term."""
    x, total = sp.Symbol("c", positive=True), sp.Symbol("Lambda", positive=True)
    right = sp.log(1 + inverse_depth * total * x / (x + T) ** 2) / inverse_depth
    yield tends_to("right-hand side of the scalar equation", right, inverse_depth, 0, total * x / (x + T) ** 2)


@deep_temperature.check
def _(rng):
    total, temperature = log_uniform(rng, 0.1, 5), log_uniform(rng, 0.05, 0.5)

    def root(depth):
        def excess(x):
            c = mpmath.exp(x)
            return x - depth * mpmath.log1p(total / depth * c / (c + temperature) ** 2)

        return mpmath.findroot(excess, start)

    def limit_excess(x):
        return x - total * mpmath.exp(x) / (mpmath.exp(x) + temperature) ** 2

    start = mpmath.findroot(limit_excess, mpf(1))
    with mpmath.workdps(160):
        # Finite depths, extrapolated to 1/L -> 0 by Richardson's table over doublings.
        table, level = [root(mpf(2) ** j) for j in range(8, 30)], 1
        while len(table) > 1:
            table = [(2**level * b - x) / (2**level - 1) for x, b in zip(table, table[1:], strict=False)]
            level += 1
    yield table[0], start


_leading = gamma0 ** (2 * L / (L + 1))
_small = gamma0 ** (-2 / (L + 1))
_lambert = sp.LambertW(L * gamma0**2)
_W = sp.Symbol("W", positive=True)
_HOME = "derivations/asymptotics.py"
FUNCTIONS = (
    NumPyFunction(
        "rich_overlap",
        (gamma0, L),
        _leading,
        "Last overlap c_L (whitened data) for large gamma0 at fixed depth: leading order, any temperature.",
        "gamma0^(2L/(L+1))",
        _HOME,
    ),
    NumPyFunction(
        "rich_overlap_corrected",
        (gamma0, T, L),
        _leading * (1 + rich_first * _small + rich_thermal * T * _small**L),
        "Last overlap c_L (whitened data) for large gamma0 at fixed depth, with the first corrections.",
        "gamma0^(2L/(L+1)) [1 + L t/(L+1) - 2 L T t^L/(L+1)], t = gamma0^(-2/(L+1))",
        _HOME,
    ),
    NumPyFunction(
        "deep_excess",
        (gamma0, L),
        sp.exp(_lambert) - 1,
        "Growth c_L - 1 of the last overlap (whitened data, beta = inf) for L -> infinity at fixed L gamma0^2.",
        "exp(W(L gamma0^2)) - 1, W the Lambert function",
        _HOME,
    ),
    NumPyFunction(
        "deep_overlap_corrected",
        (gamma0, L),
        sp.exp(_W) * (1 + deep_first.subs(W, _W) / L),
        "Last overlap c_L (whitened data, beta = inf) for large depth at fixed L gamma0^2, with the 1/L correction.",
        "exp(W) [1 - W^2 / (2 (1 + W) L)], W = W(L gamma0^2)",
        _HOME,
        let=((_W, _lambert),),
    ),
)

CLAIMS = (rich_series, rich_temperature, deep_limit, deep_and_rich, deep_temperature)
