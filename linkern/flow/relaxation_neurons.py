"""The neurons of an infinitely wide two-layer network, sampled: a system of ordinary differential equations without memory.

A neuron has weights w (h = B w with C = B B^T, so w has as many entries as C has rank) and z:

    dw/dt = gamma0 z B^T (Delta phi'(h)) - weight_decay w,    dz/dt = gamma0 Delta . phi(h) - weight_decay z,

with Delta = y - <z phi(h)>/gamma0.

Weight decay drives ReLU neurons onto their kinks, where they slide with a slope phi' between its two values. Rounding the kink
over a small width turns sliding into resting: phi'(h) then is that slope.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation
from linkern.flow.innovations import SampleBasis

__all__ = ["Neurons", "kink_slopes", "random_weights"]

Floats = NDArray[np.float64]


class Neurons:
    """S neurons at P training points and the test points behind them; a state is (S, r + 1), w and then z.

    Attributes
    ----------
    evaluations : int
        How often `drive` was called.
    multiplications : float
        Matrix products so far, in units of S P^2 multiplications.
    """

    def __init__(
        self,
        root: Floats,
        labels: Floats,
        gamma0: float,
        decay: float,
        activation: Activation,
        kink: float,
    ) -> None:
        self.root, self.labels, self.gamma0, self.decay, self.activation = root, labels, gamma0, decay, activation
        self._train = root[: labels.size]
        self._slopes = kink_slopes(activation)
        self._width = kink * float(np.sqrt(np.mean((self._train**2).sum(axis=1))))
        self.evaluations = 0
        self.multiplications = 0.0

    def drive(self, state: Floats) -> Floats:
        """d state/dt."""
        w, z = state[:, :-1], state[:, -1]
        phi, slope = self._phi_and_slope(w @ self._train.T)
        error = self.gamma0 * (self.labels - self._readout(phi, z))
        out: Floats = -self.decay * state
        out[:, :-1] += z[:, None] * (slope @ (error[:, None] * self._train))
        out[:, -1] += phi @ error
        self.evaluations += 1
        self._count(2 * self._train.size)
        return out

    def outputs(self, state: Floats) -> Floats:
        """f at all points, (P + P',)."""
        self._count(self.root.size)
        return self._readout(self._phi_and_slope(state[:, :-1] @ self.root.T)[0], state[:, -1])

    def kernels(self, state: Floats) -> tuple[Floats, Floats, Floats]:
        """Phi^1 and G^1 at the training points, and K = Phi^1 + G^1 C of all points with the training points."""
        P = self.labels.size
        phi, g = self._phi_and_slope(state[:, :-1] @ self.root.T)
        g = g * state[:, -1:]
        Phi, G = phi.T @ phi[:, :P] / len(phi), g.T @ g[:, :P] / len(g)
        self._count(self.root.size + 2 * len(self.root) * P)
        return Phi[:P], G[:P], Phi + G * (self.root @ self._train.T)

    def _readout(self, phi: Floats, z: Floats) -> Floats:
        return np.asarray(z @ phi) / (z.size * self.gamma0)

    def _phi_and_slope(self, h: Floats) -> tuple[Floats, Floats]:
        if self._slopes is None:
            return np.asarray(self.activation.value(h), np.float64), np.asarray(self.activation.derivative(h), np.float64)
        return rounded(h, *self._slopes, self._width)

    def _count(self, multiplications_per_sample: int) -> None:
        self.multiplications += multiplications_per_sample / self.labels.size**2


def random_weights(samples: int, rank: int, rng: np.random.Generator) -> Floats:
    """A state at time 0, whitened in the sample; the same neurons as those of `march_montecarlo` with the same generator."""
    basis, source = SampleBasis(samples), rng.spawn(1)[0]
    return np.hstack([basis.fresh(source, rank), basis.fresh(source, 1)])


def kink_slopes(activation: Activation) -> tuple[float, float] | None:
    """The slopes left and right of a kink at 0, for activations that consist of nothing else (ReLU, leaky ReLU, |h|)."""
    if activation.degree != 1:
        return None
    left, right = (float(activation.derivative(np.array([h]))[0]) for h in (-1.0, 1.0))
    return (left, right) if left != right else None


def rounded(h: Floats, left: float, right: float, width: float) -> tuple[Floats, Floats]:
    """phi and phi' with the kink replaced by a parabola for |h| < width; overwrites h.

    The slope rises linearly from `left` to `right`, by the share s, and phi = left h + (right - left) (max(h, width) - width +
    width s^2).
    """
    share = h * (0.5 / width)
    share += 0.5
    np.clip(share, 0.0, 1.0, out=share)
    linear = left * h if left else 0.0
    phi = np.maximum(h, width, out=h)
    square = share**2
    square -= 1
    square *= width
    phi += square
    if (left, right) == (0.0, 1.0):
        return phi, share
    return linear + (right - left) * phi, left + (right - left) * share
