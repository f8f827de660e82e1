r"""Second order in gamma0^2: one hidden layer of any activation, linear networks, and polynomials at any depth.

With one hidden layer the second order is one untilted average more, whatever phi is. Linear networks have a recursion of
matrices. For polynomials one function generates both recursions of the saddle point: with q = phi^T H phi and h ~ N(0, S),

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
from sympy.polys.ring_series import rs_subs
from sympy.polys.rings import sring

from linkern.derivations.notation import T
from linkern.derivations.perturbation import diagrams, eps, pairings, random_symmetric
from linkern.derivations.routes import contour_coefficient, log_uniform
from linkern.derivations.series import lazy_second
from linkern.symbolic import Kind, claim, depth, equal, vanishes

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
    # Expressions would be multiplied out in full before they are cut.
    ring, parts = sring([*matrix, *values.values()], eps, *values)
    rules = dict(zip(ring.gens[1:], parts[len(matrix) :], strict=True))
    series = [rs_subs(entry, rules, ring.gens[0], ORDER + 1).as_expr() for entry in parts[: len(matrix)]]
    return sp.Matrix(*matrix.shape, series)


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


@claim(
    r"\Phi_2 = \tfrac18 \langle (\varphi\varphi^T - K)(q - \langle q \rangle)^2 \rangle_0"
    r" - \tfrac12 \operatorname{Cov}_0(\varphi\varphi^T, r),\quad q = \varphi^T H_1 \varphi,\ r = \varphi^T H_2 \varphi;"
    r"\quad H_1 = -g v_0 v_0^T,\ H_2 = -g (v_0 v_1^T + v_1 v_0^T),"
    r"\quad v_2 = -A^{-1} g (\Phi_1 v_1 + \Phi_2 v_0)\quad (L = 1)",
    Kind.SERIES,
    "linkern; second order beyond Lauditi et al. (2025), eqs. 46-53",
)
def one_layer_second_order():
    """The tilt exp(-(eps q + eps^2 r)/2) expanded in a ratio of moments; no property of phi or of the Gaussian is used."""
    f, fq, fqq, fr, q1, q2, r1 = sp.symbols("f f_q f_qq f_r q q2 r")  # E F, E F q, E F q^2, E F r, E q, E q^2, E r; F = phi phi
    ratio = (f - eps * fq / 2 + eps**2 * (fqq / 8 - fr / 2)) / (1 - eps * q1 / 2 + eps**2 * (q2 / 8 - r1 / 2))
    taken = [sp.diff(ratio, eps, k).subs(eps, 0) / sp.factorial(k) for k in range(ORDER + 1)]
    yield equal("the tilt at first order", taken[1], -(fq - f * q1) / 2)
    central = (fqq - 2 * q1 * fq + q1**2 * f) - f * (q2 - q1**2)  # E (F - f)(q - E q)^2
    yield equal("and at second", taken[2], central / 8 - (fr - f * r1) / 2)
    A, K1, K2, y, k0, k1, k2, g = sp.symbols("A K1 K2 y k_0 k_1 k_2 g", commutative=False)
    v = [A**-1 * y]
    v.append(-(A**-1) * g * K1 * v[0])
    v.append(-(A**-1) * g * (K1 * v[1] + K2 * v[0]))
    signal, kernel = (sum(x * eps**k for k, x in enumerate(terms)) for terms in (v, (A, g * K1, g * K2)))
    balance = sp.expand(kernel * signal - y)
    for order in range(ORDER + 1):
        yield vanishes(f"(g Phi + T) v = y at order {order}", balance.coeff(eps, order))
    row = sp.expand(g * (k0 + eps * k1 + eps**2 * k2) * signal).coeff(eps, 2)
    yield vanishes("the predictor", sp.expand(row - g * (k0 * v[2] + k1 * v[1] + k2 * v[0])))
    a, b = (sp.Matrix(sp.symbols(f"{name}1:3")) for name in ("a", "b"))
    dual = sp.expand(-eps * (a + eps * b) * (a + eps * b).T)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        yield equal(f"the dual, entry {i + 1}{j + 1}", dual[i, j].coeff(eps, 2), -(a * b.T + b * a.T)[i, j])


@one_layer_second_order.check
def _(rng):
    # Two points, two outputs, and any finite measure in place of the Gaussian; the saddle point at complex strength by iteration.
    fields = [mpmath.matrix([mpf(rng.gauss(0, 1)), mpf(rng.gauss(0, 1))]) for _ in range(6)]
    masses = [mpf(rng.uniform(0.5, 1)) for _ in fields]
    Y = mpmath.matrix([[mpf(rng.gauss(0, 1)) for _ in range(2)] for _ in range(2)])
    readout, unit = log_uniform(rng, 0.5, 2), mpmath.eye(2) * log_uniform(rng, 0.5, 2)

    def kernel(weights):
        total = mpmath.matrix(2, 2)
        for weight, phi in zip(weights, fields, strict=True):
            total += weight * phi * phi.T
        return total / mpmath.fsum(weights)

    def outer_average(values):
        total, K = mpmath.matrix(2, 2), kernel(masses)
        for mass, value, phi in zip(masses, values, fields, strict=True):
            total += mass * value * (phi * phi.T - K)
        return total / mpmath.fsum(masses)

    @cache
    def saddle(strength):
        V, change = mpmath.matrix(2, 2), 1
        while change > mpf(10) ** -100:
            squares = [mpmath.fsum(x**2 for x in V.T * phi) for phi in fields]
            tilted = kernel([m * mpmath.exp(strength * readout * x / 2) for m, x in zip(masses, squares, strict=True)])
            new = mpmath.inverse(readout * tilted + unit) * Y
            change, V = mpmath.mnorm(new - V), new
        return tilted, V

    def centred(left, right):
        values = [-readout * mpmath.fsum(a * b for a, b in zip(left.T * x, right.T * x, strict=True)) for x in fields]
        mean = mpmath.fdot(masses, values) / mpmath.fsum(masses)
        return [x - mean for x in values]

    inverse = mpmath.inverse(readout * kernel(masses) + unit)
    V0 = inverse * Y
    q = centred(V0, V0)
    first = outer_average([-x / 2 for x in q])
    V1 = -readout * inverse * first * V0
    second = outer_average([x * x / 8 - y for x, y in zip(q, centred(V0, V1), strict=True)])
    V2 = -readout * inverse * (first * V1 + second * V0)
    radius = 1 / (3000 * (1 + max(abs(x) for x in q)))
    yield contour_coefficient(lambda t: saddle(t)[0][0, 1], 2, radius, nodes=18), second[0, 1]
    yield contour_coefficient(lambda t: saddle(t)[1][1, 0], 2, radius, nodes=18), V2[1, 0]


@claim(
    r"\varphi(h) = s h:\quad \Phi^l = s^2 [S - s^2 S H S + s^4 S H S H S - \dots],\quad"
    r" \hat\Phi^{l-1} = g s^2 [H - s^2 H S H + \dots],\quad S = g \Phi^{l-1},\ H = \hat\Phi^l",
    Kind.SERIES,
    "linkern; tilted Gaussians are Gaussians",
)
def linear_recursion():
    """Z = det(1 + s^2 S H)^{-1/2}, so that both sides are resolvents: exact forms here, their Neumann series below."""
    S, H, s = symmetric("S", 2), symmetric("H", 2), sp.Symbol("s", positive=True)
    log_z = -sp.log((sp.eye(2) + s**2 * S * H).det()) / 2
    resolvent = (sp.eye(2) + s**2 * S * H).inv()
    up, down = _gradient(log_z, H), _gradient(log_z, S)
    kernel, dual = s**2 * resolvent * S, s**2 * H * resolvent
    for i, j in ((0, 0), (0, 1), (1, 1)):
        yield equal(f"kernel, entry {i + 1}{j + 1}", up[i, j], kernel[i, j])
        yield equal(f"dual, entry {i + 1}{j + 1}", down[i, j], dual[i, j])
    A, B = (sp.Symbol(name, commutative=False) for name in ("S", "H"))
    t = sp.Symbol("t")  # counts powers of H
    remainder = sp.expand((1 + t * A * B) * (A - t * A * B * A + t**2 * A * B * A * B * A) - A)
    for order in range(ORDER + 1):
        yield vanishes(f"Neumann series of the kernel, order {order}", remainder.coeff(t, order))
    remainder = sp.expand((t * B - t**2 * B * A * B) * (1 + t * A * B) - t * B)
    for order in range(ORDER + 1):
        yield vanishes(f"Neumann series of the dual, order {order}", remainder.coeff(t, order))


@linear_recursion.check
def _(rng):
    # ln Z of three points from the eigenvalues of the symmetric S^(1/2) H S^(1/2), differentiated along a direction.
    S, M = (random_symmetric(rng, 3, definite=True) for _ in range(2))
    H, slope = random_symmetric(rng, 3, definite=True) / 20, log_uniform(rng, 0.5, 1.5)

    def log_z(covariance, tilt):
        root = mpmath.cholesky(covariance)
        eigenvalues = mpmath.eigsy(root.T * tilt * root, eigvals_only=True)
        return -mpmath.fsum(mpmath.log(1 + slope**2 * x) for x in eigenvalues) / 2

    resolvent = mpmath.inverse(mpmath.eye(3) + slope**2 * S * H)
    for move, answer in (
        (lambda t: log_z(S, H + t * M), slope**2 * resolvent * S),
        (lambda t: log_z(S + t * M, H), slope**2 * H * resolvent),
    ):
        with mpmath.workdps(2 * mpmath.mp.dps):
            found = -2 * mpmath.diff(move, 0)
        yield found, mpmath.fsum(answer[i, j] * M[i, j] for i, j in product(range(3), repeat=2))


CLAIMS = (polynomial_second_order, one_layer_second_order, linear_recursion)
