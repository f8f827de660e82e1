r"""The final average: the saddle point solved on many snapshots together, and on disjoint groups of particles for its error.

Particles of different groups never meet: resampling stays within groups. What two groups share, the laws under which they move,
is made good by their weights, so that solutions on single groups are independent draws of the error, whatever the autocorrelation
in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from linkern.bayes.montecarlo.anneal import Ensemble
from linkern.bayes.montecarlo.saddle import Found, Problem, State, solve_on
from linkern.bayes.montecarlo.samples import SampledLayer

__all__ = ["Pool"]

Floats = NDArray[np.float64]

_TOLERANCE, _MAPS = 5e-4, 24
# A drift of the tilts this unlikely under stationarity means that the first half was still on its way.
_DRIFT = 1e-3


@dataclass
class Pool:
    """Snapshots of all layers, each under its own law.

    Attributes
    ----------
    groups : int
        Disjoint groups of particles.
    snapshots : list of lists of SampledLayer
        One list of layers per snapshot.
    """

    groups: int
    snapshots: list[list[SampledLayer]] = field(default_factory=list)

    def gather(self, ensemble: Ensemble, count: int, rounds: int) -> None:
        """Add `count` snapshots, `rounds` rounds apart."""
        for _ in range(count):
            ensemble.stay(rounds)
            self.snapshots.append(ensemble.layers)

    def forget_first_half(self) -> None:
        """Drop the older half."""
        self.snapshots = self.snapshots[len(self.snapshots) // 2 :]

    def layers(self) -> list[SampledLayer]:
        """All snapshots of all particles, layer by layer; those of a group stand together."""
        return [SampledLayer.joined(history, self.groups) for history in zip(*self.snapshots, strict=True)]

    def solve(self, problem: Problem, layers: list[SampledLayer], start: State) -> Found:
        """The saddle point on pooled layers, or on those of a group."""
        return solve_on(problem, layers, start, tol=_TOLERANCE, max_steps=_MAPS)

    def drifts(self, problem: Problem, layers: list[SampledLayer], found: Found) -> bool:
        """Whether the tilt of any layer differs between the halves of the run by more than chance allows, over groups."""
        half = len(self.snapshots) // 2
        for l, (law, layer) in enumerate(zip(problem.laws, layers, strict=True)):
            energy = layer.view(law, found.roots[l]).tilt_of(found.tilt(l)) * found.rho[l] * found.weights[l]
            table = energy.reshape(self.groups, len(self.snapshots), -1).sum(axis=2)
            change = table[:, -half:].sum(axis=1) - table[:, :half].sum(axis=1)
            if stats.ttest_1samp(change, 0.0).pvalue < _DRIFT / problem.depth:
                return True
        return False
