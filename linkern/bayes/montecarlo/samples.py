"""Particles of one layer together with the density that they follow, which is all that importance weights need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.averages import View, weigh
from linkern.bayes.montecarlo.law import Law, Samples, Tilt
from linkern.bayes.montecarlo.mixture import Mixture
from linkern.bayes.montecarlo.stein import excess
from linkern.bayes.montecarlo.umbrella import Umbrella
from linkern.lazy import layer_kernels

__all__ = ["SampledLayer"]

Floats = NDArray[np.float64]

_CUT = 4.0


@dataclass(frozen=True)
class SampledLayer:
    """Particles of a layer with the log-density of the law that they follow: one law per snapshot.

    The order of particles is that of a (groups, snapshots, members) array. Weights are cut at a distance `cut` above their
    median: particles are few where a law has changed, and one of them must not own an average. Independent samples of a proposal
    made to cover the law need no cut. `excess` (groups, P, P) is what kernels of groups are known to have too much.
    """

    eps: Samples
    squared: Floats
    reference: Floats
    groups: int = 1
    snapshots: int = 1
    cut: float = _CUT
    excess: Floats | None = None

    @classmethod
    def following(cls, law: Law, eps: Samples, root: Floats, tilt: Tilt, umbrella: Umbrella | None = None) -> SampledLayer:
        """Particles that follow this root and tilt under an umbrella."""
        squared = np.einsum("sr,sr->s", eps, eps, dtype=np.float64)
        view = View(law, eps, squared, np.zeros(len(eps)), root)
        return cls(eps, squared, law.log_density(squared, view.tilt_of(tilt)) + _height(umbrella, eps))

    @classmethod
    def proposed(cls, mixture: Mixture, count: int, groups: int, rng: np.random.Generator, *, scrambled: bool) -> SampledLayer:
        """Independent directions of a proposal, in groups that are stratified, or quasi-random, each by itself."""
        draws = [mixture.draw(count // groups, rng, scrambled=scrambled) for _ in range(groups)]
        eps = np.concatenate(draws)
        squared = np.einsum("sr,sr->s", eps, eps, dtype=np.float64)
        density = np.concatenate([mixture.log_density(draw) for draw in draws])
        return cls(eps, squared, density - mixture.rank / 2 * np.log(squared), groups, cut=math.inf)

    @classmethod
    def untilted(cls, law: Law, eps: Samples) -> SampledLayer:
        """Particles of the prior."""
        squared = np.einsum("sr,sr->s", eps, eps, dtype=np.float64)
        return cls(eps, squared, law.log_density(squared, np.zeros(len(eps))))

    @classmethod
    def joined(cls, history: Sequence[SampledLayer], groups: int) -> SampledLayer:
        """Snapshots of one layer, some of them joined already, whose particles fall into equal groups."""

        def join(parts: list[Any]) -> Any:
            cut = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
            return np.concatenate([part[group] for group in range(groups) for part in cut])

        eps, squared = join([layer.eps for layer in history]), join([layer.squared for layer in history])
        snapshots = sum(layer.snapshots for layer in history)
        return cls(eps, squared, join([layer.reference for layer in history]), groups, snapshots)

    def controlled(self, law: Law, root: Floats, tilt: Tilt, umbrella: Umbrella | None) -> SampledLayer:
        """The same, knowing noise of particles that follow this law; as they are if radii are integrated out."""
        if law.homogeneous:
            return self
        lazy = layer_kernels(root * math.sqrt(root.shape[1]), depth=1, activation=law.activation)[1]
        weights = np.exp(-_height(umbrella, self.eps))
        return replace(self, excess=excess(law, self.eps, weights, root, tilt, lazy, self.groups))

    def late(self) -> SampledLayer:
        """The later half of snapshots."""

        def half(values: Any) -> Any:
            each = values.reshape(self.groups, self.snapshots, -1, *values.shape[1:])
            return np.ascontiguousarray(each[:, self.snapshots // 2 :]).reshape(-1, *values.shape[1:])

        count = self.snapshots - self.snapshots // 2
        eps, squared, reference = (half(values) for values in (self.eps, self.squared, self.reference))
        return replace(self, eps=eps, squared=squared, reference=reference, snapshots=count, excess=None)

    def beside(self, other: SampledLayer) -> SampledLayer:
        """More independent samples of the same proposal."""
        both = SampledLayer.joined([self, other], self.groups)
        return replace(both, snapshots=1, cut=self.cut)

    def covering(self, old: Mixture, new: Mixture, rng: np.random.Generator) -> SampledLayer:
        """Samples of a mixture with more lobes than the one that these follow: these, and those of the new lobes alone."""
        added = new.lobes(len(old.normals))
        share = new.shares[-len(added.normals) :].sum()
        lobes = SampledLayer.proposed(
            added, math.ceil(share / (1 - share) * len(self.eps) / self.groups) * self.groups, self.groups, rng, scrambled=False
        )
        radial = new.rank / 2 * math.log(new.rank)
        here = np.logaddexp(math.log(1 - share) + self.reference, math.log(share) + added.log_density(self.eps) - radial)
        there = np.logaddexp(math.log(1 - share) + old.log_density(lobes.eps) - radial, math.log(share) + lobes.reference)
        return replace(self, reference=here).beside(replace(lobes, reference=there))

    def head(self, count: int) -> SampledLayer:
        """The first particles, as one group: views, not copies."""
        rows = slice(0, count)
        return SampledLayer(self.eps[rows], self.squared[rows], self.reference[rows], cut=self.cut)

    def group(self, index: int) -> SampledLayer:
        """The particles of one group: views, not copies."""
        size = len(self.eps) // self.groups
        rows = slice(index * size, (index + 1) * size)
        known = None if self.excess is None else self.excess[index][None]
        return SampledLayer(self.eps[rows], self.squared[rows], self.reference[rows], 1, self.snapshots, self.cut, known)

    def transported(
        self, law: Law, quadratic: Floats, umbrella: Umbrella | None, groups: int, rng: np.random.Generator
    ) -> Samples:
        """Particles under another phi^T H phi and umbrella, (S, r): resampled by weight within groups; radii follow the tilt."""
        change = law.log_density(self.squared, quadratic) + _height(umbrella, self.eps) - self.reference
        chosen = []
        for rows in np.array_split(np.arange(len(change)), groups):
            # Systematic resampling: the least noisy that is unbiased.
            points = (np.arange(len(rows)) + rng.random()) / len(rows)
            w = weigh(change[rows], cut=self.cut).w
            chosen.append(rows[np.minimum(np.searchsorted(np.cumsum(w), points), len(rows) - 1)])
        kept = np.concatenate(chosen)
        if not law.homogeneous:
            return self.eps[kept]
        stretch = law.stretch(change[kept], np.zeros(len(kept)))
        return np.asarray(self.eps[kept] * stretch.astype(self.eps.dtype)[:, None])

    def view(self, law: Law, root: Floats) -> View:
        """The particles seen through another root."""
        known = 0.0 if self.excess is None else self.excess.mean(axis=0)
        return View(law, self.eps, self.squared, self.reference, root, (self.groups, self.snapshots), self.cut, known)


def _height(umbrella: Umbrella | None, eps: Samples) -> Floats:
    return np.zeros(len(eps)) if umbrella is None else umbrella.height(eps)
