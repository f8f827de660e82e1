r"""First order in gamma0^2 through the layers: duals downwards, kernels upwards.

Layers have h^l ~ N(0, S^l) with S^l = g_l K^{l-1}. With H^l = d hatPhi^l / d gamma0^2 and Phi^l_1 = d Phi^l / d gamma0^2,

    H^L = -g_w V V^T,   H^l = g_{l+1} [H^{l+1} * E phi' phi' + diag(sum_b H^{l+1}_{mb} E phi''_m phi_b)],   averages at S^{l+1},
    Phi^l_1 = g_l D_l[Phi^{l-1}_1] - Cov(phi phi^T, phi^T H^l phi)/2,   Phi^0_1 = 0,
    D[M]_mn = M_mn E phi'_m phi'_n + M_mm E phi''_m phi_n / 2 + M_nn E phi_m phi''_n / 2.

H is the derivative of sum_ab H^{l+1}_ab E phi_a phi_b with respect to the kernel below, D the derivative of E phi phi^T along M.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation
from linkern.bayes.perturbation_fourpoint import connected
from linkern.bayes.perturbation_sampling import Fields, Sampling

__all__ = ["Corrections", "LazyLayers", "LazyRows"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Corrections:
    """First order of all layers.

    Attributes
    ----------
    kernels : (R, L + 1, P, P) ndarray
        Phi^0_1, ..., Phi^L_1; R = 1 for closed forms or one estimate per scramble.
    diagonals : (R, L + 1, P) ndarray
        Of `kernels`.
    duals : (L, P, P) ndarray
        H^1, ..., H^L.
    counts : tuple of int
        Samples per scramble of every layer; 0 for closed forms.
    """

    kernels: Array
    diagonals: Array
    duals: Array
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LazyRows:
    """Lazy kernels of T test inputs: `cross` (L + 1, T, P) with the training inputs, `own` (L + 1, T) with themselves."""

    cross: Array
    own: Array


@dataclass(frozen=True)
class LazyLayers:
    """The lazy kernels of the training inputs and the averages that first order needs.

    Attributes
    ----------
    activation : Activation
    prior_variances : (L + 1,) ndarray
    kernels : (L + 1, P, P) ndarray
        K^0 = C, ..., K^L.
    slopes, bends : (L, P, P) ndarray
        E[phi'_m phi'_n] and E[phi''_m phi_n] over h^l ~ N(0, g_l K^{l-1}), l = 1..L.
    """

    activation: Activation
    prior_variances: Array
    kernels: Array
    slopes: Array
    bends: Array

    @classmethod
    def of(cls, activation: Activation, prior_variances: Array, kernels: Array) -> LazyLayers:
        """Evaluate the averages at every layer."""
        assert activation.dual_derivative is not None
        slopes, bends = np.empty_like(kernels[1:]), np.empty_like(kernels[1:])
        for l, below in enumerate(kernels[:-1]):
            S = prior_variances[l] * below
            a = S.diagonal()
            slopes[l] = activation.dual_derivative(a[:, None], a, S)
            bends[l] = activation.dual_second(a[:, None], a, S)
        return cls(activation, prior_variances, kernels, slopes, bends)

    def duals(self, signal: Array) -> Array:
        """Return H^1, ..., H^L: (L, P, P), from the error signal V (P, O)."""
        H = np.empty_like(self.slopes)
        H[-1] = -self.prior_variances[-1] * signal @ signal.T
        for l in range(len(H) - 2, -1, -1):
            own = np.einsum("mb,mb->m", H[l + 1], self.bends[l + 1])
            H[l] = self.prior_variances[l + 1] * (H[l + 1] * self.slopes[l + 1] + np.diag(own))
        return H

    def response(self, l: int, M: Array) -> Array:
        """Return D_{l+1}[M] for a stack M (R, P, P) of changes of the kernel of layer l."""
        diagonal = np.einsum("rmm->rm", M)
        bend = diagonal[:, :, None] * self.bends[l] / 2
        return M * self.slopes[l] + bend + bend.transpose(0, 2, 1)

    def fields(self, l: int, rows: LazyRows | None = None) -> Fields:
        """Return the preactivations of layer l + 1, those of test inputs beside them."""
        g = self.prior_variances[l]
        if rows is None:
            return Fields(g * self.kernels[l], self.kernels[l + 1])
        cross, own = g * rows.cross[l], g * rows.own[l]
        return Fields(g * self.kernels[l], self.kernels[l + 1], cross, own, rows.cross[l + 1], rows.own[l + 1])

    def corrections(self, signal: Array, sampling: Sampling) -> Corrections:
        """Return the first order of duals and kernels."""
        H, counts = self.duals(signal), []
        change = np.zeros((1, *self.kernels.shape[1:]))
        layers = [change]
        for l in range(len(H)):
            fluctuation, count = connected(self.activation, self.fields(l), H[l], sampling, l)
            counts.append(count)
            change = self.prior_variances[l] * self.response(l, change) - fluctuation[:, :, :-1] / 2
            change = (change + change.transpose(0, 2, 1)) / 2
            layers.append(change)
        replicas = max(len(layer) for layer in layers)
        kernels = np.stack([np.broadcast_to(layer, (replicas, *layer.shape[1:])) for layer in layers], axis=1)
        return Corrections(kernels, np.einsum("rlmm->rlm", kernels).copy(), H, tuple(counts))

    def row_corrections(self, rows: LazyRows, first: Corrections, sampling: Sampling) -> Array:
        """Return the last layer's Phi^L_1 between test and training inputs, (R, T, P), from the training inputs' `first`.

        Test inputs have no data term: their rows of the duals vanish, and so they do not act back.
        """
        cross, own = np.zeros((1, *rows.cross.shape[1:])), np.zeros((1, rows.own.shape[1]))
        for l, H in enumerate(first.duals):
            g, phi = self.prior_variances[l], self.activation
            assert phi.dual_derivative is not None
            S, a, b = g * rows.cross[l], g * rows.own[l], g * self.kernels[l].diagonal()
            fluctuation, _ = connected(phi, self.fields(l, rows), H, sampling, l, first.counts[l] or None)
            moved = cross * phi.dual_derivative(a[:, None], b, S)
            moved = moved + own[:, :, None] * phi.dual_second(a[:, None], b, S) / 2
            moved = moved + first.diagonals[:, l, None, :] * phi.dual_second(b, a[:, None], S) / 2
            own = g * own * (phi.dual_derivative(a, a, a) + phi.dual_second(a, a, a)) - fluctuation[:, :, -1] / 2
            cross = g * moved - fluctuation[:, :, :-1] / 2
        return cross
