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
from linkern.bayes.perturbation_fourpoint import Sampling, connected

__all__ = ["LazyLayers"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LazyLayers:
    """The lazy kernels of a set of points and the averages that first order needs.

    Attributes
    ----------
    activation : Activation
    prior_variances : (L + 1,) ndarray
    kernels : (L + 1, n, n) ndarray
        K^0 = C, ..., K^L.
    slopes, bends : (L, n, n) ndarray
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
        """Return H^1, ..., H^L: (L, n, n), from the error signal V (n, O)."""
        H = np.empty_like(self.slopes)
        H[-1] = -self.prior_variances[-1] * signal @ signal.T
        for l in range(len(H) - 2, -1, -1):
            own = np.einsum("mb,mb->m", H[l + 1], self.bends[l + 1])
            H[l] = self.prior_variances[l + 1] * (H[l + 1] * self.slopes[l + 1] + np.diag(own))
        return H

    def response(self, l: int, M: Array) -> Array:
        """Return D_{l+1}[M] for a stack M (R, n, n) of changes of the kernel of layer l."""
        diagonal = np.einsum("rmm->rm", M)
        bend = diagonal[:, :, None] * self.bends[l] / 2
        return M * self.slopes[l] + bend + bend.transpose(0, 2, 1)

    def corrections(self, H: Array, sampling: Sampling) -> Array:
        """Return Phi^0_1, ..., Phi^L_1: (R, L + 1, n, n), R = 1 for closed forms or one estimate per scramble."""
        change = np.zeros((1, *self.kernels.shape[1:]))
        layers = [change]
        for l, below in enumerate(self.kernels[:-1]):
            g = self.prior_variances[l]
            fluctuation = connected(self.activation, g * below, H[l], self.kernels[l + 1], sampling, l)
            change = g * self.response(l, change) - fluctuation / 2
            layers.append((change + change.transpose(0, 2, 1)) / 2)
        replicas = max(len(layer) for layer in layers)
        return np.stack([np.broadcast_to(layer, (replicas, *layer.shape[1:])) for layer in layers], axis=1)
