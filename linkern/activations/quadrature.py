r"""Averages without closed form: Mehler's series in the correlation, its coefficients by one-dimensional quadrature.

With A_k(a) = E[f(sqrt(a) z) He_k(z)]/sqrt(k!) and r = c/sqrt(a b),

    E[f(u) g(v)] = sum_k A_k(a) B_k(b) r^k,      |rest after K terms| <= |r|^K (sum_{k>=K} A_k^2 sum_{k>=K} B_k^2)^(1/2),

and the tails are E[f^2] minus what the computed coefficients hold: a bound, not a guess. Because both tails enter, K is
where each has 8 digits. Cost: P coefficient vectors, then K multiplications per pair; no two-dimensional grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.activations.activation import Elementwise
from linkern.activations.covariance import root_determinant

__all__ = ["HermiteSeries"]

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# exp(-z^2/4) at the last node; functions up to exponential growth fit below it.
_REACH = 16.0
# Number of terms and nodes per unit, raised together until the coefficients are resolved.
_LEVELS = ((64, 16), (256, 32), (1024, 64))
_TAIL, _QUADRATURE = 1e-8, 1e-13
# Share of the root mean square that may lie beyond the last node. More is refused: the average may well be infinite.
_MISSED = 1e-2


@lru_cache(maxsize=8)
def _basis(terms: int, nodes_per_unit: int) -> tuple[Array, Array, Array]:
    """Nodes z, square roots of the Gaussian density there, and He_k(z)/sqrt(k!) times that root times the step."""
    z = np.arange(-_REACH * nodes_per_unit, _REACH * nodes_per_unit + 1) / nodes_per_unit
    root = np.exp(-(z**2) / 4) / (2 * np.pi) ** 0.25
    table = np.empty((terms, z.size))
    table[0], table[1] = root, z * root
    for k in range(1, terms - 1):
        table[k + 1] = (z * table[k] - np.sqrt(k) * table[k - 1]) / np.sqrt(k + 1)
    return z, root, table / nodes_per_unit


@dataclass(frozen=True)
class _Coefficients:
    """A_k for each distinct variance: (K, U); squared norm of the tail and of everything; error of the quadrature: (U,).

    `missed` is the norm of what lies beyond the last node: (U,).
    """

    values: Array
    tail: Array
    norm: Array
    error: Array
    missed: Array


@dataclass(frozen=True)
class HermiteSeries:
    """Averages of a smooth activation by Mehler's series.

    Attributes
    ----------
    name : str
        For messages.
    functions : tuple of callable
        phi, phi', phi'', ...; orders above the last one come from integration by parts, which costs digits where the
        variance is small and is refused at zero variance.

    Notes
    -----
    Kinks make the series converge slowly; `error` then says so.
    """

    name: str
    functions: tuple[Elementwise, ...]
    method: ClassVar[str] = "quadrature"

    def __call__(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return E[phi^(p)(u) phi^(q)(v)] for (u, v) ~ N(0, [[a, c], [c, b]])."""
        return self._sum(p, q, a, b, c)[0]

    def error(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return an absolute error estimate: the bound on the tail, the change on halving the quadrature's step, its reach."""
        return self._sum(p, q, a, b, c)[1]

    def _sum(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[Array, Array]:
        s, covariance = root_determinant(a, b, c)
        left, of_a = self._of(p, a)
        right, of_b = self._of(q, b)
        scale = np.sqrt(np.asarray(a, dtype=np.float64)) * np.sqrt(np.asarray(b, dtype=np.float64))
        r = np.clip(np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), 0.0), -1.0, 1.0)
        K = min(len(left.values), len(right.values))
        total = np.zeros(s.shape)
        for k in range(K - 1, -1, -1):
            total = total * r + left.values[k][of_a] * right.values[k][of_b]
        tail = np.abs(r) ** K * np.sqrt(left.tail[of_a] * right.tail[of_b])
        sizes = np.sqrt(left.norm[of_a]), np.sqrt(right.norm[of_b])
        errors = (left.error + left.missed)[of_a], (right.error + right.missed)[of_b]
        rule = errors[0] * sizes[1] + sizes[0] * errors[1] + 4 * _EPS * sizes[0] * sizes[1]
        return total, np.broadcast_to(tail + rule, s.shape).copy()

    def _of(self, order: int, variance: ArrayLike) -> tuple[_Coefficients, NDArray[np.intp]]:
        distinct, inverse = np.unique(np.asarray(variance, dtype=np.float64), return_inverse=True)
        return self._coefficients(order, distinct), inverse.reshape(np.shape(variance))

    def _coefficients(self, order: int, variances: Array) -> _Coefficients:
        if order >= len(self.functions):
            return self._by_parts(order, variances)
        for terms, density in _LEVELS:
            found = self._at_level(order, variances, terms, density)
            resolved = (found.tail <= _TAIL**2 * found.norm) & (found.error <= _QUADRATURE * np.sqrt(found.norm))
            if resolved.all():
                break
        return found

    def _at_level(self, order: int, variances: Array, terms: int, density: int) -> _Coefficients:
        z, root, table = _basis(terms, density)
        # Overflow is reported below, with the reason.
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(self.functions[order](np.sqrt(variances) * z[:, None]), dtype=np.float64) * root[:, None]
        if not (np.abs(values) < 1e100).all():
            raise ValueError(
                f"activation: expected {self.name!r} to stay within 1e100 exp(z^2/4) over {_REACH:g} standard deviations z of "
                f"N(0, {variances.max():.3g}), got overflow or a not-a-number"
            )
        norm = np.einsum("zu,zu->u", values, values) / density
        missed = np.sqrt(_beyond(values, density, norm))
        bad = ~(missed <= _MISSED * np.sqrt(norm))
        if bad.any():
            raise ValueError(
                f"activation: expected the square of {self._named(order)} to have an average that {_REACH:g} standard deviations "
                f"of N(0, {variances[bad].min():.3g}) hold, got one that is infinite, nearly so, or further out"
            )
        coefficients = table @ values
        coarse = 2 * table[:, ::2] @ values[::2]
        held = np.einsum("ku,ku->u", coefficients, coefficients)
        tail = np.maximum(norm - held, 0.0) + _EPS * norm
        return _Coefficients(coefficients, tail, norm, np.sqrt(((coefficients - coarse) ** 2).sum(axis=0)), missed)

    def _named(self, order: int) -> str:
        return f"derivative {order} of {self.name!r}" if order else repr(self.name)

    def _by_parts(self, order: int, variances: Array) -> _Coefficients:
        """A_k of f' is sqrt((k + 1)/a) A_{k+1} of f."""
        if not (variances > 0).all():
            raise ValueError(f"activation: expected a formula for derivative {order} of {self.name!r} at zero variance, got none")
        below = self._coefficients(order - 1, variances)
        k = np.arange(1, len(below.values))
        factor = np.sqrt(k)[:, None] / np.sqrt(variances)
        values = below.values[1:] * factor
        squares = values**2
        # The norm of f' is not known: its tail is taken from the last eighth of the coefficients.
        tail = squares[-(len(k) // 8) :].sum(axis=0) + _EPS * below.norm / variances
        error = (below.error + _EPS * np.sqrt(below.norm)) * factor[-1]
        return _Coefficients(values, tail, squares.sum(axis=0), error, below.missed * factor[-1])


def _beyond(values: Array, density: int, norm: Array) -> Array:
    """Squared norm beyond the nodes: that of the last unit at either end, continued by its ratio to the one before.

    The continuation bounds integrands that fall faster and faster, such as exp(-k z^2) and exp(k z - z^2/2), and is infinite
    for those that do not fall at all.
    """
    total = np.zeros(norm.shape)
    for end in (values, values[::-1]):
        last, before = (np.einsum("zu,zu->u", part, part) / density for part in (end[:density], end[density : 2 * density]))
        with np.errstate(divide="ignore", invalid="ignore"):
            continued = np.where(last < before, last / (before / last - 1), np.inf)
        total += np.where(last <= _EPS * norm, last, continued)
    return total
