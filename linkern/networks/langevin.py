"""Overdamped Langevin dynamics whose prior part is exact: the textbook reference, with a bias that shrinks with the step.

    W <- e^{-h} W - (1 - e^{-h}) grad V + sqrt(1 - e^{-2h}) xi,      V = (beta gamma0^2 N/2) sum_mu (f_mu - y_mu)^2

in weights of unit prior variance. To first order in h this is the update of the theory with learning rate eta = beta h.
Without data (V = 0) the step is exact for any h. With data and delta = 1 - e^{-h}, a direction in which V has curvature
s is stable if and only if delta (1 + s) < 2, and its stationary variance exceeds the true 1/(1 + s) by the factor
(2 - delta)/(2 - delta (1 + s)), about 1 + delta s/2. The default step keeps delta (1 + s) = 0.2 in the stiffest direction.

Measured on a linear network (L = 2, N = 8, gamma0 = 2, stiffness about 300): at delta (1 + s) = 0.2 and 1 the mean
likelihood energy is 1 % and 7 % too high, while overlaps show no bias beyond the 0.5 % error bars. An independent sample
cost 1600 steps at the default step, against 17 forward-backward passes of Hamiltonian Monte Carlo.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from linkern.networks.blocks import langevin_update
from linkern.networks.target import Posterior
from linkern.solution import ConvergenceError

__all__ = ["LangevinSampler"]

Array = NDArray[np.floating]

_STABILITY_FRACTION = 0.2
# The stiffness costs a second backward pass, so burn-in looks at it only now and then; it changes slowly at this step.
_LOOK_EVERY = 4


class LangevinSampler:
    """State of a batch of chains; one `update` is one step, a forward and a backward pass plus one normal per weight.

    Parameters
    ----------
    target : Posterior
    weights : list of arrays (chains, rows, columns)
        Starting point; updated in place. No further copy is kept.
    rng : Generator
    step : float or None
        h, in relaxation times of the prior. None: follows the stiffness during burn-in; then frozen at the smallest
        value that the last half of burn-in asked for.

    Raises
    ------
    ConvergenceError
        From `update`, when the likelihood energy is no longer finite: the step is unstable.
    """

    def __init__(self, target: Posterior, weights: list[Array], rng: np.random.Generator, *, step: float | None = None) -> None:
        self.target = target
        self.weights = weights
        self.rng = rng
        self.passes = 0
        self._adaptive = step is None
        self._suggested: list[float] = []
        self.step = self._stable_step() if step is None else step

    def update(self) -> NDArray[np.float64]:
        """One step of every chain; nothing is ever rejected, so the acceptance is 1."""
        retained = math.exp(-self.step)
        drift = -math.expm1(-self.step)
        noise = math.sqrt(-math.expm1(-2 * self.step))
        # Overflow is how an unstable step shows; it is reported below in words.
        with np.errstate(over="ignore", invalid="ignore"):
            passed = self.target.forward(self.weights)
            if not np.isfinite(self.target.potential(passed)).all():
                raise ConvergenceError(
                    f"step: the Langevin step h = {self.step:.3g} is unstable, the training error overflowed; expected "
                    "h < 2/(1 + stiffness), where the stiffness beta gamma0^2 N lambda_max(J J^T) grows while the "
                    "kernels do: pass a smaller step, or step=None"
                )
            for l, left, right in self.target.gradient_factors(self.weights, passed):
                langevin_update(self.rng, self.weights[l], left, right, decay=retained, drift=drift, noise=noise)
        self.passes += 1
        return np.ones(self.weights[0].shape[0])

    def burn_in_update(self) -> None:
        """One step that may also adapt h to the current stiffness."""
        if self._adaptive and self.passes % _LOOK_EVERY == 0:
            self.step = self._stable_step()
            self._suggested.append(self.step)
        self.update()

    def freeze(self) -> None:
        """End of burn-in: keep the smallest recently suggested step."""
        if self._suggested:
            self.step = min(self._suggested[len(self._suggested) // 2 :])

    def _stable_step(self) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            stiffness = self.target.stiffness(self.weights, self.target.forward(self.weights))
        return -math.log1p(-_STABILITY_FRACTION / (1.0 + stiffness))
