r"""The exact law of one neuron of a finite network given the others, and Metropolis decisions under it.

Without neuron i, M_i = M - g_w phi_i phi_i^T/N. With G = M_i^{-1}, V = G Y and q = g_w phi^T G phi/N, adding phi changes the
energy (N gamma0^2/2) Tr(Y^T M^{-1} Y) + (O/2) ln det M by

    -(gamma0^2 g_w/2) |V^T phi|^2/(1 + q) + (O/2) ln(1 + q).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Samples

__all__ = ["Conditional", "accepted_in_turn", "feature_gram", "squared"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Conditional:
    """The law of one neuron given others: V (n, P, O), (g_w/N) G (n, P, P) and gamma0^2 g_w."""

    V: Floats
    G: Floats
    strength: float

    def tilt(self, phi: Samples) -> Floats:
        """gamma0^2 g_w |V^T phi|^2, (n, B)."""
        return self.strength * squared(phi @ self.V.astype(phi.dtype))

    def at(self, phi: Samples) -> tuple[Floats, Samples]:
        """Energy of the tilt, (n, B), and its gradient in phi, (n, B, P)."""
        O, V = self.V.shape[2], self.V.astype(phi.dtype)
        s, Gphi = np.split(phi @ np.concatenate([V, self.G.astype(phi.dtype)], axis=2), [O], axis=2)
        saturation = 1 + np.einsum("nbp,nbp->nb", Gphi, phi)
        tilt = self.strength * np.einsum("nbo,nbo->nb", s, s) / saturation
        pull = ((tilt + O) / saturation)[..., None] * Gphi
        pull -= (np.float32(self.strength) / saturation)[..., None] * (s @ V.transpose(0, 2, 1))
        return np.asarray(-tilt / 2 + O / 2 * np.log(saturation), dtype=np.float64), pull


def accepted_in_turn(
    M: Floats, Y: Floats, old: Samples, new: Samples, change: Floats, log_uniform: Floats, variance: float, strength: float
) -> tuple[NDArray[np.bool_], Floats]:
    """Metropolis decisions of the neurons of a block, one after another, each given what has become of those before it.

    Parameters
    ----------
    M : (n, P, P) array
        With the old neurons.
    Y : (P, O) array
    old, new : (n, B, P) arrays
        Features.
    change, log_uniform : (n, B) arrays
        Energy of the proposal apart from what depends on M, and the logarithms of uniform numbers.
    variance, strength : float
        g_w/N and gamma0^2 g_w.

    Returns
    -------
    accepted, log_ratio : (n, B) arrays

    Notes
    -----
    Only products F M^{-1} F^T and F M^{-1} Y of the 2B features in play are followed, by rank-one changes of M.
    Cost: a solve P^3 and products B P^2 and B^3 per network.
    """
    (n, B, P), O = old.shape, Y.shape[1]
    F = np.stack([old, new], axis=2).reshape(n, 2 * B, P).astype(np.float64)
    F = np.where(np.isfinite(F), F, 0.0)
    right = np.concatenate([F.transpose(0, 2, 1) * variance, np.broadcast_to(Y, (n, P, O))], axis=2)
    table = F @ np.linalg.solve(M, right)
    accepted, log_ratio = np.zeros((n, B), dtype=np.bool_), np.empty((n, B))
    for i in range(B):
        # Rows and columns: the old neuron, the new one, those still to come, and the signals V^T phi.
        left = table[:, 0]
        growth = 1 / (1 - left[:, 0])
        entering = table[:, 1] + (growth * table[:, 1, 0])[:, None] * left
        saturation = 1 + entering[:, 1]
        gain = np.square(entering[:, -O:]).sum(axis=1) / saturation - np.square(left[:, -O:]).sum(axis=1) * growth
        log_ratio[:, i] = strength / 2 * gain - O / 2 * np.log(saturation / growth) - change[:, i]
        log_ratio[:, i] = np.where(np.isfinite(log_ratio[:, i]), log_ratio[:, i], -np.inf)
        accepted[:, i] = log_uniform[:, i] < log_ratio[:, i]
        out, into = accepted[:, i] * growth, accepted[:, i] / saturation
        table = (
            table[:, 2:, 2:]
            + (out[:, None] * left[:, 2:-O])[:, :, None] * left[:, None, 2:]
            - (into[:, None] * entering[:, 2:-O])[:, :, None] * entering[:, None, 2:]
        )
    return accepted, log_ratio


def squared(x: Samples) -> Floats:
    """|x|^2 of every neuron, (n, B)."""
    return np.asarray(np.einsum("nbr,nbr->nb", x, x, dtype=np.float64))


def feature_gram(phi: Samples) -> Floats:
    """sum_i phi_i phi_i^T in float64, (n, P, P)."""
    features = phi.astype(np.float64)
    return np.asarray(features.transpose(0, 2, 1) @ features)
