r"""Orders in 1/N of the expansions, and why one loop is Laplace's method in one variable.

See `expansions` for the two splittings S_0 + S_1 of the exponent. The claims here say what each of them leaves out.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.expansions import (
    ORIGIN,
    Numbers,
    S0_third,
    S1_slope,
    a,
    growth_correction,
    k1,
    k2,
    log_shift,
    s1,
    s2,
    value_at,
)
from linkern.derivations.routes import bisect_root, log_uniform
from linkern.symbolic import Kind, claim, vanishes

MULTISCALE = "linkern; the expansion of the multi-scale adaptive theory, in one variable"


def _gaussian_average(polynomial, variable, precision):
    """Average of a polynomial over N(0, 1/precision)."""
    terms = sp.Poly(sp.expand(polynomial), variable).terms()
    return sum(w * sp.factorial2(n - 1) / precision ** (n // 2) for (n,), w in terms if n % 2 == 0)


def _laplace_series(order):
    """<F> in powers of epsilon = N^{-1/2}: t = t* + epsilon z, S_0 = s_0/epsilon^2; coefficients 0..order."""
    e, z = sp.symbols("epsilon z", real=True)
    precision, third, fourth, fifth = sp.symbols("a S3 S4 S5", real=True)
    first, second, last = sp.symbols("r1 r2 r3", real=True)
    values = sp.symbols("F0:4", real=True)
    exponent = third * e * z**3 / 6 + fourth * e**2 * z**4 / 24 + fifth * e**3 * z**5 / 120
    exponent += first * e * z + second * e**2 * z**2 / 2 + last * e**3 * z**3 / 6
    weight = sum(exponent**n / sp.factorial(n) for n in range(order + 1))
    function = sum(value * (e * z) ** n / sp.factorial(n) for n, value in enumerate(values))

    def average(expression):
        expanded = sp.Poly(sp.expand(expression), e)
        return [_gaussian_average(expanded.coeff_monomial(e**n), z, precision) for n in range(order + 1)]

    top, bottom = average(weight * function), average(weight)
    quotient = []
    for n in range(order + 1):
        quotient.append(sp.expand(top[n] - sum(quotient[m] * bottom[n - m] for m in range(n))))
    return quotient, precision, third, first, values


@claim(
    r"\langle F \rangle = F(t_*) + \delta F' + \frac{F''}{2a} + O(N^{-2}),\quad \delta = \frac{S_1'}{a} + \frac{S_0'''}{2a^2}:"
    r" \text{ tree level and Q-saddle err at order } 1/N,\text{ one loop and saddle + next order at } 1/N^2",
    Kind.SERIES,
    MULTISCALE,
)
def laplace_orders():
    """t = t* + z/sqrt(N): Gaussian moments to order N^{-3/2}; half-integer powers vanish by parity."""
    quotient, precision, third, first, (f0, f1, f2, _) = _laplace_series(3)
    shift = log_shift.subs({S1_slope: first, S0_third: third, a: precision}, simultaneous=True)
    yield vanishes("order 1: the value at the saddle point", quotient[0] - f0)
    yield vanishes("order N^{-1/2}", quotient[1])
    yield vanishes("order 1/N: delta F' + F''/(2a)", quotient[2] - shift * f1 - f2 / (2 * precision))
    yield vanishes("order N^{-3/2}: the next error is 1/N^2", quotient[3])


@laplace_orders.check
def _(rng):
    # The same coefficient by Watson's lemma: t as a power series in the square root of the drop of S_0.
    numbers = Numbers(rng, depth=1, resummed=bool(rng.randint(0, 1)))
    with mpmath.workdps(300):
        star = _stationary(numbers)
        drop = [-value for value in mpmath.taylor(numbers.leading, star, 4)]
        weight = mpmath.taylor(lambda at: mpmath.exp(numbers.rest(at) - numbers.rest(star)), star, 2)
        gains = mpmath.taylor(lambda at: 1 - numbers.ridge / numbers.totals(at)[0], star, 2)
    curvature, third, slope = 2 * drop[2], -6 * drop[3], weight[1]
    # s^2/2 = a tau^2/2 + d3 tau^3 + d4 tau^4 with tau = c1 s + c2 s^2 + c3 s^3.
    c1 = 1 / mpmath.sqrt(curvature)
    c2 = -drop[3] * c1**3 / (curvature * c1)
    c3 = -(curvature * c2**2 / 2 + 3 * drop[3] * c1**2 * c2 + drop[4] * c1**4) / (curvature * c1)
    jacobian = [c1, 2 * c2, 3 * c3]

    def second_order(series):
        inner = [series[0], series[1] * c1, series[1] * c2 + series[2] * c1**2]
        return inner[0] * jacobian[2] + inner[1] * jacobian[1] + inner[2] * jacobian[0]

    product = [gains[0], gains[1] + gains[0] * slope, gains[2] + gains[1] * slope + gains[0] * weight[2]]
    watson = (second_order(product) - gains[0] * second_order(weight)) / c1
    shift = value_at(log_shift, slope=slope, third=third, a=curvature)
    yield watson, shift * gains[1] + gains[2] / curvature


def _stationary(numbers):
    """The saddle point of S_0 for one layer, by bisection on its derivative in closed form."""
    width = numbers.widths[0]

    def slope(at):
        totals = numbers.totals(at)
        gains = [1 - numbers.ridge / total for total in totals]
        force = mpmath.fsum(x * label**2 / total for x, label, total in zip(gains, numbers.labels, totals, strict=True))
        if numbers.resummed:
            force -= mpmath.fsum(gains)
        return width / 2 * mpmath.expm1(at) - force / 2

    low, high = mpf(-1), mpf(1)
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    return bisect_root(slope, low, high)


@claim(
    r"L = 1:\ \langle \tilde f \rangle = v + (\kappa + B)^{-1} \tfrac12 \partial_v \ln\det(\kappa + B),\; B = W''(v),"
    r"\text{ is Laplace's method in } \ln Q \text{ with } S_0 = \mathrm{rate} + \mathrm{fit}",
    Kind.IDENTITY,
    MULTISCALE,
)
def one_loop_is_laplace():
    """Both corrections in the sums U_j = sum u x^j and X_1 = sum x; B is diagonal plus rank one."""
    n, q, scale = sp.symbols("N q g", positive=True)
    U2, U3, X1 = sp.symbols("U2 U3 X1", positive=True)
    U1 = n * (q - 1)  # the tree equation
    rho = 2 * U2 / n
    # 1/2 d/dv ln det = c1 K v + c2 K A^{-1} K v; sum lam^2 v^2/A = U2/(gq)^2, sum lam^3 v^2/A^2 = U3/(gq)^3.
    q_slope = 2 * scale * q**2 / n
    rho_q = (2 * scale**2 / n) * (2 * q * U2 / (scale * q) ** 2 - q**2 * scale * U3 / (scale * q) ** 3)
    c1 = (X1 / q / 2 + rho_q / (2 * (1 + rho))) * q_slope
    c2 = (2 * scale**2 * q**2 / n) / (1 + rho)
    # Sherman-Morrison: (kappa + B)^{-1} K v = A^{-1} K v/(1 + rho), and for K A^{-1} K v one more term.
    alpha = c1 / (1 + rho) - c2 * (2 * scale**2 * q**2 / n) * U3 / (scale * q) ** 3 / (1 + rho)
    curvature = n * q / 2 - (U1 - 2 * U2) / 2
    yield vanishes("a = N (1 + rho)/2", curvature - n * (1 + rho) / 2)
    third = -n * q / 2 + (U1 - 6 * U2 + 6 * U3) / 2
    shift = log_shift.subs({S1_slope: -X1 / 2, S0_third: third, a: curvature}, simultaneous=True)
    # y - f = kappa v, x' = x (1-x), x'' = x (1-x)(1-2x): dv_i = -x (delta + 1/(2a)) v_i + x^2 v_i/a.
    yield vanishes("part along K A^{-1} v", sp.simplify(alpha + scale * q * (shift + 1 / (2 * curvature))))
    yield vanishes("part along (K A^{-1})^2 v", sp.simplify(c2 / (scale * q) ** 2 - 1 / curvature))


@one_loop_is_laplace.check
def _(rng):
    numbers = Numbers(rng, depth=1)
    n, scale, ridge = numbers.widths[0], numbers.strength, numbers.ridge
    with mpmath.workdps(110):
        at = _stationary(numbers)
        v = [label / total for label, total in zip(numbers.labels, numbers.totals(at), strict=True)]
    size = len(v)

    def matrix(signal):
        norm = mpmath.fsum(value * w**2 for value, w in zip(numbers.values, signal, strict=True))
        q = 1 / (1 - scale * norm / n)
        image = mpmath.matrix([value * w for value, w in zip(numbers.values, signal, strict=True)])
        diagonal = mpmath.diag([scale * q * value + ridge for value in numbers.values])
        return diagonal + 2 * (scale * q) ** 2 / n * image * image.T

    slope = mpmath.matrix(size, 1)
    with mpmath.workdps(150):
        for i in range(size):
            slope[i] = mpmath.diff(lambda w, i=i: mpmath.log(mpmath.det(matrix([*v[:i], w, *v[i + 1 :]]))), v[i]) / 2
    correction = mpmath.lu_solve(matrix(v), slope)
    with mpmath.workdps(240):
        derivative = mpmath.taylor(numbers.leading, at, 3)
        rest = mpmath.diff(numbers.rest, at)
    curvature = -2 * derivative[2]
    shift = value_at(log_shift, slope=rest, third=6 * derivative[3], a=curvature)
    for i in range(size):
        here = 1 - ridge / numbers.totals(at)[i]
        first = here * (1 - here)
        laplace = here + first * shift + first * (1 - 2 * here) / (2 * curvature)
        yield numbers.labels[i] - ridge * (v[i] + correction[i]), laplace * numbers.labels[i]


@claim(
    r"\langle q_1 \cdots q_{l-1} \,|\, t\rangle = q_1 \cdots q_{l-1} \Big[1 + \tfrac12\Big(s_1 - \frac{s_1^2}{k_1}"
    r" + \frac{s_2}{k_1} - \frac{s_1 k_2}{k_1^2}\Big) + O(N^{-2})\Big],\quad s_j = \sum_{k<l} \Big(\frac{2}{N_k q_k}\Big)^j",
    Kind.SERIES,
    ORIGIN,
)
def conditional_growth():
    """Fluctuations zeta of ln q at fixed sum: covariance D - D 1 1^T D/k_1, D = diag(kappa_k), cubic term -zeta^3/(6 kappa_k)."""
    share, inside = sp.symbols("kappa_k i_k", positive=True)
    # Per layer: C_sk = kappa_k (i_k - s_1/k_1) and C_kk = kappa_k - kappa_k^2/k_1; i_k is 1 below layer l, else 0.
    term = sp.expand((inside - s1 / k1) * (share - share**2 / k1))
    sums = {(1, 1): s1, (1, 2): s2, (0, 1): k1, (0, 2): k2}
    total = sum(weight * sums[powers] for powers, weight in sp.Poly(term, inside, share).terms())
    variance = s1 - s1**2 / k1
    yield vanishes("mean and variance of the sum", sp.expand(growth_correction - variance / 2 + total / 2))
    yield vanishes("all layers: q_1 ... q_L = e^t has no correction", growth_correction.subs({s1: k1, s2: k2}))
    yield vanishes("no layer", growth_correction.subs({s1: 0, s2: 0}))


@conditional_growth.check
def _(rng):
    # Another route: tilt the layers' densities by the factor itself and expand the two saddle-point formulas' ratio.
    count = rng.randint(2, 5)
    shares = [log_uniform(rng, 0.01, 1) for _ in range(count)]
    below = rng.randint(1, count - 1)
    basis = mpmath.matrix(count, count - 1)
    for j in range(count - 1):
        basis[j, j], basis[j + 1, j] = mpf(1), mpf(-1)
    precision = basis.T * mpmath.diag([1 / share for share in shares]) * basis
    covariance = basis * precision**-1 * basis.T
    tilt = mpmath.matrix([mpf(1) if j < below else mpf(0) for j in range(count)])
    moved = covariance * tilt

    def log_volume(strength):
        """-1/2 ln det of the precision on the plane, after the saddle point has moved: stiffness grows like e^zeta."""
        stiffness = [mpmath.exp(strength * moved[j]) / shares[j] for j in range(count)]
        return -(mpmath.fsum(mpmath.log(h) for h in stiffness) + mpmath.log(mpmath.fsum(1 / h for h in stiffness))) / 2

    with mpmath.workdps(150):
        volume_shift = mpmath.diff(log_volume, 0)
    first, second = mpmath.fsum(shares[:below]), mpmath.fsum(share**2 for share in shares[:below])
    found = value_at(growth_correction, s1=first, s2=second, k1=mpmath.fsum(shares), k2=mpmath.fsum(share**2 for share in shares))
    yield (tilt.T * covariance * tilt)[0, 0] / 2 + volume_shift, found


CLAIMS = (laplace_orders, one_loop_is_laplace, conditional_growth)
