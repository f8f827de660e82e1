r"""The saddle-point equations as a function of V and the dual kernels of the layers below the last.

These given, one pass upwards, Phi^l = <phi phi^T> of N(0, g_l Phi^{l-1}) exp(-phi^T hatPhi^l phi / 2), evaluates every equation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation
from linkern.bayes.montecarlo.quadrature.rule import LayerAverages, TiltedLayer, TooManyNodesError, averages

__all__ = ["Evaluation", "Problem"]

Floats = NDArray[np.float64]

# Coefficients V ~ Y / Phi must not get lost in the steps of finite differences.
LARGEST_KERNEL = 1e12


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All equations at given duals and coefficients."""

    coefficients: Floats
    duals: Floats
    kernels: Floats
    layers: tuple[LayerAverages, ...]
    action: float


@dataclass(frozen=True, eq=False)
class Problem:
    """The validated problem: data C and Y (P, O), g_1 .. g_L and g_w in `variances`, largest number of nodes `limit`.

    A state is the flat array of V / scale and of the upper triangles of hatPhi^l / (gamma^2 scale^2), l < L, whose entries are of
    order one; scale is the largest label.
    """

    C: Floats
    Y: Floats
    depth: int
    gamma0: float
    beta: float
    variances: Floats
    activation: Activation
    limit: int

    @property
    def label_scale(self) -> float:
        return float(np.abs(self.Y).max()) or 1.0

    def pack(self, V: Floats, reduced: Floats) -> Floats:
        """Return the state of V and hatPhi / gamma^2."""
        upper = np.triu_indices(len(self.C))
        return np.concatenate([V.ravel() / self.label_scale, *(H[upper] / self.label_scale**2 for H in reduced)])

    def unpack(self, state: Floats) -> tuple[Floats, Floats]:
        P = len(self.C)
        rows, columns = np.triu_indices(P)
        V = state[: self.Y.size].reshape(self.Y.shape) * self.label_scale
        entries = state[self.Y.size :].reshape(self.depth - 1, len(rows)) * self.label_scale**2
        reduced = np.zeros((self.depth - 1, P, P))
        reduced[:, rows, columns] = reduced[:, columns, rows] = entries
        return V, reduced

    def tilt_units(self, gamma: float) -> Floats:
        """gamma for the entries of V, gamma^2 for those of the inner duals."""
        units = np.full(self.Y.size + (self.depth - 1) * len(self.C) * (len(self.C) + 1) // 2, gamma**2)
        units[: self.Y.size] = gamma
        return units

    def evaluate(self, gamma: float, state: Floats, fineness: float) -> Evaluation:
        """Pass upwards through the layers."""
        V, reduced = self.unpack(state)
        duals = gamma**2 * np.concatenate([reduced, -self.variances[-1] * (V @ V.T)[None]])
        kernels, layers = [self.C], []
        for g, H in zip(self.variances[:-1], duals, strict=True):
            # Data get no message from the first layer: C is given.
            message = len(layers) > 0
            layers.append(self._averages(TiltedLayer(g * kernels[-1], H, self.activation), fineness, message))
            kernels.append(layers[-1].kernel)
            if gamma == 0:
                self._require_moderate(kernels[-1])
        inner = sum(float(np.sum(Phi * H)) for Phi, H in zip(kernels[1:-1], duals[:-1], strict=True))
        data = gamma**2 * float(np.sum(V * self.Y) - np.sum(V * V) / (2 * self.beta))
        action = data - inner / 2 - sum(layer.log_partition for layer in layers)
        return Evaluation(V, duals, np.stack(kernels), tuple(layers), action)

    def _averages(self, layer: TiltedLayer, fineness: float, message: bool) -> LayerAverages:
        # One refinement must stay affordable at three dimensions; this also stops trial points that spread far out.
        spare = 4 if fineness == 1 else 1
        try:
            return averages(layer, fineness, self.limit // spare, message=message)
        except TooManyNodesError as error:
            raise TooManyNodesError(spare * error.needed, self.limit) from None

    def _require_moderate(self, lazy: Floats) -> None:
        size = float(np.abs(lazy).max())
        if not size < LARGEST_KERNEL:
            raise ValueError(
                f"activation: expected features of order one, <phi phi^T> below {LARGEST_KERNEL:g} without a tilt, "
                f"got {size:.3g} from {self.activation.name!r}; rescale it, or the inputs"
            )

    def label_misfit(self, found: Evaluation) -> Floats:
        """Y - (g_w Phi^L + T) V."""
        V = found.coefficients
        return self.Y - self.variances[-1] * found.kernels[-1] @ V - V / self.beta

    def misfits(self, gamma: float, state: Floats, fineness: float) -> Floats:
        """Return the violations of the equations of V and of the inner duals, scaled like the state."""
        found = self.evaluate(gamma, state, fineness)
        above = zip(self.variances[1:-1], found.layers[1:], strict=True)
        messages = np.array([g * layer.message for g, layer in above]).reshape(-1, *self.C.shape)
        return self.pack(self.label_misfit(found), (messages - found.duals[:-1]) / (gamma**2 or 1.0))
