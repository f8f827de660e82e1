"""Wide but finite networks of any depth as samples of single neurons: no saddle point has to be found.

The posterior of the preactivations, inner weights integrated out (`networks.collapsed_target`), is sampled by Hamiltonian
trajectories. At large N its neurons follow the laws of the saddle point, but kernels and error signals answer to all neurons at
once: a signal too large in directions without neurons calls them in and shrinks, where one that solves the equations on given
particles would stay. Averages differ from those of infinite width by O(1/N).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Samples
from linkern.bayes.montecarlo.saddle import Problem
from linkern.networks.collapsed_sampler import CollapsedSampler
from linkern.networks.collapsed_target import CollapsedPosterior
from linkern.numerics.threads import side_by_side

__all__ = ["Networks", "Snapshot"]

Floats = NDArray[np.float64]


class Snapshot(NamedTuple):
    """n networks at one time.

    Attributes
    ----------
    kernels : (n, L, P, P) array
        Phi^1, .., Phi^L.
    V : (n, P, O) array
        Error signals.
    eps : tuple of (n, N, r_l) float32 arrays
        Standard coordinates of all neurons; empty where they are not held.
    weights : (n, N) array, optional
        Of the neurons of one hidden layer, of mean 1; by default all count alike.
    """

    kernels: Floats
    V: Floats
    eps: tuple[Samples, ...]
    weights: Floats | None = None


class Networks:
    """Independent networks of one width, moved in single precision: all sums that matter are taken in double.

    Parameters
    ----------
    problem : Problem
    width : int
        N, of every layer.
    rng : numpy Generator
    networks : int
        n, drawn from the prior; or
    start : tuple of (n, N, r_l) arrays
        Where they are.
    step : float
        Where the adaptation of the step starts.
    """

    def __init__(
        self,
        problem: Problem,
        width: int,
        rng: np.random.Generator,
        *,
        networks: int = 0,
        start: tuple[Samples, ...] = (),
        step: float = 0.1,
    ) -> None:
        self.width, self._accepted, self._moves = width, 0.0, 0
        self._target = CollapsedPosterior(
            problem.root.T / np.sqrt(problem.variances[0]),
            problem.Y,
            widths=(width,) * problem.depth,
            gamma0=problem.gamma0,
            beta=1 / problem.temperature,
            activation=problem.laws[0].activation,
            prior_variances=problem.variances,
        )
        state = [eps.copy() for eps in start] or self._target.prior_draws(networks, rng, np.float32)
        self._sampler = CollapsedSampler(self._target, state, rng)
        self._sampler.step = step

    @property
    def step(self) -> float:
        """Rotation angle between two kicks."""
        return self._sampler.step

    @property
    def acceptance(self) -> float:
        """Mean over the moves drawn so far."""
        return self._accepted / max(self._moves, 1)

    def climb(self, gamma0: float, moves: int, report: Callable[[Snapshot, float], None]) -> None:
        """Raise gamma0 from `gamma0` to the problem's, geometrically, by short trajectories.

        They start on the lazy branch and give the energy away that every rung brings.
        """
        last, beta = self._target.gamma0, self._target.beta
        for share in (np.arange(1, moves + 1) / moves).tolist():
            # Powers round.
            rung = last if share == 1 else gamma0 * (last / gamma0) ** share
            self._target.move_to(rung, beta)
            self._sampler.adapt_afresh()
            self._sampler.burn_in_step(early=True)
            report(self.snapshot(), rung)

    def settle(self, moves: int) -> None:
        """Full trajectories that adapt their step, which is frozen then."""
        self._sampler.adapt_afresh()
        for _ in range(moves):
            self._sampler.burn_in_step(early=False)
        self._sampler.freeze()

    def draw(self, count: int) -> list[Snapshot]:
        """One snapshot after each of `count` trajectories."""
        found = []
        for _ in range(count):
            self._accepted += float(self._sampler.update().mean())
            self._moves += 1
            found.append(self.snapshot())
        return found

    def snapshot(self) -> Snapshot:
        """Networks as they are."""
        state = self._sampler.weights
        seen = side_by_side(lambda some: self._seen([eps[some] for eps in state]), len(state[0]))
        kernels, V = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        return Snapshot(kernels, V, tuple(np.asarray(eps).copy() for eps in state))

    def _seen(self, state: list[Samples]) -> tuple[Floats, Floats]:
        """Kernels and error signals of some networks."""
        passed = self._target.forward(state)
        return np.stack(passed.kernels, axis=1), passed.dual_coefficients
