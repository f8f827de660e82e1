r"""Gaussian averages E[phi^(p)(u) phi^(q)(v)] of activations in closed form, and Price's theorem that links them.

For (u, v) ~ N(0, [[a, c], [c, b]]) let F(a, b, c) = E[phi(u) phi(v)]. Price: dF/dc = E[phi'(u) phi'(v)] and
dF/da = E[phi''(u) phi(v)]/2, distributions included, so that every average with p + q even is a derivative of F, and F follows
from an easier average by integrating in c. Formulas are written in a, b, c and s = sqrt(a b - c^2), which the solvers know
without cancellation; c^2 = a b - s^2 ties the four symbols together.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mp, mpf

from linkern.derivations.routes import log_uniform
from linkern.symbolic import Kind, NumPyFunction, claim, equal

ORIGIN = "linkern; kernels after Cho and Saul (2009), Williams (1997)"

a, b, s = sp.symbols("a b s", positive=True)
c = sp.Symbol("c", real=True)
root = sp.sqrt(a * b - c**2)

#: The angle pi - theta, theta the angle between u and v: from 0 at correlation -1 to pi at +1.
opening = sp.atan2(s, -c)


def along(expression, variable):
    """Total derivative: s = sqrt(a b - c^2) moves with its arguments."""
    slope = {a: b / (2 * s), b: a / (2 * s), c: -c / s}[variable]
    return tidy(sp.diff(expression, variable) + slope * sp.diff(expression, s))


def tidy(expression):
    """Simplify with c^2 = a b - s^2, the coefficient of the angle apart from the rest."""
    angles = sorted(expression.atoms(sp.atan, sp.atan2), key=sp.default_sort_key)
    parts = sp.collect(sp.expand(expression), angles, evaluate=False)
    return sp.Add(*(angle * rational(part) for angle, part in parts.items()))


def rational(expression):
    numerator, denominator = sp.fraction(sp.together(sp.powsimp(expression)))
    return sp.factor(reduced(numerator) / reduced(denominator))


def reduced(expression):
    terms = sp.Poly(sp.expand(expression), c).terms()
    return sp.factor(sp.expand(sum(k * c ** (n % 2) * (a * b - s**2) ** (n // 2) for (n,), k in terms)))


def averages(value, cross=None):
    """Return {(p, q): E[phi^(p)(u) phi^(q)(v)]} from (0, 0) by Price's theorem; `cross` spares the first derivative in c."""
    cross = along(value, c) if cross is None else cross
    second = 2 * along(value, a)
    return {
        (0, 0): value,
        (1, 1): cross,
        (2, 0): second,
        (2, 2): along(cross, c),
        (3, 1): 2 * along(cross, a),
        (4, 0): 2 * along(second, a),
    }


def integrate_power(below, power):
    """Return (P, Q) with F_n = (P s + Q opening)/(2 pi), from those of n - 1, by F_n' = n^2 F_{n-1} in c at fixed m = a b.

    ds/dc = -c/s and d opening/dc = 1/s turn it into Q' = n^2 Q_{n-1} and (m - c^2) P' - c P + Q = n^2 (m - c^2) P_{n-1};
    both are homogeneous polynomials, and their coefficients, the constant in Q included, solve linear equations.
    """
    m = a * b
    unknown = sp.symbols(f"p0:{power // 2 + 1} q0:{power // 2 + 1}")
    half = len(unknown) // 2
    P = sum(k * c ** (power - 1 - 2 * i) * m**i for i, k in enumerate(unknown[:half]) if power - 1 - 2 * i >= 0)
    Q = sum(k * c ** (power - 2 * i) * m**i for i, k in enumerate(unknown[half:]))
    conditions = (
        sp.diff(Q, c) - power**2 * below[1],
        (m - c**2) * sp.diff(P, c) - c * P + Q - power**2 * (m - c**2) * below[0],
    )
    equations = [k for e in conditions for k in sp.Poly(sp.expand(e), a, b, c).coeffs()]
    used = sorted((P + Q).free_symbols - {a, b, c}, key=lambda symbol: symbol.name)
    (found,) = sp.linsolve(equations, used)
    solution = dict(zip(used, found, strict=True))
    return P.subs(solution), Q.subs(solution)


#: F_n of the n-th power of ReLU is (P s + Q opening)/(2 pi); the step function (n = 0) is an orthant probability.
POWERS = [(sp.S.Zero, sp.S.One)]
for _n in range(1, 4):
    POWERS.append(integrate_power(POWERS[-1], _n))
relu = [(P * s + Q * opening) / (2 * sp.pi) for P, Q in POWERS]


def tilted(left, right):
    """Return E[exp(-left u^2/2 - right v^2/2)] and the covariance (aa, bb, cc) under that weight."""
    # The precision gains diag(left, right); its determinant times a b - c^2 is the following.
    spread = 1 + left * a + right * b + left * right * s**2
    return 1 / sp.sqrt(spread), ((a + right * s**2) / spread, (b + left * s**2) / spread, c / spread)


# erf: phi' is Gaussian, so F' = E[phi' phi'] is `tilted`; F = 0 at c = 0 because phi is odd.
erf_cross = 4 / sp.pi * tilted(2, 2)[0]
erf_value = 2 / sp.pi * sp.atan(2 * c / sp.sqrt(1 + 2 * a + 2 * b + 4 * s**2))

gaussian_value = tilted(1, 1)[0]

# GELU u Q(u), Q the normal distribution function, q its density. Stein's lemma on the factor u:
# E[u Q(u) v Q(v)] = a E[q(u) v Q(v)] + c E[Q(u) Q(v)] + c E[Q(u) v q(v)].
# The noise of variance 1 in Q makes everything a function of A = 1 + a, B = 1 + b and r = sqrt(A B - c^2): the algebra of
# a, b and s once more, so it is done with those symbols and shifted at the end.
r = sp.Symbol("r", positive=True)
_, (_, _b_u, _) = tilted(1, 0)
_, (_, _, _c_v) = tilted(0, 1)
# E[Q(u) Q(v)] is an orthant probability. Under the tilt q(u), E[v Q(v)] = var(v) E[q(v)]; under q(v), E[v Q(u)] =
# cov(u, v) E[q(u)]; the weight times E[q] is 1/(2 pi r) both times.
gelu_parts = (c * sp.atan2(r, -c) / (2 * sp.pi), a * _b_u / (2 * sp.pi * r), c * _c_v / (2 * sp.pi * r))
_unshifted = {a: a - 1, b: b - 1, s: sp.sqrt(s**2 + 1 - a - b), r: s}
_shifted = {a: a + 1, b: b + 1, s: r}
_gelu_rational = tidy(sp.Add(*(part.subs(_unshifted, simultaneous=True) for part in gelu_parts)))


def _shift(expression):
    """Back to a, b and s; r^2 = 1 + a + b + s^2 in the numerator makes what cancels at small variances cancel here."""
    numerator, denominator = sp.fraction(expression.subs(_shifted, simultaneous=True))
    even = sp.Poly(sp.expand(numerator), r).terms() if not numerator.has(sp.atan2) else None
    if even is None or any(n % 2 for (n,), _ in even):
        return numerator / denominator
    return sp.expand(sum(k * (1 + a + b + s**2) ** (n // 2) for (n,), k in even)) / denominator


# As Stein's lemma leaves it, the value is a sum of positive terms (c > 0).
gelu_set = {k: _shift(v) for k, v in averages(_gelu_rational).items()} | {(0, 0): sp.Add(*gelu_parts)}

# sin and cos: E[exp(i (u -+ v))] = exp(-(a + b -+ 2c)/2), in d = (a + b)/2 - c >= 0.
d = sp.Symbol("d", positive=True)
x = sp.Symbol("x", positive=True)
sin_value = -sp.exp(-d) * (sp.exp(-2 * c) - 1) / 2
cos_value = sp.exp(-d) * (1 + sp.exp(-2 * c)) / 2

SETS = {
    "relu": averages(relu[1], relu[0]),
    "relu2": averages(relu[2], 4 * relu[1]),
    "relu3": averages(relu[3], 9 * relu[2]),
    "erf": averages(erf_value, erf_cross),
    "gelu": gelu_set,
    "gaussian": averages(gaussian_value),
}
_NAMES = {
    "relu": "ReLU",
    "relu2": "ReLU^2",
    "relu3": "ReLU^3",
    "erf": "erf",
    "gelu": "GELU h Q(h)",
    "gaussian": "exp(-h^2/2)",
}
_HOME = "derivations/duals.py"
_spread = ((r, sp.sqrt(1 + a + b + s**2)),)


def _function(name, orders, value):
    p, q = orders
    if name == "erf":
        value = value.subs(sp.sqrt(1 + 2 * a + 2 * b + 4 * s**2), r)
    return NumPyFunction(
        f"{name}_{p}{q}",
        (a, b, c, s, r) if name == "erf" else (a, b, c, s),
        value,
        f"Average of two derivatives of {_NAMES[name]}, orders {p} and {q}.",
        f"E[phi^({p})(u) phi^({q})(v)], (u, v) ~ N(0, [[a, c], [c, b]]), s = sqrt(a b - c^2)"
        + (", r = sqrt(1 + 2a + 2b + 4s^2)" if name == "erf" else ""),
        _HOME,
        let=_spread if name == "gelu" and value.has(r) else (),
    )


def _wave(name, value, summary, equation):
    return NumPyFunction(name, (d, c), value, summary, equation, _HOME)


FUNCTIONS = (
    *(_function(name, orders, value) for name, table in SETS.items() for orders, value in table.items()),
    _wave("sin_sin", sin_value, "Average of two sines, c >= 0, d = (a + b)/2 - c.", "E[sin u sin v] = e^{-d} (1 - e^{-2c})/2"),
    _wave("cos_cos", cos_value, "Average of two cosines, c >= 0, d = (a + b)/2 - c.", "E[cos u cos v] = e^{-d} (1 + e^{-2c})/2"),
)


# --- numerical routes of the checks: one-dimensional sums over u, the average over v given u done by hand ---


def draw(rng):
    variance, other = log_uniform(rng, 0.2, 1.5), log_uniform(rng, 0.2, 1.5)
    return variance, other, mpf(rng.uniform(-0.9, 0.9)) * mpmath.sqrt(variance * other)


def line(function, variance):
    """E[function(u)] by the trapezoidal rule, which converges geometrically for entire functions."""
    step, reach = mpf(1) / 8, 140
    deviation = mpmath.sqrt(variance)
    total = mpmath.fsum(function(deviation * step * k) * mpmath.exp(-((step * k) ** 2) / 2) for k in range(-reach, reach + 1))
    return total * step / mpmath.sqrt(2 * mp.pi)


def value_at(expression, variance, other, covariance):
    point = (variance, other, covariance, mpmath.sqrt(variance * other - covariance**2))
    shifted = expression.subs(r, sp.sqrt(1 + a + b + s**2))
    return mpmath.mpmathify(sp.lambdify((a, b, c, s), shifted, modules="mpmath")(*point))


def conditional(variance, other, covariance):
    """Slope of E[v|u] in u, and the variance of v given u."""
    return covariance / variance, other - covariance**2 / variance


def density(h):
    return mpmath.exp(-h * h / 2) / mpmath.sqrt(2 * mp.pi)


@claim(
    r"\partial_c E[f(u) g(v)] = E[f'(u) g'(v)],\quad \partial_a E[f(u) g(v)] = \tfrac12 E[f''(u) g(v)]",
    Kind.IDENTITY,
    "Price (1958)",
)
def price_theorem():
    """For plane waves, hence by superposition for every tempered f and g, kinks and jumps included."""
    k, q = sp.symbols("k q", real=True)
    wave = sp.exp(-(a * k**2 + b * q**2 + 2 * c * k * q) / 2)
    yield equal("in c: each derivative of a wave gives i times its frequency", sp.diff(wave, c), (sp.I * k) * (sp.I * q) * wave)
    yield equal("in a", sp.diff(wave, a), (sp.I * k) ** 2 * wave / 2)


@price_theorem.check
def _(rng):
    variance, other, covariance = draw(rng)

    def cosine_given(u, cov):
        slope, rest = conditional(variance, other, cov)
        return mpmath.exp(-rest / 2) * mpmath.cos(slope * u)

    def average(cov):
        return line(lambda u: mpmath.exp(-u * u) * cosine_given(u, cov), variance)

    slope, rest = conditional(variance, other, covariance)
    right = line(lambda u: 2 * u * mpmath.exp(-u * u) * mpmath.exp(-rest / 2) * mpmath.sin(slope * u), variance)
    yield mpmath.diff(average, covariance), right


@claim(
    r"\partial_c F_n = n^2 F_{n-1},\quad F_n = \frac{P_n s + Q_n (\pi - \theta)}{2\pi},\quad F_n|_{\theta = \pi} = 0",
    Kind.SOLUTION,
    ORIGIN,
)
def relu_powers():
    """Price's theorem lowers the power; the value at correlation -1 fixes the constant; +1 is an independent test."""
    for power in range(1, 4):
        P, Q = POWERS[power]
        yield equal(f"derivative of F_{power}", along(relu[power], c), tidy(power**2 * relu[power - 1]))
        yield equal(f"F_{power} at correlation -1", relu[power].subs(s, 0).subs(c, -a), 0)
        half_moment = sp.factorial2(2 * power - 1) * a**power / 2
        yield equal(f"F_{power} at u = v is half of E[u^{2 * power}]", (Q * sp.pi / (2 * sp.pi)).subs({c: a, b: a}), half_moment)


@relu_powers.check
def _(rng):
    variance, other, covariance = draw(rng)
    angle = mpmath.acos(covariance / mpmath.sqrt(variance * other))
    scale = mpmath.sqrt(variance * other)
    for power in (1, 2, 3):
        # Polar coordinates: the radius gives 2^n n!, both factors are positive for angle - pi/2 < t < pi/2.
        wedge = mpmath.quad(lambda t, n=power: (mpmath.cos(t) * mpmath.cos(t - angle)) ** n, [angle - mp.pi / 2, mp.pi / 2])
        truth = scale**power * 2**power * mpmath.factorial(power) / (2 * mp.pi) * wedge
        yield value_at(relu[power], variance, other, covariance), truth
    # E[delta(u) relu(v)]: v given u = 0.
    rest = conditional(variance, other, covariance)[1]
    expected = mpmath.sqrt(rest) / mpmath.sqrt(2 * mp.pi) / mpmath.sqrt(2 * mp.pi * variance)
    yield value_at(SETS["relu"][2, 0], variance, other, covariance), expected


@claim(
    r"c < 0:\quad F_n = \frac{(n!)^2}{2\pi (2n+1)!!} \frac{s^{2n+1}}{|c|^{n+1}}"
    r"\; {}_2F_1\!\left(\tfrac{n+1}{2}, \tfrac{n+2}{2}; n + \tfrac32; -s^2/c^2\right)",
    Kind.IDENTITY,
    "linkern",
)
def relu_powers_near_opposite():
    """The same recursion, term by term for symbolic n and summation index; every term has one sign of t^2 less to lose."""
    n, k = sp.symbols("n k", integer=True, positive=True)

    def term(power, index):
        rising = sp.gamma(power + 1 + 2 * index) / sp.gamma(power + 1)
        lower = sp.gamma(power + sp.Rational(3, 2) + index) / sp.gamma(power + sp.Rational(3, 2))
        return (-1) ** index * rising / (4**index * lower * sp.factorial(index))

    # d/dc of s^(2n+1+2k) |c|^-(n+1+2k): the powers s^(2n-1+2k) |c|^-(n+2k) receive from k and from k - 1.
    before, below = (sp.simplify(sp.expand_func(t / term(n, k))) for t in (term(n, k - 1), term(n - 1, k)))
    yield equal("terms of order k", (2 * n + 1 + 2 * k) + (n - 1 + 2 * k) * before, (2 * n + 1) * below)
    yield equal("the prefactors", sp.gammasimp(n**2 * sp.gamma(n) ** 2 / sp.gamma(n + 1) ** 2), 1)
    at_zero = sp.limit((s - (-c) * sp.atan(s / (-c))).subs(c, -1) / s**3, s, 0)
    yield equal("n = 1 at leading order", at_zero, sp.Rational(1, 3))


@relu_powers_near_opposite.check
def _(rng):
    variance, other, covariance = draw(rng)
    covariance = -abs(covariance)
    t = mpmath.sqrt(variance * other - covariance**2) / -covariance
    for n in (1, 2, 3):
        series = mpmath.hyp2f1(mpf(n + 1) / 2, mpf(n + 2) / 2, mpf(2 * n + 3) / 2, -(t**2))
        factor = mpmath.factorial(n) ** 2 / (2 * mp.pi * mpmath.fac2(2 * n + 1))
        yield factor * (-covariance) ** n * t ** (2 * n + 1) * series, value_at(relu[n], variance, other, covariance)


@claim(
    r"\partial_a \partial_b F = \tfrac14 \partial_c^2 F \text{ for every closed form},"
    r"\quad \partial_c E[\varphi^{(2)}\varphi] = E[\varphi^{(3)}\varphi^{(1)}]",
    Kind.IDENTITY,
    "linkern; Price's theorem twice",
)
def duals_solve_the_heat_equation():
    """Both sides are E[phi'' phi'']/4: a partial differential equation that ties the generated averages to each other."""
    for name, table in SETS.items():
        full = {orders: value.subs(r, sp.sqrt(1 + a + b + s**2)) for orders, value in table.items()}
        yield equal(f"{name}: in b of E[phi'' phi]/2", along(full[2, 0], b) / 2, tidy(full[2, 2]) / 4)
        yield equal(f"{name}: in c of E[phi'' phi]", along(full[2, 0], c), tidy(full[3, 1]))


@duals_solve_the_heat_equation.check
def _(rng):
    variance, other, covariance = draw(rng)
    for table in SETS.values():
        half = mpmath.diff(lambda y, t=table: value_at(t[2, 0], variance, y, covariance), other)
        yield half, value_at(table[2, 2], variance, other, covariance) / 2


CLAIMS = (
    price_theorem,
    relu_powers,
    relu_powers_near_opposite,
    duals_solve_the_heat_equation,
)
