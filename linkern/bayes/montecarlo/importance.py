r"""The saddle point of activations of degree one on independent samples of a proposal fitted to every layer's law.

From weak to strong feature learning, as with particles, but with fresh samples at every step: solve on samples of the mixtures;
add the lobes that the tilts found have and the mixtures lack, until there are none; fit the mixtures to what was found. Samples
are independent and their weights known, so that errors need no autocorrelations and the effective sample size says whether all
this worked. It does not in many dimensions at strong tilts; particles do not need proposals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.anneal import LawPoint, Rung
from linkern.bayes.montecarlo.law import Law, Tilt
from linkern.bayes.montecarlo.lobes import LobeCheck, minima
from linkern.bayes.montecarlo.mixture import NEW_SHARE, Mixture
from linkern.bayes.montecarlo.outcome import Average, Outcome, averaged, pooled_solution, strength
from linkern.bayes.montecarlo.saddle import Found, Problem, State, solve_on
from linkern.bayes.montecarlo.samples import SampledLayer

__all__ = ["OutOfReachError", "Proposals", "proposed"]

Floats = NDArray[np.float64]

# With a proposal on both sides, Q can be followed almost to zero.
_EDGE = 3e-3
# Samples at a step, per point and at least, at most; samples that a fit uses; samples of the first final average.
_PER_POINT, _LEAST_SAMPLES, _MOST_SAMPLES, _FITTED, _FIRST = 256, 8192, 32768, 16384, 32768
_RATIO, _HALVINGS = 1.5, 1
# Lobes need samples before a tilt has them: the mean weight of a lobe's probes may not exceed this multiple of all, which is
# larger where a last average has to be taken again.
_LARGEST_WEIGHT, _LARGEST_LAST_WEIGHT, _PROBES, _MOST_LOBES = 5.0, 15.0, 64, 32
_HUGE = 100.0
# Tilts still change: the narrowest lobe of a proposal is not as narrow as the narrowest that they may have.
_LEAST_LOW = 0.01
_TOLERANCE, _MAPS = 1e-2, 20
# A step ends when this fraction of its samples is effective, or after so many fits or attempts.
_GOOD, _FITS, _ATTEMPTS, _GROWTH, _RETREAT = 0.3, 2, 6, 4, 0.95
# Residual of the equations beyond which samples are too few for a step, and those of a group for its error; where twice as many
# do not reduce it by this factor, or leave as much as that, the solution is lost.
_UNSOLVED, _UNSOLVED_GROUP, _FALLS, _LOST = 0.1, 0.03, 0.7, 0.15
# Samples of the last average on which the equations stay unsolved, before other methods are more promising.
_FAILURES = 2
# Samples per sample asked for that are enough: errors are not known to a twentieth.
_ENOUGH = 1.1
# Effective fraction of samples below which a proposal does not cover a law, and that which the last step should leave: with
# less, final averages were out of reach or took longer than other methods.
_LEAST_EFFECTIVE, _LEAST_CLIMBED = 0.1, 0.2


class OutOfReachError(Exception):
    """Mixtures do not cover the laws."""


class LostError(OutOfReachError):
    """More samples do not solve the equations: they have several solutions, or none that samples know."""


class Proposals:
    """Mixtures of all layers and the state whose laws they cover.

    Unless `patient`, they give up where they would be late: when every step loses as much as the last, or samples of a step do
    not solve the equations (measured: never of those that arrived, and more samples took minutes to tell).

    Attributes
    ----------
    problem : Problem
    mixtures : list of Mixture
    state : State
    samples : int
        Per layer and step; doubled where the equations have no solution on fewer.
    lowest : list of float
        Smallest Q found on the unit sphere, per layer.
    path : list of Rung
    """

    def __init__(
        self,
        problem: Problem,
        start: State,
        groups: int,
        rng: np.random.Generator,
        report: Callable[[Rung], None] | None,
        *,
        patient: bool = True,
    ) -> None:
        laws = tuple(replace(law, edge=_EDGE) for law in problem.laws)
        self.problem, self.state, self.groups, self.rng = replace(problem, laws=laws), start, groups, rng
        self.mixtures = [Mixture.prior(law.rank) for law in laws]
        self.samples = max(_LEAST_SAMPLES, _PER_POINT * len(problem.C))
        self.lowest = [1.0] * len(laws)
        self.path: list[Rung] = []
        self._report, self._patient = report or (lambda rung: None), patient

    def climb(self, gamma0: float, temperature: float) -> None:
        """Follow the solution to (gamma0, temperature) along a geometric ladder in both; OutOfReachError where mixtures fail."""
        here, start = self.problem.gamma0, self.problem.temperature
        if not self.path:
            self.rung(here, start)
        count = math.ceil(max(abs(math.log(gamma0 / here)), abs(math.log(temperature / start)) / 2) / math.log(_RATIO))
        for step in range(1, count + 1):
            share = step / count
            self.rung(here * (gamma0 / here) ** share, start * (temperature / start) ** share)
            effective = self.path[-1].effective
            loss = min(effective / self.path[-2].effective, 1.0)
            if not self._patient and effective * loss ** (count - step) < _LEAST_CLIMBED:
                raise OutOfReachError

    def rung(self, gamma0: float, temperature: float, halvings: int = _HALVINGS) -> None:
        """Solve at these parameters, or at intermediate ones first, and fit the mixtures to the solution."""
        start = State(self.state.duals, self.state.signal * (self.problem.gamma0 / gamma0))
        before = self.problem, self.state, list(self.mixtures)
        here = replace(self.problem, gamma0=gamma0, temperature=temperature)
        try:
            found = self._covered(here, start)
        except OutOfReachError as error:
            if not halvings or isinstance(error, LostError):
                raise
            self.problem, self.state, self.mixtures = before
            middle = math.sqrt(gamma0 * self.problem.gamma0), math.sqrt(temperature * self.problem.temperature)
            self.rung(*middle, halvings - 1)
            return self.rung(gamma0, temperature, halvings - 1)
        if found.residual > _LOST:
            raise LostError
        V, Y = found.V, here.Y
        self.path.append(
            Rung(gamma0, temperature, float((V * Y).sum()), float((V**2).sum()), found.kernels, found.effective, found.residual)
        )
        self._report(self.path[-1])

    def fit(self, layers: list[SampledLayer], found: Found) -> None:
        """Fit the mixtures to a solution on samples of them."""
        tilts = LawPoint.of(found, self.problem).tilts
        for l, (law, layer) in enumerate(zip(self.problem.laws, layers, strict=True)):
            rows = slice(0, _FITTED)
            eps, rho, weights = layer.eps[rows], found.rho[l][rows], found.weights[l][rows]
            # Rare neurons that carry much of the tilt deserve samples for what they carry, not only for how many they are.
            energy = weights * rho * np.abs(tilts[l].quadratic(law.activation.value(eps @ found.roots[l].T)))
            weights = weights / weights.sum() + energy / max(energy.sum(), np.finfo(float).tiny)
            # Radii that are integrated out belong to what a mixture is fitted to.
            lengths = np.sqrt(self.rng.chisquare(law.rank, len(eps)) * rho / law.rank)
            self.mixtures[l] = self.mixtures[l].fitted(eps * lengths[:, None].astype(eps.dtype), weights / weights.sum())

    def draw(self, count: int, *, scrambled: bool) -> list[SampledLayer]:
        """Samples of all layers."""
        return [SampledLayer.proposed(mixture, count, self.groups, self.rng, scrambled=scrambled) for mixture in self.mixtures]

    def more(self, layers: list[SampledLayer], count: int) -> list[SampledLayer]:
        """Quasi-random samples of all layers, `count` together with those that there are of the same mixtures."""
        if not layers:
            return self.draw(count, scrambled=True)
        missing = count - len(layers[0].eps)
        if missing < self.groups:
            return layers
        return [old.beside(part) for old, part in zip(layers, self.draw(missing, scrambled=True), strict=True)]

    def _covered(self, problem: Problem, start: State) -> Found:
        """Move to a solution on samples that include those of the lobes that it has."""
        self.problem, self.state, fits, unsolved = problem, start, 0, math.inf
        layers: list[SampledLayer] | None = None
        for _ in range(_ATTEMPTS):
            layers = layers or self.draw(self.samples, scrambled=False)
            found = solve_on(problem, layers, self.state, tol=_TOLERANCE, max_steps=_MAPS, least_effective=_LEAST_EFFECTIVE)
            if found.effective < _LEAST_EFFECTIVE:
                self.retreat()
                layers = None
                continue
            covering = self.cover(layers, found)
            if covering is not None:
                layers = covering
                continue
            if found.residual > _UNSOLVED and self.samples < _MOST_SAMPLES:
                if not self._patient or found.residual > _FALLS * unsolved:
                    raise LostError
                # Equations with the noise of so few samples have no solution.
                self.samples, unsolved = 2 * self.samples, found.residual
                layers = None
                continue
            self.state = found.state
            self.fit(layers, found)
            layers, fits = None, fits + 1
            if found.effective >= _GOOD or fits == _FITS:
                break
        if found.effective < _LEAST_EFFECTIVE:
            raise OutOfReachError
        return found

    def retreat(self) -> None:
        """Start from weaker tilts: noise has taken them to where samples of a lobe leave no average."""
        self.state = State(_RETREAT * self.state.duals, self.state.signal)

    def cover(self, layers: list[SampledLayer], found: Found, largest: float = _LARGEST_WEIGHT) -> list[SampledLayer] | None:
        """Add the lobes of a solution's tilts that the mixtures lack, and samples of them; None if there are none."""
        covering = [self._cover(l, layer, found, largest) for l, layer in enumerate(layers)]
        return None if all(new is old for new, old in zip(covering, layers, strict=True)) else covering

    def _cover(self, l: int, layer: SampledLayer, found: Found, largest: float) -> SampledLayer:
        law, root, tilt = self.problem.laws[l], found.roots[l], LawPoint.of(found, self.problem).tilts[l]
        directions, lows = minima(law, root, tilt, layer.eps, self.rng)
        self.lowest[l] = float(lows.min(initial=1.0))
        directions, lows = directions[:_MOST_LOBES], np.maximum(lows[:_MOST_LOBES], _LEAST_LOW)
        mixture = self.mixtures[l]
        if len(lows) and not len(mixture.normals):
            # Two opposite lobes to begin with: fits need something to fit.
            chosen = [0, *np.flatnonzero(directions @ directions[0] < 0)[:1]]
            self.mixtures[l] = mixture.with_lobes(directions[chosen], lows[chosen])
            return SampledLayer.proposed(self.mixtures[l], len(layer.eps), self.groups, self.rng, scrambled=False)
        lobes = [Mixture.of_lobe(direction, low) for direction, low in zip(directions, lows, strict=True)]
        log_mean = layer.head(_FITTED).view(law, root).weights(tilt)[0].log_mean
        chosen = _missing(law, root, tilt, mixture, lobes, log_mean, largest, self.rng)
        if not chosen:
            return layer
        self.mixtures[l] = mixture.with_lobes(directions[chosen], lows[chosen])
        return layer.covering(mixture, self.mixtures[l], self.rng)


def _missing(
    law: Law,
    root: Floats,
    tilt: Tilt,
    mixture: Mixture,
    lobes: list[Mixture],
    log_mean: float,
    largest: float,
    rng: np.random.Generator,
) -> list[int]:
    """Which lobes a mixture lacks: probes of them have mean weights above `largest`, also with those already chosen."""
    if not lobes:
        return []
    probes = np.concatenate([lobe.draw(_PROBES, rng) for lobe in lobes])
    sample = SampledLayer.following(law, probes, root, tilt)
    log_target = sample.reference + law.rank / 2 * np.log(sample.squared) - log_mean
    log_density = mixture.log_density(probes)
    chosen: list[int] = []
    while len(chosen) + len(mixture.shares) < _MOST_LOBES:
        weights = np.exp(np.minimum(log_target - log_density, _HUGE)).reshape(len(lobes), -1).mean(axis=1)
        weights[chosen] = 0.0
        worst = int(np.argmax(weights))
        if weights[worst] < largest:
            break
        chosen.append(worst)
        log_density = np.logaddexp(log_density, math.log(NEW_SHARE) + lobes[worst].log_density(probes))
    return chosen


def proposed(proposals: Proposals, tol: float, most: int) -> Outcome:
    """Quasi-random samples of the mixtures, as many as the standard error asked for takes or the budget allows."""
    problem, count, fitted, failures = proposals.problem, min(_FIRST, most), False, 0
    layers: list[SampledLayer] = []
    for _ in range(_ATTEMPTS):
        layers = proposals.more(layers, count)
        found = pooled_solution(problem, layers, proposals.state, _LEAST_EFFECTIVE)
        if found.effective < _LEAST_EFFECTIVE or found.residual > _UNSOLVED_GROUP:
            # Also where tilts of other samples led the solver astray on these.
            failures += 1
            if failures == _FAILURES:
                break
            proposals.retreat()
            layers = []
            continue
        average = averaged(problem, layers, found, _LEAST_EFFECTIVE)
        if fitted and np.median([group.residual for group in average.groups]) > _UNSOLVED_GROUP:
            break
        proposals.state, needed = found.state, average.needed(tol)
        covering = proposals.cover(layers, found, _LARGEST_LAST_WEIGHT if fitted else _LARGEST_WEIGHT)
        if fitted and covering is None and (needed <= _ENOUGH * count or count >= most):
            return _vouched(proposals, average, max(needed, count))
        if fitted:
            layers = covering or layers
        else:
            # Mixtures fitted at the parameters that count are worth a second pass.
            proposals.fit(layers, found)
            layers, fitted = [], True
        if needed > count:
            # A little more than the estimate asks for, which is itself uncertain by a fifth.
            count = min(math.ceil(1.2 * needed), _GROWTH * count, most)
    raise OutOfReachError


def _vouched(proposals: Proposals, average: Average, needed: int) -> Outcome:
    return average.outcome(
        rng=proposals.rng,
        least_effective=_LEAST_EFFECTIVE,
        needed=needed,
        snapshots=1,
        acceptance=(),
        path=proposals.path,
        lobes=[LobeCheck(*strength(l, average), lowest) for l, lowest in enumerate(proposals.lowest)],
        doubts=(),
    )
