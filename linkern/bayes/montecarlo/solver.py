r"""The adaptive Bayesian kernel of a nonlinear network at infinite width, by sampling single neurons.

The saddle point over kernels and duals,

    Phi^l = <phi phi^T>_l,   p_l(h) ~ N(h; 0, g_l Phi^{l-1}) exp(-phi(h)^T hatPhi^l phi(h)/2),   Phi^0 = C,
    hatPhi^L = -gamma0^2 g_w V V^T,   (g_w Phi^L + 1/beta) V = Y,   hatPhi^l = -2 d ln Z_{l+1}/d Phi^l,

is solved on samples of p_l, followed from the prior, first in gamma0 and then in temperature. For activations of degree one these
are independent samples of mixtures fitted to p_l, where mixtures cover it. Else they are populations of particles, moved by
Hamiltonian dynamics and pooled over snapshots. Where neither reaches, the neurons of wide but finite networks follow these laws
without the equations being solved. As many are taken as the standard error asked for takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks
from linkern.activations import ActivationLike
from linkern.bayes.montecarlo.anneal import Ensemble, Rung
from linkern.bayes.montecarlo.importance import OutOfReachError, Proposals, proposed
from linkern.bayes.montecarlo.observables.sites import SaddleSample
from linkern.bayes.montecarlo.outcome import Outcome
from linkern.bayes.montecarlo.pool import pooled
from linkern.bayes.montecarlo.saddle import Problem
from linkern.bayes.montecarlo.solution import MonteCarloSolution
from linkern.bayes.montecarlo.task import Task
from linkern.bayes.montecarlo.wide.networked import networked, population_for
from linkern.numerics.threads import blas_in_one_thread
from linkern.solution import ConvergenceError, Status

__all__ = ["solve_montecarlo"]

Floats = NDArray[np.float64]

GROUPS = 8
# Multiples of the number of groups; per point with one hidden layer and with more.
_LEAST_PARTICLES, _PARTICLES_PER_POINT, _MOST_PARTICLES = 4096, (20, 80), 8192
METHODS = ("auto", "importance", "networks", "particles")
# Mixtures have too many parameters, and cover too little, in more dimensions; with more points than these, if there is one hidden
# layer and if there are more, networks are sooner there. With one hidden layer and up to so many they are before particles, too.
_LARGEST_RANK, _MOST_POINTS, _FEW = 100, (30, 100), 100
# Bytes of stored particles that bound the number of snapshots.
_MEMORY = 120e6
# Beyond these the weights, the equations or the domain are not what an average can be built on.
_LARGEST_RESIDUAL, _MOST_BENT, _LARGEST_PARETO = 0.1, 0.02, 0.7


def solve_montecarlo(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    depth: int,
    gamma0: float,
    beta: float,
    activation: ActivationLike,
    prior_variances: ArrayLike = 1.0,
    tol: float = 0.007,
    method: str = "auto",
    particles: int | None = None,
    max_samples: int | None = None,
    rng: int | np.random.Generator | None = None,
    raise_on_failure: bool = True,
    callback: Callable[[Rung], None] | None = None,
) -> MonteCarloSolution:
    """Solve for the kernels of an infinitely wide network of any depth and activation that follow its data.

    Parameters
    ----------
    X : (P, D) array
        Inputs; or, in their place, `kernel`.
    y : (P,) or (P, O) array
        Labels.
    kernel : (P, P) array
        C = X X^T / D.
    depth, gamma0, beta
        L, and the strength of feature learning and inverse temperature, > 0 and finite.
    activation : str, Activation or callable
        Of at most linear growth: otherwise no posterior exists at infinite width.
    prior_variances : float or (L + 1,) array
        g_1, .., g_L of the hidden layers, then g_w of the readout.
    tol : float
        Standard error of every kernel relative to it (Frobenius norm); the number of snapshots follows from it.
    method : {"auto", "importance", "networks", "particles"}
        How neurons are sampled: independently from proposals (activations of degree one only), as those of wide networks (of two
        widths, extrapolated, if there are more hidden layers than one), by Hamiltonian dynamics under the law of infinite width,
        or by the first that works: for activations of degree one importance (up to 30 points with one hidden layer, 100 with
        more), then networks; for others particles, then networks, and before them, with one hidden layer and up to 100 points,
        networks that agree at once.
        Methods that share nothing but the equations check each other.
    particles : int, optional
        Particles per layer and snapshot, at least 512; by default 80 P, 20 P with one hidden layer, between 4096 and 8192. Of
        networks 8 times the width N of the wider ones, by default 4 P or 512, and with one hidden layer 12 P or 768, times
        .007/tol if that is more than 1; with activations of degree one and more than 100 points 4 times N, by default 6 P.
    max_samples : int, optional
        Most particles x snapshots to pool per layer; by default what 120 MB hold, or 400 snapshots of networks.
    rng : int or Generator
    raise_on_failure : bool
        Whether an answer that cannot be vouched for raises `ConvergenceError` (which carries it) or is returned with its status.
    callback : callable, optional
        Called with every `Rung`.

    Returns
    -------
    MonteCarloSolution
        Status UNRELIABLE if the budget was too small for `tol`, with `samples_needed` unless no time would do.

    Raises
    ------
    ConvergenceError
        The equations are not solved on the samples, or weights are dominated by few of them. Without a solution to carry, also if
        `raise_on_failure` is false: `method` "particles" loses it (activations with kinks, depth > 1, strong learning, many
        points), or "importance" is out of reach.
        Networks that still drift or disagree leave the status UNRELIABLE.
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Labels that an activation's symmetry forbids (even labels of an odd activation) or inputs do not reach leave kernels lazy.
    Only the branch that continues the lazy solution is found; `sweep_montecarlo` looks for others.

    Cost of proposals: some 20 steps of 8192 samples or more, then averages over as many as `tol` takes: 5 to 9 products S P^2 per
    iteration of the equations and layer. Of particles: the same, after each round of moves of about 10 products S P^2 per layer
    (4 per kick); some 70 rounds to arrive, then 2 per snapshot. Of networks with one hidden layer: 40 rungs, 25 to 105 turns to
    settle (5 and P/2 with more than 100 points) and 12 or more to average over, of 1.5 over the step kicks (6 for smooth
    activations, 10 to 40 for kinks at beta = 50), each 3 products 8 N P^2 (4 N P^2 of a smaller N). Of networks with more: some
    100 trajectories of 8 N neurons, of pi/2 over the step kicks (20 and 100 or more), each 5 products 8 N P^2 and 8 eigenproblems
    of size P per layer. Errors fall as 1/sqrt(samples). Memory: three times the pool.

    What standard errors do not know: activations of degree one put much of the kernel into few, strongly active neurons, which
    particles find slowly; `lobes` and the status tell. Networks of one hidden layer are biased by O(1/N) and by what a step
    leaves, 0.1 to 0.4 % at the default width up to 100 points, overlaps up to twice that (measured); `residual` is some three
    times that. Half of them come from beyond gamma0, so that what is slow shows as a difference, and they settle until the
    participation of tilts, <tau>^2/<tau^2>, hardly falls. With more than 100 points neurons are helped in and out of lobes by
    umbrella sampling (`levelling`). Networks of more layers are biased by O(1/N^2), which `residual` tells the order of.

    `docs/nonlinear_kernels.md` in the repository has times and true errors as measured, and says what to do with a status.
    """
    task = Task.checked(X, y, kernel, depth, gamma0, beta, activation, prior_variances)
    tol = checks.positive("tol", tol)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "importance" and not task.problem.laws[0].homogeneous:
        raise ValueError(
            f"method: expected an activation of degree one for 'importance', got {task.problem.laws[0].activation.name!r}"
        )
    P = len(task.problem.C)
    default = min(max(_LEAST_PARTICLES, _PARTICLES_PER_POINT[task.problem.depth > 1] * P), _MOST_PARTICLES)
    count = default if particles is None else GROUPS * math.ceil(checks.integer_at_least("particles", particles, 512) / GROUPS)
    affordable = int(_MEMORY / (4 * P * task.problem.depth))
    most = affordable if max_samples is None else checks.integer_at_least("max_samples", max_samples)
    run_rng, draw_rng, network_rng = checks.random_generator(rng).spawn(3)
    outcome = None
    with blas_in_one_thread():
        order = _order(task, method)
        for place, kind in enumerate(order):
            last = place == len(order) - 1
            if kind == "importance":
                found = _by_importance(task, tol, most, run_rng, callback, patient=method == "importance")
            elif kind == "networks":
                networks, width = population_for(task.problem, tol, None if particles is None else count)
                found = networked(task, tol, max_samples, network_rng, callback, networks=networks, width=width, patient=last)
            else:
                found = _by_particles(task, count, tol, most, (run_rng, draw_rng), callback, required=method == "particles")
            if found is not None and (outcome is None or not _failures(found) or _failures(outcome)):
                outcome = found
            if outcome is not None and not outcome.doubts and not _failures(outcome):
                break
    if outcome is None:
        raise ConvergenceError("solve_montecarlo: proposals do not cover the neurons' law; try another method")
    seed = int(rng) if isinstance(rng, Integral) else None
    solution = vouched(task, outcome, tol, seed)
    if solution.status is Status.NOT_CONVERGED and raise_on_failure:
        raise ConvergenceError(f"solve_montecarlo: {'; '.join(solution.reasons)}", solution)
    return solution


def _lazy(task: Task) -> Problem:
    """Where ladders start."""
    return replace(task.problem, gamma0=min(task.first, task.problem.gamma0), temperature=task.warm)


def _order(task: Task, method: str) -> tuple[str, ...]:
    """Methods to try until one has no doubts."""
    if method != "auto":
        return (method,)
    problem = task.problem
    deep = problem.depth > 1
    if _coverable(task) and len(problem.C) <= _MOST_POINTS[deep]:
        return "importance", "networks"
    # Particles find strongly active neurons slowly.
    if _coverable(task) or (problem.laws[0].homogeneous and not deep):
        return ("networks",)
    few = not deep and len(problem.C) <= _FEW
    return ("networks", "particles", "networks") if few else ("particles", "networks")


def _coverable(task: Task) -> bool:
    """Whether mixtures may cover the laws."""
    return all(law.homogeneous and law.rank <= _LARGEST_RANK for law in task.problem.laws)


def _by_importance(
    task: Task, tol: float, most: int, rng: np.random.Generator, callback: Callable[[Rung], None] | None, *, patient: bool
) -> Outcome | None:
    """The average over independent samples; None where mixtures do not cover the laws."""
    problem = task.problem
    if not _coverable(task):
        return None
    proposals = Proposals(_lazy(task), task.start, GROUPS, rng, callback, patient=patient)
    try:
        proposals.climb(problem.gamma0, task.warm)
        proposals.climb(problem.gamma0, problem.temperature)
        return proposed(proposals, tol, most)
    except OutOfReachError:
        return None


def _by_particles(
    task: Task,
    count: int,
    tol: float,
    most: int,
    rngs: tuple[np.random.Generator, np.random.Generator],
    callback: Callable[[Rung], None] | None,
    *,
    required: bool,
) -> Outcome | None:
    """The average over a population; None where it loses the solution, unless there is no other way."""
    try:
        ensemble = Ensemble(_lazy(task), task.start, count, GROUPS, rngs[0], callback)
        ensemble.climb(task.problem.gamma0, task.warm)
        ensemble.climb(task.problem.gamma0, task.problem.temperature)
        return pooled(ensemble, tol, most, rngs[1])
    except ConvergenceError:
        if required:
            raise
        return None


def _failures(outcome: Outcome) -> list[str]:
    """Why an outcome is no solution."""
    failures = []
    if outcome.residual > _LARGEST_RESIDUAL:
        failures.append(f"the equations hold only to {outcome.residual:.2g} on the particles; try more particles")
    if outcome.effective < outcome.least_effective:
        failures.append(f"weights leave {outcome.effective:.0%} of the particles effective; try more particles")
    return failures


def vouched(task: Task, outcome: Outcome, tol: float, seed: int | None) -> MonteCarloSolution:
    """Turn an outcome into a solution that says how far it can be trusted."""
    problem, sample, largest = outcome.problem, outcome.sample, float(outcome.errors.max())
    residual = max(outcome.residual, problem.misfit(sample.kernels[-1], sample.coefficients))
    broken, doubts = _failures(outcome), list(outcome.doubts)
    if outcome.bent > _MOST_BENT:
        doubts.append(f"{outcome.bent:.1%} of the weight lies where the tilt's average is nearly infinite; try more particles")
    if outcome.heaviest > _LARGEST_PARETO:
        doubts.append(f"the weights have a heavy tail, Pareto k = {outcome.heaviest:.2f}; try more particles")
    short = largest > 1.05 * tol
    if short:
        time = "networks keep differences, however long they run; try more particles (wider networks)"
        advice = time if outcome.needed is None else f"max_samples = {outcome.needed} would do"
        doubts.append(f"standard error {largest:.2g} above tol = {tol:g}; {advice}")
    record = {
        "depth": problem.depth,
        "gamma0": problem.gamma0,
        "beta": 1 / problem.temperature,
        "activation": problem.laws[0].activation.name,
        "prior_variances": problem.variances.tolist(),
        "tol": tol,
        "seed": seed,
    }
    return MonteCarloSolution(
        parameters=record,
        residual=residual,
        status=Status.NOT_CONVERGED if broken else Status.UNRELIABLE if doubts else Status.CONVERGED,
        reasons=tuple(broken + doubts),
        sample=sample,
        sections=outcome.sections,
        kernel_errors=outcome.errors,
        effective_fraction=outcome.effective,
        pareto_k=outcome.heaviest,
        identity=_identity(sample) if problem.laws[0].homogeneous else math.nan,
        acceptance=outcome.acceptance,
        snapshots=outcome.snapshots,
        particles=outcome.particles,
        lobes=outcome.lobes,
        samples_needed=outcome.needed if short else None,
        path=outcome.path,
        labels=problem.Y,
        label_shape=task.label_shape,
        X=task.X,
    )


def _identity(sample: SaddleSample) -> float:
    charges = np.einsum("lij,lij->l", sample.kernels[1:], sample.dual_kernels)
    scale = np.abs(charges).max()
    return float(np.ptp(charges) / scale) if scale > 0 else 0.0
