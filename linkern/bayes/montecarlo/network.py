r"""Wide but finite networks of any depth as samples of single neurons: no saddle point has to be found.

The posterior of the preactivations, inner weights integrated out (`networks.collapsed_target`), is sampled by Hamiltonian
trajectories. At large N its neurons follow the laws of the saddle point, but kernels and error signals answer to all neurons at
once: a signal too large in directions without neurons calls them in and shrinks, where one that solves the equations on given
particles would stay. Averages differ from those of infinite width by O(1/N).

Infinite width does not tell readouts at their mode from an average over them. With one hidden layer the mode costs half and left
kernels as near to infinite width or twice as near; with two they were up to twice as far, and readouts are averaged over.

With one hidden layer and given all others, a neuron follows the prior tilted by exp(tau), where with M = g_w Phi + T

    tau = gamma0^2 g_w |V^T phi|^2 / (2 (1 - t)),   t = g_w phi^T M^{-1} phi / N,

by the change of the potential when it is left out (Sherman and Morrison's formula for M). So at every width
<(phi phi^T - Phi_lazy) exp(-tau)> = 0: prior draws among the neurons need not be averaged over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Samples
from linkern.bayes.montecarlo.saddle import Problem
from linkern.networks.collapsed_sampler import CollapsedSampler
from linkern.networks.collapsed_target import CollapsedPass, CollapsedPosterior
from linkern.numerics.threads import side_by_side

__all__ = ["Networks", "Snapshot"]

Floats = NDArray[np.float64]

# Of 1 - t, against rounding.
_LEAST_SHARE = 1e-6


class Snapshot(NamedTuple):
    """n networks at one time.

    Attributes
    ----------
    kernels : (n, L, P, P) array
        Phi^1, .., Phi^L; with one hidden layer less what averages to zero.
    V : (n, P, O) array
        Error signals.
    eps : tuple of (n, N, r_l) float32 arrays
        Standard coordinates of all neurons.
    """

    kernels: Floats
    V: Floats
    eps: tuple[Samples, ...]


class Networks:
    """Independent networks of one width, moved in single precision: all sums that matter are taken in double.

    Parameters
    ----------
    problem : Problem
    width : int
        N, of every layer.
    rng : numpy Generator
    networks : int
        n, drawn from the prior; or
    start : tuple of (n, N, r_l) arrays
        Where they are.
    step : float
        Where the adaptation of the step starts.
    """

    def __init__(
        self,
        problem: Problem,
        width: int,
        rng: np.random.Generator,
        *,
        networks: int = 0,
        start: tuple[Samples, ...] = (),
        step: float = 0.1,
    ) -> None:
        self.width, self._accepted, self._moves = width, 0.0, 0
        self._lazy = np.linalg.matrix_power(problem.whitening[0], 2)
        self._target = CollapsedPosterior(
            problem.root.T / np.sqrt(problem.variances[0]),
            problem.Y,
            widths=(width,) * problem.depth,
            gamma0=problem.gamma0,
            beta=1 / problem.temperature,
            activation=problem.laws[0].activation,
            prior_variances=problem.variances,
            averaged=problem.depth > 1,
        )
        state = [eps.copy() for eps in start] or self._target.prior_draws(networks, rng, np.float32)
        self._sampler = CollapsedSampler(self._target, state, rng)
        self._sampler.step = step

    @property
    def step(self) -> float:
        """Rotation angle between two kicks."""
        return self._sampler.step

    @property
    def acceptance(self) -> float:
        """Mean over the moves drawn so far."""
        return self._accepted / max(self._moves, 1)

    def climb(self, gamma0: float, moves: int, report: Callable[[Snapshot, float], None]) -> None:
        """Raise gamma0 from `gamma0` to the problem's, geometrically, by short trajectories.

        They start on the lazy branch and give the energy away that every rung brings.
        """
        last, beta = self._target.gamma0, self._target.beta
        for share in (np.arange(1, moves + 1) / moves).tolist():
            # Powers round.
            rung = last if share == 1 else gamma0 * (last / gamma0) ** share
            self._target.move_to(rung, beta)
            self._sampler.adapt_afresh()
            self._sampler.burn_in_step(early=True)
            report(self.snapshot(), rung)

    def settle(self, moves: int) -> None:
        """Full trajectories that adapt their step, which is frozen then."""
        self._sampler.adapt_afresh()
        for _ in range(moves):
            self._sampler.burn_in_step(early=False)
        self._sampler.freeze()

    def draw(self, count: int) -> list[Snapshot]:
        """One snapshot after each of `count` trajectories."""
        found = []
        for _ in range(count):
            self._accepted += float(self._sampler.update().mean())
            self._moves += 1
            found.append(self.snapshot())
        return found

    def snapshot(self) -> Snapshot:
        """Networks as they are."""
        state = self._sampler.weights
        seen = side_by_side(lambda some: self._seen([eps[some] for eps in state]), len(state[0]))
        kernels, V = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        return Snapshot(kernels, V, tuple(np.asarray(eps).copy() for eps in state))

    def _seen(self, state: list[Samples]) -> tuple[Floats, Floats]:
        """Kernels and error signals of some networks."""
        passed = self._target.forward(state)
        kernels = np.stack(passed.kernels, axis=1)
        if len(state) == 1:
            kernels[:, 0] -= self._vanishing(passed)
        return kernels, passed.dual_coefficients

    def _vanishing(self, passed: CollapsedPass) -> Floats:
        """Averages over neurons of (phi phi^T - Phi_lazy) exp(-tau), (n, P, P)."""
        target, phi = self._target, passed.features[-1]
        g, V = float(target.prior_variances[-1]), passed.dual_coefficients.astype(phi.dtype)
        t = (g / self.width) * np.einsum("nip,nip->ni", phi @ passed.precision.astype(phi.dtype), phi)
        share = np.clip(1 - t.astype(np.float64), _LEAST_SHARE, 1.0)
        signals = np.square(phi @ V).sum(axis=-1, dtype=np.float64)
        weights = np.exp(-(target.gamma0**2) * g * signals / (2 * share))
        second = (phi * weights[..., None].astype(phi.dtype)).swapaxes(1, 2) @ phi
        return np.asarray(second / self.width - weights.mean(axis=1)[:, None, None] * self._lazy)
