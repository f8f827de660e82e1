"""Many outputs: the conserved charge becomes an O x O matrix that commutes with the signals' overlap.

Y is P x O, V = (Phi^L + T)^{-1} Y, M = V^T C V. Every kernel is C + C V S V^T C with an O x O matrix S, and products close:
(C V S V^T)(C V S' V^T) = C V (S M S') V^T. At a solution all these matrices are functions of one of them, so that symbols
for commuting matrices suffice.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mp, mpf

from linkern.derivations.notation import L, g, l
from linkern.derivations.routes import bisect_root, log_uniform
from linkern.symbolic import Kind, claim, equal, vanishes

ORIGIN = "linkern; not in the papers"

# The charge matrix A and M = V^T C V: O x O, symmetric, commuting (first claim), M invertible.
charge, overlap = sp.symbols("A M", positive=True)


def _kernel(index):
    """S_l of Phi^l = C + C V S_l V^T C."""
    return ((1 + charge) ** index - 1) / overlap


def _dual(index):
    """H_l of hatPhi^l = -V H_l V^T."""
    return g * (1 + charge) ** (L - index)


def _product(left, right):
    """Product in the algebra of elements (alpha, S) = alpha I + C V S V^T."""
    return left[0] * right[0], left[0] * right[1] + left[1] * right[0] + left[1] * overlap * right[1]


@claim(
    r"A = \gamma_0^2 (I+A)^{L/2} M (I+A)^{L/2} \;\Rightarrow\; [A, M] = 0",
    Kind.IDENTITY,
    ORIGIN,
)
def outputs_commute():
    """M is solved for: it is a function of A, and functions of one symmetric matrix commute."""
    half = sp.Symbol("R", commutative=False)  # (I + A)^{L/2}, invertible because A >= 0
    matrix = sp.Symbol("M", commutative=False)
    rate = sp.Symbol("g", positive=True)
    recovered = half**-1 * (rate * half * matrix * half) * half**-1 / rate
    yield equal("M = R^{-1} A R^{-1} / gamma0^2 with R a function of A", recovered, matrix)


@claim(
    r"\Phi^l = C + C V S_l V^T C,\quad S_l = M^{-1}[(I+A)^l - I],\quad \hat\Phi^l = -\gamma_0^2 V (I+A)^{L-l} V^T,\quad"
    r" C V (I+A)^L + V/\beta = Y",
    Kind.SOLUTION,
    ORIGIN,
)
def many_outputs():
    """The matrix recursions at a symbolic layer in the closed algebra of commuting O x O matrices."""
    balance = {overlap: charge / (g * (1 + charge) ** L)}  # A = gamma0^2 (I+A)^L M for commuting matrices
    here, below = (sp.S.One, _kernel(l)), (sp.S.One, _kernel(l - 1))
    dual_here = (sp.S.Zero, -_dual(l))
    # (I + Phi^{l-1} hatPhi^l) Phi^l = Phi^{l-1}, all times C^{-1} on the right.
    factor = _product(below, dual_here)
    left = _product((1 + factor[0], factor[1]), here)
    yield equal("forward recursion, identity part", left[0], below[0])
    yield equal("forward recursion", left[1].subs(balance), below[1].subs(balance))
    # hatPhi^l (I + Phi^l hatPhi^{l+1}) = hatPhi^{l+1}, times C on the left.
    dual_above = (sp.S.Zero, -_dual(l + 1))
    factor = _product(here, dual_above)
    left = _product(dual_here, (1 + factor[0], factor[1]))
    yield equal("backward recursion", left[1].subs(balance), dual_above[1].subs(balance))
    yield vanishes("data layer", _kernel(0))
    yield equal("readout", _dual(L), g)
    # Phi^L V = C V (I + S_L M).
    yield equal("Phi^L V = C V (I+A)^L", 1 + _kernel(L) * overlap, (1 + charge) ** L)


def _solve_outputs(rng, size=5, count=2):
    """Solve for the charge matrix with a general covariance by Newton's method on its entries, from the decoupled guess."""
    root = mpmath.matrix(size, size + 2)
    for i in range(size):
        for j in range(size + 2):
            root[i, j] = mpf(rng.gauss(0, 1))
    C = root * root.T / (size + 2)
    Y = mpmath.matrix([[mpf(rng.gauss(0, 1)) for _ in range(count)] for _ in range(size)])
    depth, strength, temperature = rng.randint(1, 3), log_uniform(rng, 0.1, 0.5), log_uniform(rng, 0.2, 1)
    eigenvalues, basis = mpmath.eigsy(C)
    projected = basis.T * Y

    def signal(A):
        growth = (mpmath.eye(count) + A) ** depth
        V = mpmath.matrix(size, count)
        for i in range(size):
            row = mpmath.lu_solve(eigenvalues[i] * growth.T + temperature * mpmath.eye(count), projected[i, 0:count].T)
            for j in range(count):
                V[i, j] = row[j]
        return basis * V

    def mismatch(a, b, d):
        A = mpmath.matrix([[a, b], [b, d]])
        V = signal(A)
        values, vectors = mpmath.eigsy(mpmath.eye(count) + A)
        half = vectors * mpmath.diag([v ** (mpf(depth) / 2) for v in values]) * vectors.T
        residual = A - strength * half * (V.T * C * V) * half
        return [residual[0, 0], residual[0, 1], residual[1, 1]]

    def alone(j):
        def excess(a):
            growth = (1 + a) ** depth
            total = mpmath.fsum(
                projected[i, j] ** 2 * eigenvalues[i] / (growth * eigenvalues[i] + temperature) ** 2 for i in range(size)
            )
            return a - strength * growth * total

        high = mpf(1)
        while excess(high) < 0:
            high *= 2
        return bisect_root(excess, mpf(0), high)

    a, b, d = mpmath.findroot(mismatch, (alone(0), mpf(0), alone(1)), tol=mpf(10) ** (-2 * mp.dps + 8), maxsteps=60)
    A = mpmath.matrix([[a, b], [b, d]])
    return C, Y, depth, strength, temperature, A, signal(A)


def _pairs(left, right):
    for i in range(left.rows):
        for j in range(left.cols):
            yield left[i, j], right[i, j]


@outputs_commute.check
def _(rng):
    C, _, _, _, _, A, V = _solve_outputs(rng)
    M = V.T * C * V
    yield from _pairs(A * M, M * A)


@many_outputs.check
def _(rng):
    C, Y, depth, strength, temperature, A, V = _solve_outputs(rng)
    unit, small = mpmath.eye(C.rows), mpmath.eye(A.rows)
    inverse = (V.T * C * V) ** -1
    kernels = [C + C * V * (inverse * ((small + A) ** index - small)) * V.T * C for index in range(depth + 1)]
    duals = [-strength * V * (small + A) ** (depth - index) * V.T for index in range(1, depth + 1)]
    for index in range(depth):
        yield from _pairs((unit + kernels[index] * duals[index]) ** -1 * kernels[index], kernels[index + 1])
    for index in range(depth - 1):
        yield from _pairs(duals[index + 1] * (unit + kernels[index + 1] * duals[index + 1]) ** -1, duals[index])
    yield from _pairs((kernels[-1] + temperature * unit) * V, Y)


CLAIMS = (outputs_commute, many_outputs)
