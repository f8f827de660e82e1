r"""Expansions of the exact width: Laplace's method in t = ln Q, derived from the generating functions.

The posterior of t is exp(S_0 + S_1) up to a constant, with S_0 of order N. Two splittings of the same exponent are in use:

    tree:    S_0 = rate + fit,             S_1 = volume + prefactor        (the saddle of the outputs' generating function)
    saddle:  S_0 = rate + fit + volume,    S_1 = prefactor                 (resums the determinant; P may grow with N)

rate + prefactor is ln p(t), fit = -1/2 sum_i b_i^2/A_i and volume = -1/2 sum_i ln A_i with A_i = g Q lam_i + kappa. In the
modes x_i = g Q lam_i/A_i (gain) and u_i = b_i^2/A_i; in the layers q_l = 1 + 2c/N_l with sum_l ln q_l = t, and
k_j = sum_l [2/(N_l q_l)]^j.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.routes import log_uniform
from linkern.symbolic import Kind, NumPyFunction, claim, vanishes

ORIGIN = "linkern; not in the papers"

t, kappa = sp.symbols("t kappa", positive=True)
b, lam, g = sp.symbols("b lam g", positive=True)
u, x = sp.symbols("u x", positive=True)
c, width = sp.symbols("c N", positive=True)
ratio = sp.Symbol("ratio", real=True)
k1, k2, s1, s2 = sp.symbols("k1 k2 s1 s2", positive=True)

# One mode, as functions of t; `in_modes` rewrites derivatives in x and u.
strength = g * sp.exp(t) * lam + kappa
gain = g * sp.exp(t) * lam / strength
fit = -(b**2) / (2 * strength)
volume = -sp.log(strength) / 2


def in_modes(expression):
    """Rewrite a function of t in x and u: g e^t lam = kappa x/(1 - x), b^2 = u kappa/(1 - x)."""
    at = expression.subs(sp.exp(t), kappa * x / ((1 - x) * g * lam)).subs(b, sp.sqrt(u * kappa / (1 - x)))
    return sp.factor(sp.simplify(at))


def slopes(function, order):
    """The derivative of one mode's function, in x and u."""
    return in_modes(sp.diff(function, t, order))


# One layer at multiplier c: q = 1 + 2c/N, ln q its share of t, and its compliance d ln q/dc.
log_growth = sp.log(1 + 2 * c / width)
rate = (width / 2) * (log_growth - 2 * c / width)
compliance = sp.diff(log_growth, c)

# Along the chain dc/dt = 1/k1, and d k_j/dt = -j k_{j+1}/k1 because d compliance/dc = -compliance^2.
rate_curvature = -1 / k1
rate_third = -k2 / k1**3
prefactor_slope = -sp.Rational(1, 2) + k2 / (2 * k1**2)
growth_slope = s1 / k1
growth_curvature = -s2 / k1**2 + s1 * k2 / k1**3
growth_correction = (s1 - s1**2 / k1 + s2 / k1 - s1 * k2 / k1**2) / 2

S1_slope, S0_third, a = sp.symbols("slope third a", real=True)
log_shift = S1_slope / a + S0_third / (2 * a**2)


class Numbers:
    """Random modes and layers, and every function of t evaluated by plain mpmath."""

    def __init__(self, rng, depth=None, resummed=False):
        count = 4
        self.values = [log_uniform(rng, 0.3, 3) for _ in range(count)]
        self.labels = [mpf(rng.gauss(0, 1)) for _ in range(count)]
        self.widths = [mpf(rng.randint(5, 30)) for _ in range(depth or rng.randint(2, 4))]
        self.ridge, self.strength, self.resummed = log_uniform(rng, 0.2, 1), log_uniform(rng, 0.3, 2), resummed

    def totals(self, at):
        return [self.strength * mpmath.exp(at) * value + self.ridge for value in self.values]

    def fit(self, at):
        return -mpmath.fsum(label**2 / total for label, total in zip(self.labels, self.totals(at), strict=True)) / 2

    def volume(self, at):
        return -mpmath.fsum(mpmath.log(total) for total in self.totals(at)) / 2

    def multiplier(self, at):
        if len(self.widths) == 1:
            return self.widths[0] / 2 * mpmath.expm1(at)
        guess = mpmath.fsum(self.widths) / len(self.widths) / 2 * mpmath.expm1(at / len(self.widths))

        def excess(c):
            return mpmath.fsum(mpmath.log(1 + 2 * c / width) for width in self.widths) - at

        return mpmath.findroot(excess, guess, tol=mpf(10) ** (-2 * mpmath.mp.dps + 20))

    def rate(self, at):
        c = self.multiplier(at)
        return mpmath.fsum(width / 2 * mpmath.log(1 + 2 * c / width) - c for width in self.widths)

    def power_sums(self, at):
        c = self.multiplier(at)
        shares = [2 / (width + 2 * c) for width in self.widths]
        return mpmath.fsum(shares), mpmath.fsum(share**2 for share in shares)

    def prefactor(self, at):
        c = self.multiplier(at)
        stiffness = [(width + 2 * c) / 2 for width in self.widths]
        compliance = mpmath.fsum(1 / value for value in stiffness)
        return -(mpmath.fsum(mpmath.log(value) for value in stiffness) + mpmath.log(compliance)) / 2

    def leading(self, at):
        return self.rate(at) + self.fit(at) + (self.volume(at) if self.resummed else 0)

    def rest(self, at):
        return self.prefactor(at) + (0 if self.resummed else self.volume(at))


def value_at(expression, **at):
    """Evaluate a SymPy expression at mpmath numbers, given by the names of its symbols."""
    symbols = sorted(expression.free_symbols, key=str)
    return sp.lambdify(symbols, expression, "mpmath")(*(at[symbol.name] for symbol in symbols))


@claim(
    r"\mathrm{fit}' = \tfrac12 \sum u x,\quad \mathrm{fit}'' = \tfrac12 \sum u x (1 - 2x),\quad \mathrm{fit}''' = \tfrac12 \sum"
    r" u x (1 - 6x + 6x^2),\quad \mathrm{volume}' = -\tfrac12 \sum x, \ldots",
    Kind.IDENTITY,
    ORIGIN,
)
def mode_derivatives():
    """Differentiation in t, rewritten in gains and strengths."""
    yield vanishes("fit'", slopes(fit, 1) - u * x / 2)
    yield vanishes("fit''", slopes(fit, 2) - u * x * (1 - 2 * x) / 2)
    yield vanishes("fit'''", slopes(fit, 3) - u * x * (1 - 6 * x + 6 * x**2) / 2)
    yield vanishes("volume'", slopes(volume, 1) + x / 2)
    yield vanishes("volume''", slopes(volume, 2) + x * (1 - x) / 2)
    yield vanishes("volume'''", slopes(volume, 3) + x * (1 - x) * (1 - 2 * x) / 2)
    yield vanishes("gain''", slopes(gain, 2) - x * (1 - x) * (1 - 2 * x))


@mode_derivatives.check
def _(rng):
    numbers, at = Numbers(rng), mpf(rng.gauss(0, 1))
    totals = numbers.totals(at)
    gains = [1 - numbers.ridge / total for total in totals]
    strengths = [label**2 / total for label, total in zip(numbers.labels, totals, strict=True)]
    with mpmath.workdps(240):
        found = [mpmath.diff(numbers.fit, at, order) for order in (1, 2, 3)]
        found += [mpmath.diff(numbers.volume, at, order) for order in (1, 2, 3)]
    for value, formula in zip(found[:3], (slopes(fit, order) for order in (1, 2, 3)), strict=True):
        yield value, mpmath.fsum(value_at(formula, u=s, x=v) for s, v in zip(strengths, gains, strict=True))
    for value, formula in zip(found[3:], (slopes(volume, order) for order in (1, 2, 3)), strict=True):
        yield value, mpmath.fsum(value_at(formula, x=v) for v in gains)


@claim(
    r"\mathrm{rate}' = -c,\quad \mathrm{rate}'' = -1/k_1,\quad \mathrm{rate}''' = -k_2/k_1^3,\quad"
    r" \mathrm{prefactor}' = -\tfrac12 + \tfrac{k_2}{2 k_1^2},\quad k_j = \sum_l \Big(\frac{2}{N_l q_l}\Big)^j",
    Kind.IDENTITY,
    ORIGIN,
)
def layer_derivatives():
    """d/dt = (1/k_1) d/dc along the chain; sums over layers differentiate term by term."""
    power = sp.Symbol("j", positive=True)
    yield vanishes("one layer's rate", sp.diff(rate, c) + c * compliance)
    yield vanishes("powers of the compliance", sp.diff(compliance**power, c) + power * compliance ** (power + 1))
    # rate' = -c k_1/k_1; then dc/dt = 1/k_1, and d k_1/dt = -k_2/k_1.
    yield vanishes("rate'' = -dc/dt", rate_curvature + 1 / k1)
    yield vanishes("rate'''", rate_third - sp.diff(rate_curvature, k1) * (-k2 / k1))
    # prefactor = -1/2 sum ln(N q/2) - 1/2 ln k_1, and d ln(N q/2)/dc is the compliance.
    yield vanishes("logarithm of a layer's stiffness", sp.diff(sp.log((width + 2 * c) / 2), c) - compliance)
    yield vanishes("prefactor'", prefactor_slope - (-k1 / (2 * k1) - (-k2 / k1) / (2 * k1)))
    yield vanishes("one layer has none", prefactor_slope.subs(k2, k1**2))
    yield vanishes("growth''", growth_curvature - (-s2 / k1 / k1 + s1 * k2 / k1 / k1**2))


@layer_derivatives.check
def _(rng):
    numbers, at = Numbers(rng), mpf(rng.uniform(-0.5, 1.5))
    first, second = numbers.power_sums(at)
    with mpmath.workdps(240):
        found = [mpmath.diff(numbers.rate, at, order) for order in (1, 2, 3)] + [mpmath.diff(numbers.prefactor, at)]
    yield found[0], -numbers.multiplier(at)
    yield found[1], value_at(rate_curvature, k1=first)
    yield found[2], value_at(rate_third, k1=first, k2=second)
    yield found[3], value_at(prefactor_slope, k1=first, k2=second)


_HOME = "derivations/expansions.py"


def _mode(name, arguments, expression, summary, equation):
    return NumPyFunction(name, arguments, expression, summary, equation, _HOME)


FUNCTIONS = (
    _mode("gain_slope", (x,), slopes(gain, 1), "First derivative of a mode's gain in t = ln Q.", "x' = x (1 - x)"),
    _mode("gain_curvature", (x,), slopes(gain, 2), "Second derivative of a mode's gain.", "x'' = x (1 - x) (1 - 2x)"),
    _mode(
        "precision_slope",
        (x,),
        in_modes(sp.diff(1 / strength, t) * strength),
        "First derivative of 1/A, in units of 1/A.",
        "-x",
    ),
    _mode(
        "precision_curvature",
        (x,),
        in_modes(sp.diff(1 / strength, t, 2) * strength),
        "Second derivative of 1/A, in units of 1/A.",
        "-x (1 - 2x)",
    ),
    _mode("fit_slope", (u, x), slopes(fit, 1), "First derivative of a mode's fit -u/2.", "u x / 2"),
    _mode("fit_curvature", (u, x), slopes(fit, 2), "Second derivative of a mode's fit.", "u x (1 - 2x) / 2"),
    _mode("fit_third", (u, x), slopes(fit, 3), "Third derivative of a mode's fit.", "u x (1 - 6x + 6x^2) / 2"),
    _mode("volume_slope", (x,), slopes(volume, 1), "First derivative of a mode's volume -ln(A)/2.", "-x / 2"),
    _mode("volume_curvature", (x,), slopes(volume, 2), "Second derivative of a mode's volume.", "-x (1 - x) / 2"),
    _mode("volume_third", (x,), slopes(volume, 3), "Third derivative of a mode's volume.", "-x (1 - x) (1 - 2x) / 2"),
    NumPyFunction(
        "layer_share",
        (c, width),
        sp.log(1 + ratio),
        "Share ln q of one layer of width N in t at multiplier c.",
        "ln(1 + 2c/N)",
        _HOME,
        let=((ratio, 2 * c / width),),
    ),
    NumPyFunction(
        "layer_rate",
        (c, width),
        width * (sp.log(1 + ratio) - ratio) / 2,
        "Large-deviation rate of one layer at multiplier c, q = 1 + 2c/N.",
        "(N/2) (ln q - q + 1)",
        _HOME,
        let=((ratio, 2 * c / width),),
        small=(ratio, 12, 0.03),
    ),
    _mode("layer_compliance", (c, width), compliance, "Compliance d ln q/dc of one layer.", "2 / (N + 2c)"),
    _mode("rate_curvature", (k1,), rate_curvature, "Second derivative of the rate in t.", "-1 / k_1"),
    _mode("rate_third", (k1, k2), rate_third, "Third derivative of the rate in t.", "-k_2 / k_1^3"),
    _mode(
        "prefactor_slope",
        (k1, k2),
        prefactor_slope,
        "Slope of the prefactor of the density of ln Q; zero for one layer.",
        "-1/2 + k_2 / (2 k_1^2)",
    ),
    _mode(
        "growth_slope",
        (s1, k1),
        growth_slope,
        "Slope of ln q_1 + ... + ln q_{l-1} in t; s_j sums over these layers only.",
        "s_1 / k_1",
    ),
    _mode("growth_curvature", (s1, s2, k1, k2), growth_curvature, "Its second derivative.", "-s_2/k_1^2 + s_1 k_2/k_1^3"),
    _mode(
        "growth_correction",
        (s1, s2, k1, k2),
        growth_correction,
        "Relative correction of order 1/N to E[q_1 ... q_{l-1} | t] = q_1 ... q_{l-1}.",
        "(s_1 - s_1^2/k_1 + s_2/k_1 - s_1 k_2/k_1^2) / 2",
    ),
    _mode(
        "log_shift",
        (S1_slope, S0_third, a),
        log_shift,
        "Mean of t minus its saddle point, to order 1/N; a = -S_0''.",
        "S_1'/a + S_0'''/(2 a^2)",
    ),
)

CLAIMS = (mode_derivatives, layer_derivatives)
