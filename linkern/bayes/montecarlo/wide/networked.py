r"""The adaptive kernels as averages over networks.

With one hidden layer networks are so wide that averages are nearly those of infinite width (`neurons`). They climb from weak
feature learning at the final temperature; half of them go beyond the strength asked for and come back, so that what is slow is
approached from both sides. They settle until the sides agree and tilts no longer concentrate in fewer neurons, or for as long as
is worth waiting.

With more, averages over networks of two widths are extrapolated. Narrow networks, the pilots, climb and settle. Their neurons at
several times make all wide and narrow networks. There may be several solutions, where a symmetry breaks; narrow networks leave
those of larger action soonest, and of the first wide ones the two most alike have heirs. With widths N and N/k, averages are
a + b/N + O(1/N^2), so that a = wide + (wide - narrow)/(k - 1).

Trajectories are averaged until the spread over networks, which share nothing but their step and where they come from, is what
was asked for. The kernels are <Phi_N>, and V solves (g_w Phi + T) V = Y with them. <V_N>, whose equation
<g_w Phi_N V_N> + T <V_N> = Y holds with the fluctuations of Phi_N, is farther from infinite width. How badly it solves the
equation is the residual: of the order of what the width leaves, and with one hidden layer some three times that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.anneal import Rung
from linkern.bayes.montecarlo.law import Samples
from linkern.bayes.montecarlo.outcome import Outcome, relative_errors
from linkern.bayes.montecarlo.saddle import Problem
from linkern.bayes.montecarlo.task import Task
from linkern.bayes.montecarlo.wide.agreement import apart, drift, hysteresis, largest_rhat, table
from linkern.bayes.montecarlo.wide.network import Networks, Snapshot
from linkern.bayes.montecarlo.wide.network_sites import network_sites
from linkern.bayes.montecarlo.wide.neurons import Neurons

__all__ = ["networked", "population_for"]

Floats = NDArray[np.float64]

# How many networks; with one hidden layer, an activation of degree one and more points than _MANY, their number and N over P:
# under an umbrella a fifth of their neurons is in lobes.
_NETWORKS, _MANY, _LEVEL = 8, 100, (4, 6)
# Wide over narrow, N over P, and the least N, if there is more than one hidden layer.
_RATIO, _PER_POINT, _LEAST_WIDTH = 4, 4, 512
# N over P and the least N with one, for errors of _COARSE. Smaller ones ask for less bias, too, and for so many neurons that
# wider networks cost little; up to _WIDER times as wide.
_NEURONS_PER_POINT, _LEAST_NEURONS, _COARSE, _WIDER = 12, 768, 0.007, 8
# gamma0 of the first rung over the last; with one hidden layer, rungs, how far half of the networks go beyond, for how many
# turns. How many turns it takes all to settle, at least, per point, and per point under an umbrella: with many points more
# neurons are active on the way up than in the end. On 200 standardised digits (ReLU) their share was .09 then, .04 after 50
# turns, and falls to .025. Under an umbrella kernels are some 0.4 % off after 100 turns, beside 0.7 % of noise, and y^T Phi y
# 0.2 % (five runs); after 150 no bias showed beside the noise (three runs).
_START, _RUNGS, _BEYOND, _TURNS = 0.1, 40, 2.0, 5
_SETTLING, _SETTLING_PER_POINT, _LEVELLING_PER_POINT = 20, 0.25, 0.5
# As long as the participation of tilts is less than this part of what it was, so many turns more, up to a longest time. On 50
# digits as they are (ReLU) kernels were 2 % off after 20 turns, and what is along the mean digit 3.2 % (1.1 after 40, 0.6 after
# 60), while participation fell from .065 to .047, .038, .032, .028 and .026; on standardised ones it stands still.
_MORE, _STILL, _LONGEST = 10, 0.88, 100
# The same with more: rungs, pilots, and trajectories that they, one wide network of each, and then all settle for.
_PILOT_RUNGS, _PILOTS, _PILOT, _FOREGOING, _REFRESHING = 50, 4, 50, 30, 5
# Trajectories from one state to the next that becomes a network of its own.
_APART = 8
# Trajectories of the first average with one hidden layer and with more, how often half may be dropped, and how many there are at
# least and, by default, at most.
_FIRST, _RESTARTS, _LEAST, _MOST = (12, 24), 4, 8, 400
# Snapshots over those of the first average from which on errors tell whether time helps, and what is left over `tol` if not.
_LONGER, _HOPELESS = 4, 1.2
# By which the number of trajectories grows at most before errors are looked at again, and within how many doubts must go.
_GROWTH, _PATIENCE = 1.5, 120
# Snapshots per snapshot asked for that are enough: errors are not known to a twentieth.
_ENOUGH = 1.1
# Activations of neurons kept per layer, and of how many snapshots at least. Kernels are averaged over all.
_KEPT, _LEAST_KEPT = 2**21, 2
# Doublings of the time to settle while sides differ, how unlikely their difference must be, and the share that matters.
_DOUBLINGS, _UNLIKELY, _SIDES = 3, 0.02, 0.01
# Differences between halves of a run this unlikely are waited for, and reported where waiting did not help.
_SUSPICIOUS, _DRIFT = 0.05, 1e-3
_LARGEST_RHAT = 1.3
_LEAST_EFFECTIVE = 0.5


def population_for(problem: Problem, tol: float, neurons: int | None = None) -> tuple[int, int]:
    """How many wide networks, and N; with so many `neurons` per layer of all of them, if given, or a few more."""
    deep = problem.depth > 1
    networks, per_point = _LEVEL if _level(problem) else (_NETWORKS, _PER_POINT if deep else _NEURONS_PER_POINT)
    if neurons is not None:
        # Narrow networks are whole, too.
        return networks, 32 * math.ceil(neurons / (32 * networks))
    width = float(max(_LEAST_WIDTH if deep else _LEAST_NEURONS, per_point * len(problem.C)))
    if not deep:
        width *= min(max(_COARSE / tol, 1.0), _WIDER)
    return networks, 128 * math.ceil(width / 128)


def _level(problem: Problem) -> bool:
    """Whether neurons follow an umbrella."""
    return problem.depth == 1 and len(problem.C) > _MANY and problem.laws[0].homogeneous


class _Run:
    """Networks of one width and averages over what they have drawn.

    Attributes
    ----------
    nets : Networks or Neurons
    deep : bool
        More than one hidden layer.
    count : int
        Snapshots averaged over.
    tables : list of (L + 1, n) arrays
        Tr(Y^T V) and Tr(Y^T Phi^l Y) of every snapshot and network.
    held : list of Snapshot
        With neurons, `keep` at most.
    """

    def __init__(self, problem: Problem, nets: Networks | Neurons, history: Sequence[Snapshot], keep: int) -> None:
        self.nets, self._Y, self.deep, self._keep = nets, problem.Y, problem.depth > 1, keep
        self.count = 0
        self.tables: list[Floats] = []
        self.held: list[Snapshot] = []
        self._kernels, self._V = np.zeros(1), np.zeros(1)
        self.add(history)

    def add(self, history: Sequence[Snapshot]) -> None:
        """Average over these, too."""
        for snapshot in history:
            self.count += 1
            self.tables.append(table(self._Y, snapshot))
            if snapshot.eps:
                self.held.append(snapshot)
            self._kernels = self._kernels + snapshot.kernels
            self._V = self._V + snapshot.V
        if len(self.held) > self._keep:
            self.held = [self.held[index] for index in np.linspace(0, len(self.held) - 1, self._keep).astype(int)]

    def extend(self, count: int) -> None:
        """Draw up to `count` snapshots."""
        while self.count < count:
            # A few at a time: neurons take memory.
            self.add(self.nets.draw(min(_FIRST[self.deep], count - self.count)))

    @property
    def kernels(self) -> Floats:
        """Averages over time, (n, L, P, P)."""
        return np.asarray(self._kernels / self.count)

    @property
    def V(self) -> Floats:
        """Average over time and networks, (P, O)."""
        return np.asarray(self._V.mean(axis=0) / self.count)


def networked(
    task: Task,
    tol: float,
    most: int | None,
    rng: np.random.Generator,
    report: Callable[[Rung], None] | None,
    *,
    networks: int,
    width: int,
    patient: bool,
) -> Outcome | None:
    """Average networks of `width`, and of more layers narrower ones, until the standard errors of the kernels are `tol`.

    None if those of one hidden layer are not there at once, unless `patient`. At most `most` neurons are averaged over per layer,
    but those of a first average at least.
    """
    problem, particles = task.problem, networks * width
    largest = _MOST if most is None else max(most // particles, _LEAST)
    kept = _KEPT // len(problem.C)
    keep = max(min(kept if most is None else most, kept) // particles, _LEAST_KEPT)
    path: list[Rung] = []

    def record(snapshot: Snapshot, gamma0: float) -> None:
        path.append(_rung(problem, snapshot, gamma0))
        if report is not None:
            report(path[-1])

    if problem.depth > 1:
        runs, doubts = _arrived(task, networks, width, rng, keep, record)
    else:
        run, doubts = _climbed(task, networks, width, rng, keep, record, _DOUBLINGS if patient else 0)
        runs = [run]
        if not (patient or _agreed(runs[0].tables)):
            return None
    wide, average = runs[0], _precise(problem, runs, tol, largest)
    sample, sections, mismatch = network_sites(problem, wide.held, average.kernels, average.parts)
    V = _extrapolated(runs, [run.V for run in runs])
    return Outcome(
        problem=problem,
        sample=sample,
        sections=sections,
        errors=average.errors,
        residual=max(problem.misfit(average.kernels[-1], V), mismatch),
        effective=min(site.effective_sample_size / len(site.weights) for site in sample.sites),
        bent=0.0,
        heaviest=-math.inf,
        least_effective=_LEAST_EFFECTIVE,
        needed=None if average.needed is None else average.needed * particles,
        particles=particles,
        snapshots=wide.count,
        acceptance=(wide.nets.acceptance,) * problem.depth,
        path=tuple(path),
        lobes=(),
        doubts=(*doubts, *(doubt for run in reversed(runs) for doubt in _doubts(run))),
    )


class _Average(NamedTuple):
    """Kernels (L, P, P), those of single networks (n, L, P, P), errors (L,), snapshots needed, None if no number of them does."""

    kernels: Floats
    parts: Floats
    errors: Floats
    needed: int | None


def _precise(problem: Problem, runs: Sequence[_Run], tol: float, largest: int) -> _Average:
    """Draw until errors are `tol`, there are `largest` snapshots, or time no longer helps."""
    history: list[tuple[int, float]] = []
    while True:
        count = runs[0].count
        parts = _extrapolated(runs, [run.kernels for run in runs])
        kernels = parts.mean(axis=0)
        errors = relative_errors(_with_data(problem, kernels), [_with_data(problem, part) for part in parts])
        needed = max(math.ceil(count * (float(errors.max()) / tol) ** 2), count)
        doubtful = count < _PATIENCE and any(_doubts(run) for run in runs) and all(_agreement(run) < _PATIENCE for run in runs)
        history.append((count, float(errors.max())))
        hopeless = _floor(history) > _HOPELESS * tol
        if (needed <= _ENOUGH * count and not doubtful) or count >= largest or hopeless:
            return _Average(kernels, parts, errors, None if hopeless else needed)
        # The error of a short run is uncertain by a fifth and more.
        wanted = _GROWTH * count if doubtful else min(needed, _GROWTH * count)
        target = min(math.ceil(wanted), largest)
        for run in reversed(runs):
            run.extend(target)


def _floor(history: Sequence[tuple[int, float]]) -> float:
    """a, where errors follow error^2 = a^2 + b/count: networks keep differences that time does not average over."""
    (first, before), (count, now) = history[0], history[-1]
    if count < _LONGER * first:
        return 0.0
    return math.sqrt(max(count * now**2 - first * before**2, 0.0) / (count - first))


def _climbed(
    task: Task,
    networks: int,
    width: int,
    rng: np.random.Generator,
    keep: int,
    record: Callable[[Snapshot, float], None],
    doublings: int,
) -> tuple[_Run, list[str]]:
    """Networks of one hidden layer with the history of a first average, and what speaks against how they settled.

    While sides differ the wait is doubled, no more often than `doublings`.
    """
    problem, level = task.problem, _level(task.problem)
    nets = Neurons(problem, width, rng, networks=networks, hold=keep, level=level)
    nets.climb(_start(task), _RUNGS, record, beyond=_BEYOND, turns=_TURNS)
    P = len(problem.C)
    settling = math.ceil(_LEVELLING_PER_POINT * P if level else max(_SETTLING, _SETTLING_PER_POINT * P) - _MORE)
    now, settled, doubts, longest = nets.settle(settling), level, [], max(_LONGEST, settling + _MORE)
    while not settled and settling < longest:
        before, now, settling = now, nets.settle(_MORE), settling + _MORE
        settled = now > _STILL * before
    if not settled:
        doubts = [f"tilts of neurons still concentrate after {settling} turns; try another method or more particles"]
    history, moved = nets.draw(_FIRST[0]), settling + _FIRST[0]
    for _ in range(doublings):
        if _agreed([table(problem.Y, snapshot) for snapshot in history]):
            break
        nets.wait(moved - _FIRST[0])
        history, moved = nets.draw(_FIRST[0]), 2 * moved
    return _Run(problem, nets, history, keep), doubts


def _agreed(tables: Sequence[Floats]) -> bool:
    """Whether networks of both sides have arrived."""
    return drift(tables) > _UNLIKELY and hysteresis(tables, _UNLIKELY) < _SIDES


def _arrived(
    task: Task, networks: int, width: int, rng: np.random.Generator, keep: int, record: Callable[[Snapshot, float], None]
) -> tuple[list[_Run], list[str]]:
    """Wide and narrow networks with the histories of a first average, and what speaks against where they started."""
    problem, rngs = task.problem, rng.spawn(4)
    nets = Networks(problem, width // _RATIO, rngs[0], networks=_PILOTS)
    nets.climb(_start(task), _PILOT_RUNGS, record)
    nets.settle(_PILOT)
    pilots, everyone = nets.draw(_APART * _RATIO), list(range(_PILOTS))
    # Settling takes as long for one network of each pilot, and costs less than for all.
    ahead = Networks(problem, width, rngs[3], start=_merged(pilots, everyone, _PILOTS, _RATIO), step=nets.step * _RATIO**-0.25)
    ahead.settle(_FOREGOING)
    history = ahead.draw(_APART * networks // _PILOTS)
    chosen = _alike(np.mean([snapshot.kernels for snapshot in history], axis=0))
    doubts: list[str] = []
    if apart([table(problem.Y, snapshot) for snapshot in history]):
        doubts = ["networks differ: there are several solutions, of which this is one (try other seeds), or they settle slowly"]
    wide = Networks(problem, width, rngs[1], start=_merged(history, chosen, networks, 1), step=ahead.step)
    narrow = Networks(problem, nets.width, rngs[2], start=_merged(pilots, chosen, networks, 1), step=nets.step)
    return [_settled(problem, some, keep) for some in (wide, narrow)], doubts


def _start(task: Task) -> float:
    """gamma0 of the first rung."""
    return min(task.first, _START * task.problem.gamma0)


def _merged(history: Sequence[Snapshot], chosen: Sequence[int], networks: int, times: int) -> tuple[Samples, ...]:
    """The neurons of `networks`, each of one of the chosen at `times` times that no other one has."""
    made, stride = [], len(history) // times
    for k in range(networks):
        turn, index = divmod(k, len(chosen))
        first = turn * stride // math.ceil(networks / len(chosen))
        own = [[eps[chosen[index]] for eps in snapshot.eps] for snapshot in history[first::stride][:times]]
        made.append([np.concatenate(parts) for parts in zip(*own, strict=True)])
    return tuple(np.stack(layer) for layer in zip(*made, strict=True))


def _alike(kernels: Floats) -> list[int]:
    """The network whose kernels (n, L, P, P) are nearest to those of the others, and the one nearest to it."""
    distances = np.linalg.norm(kernels[:, None] - kernels, axis=(-1, -2)) / np.linalg.norm(kernels, axis=(-1, -2)).mean(axis=0)
    farthest = distances.max(axis=-1)
    return farthest[np.median(farthest, axis=1).argmin()].argsort()[:2].tolist()


def _settled(problem: Problem, nets: Networks, keep: int) -> _Run:
    """Networks that no longer drift, with a first history; what was drawn before is dropped."""
    nets.settle(_REFRESHING)
    history = nets.draw(_FIRST[1])
    for _ in range(_RESTARTS):
        if drift([table(problem.Y, snapshot) for snapshot in history]) > _SUSPICIOUS:
            break
        history = history[len(history) // 2 :]
        history.extend(nets.draw(len(history)))
    return _Run(problem, nets, history, keep)


def _extrapolated(runs: Sequence[_Run], values: Sequence[Floats]) -> Floats:
    """Values of wide and narrow networks at infinite width; those of a single width as they are."""
    if len(runs) == 1:
        return values[0]
    (wide, narrow), ratio = values, runs[0].nets.width / runs[1].nets.width
    return np.asarray(wide + (wide - narrow) / (ratio - 1))


def _with_data(problem: Problem, kernels: Floats) -> Floats:
    return np.concatenate([problem.C[None], kernels])


def _rung(problem: Problem, snapshot: Snapshot, gamma0: float) -> Rung:
    kernels, V = snapshot.kernels.mean(axis=0), snapshot.V.mean(axis=0)
    power = float((snapshot.V**2).sum()) / len(snapshot.V)
    signal = float((problem.Y * V).sum())
    all_kernels = _with_data(problem, kernels)
    return Rung(gamma0, problem.temperature, signal, power, all_kernels, 1.0, problem.misfit(kernels[-1], V))


def _agreement(run: _Run) -> float:
    """Snapshots with which R-hat would raise no doubt: R-hat^2 - 1 falls as 1/count at best, later where memory is long."""
    return run.count * (largest_rhat(run.tables) ** 2 - 1) / (_LARGEST_RHAT**2 - 1)


def _doubts(run: _Run) -> list[str]:
    doubts = []
    if drift(run.tables) < _DRIFT:
        doubts.append(f"averages over networks of width {run.nets.width} still drift; try more samples")
    sides = 0.0 if run.deep else hysteresis(run.tables, _DRIFT)
    if sides > _SIDES:
        doubts.append(
            f"networks that come from stronger feature learning differ from the others by {sides:.1%}; try more samples"
        )
    rhat = largest_rhat(run.tables)
    if rhat > _LARGEST_RHAT:
        # With one hidden layer the solution is unique.
        reason = "several solutions, or too few samples" if run.deep else "too few samples"
        doubts.append(f"networks of width {run.nets.width} disagree, R-hat = {rhat:.2f}: {reason}")
    return doubts
