"""How charge makes kernels grow: ln k = sum_l log1p(A / n_l), its inverse and its derivatives, elementwise in A or x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.generated import deep_linear as formulas
from linkern.numerics.roots import bracketed_newton

__all__ = ["Growth"]

Floats = NDArray[np.float64]
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Growth:
    """Layers of relative widths n_1 .. n_L; equal widths are computed once.

    Attributes
    ----------
    widths, counts : (d,) arrays
        Distinct widths and how many layers have each.
    """

    widths: Floats
    counts: Floats

    @classmethod
    def of(cls, widths: Floats) -> Growth:
        """Group equal widths."""
        values, counts = np.unique(widths, return_counts=True)
        return cls(values, counts.astype(np.float64))

    def log_growth(self, A: Floats) -> Floats:
        """x = sum_l log1p(A / n_l)."""
        return np.asarray(formulas.layer_log_growth(A[..., None], self.widths) @ self.counts)

    def effective_depth(self, A: Floats) -> Floats:
        """E = dx / d ln A = sum_l A / (n_l + A), between 0 and L."""
        return np.asarray(formulas.layer_growth_slope(A[..., None], self.widths) @ self.counts)

    def depth_slope(self, A: Floats) -> Floats:
        """rho = dE / dx = sum_l E_l (1 - E_l) / E, between 0 and 1."""
        shares = formulas.layer_growth_slope(A[..., None], self.widths)
        E = shares @ self.counts
        return np.asarray((shares * self.widths / (self.widths + A[..., None])) @ self.counts / np.maximum(E, TINY))

    def cost(self, A: Floats) -> Floats:
        """1/2 sum_l [A - n_l log1p(A / n_l)], the prior's part of the action."""
        return np.asarray(formulas.layer_action(A[..., None], self.widths) @ self.counts)

    def charge(self, x: Floats) -> Floats:
        """A(x), the inverse of `log_growth`, for an array x >= 0."""
        per_layer = np.expm1(x / self.counts.sum())
        if self.widths.size == 1:
            return np.asarray(self.widths[0] * per_layer)
        positive = x > 0
        target = x[positive]

        def equation(a: Floats, index: NDArray[np.intp]) -> tuple[Floats, Floats]:
            A = np.exp(a)
            value = self.log_growth(A)
            # Logarithms on both sides keep tiny x to full relative accuracy.
            return np.log(value / target[index]), self.effective_depth(A) / value

        A = np.zeros_like(x)
        A[positive] = self._between(equation, per_layer[positive])
        return A

    def charge_at_depth(self, E: Floats) -> Floats:
        """A with effective depth E, for an array 0 < E < L."""
        odds = E / (self.counts.sum() - E)
        if self.widths.size == 1:
            return np.asarray(self.widths[0] * odds)

        def equation(a: Floats, index: NDArray[np.intp]) -> tuple[Floats, Floats]:
            A = np.exp(a)
            value = self.effective_depth(A)
            return value - E[index], self.depth_slope(A) * value

        return self._between(equation, odds)

    def _between(self, equation: Callable[[Floats, NDArray[np.intp]], tuple[Floats, Floats]], ratio: Floats) -> Floats:
        """Solve for A, which lies between the answers n ratio of networks with all widths smallest or largest."""
        low, high = np.log(self.widths[0] * ratio) - 1e-9, np.log(self.widths[-1] * ratio) + 1e-9
        return np.exp(bracketed_newton(equation, low, high, np.ones(low.size, dtype=bool), atol=1e-15))
