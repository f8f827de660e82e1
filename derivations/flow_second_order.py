"""Second-order feature learning where a single mode of the data is learned: kernels, tangent kernel and error to order gamma0^4.

Labels in one eigenspace of C (always so for whitened data) excite one mode, of eigenvalue k. Every time integral of the
mean-field equations then comes with its factor Delta(t), so that w = gamma0 sqrt(k) int Delta is the natural clock: with kernels
in units of k, and products of causal kernels understood as int_v^w dx,

    C^l = A^{l-1} + Phi^{l-1},   D^l = B^l + G^{l+1},   A^l = C^l (1 - D^l C^l)^{-1},   B^{l-1} = (1 - D^l C^l)^{-1} D^l,
    Phi^l = (1 - C D)^{-1} Phi^{l-1} (1 - C D)^{-T} + A G^{l+1} A^T

contain no time at all. Order by order they are polynomials in w, v and the layer index. The mirror image l -> L + 1 - l swaps
Phi with G and C with D, so that half of the equations need solving.
"""

from __future__ import annotations

from functools import cache

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.flow_perturbation import feature_drive, feature_memory
from linkern.derivations.notation import L, l
from linkern.symbolic import Kind, NumPyFunction, claim, equal, vanishes

ORIGIN = "linkern; not in the papers"
HOME = "derivations/flow_second_order.py"

w, v, u = sp.symbols("w v u", positive=True)
x = sp.Symbol("x", positive=True)

#: Phi^l(w, v) to second order in w, v: memory (w^2 + v^2)/2 + drive w v.
leading = feature_memory * (w**2 + v**2) / 2 + feature_drive * w * v

#: Fourth order: past (w^4 + v^4) + cubic (w^3 v + w v^3) + square w^2 v^2.
feature_past = sp.Rational(1, 8640) * l * (l + 1) * (
    120 * L**4 - 200 * L**3 * l + 380 * L**3 + 300 * L**2 * l**2 - 360 * L**2 * l + 30 * L**2 - 192 * L * l**3 + 402 * L * l**2
    + 158 * L * l - 458 * L + 20 * l**4 - 188 * l**3 + 73 * l**2 + 317 * l - 222
)  # fmt: skip
feature_cubic = sp.Rational(1, 2160) * l * (l + 1) * (
    20 * L**3 * l + 10 * L**3 + 60 * L**2 * l + 30 * L**2 + 60 * L * l**3 + 45 * L * l**2 - 35 * L * l - 10 * L - 20 * l**4
    + 56 * l**3 + 74 * l**2 - 74 * l - 36
)  # fmt: skip
feature_square = sp.Rational(1, 1440) * l * (l + 1) * (
    40 * L**3 * l + 20 * L**3 + 60 * L**2 * l + 30 * L**2 - 48 * L * l**3 + 18 * L * l**2 + 62 * L * l - 2 * L + 20 * l**4
    - 44 * l**3 - 11 * l**2 + 41 * l - 6
)  # fmt: skip
following = feature_past * (w**4 + v**4) + feature_cubic * (w**3 * v + w * v**3) + feature_square * w**2 * v**2
feature_second = sp.Rational(1, 360) * l * (l + 1) * (L + 1) * (
    10 * L**3 + 30 * L**2 + 25 * L * l**2 + 5 * L * l - 10 * L - 8 * l**3 + 28 * l**2 + 12 * l - 32
)  # fmt: skip

#: K = (L + 1) (1 + first w^2 + second w^4), in units of k.
tangent_first = L * (L + 1) * (L + 2) / 3
tangent_second = L * (L + 1) * (L + 2) * (17 * L**3 + 47 * L**2 + 5 * L - 29) / 360


def _mirror(expression):
    return expression.subs(l, L + 1 - l)


def _product(first, second):
    """Causal kernels first(w, v) and second(w, v) in a row."""
    return sp.integrate(sp.expand(first.subs(v, u) * second.subs(w, u)), (u, v, w))


def _left(kernel, function):
    """The causal kernel applied to the first argument of a function of (w, v)."""
    return sp.integrate(sp.expand(kernel.subs(v, u) * function.subs(w, u)), (u, 0, w))


def _right(kernel, function):
    """The same for its second argument."""
    swapped = function.subs({w: v, v: w}, simultaneous=True)
    return _left(kernel, swapped).subs({w: v, v: w}, simultaneous=True)


@cache
def _causal():
    """C^l and A^l to second order: C^l = sum of Phi^0..Phi^{l-1} and of the C D C of the layers below."""
    ones, mirror = l * sp.S.One, (L + 1 - l) * sp.S.One
    turn = sp.expand(_product(_product(ones, mirror), ones))
    j = sp.Symbol("j", integer=True, positive=True)
    step = sp.Poly((leading + turn).subs(l, j), w, v)
    C2 = sum(sp.summation(sp.expand(c), (j, 1, l - 1)) * w**a * v**b for (a, b), c in step.terms())
    return sp.expand(C2), sp.expand(C2 + turn)


@claim(
    r"\Phi^l(w,v) = 1 + \tfrac{l(l+1)(3L+2-2l)}{12}(w^2+v^2) + \tfrac{l(l+1)(2l+1)}{6} wv + p_l (w^4+v^4) + c_l (w^3v+wv^3)"
    r" + s_l w^2v^2,\quad \Phi^l(w,w) = 1 + \tfrac{(L+1)l(l+1)}{2} w^2 + \tfrac{(L+1)l(l+1)}{360}\big(10L^3 + 30L^2 + 25Ll^2"
    r" + 5Ll - 10L - 8l^3 + 28l^2 + 12l - 32\big) w^4,\quad G^l = \Phi^{L+1-l}",
    Kind.SERIES,
    ORIGIN,
)
def flow_second_features():
    """Induction over layers with the operators expanded: (1 - C D)^{-1} = 1 + X_2 + X_4."""
    C0, D0 = l * sp.S.One, (L + 1 - l) * sp.S.One
    C2, A2 = _causal()
    D2 = _mirror(C2)
    below, above = leading.subs(l, l - 1), _mirror(leading).subs(l, l + 1)
    X2 = _product(C0, D0)
    X4 = _product(C2, D0) + _product(C0, D2) + _product(X2, X2)
    one = sp.S.One
    first = _left(X2, one) + _right(X2, one) + _right(C0, _left(C0, one))
    yield vanishes("order 2, layer by layer", sp.expand(leading - below - first))
    added = _left(X2, below) + _right(X2, below) + _left(X4, one) + _right(X4, one) + _right(X2, _left(X2, one))
    added += _right(C0, _left(C0, above)) + _right(C0, _left(A2, one)) + _right(A2, _left(C0, one))
    yield vanishes("order 4, layer by layer", sp.expand(following - following.subs(l, l - 1) - added))
    yield vanishes("nothing in the data layer", following.subs(l, 0))
    yield vanishes("equal times", sp.expand(following.subs(v, w) - feature_second * w**4))


def _series(depth):
    """The kernels of one depth by iterating the full equations on truncated power series {(i, j): weight of w^i v^j}."""
    order = 4

    def times(p, q):
        """Causal product: int_v^w p(w, x) q(x, v) dx, truncated."""
        out = {}
        for (a, b), c in p.items():
            for (d, e), f in q.items():
                n = b + d + 1
                for key, sign in (((a + n, e), 1), ((a, e + n), -1)):
                    if sum(key) <= order:
                        out[key] = out.get(key, mpf(0)) + sign * c * f / n
        return out

    def applied(p, q):
        """int_0^w p(w, x) q(x, v) dx."""
        out = {}
        for (a, b), c in p.items():
            for (d, e), f in q.items():
                key = (a + b + d + 1, e)
                if sum(key) <= order:
                    out[key] = out.get(key, mpf(0)) + c * f / (b + d + 1)
        return out

    def plus(*parts):
        return {key: mpmath.fsum(p.get(key, 0) for p in parts) for key in {key for p in parts for key in p}}

    def flipped(p):
        return {(b, a): c for (a, b), c in p.items()}

    def both(kernel, function):
        """kernel function kernel^T with kernel = 1 + ... given without the 1."""
        half = plus(function, applied(kernel, function))
        return plus(half, flipped(applied(kernel, flipped(half))))

    unit = {(0, 0): mpf(1)}
    Phi, G = [unit] * (depth + 1), [unit] * (depth + 2)
    A, B = [{}] * (depth + 1), [{}] * (depth + 1)
    for _ in range(3 * (depth + 1)):
        for k in range(1, depth + 1):
            C, D = plus(A[k - 1], Phi[k - 1]), plus(B[k], G[k + 1])
            forward, backward = times(C, D), times(D, C)
            X, Y = forward, backward
            for _ in range(order):
                X, Y = plus(forward, times(forward, X)), plus(backward, times(backward, Y))
            A[k], B[k - 1] = plus(C, times(C, Y)), plus(D, times(D, X))
            through, back = applied(A[k], G[k + 1]), applied(B[k - 1], Phi[k - 1])
            Phi[k] = plus(both(X, Phi[k - 1]), flipped(applied(A[k], flipped(through))))
            G[k] = plus(both(Y, G[k + 1]), flipped(applied(B[k - 1], flipped(back))))
    return Phi, G


def _value(expression, layer, depth):
    value = sp.Rational(expression.subs({l: layer, L: depth}))
    return mpf(value.p) / value.q


@flow_second_features.check
def _(rng):
    depth = rng.randint(1, 5)
    Phi, G = _series(depth)
    expected = {(2, 0): feature_memory / 2, (1, 1): feature_drive}
    expected |= {(4, 0): feature_past, (3, 1): feature_cubic, (1, 3): feature_cubic, (2, 2): feature_square}
    for layer in range(1, depth + 1):
        for key, coefficient in expected.items():
            yield Phi[layer][key], _value(coefficient, layer, depth)
            yield G[depth + 1 - layer][key], _value(coefficient, layer, depth)


@claim(
    r"K = (L+1) k \Big[1 + \tfrac{L(L+1)(L+2)}{3} w^2 + \tfrac{L(L+1)(L+2)(17L^3+47L^2+5L-29)}{360} w^4 + O(w^6)\Big],"
    r"\quad w = \gamma_0 \sqrt{k} \int_0^t \Delta",
    Kind.SERIES,
    ORIGIN,
)
def flow_second_tangent():
    """Products of the two kernels' series at equal times, summed over layers; one hidden layer resums to 2 cosh 2w."""
    j = sp.Symbol("j", integer=True, positive=True)
    first = sp.expand(leading.subs(v, w) / w**2)
    first_above, second_above = (_mirror(feature).subs(l, l + 1) for feature in (first, feature_second))
    orders = {tangent_first: first + first_above, tangent_second: feature_second + first * first_above + second_above}
    for expected, terms in orders.items():
        total = sp.summation(sp.expand(terms.subs(l, j)), (j, 0, L))
        yield vanishes("sum over layers", sp.expand(total - (L + 1) * expected))
    found = 2 * (1 + tangent_first * w**2 + tangent_second * w**4)
    yield equal("L = 1", found.subs(L, 1), sp.series(2 * sp.cosh(2 * w), w, 0, 6).removeO())


@flow_second_tangent.check
def _(rng):
    depth = rng.randint(1, 5)
    Phi, G = _series(depth)
    for power, expected in ((2, tangent_first), (4, tangent_second)):
        total = mpf(0)
        for k in range(depth + 1):
            for (a, b), c in Phi[k].items():
                total += mpmath.fsum(c * f for (d, e), f in G[k + 1].items() if a + b + d + e == power)
        yield total / (depth + 1), _value(expected, 0, depth)


E = sp.exp(-x)
#: a, b, c: solutions of a' = -a - (1 - E)^3/3, b' = -b - (1 - E)^2 a and c' = -c - (1 - E)^5/5 that start at 0.
lag_first = x * E - sp.Rational(1, 3) - E / 2 + E**2 - E**3 / 6
lag_second = x * E - sp.Rational(1, 5) - sp.Rational(13, 12) * E + 2 * E**2 - E**3 + E**4 / 3 - E**5 / 20
lag_repeated = (
    -(x**2) * E / 2 - x * E / 6 - 2 * x * E**2 + x * E**3 / 2 + sp.Rational(1, 3) + sp.Rational(49, 72) * E - E**2 / 3
    - sp.Rational(13, 12) * E**3 + sp.Rational(4, 9) * E**4 - E**5 / 24
)  # fmt: skip


@claim(
    r"\Delta = y\big[E + \epsilon^2 \kappa_1 a' + \epsilon^4 (\kappa_1^2 b' + \kappa_2 c')\big],\quad E = e^{-x},\;"
    r" x = (L+1)kt,\; \epsilon = \frac{\gamma_0 |y|}{(L+1)\sqrt{k}},\quad a = xE - \tfrac13 - \tfrac E2 + E^2 - \tfrac{E^3}{6},\;"
    r" a' = -a - \tfrac{(1-E)^3}{3},\; b' = -b - (1-E)^2 a,\; c' = -c - \tfrac{(1-E)^5}{5}",
    Kind.SERIES,
    ORIGIN,
)
def flow_second_error():
    """dw/dx = epsilon - w - kappa_1 w^3/3 - kappa_2 w^5/5 since gamma0 f = int K dw; orders of w, and Delta/y = w'/epsilon."""
    epsilon, first, second = sp.symbols("epsilon kappa_1 kappa_2", positive=True)
    a, b, c = lag_first, lag_repeated, lag_second
    yield vanishes("a", sp.expand(sp.diff(a, x) + a + (1 - E) ** 3 / 3))
    yield vanishes("b", sp.expand(sp.diff(b, x) + b + (1 - E) ** 2 * a))
    yield vanishes("c", sp.expand(sp.diff(c, x) + c + (1 - E) ** 5 / 5))
    for solution in (a, b, c):
        yield vanishes("start", solution.subs(x, 0))
    terms = sp.symbols("w_1 w_3 w_5")
    clock = epsilon * terms[0] + epsilon**3 * terms[1] + epsilon**5 * terms[2]
    drift = sp.expand(clock + first * clock**3 / 3 + second * clock**5 / 5)
    yield equal("order 3", drift.coeff(epsilon, 3), terms[1] + first * terms[0] ** 3 / 3)
    yield equal("order 5", drift.coeff(epsilon, 5), terms[2] + first * terms[0] ** 2 * terms[1] + second * terms[0] ** 5 / 5)


@flow_second_error.check
def _(rng):
    end = mpf(rng.uniform(0.3, 2))
    a, b, c = (sp.lambdify(x, lag, "mpmath") for lag in (lag_first, lag_repeated, lag_second))

    def once(s):
        return -mpmath.expm1(-s)

    yield a(end), mpmath.quad(lambda s: -mpmath.exp(s - end) * once(s) ** 3 / 3, [0, end])
    yield b(end), mpmath.quad(lambda s: -mpmath.exp(s - end) * once(s) ** 2 * a(s), [0, end])
    yield c(end), mpmath.quad(lambda s: -mpmath.exp(s - end) * once(s) ** 5 / 5, [0, end])


def _function(name, arguments, expression, summary, equation):
    return NumPyFunction(name, arguments, sp.factor(expression), summary, equation, HOME)


FUNCTIONS = (
    _function("feature_past", (l, L), feature_past, "Weight of w^4 + v^4 in Phi^l(w, v).", "p_l"),
    _function("feature_cubic", (l, L), feature_cubic, "Weight of w^3 v + w v^3 in Phi^l(w, v).", "c_l"),
    _function("feature_square", (l, L), feature_square, "Weight of w^2 v^2 in Phi^l(w, v).", "s_l"),
    _function("tangent_first", (L,), tangent_first, "Weight of w^2 in K/((L + 1) k).", "L (L + 1) (L + 2) / 3"),
    _function(
        "tangent_second",
        (L,),
        tangent_second,
        "Weight of w^4 in K/((L + 1) k).",
        "L (L + 1) (L + 2) (17 L^3 + 47 L^2 + 5 L - 29) / 360",
    ),
)

CLAIMS = (flow_second_features, flow_second_tangent, flow_second_error)
