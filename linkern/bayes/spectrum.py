"""Everything a linear network knows of its data: the kernel's eigenvalues and the labels in its eigenbasis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from linkern.checks import kernel_matrix, real_array

__all__ = ["Spectrum"]

Floats = NDArray[np.float64]
# Squares of entries inside these bounds neither overflow nor underflow in sums over any array that fits in memory.
SMALL, LARGE = 1e-100, 1e100


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Eigenvalues of the data kernel C (P x P) and the labels' coefficients; computed once, used for any parameters.

    Make one with `from_data`, `from_kernel` or `from_modes`. Arrays given to them are referenced, not copied: leave
    them unchanged while the Spectrum is in use.

    Attributes
    ----------
    eigenvalues : (r,) array
        The positive eigenvalues of C = X X^T / D, ascending; those below rounding are left out.
    coefficients : (r, O) array
        b = U^T y, one column per output.
    residual : (O,) array
        Norms of the labels' parts outside the range of C.
    samples : int
        P. From explicit modes, "sample space" is the eigenbasis itself (plus one axis per nonzero residual).
    label_shape : tuple
        Shape of y as it was given.
    source : str
        "data", "kernel" or "modes".
    """

    eigenvalues: Floats
    coefficients: Floats
    residual: Floats
    samples: int
    label_shape: tuple[int, ...]
    source: str
    _maps: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_data(cls, X: ArrayLike, y: ArrayLike) -> Spectrum:
        """Decompose C = X X^T / D.

        Parameters
        ----------
        X : (P, D) array
            Inputs, one per row. Not centred, not scaled.
        y : (P,) or (P, O) array
            Labels.

        Notes
        -----
        One eigendecomposition of the smaller of P x P and D x D: time O(P D min(P, D)), memory beyond X that of the
        decomposed matrix. X is copied only if its largest entry lies outside [1e-100, 1e100].

        Raises
        ------
        ValueError
            For wrong shapes, values that are not finite, or entries so large or small that C is no float64 matrix.
        """
        X = real_array("X", X, ndim=2)
        y, labels = _labels(y, X.shape[0])
        P, D = X.shape
        scaled, exponent = _scaled(X)
        if P <= D:
            values, vectors = _eigh(scaled @ scaled.T / D)
        else:
            values, vectors = _eigh(scaled.T @ scaled / D)
        keep = values > np.finfo(float).eps * max(P, D) * max(values[-1], 0.0)
        values, vectors = values[keep], vectors[:, keep]
        eigenvalues = _unscaled("X", values, 2 * exponent)
        if P <= D:
            maps: dict[str, Any] = {"left": vectors}
        else:
            # U = X V (D s)^{-1/2} is never formed: it would be as large as the data.
            maps = {"right": np.ldexp(vectors / np.sqrt(D * values), -exponent)}
        return cls._project(eigenvalues, labels, y.shape, "data", {"data": X, **maps})

    @classmethod
    def from_kernel(cls, C: ArrayLike, y: ArrayLike) -> Spectrum:
        """Decompose a symmetric positive semi-definite P x P kernel; O(P^3) time, two more P x P arrays.

        Raises
        ------
        ValueError
            If C is not symmetric, or has an eigenvalue that is negative beyond rounding (the message states it).
        """
        C = kernel_matrix("kernel", C)
        y, labels = _labels(y, C.shape[0])
        scaled, exponent = _scaled(C)
        values, vectors = _eigh(np.array(scaled))
        threshold = np.finfo(float).eps * C.shape[0] * max(abs(values[0]), abs(values[-1]))
        if values[0] < -10 * threshold:
            raise ValueError(
                f"kernel: expected a positive semi-definite matrix, got smallest eigenvalue "
                f"{math.ldexp(values[0], exponent):.6g} (largest {math.ldexp(values[-1], exponent):.6g})"
            )
        keep = values > threshold
        eigenvalues = _unscaled("kernel", values[keep], exponent)
        maps = {"kernel": C, "left": vectors[:, keep]}
        return cls._project(eigenvalues, labels, y.shape, "kernel", maps)

    @classmethod
    def from_modes(cls, eigenvalues: ArrayLike, coefficients: ArrayLike, residual: ArrayLike = 0.0) -> Spectrum:
        """Take the eigenvalues and coefficients as they are; no threshold, any number of decades.

        Parameters
        ----------
        eigenvalues : (r,) array
            Numbers > 0 (zeros are allowed; their coefficients count as outside the range).
        coefficients : (r,) or (r, O) array
            b = U^T y.
        residual : float or (O,) array
            Norm of each output's labels outside the range, in directions that no other output shares.
        """
        lam = real_array("eigenvalues", eigenvalues, ndim=1)
        if (lam < 0).any():
            raise ValueError(f"eigenvalues: expected numbers >= 0, got {float(lam.min())!r}")
        b = real_array("coefficients", coefficients, ndim=(1, 2))
        if b.shape[0] != lam.size:
            raise ValueError(f"coefficients: expected one row per eigenvalue ({lam.size}), got shape {b.shape}")
        columns = b.reshape(lam.size, -1)
        outside = real_array("residual", residual, ndim=(0, 1))
        if outside.ndim == 1 and outside.size != columns.shape[1]:
            raise ValueError(f"residual: expected one number per output ({columns.shape[1]}), got {outside.size}")
        if (outside < 0).any():
            raise ValueError(f"residual: expected numbers >= 0, got {float(outside.min())!r}")
        if outside.ndim == 0 and outside > 0 and columns.shape[1] > 1:
            raise ValueError("residual: expected one number per output, got a single number for several outputs")
        tail = np.diag(np.broadcast_to(outside, columns.shape[1]))
        extra = tail[tail.any(axis=1)]
        labels = np.concatenate([columns, extra])
        beyond = np.concatenate([np.where(lam[:, None] == 0, columns, 0.0), extra])
        order = np.argsort(lam, kind="stable")
        kept = order[lam[order] > 0]
        return cls(
            eigenvalues=lam[kept],
            coefficients=columns[kept],
            residual=np.hypot(tail.diagonal(), _norms(columns[lam == 0])),
            samples=labels.shape[0],
            label_shape=(labels.shape[0], *b.shape[1:]),
            source="modes",
            _maps={"labels": labels, "outside": beyond, "positions": kept},
        )

    @classmethod
    def _project(cls, eigenvalues: Floats, labels: Floats, shape: tuple[int, ...], source: str, maps: dict[str, Any]) -> Spectrum:
        draft = cls(
            eigenvalues=eigenvalues,
            coefficients=np.zeros((eigenvalues.size, labels.shape[1])),
            residual=np.zeros(labels.shape[1]),
            samples=labels.shape[0],
            label_shape=shape,
            source=source,
            _maps={**maps, "labels": labels},
        )
        # Columns X V (D s)^{-1/2} are orthonormal only up to eps sqrt(s_max / s_min); a second pass makes the
        # coefficients those of the least-squares fit and the rest orthogonal to the data to full precision.
        b = draft.to_modes(labels)
        b += draft.to_modes(labels - draft.to_samples(b))
        outside = labels - draft.to_samples(b)
        size = _norms(outside)
        unresolved = size <= 8 * np.finfo(float).eps * math.sqrt(labels.shape[0]) * _norms(labels)
        if eigenvalues.size == labels.shape[0]:
            unresolved[:] = True
        # Rounding must not pass for labels that the network cannot fit: they would be divided by T.
        outside[:, unresolved] = 0.0
        return replace(draft, coefficients=b, residual=np.where(unresolved, 0.0, size), _maps={**draft._maps, "outside": outside})

    @property
    def labels(self) -> Floats:
        """(P, O) array: the labels, one column per output."""
        labels: Floats = self._maps["labels"]
        return labels

    @property
    def labels_outside(self) -> Floats:
        """(P, O) array: the labels minus their projection on the range of C; exactly 0 where that is rounding."""
        outside: Floats = self._maps["outside"]
        return outside

    def to_modes(self, u: Floats) -> Floats:
        """Return U^T u for u of shape (P, m): O(P r m), or O(P D m) for tall data."""
        if "positions" in self._maps:
            modes: Floats = u[self._maps["positions"]]
            return modes
        if "left" in self._maps:
            return np.asarray(self._maps["left"].T @ u)
        return np.asarray(self._maps["right"].T @ (self._maps["data"].T @ u))

    def to_samples(self, modes: Floats) -> Floats:
        """Return U m for m of shape (r, m)."""
        if "positions" in self._maps:
            u = np.zeros((self.samples, modes.shape[1]))
            u[self._maps["positions"]] = modes
            return u
        if "left" in self._maps:
            return np.asarray(self._maps["left"] @ modes)
        return np.asarray(self._maps["data"] @ (self._maps["right"] @ modes))

    def to_inputs(self, modes: Floats) -> Floats:
        """Return X^T U m / D for m of shape (r, m): weights theta of the linear functions x . theta."""
        X = self.data_matrix
        if "left" in self._maps:
            return np.asarray(X.T @ (self._maps["left"] @ modes)) / X.shape[1]
        # X^T X V = V D lam, which needs no pass over the data.
        return np.asarray(self._maps["right"] @ (self.eigenvalues[:, None] * modes))

    def apply(self, u: Floats) -> Floats:
        """Return C u for u of shape (P, m) without forming C, unless C was given."""
        if "kernel" in self._maps:
            return np.asarray(self._maps["kernel"] @ u)
        return self.to_samples(self.eigenvalues[:, None] * self.to_modes(u))

    def dense(self) -> Floats:
        """Return C as a new P x P array."""
        if "kernel" in self._maps:
            return np.array(self._maps["kernel"])
        if "data" in self._maps:
            X = self._maps["data"]
            return np.asarray((X / X.shape[1]) @ X.T)
        C = np.zeros(self.samples)
        C[self._maps["positions"]] = self.eigenvalues
        return np.diag(C)

    @property
    def data_matrix(self) -> Floats:
        """The inputs X; only a Spectrum made by `from_data` has them."""
        if "data" not in self._maps:
            raise ValueError(f"X_new: the training inputs are unknown (spectrum from {self.source}); give kernel_new")
        X: Floats = self._maps["data"]
        return X


def _labels(y: ArrayLike, samples: int) -> tuple[Floats, Floats]:
    y = real_array("y", y, ndim=(1, 2))
    if y.shape[0] != samples:
        raise ValueError(f"y: expected {samples} labels (one per sample), got shape {y.shape}")
    return y, y.reshape(samples, -1)


def _scaled(A: Floats) -> tuple[Floats, int]:
    """Return (A / 2^e, e) with e = 0, and A itself, unless its largest entry calls for more."""
    largest = max(float(A.max()), -float(A.min()))
    if largest == 0 or SMALL <= largest <= LARGE:
        return A, 0
    exponent = math.frexp(largest)[1]
    return np.ldexp(A, -exponent), exponent


def _unscaled(name: str, values: Floats, exponent: int) -> Floats:
    if exponent and values.size and not -960 < math.frexp(values[-1])[1] + exponent < 990:
        raise ValueError(f"{name}: the kernel's entries leave the range of float64; rescale {name}")
    return np.ldexp(values, exponent)


def _eigh(matrix: Floats) -> tuple[Floats, Floats]:
    # Divide and conquer is the fastest LAPACK driver when all eigenvectors are wanted.
    values, vectors = scipy.linalg.eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    return values, vectors


def _norms(columns: Floats) -> Floats:
    """Column norms that do not overflow for entries up to the largest float."""
    scale = np.abs(columns).max(axis=0, initial=0.0)
    safe = np.where(scale > 0, scale, 1.0)
    return np.asarray(scale * np.sqrt(((columns / safe) ** 2).sum(axis=0)))
