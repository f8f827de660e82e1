"""Damped Newton iteration for equations that some trial points do not have: those with an infinite measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.quadrature.rule import InfiniteTiltError, TooManyNodesError
from linkern.solution import ConvergenceError

__all__ = ["Step", "newton"]

Floats = NDArray[np.float64]

# Newton stops at this relative residual; rounding allows a few times more.
CONVERGED, STAGNATED = 3e-13, 1e-10
# A start that needs more is better replaced by a smaller step in gamma0.
ITERATIONS = 40
DIFFERENCE = 1e-7


class Step(NamedTuple):
    """A root and the last Jacobian, which a nearby problem can use again."""

    state: Floats
    jacobian: Floats | None


def newton(misfits: Callable[[Floats], Floats], state: Floats, jacobian: Floats | None) -> Step:
    """Damped Newton iteration that keeps its Jacobian while it serves.

    scipy.optimize.root cannot be told that a trial point has no finite measure; here such a point is a step too long.
    """
    residual = misfits(state)
    for _ in range(ITERATIONS):
        size = float(np.abs(residual).max())
        if size <= CONVERGED:
            return Step(state, jacobian)
        fresh = jacobian is None
        if jacobian is None:
            shifts = DIFFERENCE * np.eye(state.size)
            jacobian = np.stack([(misfits(state + shift) - residual) / DIFFERENCE for shift in shifts], axis=1)
        step = np.linalg.lstsq(jacobian, -residual)[0]
        needed = 1.0 if fresh else 0.2
        obstacle: Exception | None = None
        for scale in 0.5 ** np.arange(10 if fresh else 1):
            try:
                trial = misfits(state + scale * step)
            except (InfiniteTiltError, TooManyNodesError) as error:
                obstacle = error
                continue
            obstacle = None
            if np.linalg.norm(trial) < needed * np.linalg.norm(residual):
                state, residual = state + scale * step, trial
                break
        else:
            if size <= STAGNATED:
                return Step(state, jacobian)
            if fresh and obstacle is not None:
                raise obstacle
            if fresh:
                break
            jacobian = None
    raise ConvergenceError(f"Newton's method stopped at a relative residual of {size:.3g}")
