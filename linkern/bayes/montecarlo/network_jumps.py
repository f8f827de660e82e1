r"""Proposals that carry neurons between the prior's bulk and the lobes of strongly active ones, wherever they are.

Between bulk and lobes lies a barrier that trajectories cross rarely, so that the number of neurons in a lobe equilibrates
slowly. A mixture of the prior and of one Gaussian per sign of the signal, fitted to the neurons of largest tilt, proposes both;
the decision knows its density. In many dimensions few proposals into lobes are accepted, but these few cross.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import logsumexp

from linkern.bayes.montecarlo.law import Samples

__all__ = ["Lobes"]

Floats = NDArray[np.float64]

# Neurons that count as strongly active, and how many per coordinate a covariance is fitted to at least.
_STRONGEST, _LEAST_PER_COORDINATE = 0.06, 1.5
# Share of the prior among proposals, and of its covariance in a lobe's: noise must not leave directions out.
_PRIOR_SHARE, _SHRINKAGE = 0.5, 0.1


@dataclass(frozen=True)
class Lobes:
    """A mixture of Gaussians, the prior first.

    Attributes
    ----------
    shares : (K,) array
    means : (K, r) array
    factors : (K, r, r) array
        Lower Cholesky factors of the covariances.
    """

    shares: Floats
    means: Floats
    factors: Floats

    @classmethod
    def fitted(cls, eps: Samples, signals: Samples) -> Lobes | None:
        """To neurons (S, r) with signals V^T phi (S, O); None where too few are strongly active. Cost: S O + r^3."""
        r, sizes = eps.shape[1], np.square(signals).sum(axis=1, dtype=np.float64)
        strong = np.argsort(sizes)[len(sizes) - math.ceil(_STRONGEST * len(sizes)) :]
        chosen = signals[strong].astype(np.float64)
        # Of several signals the direction in which the strong ones differ most.
        sign = chosen @ np.linalg.eigh(chosen.T @ chosen)[1][:, -1] > 0
        means, factors = [np.zeros(r)], [np.eye(r)]
        for side in (strong[sign], strong[~sign]):
            if len(side) < _LEAST_PER_COORDINATE * r:
                continue
            points = eps[side].astype(np.float64)
            centred = points - points.mean(axis=0)
            covariance = (1 - _SHRINKAGE) / len(side) * centred.T @ centred + _SHRINKAGE * np.eye(r)
            means.append(points.mean(axis=0))
            factors.append(np.linalg.cholesky(covariance))
        if len(means) == 1:
            return None
        lobes = len(means) - 1
        shares = np.array([_PRIOR_SHARE] + [(1 - _PRIOR_SHARE) / lobes] * lobes)
        return cls(shares, np.stack(means), np.stack(factors))

    def draw(self, count: int, rng: np.random.Generator) -> Samples:
        """Proposals (count, r), float32."""
        points = rng.standard_normal((count, self.means.shape[1]))
        component = rng.choice(len(self.shares), size=count, p=self.shares)
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            points[component == k] = mean + points[component == k] @ factor.T
        return points.astype(np.float32)

    def log_density(self, eps: Samples) -> Floats:
        """Up to a constant, (S,). Cost: K triangular solves S r^2."""
        parts = []
        for share, mean, factor in zip(self.shares, self.means, self.factors, strict=True):
            whitened = linalg.solve_triangular(factor, (eps - mean).T.astype(np.float64), lower=True)
            parts.append(math.log(share) - np.square(whitened).sum(axis=0) / 2 - np.log(np.diag(factor)).sum())
        return np.asarray(logsumexp(parts, axis=0))
