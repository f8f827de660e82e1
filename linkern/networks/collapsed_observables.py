"""What is kept of a collapsed chain; the readout and the new inputs' preactivations are added sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.networks.collapsed_target import CollapsedPass, CollapsedPosterior, Root
from linkern.networks.observables import BatchMeans

__all__ = ["Predictor", "Recorder"]

Array = NDArray[Any]


class Predictor:
    r"""f at new inputs: their preactivations are Gaussian given those of the training inputs, one neuron at a time.

        h_* = h Phi^+ Phi_* + xi (Phi_** - Phi_*^T Phi^+ Phi_*)^{1/2},   xi ~ N(0, 1)

    New inputs are drawn independently of each other given the training inputs, which leaves mean and variance of every
    f_* what they are and costs O(N P m) per layer instead of O(N m^2).
    """

    def __init__(self, target: CollapsedPosterior, data_root: Root, X: Array, X_test: Array, rng: np.random.Generator) -> None:
        self._target, self._rng = target, rng
        self._coefficients = data_root.whiten(X @ X_test.T / X.shape[1])
        self._norms = np.square(X_test).sum(axis=1) / X.shape[1]

    def __call__(self, state: Sequence[Array], passed: CollapsedPass) -> tuple[Array, Array]:
        """Mean (chains, m, O) and variance (chains, m) of f_* given every preactivation."""
        target = self._target
        coefficients, norms = self._coefficients[None], self._norms[None]
        for l, eps in enumerate(state):
            residual = np.sqrt(np.maximum(norms - np.square(coefficients).sum(axis=1), 0.0))[:, None, :]
            noise = self._rng.standard_normal((*eps.shape[:2], norms.shape[1]))
            h = np.sqrt(target.prior_variances[l]) * (eps @ coefficients + residual * noise)
            phi = target.activation.value(h)
            cross = passed.features[l].swapaxes(1, 2) @ phi / target.widths[l]
            norms = np.square(phi).mean(axis=1)
            if l + 1 < len(state):
                coefficients = passed.decompositions[l].whiten(cross)
        readout = target.prior_variances[-1]
        explained = readout * (cross * (passed.precision @ cross)).sum(axis=1)
        mean = readout * cross.swapaxes(1, 2) @ passed.dual_coefficients
        return mean, readout * (norms - explained) / target.scale


class Recorder:
    """Observables of one run.

    Attributes
    ----------
    overlaps, alignments : arrays (chains, samples, L)
    energies : array (chains, samples)
    virial : array (chains, samples, L)
        (|eps^l|^2 + eps^l . dV/deps^l) / (number of entries) - 1.
    kernels : BatchMeans of (L, P, P)
    outputs, squares, variances : BatchMeans of (P + m, O)
        Mean of f given the preactivations, its square, and the variance of f given them.
    """

    def __init__(self, target: CollapsedPosterior, predictor: Predictor | None, chains: int, samples: int) -> None:
        depth = len(target.widths)
        self._target, self._predictor = target, predictor
        self._direction = target.Y / np.linalg.norm(target.Y)
        self._label_norm = np.linalg.norm(self._direction.T @ self._direction)
        self.overlaps = np.empty((chains, samples, depth))
        self.alignments = np.empty((chains, samples, depth))
        self.energies = np.empty((chains, samples))
        self.virial = np.empty((chains, samples, depth))
        self.kernels = BatchMeans(samples)
        self.outputs, self.squares, self.variances = BatchMeans(samples), BatchMeans(samples), BatchMeans(samples)

    def record(self, index: int, state: Sequence[Array]) -> None:
        """Measure `state` as sample number `index`."""
        target = self._target
        passed = target.forward(state)
        kernels = np.stack(passed.kernels, axis=1)
        overlaps = np.einsum("po,clpq,qo->cl", self._direction, kernels, self._direction, optimize=True)
        # A layer of dead neurons has kernel 0 and no direction.
        norms = np.linalg.norm(kernels, axis=(-1, -2)) * self._label_norm
        self.overlaps[:, index] = overlaps
        self.alignments[:, index] = np.divide(overlaps, norms, out=np.zeros_like(overlaps), where=norms > 0)
        self.energies[:, index] = target.potential(passed)
        squares = np.stack([np.einsum("cip,cip->c", eps, eps) for eps in state], axis=1)
        sizes = np.array([rows * columns for rows, columns in target.shapes])
        self.virial[:, index] = (squares + target.virial(state, passed)) / sizes - 1.0
        self.kernels.add(index, kernels)
        mean, variance = self._outputs(state, passed)
        self.outputs.add(index, mean)
        self.squares.add(index, np.square(mean))
        self.variances.add(index, np.broadcast_to(variance[..., None], mean.shape))

    def _outputs(self, state: Sequence[Array], passed: CollapsedPass) -> tuple[Array, Array]:
        """Mean (chains, P + m, O) and variance (chains, P + m) of f given the preactivations."""
        target = self._target
        # g Phi v = Y - v/beta, and g Phi - g Phi M^{-1} g Phi = (I - M^{-1}/beta)/beta.
        mean = target.Y - passed.dual_coefficients / target.beta
        diagonal = np.diagonal(passed.precision, axis1=1, axis2=2)
        variance = (1.0 - diagonal / target.beta) / (target.beta * target.scale)
        if self._predictor is None:
            return mean, variance
        new_mean, new_variance = self._predictor(state, passed)
        return np.concatenate([mean, new_mean], axis=1), np.concatenate([variance, new_variance], axis=1)
