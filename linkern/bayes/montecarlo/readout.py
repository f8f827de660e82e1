r"""The last layer on a fixed set of particles: a concave maximisation over the error signals V.

    F(V) = gamma0^2 [ V . Y - T |V|^2/2 ] - ln Z(V),   Z(V) = E exp( gamma0^2 g_w |V^T phi|^2 / 2 )
    grad F/gamma0^2 = Y - T V - g_w <rho phi s^T>,  s = V^T phi

Noise in <phi phi^T> that is known (`stein`) changes F by the quadratic form that takes it off the gradient.

ln Z is convex, also with the expectation replaced by a weighted sum over particles: Newton's method with backtracking finds the
only maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from linkern.bayes.montecarlo.averages import View, Weights, blocks, gram
from linkern.bayes.montecarlo.law import Samples

__all__ = ["Newton", "Readout", "ReadoutPoint", "maximise"]

Floats = NDArray[np.float64]
Newton = Callable[[Floats], Floats]

_MAX_STEPS, _HALVINGS = 40, 12
# Steps with the Hessian of an earlier point are taken while each is smaller than the one before by this factor.
_CONTRACTION = 0.2
# Of the first V, tried where its own tilt is not represented.
_MULTIPLES = np.geomspace(0.4, 1.6, 29)


@dataclass(frozen=True)
class Readout:
    """The problem of the last layer: labels Y (P, O), T = 1/beta, gamma0^2 and g_w."""

    Y: Floats
    temperature: float
    strength: float
    variance: float


@dataclass(frozen=True)
class ReadoutPoint:
    """Averages at one V, and F and its gradient there."""

    V: Floats
    weights: Weights
    rho: Floats
    gradient: Floats
    F: float


def maximise(
    view: View, readout: Readout, V: Floats, tol: float, least_effective: float, known: Newton | None = None
) -> tuple[ReadoutPoint, float, Newton]:
    """Maximise F from V; return the point, the remaining step relative to V (Frobenius), and steps as a function of gradients.

    These may be `known` from a similar problem.
    Steps that leave a smaller fraction of the samples effective than `least_effective` are shortened: beyond, the average is that
    of a few samples.
    Cost: per Hessian one product S (P O)^2 and a Cholesky factorisation of size P O; per step products S P O.
    """
    point = _feasible(view, readout, V, least_effective)
    relative, fresh = np.inf, known is None
    newton = known or _newton(view, readout, point)
    for _ in range(_MAX_STEPS):
        step, before = newton(point.gradient), relative
        relative = float(np.linalg.norm(step) / max(np.linalg.norm(point.V + step), np.finfo(float).tiny))
        if relative <= tol:
            break
        usable = fresh or relative <= _CONTRACTION * before
        trial = _climbed(view, readout, point, step, least_effective) if usable else None
        if trial is not None:
            point, fresh = trial, False
        elif fresh:
            break
        else:
            # The Hessian of an earlier point no longer serves.
            newton, fresh, relative = _newton(view, readout, point), True, np.inf
    return point, relative, newton


def _climbed(view: View, readout: Readout, point: ReadoutPoint, step: Floats, least_effective: float) -> ReadoutPoint | None:
    """Where a step, or the first of its halvings that gains enough, leads; None if no halving does."""
    gain = float((point.gradient * step).sum()) * readout.strength
    enough, rounding = min(least_effective, point.weights.effective), 1e-6 * (1 + abs(point.F))
    for halving in range(_HALVINGS):
        trial = _evaluate(view, readout, point.V + 0.5**halving * step)
        if trial.weights.effective >= enough and point.F + 1e-4 * 0.5**halving * gain - rounding <= trial.F:
            return trial
    return None


def _feasible(view: View, readout: Readout, V: Floats, least_effective: float) -> ReadoutPoint:
    """Start at V if the samples represent its tilt, else at the multiple of V of which they represent most."""
    point = _evaluate(view, readout, V)
    if point.weights.effective >= least_effective:
        return point
    multiples = [_evaluate(view, readout, scale * V) for scale in _MULTIPLES]
    return max((point, *multiples), key=lambda other: other.weights.effective)


def _evaluate(view: View, readout: Readout, V: Floats) -> ReadoutPoint:
    s = _signals(view, V)
    quadratic = -readout.strength * readout.variance * np.einsum("so,so->s", s, s, dtype=np.float64)
    weights, rho = view.weights_of(quadratic)
    known = view.excess @ V
    moment = gram(view.phi, weights.w * rho, s) - known
    gradient = readout.Y - readout.temperature * V - readout.variance * moment
    quiet = float((V * (readout.Y - (readout.temperature * V - readout.variance * known) / 2)).sum())
    F = readout.strength * quiet - weights.log_mean
    return ReadoutPoint(V, weights, rho, gradient, F)


def _newton(view: View, readout: Readout, point: ReadoutPoint) -> Newton:
    """Newton's step as a function of the gradient."""
    (P, O), w, rho = point.V.shape, point.weights.w, point.rho
    s = _signals(view, point.V)
    radial = 1 + 2 / view.law.rank if view.law.homogeneous else 1.0
    mean, second = np.zeros(P * O), np.zeros((P * O, P * O))
    for rows in blocks(len(s)):
        features = (view.phi[rows, :, None] * s[rows, None, :]).reshape(-1, P * O)
        weight = w[rows] * rho[rows]
        mean += weight @ features
        second += gram(features, weight * rho[rows] * radial, features)
    fluctuation = second - np.outer(mean, mean)
    hessian = readout.strength * readout.variance**2 * fluctuation
    hessian += np.kron(readout.variance * view.kernel(w, rho) + readout.temperature * np.eye(P), np.eye(O))
    if not np.isfinite(hessian).all():
        # A tilt without an average over these samples: there is nowhere to go from here.
        return np.zeros_like
    try:
        factor = linalg.cho_factor(hessian)
    except linalg.LinAlgError:
        # Rounding of a singular kernel at T = 0: the step in its range is all there is.
        return lambda gradient: np.asarray(linalg.lstsq(hessian, gradient.ravel())[0].reshape(P, O))
    return lambda gradient: np.asarray(linalg.cho_solve(factor, gradient.ravel()).reshape(P, O))


def _signals(view: View, V: Floats) -> Samples:
    return np.asarray(view.phi @ V.astype(view.phi.dtype))
