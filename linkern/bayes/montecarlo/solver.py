r"""The adaptive Bayesian kernel of a nonlinear network at infinite width, by sampling single neurons.

The saddle point over kernels and duals,

    Phi^l = <phi phi^T>_l,   p_l(h) ~ N(h; 0, g_l Phi^{l-1}) exp(-phi(h)^T hatPhi^l phi(h)/2),   Phi^0 = C,
    hatPhi^L = -gamma0^2 g_w V V^T,   (g_w Phi^L + 1/beta) V = Y,   hatPhi^l = -2 d ln Z_{l+1}/d Phi^l,

is solved on populations of particles that follow p_l: annealed from the prior, first in gamma0 and then in temperature, moved by
Hamiltonian dynamics, and pooled over as many snapshots as the standard error asked for takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from linkern import checks
from linkern.activations import Activation
from linkern.bayes.montecarlo.anneal import Ensemble, Rung
from linkern.bayes.montecarlo.lobes import LobeCheck, check_lobes
from linkern.bayes.montecarlo.pool import Pool
from linkern.bayes.montecarlo.saddle import Found
from linkern.bayes.montecarlo.samples import SampledLayer
from linkern.bayes.montecarlo.sites import SaddleSample
from linkern.bayes.montecarlo.solution import MonteCarloSolution, saddle_sample
from linkern.bayes.montecarlo.task import Task
from linkern.solution import ConvergenceError, Status

__all__ = ["solve_montecarlo"]

Floats = NDArray[np.float64]

GROUPS = 8
# Multiples of the number of groups.
_LEAST_PARTICLES, _PARTICLES_PER_POINT, _MOST_PARTICLES = 4096, 80, 8192
# Rounds between two snapshots.
_SPACING = 2
_FIRST_SNAPSHOTS, _RESTARTS = 8, 4
# Standard errors between particles and importance sampling that are no accident.
_DISAGREEMENT = 4.0
# Minimum of Q below which lobes hold few neurons: without a precise importance sample to tell, they may be missing.
_RARE, _CONCLUSIVE = 0.03, 0.1
# Bytes of stored particles that bound the number of snapshots.
_MEMORY = 100e6
# Beyond these the weights, the equations or the domain are not what an average can be built on.
_LEAST_EFFECTIVE, _EVEN, _LARGEST_RESIDUAL, _MOST_BENT, _LARGEST_PARETO = 0.5, 0.95, 0.1, 0.02, 0.7


def solve_montecarlo(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    depth: int,
    gamma0: float,
    beta: float,
    activation: str | Activation,
    prior_variances: ArrayLike = 1.0,
    tol: float = 0.007,
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
    activation : str or Activation
        Of at most linear growth: otherwise no posterior exists at infinite width.
    prior_variances : float or (L + 1,) array
        g_1, .., g_L of the hidden layers, then g_w of the readout.
    tol : float
        Standard error of every kernel relative to it (Frobenius norm); the number of snapshots follows from it.
    particles : int, optional
        Particles per layer and snapshot, at least 512; by default 80 P between 4096 and 8192.
    max_samples : int, optional
        Most particles x snapshots to pool per layer; by default what 100 MB hold.
    rng : int or Generator
    raise_on_failure : bool
        Whether an answer that cannot be vouched for raises `ConvergenceError` (which carries it) or is returned with its status.
    callback : callable, optional
        Called with every `Rung`.

    Returns
    -------
    MonteCarloSolution
        Status UNRELIABLE with `samples_needed` if the budget was too small for `tol`.

    Raises
    ------
    ConvergenceError
        The equations are not solved on the particles, or weights are dominated by few of them.
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Labels that an activation's symmetry forbids (even labels of an odd activation) or inputs do not reach leave kernels lazy.
    Only the branch that continues the lazy solution is found; `sweep_montecarlo` looks for others.

    Activations of degree one at strong feature learning and low temperature put much of the kernel into few, strongly active
    neurons. Particles find these slowly; an importance sample from scratch looks for them (`lobes`) and the status is UNRELIABLE
    where they are missing.

    Cost per round: about 10 products S P^2 per layer for the moves (4 per kick), 5 to 9 per iteration of the equations; some 70
    rounds to arrive, then 2 per snapshot. The error falls as 1/sqrt(snapshots). Memory: three times the pool.
    """
    task = Task.checked(X, y, kernel, depth, gamma0, beta, activation, prior_variances)
    tol = checks.positive("tol", tol)
    P = len(task.problem.C)
    default = min(max(_LEAST_PARTICLES, _PARTICLES_PER_POINT * P), _MOST_PARTICLES)
    count = default if particles is None else GROUPS * math.ceil(checks.integer_at_least("particles", particles, 512) / GROUPS)
    affordable = int(_MEMORY / (4 * P * task.problem.depth))
    most = affordable if max_samples is None else checks.integer_at_least("max_samples", max_samples)
    run_rng, draw_rng = checks.random_generator(rng).spawn(2)
    problem = task.problem
    lazy = replace(problem, gamma0=min(task.first, problem.gamma0), temperature=task.warm)
    ensemble = Ensemble(lazy, task.start, count, GROUPS, run_rng, callback)
    ensemble.climb(problem.gamma0, task.warm)
    ensemble.climb(problem.gamma0, problem.temperature)
    outcome = pooled(ensemble, tol, max(most // count, _FIRST_SNAPSHOTS), draw_rng)
    seed = int(rng) if isinstance(rng, Integral) else None
    solution = vouched(task, ensemble, outcome, tol, seed)
    if solution.status is Status.NOT_CONVERGED and raise_on_failure:
        raise ConvergenceError(f"solve_montecarlo: {'; '.join(solution.reasons)}", solution)
    return solution


@dataclass(frozen=True)
class Outcome:
    """The final average: the pool, its solution and those of its groups, ready for observables."""

    pool: Pool
    layers: list[SampledLayer]
    found: Found
    sample: SaddleSample
    sections: tuple[SaddleSample, ...]
    errors: Floats
    needed: int
    drifts: bool
    lobes: tuple[LobeCheck, ...]
    doubts: tuple[str, ...]


def pooled(ensemble: Ensemble, tol: float, most: int, rng: np.random.Generator) -> Outcome:
    """Equilibrate, gather snapshots until the standard error of every kernel is `tol` or `most` are there."""
    ensemble.settle()
    for population in ensemble.populations:
        population.frozen = True
    problem, pool = ensemble.problem, Pool(GROUPS)
    pool.gather(ensemble, min(_FIRST_SNAPSHOTS, most), _SPACING)
    restarts = 0
    while True:
        count = len(pool.snapshots)
        layers = pool.layers()
        found = pool.solve(problem, layers, ensemble.state)
        drifts = pool.drifts(problem, layers, found)
        if drifts and restarts < _RESTARTS:
            restarts += 1
            pool.forget_first_half()
            pool.gather(ensemble, count, _SPACING)
            continue
        parts = [[layer.group(index) for layer in layers] for index in range(GROUPS)]
        groups = [pool.solve(problem, part, found.state) for part in parts]
        kernels = np.stack([group.kernels for group in groups])
        spread = np.linalg.norm(kernels.std(axis=0, ddof=1), axis=(1, 2)) / math.sqrt(GROUPS)
        errors = (spread / np.linalg.norm(found.kernels, axis=(1, 2)))[1:]
        needed = math.ceil(count * max(1.0, (float(errors.max()) / tol) ** 2))
        if needed <= count or count >= most:
            break
        # A little more than the estimate asks for, which is itself uncertain by a fifth.
        pool.gather(ensemble, min(math.ceil(1.1 * needed), most) - count, _SPACING)
    sample = saddle_sample(problem, layers, found, rng)
    sections = tuple(saddle_sample(problem, part, group, rng) for part, group in zip(parts, groups, strict=True))
    lobes, doubts = lobes_represented(ensemble, layers, found, rng)
    return Outcome(pool, layers, found, sample, sections, errors, needed, drifts, lobes, doubts)


def lobes_represented(
    ensemble: Ensemble, layers: list[SampledLayer], found: Found, rng: np.random.Generator
) -> tuple[tuple[LobeCheck, ...], tuple[str, ...]]:
    """Compare the strength of every tilt with an importance sample from scratch; return the checks and what they object to."""
    checked, doubts = [], []
    for l, (law, layer) in enumerate(zip(ensemble.problem.laws, layers, strict=True)):
        if not law.homogeneous:
            continue
        tilt, root = found.tilt(l), found.roots[l]
        check = check_lobes(law, root, tilt, layer.eps, rng)
        each = -found.weights[l] * found.rho[l] * layer.view(law, root).tilt_of(tilt)
        groups = each.reshape(GROUPS, -1).sum(axis=1) * GROUPS
        error = math.hypot(float(groups.std(ddof=1)) / math.sqrt(GROUPS), check.standard_error)
        conclusive = check.standard_error <= _CONCLUSIVE * check.energy
        if not conclusive and check.lowest < _RARE:
            doubts.append(
                f"layer {l + 1}: the tilt almost has no finite average (Q down to {check.lowest:.2g} on the unit sphere), "
                "rare strongly active neurons are missing; try more particles"
            )
        elif abs(groups.mean() - check.energy) > _DISAGREEMENT * error:
            doubts.append(
                f"layer {l + 1}: particles find the tilt's strength {groups.mean():.4g}, importance sampling {check.energy:.4g}; "
                "rare strongly active neurons are missing; try more particles"
            )
        checked.append(check)
    return tuple(checked), tuple(doubts)


def vouched(task: Task, ensemble: Ensemble, outcome: Outcome, tol: float, seed: int | None) -> MonteCarloSolution:
    """Turn an outcome into a solution that says how far it can be trusted."""
    found, problem = outcome.found, ensemble.problem
    particles, snapshots = len(ensemble.populations[0].x), len(outcome.pool.snapshots)
    pareto = max(_pareto_k(weights) for weights in found.weights)
    misfit = problem.Y - problem.temperature * found.V - problem.variances[-1] * found.kernels[-1] @ found.V
    residual = max(found.residual, float(np.linalg.norm(misfit) / max(np.linalg.norm(problem.Y), np.finfo(float).tiny)))
    broken, doubts = [], list(outcome.doubts)
    if residual > _LARGEST_RESIDUAL:
        broken.append(f"the equations hold only to {residual:.2g} on the particles; try more particles")
    if found.effective < _LEAST_EFFECTIVE:
        broken.append(f"weights leave {found.effective:.0%} of the particles effective; try more particles")
    if found.bent > _MOST_BENT:
        doubts.append(f"{found.bent:.1%} of the weight lies where the tilt's average is nearly infinite; try more particles")
    # The tail of weights that are all nearly equal has a shape, but no consequence.
    if pareto > _LARGEST_PARETO and found.effective < _EVEN:
        doubts.append(f"the weights have a heavy tail, Pareto k = {pareto:.2f}; try more particles")
    if outcome.drifts:
        doubts.append("averages still drift; try more particles or samples")
    short = float(outcome.errors.max()) > 1.05 * tol
    if short:
        more = outcome.needed * particles
        doubts.append(f"standard error {outcome.errors.max():.2g} above tol = {tol:g}; max_samples = {more} would do")
    record = {
        "depth": problem.depth,
        "gamma0": task.problem.gamma0,
        "beta": 1 / task.problem.temperature,
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
        sample=outcome.sample,
        sections=outcome.sections,
        kernel_errors=outcome.errors,
        effective_fraction=found.effective,
        pareto_k=pareto,
        identity=_identity(found) if problem.laws[0].homogeneous else math.nan,
        acceptance=tuple(population.acceptance for population in ensemble.populations),
        snapshots=snapshots,
        particles=particles,
        lobes=outcome.lobes,
        samples_needed=outcome.needed * particles if short else None,
        path=tuple(ensemble.path),
        labels=problem.Y,
        label_shape=task.label_shape,
        X=task.X,
    )


def _identity(found: Found) -> float:
    charges = np.einsum("lij,lij->l", found.kernels[1:], found.duals)
    return float(np.ptp(charges) / np.abs(charges).max())


def _pareto_k(weights: Floats) -> float:
    """Shape of a generalised Pareto distribution fitted to the largest weights; negative where their tail is bounded."""
    size = min(len(weights) // 5, int(3 * math.sqrt(len(weights))))
    tail = np.sort(weights)[-size - 1 :] * len(weights)
    excess = tail[1:] - tail[0]
    if excess[-1] <= 1e-12:
        return -math.inf
    return float(stats.genpareto.fit(excess, floc=0)[0])
