r"""Weighted averages over the particles of one layer: its kernel, and the dual kernel that it exerts on the layer below.

With g = phi'(h) o (H phi), K the covariance of h and w the weights (two integrations by parts, so that K is never inverted),

    -2 d ln Z / d K = -<rho g g^T> + <phi' phi'^T> o H + diag(D),    D_a = <phi''_a (H phi)_a>.

At kinks phi'' is a delta function; there integration by parts along K e_a gives, for any constant c,

    D_a = < (phi'_a - c) [ rho (h_a + (K g)_a) (H phi)_a - sum_b K_ab H_ab phi'_b ] > / K_aa.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Law, Samples, Tilt

__all__ = ["View", "Weights", "blocks", "gram", "weigh"]

Floats = NDArray[np.float64]

# Products over samples run over blocks of this many rows, in the particles' precision, and are summed in float64.
_BLOCK = 2048


@dataclass(frozen=True)
class Weights:
    """Normalised weights.

    Attributes
    ----------
    w : (S,) array
        Of sum 1.
    log_mean : float
        Logarithm of the mean of the unnormalised weights.
    effective : float
        Effective sample size as a fraction of S.
    """

    w: Floats
    log_mean: float
    effective: float


def weigh(log_weights: Floats, shape: tuple[int, int] = (1, 1), cut: float = math.inf) -> Weights:
    """Normalise weights given by their logarithms, which are cut at a fixed distance above the median.

    With `shape` = (groups, snapshots), snapshots count alike: normalisations of their laws differ and are not known.
    """
    table = log_weights.reshape(*shape, -1)
    if cut < math.inf:
        table = np.minimum(table, np.median(table, axis=(0, 2), keepdims=True) + cut)
    top = table.max(axis=(0, 2), keepdims=True)
    w = np.exp(table - top)
    means = w.mean(axis=(0, 2), keepdims=True)
    w /= means * w.size
    return Weights(w.ravel(), float(np.mean(top + np.log(means))), float(1 / (np.square(w).sum() * w.size)))


def blocks(size: int) -> Iterator[slice]:
    """Slices that cover range(size)."""
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def gram(left: Samples, weights: Floats, right: Samples) -> Floats:
    """sum_s weights_s left_s right_s^T."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for rows in blocks(len(left)):
        total += (left[rows] * weights[rows, None].astype(left.dtype)).T @ right[rows]
    return total


class View:
    """Particles of one layer seen through a root.

    Attributes
    ----------
    eps : (S, r) array
    root : (P, r) array
    phi : (S, P) array
        Features; preactivations are formed again where they are needed, to save memory.
    squared : (S,) array
        |eps|^2.
    reference : (S,) array
        Log-density of the law that the particles follow.
    shape : tuple of int
        Groups and snapshots.
    cut : float
        Distance of log-weights from their median beyond which they are cut.
    excess : (P, P) array or 0
        What averages of phi phi^T are known to have too much.
    """

    def __init__(
        self,
        law: Law,
        eps: Samples,
        squared: Floats,
        reference: Floats,
        root: Samples,
        shape: tuple[int, int] = (1, 1),
        cut: float = math.inf,
        excess: Floats | float = 0.0,
    ) -> None:
        self.law, self.eps, self.squared, self.reference, self.shape, self.cut = law, eps, squared, reference, shape, cut
        self.excess = np.broadcast_to(excess, (len(root), len(root)))
        self.root = root.astype(eps.dtype)
        self.phi = np.empty((len(eps), len(root)), dtype=eps.dtype)
        for rows in blocks(len(eps)):
            self.phi[rows] = law.activation.value(eps[rows] @ self.root.T)

    def weights(self, tilt: Tilt) -> tuple[Weights, Floats]:
        """Weights from the particles' law to that of `tilt`, and rho."""
        return self.weights_of(self.tilt_of(tilt))

    def weights_of(self, quadratic: Floats) -> tuple[Weights, Floats]:
        """Weights and rho given phi^T H phi."""
        change = self.law.log_density(self.squared, quadratic) - self.reference
        return weigh(change, self.shape, self.cut), self.law.rho(self.squared, quadratic)

    def tilt_of(self, tilt: Tilt) -> Floats:
        """phi^T H phi, (S,)."""
        return np.asarray(tilt.quadratic(self.phi), dtype=np.float64)

    def bent(self, rho: Floats) -> NDArray[np.bool_]:
        """Where Q is below twice the edge of its domain or beyond it, so that rho is large."""
        return np.asarray(self.law.homogeneous & (rho * self.squared > self.law.rank / (2 * self.law.edge)))

    def kernel(self, w: Floats, rho: Floats) -> Floats:
        """<phi phi^T>, less what is in excess."""
        return _symmetric(gram(self.phi, w * rho, self.phi)) - self.excess

    def dual(self, base: Floats, tilt: Tilt, w: Floats, rho: Floats) -> Floats:
        """-2 d ln Z/dK of this layer at K = base."""
        P, c = len(base), self.law.offset
        gains, slopes, pulls, D, means = np.zeros((P, P)), np.zeros((P, P)), np.zeros((P, P)), np.zeros(P), np.zeros(P)
        for rows in blocks(len(w)):
            h = self.eps[rows] @ self.root.T
            slope = np.asarray(self.law.activation.derivative(h), dtype=h.dtype)
            Hphi = tilt.apply(self.phi[rows])
            g = slope * Hphi
            weighted = (w[rows] * rho[rows]).astype(h.dtype)[:, None] * Hphi
            gains += (slope * weighted).T @ g
            slopes += (w[rows].astype(h.dtype)[:, None] * slope).T @ slope
            if not self.law.kinked:
                assert self.law.activation.second_derivative is not None
                D += w[rows] @ (self.law.activation.second_derivative(h) * Hphi)
            else:
                jumped = (slope - slope.dtype.type(c)) * weighted
                pulls += jumped.T @ g
                D += np.einsum("sa,sa->a", jumped, h)
                means += w[rows] @ slope
        if self.law.kinked:
            D += (base * (pulls - tilt.matrix * (slopes - c * means))).sum(axis=1)
            scale = np.diag(base)
            D = np.divide(D, scale, out=np.zeros(P), where=scale > 0)
        return _symmetric(slopes * tilt.matrix - gains) + np.diag(D)


def _symmetric(matrix: Floats) -> Floats:
    return (matrix + matrix.T) / 2
