r"""Proposals for activations of degree one: a mixture of the prior and of half-Gaussians, seen as a density of directions.

Where phi is linear, the tilt by a readout makes a layer's law Gaussian: every minimum d of Q on the unit sphere is the axis of a
lobe of neurons with variance 1/Q(d) along d. Half-Gaussians N(0, Sigma) on n . eps > 0 are such lobes exactly, and a few of them,
fitted to samples, cover the rest. Their directions have the density

    2 [n . eps > 0] |Sigma|^(-1/2) (eps^T Sigma^{-1} eps / |eps|^2)^(-r/2)

relative to the prior's, so that radii stay integrated out and samples are independent: no chain, no autocorrelation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special, stats

from linkern.bayes.montecarlo.averages import blocks, gram

__all__ = ["NEW_SHARE", "Mixture"]

Floats = NDArray[np.float64]
Points = NDArray[np.floating]

# Least share of the prior: nothing that it reaches is ever out of reach.
_PRIOR = 0.1
# A lobe's share when it is added, and that below which a fit drops it.
NEW_SHARE, _DROPPED = 0.02, 0.005
# Proposals should be a little wider than what they were fitted to, and a covariance of few points a little like the old one.
_WIDER, _STIFFNESS = 1.05, 2.0


@dataclass(frozen=True)
class Mixture:
    """The prior N(0, 1) (first) and K half-Gaussians in r dimensions.

    Attributes
    ----------
    shares : (K + 1,) array
        Of sum 1.
    normals : (K, r) array
        n, of length 1.
    factors : (K, r, r) array
        F with Sigma = F F^T.
    """

    shares: Floats
    normals: Floats
    factors: Floats

    @classmethod
    def prior(cls, rank: int) -> Mixture:
        """Nothing but the prior."""
        return cls(np.ones(1), np.zeros((0, rank)), np.zeros((0, rank, rank)))

    @classmethod
    def of_lobe(cls, direction: Floats, low: float) -> Mixture:
        """One lobe alone."""
        return cls.prior(len(direction)).with_lobes(direction[None], np.array([low])).lobes(0)

    @property
    def rank(self) -> int:
        """r."""
        return int(self.normals.shape[1])

    def with_lobes(self, directions: Floats, lows: Floats) -> Mixture:
        """Add the lobes around directions (m, r) of length 1 with Q = `lows` (m,)."""
        spikes = (1 / np.sqrt(lows) - 1)[:, None, None] * directions[:, :, None] * directions[:, None, :]
        # Besides the prior alone, what there is loses to the new lobes alike.
        shares = np.concatenate([self.shares if len(self.normals) else [0.0], np.full(len(lows), NEW_SHARE)])
        return Mixture(
            shares / shares.sum() if len(self.normals) else _normalised(0.0, shares[1:]),
            np.concatenate([self.normals, directions]),
            np.concatenate([self.factors, np.eye(self.rank) + spikes]),
        )

    def lobes(self, first: int) -> Mixture:
        """The half-Gaussians from number `first` on alone."""
        shares = self.shares[first + 1 :]
        return Mixture(np.concatenate([[0.0], shares / shares.sum()]), self.normals[first:], self.factors[first:])

    def draw(self, count: int, rng: np.random.Generator, *, scrambled: bool = False) -> NDArray[np.float32]:
        """Directions times sqrt(r), (count, r): independent up to stratification, or randomised quasi-random points.

        Cost: count r^2.
        """
        if scrambled:
            points = stats.qmc.Sobol(self.rank + 1, rng=rng).random_base2(math.ceil(math.log2(max(count, 2))))[:count]
            order, normal = points[:, 0], special.ndtri(np.clip(points[:, 1:], 1e-15, 1 - 1e-15))
        else:
            # One share of [0, 1) for every sample.
            order = (np.arange(count) + rng.random(count)) / count
            normal = rng.standard_normal((count, self.rank))
        component = np.searchsorted(np.cumsum(self.shares)[:-1], order, side="right")
        for k, (n, F) in enumerate(zip(self.normals, self.factors, strict=True), start=1):
            rows = component == k
            points = normal[rows] @ F.T
            normal[rows] = np.where(points @ n < 0, -1.0, 1.0)[:, None] * points
        normal *= (math.sqrt(self.rank) / np.linalg.norm(normal, axis=1))[:, None]
        return np.asarray(normal, dtype=np.float32)

    def log_density(self, eps: Points) -> Floats:
        """Logarithm of the density of the directions of eps (S, r) relative to the prior's, as precise as they. Cost: S K r^2."""
        forms, logs = self._forms(eps)
        return np.asarray(special.logsumexp(logs - self.rank / 2 * np.log(forms / forms[:, :1]), axis=1))

    def fitted(self, eps: Points, weights: Floats, steps: int = 2) -> Mixture:
        """Steps of expectation maximisation towards weighted samples (S, r) of a full law, radii included; weights of sum 1.

        The prior stays what it is, but for its share. Cost per step: S K r^2.
        """
        mixture = self
        for _ in range(steps):
            mixture = mixture._step(eps, weights)
        return mixture

    def _step(self, eps: Points, weights: Floats) -> Mixture:
        forms, logs = self._forms(eps)
        members = weights[:, None] * special.softmax(logs - forms / 2, axis=1)
        prior, *shares = members.sum(axis=0)
        kept = []
        normals, factors = self.normals.copy(), self.factors.copy()
        for k, member in enumerate(members.T[1:]):
            if shares[k] < _DROPPED:
                continue
            kept.append(k)
            mean = member @ eps
            normals[k] = mean / np.linalg.norm(mean)
            effective = shares[k] ** 2 / np.square(member).sum()
            old = _STIFFNESS * self.rank * self.factors[k] @ self.factors[k].T
            second = effective / shares[k] * gram(eps, member, eps)
            covariance = (second + old) / (effective + _STIFFNESS * self.rank)
            factors[k] = math.sqrt(_WIDER) * linalg.cholesky(covariance, lower=True)
        return Mixture(_normalised(prior, np.array(shares)[kept]), normals[kept], factors[kept])

    def _forms(self, eps: Points) -> tuple[Floats, Floats]:
        """eps^T Sigma^{-1} eps of all components, the prior first, and the logarithms of what multiplies their exponentials."""
        forms = np.empty((len(eps), len(self.shares)))
        logs = np.full(forms.shape, -np.inf)
        inverses = [linalg.inv(F) for F in self.factors]
        scales = [
            math.log(2 * share) + np.linalg.slogdet(inverse)[1] for share, inverse in zip(self.shares[1:], inverses, strict=True)
        ]
        turns = [inverse.T.astype(eps.dtype) for inverse in inverses]
        normals = self.normals.T.astype(eps.dtype)
        for rows in blocks(len(eps)):
            part = eps[rows]
            forms[rows, 0] = np.einsum("sr,sr->s", part, part)
            for k, turn in enumerate(turns, start=1):
                scaled = part @ turn
                forms[rows, k] = np.einsum("sr,sr->s", scaled, scaled)
            logs[rows, 1:] = np.where(part @ normals > 0, scales, -np.inf)
        logs[:, 0] = np.log(self.shares[0]) if self.shares[0] else -np.inf
        return forms, logs


def _normalised(prior: float, shares: Floats) -> Floats:
    """Put the prior's share before those of half-Gaussians, with sum 1."""
    prior = max(prior / (prior + shares.sum()), _PRIOR) if len(shares) else 1.0
    return np.concatenate([[prior], (1 - prior) * shares / max(shares.sum(), np.finfo(float).tiny)])
