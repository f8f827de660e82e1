"""Single neurons of wide networks as a solution: weighted so that they carry given kernels, with the duals that they make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from linkern.bayes.montecarlo.averages import View
from linkern.bayes.montecarlo.carry import carry, few
from linkern.bayes.montecarlo.law import Samples, Tilt, roots_of
from linkern.bayes.montecarlo.observables.sites import SaddleSample, SiteEnsemble
from linkern.bayes.montecarlo.saddle import Problem
from linkern.bayes.montecarlo.wide.network import Snapshot
from linkern.numerics.threads import side_by_side

__all__ = ["network_sites"]

Floats = NDArray[np.float64]


def network_sites(
    problem: Problem, drawn: Sequence[Snapshot], kernels: Floats, parts: Floats
) -> tuple[SaddleSample, tuple[SaddleSample, ...], float]:
    """Solutions with these kernels (L, P, P), and those of single networks (n, L, P, P), on the neurons of some snapshots.

    The last is how badly neurons carry the kernels of the first (`Carried.error`).
    """
    # Neurons of a network stand together.
    eps = [np.stack([snapshot.eps[l] for snapshot in drawn], axis=1) for l in range(problem.depth)]
    shape = eps[0].shape[:-1]
    weighted = [snapshot.weights for snapshot in drawn if snapshot.weights is not None]
    weights = np.stack(weighted, axis=1) if weighted else np.ones(shape)
    weights = weights.reshape(shape[0], -1) / weights[0].size
    sample, mismatch = _solution(
        problem, kernels, [neurons.reshape(-1, neurons.shape[-1]) for neurons in eps], weights.ravel() / len(weights)
    )

    def section(index: int) -> SaddleSample:
        own = [neurons[index].reshape(-1, neurons.shape[-1]) for neurons in eps]
        return _solution(problem, parts[index], own, weights[index])[0]

    sections = side_by_side(lambda some: [section(index) for index in range(some.start, some.stop)], len(parts))
    return sample, tuple(chain.from_iterable(sections)), mismatch


def _solution(problem: Problem, kernels: Floats, eps: Sequence[Samples], drawn: Floats) -> tuple[SaddleSample, float]:
    """Sites that carry given kernels, near the weights with which they were drawn, their duals, and how badly they carry."""
    L, g = problem.depth, problem.variances
    V = linalg.solve(g[L] * kernels[-1] + problem.temperature * np.eye(len(kernels[-1])), problem.Y, assume_a="pos")
    sites, views, mismatch = [], [], 0.0
    for l, law in enumerate(problem.laws):
        root = problem.root if l == 0 else roots_of(g[l] * kernels[l - 1])[0]
        views.append(View(law, eps[l], np.ones(len(eps[l])), np.zeros(len(eps[l])), root))
        phi = views[l].phi
        # The readout asks for its own directions only.
        weights, error = carry(phi, kernels[l], V if l == L - 1 and few(phi) else None, drawn)
        mismatch = max(mismatch, error)
        sites.append(SiteEnsemble(root @ root.T, eps[l], root, weights, law.activation))
    tilts = [Tilt.of_readout(V, problem.gamma0**2 * float(g[L]))]
    for l in range(L - 1, 0, -1):
        w = sites[l].weights
        tilts.append(Tilt(g[l] * views[l].dual(sites[l].base, tilts[-1], w, np.ones(len(w)))))
    duals = np.stack([tilt.matrix for tilt in reversed(tilts)])
    return SaddleSample(np.concatenate([problem.C[None], kernels]), duals, V, tuple(sites)), mismatch
