r"""An umbrella over the strength of neurons' tilts, so that those of networks enter and leave lobes.

With many points and kinks a few neurons in a hundred are strongly active: they sit in lobes of exp(-|eps|^2/2 + tau), where tau
is some hundred, while it is of order one for all others. How many there are is what the kernel learns, and hardly any enters or
leaves its lobe within a run. Between, tau takes values that neurons seldom have.

So neurons follow exp(-|eps|^2/2 + tau + b(tau*)) (umbrella sampling; Torrie and Valleau, 1977), tau* being the tilt under error
signals V* that stand still, and are averaged with weights exp(-b). With b = ln(1 - s + s u/p) the density p of ln(1 + tau*)
becomes a mixture of itself and the uniform density u over where neurons are. Strongly active neurons are a fifth of all then, so
that fewer are needed, too. V* must not answer to neurons as V does: weights that did would make V larger where it is large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

__all__ = ["Levelling"]

Floats = NDArray[np.float64]

# ln(1 + tau*) up to which there are bins, their number, and their share below which they are empty.
_TOP, _BINS, _EMPTY = 9.0, 60, 1e-5
# s, and by how much neurons are multiplied at most, over s.
_SHARE, _MOST = 0.5, 100.0
# Part of what is known about p that a histogram replaces, and of b in which it grows from nothing, per histogram.
_NEWS, _GROWTH = 0.05, 0.05


class Levelling:
    """b, a piecewise linear function of ln(1 + tau*) that adapts to weighted histograms; zero before the first."""

    def __init__(self) -> None:
        self._edges = np.linspace(0, _TOP, _BINS + 1)
        self._heights, self._slopes = np.zeros(_BINS + 1), np.zeros(_BINS)
        self._density: Floats | None = None
        self._grown = 0.0

    def height(self, tau: Floats) -> Floats:
        """b."""
        return np.interp(np.log1p(tau), self._edges, self._heights)

    def slope(self, tau: Floats) -> Floats:
        """db/dtau*."""
        bins = np.minimum((np.log1p(tau) * (_BINS / _TOP)).astype(int), _BINS - 1)
        return np.asarray(self._slopes[bins] / (1 + tau))

    def adapt(self, tau: Floats, weights: Floats) -> None:
        """Follow the density of neurons that have these weights."""
        # What is beyond the top is in the last bin.
        shares = np.histogram(np.minimum(np.log1p(tau), _TOP), self._edges, weights=weights)[0] / weights.sum()
        self._density = shares if self._density is None else self._density + _NEWS * (shares - self._density)
        self._grown = min(self._grown + _GROWTH, 1.0)
        uniform = 1 / np.count_nonzero(self._density > _EMPTY)
        density = gaussian_filter1d(self._density, 1.0, mode="nearest")
        goal = np.log(1 - _SHARE + _SHARE * uniform / (density + uniform / _MOST))
        middles = (self._edges[1:] + self._edges[:-1]) / 2
        self._heights = self._grown * np.interp(self._edges, middles, gaussian_filter1d(goal, 1.0, mode="nearest"))
        self._slopes = np.diff(self._heights) / np.diff(self._edges)
