r"""Weak feature learning at any depth and activation: the saddle point expanded in eps = gamma0^2.

The saddle point of infinite width, with Z_l = E exp(-phi^T hatPhi^l phi/2) over h ~ N(0, Phi^{l-1}):

    Phi^l = <phi phi^T>_l (the average tilted by the exponential),    hatPhi^l = -2 d ln Z_{l+1} / d Phi^l,
    hatPhi^L = -eps v v^T,    (Phi^L + T) v = y.

At eps = 0 the tilt is 1. First order needs Gaussian averages of two fields (dual functions) and one covariance of four.
"""

from __future__ import annotations

from itertools import product

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.duals_smooth import polynomial_mean, wick_pair
from linkern.derivations.routes import contour_coefficient, log_uniform
from linkern.symbolic import Kind, claim, depth, equal, layer, vanishes

PAPER = "Lauditi, Bordelon and Pehlevan (2025)"

eps = sp.Symbol("eps")
k11, k12, k22 = sp.symbols("k11 k12 k22")
h11, h12, h22 = sp.symbols("h11 h12 h22")
weights = sp.symbols("p1:4")  # phi = p1 h + p2 h^2 + p3 h^3, any coefficients


def pair_average(p, q, a, b, c):
    """E[phi^(p)(u) phi^(q)(v)] of the cubic with symbolic coefficients, by Wick's theorem."""
    total = sp.S.Zero
    for (i, left), (j, right) in product(enumerate(weights, start=1), repeat=2):
        if i >= p and j >= q:
            total += left * right * sp.ff(i, p) * sp.ff(j, q) * wick_pair(i - p, j - q, a, b, c)
    return sp.expand(total)


def _covariance(i, j):
    return ((k11, k12), (k12, k22))[i][j]


def _arcsine(a, b, c):
    return 2 / mpmath.pi * mpmath.asin(2 * c / mpmath.sqrt((1 + 2 * a) * (1 + 2 * b)))


def random_symmetric(rng, size, *, definite):
    root = mpmath.matrix([[mpf(rng.gauss(0, 1)) for _ in range(size + 2)] for _ in range(size)])
    return root * root.T / (size + 2) if definite else root[:, 0:size] + root[:, 0:size].T


@claim(
    r"\hat\Phi^l_{\mu\nu} = \hat\Phi^{l+1}_{\mu\nu} \langle \varphi'_\mu \varphi'_\nu \rangle"
    r" + \delta_{\mu\nu} \sum_b \hat\Phi^{l+1}_{\mu b} \langle \varphi''_\mu \varphi_b \rangle + O(\gamma_0^4)",
    Kind.IDENTITY,
    f"{PAPER}, eqs. 46-53 (the Hessian recursion)",
)
def dual_recursion():
    """ln Z = -1/2 sum_ab H_ab E phi_a phi_b to first order, so that the dual below is the gradient of that sum.

    Each entry involves pairs of points only and the sum over b is additive: two points show the general case. The gradient
    is with respect to a symmetric matrix, its off-diagonal entry half of the derivative in the shared entry.
    """
    H = sp.Matrix([[h11, h12], [h12, h22]])
    diag = (k11, k22)
    total = sum(H[i, j] * pair_average(0, 0, diag[i], diag[j], _covariance(i, j)) for i, j in product(range(2), repeat=2))
    yield equal("off the diagonal", sp.diff(total, k12) / 2, h12 * pair_average(1, 1, k11, k22, k12))
    bend = h11 * pair_average(2, 0, k11, k11, k11) + h12 * pair_average(2, 0, k11, k22, k12)
    yield equal("on the diagonal", sp.diff(total, k11), h11 * pair_average(1, 1, k11, k11, k11) + bend)


@dual_recursion.check
def _(rng):
    K, H, M = (random_symmetric(rng, 3, definite=d) for d in (True, False, False))

    def total(t):
        k = K + t * M
        return mpmath.fsum(H[i, j] * _arcsine(k[i, i], k[j, j], k[i, j]) for i, j in product(range(3), repeat=2))

    gradient = mpmath.matrix(3, 3)
    for i, j in product(range(3), repeat=2):
        a, b, c = K[i, i], K[j, j], K[i, j]
        root = mpmath.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)
        gradient[i, j] += H[i, j] * 4 / mpmath.pi / root
        gradient[i, i] -= H[i, j] * 8 / mpmath.pi * c / ((1 + 2 * a) * root)
    yield mpmath.diff(total, 0), mpmath.fsum(gradient[i, j] * M[i, j] for i, j in product(range(3), repeat=2))


@claim(
    r"\Phi^l_1 = D_l[\Phi^{l-1}_1] - \tfrac12 \operatorname{Cov}_0(\varphi_\mu \varphi_\nu, \varphi^T \hat\Phi^l_1 \varphi),"
    r"\quad D[M]_{\mu\nu} = M_{\mu\nu} \langle \varphi'\varphi' \rangle"
    r" + \tfrac12 M_{\mu\mu} \langle \varphi''_\mu \varphi_\nu \rangle"
    r" + \tfrac12 M_{\nu\nu} \langle \varphi_\mu \varphi''_\nu \rangle",
    Kind.SERIES,
    f"{PAPER}, eqs. 46-53",
)
def kernel_correction():
    """The tilted average is a ratio of two series in eps; the kernel below moves the Gaussian (Price)."""
    m0, m1, z1 = sp.symbols("m0 m1 z1")  # E phi phi, E phi phi q, E q with q = phi^T H phi
    ratio = (m0 - eps * m1 / 2) / (1 - eps * z1 / 2)
    yield equal("the tilt", sp.diff(ratio, eps).subs(eps, 0), -(m1 - m0 * z1) / 2)
    m11, m12, m22 = sp.symbols("m11 m12 m22")
    moved = pair_average(0, 0, k11 + eps * m11, k22 + eps * m22, k12 + eps * m12)
    stated = m12 * pair_average(1, 1, k11, k22, k12)
    stated += m11 * pair_average(2, 0, k11, k22, k12) / 2 + m22 * pair_average(0, 2, k11, k22, k12) / 2
    yield equal("the kernel below", sp.diff(moved, eps).subs(eps, 0), stated)


@kernel_correction.check
def _(rng):
    # One point and phi = exp(-h^2/2): the tilted average of phi^2 by quadrature, differentiated, against moments.
    k, m, H = log_uniform(rng, 0.3, 2), mpf(rng.uniform(-0.2, 0.5)), mpf(rng.uniform(-1, 1))
    nodes = [mpf(i) / 10 for i in range(-170, 171)]
    density = [mpmath.exp(-z * z / 2) for z in nodes]

    def kernel(t):
        squares = [mpmath.exp(-(k + t * m) * z * z) for z in nodes]
        tilt = [w * mpmath.exp(-t * H * x / 2) for w, x in zip(density, squares, strict=True)]
        return mpmath.fdot(tilt, squares) / mpmath.fsum(tilt)

    def moment(power):
        return 1 / mpmath.sqrt(1 + power * k)

    first = -m * (1 + 2 * k) ** mpf(-1.5) - H / 2 * (moment(4) - moment(2) ** 2)
    yield contour_coefficient(kernel, 1, mpf(1) / 200, nodes=24), first


@claim(
    r"\operatorname{Cov}(p_m p_n, p_a p_b) = \sum_{i+j+k+l > 0}"
    r" \frac{S_{mn}^e}{e!} \frac{S_{ab}^f}{f!} \frac{S_{ma}^i}{i!} \frac{S_{mb}^j}{j!} \frac{S_{na}^k}{k!} \frac{S_{nb}^l}{l!}"
    r"\, \bar p^{(e+i+j)}_m \bar p^{(e+k+l)}_n \bar p^{(f+i+k)}_a \bar p^{(f+j+l)}_b",
    Kind.SERIES,
    "linkern; Isserlis (1918)",
)
def four_polynomials():
    """Price's theorem in the six covariances at once; here for all monomials up to the square, against Wick's pairings."""
    S = sp.Matrix(4, 4, lambda i, j: sp.Symbol(f"s{min(i, j)}{max(i, j)}"))
    for powers in product((1, 2), repeat=4):
        if sum(powers) % 2 == 0:
            yield equal(f"powers {powers}", diagrams(powers, S), pairings(powers, S) - _pairings_product(powers, S))


_PAIRS = ((0, 1), (2, 3), (0, 2), (0, 3), (1, 2), (1, 3))


def diagrams(powers, S):
    """The sum of the claim for monomials h^powers[0], ..."""
    total = 0
    for lines in product(range(max(powers) + 1), repeat=6):
        if not any(lines[2:]):
            continue
        ends = [sum(n for n, pair in zip(lines, _PAIRS, strict=True) if i in pair) for i in range(4)]
        if any(e > p for e, p in zip(ends, powers, strict=True)):
            continue
        term = 1
        for n, (i, j) in zip(lines, _PAIRS, strict=True):
            term = term * S[i, j] ** n / sp.factorial(n)
        for i, (end, power) in enumerate(zip(ends, powers, strict=True)):
            term = term * polynomial_mean(power, end, S[i, i])
        total += term
    return total


def pairings(powers, S):
    """E of the product of powers: the first field is paired with each of the others in turn."""
    if not any(powers):
        return sp.S.One
    first = next(i for i, p in enumerate(powers) if p)
    left = [p - (i == first) for i, p in enumerate(powers)]
    total = 0
    for j, count in enumerate(left):
        if count:
            total += count * S[first, j] * pairings([p - (i == j) for i, p in enumerate(left)], S)
    return total


def _pairings_product(powers, S):
    return pairings([*powers[:2], 0, 0], S) * pairings([0, 0, *powers[2:]], S)


@four_polynomials.check
def _(rng):
    S = random_symmetric(rng, 4, definite=True)
    for powers in ((3, 1, 2, 2), (3, 3, 1, 1)):
        left = mpmath.mpmathify(diagrams(powers, S))
        yield left, mpmath.mpmathify(pairings(powers, S) - _pairings_product(powers, S))


@claim(
    r"\varphi(h) = h:\quad \Phi^l_1 = l\, C v_0 v_0^T C,\quad \hat\Phi^l_1 = -v_0 v_0^T \text{ in every layer; the first term of}"
    r" \Phi^l = C + C v \tfrac{(1+A)^l - 1}{v^T C v} v^T C",
    Kind.SERIES,
    f"{PAPER}, eqs. 35a and 46; the exact solution of derivations/outputs.py",
)
def linear_first_order():
    """phi'' = 0 leaves the dual alone; Isserlis' theorem gives the covariance 2 C H C; the exact kernel has the same slope."""
    C = sp.Matrix([[k11, k12], [k12, k22]])
    v = sp.Matrix(sp.symbols("v1 v2"))
    signal = v * v.T
    fields = [(sp.Rational(-1, 2) * signal)[i, j] for i, j in product(range(2), repeat=2)]
    for m, n in ((0, 0), (0, 1), (1, 1)):
        four = 0
        for (i, j), coefficient in zip(product(range(2), repeat=2), fields, strict=True):
            four += coefficient * (C[m, i] * C[n, j] + C[m, j] * C[n, i])
        yield equal(f"covariance, entry {m + 1}{n + 1}", -four, (C * signal * C)[m, n])
    slope = sp.Symbol("M", positive=True)
    below, here = (layer - 1), layer
    yield equal("the recursion adds one term per layer", here - below, 1)
    charge = sp.Symbol("A", positive=True)
    # A = eps (1 + A)^L M: A = eps M to first order.
    exact = ((1 + charge) ** layer - 1) / slope
    balance = charge / (1 + charge) ** depth / slope
    ratio = sp.limit(sp.diff(exact, charge) / sp.diff(balance, charge), charge, 0)
    yield equal("slope of the exact kernel in eps", ratio, layer)


@linear_first_order.check
def _(rng):
    size, layers = 3, rng.randint(1, 4)
    C, temperature = random_symmetric(rng, size, definite=True), log_uniform(rng, 0.3, 2)
    y = mpmath.matrix([mpf(rng.gauss(0, 1)) for _ in range(size)])
    unit = mpmath.eye(size)
    v0 = mpmath.lu_solve(C + temperature * unit, y)

    def entry(strength):
        # The exact saddle point at complex strength by Newton's method on the growth 1 + A.
        def excess(charge):
            v = mpmath.lu_solve((1 + charge) ** layers * C + temperature * unit, y)
            return charge - strength * (1 + charge) ** layers * (v.T * C * v)[0]

        charge = mpmath.findroot(excess, strength * (v0.T * C * v0)[0], tol=mpf(10) ** -110)
        v = mpmath.lu_solve((1 + charge) ** layers * C + temperature * unit, y)
        along = C * v
        return along[0] * along[1] * ((1 + charge) ** layers - 1) / (v.T * C * v)[0]

    expected = layers * (C * v0)[0] * (C * v0)[1]
    scale = (v0.T * C * v0)[0]
    yield contour_coefficient(entry, 1, mpf(1) / (200 * layers * scale), nodes=40), expected


@claim(
    r"v_1 = -A^{-1} \Phi^L_1 v_0,\quad f_1(x) = \Phi^L_1(x, X) v_0 - \Phi^L_0(x, X) A^{-1} \Phi^L_1 v_0,\quad A = \Phi^L_0 + T",
    Kind.SERIES,
    f"{PAPER}, eq. 5 at first order",
)
def predictor_correction():
    """Product rule with matrices that do not commute."""
    A, K1, y, kx, k1x = (sp.Symbol(name, commutative=False) for name in ("A", "K1", "y", "k_x", "k1_x"))
    inverse = A**-1 - eps * A**-1 * K1 * A**-1
    product_ = sp.expand((A + eps * K1) * inverse)
    yield equal("the inverse at order 0", product_.coeff(eps, 0), 1)
    yield vanishes("and at order 1", product_.coeff(eps, 1))
    first = sp.expand((kx + eps * k1x) * inverse * y).coeff(eps, 1)
    yield vanishes("the predictor", sp.expand(first - (k1x * A**-1 * y - kx * A**-1 * K1 * A**-1 * y)))


@predictor_correction.check
def _(rng):
    size = 3
    K, K1 = (random_symmetric(rng, size + 1, definite=d) for d in (True, False))
    y = mpmath.matrix([mpf(rng.gauss(0, 1)) for _ in range(size)])
    temperature = log_uniform(rng, 0.3, 2)

    def prediction(t):
        k = K + t * K1
        v = mpmath.lu_solve(k[0:size, 0:size] + temperature * mpmath.eye(size), y)
        return (k[size, 0:size] * v)[0]

    A = K[0:size, 0:size] + temperature * mpmath.eye(size)
    v0 = mpmath.lu_solve(A, y)
    v1 = -mpmath.lu_solve(A, K1[0:size, 0:size] * v0)
    yield mpmath.diff(prediction, 0), (K1[size, 0:size] * v0)[0] + (K[size, 0:size] * v1)[0]


CLAIMS = (
    dual_recursion,
    kernel_correction,
    four_polynomials,
    linear_first_order,
    predictor_correction,
)
