r"""The posterior of wide nonlinear networks on at most three points, by quadrature: the reference for every sampled solution.

    p_l(h) ~ N(h; 0, g_l Phi^{l-1}) exp(-phi^T hatPhi^l phi / 2) / Z_l,    Phi^l = <phi phi^T>_l,    Phi^0 = C,
    hatPhi^l = -2 d ln Z_{l+1} / d Phi^l,    hatPhi^L = -gamma0^2 g_w V V^T,    (g_w Phi^L + T) V = Y,
    S = gamma0^2 [tr V^T Y - T tr V^T V / 2] - sum_{l<L} tr Phi^l hatPhi^l / 2 - sum_l ln Z_l,

with T = 1/beta. S is stationary at the solution and 0 at gamma0 = 0. A Newton iteration on V and the inner dual kernels solves
the equations, from the lazy solution upwards in gamma0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks
from linkern.activations import Activation, get
from linkern.bayes.montecarlo.observables.sampled import SampledSolution
from linkern.bayes.montecarlo.observables.sites import SaddleSample
from linkern.bayes.montecarlo.quadrature.equations import Evaluation, Problem
from linkern.bayes.montecarlo.quadrature.newton import Step, newton
from linkern.bayes.montecarlo.quadrature.rule import (
    InfiniteTiltError,
    TiltedLayer,
    TooManyNodesError,
    averages,
    site_ensemble,
)
from linkern.bayes.montecarlo.task import checked_data
from linkern.bayes.montecarlo.tilt import require_finite_tilt
from linkern.solution import ConvergenceError, Status

__all__ = ["QuadratureSolution", "solve_quadrature"]

Floats = NDArray[np.float64]

# Largest density of nodes, relative to the coarsest rule, and that of the rule that judges the result.
FINEST, REFINEMENT, CERTIFICATE = 32.0, 1.5, 1.25
# gamma0^2 tr Y^T V of the first step away from the lazy solution.
FIRST_TILT = 0.15
SMALLEST_RATIO, LARGEST_RATIO = 1.01, 1.5
# Standard deviations over which preactivations spread when it is the divergence of Z that is near, not the end of a branch.
FAR = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class QuadratureSolution(SampledSolution):
    """Solution of the saddle-point equations by quadrature.

    Attributes
    ----------
    action : float
        S; the posterior weight of this solution is exp(-N S). 0 in the lazy limit.
    log_partitions : (L,) array
        ln Z_l.
    error : float
        Largest relative change of any kernel, dual kernel, V, or of S, from the last-but-one rule to the last: an estimate of the
        error of the former, so usually pessimistic.
    fineness : float
        Density of the last rule relative to the coarsest.

    `sample` holds the nodes of the last rule; for degree 1 with radii, of a coarser rule where these would be too many. `error`
    speaks of the training inputs, whose kinks the rule knows. Kernels and predictions at new inputs are averages over the same
    nodes, which miss the kinks of activations of degree 1 there: measured errors, whatever `tol`, are 1e-6 of the kernel at
    rank 2 and 2e-5 at rank 3 for inputs in or near the span of the training inputs, below 1e-8 and 1e-6 for most others. Smooth
    activations lose digits only for inputs several times larger than the training inputs.

    `residual` is the largest relative violation of the equations for Phi, V and hatPhi under a finer rule, the last one in the
    form root^T hatPhi^l root = g_{l+1} (I - <eps eps^T>), h = root eps, which the solver does not use.
    """

    action: float
    log_partitions: Floats
    error: float
    fineness: float


def solve_quadrature(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    depth: int,
    gamma0: float,
    beta: float,
    activation: str | Activation,
    prior_variances: ArrayLike = 1.0,
    nodes: int = 2**22,
    tol: float = 1e-10,
) -> QuadratureSolution:
    """Solve the infinite-width posterior of a network on few points to quadrature accuracy.

    Parameters
    ----------
    X : (P, D) array_like
        Inputs; or give `kernel`. P <= 3, or any P as long as the kernels below every layer have rank <= 3.
    y : (P,) or (P, O) array_like
        Labels.
    kernel : (P, P) array_like
        C = X X^T / D itself; may be singular.
    depth : int
        L >= 1 hidden layers.
    gamma0 : float
        Richness, >= 0.
    beta : float
        Inverse temperature of the loss 1/2 sum (f - y)^2; finite.
    activation : str or Activation
        Growing at most linearly, with phi' and (unless of degree 1) phi''.
    prior_variances : float or (L + 1,) array_like
        g_1, .., g_L of the hidden layers, then g_w of the readout.
    nodes : int
        Largest number of nodes per layer; about 100 bytes each at the peak. The first rule may take a quarter, which leaves room
        for refinement.
    tol : float
        Rules are refined until the solution changes by less than this (relative).

    Returns
    -------
    QuadratureSolution
        Status UNRELIABLE when `error` stays above `tol` (an activation with kinks that is not of degree 1, or too few nodes).

    Raises
    ------
    ValueError, TypeError
        Bad shapes or numbers, rank > 3, superlinear growth, features that are huge, more nodes needed than allowed.
    ConvergenceError
        The Newton iteration failed on the way from the lazy solution, or the tilt comes too close to a divergent average: labels
        times gamma0 of some 1e3 and more.

    Notes
    -----
    The branch found is the one that is connected to the lazy solution. Cost of an evaluation: L rules of about (18 d)^r nodes,
    d = 1.5, 2.25, .. times the standard deviation of the preactivations (smooth; several times more when strong tilts spread
    them), or some 50 n^(r-1), n = 12, 18, .. (degree 1). The first rule needs 50 to 400 evaluations, each finer one about 5.
    Measured: below 1 s for P <= 2, 1 to 15 s for P = 3. Inputs that all vanish are served: their features phi(0) are one point.
    """
    inputs, C, labels = checked_data(X, y, kernel)
    problem = _checked(C, labels.reshape(len(C), -1), depth, gamma0, beta, activation, prior_variances, nodes)
    tol = checks.positive("tol", tol)
    fineness = 1.0
    state, jacobian = _from_lazy(problem, fineness)
    found = problem.evaluate(problem.gamma0, state, fineness)
    error = math.inf
    while error > tol and fineness < FINEST:
        next_fineness = REFINEMENT * fineness
        try:
            finer, jacobian = newton(partial(problem.misfits, problem.gamma0, fineness=next_fineness), state, jacobian)
            refined = problem.evaluate(problem.gamma0, finer, next_fineness)
        except (TooManyNodesError, InfiniteTiltError, ConvergenceError):
            break
        error = _change(found, refined)
        state, found, fineness = finer, refined, next_fineness
    return QuadratureSolution(
        **_certified(problem, found, error, fineness, tol),
        action=found.action,
        log_partitions=np.array([layer.log_partition for layer in found.layers]),
        error=error,
        fineness=fineness,
        labels=problem.Y,
        label_shape=labels.shape,
        X=inputs,
    )


def _checked(
    C: Floats,
    Y: Floats,
    depth: int,
    gamma0: float,
    beta: float,
    activation: str | Activation,
    prior_variances: ArrayLike,
    nodes: int,
) -> Problem:
    phi = get(activation)
    require_finite_tilt(phi)
    depth = checks.integer_at_least("depth", depth)
    if depth > 1 and phi.degree != 1 and phi.second_derivative is None:
        raise ValueError(f"activation: expected one with second_derivative for depth > 1, {phi.name!r} lacks it")
    return Problem(
        C,
        Y,
        depth,
        checks.nonnegative("gamma0", gamma0),
        checks.positive("beta", beta),
        checks.per_layer("prior_variances", prior_variances, depth + 1, "hidden layers from first to last, then the readout"),
        phi,
        checks.integer_at_least("nodes", nodes, 1000),
    )


def _from_lazy(problem: Problem, fineness: float) -> Step:
    """Follow the solution from gamma0 = 0, in as few steps as Newton's method allows."""
    P = len(problem.C)
    nothing = problem.pack(np.zeros_like(problem.Y), np.zeros((problem.depth - 1, P, P)))
    lazy = problem.evaluate(0.0, nothing, fineness)
    V = np.linalg.solve(problem.variances[-1] * lazy.kernels[-1] + np.eye(P) / problem.beta, problem.Y)
    state = problem.pack(V, np.zeros((problem.depth - 1, P, P)))
    if problem.gamma0 == 0:
        return Step(state, None)
    pull = float(np.sum(problem.Y * V))
    target = problem.gamma0 if pull <= 0 else min(problem.gamma0, math.sqrt(FIRST_TILT / pull))
    # In units of the tilt, (gamma V, gamma^2 hatPhi / gamma^2), the solution hardly moves; the trend serves as predictor.
    gamma, trend, start = 0.0, np.zeros_like(state), state
    while True:
        try:
            here = newton(partial(problem.misfits, target, fineness=fineness), start, None)
        except (InfiniteTiltError, TooManyNodesError, ConvergenceError) as error:
            if target < 1e-6 * problem.gamma0 or target < SMALLEST_RATIO * gamma:
                raise _obstacle(error, problem, gamma, state, fineness) from None
            target = math.sqrt(gamma * target) if gamma else target / 2
        else:
            if target == problem.gamma0:
                return here
            tilt = problem.tilt_units(target) * here.state
            if gamma:
                trend = (tilt - problem.tilt_units(gamma) * state) / math.log(target / gamma)
            # After a failure long steps are not tried again at once.
            ratio = min(LARGEST_RATIO, (target / gamma) ** 2) if gamma else LARGEST_RATIO
            state, gamma, target = here.state, target, min(ratio * target, problem.gamma0)
        if gamma:
            tilt = problem.tilt_units(gamma) * state + trend * math.log(target / gamma)
            start = tilt / problem.tilt_units(target)


def _obstacle(error: Exception, problem: Problem, gamma: float, state: Floats, fineness: float) -> Exception:
    """What keeps the solution from being followed beyond gamma."""
    if isinstance(error, TooManyNodesError):
        return TooManyNodesError(error.needed, problem.limit, f" to follow the solution beyond gamma0 = {gamma:.6g}")
    layers = problem.evaluate(gamma, state, fineness).layers
    spread = math.sqrt(max(1 - np.linalg.eigvalsh(layer.whitened_message).min(initial=0.0) for layer in layers))
    if spread > FAR:
        return ConvergenceError(
            f"the solution was followed to gamma0 = {gamma:.6g}, where the tilt spreads preactivations over {spread:.3g} "
            "standard deviations: so close to a divergent average integration fails; expected smaller labels, beta or gamma0"
        )
    return ConvergenceError(
        f"no solution connected to the lazy one was found beyond gamma0 = {gamma:.6g}; try a larger beta, or sampling"
    )


def _relative(difference: Floats, reference: Floats) -> float:
    scale = float(np.abs(reference).max(initial=0.0))
    return float(np.abs(difference).max(initial=0.0)) / (scale or 1.0)


def _change(coarse: Evaluation, fine: Evaluation) -> float:
    parts = [_relative(coarse.coefficients - fine.coefficients, fine.coefficients)]
    for old, new in ((coarse.kernels, fine.kernels), (coarse.duals, fine.duals)):
        parts += [_relative(a - b, b) for a, b in zip(old, new, strict=True)]
    return max(*parts, abs(coarse.action - fine.action) / max(1.0, abs(fine.action)))


def _residual(problem: Problem, found: Evaluation, fineness: float) -> float:
    """Violation of every equation when a finer rule, allowed more nodes, integrates over the measures that `found` states."""
    parts = [_relative(problem.label_misfit(found), problem.Y)]
    for l, (below, H) in enumerate(zip(found.kernels, found.duals, strict=False)):
        g = problem.variances[l]
        exact = averages(TiltedLayer(g * below, H, problem.activation), CERTIFICATE * fineness, 4 * problem.limit)
        parts.append(_relative(exact.kernel - found.kernels[l + 1], exact.kernel))
        if l > 0:
            message = exact.root.T @ found.duals[l - 1] @ exact.root / g
            # Both sides are small differences of numbers of order one.
            parts.append(float(np.abs(message - exact.whitened_message).max(initial=0.0)))
    return max(parts)


def _certified(problem: Problem, found: Evaluation, error: float, fineness: float, tol: float) -> dict[str, Any]:
    """What the solution is, and how far it can be trusted."""
    layers = [
        TiltedLayer(g * below, H, problem.activation)
        for g, below, H in zip(problem.variances[:-1], found.kernels, found.duals, strict=False)
    ]
    sites = tuple(site_ensemble(layer, fineness, problem.limit) for layer in layers)
    residual = _residual(problem, found, fineness)
    return {
        "parameters": {
            "depth": problem.depth,
            "gamma0": problem.gamma0,
            "beta": problem.beta,
            "activation": problem.activation.name,
            "prior_variances": problem.variances.tolist(),
        },
        "residual": residual,
        "status": Status.CONVERGED if max(error, residual) <= tol else Status.UNRELIABLE,
        "sample": SaddleSample(found.kernels, found.duals, found.coefficients, sites),
    }
