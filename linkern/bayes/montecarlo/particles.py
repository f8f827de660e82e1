r"""Particles that follow the law of a layer: Hamiltonian moves with a Gaussian reference rotated exactly.

Positions x are standard under the reference; eps = x R with R the root of an estimate Sigma of the covariance of eps. Between
kicks by the gradient of V = (target minus reference) positions and momenta rotate into each other, which is the exact flow of the
reference, so that only what is not Gaussian costs acceptance. Every particle is accepted or rejected by itself.
"""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from linkern.activations.kinks import averaged_slope
from linkern.bayes.montecarlo.law import Law, Samples, Tilt
from linkern.bayes.montecarlo.umbrella import Umbrella
from linkern.numerics.threads import side_by_side

__all__ = ["Population"]

Floats = NDArray[np.float64]

# Coordinates that move together: their positions, momenta and features stay in cache.
_BLOCK = 2**15
# Rotation angles of a trajectory: strongly tilted directions hold points of large radius, which short ones reach slowly.
_ANGLES = (2.2, 3.8)
_LONGEST = 40
# Acceptance that the step aims at, averaged over particles by |tilt|: few, strongly active ones can carry most of the kernel and
# move between steep walls (kinks times their signal). A step that suits the typical particle never moves them. Of steps that
# scatter by the factor exp(+-_JITTER) some suit those even worse off.
_ACCEPTANCE, _JITTER = 0.7, 0.3
_STEPS = (0.01, 0.8)
_LEAST_VARIANCE, _LEAST_REACH, _LEAST_STRENGTH = 1e-2, 1e-6, 1e-6


class Population:
    """S particles of one layer.

    Attributes
    ----------
    x : (S, r) float32 array
        Positions in units of the reference.
    reference : (r, r) array
        R, symmetric.
    step : float
        Rotation angle between kicks, adapted until `frozen` to an acceptance near 0.7, averaged by strength of the tilt.
    acceptance : float
        Acceptance probability of the last trajectories, so averaged.
    umbrella : Umbrella or None
        What the law is multiplied by, once particles spread more along some direction than along others; not for laws whose
        radius is integrated out.
    """

    def __init__(self, law: Law, samples: int, rng: np.random.Generator) -> None:
        self.law = law
        self.x = rng.standard_normal((samples, law.rank), dtype=np.float32)
        self._rows = max(1, _BLOCK // law.rank)
        # Whatever the number of threads.
        *self._rngs, self._rng = rng.spawn(math.ceil(samples / self._rows) + 1)
        self.reference = np.eye(law.rank)
        self.step, self.acceptance, self.frozen = 0.5, 1.0, False
        self.umbrella: Umbrella | None = None
        self._widest: Floats | None = None

    @property
    def eps(self) -> Samples:
        """(S, r) standard coordinates."""
        return np.asarray(self.x @ self.reference.astype(np.float32))

    def move(self, root: Floats, tilt: Tilt) -> None:
        """Move all particles by one trajectory under the law with this root and tilt."""
        step = min(self.step * math.exp(_JITTER * self._rng.standard_normal()), _STEPS[1])
        target = _Target(self.law, root, self.reference, tilt, self.umbrella, step)
        kicks = min(_LONGEST, max(1, math.ceil(self._rng.uniform(*_ANGLES) / step)))

        def moved(blocks: slice) -> list[Floats]:
            return [self._trajectory(target, index, kicks) for index in range(blocks.start, blocks.stop)]

        parts = side_by_side(moved, len(self._rngs))
        probability, weight = np.hstack(list(chain.from_iterable(parts)))
        self.acceptance = float(probability @ weight / weight.sum())
        if not self.frozen:
            factor = math.exp(0.5 * (self.acceptance - _ACCEPTANCE))
            self.step = min(max(self.step * factor, _STEPS[0]), _STEPS[1])

    def cover(self, eps: Samples, weights: Floats) -> None:
        """Adapt the umbrella, until `frozen`, to particles that followed the old one and the weights of their new law."""
        if self._widest is not None and not (self.frozen or self.law.homogeneous) and np.isfinite(weights).all():
            self.umbrella = Umbrella.over(eps, weights, self._widest, self.umbrella)

    def become(self, eps: Samples) -> None:
        """Take these standard coordinates, and until `frozen` their covariance, where it differs from noise, as reference."""
        points = eps.astype(np.float64)
        if not self.frozen:
            values, vectors = np.linalg.eigh(points.T @ points / len(points))
            # Eigenvalues that S samples of a standard Gaussian would show are noise (Marchenko-Pastur band).
            edge = math.sqrt(self.law.rank / len(points))
            values[np.abs(np.sqrt(np.maximum(values, 0.0)) - 1) < edge] = 1.0
            self._widest = vectors[:, -1] if values[-1] > 1 else None
            self.reference = np.asarray((vectors * np.sqrt(np.maximum(values, _LEAST_VARIANCE))) @ vectors.T)
        self.x = np.linalg.solve(self.reference, points.T).T.astype(np.float32)

    def _trajectory(self, target: _Target, block: int, kicks: int) -> Floats:
        """Move some particles; return their acceptance probabilities and |tilt|, (2, B)."""
        rows, rng = slice(block * self._rows, (block + 1) * self._rows), self._rngs[block]
        x = self.x[rows]
        p = rng.standard_normal(x.shape, dtype=np.float32)
        uniform = rng.random(len(x))
        step = target.step
        cos, sin = np.float32(math.cos(step)), np.float32(math.sin(step))
        V, force = target.at(x)
        # Where tilts vanish all count alike.
        strength = target.strength(x) + _LEAST_STRENGTH
        before = V + 0.5 * _squared(p) + 0.5 * _squared(x)
        p -= np.float32(step / 2) * force
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for kick in range(kicks):
                x, p = cos * x + sin * p, cos * p - sin * x
                V, force = target.at(x)
                p -= np.float32(step if kick < kicks - 1 else step / 2) * force
            after = V + 0.5 * _squared(p) + 0.5 * _squared(x)
            probability = np.exp(np.minimum(before - after, 0.0))
        probability = np.where(np.isfinite(after), probability, 0.0)
        accepted = uniform < probability
        self.x[rows][accepted] = x[accepted]
        return np.stack([probability, strength])


class _Target:
    """V and its gradient in the coordinates of the reference."""

    def __init__(self, law: Law, root: Floats, reference: Floats, tilt: Tilt, umbrella: Umbrella | None, step: float) -> None:
        self.law, self.tilt, self.umbrella, self.step = law, tilt, umbrella, step
        root = root @ reference
        self.root = root.astype(np.float32)
        if umbrella is not None:
            self.direction = (reference @ umbrella.direction).astype(np.float32)
        # The force of a kink is averaged over what a step crosses; acceptance knows the kink itself.
        reach = np.maximum(step * np.linalg.norm(root, axis=1), _LEAST_REACH).astype(np.float32)
        self.reach = reach if law.kinked else None
        # One product gives h = root x and the reference's quadratic form.
        self.both = np.hstack([root.T, reference @ reference]).astype(np.float32)

    def at(self, x: Samples) -> tuple[Floats, Samples]:
        """V and its gradient."""
        energy, force = self._exponent(x)
        return (energy - _squared(x)) / 2, force - x

    def strength(self, x: Samples) -> Floats:
        """|phi^T hatPhi phi|."""
        return np.abs(self.tilt.quadratic(np.asarray(self.law.activation.value(x @ self.root.T))), dtype=np.float64)

    def _exponent(self, x: Samples) -> tuple[Floats, Samples]:
        """Q(eps) of the density exp(-Q/2), the umbrella included, and half its gradient."""
        both = x @ self.both
        h, Sx = both[:, : len(self.root)], both[:, len(self.root) :]
        activation = self.law.activation
        phi = activation.value(h)
        Hphi = self.tilt.apply(phi)
        slope = activation.derivative(h) if self.reach is None else averaged_slope(activation, h, self.reach)
        pull = (slope * Hphi) @ self.root
        squared = np.einsum("sr,sr->s", x, Sx, dtype=np.float64)
        quadratic = np.einsum("si,si->s", phi, Hphi, dtype=np.float64)
        if not self.law.homogeneous:
            pull += Sx
            if self.umbrella is None:
                return squared + quadratic, pull
            height, slope = self.umbrella.at(x @ self.direction)
            return squared + quadratic - 2 * height, pull - np.outer(slope.astype(x.dtype), self.direction)
        u = 1 + quadratic / squared
        bent, slope_of_bend = self.law.bend(u)
        pull *= slope_of_bend.astype(x.dtype)[:, None]
        pull += (slope_of_bend + bent - u * slope_of_bend).astype(x.dtype)[:, None] * Sx
        return squared * bent, pull


def _squared(x: Samples) -> Floats:
    return np.asarray(np.einsum("sr,sr->s", x, x, dtype=np.float64))
