"""What is kept of a chain: full traces of a few scalars, and means of everything else in at most 32 consecutive batches.

Batch means carry a large observable's standard error (they are a short series of their own) at a memory that does not
grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from linkern.networks.blocks import squared_norms
from linkern.networks.target import Posterior

__all__ = ["BatchMeans", "Recorder"]

Array = NDArray[np.float64]

_BATCHES = 32


class BatchMeans:
    """Running means of a (chains, ...) observable over consecutive batches of a run of known length."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._batches = min(_BATCHES, samples)
        self._counts = np.zeros(self._batches)
        self._sums: Array = np.empty(0)

    def add(self, index: int, value: Array) -> bool:
        """Add sample number `index` (0-based); return whether it is the first of its batch."""
        if not self._sums.size:
            self._sums = np.zeros((value.shape[0], self._batches, *value.shape[1:]))
        batch = index * self._batches // self._samples
        self._counts[batch] += 1
        self._sums[:, batch] += value
        return bool(self._counts[batch] == 1)

    @property
    def mean(self) -> Array:
        """Mean over chains and all samples."""
        return self._sums.sum(axis=(0, 1)) / (self._counts.sum() * self._sums.shape[0])

    @property
    def series(self) -> Array:
        """Batch means: (chains, batches, ...)."""
        return self._sums / self._counts.reshape(-1, *(1,) * (self._sums.ndim - 2))


class Recorder:
    """Observables of one run.

    Attributes
    ----------
    overlaps : array (chains, samples, L)
        y^T Phi^l y / |y|^2.
    energies : array (chains, samples)
        (beta gamma0^2 N/2) sum (f - y)^2.
    virial : array (chains, samples, L + 1)
        (|W^l|^2 + W^l . dV/dW^l) / (number of entries of W^l) - 1: zero on average, exactly, at every width.
    stiffness : float
        Largest seen, looked at once per batch.
    kernels, outputs, squares : BatchMeans
        Phi^l (L, P, P); f and f^2 at training and then test inputs.
    """

    def __init__(self, target: Posterior, chains: int, samples: int, X_test: Array | None) -> None:
        depth = target.mlp.depth
        self._target = target
        self._X_test = X_test
        self._direction = target.y / np.linalg.norm(target.y)
        self.overlaps = np.empty((chains, samples, depth))
        self.energies = np.empty((chains, samples))
        self.virial = np.empty((chains, samples, depth + 1))
        self.stiffness = 0.0
        self.kernels = BatchMeans(samples)
        self.outputs = BatchMeans(samples)
        self.squares = BatchMeans(samples)

    def record(self, index: int, weights: Sequence[NDArray[np.floating]]) -> None:
        """Measure the networks `weights` as sample number `index`."""
        target = self._target
        passed = target.forward(weights)
        kernels = target.mlp.kernels(passed)
        self.overlaps[:, index] = np.einsum("p,clpq,q->cl", self._direction, kernels, self._direction)
        self.energies[:, index] = target.potential(passed)
        sizes = np.array([rows * columns for rows, columns in target.mlp.shapes])
        self.virial[:, index] = (squared_norms(weights) + target.virial(weights, passed)) / sizes - 1.0
        if self.kernels.add(index, kernels):
            # A backward pass and P x P eigenvalues: too dear for every sample when P is large.
            self.stiffness = max(self.stiffness, target.stiffness(weights, passed))
        outputs = passed.output.astype(np.float64)
        if self._X_test is not None:
            outputs = np.concatenate([outputs, target.mlp.forward(weights, self._X_test).output], axis=1)
        self.outputs.add(index, outputs)
        self.squares.add(index, np.square(outputs))
