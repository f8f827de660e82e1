r"""Networks of one hidden layer whose neurons move together and are accepted one by one (`neuron_moves`): their steps and times.

Neurons are accepted after every few kicks, and momenta, reversed where a neuron stays, forget little by little. Kicks of finite
length push all neurons alike, so that V moves, by an error of order step^2 even at infinite width, until acceptance takes it
back: overlaps y^T Phi y that were 2 % off after trajectories of a quarter turn are .2 to .5 % off after two kicks (tanh). At
infinite width V then stands still and each neuron has its law; at finite N error signals fluctuate, and averages differ by
O(1/N).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.saddle import Problem
from linkern.bayes.montecarlo.wide.levelling import Levelling
from linkern.bayes.montecarlo.wide.network import Snapshot
from linkern.bayes.montecarlo.wide.neuron_moves import Field, MovingNetworks
from linkern.numerics.threads import side_by_side

__all__ = ["Neurons"]

Floats = NDArray[np.float64]

# Kicks between two acceptances, and the angle from one snapshot to the next.
_KICKS, _APART = 2, 1.5
# Steps, and the acceptance that they aim at, averaged over neurons by tau: those that learn decide.
_FIRST_STEP, _STEPS, _ACCEPTANCE = 0.1, (0.003, 0.25), 0.9
# Acceptance under an umbrella for so long a part of the time to settle: long steps carry neurons between lobes sooner.
_HASTY_ACCEPTANCE, _HASTY = 0.75, 0.9
# Steps scatter, against resonances. Changes of the logarithm of the step per missing acceptance on the way to gamma0.
_JITTER, _EARLY_GAIN = 0.1, 0.3
# Activations of all networks from which on threads gain.
_WORTH_THREADS = 10**5


class Neurons:
    """n networks of N neurons, moved in single precision: sums over neurons end in double.

    Parameters
    ----------
    problem : Problem
        Of one hidden layer.
    width : int
        N.
    rng : numpy Generator
    networks : int
        n, drawn from the prior.
    hold : int, optional
        Of snapshots drawn at a time, how many, the last, hold the neurons, which take memory; by default all.
    level : bool, optional
        Whether neurons follow an umbrella over the strength of their tilts, which adapts while they settle.

    Attributes
    ----------
    step : float
        Rotation angle between two kicks, adapted until drawing begins.

    Notes
    -----
    A kick of a network costs 3 products N P^2 (r <= P of the data's rank instead of one P in two of them) and the solution of one
    system of size P.
    """

    def __init__(
        self,
        problem: Problem,
        width: int,
        rng: np.random.Generator,
        *,
        networks: int,
        hold: float = math.inf,
        level: bool = False,
    ) -> None:
        self.width, self.step, self._hold = width, _FIRST_STEP, hold
        self._field, self._gamma0, self._half = Field(problem, Levelling() if level else None), problem.gamma0, networks // 2
        *streams, self._rng = rng.spawn(networks + 1)
        self._accepted, self._moves = 0.0, 0
        # Threads keep their networks.
        self._parts = side_by_side(
            lambda some: MovingNetworks(self._field, width, streams[some]),
            networks,
            worthwhile=networks * width * len(problem.C) >= _WORTH_THREADS,
        )
        self._learn(self._gamma0)

    @property
    def acceptance(self) -> float:
        """Mean over neurons and the moves drawn so far."""
        return self._accepted / max(self._moves, 1)

    def climb(
        self, gamma0: float, moves: int, report: Callable[[Snapshot, float], None], *, beyond: float = 1.0, turns: int = 0
    ) -> None:
        """Raise gamma0 from `gamma0` to the problem's, geometrically, and to `beyond` times that for half of the networks.

        The latter stay there for `turns` times the angle between snapshots and come back: what is slow comes to its average from
        both sides. Reported are the others.
        """
        last = self._gamma0
        for share in (np.arange(1, moves + 1) / moves).tolist():
            # Powers round.
            rung = last if share == 1 else gamma0 * (last / gamma0) ** share
            self._learn(rung, gamma0 * (beyond * last / gamma0) ** share)
            self._stride(_EARLY_GAIN * (self._move().of_strong - _ACCEPTANCE))
            kernels, V = self._seen()
            report(Snapshot(kernels[: self._half], V[: self._half], ()), rung)
        self._adapt(turns)
        self._learn(last)

    def settle(self, turns: int) -> float:
        """Move through `turns` times the angle between snapshots and adapt the step, which is averaged in the end.

        Returned is the participation of tilts on the way, <tau>^2/<tau^2>: it falls as long as neurons leave lobes.
        """
        if self._field.levelling is None:
            return self._adapt(turns)
        hasty = round(_HASTY * turns)
        self._adapt(hasty, _HASTY_ACCEPTANCE, self._level)
        return self._adapt(turns - hasty, also=self._level)

    def _adapt(self, turns: int, goal: float = _ACCEPTANCE, also: Callable[[], None] = lambda: None) -> float:
        average, count, participation = math.log(self.step), 0, 0.0
        for _ in range(turns):
            for _ in range(self._moves_apart):
                count += 1
                move = self._move()
                self._stride((move.of_strong - goal) / math.sqrt(count + 3))
                also()
                average += min(1.0, 4 / (count + 3)) * (math.log(self.step) - average)
                participation += move.participation
        self.step = math.exp(average)
        return participation / max(count, 1)

    def draw(self, count: int) -> list[Snapshot]:
        """`count` snapshots."""
        found = []
        for left in range(count, 0, -1):
            self.wait(1)
            if left > self._hold:
                found.append(Snapshot(*self._seen(), ()))
                continue
            eps, weights = (np.concatenate([getattr(part, name) for part in self._parts]) for name in ("eps", "weights"))
            found.append(Snapshot(*self._seen(), (eps,), weights))
        return found

    def wait(self, turns: int) -> None:
        """Move through `turns` times the angle between snapshots."""
        for _ in range(turns * self._moves_apart):
            self._accepted += self._move().acceptance
            self._moves += 1

    def _level(self) -> None:
        """Let the umbrella follow neurons, of all networks, and their error signals."""
        assert self._field.levelling is not None
        self._each(MovingNetworks.follow)
        tau, weights = (
            np.concatenate([getattr(part, name).ravel() for part in self._parts]) for name in ("coordinate", "weights")
        )
        self._field.levelling.adapt(tau, weights)

    def _seen(self) -> tuple[Floats, Floats]:
        """Kernels (n, 1, P, P) and error signals."""
        kernels = np.concatenate(self._each(lambda part: part.kernels()))
        return kernels[:, None], np.concatenate([part.V for part in self._parts])

    def _learn(self, gamma0: float, other: float | None = None) -> None:
        """Set gamma0, of the second half of the networks to another value."""
        first = 0
        for part in self._parts:
            indices = first + np.arange(len(part.eps))
            part.gamma0 = np.where(indices < self._half, gamma0, gamma0 if other is None else other)[:, None]
            first += len(part.eps)

    @property
    def _moves_apart(self) -> int:
        return max(1, round(_APART / (_KICKS * self.step)))

    def _move(self) -> _Move:
        """Some kicks."""
        step = min(self.step * math.exp(_JITTER * self._rng.standard_normal()), _STEPS[1])
        probability, tilt = np.hstack(self._each(lambda part: part.move(step, _KICKS)))
        participation = float(tilt.mean() ** 2 / np.square(tilt).mean())
        return _Move(float(probability.mean()), float(probability @ tilt / tilt.sum()), participation)

    def _stride(self, change: float) -> None:
        self.step = min(max(self.step * math.exp(change), _STEPS[0]), _STEPS[1])

    def _each(self, function: Callable[[MovingNetworks], Floats]) -> list[Floats]:
        parts = side_by_side(lambda some: [function(part) for part in self._parts[some]], len(self._parts))
        return [result for part in parts for result in part]


class _Move(NamedTuple):
    """Acceptance averaged over neurons, and by strength of their tilt, and the participation of tilts."""

    acceptance: float
    of_strong: float
    participation: float
