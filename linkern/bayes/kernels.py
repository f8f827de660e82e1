"""Kernels of a deep linear network: a multiple of C plus one rank-one term per output, never stored as P x P."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import real_array

__all__ = ["UpdatedKernel"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UpdatedKernel:
    """The P x P matrix scale C + W diag(core) W^T with W of shape (P, O).

    `np.asarray(kernel)` and `kernel.dense()` build it; everything else costs what products with C and W cost.

    Attributes
    ----------
    scale : float
        Multiple of the data kernel; 0 for dual kernels.
    core : (O,) array
        Weights of the rank-one terms.
    """

    spectrum: Spectrum = field(repr=False)
    scale: float
    core: Floats
    _factor: Callable[[], Floats] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.spectrum.samples, self.spectrum.samples

    @property
    def factor(self) -> Floats:
        """(P, O) array W."""
        return self._factor()

    def dense(self) -> Floats:
        """Build the P x P array, symmetric to the last bit."""
        # Square roots of the weights on both sides make the update symmetric however the product is summed.
        W = self.factor * np.sqrt(np.abs(self.core))
        update = (W * np.sign(self.core)) @ W.T
        if not self.scale:
            return (update + update.T) / 2
        C = self.spectrum.dense()
        C *= self.scale
        C += update
        return (C + C.T) / 2

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("copy: a kernel is built when asked for, so a copy cannot be avoided")
        return self.dense().astype(dtype or np.float64, copy=False)

    def __matmul__(self, u: ArrayLike) -> Floats:
        """Product with a vector (P,) or matrix (P, m), without forming the kernel."""
        u = real_array("u", u, ndim=(1, 2))
        if u.shape[0] != self.spectrum.samples:
            raise ValueError(f"u: expected {self.spectrum.samples} rows, got shape {u.shape}")
        columns = u.reshape(u.shape[0], -1)
        product = self.factor @ (self.core[:, None] * (self.factor.T @ columns))
        if self.scale:
            product = product + self.scale * self.spectrum.apply(columns)
        return product.reshape(u.shape)

    def quadratic(self, u: ArrayLike) -> float:
        """u^T Phi u for a vector u (P,)."""
        u = real_array("u", u, ndim=1)
        return float(u @ (self @ u))

    def trace(self) -> float:
        """Tr Phi."""
        return float(self.scale * self.spectrum.eigenvalues.sum() + self.core @ (self.factor**2).sum(axis=0))

    def frobenius_norm(self) -> float:
        """sqrt(Tr Phi^2), from Tr C^2, W^T C W and W^T W."""
        W, unit = self.factor, 1.0
        if self.scale:
            # Squares of eigenvalues may overflow: work in units of the largest.
            unit = self.scale * float(self.spectrum.eigenvalues.max(initial=0.0)) or 1.0
        gram = (self.core / unit)[:, None] * (W.T @ W)
        square = (gram * gram.T).sum()
        if self.scale:
            ratio = self.scale / unit
            cross = (self.core / unit * (W * self.spectrum.apply(W * ratio)).sum(axis=0)).sum()
            square += ((ratio * self.spectrum.eigenvalues) ** 2).sum() + 2 * cross
        return float(unit * np.sqrt(square))

    def alignment(self, Y: ArrayLike) -> float:
        """Return the kernel-target alignment Tr(Y^T Phi Y) / (|Phi|_F |Y^T Y|_F) for labels (P,) or (P, O); 0 where undefined."""
        Y = real_array("Y", Y, ndim=(1, 2)).reshape(self.shape[0], -1)
        # The scale of Y cancels; without it squares cannot overflow.
        Y = Y / max(float(np.abs(Y).max()), float(np.finfo(float).tiny))
        norm = self.frobenius_norm() * float(np.linalg.norm(Y.T @ Y))
        return float((Y * (self @ Y)).sum()) / norm if norm > 0 else 0.0
