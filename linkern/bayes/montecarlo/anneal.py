r"""Populations that follow the saddle point from weak to strong feature learning.

At every rung of a ladder in gamma0 (then in temperature) the saddle point is solved on the particles there are, which are
resampled and move under the law found, smoothed over rungs and with an umbrella over its lobes. A rung that leaves too few
effective particles is halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Tilt
from linkern.bayes.montecarlo.particles import Population
from linkern.bayes.montecarlo.saddle import Found, Problem, State, solve_on
from linkern.bayes.montecarlo.samples import SampledLayer
from linkern.solution import ConvergenceError

__all__ = ["Ensemble", "LawPoint", "Rung"]

Floats = NDArray[np.float64]

_RATIO = 1.15
# Share of the newest solution in the law of the next move: one population's is noisy.
_SHARE = 0.4
# The law of a move need not solve the equations better than one population's noise.
_TOLERANCE, _MAPS = 5e-3, 5
# With fewer effective particles a rung was too long; after some where the way ends there the solution is lost.
_FAILED, _PATIENCE = 0.5, 10
# Kernels and tilts beyond single precision's squares are nobody's.
_LOST = 1e15
_HALVINGS = 6
# Two windows of rounds whose mean Y . V is compared, the relative change that counts as none, and how often to wait for it.
_WINDOW, _FLAT, _WAITS = 6, 2e-3, 15
_LATE, _EARLY = slice(-_WINDOW, None), slice(-2 * _WINDOW, -_WINDOW)


@dataclass(frozen=True)
class Rung:
    """One point of the path: parameters, sum of labels times error signals, and the kernels found."""

    gamma0: float
    temperature: float
    signal: float
    power: float
    kernels: Floats
    effective: float
    residual: float


@dataclass(frozen=True)
class LawPoint:
    """Roots and tilts that particles move under; the last tilt is -factor factor^T."""

    roots: tuple[Floats, ...]
    duals: tuple[Floats, ...]
    factor: Floats

    @classmethod
    def of(cls, found: Found, problem: Problem) -> LawPoint:
        """The law of a solution."""
        strength = problem.gamma0**2 * float(problem.variances[-1])
        return cls(tuple(found.roots), tuple(found.duals[:-1]), math.sqrt(strength) * found.V)

    @property
    def tilts(self) -> tuple[Tilt, ...]:
        """Of layers 1, .., L."""
        return (*map(Tilt, self.duals), Tilt.of_readout(self.factor, 1.0))

    def mixed(self, other: LawPoint, share: float) -> LawPoint:
        """self + share (other - self), part by part; particles may follow any law near the solution's."""

        def mix(a: Floats, b: Floats) -> Floats:
            return a + share * (b - a)

        roots, duals = tuple(map(mix, self.roots, other.roots)), tuple(map(mix, self.duals, other.duals))
        return LawPoint(roots, duals, mix(self.factor, other.factor))


class Ensemble:
    """Particles of all layers and the state they represent.

    Attributes
    ----------
    problem : Problem
    populations : list of Population
    layers : list of SampledLayer
        The particles with the density of the law that they follow.
    state : State
    path : list of Rung
    """

    def __init__(
        self,
        problem: Problem,
        start: State,
        samples: int,
        groups: int,
        rng: np.random.Generator,
        report: Callable[[Rung], None] | None = None,
    ) -> None:
        self.problem, self.state, self.groups = problem, start, groups
        *children, self.rng = rng.spawn(problem.depth + 1)
        self.populations = [Population(law, samples, child) for law, child in zip(problem.laws, children, strict=True)]
        self.layers = [SampledLayer.untilted(q.law, q.eps) for q in self.populations]
        self.path: list[Rung] = []
        self._report = report or (lambda rung: None)
        self.law: LawPoint | None = None
        self._lost = 0

    def climb(self, gamma0: float, temperature: float) -> None:
        """Follow the solution to (gamma0, temperature) along a geometric ladder in both."""
        here, start = self.problem.gamma0, self.problem.temperature
        if not self.path:
            self.rung(here, start)
        count = math.ceil(max(abs(math.log(gamma0 / here)), abs(math.log(temperature / start))) / math.log(_RATIO))
        for share in (np.arange(1, count + 1) / max(count, 1)).tolist():
            self.rung(here * (gamma0 / here) ** share, start * (temperature / start) ** share)

    def stay(self, rounds: int) -> None:
        """Solve and move where the ladder has arrived."""
        for _ in range(rounds):
            self.rung(self.problem.gamma0, self.problem.temperature)

    def settle(self) -> None:
        """Stay until Y . V no longer drifts, or for as long as is worth waiting."""
        for _ in range(_WAITS):
            self.stay(2 * _WINDOW)
            late, early = (np.mean([rung.signal for rung in self.path[part]]) for part in (_LATE, _EARLY))
            if abs(late - early) <= _FLAT * abs(late):
                break

    def rung(self, gamma0: float, temperature: float, halvings: int = _HALVINGS) -> None:
        """Solve at these parameters, or at intermediate ones first if the particles are too far, and move under the result."""
        state = State(self.state.duals, self.state.signal * (self.problem.gamma0 / gamma0))
        problem = replace(self.problem, gamma0=gamma0, temperature=temperature)
        found = solve_on(problem, self.layers, state, tol=_TOLERANCE, max_steps=_MAPS, least_effective=_FAILED)
        if found.effective < _FAILED and halvings:
            middle = math.sqrt(gamma0 * self.problem.gamma0), math.sqrt(temperature * self.problem.temperature)
            self.rung(*middle, halvings - 1)
            return self.rung(gamma0, temperature, halvings - 1)
        self._require(all((np.abs(part) < _LOST).all() for part in (found.kernels, found.duals, found.V)), gamma0, temperature)
        self._lost = self._lost + 1 if found.effective < 1.1 * _FAILED else 0
        self._require(self._lost < _PATIENCE, gamma0, temperature)
        self.problem, self.state = problem, found.state
        V, Y = found.V, problem.Y
        self.path.append(
            Rung(gamma0, temperature, float((V * Y).sum()), float((V**2).sum()), found.kernels, found.effective, found.residual)
        )
        self._report(self.path[-1])
        here = LawPoint.of(found, problem)
        self.move(here if self.law is None else self.law.mixed(here, _SHARE))

    def move(self, law: LawPoint) -> None:
        """Move all particles under a law, which they follow from then on.

        A change of law is made good by resampling before the move: occupations of separate modes must not wait for the dynamics.
        """
        for q, layer, root, tilt in zip(self.populations, self.layers, law.roots, law.tilts, strict=True):
            with np.errstate(over="ignore"):
                view = layer.view(q.law, root)
                quadratic = view.tilt_of(tilt)
                q.cover(layer.eps, view.weights_of(quadratic)[0].w)
                eps = layer.transported(q.law, quadratic, q.umbrella, self.groups, self.rng)
            self._require(np.abs(eps).max() < _LOST, self.problem.gamma0, self.problem.temperature)
            q.become(eps)
        self.wander(law)

    @staticmethod
    def _require(found: bool | np.bool_, gamma0: float, temperature: float) -> None:
        if not found:
            where = f"gamma0 = {gamma0:.3g}, temperature = {temperature:.3g}"
            raise ConvergenceError(
                f"particles have lost the solution at {where}; try networks, more particles or a smaller gamma0"
            )

    def wander(self, law: LawPoint) -> None:
        """Move all particles under the law that they follow already."""
        self.law, self.layers = law, []
        for q, root, tilt in zip(self.populations, law.roots, law.tilts, strict=True):
            q.move(root, tilt)
            self.layers.append(SampledLayer.following(q.law, q.eps, root, tilt, q.umbrella))
