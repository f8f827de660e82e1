r"""Laws of particles that fill the gap between lobes, and weights that make good for it.

Neurons of a saturating activation are strongly active, h ~ +-m u, or near zero: lobes of the tilted law, on one line. With some
hundred inputs dynamics finds the way between them once in a thousand trajectories (standardised digits, P = 200, tanh, one hidden
layer: the density has a dip of e^-7). Along the coordinate m of the direction in which particles spread most, the dip is all that
hinders them: whether they become active does not depend on where they were before.

So particles follow p(eps) exp(B(m)) (umbrella sampling; Torrie and Valleau, 1977), where B makes of the density of m a mixture of
itself and the uniform distribution. Weights exp(-B) are below the inverse share of the former.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from linkern.bayes.montecarlo.law import Samples

__all__ = ["Umbrella"]

Floats = NDArray[np.float64]

# Share of the uniform distribution, and of particles on either side of it.
_SHARE, _BEYOND = 0.25, 1e-3
# Histograms have noise: of few bins, with some particles more in each, and followed half way. Tables are fine for smooth forces.
_BINS, _UNSEEN, _CHANGE, _FINE = 24, 4, 0.5, 16


@dataclass(frozen=True)
class Umbrella:
    """B, with a table of its values and slopes at equidistant m, and the unit vector (r,) along which m is measured."""

    direction: Floats
    nodes: Floats
    heights: Floats
    slopes: Floats

    @classmethod
    def over(cls, eps: Samples, weights: Floats, direction: Floats, before: Umbrella | None) -> Umbrella | None:
        """For weighted particles that have followed the umbrella `before`, which is kept where a few own all weight."""
        if before is not None and before.direction @ direction < 0:
            direction = -direction
        m = _along(eps, direction)
        order = np.argsort(m)
        low, high = m[order[np.searchsorted(np.cumsum(weights[order]), [_BEYOND, 1 - _BEYOND])]]
        if not high > low:
            return before
        edges = np.linspace(low, high, _BINS + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        old = np.zeros(_BINS) if before is None else before._height(middles)
        # Some more in every bin, as if they had been there under the old umbrella: where there are few none are seen.
        unseen = _UNSEEN * weights.mean() * np.exp(-old) / np.exp(-old).mean()
        shares = np.histogram(m, edges, weights=weights)[0] + unseen
        goal = np.log(1 - _SHARE + _SHARE / (_BINS * shares))
        spline = CubicSpline(middles, old + _CHANGE * (goal - old))
        nodes = np.linspace(middles[0], middles[-1], _FINE * (_BINS - 1) + 1)
        return cls(direction, nodes, spline(nodes), spline(nodes, 1))

    def height(self, eps: Samples) -> Floats:
        """B of particles (S, r)."""
        return self._height(_along(eps, self.direction))

    def at(self, m: Samples) -> tuple[Floats, Floats]:
        """B and its slope."""
        return self._height(m), np.interp(m, self.nodes, self.slopes, left=0.0, right=0.0)

    def _height(self, m: Samples) -> Floats:
        return np.interp(m, self.nodes, self.heights)


def _along(eps: Samples, direction: Floats) -> Floats:
    return np.asarray(eps @ direction.astype(eps.dtype), dtype=np.float64)
