"""Particles of one layer together with the density that they follow, which is all that importance weights need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.averages import View, weigh
from linkern.bayes.montecarlo.law import Law, Samples, Tilt

__all__ = ["SampledLayer"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SampledLayer:
    """Particles of a layer with the log-density of the law that they follow: one law per snapshot.

    The order of particles is that of a (groups, snapshots, members) array.
    """

    eps: Samples
    squared: Floats
    reference: Floats
    groups: int = 1
    snapshots: int = 1

    @classmethod
    def following(cls, law: Law, eps: Samples, root: Floats, tilt: Tilt) -> SampledLayer:
        """Particles that follow this root and tilt."""
        squared = np.einsum("sr,sr->s", eps, eps, dtype=np.float64)
        view = View(law, eps, squared, np.zeros(len(eps)), root)
        return cls(eps, squared, law.log_density(squared, view.tilt_of(tilt)))

    @classmethod
    def untilted(cls, law: Law, eps: Samples) -> SampledLayer:
        """Particles of the prior."""
        squared = np.einsum("sr,sr->s", eps, eps, dtype=np.float64)
        return cls(eps, squared, law.log_density(squared, np.zeros(len(eps))))

    @classmethod
    def joined(cls, history: Sequence[SampledLayer], groups: int) -> SampledLayer:
        """Snapshots of one layer whose particles fall into equal groups."""

        def join(parts: list[Any]) -> Any:
            cut = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
            return np.concatenate([part[group] for group in range(groups) for part in cut])

        eps, squared = join([layer.eps for layer in history]), join([layer.squared for layer in history])
        return cls(eps, squared, join([layer.reference for layer in history]), groups, len(history))

    def group(self, index: int) -> SampledLayer:
        """The particles of one group: views, not copies."""
        size = len(self.eps) // self.groups
        rows = slice(index * size, (index + 1) * size)
        return SampledLayer(self.eps[rows], self.squared[rows], self.reference[rows], 1, self.snapshots)

    def transported(self, law: Law, root: Floats, tilt: Tilt, groups: int, rng: np.random.Generator) -> Samples:
        """Particles of another root and tilt, (S, r): resampled by weight within groups; radii follow the tilt."""
        view = self.view(law, root)
        change = law.log_density(self.squared, view.tilt_of(tilt)) - self.reference
        chosen = []
        for rows in np.array_split(np.arange(len(change)), groups):
            # Systematic resampling: the least noisy that is unbiased.
            points = (np.arange(len(rows)) + rng.random()) / len(rows)
            w = weigh(change[rows]).w
            chosen.append(rows[np.minimum(np.searchsorted(np.cumsum(w), points), len(rows) - 1)])
        kept = np.concatenate(chosen)
        if not law.homogeneous:
            return self.eps[kept]
        stretch = law.stretch(change[kept], np.zeros(len(kept)))
        return np.asarray(self.eps[kept] * stretch.astype(self.eps.dtype)[:, None])

    def view(self, law: Law, root: Floats) -> View:
        """The particles seen through another root."""
        return View(law, self.eps, self.squared, self.reference, root, (self.groups, self.snapshots))
