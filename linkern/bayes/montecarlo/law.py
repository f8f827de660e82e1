r"""The single-site law of a layer in standard coordinates.

With h = root eps the base Gaussian is standard in eps, and the tilt makes the density of eps proportional to
exp(-Q(eps)/2), Q = |eps|^2 + phi(h)^T H phi(h), H = hatPhi. An activation of degree one makes Q homogeneous of degree two; then
the radius can be integrated out: directions have density (Q/|eps|^2)^(-r/2), the squared radius is |eps|^2 chi^2_r/Q, and the
average of a quantity of degree two carries the factor rho = r/Q. For other activations rho = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation

__all__ = ["Law", "Tilt", "roots_of"]

Floats = NDArray[np.float64]
Samples = NDArray[np.floating]

# A jump of phi' by this much between neighbours of the probing grid counts as a kink.
_KINK = 0.05
# Below this Q/|eps|^2 is continued by an exponential. Particles need a margin: where none are, nothing holds the tilt back.
_EDGE = 0.03
_LEAST_EXPONENT = -300.0


@dataclass(frozen=True)
class Tilt:
    """H of exp(-phi^T H phi/2): a symmetric matrix, which is -F F^T where a factor F (P, O) is given."""

    matrix: Floats
    factor: Floats | None = None

    @classmethod
    def of_readout(cls, V: Floats, strength: float) -> Tilt:
        """H = -strength V V^T."""
        F = math.sqrt(strength) * V
        return cls(-F @ F.T, F)

    def apply(self, phi: Samples) -> Samples:
        """phi H, (S, P)."""
        if self.factor is None:
            return np.asarray(phi @ self.matrix.astype(phi.dtype))
        F = self.factor.astype(phi.dtype)
        return np.asarray(-(phi @ F) @ F.T)

    def quadratic(self, phi: Samples) -> Samples:
        """phi^T H phi, (S,)."""
        if self.factor is None:
            return np.einsum("si,si->s", phi, self.apply(phi))
        s = phi @ self.factor.astype(phi.dtype)
        return -np.einsum("so,so->s", s, s)


@dataclass(frozen=True)
class Law:
    """What a layer's activation and rank make of the density.

    Attributes
    ----------
    activation : Activation
    rank : int
        r, the number of standard coordinates.
    homogeneous : bool
        Degree one: the radius is integrated out.
    kinked : bool
        phi' jumps, so that averages of phi'' are taken by integration by parts.
    offset : float
        Subtracted from phi' there: the middle of the jump at zero. Any number is right, this one least noisy.
    edge : float
        Q/|eps|^2 below which Q is bent.
    """

    activation: Activation
    rank: int
    homogeneous: bool
    kinked: bool
    offset: float
    edge: float = _EDGE

    @classmethod
    def of(cls, activation: Activation, rank: int) -> Law:
        """Classify an activation by its degree and by the jumps of phi'."""
        slopes = np.asarray(activation.derivative(np.linspace(-8, 8, 16001)), dtype=np.float64)
        kinked = activation.second_derivative is None or bool(np.abs(np.diff(slopes)).max() > _KINK)
        far = np.asarray(activation.derivative(np.array([-1.0, 1.0])), dtype=np.float64)
        return cls(activation, rank, activation.degree == 1, kinked, float(far.mean()))

    def log_density(self, squared: Samples, quadratic: Samples) -> Floats:
        """Logarithm of the density given |eps|^2 and phi^T H phi, up to what tilts share."""
        if not self.homogeneous:
            return np.asarray(-quadratic / 2, dtype=np.float64)
        return np.asarray(-self.rank / 2 * np.log(squared * self.bend(1 + quadratic / squared)[0]))

    def stretch(self, log_density: Floats, reference: Floats) -> Floats:
        """Factor of eps that carries the radius from one law to another, (S,): |eps|^2 is chi^2_r/Q under both."""
        return np.exp((log_density - reference) / self.rank) if self.homogeneous else np.ones(len(reference))

    def rho(self, squared: Samples, quadratic: Samples) -> Floats:
        """Weight of averages of degree two, (S,)."""
        if not self.homogeneous:
            return np.ones(len(squared))
        Q, slope = self.bend(1 + quadratic / squared)
        return np.asarray(self.rank * slope / (squared * Q))

    def bend(self, u: Samples) -> tuple[Floats, Floats]:
        """Continue u = Q/|eps|^2 to where it would not be positive, with ln u along its tangent; return it and its slope.

        A tilt of finite average has Q > 0 everywhere, but sampling noise takes tilts across that edge in directions where there
        are no samples. Continued so, densities stay finite, ln Z convex, and samples that find such a direction push the tilt
        back.
        """
        u = np.asarray(u, dtype=np.float64)
        inside = u > self.edge
        Q = np.where(inside, u, self.edge * np.exp(np.clip(u / self.edge, _LEAST_EXPONENT, 1.0) - 1))
        return Q, np.where(inside, 1.0, Q / self.edge)


def roots_of(matrix: Floats) -> tuple[Floats, Floats]:
    """The symmetric square root, which depends continuously on the matrix, and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.maximum(values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 1e-7 * roots[-1])
    return np.asarray((vectors * roots) @ vectors.T), np.asarray((vectors * inverse) @ vectors.T)
