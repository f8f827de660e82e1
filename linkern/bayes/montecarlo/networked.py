r"""The adaptive kernel of one hidden layer as the average of wide but finite networks (`network`).

Half of the networks start cold, their gamma0 raised at the final temperature; half warm, cooled after gamma0 was raised. In hard
problems they arrive from opposite sides, with too little and with too much feature learning, so that their agreement says that
both have arrived. Then sweeps are averaged until the spread over networks, which share nothing but how they were tuned, is what
was asked for.

The kernel is Phi = <Phi_N>, and V solves (g_w Phi + T) V = Y with it. <V_N>, whose equation <g_w Phi_N V_N> + T <V_N> = Y holds
with the fluctuations of Phi_N, is farther from infinite width. How badly <V_N> solves the equation with Phi is the residual: of
the order of the bias O(1/N) that the width leaves, which the spread over networks does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from linkern.bayes.montecarlo.anneal import Rung
from linkern.bayes.montecarlo.law import Samples
from linkern.bayes.montecarlo.network import Networks
from linkern.bayes.montecarlo.outcome import Outcome, relative_errors
from linkern.bayes.montecarlo.saddle import Problem
from linkern.bayes.montecarlo.sites import SaddleSample, SiteEnsemble
from linkern.bayes.montecarlo.task import Task

__all__ = ["networked", "width_for"]

Floats = NDArray[np.float64]

# N tol: the bias of kernels is about 1/N for few points, and some P/(20 N) for many.
_FEW, _PER_POINT, _WIDTHS = 3.5, 0.14, (128, 2048)
# Both halves climb from the smaller of the first rung's gamma0 and this share of gamma0, by at most this factor per sweep.
_START, _RATIO, _CLIMB = 0.1, 1.25, 20
# Sweeps in which all networks adapt together, and how often; those of the first average, and how often half may be dropped.
_ADAPTING, _WAITS, _FIRST_SWEEPS, _RESTARTS = 24, 8, 24, 5
# Whatever the budget.
_LEAST_SWEEPS = 8
# Differences between halves this unlikely are waited for before and after averages start; the last are reported where waiting
# did not help. Eight networks that relax slowly show small ones.
_UNSETTLED, _SUSPICIOUS, _DRIFT = 0.1, 0.05, 1e-3
# Of differences: share of the mean that counts as none, whatever its significance.
_NONE = 1e-6


class _Snapshot(NamedTuple):
    eps: Samples
    kernels: Floats
    V: Floats


def width_for(points: int, tol: float) -> int:
    """Neurons per network that keep the bias of the kernel near a third of `tol`, as far as affordable; a multiple of 32."""
    width = max(_FEW, _PER_POINT * points) / tol
    return 32 * math.ceil(min(max(width, _WIDTHS[0]), _WIDTHS[1]) / 32)


def networked(
    task: Task,
    tol: float,
    most: int,
    rng: np.random.Generator,
    report: Callable[[Rung], None] | None,
    *,
    networks: int,
    width: int,
) -> Outcome:
    """Equilibrate an even number of networks, then average sweeps until the standard error of the kernel is `tol`.

    At most `most` neurons are averaged over, but those of 8 sweeps at least.
    """
    problem, particles = task.problem, networks * width
    path: list[Rung] = []

    def record(nets: Networks) -> None:
        path.append(_rung(nets))
        if report is not None:
            report(path[-1])

    nets = _arrived(task, networks, width, rng, record)
    history: list[_Snapshot] = []

    def gather(count: int) -> None:
        history.extend(_swept(nets, count, record))

    largest = max(most // particles, _LEAST_SWEEPS)
    gather(min(_FIRST_SWEEPS, largest))
    restarts = 0
    while True:
        count = len(history)
        chance, doubt = _least_likely(problem, history)
        if chance < _SUSPICIOUS and restarts < _RESTARTS:
            restarts += 1
            del history[: count // 2]
            gather(min(count, largest - len(history)))
            continue
        kernels = np.mean([snapshot.kernels for snapshot in history], axis=0)
        parts = [np.stack([problem.C, kernel]) for kernel in kernels]
        errors = relative_errors(np.mean(parts, axis=0), parts)
        needed = max(math.ceil(count * particles * (float(errors.max()) / tol) ** 2), count * particles)
        if needed <= count * particles or count >= largest:
            break
        # A little more than the estimate asks for, which is itself uncertain by a fifth.
        gather(min(math.ceil(1.1 * needed / particles), largest) - count)
    sample, sections = _solutions(problem, history)
    residual = _residual(problem, sample.kernels[-1], np.mean([snapshot.V for snapshot in history], axis=(0, 1)))
    doubts = [doubt] if chance < _DRIFT else []
    if residual > tol:
        doubts.append(f"width {width} leaves a bias of about {residual:.2g}; try more particles")
    return Outcome(
        problem=problem,
        sample=sample,
        sections=sections,
        errors=errors,
        residual=residual,
        effective=1.0,
        bent=0.0,
        heaviest=-math.inf,
        least_effective=0.0,
        needed=needed,
        particles=particles,
        snapshots=count,
        acceptance=(float(nets.acceptance),),
        path=tuple(path),
        lobes=(),
        doubts=tuple(doubts),
    )


def _arrived(task: Task, networks: int, width: int, rng: np.random.Generator, record: Callable[[Networks], None]) -> Networks:
    """Networks that have climbed, the cold half first, tuned together and frozen."""
    problem, half = task.problem, networks // 2
    start = min(task.first, _START * problem.gamma0)
    sweeps = max(_CLIMB, math.ceil(math.log(problem.gamma0 / start) / math.log(_RATIO)))
    cold, warm = (
        Networks(replace(problem, gamma0=start, temperature=temperature), problem.root, half, width, child)
        for temperature, child in zip((problem.temperature, task.warm), rng.spawn(2), strict=True)
    )
    cold.climb(problem.gamma0, problem.temperature, sweeps, record)
    warm.climb(problem.gamma0, task.warm, math.ceil(sweeps / 2), record)
    warm.climb(problem.gamma0, problem.temperature, math.ceil(sweeps / 2), record)
    cold.join(warm)
    for _ in range(_WAITS):
        if _least_likely(problem, _swept(cold, _ADAPTING, record))[0] > _UNSETTLED:
            break
    cold.frozen = True
    return cold


def _swept(nets: Networks, count: int, record: Callable[[Networks], None]) -> list[_Snapshot]:
    history = []
    for _ in range(count):
        nets.sweep()
        history.append(_Snapshot(nets.eps.copy(), nets.kernels, nets.V))
        record(nets)
    return history


def _rung(nets: Networks) -> Rung:
    problem, kernel, each = nets.problem, nets.kernels.mean(axis=0), nets.V
    V = each.mean(axis=0)
    return Rung(
        problem.gamma0,
        problem.temperature,
        float((problem.Y * V).sum()),
        float((each**2).sum()) / len(each),
        np.stack([problem.C, kernel]),
        1.0,
        _residual(problem, kernel, V),
    )


def _residual(problem: Problem, kernel: Floats, V: Floats) -> float:
    misfit = problem.Y - problem.temperature * V - float(problem.variances[-1]) * kernel @ V
    return float(np.linalg.norm(misfit) / max(np.linalg.norm(problem.Y), np.finfo(float).tiny))


def _least_likely(problem: Problem, history: list[_Snapshot]) -> tuple[float, str]:
    """The most surprising difference, between halves of the run or of the networks, under stationarity; and what it says.

    Looked at in Tr(Y^T V) and Tr(Y^T Phi Y).
    """
    Y, half = problem.Y, len(history) // 2
    signal = np.array([np.einsum("po,npo->n", Y, snapshot.V) for snapshot in history])
    overlap = np.array([np.einsum("po,npq,qo->n", Y, snapshot.kernels, Y) for snapshot in history])
    found = [(1.0, "")]
    for table in (signal, overlap):
        late, early = table[-half:].mean(axis=0), table[:half].mean(axis=0)
        cold, warm = np.split(table.mean(axis=0), 2)
        scale = _NONE * abs(float(table.mean()))
        if np.abs(late - early).max() > scale:
            chance = float(stats.ttest_rel(late, early).pvalue)
            found.append((chance, "averages still drift; try more samples"))
        if len(cold) > 1 and abs(float(cold.mean() - warm.mean())) > scale:
            chance = float(stats.ttest_ind(cold, warm).pvalue)
            found.append((chance, "networks that started cold and warm have not met; try more samples"))
    chance, doubt = min(found)
    return min(1.0, chance * (len(found) - 1)), doubt


def _solutions(problem: Problem, history: list[_Snapshot]) -> tuple[SaddleSample, tuple[SaddleSample, ...]]:
    """From all networks, and from every single one."""
    law, g = problem.laws[-1], float(problem.variances[-1])
    kernels = np.mean([snapshot.kernels for snapshot in history], axis=0)
    # Neurons of a network stand together.
    eps = np.stack([snapshot.eps for snapshot in history], axis=1)
    base = problem.root @ problem.root.T

    def solution(kernel: Floats, members: Samples) -> SaddleSample:
        V = linalg.solve(g * kernel + problem.temperature * np.eye(len(kernel)), problem.Y, assume_a="pos")
        points = members.reshape(-1, members.shape[-1])
        site = SiteEnsemble(base, points, problem.root, np.full(len(points), 1 / len(points)), law.activation)
        return SaddleSample(np.stack([problem.C, kernel]), -(problem.gamma0**2) * g * (V @ V.T)[None], V, (site,))

    return solution(kernels.mean(axis=0), eps), tuple(map(solution, kernels, eps))
