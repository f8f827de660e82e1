"""All solutions of the scalar saddle point to 50 digits, by a route of its own: sort out the extrema, then bisect."""

from __future__ import annotations

from dataclasses import dataclass

import mpmath as mp
import numpy as np

DIGITS = 50


@dataclass(frozen=True)
class Problem:
    """One output in explicit modes; widths n_l, unit prior variances."""

    gamma0: float
    beta: float
    eigenvalues: tuple[float, ...]
    coefficients: tuple[float, ...]
    widths: tuple[float, ...]

    @property
    def depth(self) -> int:
        return len(self.widths)


class ExactSaddle:
    """F(x) = x - sum_l ln(1 + A(x)/n_l) in mpmath; call inside `mp.workdps(DIGITS)`."""

    def __init__(self, problem: Problem) -> None:
        self.T = mp.mpf(0) if problem.beta == float("inf") else 1 / mp.mpf(problem.beta)
        scale = mp.mpf(problem.widths[-1])
        self.lam = [scale * mp.mpf(value) for value in problem.eigenvalues]
        self.b = [mp.mpf(value) for value in problem.coefficients]
        self.gamma0_squared = mp.mpf(problem.gamma0) ** 2
        self.layers = {width: problem.widths.count(width) for width in problem.widths}

    def charge(self, x):
        k = mp.exp(x)
        return self.gamma0_squared * mp.fsum(
            b * b * lam * k / (k * lam + self.T) ** 2 for b, lam in zip(self.b, self.lam, strict=True)
        )

    def charge_slope(self, x):
        k = mp.exp(x)
        return self.gamma0_squared * mp.fsum(
            b * b * lam * k * (self.T - k * lam) / (k * lam + self.T) ** 3 for b, lam in zip(self.b, self.lam, strict=True)
        )

    def F(self, x):
        A = self.charge(x)
        return x - mp.fsum(count * mp.log1p(A / width) for width, count in self.layers.items())

    def slope(self, x):
        A, dA = self.charge(x), self.charge_slope(x)
        return 1 - dA * mp.fsum(count / (width + A) for width, count in self.layers.items())

    def action(self, x):
        k, A = mp.exp(x), self.charge(x)
        fit = mp.fsum(b * b / (k * lam + self.T) for b, lam in zip(self.b, self.lam, strict=True))
        prior = mp.fsum(count * (A - width * mp.log1p(A / width)) for width, count in self.layers.items())
        return self.gamma0_squared * fit / 2 + prior / 2

    def upper_bound(self):
        B = self.gamma0_squared * mp.fsum(b * b / lam for b, lam in zip(self.b, self.lam, strict=True))
        one = mp.fsum(count * mp.log1p(mp.mpf(1) / width) for width, count in self.layers.items())
        return max(mp.log(B), one) + 1

    def roots(self, points: int = 6000):
        """Bracket the extrema of F on a fine grid in float64, place them at full precision, bisect what lies between."""
        upper = self.upper_bound()
        grid = np.linspace(0, float(upper), points)
        slopes = self._float_slope(grid)
        changes = np.flatnonzero(np.diff(np.sign(slopes)))
        edges = [mp.mpf(0)]
        for index in changes:
            ends = mp.mpf(float(grid[index])), mp.mpf(float(grid[index + 1]))
            edges.append(bisect(self.slope, *ends, 30) if self.slope(ends[0]) * self.slope(ends[1]) < 0 else ends[0])
        edges.append(upper)
        values = [self.F(edge) for edge in edges]
        return [
            bisect(self.F, edges[i], edges[i + 1], 45) for i in range(len(edges) - 1) if (values[i] < 0) != (values[i + 1] < 0)
        ]

    def _float_slope(self, grid):
        lam, b = np.array([float(v) for v in self.lam]), np.array([float(v) for v in self.b])
        T, k = float(self.T), np.exp(grid)[:, None]
        shares = float(self.gamma0_squared) * b**2 * lam * k / (k * lam + T) ** 2
        A = shares.sum(axis=1)
        dA = (shares * (T - k * lam) / (k * lam + T)).sum(axis=1)
        return 1 - dA * sum(count / (width + A) for width, count in self.layers.items())


def bisect(function, left, right, digits):
    """Root of a monotone function to `digits` significant digits by the Illinois method."""
    left_value, right_value = function(left), function(right)
    for _ in range(500):
        if abs(right - left) <= mp.mpf(10) ** -digits * abs(right):
            break
        middle = (left * right_value - right * left_value) / (right_value - left_value)
        if not left < middle < right:
            middle = (left + right) / 2
        value = function(middle)
        if value == 0:
            return middle
        if (value < 0) == (left_value < 0):
            left, left_value, right_value = middle, value, right_value / 2
            if abs(right - middle) > abs(right) / 2:
                continue
        else:
            right, right_value, left_value = middle, value, left_value / 2
    return (left + right) / 2
