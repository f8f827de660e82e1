"""What a run of training is to its reader: predictions, losses and kernels at any of its times."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, real_array
from linkern.solution import Solution, save_npz

__all__ = ["Trajectory", "as_spectrum", "kernel_rows"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trajectory(Solution):
    """Predictions of a deep linear network over time; every linear predictor is C(x, X) signal(t)/gamma0.

    T is the number of times, P that of training points, O of outputs; axes of length O exist only where y has them.

    Attributes
    ----------
    spectrum : Spectrum
        The data.
    depth : int
        L.
    gamma0, weight_decay : float
        Parameters.
    times : (T,) array
        0 and the sums of the steps.
    signal : (T, O, r) array
        gamma0 C^{-1} f(t) in the eigenbasis of C.
    """

    spectrum: Spectrum = field(repr=False)
    depth: int
    gamma0: float
    weight_decay: float
    times: Floats = field(repr=False)
    signal: Floats = field(repr=False)

    @cached_property
    def outputs(self) -> Floats:
        """(T, P) or (T, P, O): f on the training inputs."""
        modes = self.signal * self.spectrum.eigenvalues / self.gamma0
        return self._to_samples(modes)

    @property
    def errors(self) -> Floats:
        """Delta = y - f, shaped like `outputs`."""
        labels = self.spectrum.labels
        return labels.reshape(1, *self.spectrum.label_shape) - self.outputs

    @property
    def losses(self) -> Floats:
        """(T,): 1/2 sum (f - y)^2."""
        return (self.errors.reshape(self.times.size, -1) ** 2).sum(axis=1) / 2

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """Return f at new inputs at all times.

        Parameters
        ----------
        X_new : (m, D) array
            New inputs; needs a run made from inputs.
        kernel_new : (m, P) array
            Rows of the data kernel C(x, X) instead.

        Returns
        -------
        (T, m) or (T, m, O) array
        """
        return self._shaped(self.signal @ self._cross(X_new, kernel_new).T / self.gamma0)

    def test_losses(self, y_new: ArrayLike, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """(T,): 1/2 sum (f - y_new)^2 over new points with labels y_new, (m,) or (m, O); the rest as for `predict`."""
        labels = real_array("y_new", y_new, ndim=(1, 2))
        f = self.predict(X_new, kernel_new=kernel_new)
        if labels.shape != f.shape[1:]:
            raise ValueError(f"y_new: expected shape {f.shape[1:]}, got {labels.shape}")
        return ((f - labels).reshape(self.times.size, -1) ** 2).sum(axis=1) / 2

    def save(self, path: str | Path) -> Path:
        """Write parameters, times, outputs and losses to an .npz file (`linkern.solution.load_npz`)."""
        arrays = {"times": self.times, "outputs": self.outputs, "losses": self.losses, "signal": self.signal}
        return save_npz(path, arrays, {**self.parameters, "residual": self.residual, "status": self.status.name})

    def _index(self, name: str, value: int) -> int:
        """A time index as 0..T-1; negative ones count from the end."""
        index = integer_at_least(name, value, -self.times.size)
        if index >= self.times.size:
            raise ValueError(f"{name}: expected an index into {self.times.size} times, got {value}")
        return index % self.times.size

    def _cross(self, X_new: ArrayLike | None, kernel_new: ArrayLike | None) -> Floats:
        """(m, r): C(x, X) U."""
        return np.asarray(self.spectrum.to_modes(kernel_rows(self.spectrum, X_new, kernel_new).T).T)

    def _to_samples(self, modes: Floats) -> Floats:
        """(T, O, r) in the eigenbasis to (T, P) or (T, P, O)."""
        T, O, r = modes.shape
        samples = self.spectrum.to_samples(modes.reshape(T * O, r).T)
        return self._shaped(np.ascontiguousarray(samples.T).reshape(T, O, -1))

    def _shaped(self, values: Floats) -> Floats:
        """(T, O, m) to (T, m) or (T, m, O)."""
        return values[:, 0] if len(self.spectrum.label_shape) == 1 else values.swapaxes(1, 2)


def as_spectrum(X: ArrayLike | None, y: ArrayLike | None, kernel: ArrayLike | None, spectrum: Spectrum | None) -> Spectrum:
    """Return the decomposed data from whichever form was given."""
    if sum(given is not None for given in (X, kernel, spectrum)) != 1:
        raise ValueError("X, kernel, spectrum: expected exactly one of them")
    if spectrum is not None:
        if not isinstance(spectrum, Spectrum):
            raise TypeError(f"spectrum: expected a Spectrum, got {type(spectrum).__name__}")
        if y is not None:
            raise ValueError("y: the labels are part of the spectrum, do not give them twice")
        return spectrum
    if y is None:
        raise ValueError("y: expected labels, got None")
    if X is not None:
        return Spectrum.from_data(X, y)
    assert kernel is not None
    return Spectrum.from_kernel(kernel, y)


def kernel_rows(spectrum: Spectrum, X_new: ArrayLike | None, kernel_new: ArrayLike | None) -> Floats:
    """Return C(x, X), (m, P), from whichever of new inputs (m, D) and the rows themselves was given."""
    if (X_new is None) == (kernel_new is None):
        raise ValueError("X_new, kernel_new: expected exactly one of them")
    if X_new is None:
        kernel = real_array("kernel_new", np.asarray(kernel_new), ndim=2)
        if kernel.shape[1] != spectrum.samples:
            raise ValueError(f"kernel_new: expected {spectrum.samples} columns, got shape {kernel.shape}")
        return kernel
    rows, X = real_array("X_new", X_new, ndim=2), spectrum.data_matrix
    if rows.shape[1] != X.shape[1]:
        raise ValueError(f"X_new: expected {X.shape[1]} columns, got shape {rows.shape}")
    return np.asarray(rows @ X.T / X.shape[1])
