"""Training with several outputs: which of their combinations weight decay selects, and the leading order of feature learning.

F and Y are P x O. At rest F^T C^{-1} F = A^{L+1}/gamma0^2 with an O x O matrix A of eigenvalues a_i and eigenvectors u_i. One
mode of C has eigenvalue lam and labels b (an O-vector), beta_i = b . u_i. Sums over modes are linear, so identities are proved
mode by mode; the checks use full matrices.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import L, lam
from linkern.derivations.routes import log_uniform
from linkern.symbolic import Kind, claim, holds, vanishes

ORIGIN = "linkern; not in the papers"

a, q, g, decay = sp.symbols("a q g lambda", positive=True)
a_i, a_j = sp.symbols("a_i a_j", positive=True)
beta, f = sp.symbols("beta f", real=True)

#: Fitted part of one mode along one direction, and its share of H = gamma0^2 sum lam S b b^T S, S = (lam A^L + decay)^{-1}.
fitted = lam * a**L * beta / (lam * a**L + decay)
pull = g * lam * beta**2 / (lam * a**L + decay) ** 2


def _matrix(rng, rows, columns):
    return mpmath.matrix([[mpf(rng.gauss(0, 1)) for _ in range(columns)] for _ in range(rows)])


def _trace(matrix):
    return mpmath.fsum(matrix[i, i] for i in range(matrix.rows))


def _power(matrix, exponent):
    values, vectors = mpmath.eigsy(matrix)
    return vectors * mpmath.diag([value**exponent for value in values]) * vectors.T


def _solution(rng, depth):
    """A fixed point by construction: A and F with F^T C^{-1} F = A^{L+1}/gamma0^2 first, then the labels that they solve."""
    strength, weight_decay = log_uniform(rng, 0.5, 3), log_uniform(rng, 0.2, 2)
    root, seed = _matrix(rng, 4, 4), _matrix(rng, 2, 3)
    C, A = root * root.T / 4 + mpmath.eye(4) / 5, seed * seed.T / 3 + mpmath.eye(2) / 5
    frame = _matrix(rng, 4, 2)
    frame = frame * _power(frame.T * frame, mpf(-1) / 2)
    F = _power(C, mpf(1) / 2) * frame * _power(A, mpf(depth + 1) / 2) / mpmath.sqrt(strength)
    Y = F + weight_decay * C**-1 * F * _power(A, mpf(-depth))
    return strength, weight_decay, C, A, F, Y


def _reduced(strength, weight_decay, depth, C, A, Y):
    """phi(A) and H(A), mode by mode."""
    values, vectors = mpmath.eigsy(C)
    B, growth = vectors.T * Y, _power(A, mpf(depth))
    energy, H = weight_decay * depth * _trace(A) / (2 * strength), mpmath.zeros(2)
    for k in range(4):
        S = (values[k] * growth + weight_decay * mpmath.eye(2)) ** -1
        energy += weight_decay / 2 * (B[k, 0:2] * S * B[k, 0:2].T)[0, 0]
        H += strength * values[k] * S * B[k, 0:2].T * B[k, 0:2] * S
    return energy, H


def _pairs(left, right):
    for i in range(left.rows):
        for j in range(left.cols):
            yield 1 + left[i, j], 1 + right[i, j]


@claim(
    r"\min_F J = \min_{A \succeq 0} \varphi(A),\quad \varphi(A) = \frac{\lambda}{2} \Big[ \frac{L}{\gamma_0^2} \mathrm{tr} A"
    r" + \sum_k b_k^T (\lambda_k A^L + \lambda)^{-1} b_k \Big]",
    Kind.IDENTITY,
    ORIGIN,
)
def flow_outputs_reduction():
    """The penalty is a minimum over a, attained at gamma0^2 q = a^{L+1}; then every mode is a ridge problem in F.

    By von Neumann's inequality tr(F^T C^{-1} F A^{-L}) is least, at given eigenvalues of A, where A shares the eigenvectors.
    """
    bound = q * a**-L + L * a / g
    at = {q: a ** (L + 1) / g}
    yield vanishes("stationary in a", sp.powsimp(sp.expand(sp.diff(bound, a).subs(at))))
    yield vanishes("value (L + 1) a / gamma0^2", sp.powsimp(sp.expand(bound.subs(at))) - (L + 1) * a / g)
    curvature = sp.powsimp(sp.expand(sp.diff(bound, a, 2).subs(at)))
    yield vanishes("curvature L (L + 1)/(a gamma0^2)", sp.simplify(curvature - L * (L + 1) / (a * g)))
    ridge = (beta - f) ** 2 / 2 + decay / 2 * a**-L * f**2 / lam
    yield vanishes("f at the minimum", sp.simplify(sp.diff(ridge, f).subs(f, fitted)))
    yield vanishes("value of one mode", sp.simplify(ridge.subs(f, fitted) - decay / 2 * beta**2 / (lam * a**L + decay)))


@flow_outputs_reduction.check
def _(rng):
    depth = rng.randint(1, 4)
    strength, weight_decay, C, A, F, Y = _solution(rng, depth)
    error = Y - F
    shared = _power(strength * F.T * C**-1 * F, mpf(1) / (depth + 1))
    energy = _trace(error.T * error) / 2 + weight_decay * (depth + 1) * _trace(shared) / (2 * strength)
    yield _reduced(strength, weight_decay, depth, C, A, Y)[0], energy


@claim(
    r"\sum_{n<L} A^n H A^{L-1-n} = L \text{ on the range of } A \;\Leftrightarrow\; u_i^T H u_j = a_i^{1-L} \delta_{ij}"
    r" \;\Leftrightarrow\; A^{L+1} = \gamma_0^2 F^T C^{-1} F,\quad H = \gamma_0^2 \sum_k \lambda_k S_k b_k b_k^T S_k;"
    r"\qquad \lambda F = \Phi^l (Y - F) G^{l+1}",
    Kind.SOLUTION,
    ORIGIN,
)
def flow_outputs_directions():
    """Off the diagonal H is multiplied by a positive number and must vanish; on it, it is the scalar equation."""
    n = sp.Symbol("n", integer=True, nonnegative=True)
    for depth in range(1, 6):
        weight = sum(a_i**m * a_j ** (depth - 1 - m) for m in range(depth))
        yield holds("the weight of H_ij is positive", bool(weight.is_positive))
    diagonal = sp.summation(a ** (L - 1), (n, 0, L - 1))
    yield vanishes("the weight of H_ii is L a^{L-1}", sp.simplify(diagonal - L * a ** (L - 1)))
    slope = sp.diff(decay / 2 * beta**2 / (lam * a**L + decay), a)
    yield vanishes("slope of phi in a", sp.simplify(slope + decay / (2 * g) * L * a ** (L - 1) * pull))
    yield vanishes("one mode of gamma0^2 F^T C^{-1} F is a^{2L} H", sp.simplify(g * fitted**2 / lam - a ** (2 * L) * pull))


@flow_outputs_directions.check
def _(rng):
    depth = rng.randint(1, 4)
    strength, weight_decay, C, A, F, Y = _solution(rng, depth)
    yield from _pairs(_reduced(strength, weight_decay, depth, C, A, Y)[1], _power(A, mpf(1 - depth)))
    for layer in range(1, depth + 1):
        # Phi^l = sum_j a_j^l f_j f_j^T / q_j is F A^{l-L-1} F^T gamma0^2, G^{l+1} = A^{L-l}.
        Phi = strength * F * _power(A, mpf(layer - depth - 1)) * F.T
        yield from _pairs(Phi * (Y - F) * _power(A, mpf(depth - layer)), weight_decay * F)
    yield from _pairs(C * (Y - F) * _power(A, mpf(depth)), weight_decay * F)


@claim(
    r"L = 1:\quad M = C^{1/2}(Y - F),\; M^T M = \tfrac{\lambda^2}{\gamma_0^2} H,\quad H \preceq I \text{ and } H = I"
    r" \text{ on the range of } A \;\Rightarrow\; F \text{ minimises } \tfrac12 |Y-F|^2 + \tfrac{\lambda}{\gamma_0}"
    r" \|C^{-1/2} F\|_*",
    Kind.SOLUTION,
    ORIGIN,
)
def flow_outputs_certificate():
    """M is then a subgradient of the convex penalty: its norm is within bounds, and it is aligned with C^{-1/2} F."""
    one = {L: 1}
    f_one, h_one = fitted.subs(one), pull.subs(one)
    yield vanishes("one mode of M^T M", sp.simplify(lam * (beta - f_one) ** 2 - decay**2 / g * h_one))
    yield vanishes("one mode of <M, C^{-1/2} F>", sp.simplify((beta - f_one) * f_one - decay * a / g * h_one))
    # Sum over modes with H = 1: lambda a/gamma0^2, and a = gamma0 sigma with the singular value sigma of C^{-1/2} F.
    sigma = sp.Symbol("sigma", positive=True)
    yield vanishes("alignment", (decay * a / g).subs(a, sp.sqrt(g) * sigma) - decay / sp.sqrt(g) * sigma)


@flow_outputs_certificate.check
def _(rng):
    strength, weight_decay, C, _, F, Y = _solution(rng, 1)
    root = _power(C, mpf(1) / 2)
    M, Z = root * (Y - F), root**-1 * F
    bound = weight_decay / mpmath.sqrt(strength)
    for value in mpmath.eigsy(M.T * M)[0]:
        yield mpmath.sqrt(value), bound
    yield _trace(M.T * Z), bound * _trace(_power(Z.T * Z, mpf(1) / 2))


@claim(
    r"K_1 \Delta_0 = c_L \big( C v v^T C \Delta_0 + C \Delta_0 v^T C v \big),\quad (K_1\Delta_0)_{k} = c_L \lambda_k \sum_j"
    r" \lambda_j (y_k \cdot y_j)\, y_j \big( p_k p_j e_j + p_j^2 e_k \big),\quad v_k = p_k y_k,\; \Delta_{0,k} = e_k y_k",
    Kind.SERIES,
    ORIGIN,
)
def flow_outputs_perturbation():
    """Both terms contract the outputs in the same way, so the scalar formulas hold with y_k y_j^2 -> (y_k . y_j) y_j."""
    modes, outputs = 2, 2
    k = sp.symbols("k1:3", positive=True)
    p, e = sp.symbols("p1:3", positive=True), sp.symbols("e1:3", positive=True)
    y = sp.Matrix(modes, outputs, sp.symbols("y1:5"))
    C, v, Delta = sp.diag(*k), sp.diag(*p) * y, sp.diag(*e) * y
    features, gradients = C * v * v.T * C * Delta, C * Delta * (v.T * C * v)
    for m in range(modes):
        overlap = [sum(y[m, c] * y[n, c] for c in range(outputs)) for n in range(modes)]
        for c in range(outputs):
            first = sum(k[m] * k[n] * overlap[n] * y[n, c] * p[m] * p[n] * e[n] for n in range(modes))
            second = sum(k[m] * k[n] * overlap[n] * y[n, c] * p[n] ** 2 * e[m] for n in range(modes))
            yield vanishes("features", sp.expand(features[m, c] - first))
            yield vanishes("gradients", sp.expand(gradients[m, c] - second))
    # int Delta_0^T C v is half of v^T C v although matrices of outputs need not commute: every mode is one direction y_j y_j^T.
    time, clock = sp.Symbol("t", positive=True), sp.Function("p")
    yield vanishes("one mode of the memory", sp.integrate(sp.diff(clock(time), time) * clock(time), time) - clock(time) ** 2 / 2)


@flow_outputs_perturbation.check
def _(rng):
    C, Y = _matrix(rng, 4, 4), _matrix(rng, 4, 3)
    C = C * C.T / 4
    values, vectors = mpmath.eigsy(C)
    B, time = vectors.T * Y, mpf(rng.uniform(0.2, 2))
    p, e = [-mpmath.expm1(-k * time) / k for k in values], [mpmath.exp(-k * time) for k in values]
    v, Delta = vectors * mpmath.diag(p) * B, vectors * mpmath.diag(e) * B
    found = vectors.T * (C * v * v.T * C * Delta + C * Delta * (v.T * C * v))
    for k in range(4):
        for c in range(3):
            terms = (
                values[k] * values[j] * (B[k, 0:3] * B[j, 0:3].T)[0, 0] * B[j, c] * (p[k] * p[j] * e[j] + p[j] ** 2 * e[k])
                for j in range(4)
            )
            yield found[k, c], mpmath.fsum(terms)


CLAIMS = (flow_outputs_reduction, flow_outputs_directions, flow_outputs_certificate, flow_outputs_perturbation)
