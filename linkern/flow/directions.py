"""Which combinations of outputs a trained network with weight decay uses, where the data do not fix them.

With rows b_k of labels in the eigenbasis of C (eigenvalues lam_k), minimising J over F at fixed A (O x O, A^{L+1} = gamma0^2
F^T C^{-1} F at the optimum) leaves

    phi(A) = weight_decay/2 [ (L/gamma0^2) tr A + sum_k b_k^T (lam_k A^L + weight_decay)^{-1} b_k ],

whose minima over A >= 0 are those of J, and which is a sum of scalar problems along the eigenvectors of A. For L = 1 it is
convex, and H = gamma0^2 sum_k lam_k S_k b_k b_k^T S_k <= 1, S_k = (lam_k A + weight_decay)^{-1}, with H = 1 on the range of A
proves the minimum. For L > 1 a direction that is off stays off, so every rank has minima of its own: they are looked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

__all__ = ["Stationary", "coupled_minima"]

Floats = NDArray[np.float64]
# Singular values of R below this share of the largest at the start are directions that have switched off.
OFF = 1e-6
# Excess of H over 1 that counts as rounding.
SLACK = 1e-10
# Step of central differences of the gradient, relative to sqrt(A).
STEP = 1e-5
# Eigenvalues of the Hessian below this share of the largest are zero up to the error of these differences.
FLAT = 1e-8
NEWTON_STEPS = 20


@dataclass(frozen=True)
class Stationary:
    """One local minimum of phi: `directions` (O, O) orthonormal columns, `amplitudes` (O,) eigenvalues of A in the same order.

    `violation` is the largest relative violation of stationarity (and, for L = 1, of H <= 1); `stable` says that the Hessian
    in the directions that are on has no negative eigenvalue.
    """

    directions: Floats
    amplitudes: Floats
    violation: float
    stable: bool


@dataclass(frozen=True)
class _Problem:
    """phi in units of weight_decay L/(2 gamma0^2) as a function of R, A = R R^T."""

    lam: Floats
    B: Floats
    depth: int
    gamma0: float
    decay: float

    def pulls(self, amplitudes: Floats, directions: Floats) -> Floats:
        """(r, n): gamma0 sqrt(lam_k) b_k^T S_k u_i with S_k = (lam_k A^L + decay)^{-1}, one column per direction."""
        return np.asarray(self.gamma0 * np.sqrt(self.lam)[:, None] * (self.B @ directions) / self._ridges(amplitudes))

    def pull(self, A: Floats) -> Floats:
        """H."""
        values, V = np.linalg.eigh(A)
        pulls = self.pulls(values, V)
        return np.asarray(V @ (pulls.T @ pulls) @ V.T)

    def energy(self, R: Floats) -> float:
        values, V = np.linalg.eigh(R @ R.T)
        misfit = float(((self.B @ V) ** 2 / self._ridges(values)).sum())
        return float((R**2).sum()) + self.gamma0**2 / self.depth * misfit

    def slope(self, R: Floats) -> Floats:
        """Half of d energy/dR = R - (1/L) sum_n A^n H A^{L-1-n} R."""
        A = R @ R.T
        H, powers = self.pull(A), [np.eye(len(A))]
        for _ in range(self.depth - 1):
            powers.append(powers[-1] @ A)
        return R - sum(P @ H @ Q @ R for P, Q in zip(powers, powers[::-1], strict=True)) / self.depth

    def _ridges(self, values: Floats) -> Floats:
        return self.lam[:, None] * np.maximum(values, 0.0) ** self.depth + self.decay


def coupled_minima(lam: Floats, B: Floats, depth: int, gamma0: float, decay: float, starts: list[Floats]) -> list[Stationary]:
    """Return local minima of phi; for L = 1 the minimum, certified by `violation`.

    Parameters
    ----------
    lam : (r,) array
        Eigenvalues > 0 of C.
    B : (r, O) array
        Labels in the eigenbasis.
    depth, gamma0, decay
        L, gamma0, weight decay.
    starts : list of (O, m) arrays
        Guesses of R, A = R R^T, for L > 1.
    """
    problem = _Problem(lam, B, depth, gamma0, decay)
    if depth == 1:
        return [_grown(problem)]
    return [_finished(problem, _descended(problem, R)) for R in starts]


def _grown(problem: _Problem) -> Stationary:
    """The minimum for L = 1: switch directions on, one by one, until no further one would lower phi."""
    outputs = problem.B.shape[1]
    R = np.zeros((outputs, 0))
    for _ in range(4 * outputs):
        values, V = np.linalg.eigh(problem.pull(R @ R.T))
        if values[-1] <= 1 + SLACK or R.shape[1] == outputs:
            break
        # One step of Newton's method towards the amplitude at which the eigenvalue of H has fallen to 1.
        pulls = problem.pulls(np.zeros(1), V[:, -1:])[:, 0]
        size = problem.decay * float(values[-1] - 1) / (2 * float(problem.lam @ pulls**2))
        R = _descended(problem, np.column_stack([R, math.sqrt(size) * V[:, -1]]))
    return _finished(problem, R)


def _descended(problem: _Problem, R: Floats) -> Floats:
    """A local minimum from R, without the directions that switched off on the way."""
    while R.shape[1]:
        shape, scale = R.shape, float(np.linalg.norm(R, 2))

        def energy(x: Floats, shape: tuple[int, ...] = shape, scale: float = scale) -> float:
            return problem.energy(scale * x.reshape(shape)) / (2 * scale**2)

        def slope(x: Floats, shape: tuple[int, ...] = shape, scale: float = scale) -> Floats:
            return problem.slope(scale * x.reshape(shape)).ravel() / scale

        start = R.ravel() / scale
        coarse = minimize(energy, start, jac=slope, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000}).x
        R = _polished(problem, scale * coarse.reshape(shape))
        left, root, _ = np.linalg.svd(R, full_matrices=False)
        kept = root > OFF * scale
        if kept.all():
            break
        R = left[:, kept] * root[kept]
    return R


def _finished(problem: _Problem, R: Floats) -> Stationary:
    """Directions, on and off, with the violation of stationarity and whether this is a minimum."""
    outputs, rank = problem.B.shape[1], R.shape[1]
    left, root, _ = np.linalg.svd(R, full_matrices=True)
    amplitudes = np.concatenate([root**2, np.zeros(outputs - rank)])
    on, off = left[:, :rank], left[:, rank:]
    # Directions that are off are told apart by how hard the data pull at them.
    strengths, rotation = np.linalg.svd(problem.pulls(amplitudes[rank:], off))[1:]
    directions = np.column_stack([on, off @ rotation.T])
    violation = _violation(problem.pulls(amplitudes, directions), root, problem.depth)
    if problem.depth == 1:
        violation = max(violation, float((strengths**2).max(initial=0.0)) - 1)
    # For L = 1, phi is convex.
    curvatures = np.linalg.eigvalsh(_hessian(problem, R)) if rank and problem.depth > 1 else np.ones(1)
    stable = bool(curvatures[0] > -FLAT * curvatures[-1])
    return Stationary(directions, amplitudes, violation, stable)


def _violation(pulls: Floats, root: Floats, depth: int) -> float:
    """Stationarity in the directions, those with amplitudes root^2 first: H_ii = a_i^{1-L}, and H_ij = 0 if i is on."""
    rank, sizes = len(root), np.linalg.norm(pulls, axis=0)
    # By Cauchy and Schwarz |H_ij| < sqrt(H_ii H_jj), but directions without labels have H_jj = 0.
    coupling = np.abs(pulls[:, :rank].T @ pulls) / (sizes[:rank, None] * np.maximum(sizes, sizes[:rank, None]))
    np.fill_diagonal(coupling, np.abs(sizes[:rank] ** 2 * root ** (2 * depth - 2) - 1))
    return float(coupling.max(initial=0.0))


def _polished(problem: _Problem, R: Floats) -> Floats:
    """Newton's method; rotations R -> R Q change nothing, which the pseudo-inverse leaves out."""
    best, least = R, math.inf
    for _ in range(NEWTON_STEPS):
        slope = problem.slope(R)
        size = float(np.abs(slope).max())
        if not size < least:
            break
        best, least = R, size
        R = R - np.linalg.lstsq(_hessian(problem, R), slope.ravel(), rcond=FLAT)[0].reshape(R.shape)
    return best


def _hessian(problem: _Problem, R: Floats) -> Floats:
    """Half the second derivative of the energy, by central differences of its slope."""
    step = STEP * float(np.linalg.norm(R, 2))
    shifts = step * np.eye(R.size).reshape(-1, *R.shape)
    hessian = np.array([(problem.slope(R + shift) - problem.slope(R - shift)).ravel() / (2 * step) for shift in shifts])
    return (hessian + hessian.T) / 2
