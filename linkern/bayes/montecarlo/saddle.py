r"""The saddle point with all averages taken over fixed particles.

The state is the dual kernels hatPhi^1, .., hatPhi^{L-1}, whitened by the kernels below them. One map: forward through the layers
with weights of these duals, Newton's method for the readout, then new duals from every layer to the one below. With fixed
particles the map is deterministic and Anderson's method finds its fixed point; one hidden layer needs Newton's method alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.averages import View
from linkern.bayes.montecarlo.law import Law, Tilt, roots_of
from linkern.bayes.montecarlo.readout import Newton, Readout, maximise
from linkern.bayes.montecarlo.samples import SampledLayer

__all__ = ["Found", "Problem", "State", "solve_on"]

Floats = NDArray[np.float64]

# Differences of noisy residuals span few directions worth keeping.
_MEMORY, _CUTOFF = 12, 1e-3
_READOUT_TOLERANCE = 1e-5
_BACKTRACKS = 8
# Share of a residual that is followed where the map does not answer.
_SHARE = 0.4
_ROUNDING = 1e-6
# Maps without progress before giving up.
_PATIENCE = 10


@dataclass(frozen=True)
class Problem:
    """Everything that defines the saddle point.

    Attributes
    ----------
    root : (P, r) array
        Of g_1 C.
    whitening : pair of (P, P) arrays
        Symmetric root of the lazy Phi^1 and its inverse.
    C : (P, P) array
    Y : (P, O) array
    laws : tuple of Law
        Of layers 1, .., L.
    gamma0, temperature : float
    variances : (L + 1,) array
        g_1, .., g_L, g_w.
    """

    root: Floats
    whitening: tuple[Floats, Floats]
    C: Floats
    Y: Floats
    laws: tuple[Law, ...]
    gamma0: float
    temperature: float
    variances: Floats

    @property
    def depth(self) -> int:
        """L."""
        return len(self.laws)

    @property
    def readout(self) -> Readout:
        """The problem of the last layer."""
        return Readout(self.Y, self.temperature, self.gamma0**2, float(self.variances[-1]))

    def misfit(self, kernel: Floats, V: Floats) -> float:
        """|Y - T V - g_w Phi^L V| relative to |Y|."""
        left = self.Y - self.temperature * V - float(self.variances[-1]) * kernel @ V
        return float(np.linalg.norm(left) / max(np.linalg.norm(self.Y), np.finfo(float).tiny))


@dataclass(frozen=True)
class State:
    """Unknowns in units in which a change of scale of the kernels below leaves the tilts alone.

    Attributes
    ----------
    duals : (L - 1, P, P) array
        M hatPhi^l M, with M^2 = g_l Phi^{l-1} for l >= 2 and the lazy Phi^1 for l = 1.
    signal : (P, O) array
        M V, M^2 = g_L Phi^{L-1}; where Newton's method starts.
    secants : sequence of pairs of arrays
        Differences of duals and of their residuals along the way to this state: solutions nearby have similar ones.
    """

    duals: Floats
    signal: Floats
    secants: Sequence[tuple[Floats, Floats]] = ()


@dataclass(frozen=True)
class Found:
    """The fixed point on given particles, or the best point reached.

    Attributes
    ----------
    state : State
    kernels : (L + 1, P, P) array
        Phi^0, .., Phi^L.
    duals : (L, P, P) array
        hatPhi^1, .., hatPhi^L.
    V : (P, O) array
    roots : list of arrays
        Roots of g_l Phi^{l-1}, l = 1..L.
    weights, rho : lists of (S,) arrays
        Per layer.
    residual : float
        Relative change of the whitened duals under the map, and relative Newton step of the readout, whichever is larger.
    effective : float
        Smallest effective fraction over layers.
    bent : float
        Largest share over layers of the weight of particles where Q is bent at the edge of its domain.
    steps : int
        Maps evaluated.
    """

    state: State
    kernels: Floats
    duals: Floats
    V: Floats
    roots: list[Floats]
    weights: list[Floats]
    rho: list[Floats]
    residual: float
    effective: float
    bent: float
    steps: int

    def tilt(self, layer: int) -> Tilt:
        """Tilt of layer index 0..L-1."""
        return Tilt(self.duals[layer])


class _Pass:
    """One forward and backward pass: `new` holds the whitened duals that the map makes of `state`."""

    def __init__(
        self, problem: Problem, layers: Sequence[SampledLayer], state: State, least_effective: float, before: _Pass | None = None
    ) -> None:
        L, g = problem.depth, problem.variances
        self.kernels, self.roots, self.weights, self.rho = [problem.C], [], [], []
        self.effective, self.bent = 1.0, 0.0
        tilts, whitening, views = [], [], []
        for l in range(L):
            if l == 0:
                self.roots.append(problem.root)
                whitening.append(problem.whitening)
            else:
                whitening.append(roots_of(g[l] * self.kernels[l]))
                self.roots.append(whitening[l][0])
            inverse = whitening[l][1]
            # The first root does not change, and the readout's Hessian little.
            views.append(before.first if before and l == 0 else layers[l].view(problem.laws[l], self.roots[l]))
            if l < L - 1:
                tilts.append(Tilt(inverse @ state.duals[l] @ inverse))
                weights, rho = views[l].weights(tilts[l])
            else:
                known = before.newton if before and before.effective >= least_effective else None
                V = inverse @ state.signal
                point, self.readout_step, newton = maximise(
                    views[l], problem.readout, V, _READOUT_TOLERANCE, least_effective / 2, known
                )
                self.newton: Newton = newton
                weights, rho, self.V = point.weights, point.rho, point.V
                tilts.append(Tilt.of_readout(self.V, problem.gamma0**2 * g[L]))
            self.effective = min(self.effective, weights.effective)
            self.bent = max(self.bent, float(weights.w @ views[l].bent(rho)))
            self.weights.append(weights.w)
            self.rho.append(rho)
            self.kernels.append(views[l].kernel(weights.w, rho))
        self.first: View = views[0]
        self.state = replace(state, signal=whitening[-1][0] @ self.V)
        self.duals = [tilt.matrix for tilt in tilts]
        self.new = np.empty_like(state.duals)
        for l in range(1, L):
            dual = g[l] * views[l].dual(g[l] * self.kernels[l], tilts[l], self.weights[l], self.rho[l])
            M = whitening[l - 1][0]
            self.new[l - 1] = M @ dual @ M
        if not np.isfinite(self.new).all():
            # Tilts without an average over these samples.
            self.new, self.effective = np.zeros_like(self.new), 0.0


def solve_on(
    problem: Problem,
    layers: Sequence[SampledLayer],
    start: State,
    *,
    tol: float,
    reduction: float = math.inf,
    max_steps: int = 60,
    least_effective: float = 0.5,
) -> Found:
    """Solve the saddle point on fixed particles.

    Stops at the relative residual `tol` if that is also `reduction` times the first residual or less, after `max_steps` maps,
    where the residual no longer falls (kinks leave a floor), or where the samples stop representing the solution.
    Cost: per map 5 to 9 products S P^2 and an eigendecomposition per layer.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _solved(problem, layers, start, tol, reduction, max_steps, least_effective)


def _solved(
    problem: Problem,
    layers: Sequence[SampledLayer],
    start: State,
    tol: float,
    reduction: float,
    max_steps: int,
    least_effective: float,
) -> Found:
    current = _Pass(problem, layers, start, least_effective)
    best, best_residual, best_step = current, math.inf, 0
    if problem.depth == 1:
        return _truth(problem, current, current.readout_step, 1)
    strength = problem.gamma0**2 * float(problem.variances[-1])
    secants = list(start.secants)
    last: tuple[Floats, Floats] | None = None
    for step in range(1, max_steps + 1):
        W, F = current.state.duals.ravel(), (current.new - current.state.duals).ravel()
        # Where symmetry forbids the labels, the duals are rounding noise of the readout's.
        floor = _ROUNDING * strength * float(np.sum(current.V**2)) * float(np.linalg.norm(current.kernels[-1]))
        residual = float(np.linalg.norm(F) / max(np.linalg.norm(current.new), floor, np.finfo(float).tiny))
        if residual < best_residual:
            best, best_residual, best_step = current, residual, step
        if step == 1:
            tol = min(tol, reduction * residual)
        if residual <= tol or step - best_step >= _PATIENCE:
            break
        if last is not None:
            secants = [*secants, (W - last[0], F - last[1])][-_MEMORY:]
        last = W, F
        a = strength * float(np.sum(current.V * (current.kernels[-1] @ current.V)))
        relax = _Relaxation(current.new, a)
        for halving in range(_BACKTRACKS):
            if halving == _BACKTRACKS // 2:
                # Extrapolation has left the domain: start again from the map itself.
                secants = []
            target = _anderson(W, F, secants, relax)
            duals = (W + 0.5 ** (halving % (_BACKTRACKS // 2)) * (target - W)).reshape(start.duals.shape)
            trial = _Pass(problem, layers, State(duals, current.state.signal), least_effective, current)
            if trial.effective >= least_effective:
                break
        else:
            break
        current = trial
    best.state = replace(best.state, secants=secants)
    return _truth(problem, best, max(best_residual, best.readout_step), step)


def _anderson(x: Floats, F: Floats, secants: Sequence[tuple[Floats, Floats]], relax: _Relaxation) -> Floats:
    """Next point of Anderson's method from the last point and its residual, and differences of points and of residuals."""
    if not secants:
        return x + relax(F)
    # Secants of all lengths count alike.
    lengths = [max(float(np.linalg.norm(df)), np.finfo(float).tiny) for _, df in secants]
    dx = np.stack([dx / length for (dx, _), length in zip(secants, lengths, strict=True)], axis=1)
    dF = np.stack([df / length for (_, df), length in zip(secants, lengths, strict=True)], axis=1)
    coefficients = np.linalg.lstsq(dF, F, rcond=_CUTOFF)[0]
    return np.asarray(x - dx @ coefficients + relax(F - dF @ coefficients))


class _Relaxation:
    """How much of a residual to follow: less along the labels, to which the map answers with a gain of about -1.5 a.

    In the whitened linear network the gain is -a (2 + 3 a)/(1 + 2 a) along the readout's direction, about half as much across it
    and nothing elsewhere. The duals' own eigenvectors tell these directions, for any activation.
    """

    def __init__(self, duals: Floats, a: float) -> None:
        values, self.vectors = np.linalg.eigh(duals)
        part = np.abs(values) / np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(float).tiny)
        self.share = _SHARE / (1 + 0.75 * a * (part[:, :, None] + part[:, None, :]))

    def __call__(self, residual: Floats) -> Floats:
        Q = self.vectors
        turned = np.swapaxes(Q, 1, 2) @ residual.reshape(Q.shape) @ Q
        return np.asarray(Q @ (self.share * turned) @ np.swapaxes(Q, 1, 2)).ravel()


def _truth(problem: Problem, current: _Pass, residual: float, steps: int) -> Found:
    return Found(
        state=current.state,
        kernels=np.stack(current.kernels),
        duals=np.stack(current.duals),
        V=current.V,
        roots=current.roots,
        weights=current.weights,
        rho=current.rho,
        residual=residual,
        effective=current.effective,
        bent=current.bent,
        steps=steps,
    )
