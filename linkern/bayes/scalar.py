"""One output, any depth: the whole posterior reduces to F(x) = x - sum_l log1p(A(x)/n_l) = 0 with x = ln k.

A(x) = gamma0^2 sum_i b_i^2 lam_i k / (k lam_i + T)^2 is the conserved charge and k = e^x the factor by which the
network rescales its lazy kernel. d ln A / dx = D lies in [-1, 1], so derivatives of F are bounded by the local
effective depth E = sum_l A / (n_l + A) <= L, and all roots can be isolated with a proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.growth import Growth
from linkern.generated import deep_linear as formulas
from linkern.numerics.roots import Evaluation, bracketed_newton, isolate_roots

__all__ = ["Root", "ScalarSaddle"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
# Modes times points evaluated at once: four such float64 arrays stay within a few tens of megabytes.
CHUNK = 1 << 20
# Smaller numbers, relative to the largest eigenvalue, would leave float64 when squared.
RESOLVED = 1e-140
# Beyond e^340 = 1e147 squares of k lam leave float64.
MAX_LOG_RESCALING = 340.0


@dataclass(frozen=True)
class Root:
    """One solution of the scalar equation; see `linkern.bayes.linear.Branch` for the meaning of the fields."""

    log_rescaling: float
    charge: float
    action: float
    stable: bool
    condition_number: float
    degenerate: bool = False


@dataclass(frozen=True)
class ScalarSaddle:
    """The scalar problem in units in which max(lam, T) is about 1.

    Attributes
    ----------
    lam : (r,) array
        Eigenvalues of the lazy readout kernel g_w n_L G_L C, in units of `unit`.
    weight : (r,) array
        gamma0^2 b_i^2 / unit.
    T : float
        1 / (beta unit).
    growth : Growth
        The layers' relative widths.
    outside : float
        gamma0^2 |y outside the range of C|^2 / unit; it enters the action only.
    """

    lam: Floats
    weight: Floats
    T: float
    growth: Growth
    outside: float

    @classmethod
    def build(cls, lam: Floats, b: Floats, outside: float, gamma0: float, T: float, widths: Floats) -> ScalarSaddle:
        """Scale the problem by a power of two, which costs no rounding.

        Raises
        ------
        ValueError
            If gamma0 |y| / sqrt(kernel) squared leaves the range of float64.
        """
        exponent = math.frexp(max(float(lam.max(initial=0.0)), T))[1]
        # An even exponent has an exact square root.
        exponent += exponent % 2
        root = math.ldexp(gamma0, -exponent // 2)
        with np.errstate(over="ignore"):
            weight, square = (root * b) ** 2, float(np.square(root * outside))
        if not (np.isfinite(weight).all() and np.isfinite(square)):
            raise ValueError("gamma0: gamma0^2 |y|^2 / kernel leaves the range of float64; rescale y or the kernel")
        scaled, ridge = np.ldexp(lam, -exponent), math.ldexp(T, -exponent)
        if ridge < RESOLVED and scaled.min(initial=1.0) < RESOLVED:
            raise ValueError("eigenvalues: they spread over more than 140 decades; leave out the smallest")
        return cls(scaled, weight, ridge, Growth.of(widths), square)

    def charge(self, x: Floats) -> tuple[Floats, Floats]:
        """Return A(x) and D = d ln A / dx for an array of x."""
        A, D = np.empty_like(x), np.empty_like(x)
        step = max(1, CHUNK // max(1, self.lam.size))
        for start in range(0, x.size, step):
            part = slice(start, start + step)
            k = np.exp(x[part])[:, None]
            shares = formulas.mode_weight(k, self.lam, self.T) * self.weight
            A[part] = total = shares.sum(axis=1)
            shares *= formulas.mode_log_slope(k, self.lam, self.T)
            D[part] = shares.sum(axis=1) / np.where(total > 0, total, 1.0)
        return A, D

    def equation(self, x: Floats) -> tuple[Floats, Floats]:
        """Return F and F'."""
        A, D = self.charge(x)
        return x - self.growth.log_growth(A), 1 - self.growth.effective_depth(A) * D

    def _evaluate(self, middle: Floats, half: Floats) -> Evaluation:
        A, D = self.charge(middle)
        growth = self.growth.log_growth(A)
        # F'' = -sum_l E_l [(1 - E_l) D^2 + D'] with -(1 - D^2)/2 <= D' <= 1 - D^2, hence |F''| <= E; and A grows at
        # most like e^h over the interval because |D| <= 1.
        curvature = self.growth.effective_depth(A * np.exp(np.minimum(half, 600.0)))
        rounding = 8 * EPS * (middle + growth)
        return Evaluation(middle - growth, 1 - self.growth.effective_depth(A) * D, curvature, rounding)

    @cached_property
    def upper_bound(self) -> float:
        """A number that no root exceeds.

        Two bounds on A: its largest value mode by mode, and B e^{-x} with B = gamma0^2 sum b^2 / lam. The latter makes
        A <= c beyond x = ln(B / c), so that no root exceeds both that and x(c), for any c.
        """
        peak = np.where(self.lam >= self.T, self.lam / (self.lam + self.T) ** 2, 0.25 / self.T if self.T else 0.0)
        largest = float(self.growth.log_growth((self.weight * peak).sum()))
        active = self.weight > 0
        logs = np.log(self.weight[active]) - np.log(self.lam[active])
        log_B = np.logaddexp.reduce(logs) if logs.size else -math.inf
        c = np.logspace(-16, 16, 65)
        bound = 1.01 * min(largest, float(np.maximum(log_B - np.log(c), self.growth.log_growth(c)).min()))
        if bound > MAX_LOG_RESCALING:
            raise ValueError("gamma0: the kernel's rescaling exceeds the range of float64; rescale y or the kernel")
        return float(bound)

    def action(self, x: float, A: float) -> float:
        """S = gamma0^2/2 y^T (k C' + T)^{-1} y + 1/2 sum_l [A - n_l log1p(A/n_l)]."""
        energy = (self.weight * formulas.mode_energy(math.exp(x), self.lam, self.T)).sum() / 2
        if self.outside:
            energy += self.outside / (2 * self.T)
        return float(energy + self.growth.cost(np.array(A)))

    def condition_number(self, x: float) -> float:
        """Relative change of k (of x where x < 1) per relative change of gamma0^2, T, lam_i and b_i, each one's worst."""
        if x == 0:
            return 0.0
        k = math.exp(x)
        share = formulas.mode_weight(k, self.lam, self.T) * self.weight
        A = share.sum()
        share = share / A
        slope = formulas.mode_log_slope(k, self.lam, self.T)
        E = self.growth.effective_depth(A)
        # In the order gamma0^2, b, T, lam; 1 + slope = 2 T / (k lam + T).
        sensitivity = 1 + 2 + (share * (1 + slope)).sum() + (share * np.abs(slope)).sum()
        return float(E * sensitivity / (max(abs(1 - E * (share * slope).sum()), EPS) * min(x, 1.0)))

    def roots(self) -> tuple[list[Root], bool]:
        """Return all roots in ascending order, and whether it is certain that there are no others.

        A spinodal met to rounding gives one root marked `degenerate`, in place of an undecidable none or two.
        """
        if self.charge(np.zeros(1))[0][0] == 0:
            return [Root(0.0, 0.0, self.action(0.0, 0.0), True, 0.0)], True
        found = isolate_roots(self._evaluate, 0.0, self.upper_bound)
        x = bracketed_newton(lambda x, _: self.equation(x), found.brackets[:, 0], found.brackets[:, 1], found.rising)
        roots = [self._root(value, stable) for value, stable in zip(x, found.rising, strict=True)]
        for (left, right), (before, after) in zip(found.clusters, found.cluster_signs, strict=True):
            nearest = self._in_cluster(float(left), float(right), float(before), float(after))
            roots.append(self._root(nearest, bool(before < after), degenerate=True))
        return sorted(roots, key=lambda root: root.log_rescaling), not found.clusters.size

    def _in_cluster(self, left: float, right: float, before: float, after: float) -> float:
        """The best single x for a cluster of roots."""
        inside = np.linspace(left, right, 1001)
        slopes = self.equation(inside)[1]
        if before != after and (np.sign(slopes) == after).all():
            rising = np.array([after > 0])
            return float(bracketed_newton(lambda x, _: self.equation(x), inside[:1], inside[-1:], rising)[0])
        # Where roots coalesce F' vanishes, which locates them far better than the noise in F.
        return float(inside[np.argmin(np.abs(slopes))])

    def _root(self, x: float, stable: bool, degenerate: bool = False) -> Root:
        A = float(self.charge(np.array([x]))[0][0])
        return Root(float(x), A, self.action(x, A), bool(stable), self.condition_number(x), degenerate)
