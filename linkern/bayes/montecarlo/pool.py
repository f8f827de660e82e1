r"""The final average over particles: snapshots gathered until the error is what was asked for.

Particles of different groups never meet: resampling stays within groups. What two groups share, the laws under which they move,
is made good by their weights, so that solutions on single groups are independent draws of the error, whatever the autocorrelation
in time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from linkern.bayes.montecarlo.anneal import Ensemble
from linkern.bayes.montecarlo.lobes import LobeCheck, check_lobes
from linkern.bayes.montecarlo.outcome import Average, Outcome, averaged, pooled_solution, strength
from linkern.bayes.montecarlo.samples import SampledLayer

__all__ = ["pooled"]

Floats = NDArray[np.float64]

# Rounds between two snapshots.
_SPACING = 2
_FIRST_SNAPSHOTS, _RESTARTS = 8, 4
_LEAST_EFFECTIVE = 0.5
# A drift of the tilts this unlikely under stationarity means that the first half was still on its way.
_DRIFT = 1e-3
# Correlation that particles with few strongly active among them lose last, how much longer that is waited for, and tilts that
# are rounding.
_LARGEST_MEMORY, _PATIENCE, _VANISHING = 0.3, 3, 1e-6
# Standard errors between particles and importance sampling that are no accident.
_DISAGREEMENT = 4.0
# Minimum of Q below which lobes hold few neurons: without a precise importance sample to tell, they may be missing.
_RARE, _CONCLUSIVE = 0.03, 0.1


def pooled(ensemble: Ensemble, tol: float, most: int, rng: np.random.Generator) -> Outcome:
    """Equilibrate, then gather snapshots until the standard error of every kernel is `tol` or there are `most` samples."""
    ensemble.settle()
    for population in ensemble.populations:
        population.frozen = True
    problem, particles = ensemble.problem, len(ensemble.populations[0].x)
    assert ensemble.law is not None
    law = ensemble.law

    def gathered(before: list[list[SampledLayer]], count: int) -> list[SampledLayer]:
        """Layers of all snapshots, those of a group together."""
        taken = before
        for _ in range(count):
            for _ in range(_SPACING):
                # The law need not be the solution's: weights make good what is between them.
                ensemble.wander(law)
            taken.append(ensemble.layers)
        layers = [SampledLayer.joined(history, ensemble.groups) for history in zip(*taken, strict=True)]
        umbrellas = (population.umbrella for population in ensemble.populations)
        followed = zip(problem.laws, law.roots, law.tilts, umbrellas, strict=True)
        return [layer.controlled(*where) for layer, where in zip(layers, followed, strict=True)]

    largest = max(most // particles, _FIRST_SNAPSHOTS)
    layers = gathered([], _FIRST_SNAPSHOTS)
    restarts = 0
    while True:
        count = layers[0].snapshots
        found = pooled_solution(problem, layers, ensemble.state, _LEAST_EFFECTIVE)
        average = averaged(problem, layers, found, _LEAST_EFFECTIVE)
        drifting, memories = _drifts(average, ensemble, count), _memories(average, ensemble, count)
        needed = max(average.needed(tol), count * particles)
        # A little more than the estimate asks for, which is itself uncertain by a fifth.
        wanted = max(math.ceil(1.1 * needed / particles) if needed > count * particles else count, _forgotten(memories, count))
        if drifting and restarts < _RESTARTS:
            restarts += 1
            layers = [layer.late() for layer in layers]
            more = max(min(count, largest - layers[0].snapshots), 1)
        elif wanted <= count or count >= largest:
            break
        else:
            more = min(wanted, largest) - count
        # Before particles are there twice.
        del average, found
        layers = gathered([layers], more)
    lobes, doubts = _lobes_represented(ensemble, average, rng)
    if drifting:
        doubts.append("averages still drift; try more particles or samples")
    doubts.extend(
        f"layer {l}: particles remember where the average began (tilts correlate by {memory:.2f}); try networks or more samples"
        for l, memory in enumerate(memories, start=1)
        if memory > _LARGEST_MEMORY
    )
    return average.outcome(
        rng=rng,
        least_effective=_LEAST_EFFECTIVE,
        needed=needed,
        snapshots=count,
        acceptance=tuple(population.acceptance for population in ensemble.populations),
        path=ensemble.path,
        lobes=lobes,
        doubts=doubts,
    )


def _drifts(average: Average, ensemble: Ensemble, count: int) -> bool:
    """Whether the tilt of any layer differs between the halves of the run by more than chance allows, over groups."""
    found, half = average.found, count // 2
    for l, (law, layer) in enumerate(zip(ensemble.problem.laws, average.layers, strict=True)):
        energy = layer.view(law, found.roots[l]).tilt_of(found.tilt(l)) * found.rho[l] * found.weights[l]
        table = energy.reshape(layer.groups, count, -1).sum(axis=2)
        change = table[:, -half:].sum(axis=1) - table[:, :half].sum(axis=1)
        if stats.ttest_1samp(change, 0.0).pvalue < _DRIFT / ensemble.problem.depth:
            return True
    return False


def _memories(average: Average, ensemble: Ensemble, count: int) -> list[float]:
    """Correlation over particles of their tilts at the first and the last snapshot, of every layer; 0 where tilts vanish.

    How many neurons are strongly active is known only once they have forgotten whether they were: averages drift so slowly then
    that it can look like nothing.
    """
    memories = []
    for l, (law, layer) in enumerate(zip(ensemble.problem.laws, average.layers, strict=True)):
        tilt = layer.view(law, average.found.roots[l]).tilt_of(average.found.tilt(l)).reshape(layer.groups, count, -1)
        first, last = (tilt[:, index].ravel() for index in (0, -1))
        vanishing = min(np.abs(first).max(), np.abs(last).max()) < _VANISHING
        memories.append(0.0 if vanishing else float(np.corrcoef(first, last)[0, 1]))
    return memories


def _forgotten(memories: list[float], count: int) -> int:
    """How many snapshots it takes particles to forget, if memories decay exponentially and are worth waiting for."""
    worst = max(memories)
    if worst <= _LARGEST_MEMORY:
        return count
    longer = math.log(_LARGEST_MEMORY) / math.log(min(worst, 1 - 1e-9))
    return count if longer > _PATIENCE else math.ceil(longer * count)


def _lobes_represented(ensemble: Ensemble, average: Average, rng: np.random.Generator) -> tuple[list[LobeCheck], list[str]]:
    """Compare the strength of every tilt with an importance sample from scratch; return the checks and what they object to."""
    checked, doubts, found = [], [], average.found
    for l, (law, layer) in enumerate(zip(ensemble.problem.laws, average.layers, strict=True)):
        if not law.homogeneous:
            continue
        check = check_lobes(law, found.roots[l], found.tilt(l), layer.eps, rng)
        energy, noise = strength(l, average)
        conclusive = check.standard_error <= _CONCLUSIVE * check.energy
        if not conclusive and check.lowest < _RARE:
            doubts.append(
                f"layer {l + 1}: the tilt almost has no finite average (Q down to {check.lowest:.2g} on the unit sphere), "
                "rare strongly active neurons are missing; try more particles"
            )
        elif abs(energy - check.energy) > _DISAGREEMENT * math.hypot(noise, check.standard_error):
            doubts.append(
                f"layer {l + 1}: particles find the tilt's strength {energy:.4g}, importance sampling {check.energy:.4g}; "
                "rare strongly active neurons are missing; try more particles"
            )
        checked.append(check)
    return checked, doubts
