r"""Second order in gamma0^2 for polynomial activations, any depth and number of points, by Wick expansion.

One function generates both recursions of the saddle point: with q = phi^T H phi and h ~ N(0, S),

    ln Z(S, H) = -kappa_1(q)/2 + kappa_2(q)/8 - kappa_3(q)/48 + O(H^4),   Phi = -2 d ln Z/dH,   hatPhi = -2 d ln Z/dS,

and for a polynomial phi the cumulants are polynomials in the entries of S and H. Each sweep through the layers settles one more
order of gamma0^2. Where phi grows faster than linearly the series is formal: the tilt of the full saddle point diverges.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import T
from linkern.derivations.perturbation import diagrams, eps, pairings, random_symmetric
from linkern.derivations.routes import contour_coefficient, log_uniform
from linkern.derivations.series import lazy_second
from linkern.symbolic import Kind, claim, depth, equal

ORDER = 2


def symmetric(name, size):
    """Return a symmetric matrix of symbols."""
    return sp.Matrix(size, size, lambda i, j: sp.Symbol(f"{name}{min(i, j)}{max(i, j)}"))


def generating_function(coefficients, size):
    """Return (ln Z to third order in H, S, H) for phi = sum_k coefficients[k] h^k at `size` points."""
    S, H, fields = symmetric("S", size), symmetric("H", size), sp.symbols(f"u0:{size}")
    phi = [sum(k * u**n for n, k in enumerate(coefficients)) for u in fields]
    q = sp.Poly(sum(H[i, j] * phi[i] * phi[j] for i, j in product(range(size), repeat=2)), *fields)

    def average(polynomial):
        return sp.expand(sum(k * pairings(list(powers), S) for powers, k in polynomial.terms()))

    m1, m2, m3 = average(q), average(q**2), average(q**3)
    spread, skew = sp.expand(m2 - m1**2), sp.expand(m3 - 3 * m1 * m2 + 2 * m1**3)
    return -m1 / 2 + spread / 8 - skew / 48, S, H


def _gradient(function, matrix):
    """-2 times the gradient with respect to a symmetric matrix: shared entries count half."""
    return sp.Matrix(*matrix.shape, lambda i, j: -2 * sp.diff(function, matrix[i, j]) / (1 if i == j else 2))


def _truncated(matrix):
    return matrix.applyfunc(lambda e: sum(sp.expand(e).coeff(eps, n) * eps**n for n in range(ORDER + 1)))


def _insert(matrix, S, H, at_S, at_H):
    values = {x[i, j]: at[i, j] for x, at in ((S, at_S), (H, at_H)) for i, j in product(range(S.rows), repeat=2)}
    return _truncated(matrix.subs(values, simultaneous=True))


def expansion(coefficients, layers, C, y, temperature):
    """Return Phi^1, ..., Phi^L as polynomials in eps = gamma0^2, to second order; C, y may be symbols or numbers."""
    log_z, S, H = generating_function(coefficients, C.rows)
    upward, downward = _gradient(log_z, H), _gradient(log_z, S)
    duals = [sp.zeros(*C.shape)] * layers
    for _ in range(ORDER + 1):
        kernels = [C]
        for dual in duals:
            kernels.append(_insert(upward, S, H, kernels[-1], dual))
        signal = _signal(kernels[-1], y, temperature)
        duals = [_truncated(-eps * signal * signal.T)]
        for kernel in kernels[layers - 1 : 0 : -1]:
            duals.insert(0, _insert(downward, S, H, kernel, duals[0]))
    return kernels[1:]


def _signal(kernel, y, temperature):
    """Solve (Phi + T) v = y order by order."""
    inverse = (kernel.subs(eps, 0) + temperature * sp.eye(kernel.rows)).inv()
    v = inverse * y
    for _ in range(ORDER):
        v = _truncated(inverse * (y - (kernel - kernel.subs(eps, 0)) * v))
    return v


@claim(
    r"\ln Z = -\tfrac12 \kappa_1 + \tfrac18 \kappa_2 - \tfrac1{48} \kappa_3 + \dots \text{ of } \varphi^T \hat\Phi \varphi"
    r" \text{ gives } \Phi^l \text{ to } O(\gamma_0^4);\ \text{for } \varphi(h) = h \text{ the exact series}",
    Kind.SERIES,
    "linkern; second order beyond Lauditi et al. (2025), eqs. 46-53",
)
def polynomial_second_order():
    """Against the all-orders series of the deep linear network, and at first order against the average of four fields."""
    label, kernel = sp.symbols("y k", positive=True)
    for layers in (1, 2):
        (last,) = expansion((0, 1), layers, sp.eye(1), sp.eye(1), T)[-1]
        yield equal(f"linear, L = {layers}: first order", last.coeff(eps, 1), layers / (1 + T) ** 2)
        yield equal(f"linear, L = {layers}: second order", last.coeff(eps, 2), lazy_second.subs(depth, layers))
    ((square,),) = (expansion((0, 0, 1), 1, sp.Matrix([[kernel]]), sp.Matrix([[label]]), T),)
    four = diagrams((2, 2, 2, 2), sp.Matrix(4, 4, lambda i, j: kernel))
    yield equal("square, L = 1: first order", square[0].coeff(eps, 1), label**2 / (3 * kernel**2 + T) ** 2 * four / 2)


@polynomial_second_order.check
def _(rng):
    yield from _two_linear_points(rng)
    yield from _one_point_of_a_cubic(rng)


def _precisely(x):
    return sp.Float(mpmath.nstr(x, mpmath.mp.dps + 10), mpmath.mp.dps + 20)


def _two_linear_points(rng):
    """The exact saddle point of two layers at complex strength, by Newton's method on the growth 1 + A."""
    C, temperature = random_symmetric(rng, 2, definite=True), log_uniform(rng, 0.5, 2)
    y = mpmath.matrix([mpf(rng.gauss(0, 1)) for _ in range(2)])
    C = mpmath.matrix([[C[0, 0], C[0, 1]], [C[0, 1], C[1, 1]]])

    @cache
    def entry(strength):
        def signal(charge):
            return mpmath.lu_solve((1 + charge) ** 2 * C + temperature * mpmath.eye(2), y)

        def excess(charge):
            v = signal(charge)
            return charge - strength * (1 + charge) ** 2 * (v.T * C * v)[0]

        charge = mpmath.findroot(excess, strength, tol=mpf(10) ** -112)
        v = signal(charge)
        along = C * v
        return along[0] * along[1] * ((1 + charge) ** 2 - 1) / (v.T * C * v)[0]

    exact = expansion(
        (0, 1), 2, sp.Matrix(2, 2, [_precisely(x) for x in C]), sp.Matrix([_precisely(x) for x in y]), _precisely(temperature)
    )
    v0 = mpmath.lu_solve(C + temperature * mpmath.eye(2), y)
    radius = 1 / (2000 * (v0.T * C * v0)[0])
    for order in (1, 2):
        yield contour_coefficient(entry, order, radius, nodes=18), _number(exact[-1][0, 1].coeff(eps, order))


def _one_point_of_a_cubic(rng):
    """Two layers with ln Z cut after three cumulants, solved at complex strength by Newton's method."""
    coefficients = (0, mpf(rng.uniform(0.5, 1)), mpf(rng.uniform(-0.5, 0.5)), mpf(rng.uniform(0.1, 0.3)))
    kernel, label, temperature = log_uniform(rng, 0.4, 0.8), log_uniform(rng, 0.5, 1), log_uniform(rng, 0.8, 2)
    exact = [_precisely(x) for x in coefficients]
    log_z, S, H = generating_function(exact, 1)
    up, down = (sp.lambdify((S[0], H[0]), _gradient(log_z, x)[0], "mpmath") for x in (H, S))

    @cache
    def last_kernel(strength):
        def equations(first, last, low, high):
            top = -strength * label**2 / (last + temperature) ** 2
            return up(kernel, low) - first, up(first, high) - last, down(first, high) - low, top - high

        start = up(kernel, mpf(0))
        return mpmath.findroot(equations, (start, up(start, mpf(0)), mpf(0), mpf(0)), tol=mpf(10) ** -112)[1]

    series = expansion(exact, 2, sp.Matrix([[_precisely(kernel)]]), sp.Matrix([[_precisely(label)]]), _precisely(temperature))
    for order in (1, 2):
        found = contour_coefficient(last_kernel, order, mpf(1) / 30000, nodes=16)
        yield found, _number(series[-1][0].coeff(eps, order))


def _number(value):
    return mpmath.mpmathify(sp.N(value, mpmath.mp.dps))


CLAIMS = (polynomial_second_order,)
