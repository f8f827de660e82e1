"""Whitened data on a grid: C = 1 has one mode, the spinodals solve a cubic, and millions of points solve at once.

In a = ln A the saddle point is H(a) = a + x + 2 log1p(T e^{-x}) - ln gamma^2 = 0, with x = ln c_L = L log1p(A),
T = 1/beta and gamma = gamma0 |y|. With s = c_L beta, H' = 0 is s^3 + (3 + g(1+L)) s^2 + (3 + g(1-L)) s + 1 = 0,
g = gamma^2 beta, whose positive roots (none or two) separate the solutions: there are one or three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.checks import positive, real_array
from linkern.numerics.roots import bracketed_newton

__all__ = ["WhitenedBranch", "WhitenedSolution", "solve_whitened"]

Floats = NDArray[np.float64]
# A few dozen temporaries of this many numbers stay in the second-level cache.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class WhitenedBranch:
    """One solution per grid point; all arrays have the grid's shape.

    Attributes
    ----------
    log_overlap : array
        ln c_L. The overlap of layer l is c_l = c_L^(l/L).
    charge : array
        A, with c_L = (1 + A)^L.
    action : array
        S.
    condition_number : array
        Relative change of c_L (of ln c_L where c_L < e) per relative change of gamma0^2, T, C and y.
    """

    log_overlap: Floats
    charge: Floats
    action: Floats
    condition_number: Floats

    @property
    def overlap(self) -> Floats:
        """c_L."""
        return np.exp(self.log_overlap)

    @property
    def excess(self) -> Floats:
        """c_L - 1, to full relative accuracy."""
        return np.expm1(self.log_overlap)


@dataclass(frozen=True, eq=False)
class WhitenedSolution(WhitenedBranch):
    """The solution of least action per grid point, and the branches it was chosen from.

    Attributes
    ----------
    solutions : int array
        1 or 3, the number of solutions (two stable ones and the unstable one between them).
    lazy, rich : WhitenedBranch
        The stable solutions of smallest and largest overlap; where there is one solution both are that one.
    """

    solutions: NDArray[np.int64]
    lazy: WhitenedBranch
    rich: WhitenedBranch


def solve_whitened(gamma0: ArrayLike, beta: ArrayLike, depth: ArrayLike, *, label_norm: float = 1.0) -> WhitenedSolution:
    """Solve deep linear networks on whitened data for whole arrays of parameters.

    Parameters
    ----------
    gamma0, beta, depth : arrays that broadcast
        Richness >= 0; inverse temperature > 0, may be inf; number of hidden layers >= 1 (integers).
    label_norm : float
        |y|; only gamma0 |y| matters.

    Returns
    -------
    WhitenedSolution
        Well under a second per million points; twelve arrays of the grid's shape.
    """
    gamma0, beta, depth = _checked(gamma0, beta, depth)
    label_norm = positive("label_norm", label_norm)
    grids = np.broadcast_arrays(gamma0, beta, depth)
    shape = grids[0].shape
    flat_gamma0, flat_beta, flat_depth = (np.ascontiguousarray(grid).ravel() for grid in grids)
    lazy, rich = np.empty((4, flat_depth.size)), np.empty((4, flat_depth.size))
    three = np.empty(flat_depth.size, dtype=bool)
    for start in range(0, three.size, CHUNK):
        part = slice(start, start + CHUNK)
        lazy[:, part], rich[:, part], three[part] = _solve_chunk(flat_gamma0[part], flat_beta[part], flat_depth[part], label_norm)
    best = np.where(rich[2] < lazy[2], rich, lazy)
    log_overlap, charge, action, condition = (row.reshape(shape) for row in best)
    return WhitenedSolution(
        log_overlap,
        charge,
        action,
        condition,
        solutions=np.where(three, 3, 1).reshape(shape),
        lazy=WhitenedBranch(*(row.reshape(shape) for row in lazy)),
        rich=WhitenedBranch(*(row.reshape(shape) for row in rich)),
    )


def _checked(gamma0: ArrayLike, beta: ArrayLike, depth: ArrayLike) -> tuple[Floats, Floats, Floats]:
    gamma0 = real_array("gamma0", gamma0, ndim=tuple(range(33)))
    if (gamma0 < 0).any():
        raise ValueError(f"gamma0: expected numbers >= 0, got {float(gamma0.min())!r}")
    levels = np.asarray(depth)
    if levels.dtype.kind not in "iu":
        raise TypeError(f"depth: expected integers >= 1, got {levels.dtype}")
    levels = real_array("depth", levels, ndim=tuple(range(33)))
    if (levels < 1).any():
        raise ValueError(f"depth: expected integers >= 1, got {int(levels.min())}")
    cold = np.asarray(beta)
    if cold.dtype.kind not in "iuf":
        raise TypeError(f"beta: expected real numbers, got {cold.dtype}")
    cold = cold.astype(np.float64)
    if not (cold >= 1e-100).all():
        raise ValueError(f"beta: expected numbers > 0 (inf allowed, at least 1e-100), got {float(cold.min())!r}")
    return gamma0, cold, levels


def _solve_chunk(gamma0: Floats, beta: Floats, depth: Floats, label_norm: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return rows (ln c_L, A, S, condition number) of the lazy and rich branches, and where there are three solutions."""
    active = gamma0 > 0
    coupling = 2 * (np.log(np.where(active, gamma0, 1.0)) + np.log(label_norm))
    chunk = _Chunk(depth, 1 / beta, coupling)
    lazy, rich, three = chunk.roots()
    return chunk.rows(lazy) * active, chunk.rows(rich) * active, three & active


@dataclass(frozen=True)
class _Chunk:
    """A few thousand grid points with gamma0 > 0; L, T = 1/beta and ln gamma^2 with gamma = gamma0 |y|."""

    L: Floats
    T: Floats
    log_coupling: Floats

    def equation(self, a: Floats, index: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """H(a) and H'(a) at the points `index`."""
        L = self.L[index]
        A = np.exp(a)
        x = L * np.log1p(A)
        t = self.T[index] * np.exp(-x)
        return a + x + 2 * np.log1p(t) - self.log_coupling[index], 1 + L * A / (1 + A) * (1 - t) / (1 + t)

    def lower(self) -> Floats:
        """ln A is larger than this: A k (1 + T/k)^2 = gamma^2 with T/k < T, and ln k < 1 if A < 1/L."""
        return np.minimum(self.log_coupling - 2 * np.log1p(self.T) - 1, -np.log(self.L)) - 1e-3

    def upper(self) -> Floats:
        """ln A is smaller than this, because A (1 + A)^L < gamma^2."""
        return np.minimum(self.log_coupling, np.maximum(self.log_coupling / (self.L + 1), 0.0)) + 1e-3

    def guess(self, log_effective: Floats) -> Floats:
        """Approximate root of A (1 + A)^L = e^u: Lambert's W for small A, a power law for large A."""
        log_z = np.log(self.L) + log_effective
        w = np.logaddexp(0.0, np.maximum(log_z, -30.0))
        w = w * (1 - np.log1p(w) / (2 + w))
        power = np.minimum(log_effective, np.maximum(log_effective / (self.L + 1), 0.0))
        return np.where(log_z < -30, log_effective, np.minimum(np.log(w / self.L), power))

    def spinodals(self) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Return the points where H is not monotone on x > 0, and ln A at its maximum (-inf if not on x > 0) and minimum."""
        log_g = self.log_coupling - np.log(self.T, where=self.T > 0, out=np.full_like(self.T, -np.inf))
        index = np.flatnonzero((self.T > 1) & (self.L > 1) & (log_g > np.log(3 / np.maximum(self.L - 1, 0.5))))
        L, T = self.L[index], self.T[index]
        # With T <= 1e100, a larger g leaves no maximum on x > 0 anyway; the cap keeps the cubic finite.
        g = np.exp(np.minimum(log_g[index], 600.0))
        p, q = 3 + g * (1 + L), 3 + g * (1 - L)
        lowest = -q / p / (1 + np.sqrt(1 - 3 * (q / p) / p))
        real = ((lowest + p) * lowest + q) * lowest + 1 < 0
        index, T, p, q, L = index[real], T[real], p[real], q[real], L[real]
        # The cubic is convex for s > 0: Newton's method from outside converges monotonically to either root.
        first, second = -1 / q, np.ones_like(q)
        for _ in range(60):
            step, other = _cubic_step(first, p, q), _cubic_step(second, p, q)
            first, second = first - step, second - other
            if not ((np.abs(step) > 1e-13 * first) | (np.abs(other) > 1e-13 * second)).any():
                break
        with np.errstate(divide="ignore", invalid="ignore"):
            top = np.log(np.expm1(np.log(np.maximum(first * T, 1.0)) / L))
        reachable = second * T > 1
        bottom = np.log(np.expm1(np.log(second[reachable] * T[reachable]) / L[reachable]))
        return index[reachable], top[reachable], bottom

    def roots(self) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return ln A of the lazy and rich branches, and where there are three solutions."""
        every = np.arange(self.L.size)
        low, high = self.lower(), self.upper()
        start = self.guess(self.log_coupling - 2 * np.log1p(self.T))
        index, top, bottom = self.spinodals()
        three = np.zeros(self.L.size, dtype=bool)
        if index.size:
            with np.errstate(invalid="ignore"):
                barrier = np.isfinite(top) & (self.equation(np.where(np.isfinite(top), top, low[index]), index)[0] > 0)
            well = self.equation(bottom, index)[0] < 0
            three[index] = barrier & well
            # A root below the maximum exists only behind a barrier; one above the minimum only if that is a well.
            high[index[barrier]] = top[barrier]
            low[index[~barrier]] = bottom[~barrier]
            start[index[~barrier]] = self.guess(self.log_coupling)[index[~barrier]]
        lazy = self.refine(every, low, high, start)
        rich = lazy.copy()
        if three.any():
            both = np.flatnonzero(three)
            place = np.searchsorted(index, both)
            rich[both] = self.refine(both, bottom[place], self.upper()[both], self.guess(self.log_coupling)[both])
        return lazy, rich, three

    def refine(self, index: NDArray[np.intp], low: Floats, high: Floats, start: Floats) -> Floats:
        """Bracketed Newton, then one step on ln of the ratio, which does not cancel logarithms of large numbers."""
        a = bracketed_newton(
            lambda a, open_: self.equation(a, index[open_]), low, high, np.ones(low.size, dtype=bool), start, atol=1e-9
        )
        L, T, log_coupling = self.L[index], self.T[index], self.log_coupling[index]
        A = np.exp(a)
        x = L * np.log1p(A)
        t = T * np.exp(-x)
        slope = 1 + L * A / (1 + A) * (1 - t) / (1 + t)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            excess = np.log(A * np.exp(-log_coupling) * np.exp(x) * (1 + t) ** 2)
        correct = np.isfinite(excess) & (np.abs(excess) < 1e-6)
        step = np.where(correct, excess, 0.0) / np.where(slope != 0, slope, 1.0)
        return np.clip(a - step, low, high)

    def rows(self, a: Floats) -> Floats:
        """ln c_L, charge, action and condition number, stacked."""
        L, A = self.L, np.exp(a)
        log_step = np.log1p(A)
        x = L * log_step
        if x.max() > 700:
            raise ValueError("gamma0: an overlap exceeds the range of float64; lower gamma0 or label_norm")
        t = self.T * np.exp(-x)
        # At a solution gamma^2 / (c_L + T) = A (1 + t).
        action = (A * (1 + t) + L * (A - log_step)) / 2
        E, D = L * A / (1 + A), (t - 1) / (t + 1)
        sensitivity = E * (3 + 2 * t / (1 + t) + np.abs(D))
        scale = np.maximum(np.abs(1 - E * D), 1e-16) * np.minimum(np.maximum(x, 1e-300), 1.0)
        return np.stack([x, A, action, sensitivity / scale])


def _cubic_step(s: Floats, p: Floats, q: Floats) -> Floats:
    return (((s + p) * s + q) * s + 1) / ((3 * s + 2 * p) * s + q)
