"""Hamiltonian Monte Carlo with the Gaussian prior rotated exactly: only the P labels can cause energy errors.

Kick by the likelihood, rotate by the prior, kick again. The rotation is exact for any number of weights, so step size
and acceptance are set by the likelihood's stiffness, a property of P data points, not of N^2 weights. Metropolis
acceptance makes the sampled posterior exact at every width.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from linkern.networks.blocks import kick_and_rotate, squared_norms
from linkern.networks.noise import standard_normal
from linkern.networks.target import Posterior
from linkern.numerics.threads import side_by_side

__all__ = ["HamiltonianSampler"]

Array = NDArray[np.floating]

# Rotation angles of a trajectory. pi/2 decorrelates a prior direction completely; the spread avoids resonances.
_TRAJECTORY = (1.0, 2.1)
_TARGET_ACCEPTANCE = 0.8
_LARGEST_STEP = 0.75
_RATIOS = (0.3, 10.0)
# A narrow deep network's posterior has rare states so stiff that the usual step is unstable there and every proposal
# fails. One trajectory in ten takes a smaller step, whatever the state (so the target is unchanged), and lets them go.
_RELEASE, _RELEASE_PROBABILITY = 0.35, 0.1
_FEWEST_KICKS = 3
_SHORTEST_REACH = 0.1
_DESCENT_START = 1e-4
# Kicks per trajectory grow as the root of the stiffness.
_STIFFEST = 1e10
# Streams of random numbers: chains can be shared out among threads without results knowing.
_STREAMS = 32


class HamiltonianSampler:
    """State of a batch of chains; one `update` is one trajectory of random length, accepted or rejected per chain.

    Parameters
    ----------
    target : Posterior
    weights : list of arrays (chains, rows, columns)
        Starting point; updated in place.
    rng : Generator
    step : float or None
        Rotation angle between two kicks. None: adapted during burn-in to an acceptance near 0.8, then frozen.
    descent : int
        How many of the burn-in updates descend, see below; 0 when `weights` are already typical of the posterior.

    Notes
    -----
    A prior draw has an excess energy of order N, and trajectories that conserve it visit regions far stiffer than any
    the posterior cares for. Burn-in therefore begins with short trajectories while beta grows geometrically to its
    value, each momentum refreshment carrying energy away; they lengthen as long as they are accepted.

    Memory: three copies of the weights (position, momentum, return point). A trajectory of n kicks costs n + 1 forward
    and backward passes (4 P flops per weight each) and n updates of position and momentum.
    """

    def __init__(
        self,
        target: Posterior,
        weights: list[Array],
        rng: np.random.Generator,
        *,
        step: float | None = None,
        descent: int = 60,
    ) -> None:
        self.target = target
        self.weights = weights
        self.rng = rng
        self._rngs = rng.spawn(min(len(weights[0]), _STREAMS))
        self.passes = 0
        self._momenta = [np.empty_like(W) for W in weights]
        self._saved = [np.empty_like(W) for W in weights]
        self._adaptive = step is None
        self._worth_threads = True
        self._descent = self._descent_left = descent
        self._reach = _SHORTEST_REACH if descent else 1.0
        self._log_ratio = 0.0
        self._adapted = 0
        self.step = self._suggested_step(target) if step is None else step
        self._log_average = math.log(self.step)

    def update(self) -> NDArray[np.float64]:
        """Draw one trajectory; return the acceptance probability of every chain."""
        step = self.step * (_RELEASE if self.rng.random() < _RELEASE_PROBABILITY else 1.0)
        return self._propose(self.target, step, max(1, math.ceil(self.rng.uniform(*_TRAJECTORY) / step)))

    def burn_in_update(self) -> None:
        """One update of burn-in: descent, then ever longer trajectories, then full ones that adapt the step."""
        if self._descent_left:
            self._descent_left -= 1
            softened = self.target.tempered(_DESCENT_START ** (self._descent_left / self._descent))
            acceptance = self._propose(softened, self._suggested_step(softened), _FEWEST_KICKS).mean()
            self._be_cautious(float(acceptance))
            return
        if self._adaptive:
            self.step = self._suggested_step(self.target)
        kicks = math.ceil(self._reach * self.rng.uniform(*_TRAJECTORY) / self.step)
        acceptance = float(self._propose(self.target, self.step, max(_FEWEST_KICKS, kicks)).mean())
        if self._reach < 1.0 and not self._adapted:
            self._be_cautious(acceptance)
            self._log_average = math.log(self.step)
        else:
            self._adapt(acceptance)
        if acceptance < 0.2:
            self._reach = max(self._reach / 2.0, _SHORTEST_REACH)
        elif acceptance > 0.5:
            self._reach = min(self._reach * 1.6, 1.0)

    def freeze(self) -> None:
        """End of burn-in: keep the averaged step from here on."""
        if self._adaptive:
            self.step = math.exp(self._log_average)

    def _be_cautious(self, acceptance: float) -> None:
        self._log_ratio = self._log_ratio - 0.35 if acceptance < 0.5 else min(0.0, self._log_ratio + 0.1)

    def _adapt(self, acceptance: float) -> None:
        """Robbins-Monro on log(step / stable step), bounded; the averaged log step forgets its first part."""
        self._adapted += 1
        self._log_ratio += (acceptance - _TARGET_ACCEPTANCE) / math.sqrt(self._adapted)
        self._log_ratio = min(max(self._log_ratio, math.log(_RATIOS[0])), math.log(_RATIOS[1]))
        weight = min(1.0, 4.0 / (self._adapted + 3.0))
        self._log_average += weight * (math.log(self.step) - self._log_average)

    def _suggested_step(self, target: Posterior) -> float:
        """Kicks are stable up to step * sqrt(stiffness) = 2 in a harmonic well: start at half of that, adapt the ratio."""
        self.passes += 1
        # Overflow is reported below, in words.
        with np.errstate(over="ignore", invalid="ignore"):
            stiffness = target.stiffness(self.weights, target.forward(self.weights))
        if not math.isfinite(stiffness):
            raise ValueError(
                "activation: expected finite values and slopes on the weights of every chain, "
                f"{target.mlp.activation.name!r} gives an overflow or a not-a-number: no step is small enough"
            )
        if stiffness > _STIFFEST:
            raise ValueError(
                f"beta, activation: expected a stiffness below {_STIFFEST:.0e}, got {stiffness:.1e}, which takes "
                f"{math.sqrt(stiffness):.0e} kicks per trajectory; sample_collapsed does not feel beta"
            )
        return min(_LARGEST_STEP, math.exp(self._log_ratio) / math.sqrt(1.0 + stiffness))

    def _propose(self, target: Posterior, step: float, kicks: int) -> NDArray[np.float64]:
        before, after = self._trajectory(target, step, kicks)
        with np.errstate(over="ignore", invalid="ignore"):
            gain = np.where(np.isfinite(after), before - after, -np.inf)
            probability = np.exp(np.minimum(gain, 0.0))
        rejected = np.flatnonzero(self.rng.random(probability.size) >= probability)
        for W, old in zip(self.weights, self._saved, strict=True):
            W[rejected] = old[rejected]
        return probability

    def _trajectory(self, target: Posterior, step: float, kicks: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Move all chains by `kicks` steps; return the total energy per chain before and after."""
        parts = side_by_side(
            lambda part: self._integrated(target, step, kicks, part), len(self._rngs), worthwhile=self._worth_threads
        )
        self.passes += kicks + 1
        before, after = (np.concatenate(energies) for energies in zip(*parts, strict=True))
        return before, after

    def _integrated(
        self, target: Posterior, step: float, kicks: int, streams: slice
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Chains whose momenta these streams of random numbers draw."""
        edges = [index * len(self.weights[0]) // len(self._rngs) for index in range(streams.start, streams.stop + 1)]
        chains = slice(edges[0], edges[-1])
        weights, momenta = [W[chains] for W in self.weights], [p[chains] for p in self._momenta]
        for W, old, p in zip(self.weights, self._saved, self._momenta, strict=True):
            np.copyto(old[chains], W[chains])
            for rng, ends in zip(self._rngs[streams], pairwise(edges), strict=True):
                standard_normal(rng, p[slice(*ends)])
        before = 0.5 * squared_norms([*weights, *momenta]).sum(axis=1)
        # A diverging trajectory overflows; its energy is then not finite and it is rejected.
        with np.errstate(over="ignore", invalid="ignore"):
            for count in range(kicks + 1):
                passed = target.forward(weights)
                if count == 0:
                    before += target.potential(passed)
                kick = step if 0 < count < kicks else step / 2
                angle = step if count < kicks else 0.0
                for l, left, right in target.gradient_factors(weights, passed):
                    kick_and_rotate(weights[l], momenta[l], left, right, kick=kick, angle=angle)
            after = 0.5 * squared_norms([*weights, *momenta]).sum(axis=1) + target.potential(passed)
        return before, after
