r"""Several solutions of one nonlinear network: the lazy one followed upwards in gamma0, a rich one downwards, and their actions.

A deep network can have two saddle points at once, at temperatures far above the eigenvalues of its kernels. Following a solution
finds one of them. The lazy one continues gamma0 = 0; the rich one is reached around the critical point: gamma0 rises at a
temperature so low that the solution is unique, then the temperature rises at the largest gamma0. Along either path

    dS = (Y . V / 2) d(gamma0^2) - (gamma0^2 |V|^2 / 2) dT,   S = 0 at gamma0 = 0,

so that the actions of both can be compared; the smallest one has all the posterior weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.interpolate import CubicSpline

from linkern import checks
from linkern.activations import ActivationLike
from linkern.bayes.montecarlo.anneal import Ensemble, Rung
from linkern.bayes.montecarlo.saddle import Found, solve_on
from linkern.bayes.montecarlo.samples import SampledLayer
from linkern.bayes.montecarlo.task import Task
from linkern.solution import ConvergenceError, Solution, Status

__all__ = ["Sweep", "SweptBranch", "sweep_montecarlo"]

Floats = NDArray[np.float64]

_LEAST_PARTICLES, _PARTICLES_PER_POINT, _MOST_PARTICLES = 1024, 80, 8192
# Factor between steps in gamma0 or temperature: splines through them are more precise than the sampling.
_RATIO = 1.12
# The readout's tilt gamma0^2 V^T K V at the first gamma0: below it Y . V is linear in gamma0^2 to a thousandth.
_FIRST_TILT = 0.03
# Rounds at every gamma0 before they count.
_EQUILIBRATION = 4
# Where a branch has ended, particles stay where the equations come closest to holding: no number of iterations gets below this.
_ENDED, _MAPS, _PATIENCE = 0.05, 60, 4
# The detour's temperature over the labels' share of the lazy kernel: deep linear networks have several solutions from 20 on.
_COLD = 5.0
# Branches differ where Y . V does by so many standard errors and more than this fraction, below which relaxation is slow.
_ERRORS, _FRACTION = 4.0, 0.02
_LEAST_EFFECTIVE, _MOST_BENT = 0.5, 0.02
# How closely the equations are solved where halves of a population are compared with all of it.
_CLOSE, _STEPS = 1e-3, 20
# They are at every so many rungs.
_COMPARED = 3


@dataclass(frozen=True, eq=False)
class SweptBranch:
    """One solution over the grid of gamma0; nan where it does not exist. Errors are standard errors over replicas.

    Attributes
    ----------
    kernels : (n, L + 1, P, P) array
        Phi^0, .., Phi^L.
    kernel_errors : (n, L) array
        Of Phi^1, .., Phi^L, relative in Frobenius norm.
    signal, signal_error : (n,) arrays
        Y . V, summed over outputs, V = (Y - f)/T.
    action, action_error : (n,) arrays
        S; the posterior weight of the solution is exp(-N S) at width N.
    effective : (n,) array
        Smallest effective fraction of the particles over layers, rounds and replicas.
    residual : (n,) array
        Relative residual of the equations on the particles, mean over rounds and replicas.
    bent : (n,) array
        Activations of degree one: largest share over layers and replicas of the weight where the tilt's average is nearly
        infinite, which particles do not follow exactly (a layer's kernel some 15 times that of its prior in a direction). Else 0.
    """

    kernels: Floats
    kernel_errors: Floats
    signal: Floats
    signal_error: Floats
    action: Floats
    action_error: Floats
    effective: Floats
    residual: Floats
    bent: Floats

    @property
    def exists(self) -> NDArray[np.bool_]:
        """(n,), where the solution was found."""
        return np.isfinite(self.signal)

    def only(self, where: NDArray[np.bool_]) -> SweptBranch:
        """The branch with nan elsewhere."""
        cut = {
            name: np.where(where.reshape(-1, *(1,) * (values.ndim - 1)), values, np.nan) for name, values in vars(self).items()
        }
        return SweptBranch(**cut)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep(Solution):
    """Up- and down-sweep in gamma0.

    Attributes
    ----------
    gammas0 : (n,) array
        Ascending.
    lazy, rich : SweptBranch
        The solution followed from gamma0 = 0 upwards, and that followed downwards from the rich start. Where `coexist` holds
        nowhere they are two measurements of the same one.
    coexist : (n,) bool array
        Where the two differ beyond their errors.

    `residual` is the largest of both branches; status UNRELIABLE where less than half of the particles were effective, `bent`
    exceeds 2 % or neither sweep has a solution.
    """

    gammas0: Floats
    lazy: SweptBranch
    rich: SweptBranch
    coexist: NDArray[np.bool_]

    @property
    def least(self) -> NDArray[np.str_]:
        """(n,), the branch of least action: "lazy" or "rich"; "only" where there is one solution."""
        ranked = np.where(self.lazy.action <= self.rich.action, "lazy", "rich")
        return np.where(self.coexist, ranked, "only")

    @property
    def transition(self) -> float:
        """gamma0 of equal action, by a spline through the points where both exist; nan where there is none."""
        x, excess = self.gammas0[self.coexist], (self.lazy.action - self.rich.action)[self.coexist]
        if len(x) < 2:
            return math.nan
        roots = CubicSpline(x, excess).roots(extrapolate=False)
        return float(roots[0]) if len(roots) else math.nan


def sweep_montecarlo(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    depth: int,
    gammas0: ArrayLike,
    beta: float,
    activation: ActivationLike,
    prior_variances: ArrayLike = 1.0,
    detour_beta: float | None = None,
    particles: int | None = None,
    rounds: int = 6,
    replicas: int = 4,
    rng: int | np.random.Generator | None = None,
) -> Sweep:
    """Follow the lazy solution up and a rich one down a grid of gamma0, to find out whether they are the same.

    Parameters
    ----------
    X, y, kernel, depth, beta, activation, prior_variances
        As in `solve_montecarlo`.
    gammas0 : (n,) array
        Ascending, > 0, n >= 2. The rich start is at the last.
    detour_beta : float, optional
        Inverse temperature at which gamma0 rises towards the rich start, at least `beta`; by default 1/T of the smaller of T and
        5 g_w Y^T K^L Y/|Y|^2. Deep linear networks have several solutions only at T above 4 to 12 times the latter.
    particles : int, optional
        Per layer and replica, at least 512; by default 80 P between 1024 and 8192. Averages over S are biased by about 0.1 P/S,
        `signal` and `action` less: with 10 raw digits, L = 2, beta = 50 actions are .5 to 1 % too large at gamma0 = 1 and 2,
        and by some .02 on the rich path at any, which replicas do not show.
    rounds : int
        Averaged at every gamma0.
    replicas : int
        Independent repetitions, >= 2: their spread gives all standard errors, actions included.
    rng : int or Generator

    Returns
    -------
    Sweep

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    A sweep stops where its solution ends; sampling noise moves such a spinodal by its own relative size. The rich branch is the
    one that exists at the last gamma0: one that appears only above it is not found.

    Cost per replica: rounds as in `solve_montecarlo`, (rounds + 4) n for each branch and 9 for every factor e in gamma0 or
    temperature on the way. Memory: replicas n (L + 1) P^2 doubles per branch.
    """
    grid = _grid(gammas0)
    task = Task.checked(X, y, kernel, depth, float(grid[0]), beta, activation, prior_variances)
    problem = task.problem
    T, P = problem.temperature, len(problem.C)
    default = min(max(_LEAST_PARTICLES, _PARTICLES_PER_POINT * P), _MOST_PARTICLES)
    count = default if particles is None else checks.integer_at_least("particles", particles, 512)
    rounds, replicas = checks.integer_at_least("rounds", rounds), checks.integer_at_least("replicas", replicas, 2)
    cold = _detour(task) if detour_beta is None else 1 / checks.positive("detour_beta", detour_beta)
    if cold > T:
        raise ValueError(f"detour_beta: expected at least beta = {1 / T:g}, got {detour_beta}")
    detour = Task.checked(X, y, kernel, depth, float(grid[-1]), 1 / cold, activation, prior_variances)
    up, down = [], []
    for child in checks.random_generator(rng).spawn(replicas):
        first, second = child.spawn(2)
        up.append(_Walk(task, count, first).visit(grid, T, rounds))
        walk = _Walk(detour, count, second)
        walk.visit(grid[-1:], cold, 0)
        walk.visit(grid[-1:], T, 0)
        down.append({name: values[::-1] for name, values in walk.visit(grid[::-1], T, rounds).items()})
    lazy, rich, coexist = _compared(_combined(up), _combined(down))
    effective, residual, bent = (
        np.concatenate([getattr(branch, name)[branch.exists] for branch in (lazy, rich)])
        for name in ("effective", "residual", "bent")
    )
    doubtful = effective.min(initial=1.0) < _LEAST_EFFECTIVE or bent.max(initial=0.0) > _MOST_BENT
    # There is a solution everywhere, whether found or not.
    doubtful |= not (lazy.exists | rich.exists).all()
    record = {
        "depth": problem.depth,
        "beta": 1 / T,
        "detour_beta": 1 / cold,
        "activation": problem.laws[0].activation.name,
        "prior_variances": problem.variances.tolist(),
        "particles": count,
        "rounds": rounds,
        "replicas": replicas,
        "seed": int(rng) if isinstance(rng, Integral) else None,
    }
    return Sweep(
        parameters=record,
        residual=float(residual.max(initial=0.0)),
        status=Status.UNRELIABLE if doubtful else Status.CONVERGED,
        gammas0=grid,
        lazy=lazy,
        rich=rich,
        coexist=coexist,
    )


def _grid(gammas0: ArrayLike) -> Floats:
    grid = checks.real_array("gammas0", gammas0, ndim=1)
    if len(grid) < 2 or grid[0] <= 0 or (np.diff(grid) <= 0).any():
        raise ValueError(f"gammas0: expected at least 2 numbers > 0 in ascending order, got {grid.tolist()}")
    return grid


def _detour(task: Task) -> float:
    """A temperature at which the solution is unique."""
    problem, Y = task.problem, task.problem.Y
    size = float((Y**2).sum())
    seen = float(problem.variances[-1] * (Y * (task.lazy[-1] @ Y)).sum())
    return min(problem.temperature, _COLD * seen / size) if seen > 0 else problem.temperature


class _Walk:
    """An ensemble that follows one solution and knows its action, until the solution ends."""

    def __init__(self, task: Task, particles: int, rng: np.random.Generator) -> None:
        kernel = task.problem.variances[-1] * task.lazy[-1]
        V = linalg.solve(kernel + task.problem.temperature * np.eye(len(kernel)), task.problem.Y, assume_a="pos")
        tilt = float((V * (kernel @ V)).sum())
        first = math.sqrt(_FIRST_TILT / tilt) if tilt > 0 else math.inf
        problem = replace(task.problem, gamma0=min(first, task.problem.gamma0))
        self.ensemble = Ensemble(problem, task.start, particles, 2, rng)
        self.ensemble.stay(1)
        # Trapezoid in gamma0^2.
        self.action = problem.gamma0**2 * (float((V * problem.Y).sum()) + self.ensemble.path[-1].signal) / 4
        self.ended, self.excess = False, np.zeros(2)

    def visit(self, gammas0: Floats, temperature: float, rounds: int) -> dict[str, Floats]:
        """Walk to every gamma0 in turn, in a straight line of ln gamma0 and ln T; return averages over `rounds` at each.

        Gammas where the solution does not exist have nan.
        """
        path = self.ensemble.path
        start, stops, bent = len(path) - 1, [], []
        for gamma0 in gammas0:
            self._follow(float(gamma0), temperature)
            if not self.ended and rounds:
                self._stay(_EQUILIBRATION + rounds)
            if self.ended:
                break
            stops.append(len(path))
            bent.append(self._solved().bent)
        change = _change_of_action(path[start:])
        P = len(self.ensemble.problem.C)
        found = {name: np.full(len(gammas0), np.nan) for name in ("signal", "action", "effective", "residual", "bent")}
        found["kernels"] = np.full((len(gammas0), self.ensemble.problem.depth + 1, P, P), np.nan)
        for index, stop in enumerate(stops):
            rungs = path[stop - max(rounds, 1) : stop]
            found["signal"][index] = np.mean([rung.signal for rung in rungs])
            found["kernels"][index] = np.mean([rung.kernels for rung in rungs], axis=0)
            found["effective"][index] = min(rung.effective for rung in rungs)
            found["residual"][index] = _residual(rungs)
            found["action"][index] = self.action + change[stop - 1 - start]
            found["bent"][index] = bent[index]
        self.action += change[-1]
        return found

    def _follow(self, gamma0: float, temperature: float) -> None:
        """Step by step, as long as there is a solution."""
        problem = self.ensemble.problem
        across = abs(math.log(gamma0 / problem.gamma0)), abs(math.log(temperature / problem.temperature))
        count = math.ceil(max(across) / math.log(_RATIO))
        steps = zip(
            np.geomspace(problem.gamma0, gamma0, count + 1)[1:],
            np.geomspace(problem.temperature, temperature, count + 1)[1:],
            strict=True,
        )
        for step in steps:
            if self.ended:
                return
            self._attempt(lambda step=step: self.ensemble.climb(*map(float, step)))

    def _stay(self, rounds: int) -> None:
        for _ in range(rounds):
            if self.ended:
                return
            self._attempt(lambda: self.ensemble.stay(1))

    def _attempt(self, move: Callable[[], None]) -> None:
        """Move on and look; what a lost solution leaves of the path is forgotten."""
        here = self.ensemble
        known, layers = len(here.path), here.layers
        try:
            move()
            if len(here.path) == known + 1:
                here.path[-1] = self._closer(layers)
            self._look()
        except ConvergenceError:
            del here.path[known:]
            self.ended = True

    def _closer(self, layers: list[SampledLayer]) -> Rung:
        """The last rung, solved more closely than the walk needs, without what finite populations add to Y . V and |V|^2.

        That is inversely proportional to their size: halves have twice as much.
        """
        here = self.ensemble

        def sums(part: list[SampledLayer]) -> Floats:
            V = solve_on(here.problem, part, here.state, tol=_CLOSE, max_steps=_STEPS).V
            return np.array([(V * here.problem.Y).sum(), (V**2).sum()])

        whole = sums(layers)
        if len(here.path) % _COMPARED == 1:
            halves = [sums([replace(layer, groups=2).group(half) for layer in layers]) for half in (0, 1)]
            self.excess = np.divide(np.mean(halves, axis=0) - whole, whole, out=np.zeros(2), where=whole > 0)
        signal, power = whole * (1 - self.excess)
        return replace(here.path[-1], signal=float(signal), power=float(power))

    def _look(self) -> None:
        """Whether more iterations than a rung has, or a few more rounds, solve the equations on the particles."""
        here = self.ensemble
        for _ in range(_PATIENCE):
            if here.path[-1].residual <= _ENDED:
                return
            if self._solved().residual <= _ENDED:
                return
            here.stay(1)
        self.ended = True

    def _solved(self) -> Found:
        here = self.ensemble
        return solve_on(here.problem, here.layers, here.state, tol=_ENDED / 4, max_steps=_MAPS)


def _residual(rungs: Sequence[Rung]) -> float:
    return float(np.mean([rung.residual for rung in rungs]))


def _change_of_action(path: Sequence[Rung]) -> Floats:
    """Change of S from the first rung to every rung of a straight line in ln gamma0 and ln T."""
    place = np.log([(rung.gamma0, rung.temperature) for rung in path])
    moved = np.abs(np.diff(place, axis=0)).sum(axis=1)
    node = np.concatenate([[0], np.cumsum(moved > 0)])
    if node[-1] == 0:
        return np.zeros(len(path))
    # Rungs at one place are one node, with their average.
    slopes = np.array([(r.gamma0**2 * r.signal, -(r.gamma0**2) * r.temperature * r.power / 2) for r in path])
    average = np.stack([np.bincount(node, slope) for slope in slopes.T], axis=1) / np.bincount(node)[:, None]
    t = np.concatenate([[0.0], np.cumsum(moved[moved > 0])])
    integrand = average @ (place[-1] - place[0]) / t[-1]
    return np.asarray(CubicSpline(t, integrand).antiderivative()(t)[node])


def _combined(replicas: Sequence[dict[str, Floats]]) -> SweptBranch:
    """Means and standard errors; a solution exists where all replicas found it."""
    table = {name: np.stack([found[name] for found in replicas]) for name in replicas[0]}
    mean = {name: values.mean(axis=0) for name, values in table.items()}
    error = {name: values.std(axis=0, ddof=1) / math.sqrt(len(replicas)) for name, values in table.items()}
    size = np.linalg.norm(mean["kernels"], axis=(2, 3))[:, 1:]
    return SweptBranch(
        kernels=mean["kernels"],
        kernel_errors=np.linalg.norm(error["kernels"], axis=(2, 3))[:, 1:] / size,
        signal=mean["signal"],
        signal_error=error["signal"],
        action=mean["action"],
        action_error=error["action"],
        effective=table["effective"].min(axis=0),
        residual=mean["residual"],
        bent=table["bent"].max(axis=0),
    )


def _compared(up: SweptBranch, down: SweptBranch) -> tuple[SweptBranch, SweptBranch, NDArray[np.bool_]]:
    """Where the two differ; and each only where it is itself: a sweep can jump to the other branch, its action cannot."""
    noise = np.hypot(up.signal_error, down.signal_error)
    coexist = np.abs(up.signal - down.signal) > _ERRORS * noise + _FRACTION * np.abs(up.signal)
    where = np.flatnonzero(coexist)
    if len(where):
        index = np.arange(len(coexist))
        up, down = up.only((index <= where[-1]) | ~down.exists), down.only((index >= where[0]) | ~up.exists)
    return up, down, coexist
