"""The self-consistent ridge of training with weight decay: one scalar equation whose roots are isolated with a proof.

With s_i = lam_i / (lam_i + rho), the shares of the labels that are fitted, a fixed point of depth L solves

    (weight_decay / rho)^p = gamma0^2 Q(rho),    p = (L + 1)/L,    Q(rho) = sum_i lam_i b_i^2 / (lam_i + rho)^2.

In x = ln rho this is F(x) = p x + ln Q - p ln weight_decay + ln gamma0^2 = 0 with F' = p - 2 <1 - s> and |F''| <= 1, the
average <.> being over the modes' shares of Q. Only logarithms of the parameters occur: no product over- or underflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from linkern.numerics.roots import Evaluation, bracketed_newton, isolate_roots

__all__ = ["RidgeEquation", "RidgeRoot"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
# Modes times points evaluated at once: a few such float64 arrays stay within a few tens of megabytes.
CHUNK = 1 << 20


class RidgeRoot(NamedTuple):
    """One nonzero solution: x = ln rho, whether F rises through it, and d ln rho per relative change of the input."""

    log_ridge: float
    rising: bool
    condition_number: float
    degenerate: bool = False


@dataclass(frozen=True)
class RidgeEquation:
    """The modes of a data set and the depth; strength and weight decay are arguments of the methods.

    Attributes
    ----------
    log_lam : (r,) array
        ln of the kernel's eigenvalues whose label coefficient is not zero.
    log_share : (r,) array
        ln b_i^2.
    depth : int
        L.
    """

    log_lam: Floats
    log_share: Floats
    depth: int

    @classmethod
    def build(cls, lam: Floats, b: Floats, depth: int) -> RidgeEquation:
        """Keep the modes that carry labels."""
        active = (b != 0) & (lam > 0)
        return cls(np.log(lam[active]), 2 * np.log(np.abs(b[active])), depth)

    @property
    def power(self) -> float:
        """p = (L + 1)/L."""
        return 1 + 1 / self.depth

    @property
    def log_readout(self) -> float:
        """ln y^T C y; -inf without labels."""
        return float(logsumexp(self.log_lam + self.log_share)) if self.log_lam.size else -math.inf

    def moments(self, x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """ln Q, and <r>, <r^2>, <r^3> of r = 1 - s, for an array of x."""
        log_Q = np.empty_like(x)
        r1, r2, r3 = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        step = max(1, CHUNK // self.log_lam.size)
        for start in range(0, x.size, step):
            part = slice(start, start + step)
            gap = self.log_lam - x[part, None]
            # ln s = -log1p(e^{-gap}) without overflow on either side.
            terms = self.log_share - self.log_lam - 2 * np.logaddexp(0.0, -gap)
            log_Q[part] = logsumexp(terms, axis=1)
            weights = np.exp(terms - log_Q[part, None])
            r = expit(-gap)
            r1[part], r2[part], r3[part] = ((weights * r**n).sum(axis=1) for n in (1, 2, 3))
        return log_Q, r1, r2, r3

    def log_decay(self, x: Floats, gamma0: float) -> Floats:
        """ln of the weight decay at which rho = e^x is a fixed point: x + ln(gamma0^2 Q)/p."""
        return x + (self.moments(x)[0] + 2 * math.log(gamma0)) / self.power

    def energy(self, x: float) -> float:
        """J - J(0) = 1/2 sum_i b_i^2 s_i (L - 1 - L s_i) of the fixed point rho = e^x."""
        s = expit(self.log_lam - x)
        return float((np.exp(self.log_share) * s * (self.depth - 1 - self.depth * s)).sum() / 2)

    def roots(self, gamma0: float, weight_decay: float) -> tuple[list[RidgeRoot], bool]:
        """Return all roots by descending ridge, and whether it is certain that there are no others."""
        if not self.log_lam.size or gamma0 == 0:
            return [], True
        target = self.power * math.log(weight_decay) - 2 * math.log(gamma0)
        bounds = self._bounds(target)
        if bounds is None:
            return [], True

        def equation(x: Floats) -> tuple[Floats, Floats]:
            log_Q, r1, _, _ = self.moments(x)
            return self.power * x + log_Q - target, self.power - 2 * r1

        def evaluate(middle: Floats, half: Floats) -> Evaluation:
            value, slope = equation(middle)
            rounding = 16 * EPS * (np.abs(self.power * middle) + np.abs(value) + abs(target) + 1)
            return Evaluation(value, slope, np.ones_like(middle), rounding)

        found = isolate_roots(evaluate, *bounds)
        x = bracketed_newton(lambda x, _: equation(x), found.brackets[:, 0], found.brackets[:, 1], found.rising)
        roots = [self._root(float(value), bool(up)) for value, up in zip(x, found.rising, strict=True)]
        for (left, right), (before, after) in zip(found.clusters, found.cluster_signs, strict=True):
            inside = np.linspace(left, right, 1001)
            nearest = inside[np.argmin(np.abs(equation(inside)[0]))]
            roots.append(self._root(float(nearest), bool(before < after), degenerate=True))
        return sorted(roots, key=lambda root: -root.log_ridge), not found.clusters.size

    def _bounds(self, target: float) -> tuple[float, float] | None:
        """An interval that holds every root; None where there is none.

        Q <= sum b^2/lam bounds roots from below. Q <= y^T C y / rho^2 bounds them from above for L >= 2; for L = 1, where
        F rises to ln(y^T C y) - target, the bound comes from Q >= y^T C y / (lam_max + rho)^2.
        """
        lower = (target - float(logsumexp(self.log_share - self.log_lam))) / self.power
        room = self.log_readout - target
        if self.depth == 1:
            if room <= 0:
                return None
            upper = float(self.log_lam.max()) - float(np.log(np.expm1(min(room / 2, 600.0))))
        else:
            upper = room / (2 - self.power)
        # One mode alone sits on its bounds.
        slack = 1e-6 * (1 + abs(lower) + abs(upper))
        return (lower - slack, upper + slack) if lower - slack < upper + slack else None

    def _root(self, x: float, rising: bool, degenerate: bool = False) -> RidgeRoot:
        gap = self.log_lam - x
        terms = self.log_share - self.log_lam - 2 * np.logaddexp(0.0, -gap)
        weights = np.exp(terms - logsumexp(terms))
        slope = self.power - 2 * float(weights @ expit(-gap))
        # In the order gamma0^2, weight decay, b, lam.
        sensitivity = 1 + self.power + 2 + float(weights @ np.abs(np.tanh(gap / 2)))
        return RidgeRoot(x, rising, sensitivity / max(abs(slope), EPS), degenerate)
