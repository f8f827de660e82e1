"""Processes of one layer as samples: expansion in in-sample innovations, and fresh noise orthogonal to everything earlier.

A process x(t) with S samples of P values is written x(t) = e B_t^T, the columns of e (S x r) being orthonormal in the sample
mean, each added when x(t) leaves the span of its past. Then <x(t) x(s)^T> = B_t B_s^T, a Gaussian process with this covariance
is eps B_t^T with fresh eps, and integrals against the covariance are recursions of r columns: no (T P) x (T P) matrix occurs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Expansion", "SampleBasis"]

Floats = NDArray[np.float64]

# Fresh noise is made orthogonal to the past only while that leaves it enough directions.
FULL = 0.9


class SampleBasis:
    """An orthonormal basis of the sample space of one layer, grown by everything that later noise must not know.

    Attributes
    ----------
    size : int
        Number of basis vectors.
    exhausted : bool
        Whether noise had to be drawn without regard to the past because too few directions were left.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._vectors = np.empty((samples, 64))
        self.size = 0
        self.exhausted = False
        self.add(np.ones((samples, 1)))

    def add(self, columns: Floats) -> Floats:
        """Extend the span by `columns` (S, n); return their orthonormalised new parts (norm 1), at most n."""
        if not columns.shape[1] or self.size >= self.samples:
            return np.empty((self.samples, 0))
        new = self._project(self._project(columns))
        size = np.linalg.norm(columns, axis=0)
        new = new[:, np.linalg.norm(new, axis=0) > 1e-7 * size]
        if new.shape[1]:
            new = np.linalg.qr(new)[0][:, : self.samples - self.size]
            # A second pass: columns that were nearly dependent lose orthogonality to the old ones.
            new = np.linalg.qr(self._project(new))[0]
            self._append(new)
        return new

    def fresh(self, rng: np.random.Generator, count: int) -> Floats:
        """Return `count` columns of noise, (S, count): mean 0, covariance 1, uncorrelated with the past, in the sample."""
        noise = rng.standard_normal((self.samples, count))
        if self.size + count > FULL * self.samples:
            self.exhausted = True
            return noise
        # Gaussian columns, orthonormalised, are a frame of random orientation: whitened noise.
        return self.add(noise) * np.sqrt(self.samples)

    def _project(self, columns: Floats) -> Floats:
        basis = self._vectors[:, : self.size]
        return np.asarray(columns - basis @ (basis.T @ columns))

    def _append(self, new: Floats) -> None:
        needed = self.size + new.shape[1]
        if needed > self._vectors.shape[1]:
            grown = np.empty((self.samples, 2 * needed))
            grown[:, : self.size] = self._vectors[:, : self.size]
            self._vectors = grown
        self._vectors[:, self.size : needed] = new
        self.size = needed


class Expansion:
    """x(t) = e B_t^T, built up in time.

    Attributes
    ----------
    innovations : (S, r) array
        e, orthonormal in the sample mean.
    coefficients : (P, r) array
        B_t of the last time pushed.
    saturated : bool
        Whether innovations had to be dropped because r had reached its capacity.
    """

    def __init__(self, samples: int, tolerance: float, capacity: int) -> None:
        self.innovations = np.empty((samples, 0))
        self.coefficients = np.empty((0, 0))
        self.saturated = False
        self._tolerance, self._capacity = tolerance, capacity

    @property
    def rank(self) -> int:
        """r."""
        return self.innovations.shape[1]

    def push(self, x: Floats) -> Floats:
        """Expand x (S, P) and return the innovations that it added, (S, new)."""
        samples = x.shape[0]
        e = self.innovations
        B = x.T @ e / samples
        rest = x - e @ B.T
        correction = rest.T @ e / samples
        B += correction
        rest -= e @ correction.T
        power, modes = np.linalg.eigh(rest.T @ rest / samples)
        scale = float(np.einsum("sp,sp->", x, x)) / x.size
        kept = power > self._tolerance * scale
        if e.shape[1] + np.count_nonzero(kept) > self._capacity:
            kept[:] = False
            self.saturated = True
        new = rest @ (modes[:, kept] / np.sqrt(power[kept]))
        self.innovations = np.hstack([e, new])
        self.coefficients = np.hstack([B, modes[:, kept] * np.sqrt(power[kept])])
        return new
