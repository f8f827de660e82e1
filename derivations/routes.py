"""Numerical routes for the checks of claims, independent of the symbolic results: plain root finding in mpmath."""

from __future__ import annotations

import random
from collections.abc import Callable

import mpmath
from mpmath import mp, mpf

__all__ = ["bisect_root", "contour_coefficient", "lazy_side_overlap", "log_uniform", "solve_chain"]


def log_uniform(rng: random.Random, low: float, high: float) -> mpf:
    """Return a random number whose logarithm is uniform, with all working digits used."""
    return mpmath.exp(mpf(rng.uniform(float(mpmath.log(low)), float(mpmath.log(high)))))


def bisect_root(function: Callable[[mpf], mpf], low: mpf, high: mpf) -> mpf:
    """Return a root in [low, high], where the function changes sign, to working precision."""
    with mpmath.workdps(mp.dps + 10):
        return mpmath.findroot(function, (low, high), solver="anderson", tol=mpf(10) ** (-2 * mp.dps + 10), maxsteps=500)


def lazy_side_overlap(depth: int, g: mpf, T: mpf) -> mpf:
    """Return the smallest solution c >= 1 of c = (1 + g c/(c+T)^2)^depth by scanning upwards from c = 1, then bisecting."""

    def excess(x: mpf) -> mpf:
        c = mpmath.exp(x)
        return x - depth * mpmath.log1p(g * c / (c + T) ** 2)

    step = mpf(1) / (50 * depth)
    low = mpf(0)
    while excess(low + step) < 0:
        low += step
    return mpmath.exp(bisect_root(excess, low, low + step))


def contour_coefficient(function: Callable[[mpmath.mpc], mpmath.mpc], order: int, radius: mpf, nodes: int = 160) -> mpf:
    """Return the Taylor coefficient of an analytic function by Cauchy's integral (trapezoidal rule: geometric accuracy)."""
    total = mpmath.mpc(0)
    for j in range(nodes):
        phase = mpmath.expjpi(mpf(2 * j) / nodes)
        total += function(radius * phase) / phase**order
    return total.real / nodes / radius**order


def solve_chain(depth: int, g: mpf, T: mpf, priors: list[mpf], widths: list[mpf], readout: mpf) -> tuple[list[mpf], list[mpf]]:
    """Solve all saddle-point equations of the layered chain at once, by shooting from the data to the readout.

    The unknown is the first conjugate; the equations dS/dc_hat_l = 0 and dS/dc_l = 0 are stepped upwards one at a time (no
    conservation law is used), and the root makes the condition at the last layer hold. Returns overlaps c_1..c_L and
    conjugates c_hat_1..c_hat_L of the solution nearest to the lazy one.
    """

    def climb(first: mpf) -> tuple[list[mpf], list[mpf]]:
        overlaps, conjugates, below, conjugate = [], [], mpf(1), first
        for j in range(depth):
            here = priors[j] * below / (1 + priors[j] * below * conjugate)
            overlaps.append(here)
            conjugates.append(conjugate)
            if j + 1 < depth:
                # n_l chat_l = n_{l+1} g_{l+1} chat_{l+1}/(1 + g_{l+1} c_l chat_{l+1}), solved for chat_{l+1}.
                ratio = widths[j] * conjugate / (widths[j + 1] * priors[j + 1])
                conjugate = ratio / (1 - priors[j + 1] * here * ratio)
            below = here
        return overlaps, conjugates

    def mismatch(first: mpf) -> mpf:
        overlaps, conjugates = climb(first)
        return conjugates[-1] + g * readout / (readout * widths[-1] * overlaps[-1] + T) ** 2

    low = mpf(0)
    step = -mpf(1) / (200 * depth)
    while mismatch(low + step) > 0:
        low += step
    return climb(bisect_root(mismatch, low + step, low))
