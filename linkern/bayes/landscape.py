"""One data set at all temperatures: gamma0^2 as an explicit function of x = ln k, and where it has extrema.

A solution with rescaling k = e^x at temperature T exists at exactly one coupling, gamma0^2 = A(x) / Q(x - ln T) * T with
A(x) the inverse of x = sum_l log1p(A/n_l) and Q(z) = sum_i b_i^2 s_i / (1 + s_i)^2, s_i = lam_i e^z. Its logarithmic
derivative Psi = 1 - E(x) D(z) changes sign at the spinodals: stable solutions lie where Psi > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.growth import Growth
from linkern.generated import deep_linear as formulas
from linkern.numerics.roots import Evaluation, bracketed_newton, isolate_roots

__all__ = ["Landscape"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
CHUNK = 1 << 20


@dataclass(frozen=True)
class Landscape:
    """Kernel modes and widths; x is always an array, T a number, in units of the largest eigenvalue.

    Attributes
    ----------
    lam : (r,) array
        Eigenvalues, the largest being 1.
    share : (r,) array
        b_i^2, the largest being 1.
    growth : Growth
        Relative widths.
    """

    lam: Floats
    share: Floats
    growth: Growth

    def moments(self, z: Floats) -> tuple[Floats, Floats, Floats]:
        """ln Q, <d> and <d^2> at z = x - ln T; d_i = (1 - s_i) / (1 + s_i), averaged over the modes' shares of Q."""
        log_Q, first, second = np.empty_like(z), np.empty_like(z), np.empty_like(z)
        step = max(1, CHUNK // self.lam.size)
        for start in range(0, z.size, step):
            part = slice(start, start + step)
            # Far to the left every mode is lazy: factor out e^z, which would underflow.
            s = np.exp(z[part])[:, None]
            shares = self.share * formulas.mode_weight(1.0, self.lam, 1.0 / s) / s
            total = shares.sum(axis=1)
            d = formulas.mode_log_slope(s, self.lam, 1.0)
            log_Q[part] = np.log(total)
            first[part] = (shares * d).sum(axis=1) / total
            second[part] = (shares * d * d).sum(axis=1) / total
        return log_Q, first, second

    def log_coupling(self, x: Floats, T: float) -> Floats:
        """ln gamma0^2 at which x is a solution."""
        return np.asarray(np.log(self.growth.charge(x)) - self.moments(x - np.log(T))[0] + np.log(T))

    def action(self, x: Floats, T: float) -> Floats:
        """S of the solution x, at the coupling that it needs."""
        coupling = np.exp(self.log_coupling(x, T))
        energy = (self.share * formulas.mode_energy(np.exp(x)[:, None], self.lam, T)).sum(axis=1)
        return np.asarray(coupling * energy / 2 + self.growth.cost(self.growth.charge(x)))

    def stability(self, x: Floats, T: float) -> tuple[Floats, Floats]:
        """Psi = d ln gamma0^2 / d ln A and its derivative in x."""
        A = self.growth.charge(x)
        _, D, second = self.moments(x - np.log(T))
        E = self.growth.effective_depth(A)
        D_slope = 1.5 * second - 0.5 - D**2
        return 1 - E * D, -self.growth.depth_slope(A) * D - E * D_slope

    def spinodals(self, T: float) -> tuple[Floats, bool]:
        """All x with Psi = 0 at temperature T, ascending, and whether that is certain."""
        # Psi > 0 where every mode has s > 1, and for one layer everywhere.
        upper = float(np.log(T / self.lam.min()))
        if upper <= 0 or self.growth.counts.sum() < 2:
            return np.empty(0), True

        def evaluate(middle: Floats, half: Floats) -> Evaluation:
            value, slope = self.stability(middle, T)
            # Psi'' = -E'' D - 2 rho D' - E D'' with |D|, |D'|, |rho|, |E''| <= 1 and
            # |D''| = |3 <d^3> - D/2 - 9/2 <d^2> D + 2 D^3| <= 10; E grows with x.
            curvature = 3 + 10 * self.growth.effective_depth(self.growth.charge(middle + half))
            return Evaluation(value, slope, curvature, 64 * EPS * curvature)

        found = isolate_roots(evaluate, 0.0, upper)
        x = bracketed_newton(
            lambda x, _: self.stability(x, T), found.brackets[:, 0], found.brackets[:, 1], found.rising, rtol=1e-15
        )
        return x, not found.clusters.size

    def critical_points(self) -> list[tuple[float, float, bool]]:
        """Return (x, T, stable) wherever spinodals are born or merge as T changes.

        Along the spinodal line E(x) D(z) = 1, parametrised by z, d ln T / dz vanishes with D^2 rho + D'. A dense scan
        finds its sign changes; the function varies on the scale 1 in z, being analytic in a strip of width 2 pi.
        """
        depth = float(self.growth.counts.sum())
        z = np.arange(-40.0, float(-np.log(self.lam.min())) + 1.0, 0.01)
        _, D, second = self.moments(z)
        inside = D * depth > 1 + 1e-9
        psi = np.full_like(z, np.nan)
        psi[inside] = self._fold(D[inside], second[inside])
        turns = np.flatnonzero((psi[:-1] > 0) != (psi[1:] > 0))
        turns = turns[np.isfinite(psi[turns]) & np.isfinite(psi[turns + 1])]
        left, right, rising = z[turns], z[turns + 1], psi[turns] < 0
        for _ in range(60):
            middle = (left + right) / 2
            _, D, second = self.moments(middle)
            before = (self._fold(D, second) < 0) == rising
            left, right = np.where(before, middle, left), np.where(before, right, middle)
        x = self.growth.log_growth(self.growth.charge_at_depth(1 / self.moments(left)[1]))
        return [(float(a), float(np.exp(a - b)), bool(not up)) for a, b, up in zip(x, left, rising, strict=True)]

    def _fold(self, D: Floats, second: Floats) -> Floats:
        rho = self.growth.depth_slope(self.growth.charge_at_depth(1 / D))
        return D**2 * (rho - 1) + 1.5 * second - 0.5
