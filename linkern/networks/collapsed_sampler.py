"""Chains of the collapsed posterior: the trajectories of `hmc`, with a force that knows how far a step goes."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from linkern.networks.collapsed_target import CollapsedPosterior
from linkern.networks.hmc import HamiltonianSampler
from linkern.networks.target import Posterior

__all__ = ["CollapsedSampler"]

_FIRST_STEP = 0.1
# The smallest bounds the cost of a problem that accepts nothing at any step.
_STEPS = (1e-3, 0.75)
_TARGET_ACCEPTANCE = 0.7
_TRAJECTORY = (1.0, 2.1)
_EARLY_KICKS = 10
# Activations and entries of kernels of all chains from which on threads gain: with fewer they wait for the interpreter, and took
# up to twice as long.
_WORTH_THREADS = 2 * 10**5


class CollapsedSampler(HamiltonianSampler):
    """`HamiltonianSampler` with a force averaged over a step, and a step adapted by acceptance alone.

    Whitened coordinates are so much better conditioned than weights that neither the descent nor the stiffness of the base
    class is needed: the first half of burn-in takes short trajectories, which give the prior's excess energy away.
    """

    def __init__(
        self, target: CollapsedPosterior, start: list[NDArray[np.floating]], rng: np.random.Generator, step: float | None = None
    ) -> None:
        if not target.forward(start).valid.all():
            raise ValueError(f"activation: expected finite feature kernels on prior draws, {target.activation.name!r} overflows")
        # Of its target the base class uses what both posteriors have: forward, potential and gradient_factors.
        super().__init__(cast(Posterior, target), start, rng, step=_FIRST_STEP if step is None else step, descent=0)
        self._adaptive = step is None
        self._collapsed = target
        points = len(target.Y)
        self._worth_threads = len(start[0]) * points * sum(width + points for width in target.widths) >= _WORTH_THREADS

    def adapt_afresh(self) -> None:
        """Forget how well the step is known: the target has changed."""
        self._adapted, self._log_average = 0, math.log(self.step)

    def burn_in_step(self, *, early: bool) -> None:
        """One trajectory, a short one if `early`, and one Robbins-Monro step of ln(step)."""
        kicks = math.ceil(self.rng.uniform(*_TRAJECTORY) / self.step)
        acceptance = self._propose(self.target, self.step, min(kicks, _EARLY_KICKS) if early else kicks).mean()
        if not self._adaptive:
            return
        self._adapted += 1
        step = self.step * math.exp((acceptance - _TARGET_ACCEPTANCE) / math.sqrt(self._adapted))
        self.step = min(max(step, _STEPS[0]), _STEPS[1])
        weight = min(1.0, 4.0 / (self._adapted + 3.0))
        self._log_average += weight * (math.log(self.step) - self._log_average)

    def _trajectory(self, target: Posterior, step: float, kicks: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        self._collapsed.window = step
        return super()._trajectory(target, step, kicks)
