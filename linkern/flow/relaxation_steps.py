"""Long explicit steps for gradient flows: Chebyshev (RKC) steps of second order with an error estimate.

The rates of a gradient flow are real. A step of s stages placed at Chebyshev points is stable up to a length of 0.65 s^2 over the
fastest rate, where s steps of Euler's method reach 2 s: at fixed accuracy the work grows with the square root of the stiffness,
and no linear system is ever solved. Recurrences: Sommeijer, Shampine and Verwer (1998), J. Comput. Appl. Math. 88.
SciPy has no such method, and its implicit ones factorise Jacobians of (number of unknowns)^2 entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Step", "chebyshev_steps"]

Floats = NDArray[np.float64]
Drive = Callable[[Floats], Floats]

# Damping of the stiff modes, and the stability bound 0.65 s^2 that goes with it.
DAMPING, REACH = 2 / 13, 1.54
# The fastest rate is looked up again after this many steps, to this accuracy, and taken this much larger.
INTERVAL, RATE_TOLERANCE, RATE_MARGIN, RATE_ITERATIONS = 3, 0.05, 1.2, 50
# Length of the next step from the error of the last: safety factor, and largest changes.
SAFETY, SHRINK, GROW = 0.8, 0.1, 5.0
TINY = float(np.finfo(float).tiny)
# Shorter steps than this fraction of the run mean that something is wrong with the drive.
SHORTEST = 1e-14


@dataclass(frozen=True)
class Step:
    """One accepted step: states and drives at its ends."""

    start: float
    end: float
    before: Floats
    after: Floats
    drive_before: Floats
    drive_after: Floats

    def at(self, time: float) -> Floats:
        """The state at a time within the step, by cubic interpolation."""
        h = self.end - self.start
        x = (time - self.start) / h
        value = (1 + 2 * x) * (1 - x) ** 2 * self.before + x**2 * (3 - 2 * x) * self.after
        return value + h * x * (1 - x) * ((1 - x) * self.drive_before - x * self.drive_after)


def chebyshev_steps(drive: Drive, state: Floats, *, end: float, tol: float) -> Iterator[Step]:
    """Integrate d state/dt = drive(state), whose Jacobian has real eigenvalues, from time 0 to `end`, step by step.

    Parameters
    ----------
    drive : callable
        Array in, new array of the same shape out.
    state : array
        At time 0, not zero: errors are measured relative to its norm.
    end : float
    tol : float
        Estimated error of one step, relative to the norm of the state.

    Raises
    ------
    FloatingPointError
        The drive is not finite however short the step.
    """
    force = drive(state)
    direction = estimate = force
    time, rate, since = 0.0, 0.0, INTERVAL
    # The error estimate of a first step that changes the state by `tol` is far below it: a start that grows.
    length = min(end, tol * _norm(state) / _norm(force))
    while time < end:
        if since >= INTERVAL:
            # Modes that are about to become the fastest show in the error of the last step.
            guess = direction / _norm(direction) + estimate / _norm(estimate)
            rate, direction = _fastest_rate(drive, state, force, guess)
            since = 0
        length = min(length, end - time)
        new, new_force = _stages(drive, state, force, length, 1 + math.ceil(math.sqrt(1 + REACH * length * rate)))
        estimate = 0.8 * (state - new) + (0.4 * length) * (force + new_force)
        error = _norm(estimate) / (tol * _norm(new))
        if not error <= 1:
            # Growing curvature makes steps unstable: shorten the step and look at the rate again.
            if math.isfinite(error):
                length *= max(SHRINK, SAFETY * error ** (-1 / 3))
            else:
                length, estimate = length * SHRINK, force
            since = INTERVAL
            if length < SHORTEST * end:
                raise FloatingPointError(f"no finite drive near time {time:.6g}")
            continue
        after = end if length >= end - time else time + length
        yield Step(time, after, state, new, force, new_force)
        time, state, force, since = after, new, new_force, since + 1
        length *= min(GROW, SAFETY * max(error, 1e-9) ** (-1 / 3))


def _norm(x: Floats) -> float:
    """The Euclidean norm, never zero: it divides."""
    return max(float(np.linalg.norm(x)), TINY)


def _stages(drive: Drive, state: Floats, force: Floats, length: float, stages: int) -> tuple[Floats, Floats]:
    """One step of `length`: the state after it and its drive."""
    first, rows = _coefficients(stages)
    older, newer = state, state + (first * length) * force
    for mu, nu, now, initial in rows:
        nxt = drive(newer)
        nxt *= now * length
        nxt += (1 - mu - nu) * state
        nxt += mu * newer
        nxt += nu * older
        nxt += (initial * length) * force
        older, newer = newer, nxt
    return newer, drive(newer)


@lru_cache
def _coefficients(stages: int) -> tuple[float, tuple[tuple[float, float, float, float], ...]]:
    """Coefficients of the recurrence, from T_j, T_j' and T_j'' at w0 = 1 + damping/s^2."""
    w0 = 1 + DAMPING / stages**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        T.append(2 * w0 * T[-1] - T[-2])
        dT.append(2 * T[j - 1] + 2 * w0 * dT[-1] - dT[-2])
        ddT.append(4 * dT[j - 1] + 2 * w0 * ddT[-1] - ddT[-2])
    w1 = dT[-1] / ddT[-1]
    b = [ddT[j] / dT[j] ** 2 for j in range(2, stages + 1)]
    b = [b[0], 1 / w0, *b]
    rows = []
    for j in range(2, stages + 1):
        now = 2 * b[j] * w1 / b[j - 1]
        rows.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], now, (b[j - 1] * T[j - 1] - 1) * now))
    return b[1] * w1, tuple(rows)


def _fastest_rate(drive: Drive, state: Floats, force: Floats, direction: Floats) -> tuple[float, Floats]:
    """Largest eigenvalue of minus the Jacobian, by power iteration on differences of the drive, and its direction."""
    size = 1e-6 * _norm(state)
    rate = 0.0
    for _ in range(RATE_ITERATIONS):
        direction = drive(state + (size / _norm(direction)) * direction) - force
        before, rate = rate, _norm(direction) / size
        if not math.isfinite(rate):
            raise FloatingPointError("a drive that is not finite")
        if abs(rate - before) <= RATE_TOLERANCE * rate:
            break
    return RATE_MARGIN * rate, direction
