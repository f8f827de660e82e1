"""Kernels and predictions at finite width in low-rank algebra: K between points, a few rows, and a diagonal.

Points enter through their modes U^T k(X, x) and through what of K(x, x') the training inputs do not span.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width.average import LayerWeights
from linkern.checks import real_array

__all__ = ["FiniteWidthKernel", "NewPoints"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NewPoints:
    """Points seen from the training data.

    Attributes
    ----------
    modes : (r, m) array
        U^T K(X, x).
    remainder : (m, m) or (m,) array or None
        K(x, x') minus its projection on the training inputs: the matrix, its diagonal, or unknown.
    """

    modes: Floats
    remainder: Floats | None

    @classmethod
    def from_inputs(cls, spectrum: Spectrum, X_new: ArrayLike) -> NewPoints:
        """Project new inputs (m, D) on the training inputs; the remainder does not suffer from cancellation."""
        X = spectrum.data_matrix
        rows = real_array("X_new", X_new, ndim=2)
        if rows.shape[1] != X.shape[1]:
            raise ValueError(f"X_new: expected {X.shape[1]} columns, got shape {rows.shape}")
        modes = spectrum.to_modes(X @ (rows.T / X.shape[1]))
        rest = rows - X.shape[1] * spectrum.to_inputs(modes / spectrum.eigenvalues[:, None]).T
        return cls(modes, rest @ rest.T / X.shape[1])

    @classmethod
    def from_kernel(cls, spectrum: Spectrum, kernel_new: ArrayLike, kernel_new_new: ArrayLike | None) -> NewPoints:
        """Use rows K(x, X), (m, P), and K(x, x'), (m, m), or its diagonal (m,)."""
        rows = real_array("kernel_new", kernel_new, ndim=2)
        if rows.shape[1] != spectrum.samples:
            raise ValueError(f"kernel_new: expected {spectrum.samples} columns, got shape {rows.shape}")
        modes = spectrum.to_modes(rows.T)
        if kernel_new_new is None:
            return cls(modes, None)
        own = real_array("kernel_new_new", kernel_new_new, ndim=(1, 2))
        count = rows.shape[0]
        if own.shape not in ((count,), (count, count)):
            raise ValueError(f"kernel_new_new: expected shape ({count}, {count}) or ({count},), got {own.shape}")
        scaled = modes / np.sqrt(spectrum.eigenvalues)[:, None]
        explained = (scaled**2).sum(axis=0) if own.ndim == 1 else scaled.T @ scaled
        return cls(modes, own - explained)

    @property
    def remainder_diagonal(self) -> Floats:
        """(m,) array: K(x, x) minus its projection."""
        rest = self._known()
        return np.maximum(np.diagonal(rest) if rest.ndim == 2 else rest, 0.0)

    @property
    def remainder_matrix(self) -> Floats:
        """(m, m) array."""
        rest = self._known()
        if rest.ndim != 2:
            raise ValueError("kernel_new_new: expected the (m, m) matrix for covariances, got its diagonal only")
        return rest

    def _known(self) -> Floats:
        if self.remainder is None:
            raise ValueError("kernel_new_new: expected K(x, x') of the new points, got None")
        return self.remainder


@dataclass(frozen=True)
class FiniteWidthKernel:
    """Phi^l = G_l { alpha K + K U [diag(b) B^T core B diag(b) - diag(shrinkage)] U^T K }, never stored as P x P.

    `np.asarray(kernel)` and `kernel.dense()` build it.

    Attributes
    ----------
    lazy_scale : float
        G_l = g_1 ... g_l.
    weights : LayerWeights
        alpha, core and shrinkage.
    rows : (m, r) array
        diag(b) applied to the rows B of 1/A.
    """

    spectrum: Spectrum = field(repr=False)
    lazy_scale: float
    weights: LayerWeights = field(repr=False)
    rows: Floats = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.spectrum.samples, self.spectrum.samples

    def update(self, left: Floats, right: Floats) -> Floats:
        """left^T [B^T core B - diag(shrinkage)] right for modes left (r, i) and right (r, j)."""
        return np.asarray(left.T @ self.image(right))

    def image(self, columns: Floats) -> Floats:
        """[B^T core B - diag(shrinkage)] columns for modes (r, m)."""
        core = self.weights.core
        product = self.rows @ columns
        product = core[:, None] * product if core.ndim == 1 else core @ product
        return np.asarray(self.rows.T @ product - self.weights.shrinkage[:, None] * columns)

    def between(self, left: NewPoints | None = None, right: NewPoints | None = None) -> Floats:
        """Phi^l between two sets of points; None is the training set.

        Between new points the two sets must be the same (then it is the (m, m) block).
        """
        if left is not None and right is not None:
            lam = self.spectrum.eigenvalues
            if left is not right:
                raise ValueError("right: expected the same points as left, got others")
            base = (left.modes / lam[:, None]).T @ left.modes + left.remainder_matrix
            block = self.lazy_scale * (self.weights.scale * base + self.update(left.modes, left.modes))
            return np.asarray((block + block.T) / 2)
        if left is not None:
            return self._beside_training(left).T
        return self._beside_training(right) if right is not None else self.dense()

    def _beside_training(self, new: NewPoints) -> Floats:
        """Phi^l between training (P) and new points (m)."""
        modes = self.weights.scale * new.modes + self.spectrum.eigenvalues[:, None] * self.image(new.modes)
        return self.lazy_scale * self.spectrum.to_samples(modes)

    def dense(self) -> Floats:
        """Build the P x P array: O(P^2 (r + m))."""
        lam = self.spectrum.eigenvalues
        modes = lam[:, None] * self.image(np.diag(lam))
        half = self.spectrum.to_samples(self.spectrum.to_samples(modes).T)
        total = self.lazy_scale * (self.weights.scale * self.spectrum.dense() + half)
        return np.asarray((total + total.T) / 2)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("copy: a kernel is built when asked for, so a copy cannot be avoided")
        return self.dense().astype(dtype or np.float64, copy=False)

    def __matmul__(self, u: ArrayLike) -> Floats:
        """Product with a vector (P,) or matrix (P, m), without forming the kernel."""
        u = real_array("u", u, ndim=(1, 2))
        if u.shape[0] != self.spectrum.samples:
            raise ValueError(f"u: expected {self.spectrum.samples} rows, got shape {u.shape}")
        modes = self.spectrum.eigenvalues[:, None] * self.spectrum.to_modes(u.reshape(u.shape[0], -1))
        modes = self.weights.scale * modes + self.spectrum.eigenvalues[:, None] * self.image(modes)
        return self.lazy_scale * self.spectrum.to_samples(modes).reshape(u.shape)

    def quadratic(self, u: ArrayLike) -> float:
        """u^T Phi u for a vector u (P,)."""
        u = real_array("u", u, ndim=1)
        return float(u @ (self @ u))

    def trace(self) -> float:
        """Tr Phi."""
        lam, core = self.spectrum.eigenvalues, self.weights.core
        scaled = self.rows * lam
        grown = (core * (scaled**2).sum(axis=1)).sum() if core.ndim == 1 else (core * (scaled @ scaled.T)).sum()
        return float(self.lazy_scale * (self.weights.scale * lam.sum() + grown - self.weights.shrinkage @ lam**2))
