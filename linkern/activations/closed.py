"""Averages in closed form: generated formulas, and around them the arithmetic at correlation -1 and at zero variance."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from linkern.activations.covariance import root_determinant
from linkern.generated import duals as generated

__all__ = ["ErrorFunction", "Exponential", "Generated", "LeakyReLU", "Polynomial", "ReLUPower", "Wave"]

Array = NDArray[np.float64]
_ORDERS = ((0, 0), (1, 1), (2, 0), (0, 2), (2, 2), (3, 1), (1, 3), (4, 0), (0, 4))


class _ClosedForm(ABC):
    method: ClassVar[str] = "closed form"

    def __call__(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return E[phi^(p)(u) phi^(q)(v)] for (u, v) ~ N(0, [[a, c], [c, b]])."""
        if (p, q) not in _ORDERS:
            raise ValueError(f"p, q: expected one of {_ORDERS}, got {(p, q)}")
        if q > p:
            p, q, a, b = q, p, b, a
        s, covariance = root_determinant(a, b, c)
        a, b = (np.broadcast_to(np.asarray(x, dtype=np.float64), s.shape) for x in (a, b))
        return np.array(np.broadcast_to(self._average(p, q, a, b, covariance, s), s.shape))

    def error(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return zero: a closed form has rounding errors only."""
        return np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)))

    @abstractmethod
    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        """The average for p >= q at arrays of one shape, s = sqrt(ab - c^2)."""


@dataclass(frozen=True)
class Generated(_ClosedForm):
    """Formulas of `linkern.generated.duals` that need no care: GELU, the Gaussian."""

    name: str

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        return getattr(generated, f"{self.name}_{p}{q}")(a, b, c, s)


@dataclass(frozen=True)
class ErrorFunction(_ClosedForm):
    """erf, whose averages stay finite at any scale: no square of s that could overflow."""

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        r = np.hypot(np.sqrt(1 + 2 * (a + b)), 2 * s)
        return getattr(generated, f"erf_{p}{q}")(a, b, c, s, r)


@dataclass(frozen=True)
class ReLUPower(_ClosedForm):
    """max(h, 0)^n, n = 1, 2, 3; averages at zero variance are values at h = 0, with relu'(0) = relu''(0) = 0."""

    power: int

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        name = f"{'relu' if self.power == 1 else f'relu{self.power}'}_{p}{q}"
        positive = (a > 0) & (b > 0)
        safe = [np.where(positive, x, 1.0) for x in (a, b)]
        # At correlation +-1 two delta functions on one point give an infinite average.
        with np.errstate(divide="ignore", invalid="ignore"):
            direct = np.asarray(getattr(generated, name)(*safe, np.where(positive, c, 0.0), np.where(positive, s, 1.0)))
        result = np.where(positive, direct, 0.0)
        if p == q and p <= self.power:
            near = positive & (s < -c)
            factor = (math.factorial(self.power) / math.factorial(self.power - p)) ** 2
            result[near] = factor * _near_opposite(self.power - p, -c[near], s[near])
        return result


def _near_opposite(n: int, x: Array, s: Array) -> Array:
    """E[relu^n relu^n] at covariance -x: a sum of terms that do not cancel, where powers of the angle would."""
    t = s / x
    series = special.hyp2f1((n + 1) / 2, (n + 2) / 2, n + 1.5, -(t**2))
    return math.factorial(n) ** 2 / (2 * math.pi * special.factorial2(2 * n + 1)) * x**n * t ** (2 * n + 1) * series


@dataclass(frozen=True)
class LeakyReLU(_ClosedForm):
    """slope h + (1 - slope) relu(h): odd moments of a Gaussian vanish, so that only the square of the second part bends."""

    slope: float

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        bent = (1 - self.slope) ** 2 * ReLUPower(1)._average(p, q, a, b, c, s)
        if (p, q) == (0, 0):
            return self.slope * c + bent
        if (p, q) == (1, 1):
            # Without spread the derivative is the one at 0, which is the slope.
            means = [np.where(x > 0, (1 + self.slope) / 2, self.slope) for x in (a, b)]
            return np.where((a > 0) & (b > 0), self.slope + bent, means[0] * means[1])
        return bent


@dataclass(frozen=True)
class Wave(_ClosedForm):
    """sin (odd) or cos (even): derivatives are the two functions in turn."""

    odd: bool

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        # p + q is even: both derivatives are sines or both cosines, up to sign.
        sines = self.odd == (p % 2 == 0)
        sign = _wave_sign(self.odd, p) * _wave_sign(self.odd, q)
        size = np.abs(c)
        # (a + b)/2 - |c| as a sum of positive terms.
        total = (a + b) / 2 + size
        apart = ((a - b) ** 2 / 4 + s**2) / np.where(total > 0, total, 1.0)
        value = np.asarray((generated.sin_sin if sines else generated.cos_cos)(apart, size))
        return sign * (np.copysign(value, c) if sines else value)


def _wave_sign(odd: bool, order: int) -> int:
    return (1, 1, -1, -1)[order % 4] if odd else (1, -1, -1, 1)[order % 4]


@dataclass(frozen=True)
class Exponential(_ClosedForm):
    """exp(h): every derivative is itself, and the average is exp of half the variance of u + v."""

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        return np.exp((a + b) / 2 + c)


@dataclass(frozen=True)
class Polynomial(_ClosedForm):
    """sum_k coefficients[k] h^k: Taylor's series in c around independence, which ends with the degree (Price, Mehler)."""

    coefficients: tuple[float, ...]

    def mean(self, order: int, variance: Array) -> Array:
        """Return E[phi^(order)(u)], u ~ N(0, variance): a polynomial in the variance."""
        derived = np.polynomial.polynomial.polyder(self.coefficients, order)
        even = [k * special.factorial2(2 * m - 1) if m else k for m, k in enumerate(derived[::2])]
        return np.polynomial.polynomial.polyval(variance, even)

    def _average(self, p: int, q: int, a: Array, b: Array, c: Array, s: Array) -> Array:
        total = np.zeros(s.shape)
        for k in range(len(self.coefficients) - p, -1, -1):
            total = self.mean(p + k, a) * self.mean(q + k, b) + c / (k + 1) * total
        return total
