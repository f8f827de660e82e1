"""What all ways of sampling end with: a solution on all samples, on disjoint groups of them, and what speaks against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from linkern.bayes.montecarlo.anneal import Rung
from linkern.bayes.montecarlo.carry import carry, few
from linkern.bayes.montecarlo.lobes import LobeCheck
from linkern.bayes.montecarlo.observables.sites import SaddleSample, SiteEnsemble
from linkern.bayes.montecarlo.saddle import Found, Problem, State, solve_on
from linkern.bayes.montecarlo.samples import SampledLayer
from linkern.numerics.threads import side_by_side

__all__ = ["Average", "Outcome", "averaged", "pareto_k", "pooled_solution", "relative_errors", "strength"]

Floats = NDArray[np.float64]

# Kernels are some ten times less sensitive to the equations' residual than duals. Errors need few digits: a group's residual,
# which starts as its noise, is reduced to this fraction.
_TOLERANCE, _GROUP_TOLERANCE, _FRACTION, _MAPS = 1e-3, 2e-2, 0.1, 40
# Share in the sum of squared weights below which a single one does not matter.
_NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Outcome:
    """A solution that is precise enough, or all that the budget allows.

    Attributes
    ----------
    problem : Problem
    sample, sections : SaddleSample and tuple of them
        From all samples and from disjoint, independent parts of them.
    errors : (L,) array
        Standard errors of Phi^1..Phi^L relative to them.
    residual, effective, bent, heaviest : float
        Of the equations; effective fraction of the samples; share of weight at the edge of the domain; Pareto k of the weights.
    least_effective : float
        Fraction below which the samples do not represent the solution.
    needed, particles, snapshots : int
        Samples that the tolerance takes, None if no number does; size of the average.
    acceptance, path, lobes, doubts : tuples
    """

    problem: Problem
    sample: SaddleSample
    sections: tuple[SaddleSample, ...]
    errors: Floats
    residual: float
    effective: float
    bent: float
    heaviest: float
    least_effective: float
    needed: int | None
    particles: int
    snapshots: int
    acceptance: tuple[float, ...]
    path: tuple[Rung, ...]
    lobes: tuple[LobeCheck, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Average:
    """The saddle point on pooled samples and on those of every group, with standard errors of Phi^1..Phi^L."""

    problem: Problem
    layers: list[SampledLayer]
    found: Found
    groups: list[Found]
    errors: Floats

    def needed(self, tol: float) -> int:
        """How many samples would take every error to `tol`."""
        return math.ceil(len(self.layers[0].eps) * (float(self.errors.max()) / tol) ** 2)

    def outcome(
        self,
        *,
        rng: np.random.Generator,
        least_effective: float,
        needed: int,
        snapshots: int,
        acceptance: tuple[float, ...],
        path: Sequence[Rung],
        lobes: Sequence[LobeCheck],
        doubts: Sequence[str],
    ) -> Outcome:
        """Turn the average into an outcome; radii that were integrated out are drawn."""
        found = self.found
        rngs = rng.spawn(len(self.groups))

        def section(index: int) -> SaddleSample:
            return _sample(self.problem, [layer.group(index) for layer in self.layers], self.groups[index], rngs[index])[0]

        sections = side_by_side(lambda some: [section(index) for index in range(some.start, some.stop)], len(rngs))
        sample, mismatch = _sample(self.problem, self.layers, found, rng)
        return Outcome(
            problem=self.problem,
            sample=sample,
            sections=tuple(chain.from_iterable(sections)),
            errors=self.errors,
            residual=max(found.residual, mismatch),
            effective=found.effective,
            bent=found.bent,
            heaviest=max(pareto_k(weights) for weights in found.weights),
            least_effective=least_effective,
            needed=needed,
            particles=len(self.layers[0].eps) // snapshots,
            snapshots=snapshots,
            acceptance=acceptance,
            path=tuple(path),
            lobes=tuple(lobes),
            doubts=tuple(doubts),
        )


def pooled_solution(problem: Problem, layers: Sequence[SampledLayer], start: State, least_effective: float) -> Found:
    """Solve on all samples from `start`."""
    start = replace(start, secants=())
    return solve_on(problem, layers, start, tol=_TOLERANCE, max_steps=_MAPS, least_effective=least_effective)


def averaged(problem: Problem, layers: Sequence[SampledLayer], found: Found, least_effective: float) -> Average:
    """Solve on every group of samples from the solution on all."""

    def solved(index: int) -> Found:
        return solve_on(
            problem,
            [layer.group(index) for layer in layers],
            found.state,
            tol=_GROUP_TOLERANCE,
            reduction=_FRACTION,
            max_steps=_MAPS,
            least_effective=least_effective,
        )

    parts = side_by_side(lambda some: [solved(index) for index in range(some.start, some.stop)], layers[0].groups)
    groups = list(chain.from_iterable(parts))
    return Average(problem, list(layers), found, groups, relative_errors(found.kernels, [group.kernels for group in groups]))


def relative_errors(kernels: Floats, parts: Sequence[Floats]) -> Floats:
    """Errors of Phi^1..Phi^L (L,) that G independent parts show, relative in Frobenius norm.

    The standard error, and beside it the bias of solutions on finite samples: parts are G times smaller and show G times as much.
    """
    G = len(parts)
    spread = np.linalg.norm(np.std(parts, axis=0, ddof=1), axis=(1, 2)) / math.sqrt(G)
    bias = np.linalg.norm(np.mean(parts, axis=0) - kernels, axis=(1, 2)) / (G - 1)
    return np.asarray((np.hypot(spread, bias) / np.linalg.norm(kernels, axis=(1, 2)))[1:])


def strength(l: int, average: Average) -> tuple[float, float]:
    """<-phi^T hatPhi phi> of layer index l, and its standard error from groups."""
    found, layer = average.found, average.layers[l]
    tilt = layer.view(average.problem.laws[l], found.roots[l]).tilt_of(found.tilt(l))
    each = -found.weights[l] * found.rho[l] * tilt
    groups = each.reshape(layer.groups, -1).sum(axis=1) * layer.groups
    return float(groups.mean()), float(groups.std(ddof=1)) / math.sqrt(layer.groups)


def pareto_k(weights: Floats) -> float:
    """Shape of a generalised Pareto distribution fitted to the largest weights; -inf where none of them matters."""
    if weights.max() ** 2 < _NEGLIGIBLE * np.square(weights).sum():
        # Their tail has a shape, but no consequence.
        return -math.inf
    size = min(len(weights) // 5, int(3 * math.sqrt(len(weights))))
    tail = np.partition(weights, -size - 1)[-size - 1 :]
    excess = tail - tail.min()
    return float(stats.genpareto.fit(excess[excess > 0] / excess.mean(), 0.3, floc=0, scale=1.0)[0])


def _sample(
    problem: Problem, layers: Sequence[SampledLayer], found: Found, rng: np.random.Generator
) -> tuple[SaddleSample, float]:
    """Weighted sites, and how badly they carry the kernels."""
    sites, mismatch = [], 0.0
    for l, (law, layer) in enumerate(zip(problem.laws, layers, strict=True)):
        root, weights, lengths = found.roots[l], found.weights[l], None
        if law.homogeneous:
            # |eps|^2 = chi^2_r/Q with rho = r/Q.
            lengths = np.sqrt(rng.chisquare(law.rank, len(layer.eps)) * found.rho[l] / law.rank)
        else:
            # Kernels are better known than by these samples. The readout asks for its own directions only.
            phi = layer.view(law, root).phi
            columns = found.V if l == len(layers) - 1 and few(phi) else None
            weights, error = carry(phi, found.kernels[l + 1], columns, weights)
            mismatch = max(mismatch, error)
        sites.append(SiteEnsemble(root @ root.T, layer.eps, root, weights, law.activation, lengths))
    return SaddleSample(found.kernels, found.duals, found.V, tuple(sites)), mismatch
