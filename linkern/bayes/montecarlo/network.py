r"""Wide but finite networks, the readout integrated out, sampled neuron by neuron: no saddle point has to be found.

N neurons of the last layer, h_i = root eps_i with eps_i standard under the prior, are drawn from the exact posterior

    E = sum_i |eps_i|^2/2 + (N gamma0^2/2) Tr(Y^T M^{-1} Y) + (O/2) ln det M,
    M = g_w Phi_N + T,   Phi_N = sum_i phi_i phi_i^T/N.

The law of one neuron given the rest (`network_law`) has a tilt that saturates where one neuron alone would fit the labels.
At large N it is the law of the saddle point, but the error signals V = M^{-1} Y answer to every neuron at once: a V too large
in directions without neurons calls them in and shrinks, where a V that solves the equations on given particles would stay.
Averages differ from those of infinite width by O(1/N).

Neurons of a block move together by Hamiltonian trajectories under a law that the neurons outside the block fix: theirs,
completed to N - 1 neurons. Each move is then accepted or rejected in turn under the exact law, so that the approximation
costs acceptance only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Law, Samples
from linkern.bayes.montecarlo.network_jumps import Lobes
from linkern.bayes.montecarlo.network_law import Conditional, accepted_in_turn, feature_gram, squared
from linkern.bayes.montecarlo.saddle import Problem

__all__ = ["Networks"]

Floats = NDArray[np.float64]

# A block starts as 1/_BLOCKS of a network, or _LARGEST neurons if that is less. What its law does not know is the block itself:
# it is halved where that costs more than this share of the acceptance.
_BLOCKS, _LARGEST, _COSTLY = 32, 64, 0.2
# Rotation angles of a trajectory, and the most kicks that one may cost.
_ANGLES, _LONGEST = (2.2, 3.8), 40
_STEPS = (5e-3, 0.8)
# Acceptance that the step aims at, averaged over neurons by tilt: few, strongly active ones carry most of the kernel and move
# between steep walls (kinks times their signal). A step that suits the typical neuron never moves them.
_ACCEPTANCE = 0.7
# Steps shrink as (1 + tilt/_STRONG)^-_POWER and scatter by the factor exp(+-_JITTER).
_STRONG, _POWER, _JITTER = 20.0, 0.25, 0.4
_LEAST_VARIANCE, _LEAST_REACH, _LEAST_Q = 1e-2, 1e-6, 0.02


class Networks:
    """Independent networks of one width.

    Parameters
    ----------
    problem : Problem
        Its last law, labels, gamma0, temperature and g_w; may be replaced between sweeps.
    root : (P, r) array
        Root of the covariance of h.
    networks, width : int
        n and N.
    rng : numpy Generator

    Attributes
    ----------
    eps, phi : (n, N, r) and (n, N, P) float32 arrays
        Standard coordinates and features of all neurons.
    reference : (r, r) array
        Root of the covariance of eps that trajectories rotate exactly.
    step, block : float, int
        Scale of the rotation angle between kicks, and how many neurons move together.
    lobes : Lobes or None
        Where jumps lead.
    frozen : bool
        Stops the adaptation of the four above; averages start then.
    acceptance, radial_acceptance, jump_acceptance : float
        Of the last sweep.
    """

    def __init__(self, problem: Problem, root: Floats, networks: int, width: int, rng: np.random.Generator) -> None:
        self.problem, self.root, self.rng = problem, root, rng
        self.law: Law = problem.laws[-1]
        self.eps: Samples = rng.standard_normal((networks, width, root.shape[1]), dtype=np.float32)
        self.reference = np.eye(root.shape[1])
        self.step, self.block, self.frozen = 0.2, min(max(width // _BLOCKS, 1), _LARGEST), False
        self.lobes: Lobes | None = None
        self.acceptance = self.radial_acceptance = self.jump_acceptance = 1.0
        self._refresh()

    @property
    def kernels(self) -> Floats:
        """Phi_N, (n, P, P)."""
        return np.asarray(self._sum / self.eps.shape[1])

    @property
    def V(self) -> Floats:
        """M^{-1} Y, (n, P, O)."""
        Y = self.problem.Y
        return np.asarray(np.linalg.solve(self._matrix(self._sum), np.broadcast_to(Y, (len(self.eps), *Y.shape))))

    def climb(self, gamma0: float, temperature: float, sweeps: int, report: Callable[[Networks], None] | None = None) -> None:
        """Go to these parameters geometrically, one rung per sweep; `report` is called after each.

        Cooled after gamma0 was raised, networks arrive with too much feature learning and lose it slowly where they are narrow;
        raised at low temperature, with too little.
        """
        here, start = self.problem.gamma0, self.problem.temperature
        for share in (np.arange(1, sweeps + 1) / sweeps).tolist():
            rung = here * (gamma0 / here) ** share, start * (temperature / start) ** share
            self.problem = replace(self.problem, gamma0=rung[0], temperature=rung[1])
            self.sweep()
            if report is not None:
                report(self)
        # Powers round.
        self.problem = replace(self.problem, gamma0=gamma0, temperature=temperature)

    def join(self, other: Networks) -> None:
        """Take in the networks of another instance; what was tuned here moves them all."""
        self.eps = np.concatenate([self.eps, other.eps])
        self._refresh()

    def sweep(self) -> None:
        """Move every neuron once.

        Cost: 4 products n N P r or n N P^2 per kick, and per block n factorisations P^3 and n B matrices of size B.
        """
        n, N, tally = *self.eps.shape[:2], _Tally()
        kicks = min(_LONGEST, max(1, math.ceil(self.rng.uniform(*_ANGLES) / self.step)))
        jumped = radial = total = 0.0
        for start in range(0, N, self.block):
            rows = slice(start, start + self.block)
            # The law knows the neurons outside the block only, so that moving those inside leaves it as it is.
            law = self._law_outside(rows)
            if self.lobes is not None:
                jumped += self._decide(rows, *self._jumps(rows, self.lobes))
            if self.law.homogeneous:
                radial += self._decide(rows, *self._radii(rows, law))
            total += self._decide(rows, *self._trajectories(rows, law, kicks, tally))
        self.acceptance, self.radial_acceptance, self.jump_acceptance = np.array([total, radial, jumped]) / (n * N)
        if not self.frozen:
            self._adapt(tally.accepted / tally.weight, 1 - total / tally.total)
        self._refresh()

    @property
    def _strength(self) -> float:
        return self.problem.gamma0**2 * float(self.problem.variances[-1])

    def _matrix(self, total: Floats) -> Floats:
        g = float(self.problem.variances[-1])
        return np.asarray(g / self.eps.shape[1] * total + self.problem.temperature * np.eye(len(self.root)))

    def _refresh(self) -> None:
        self.phi = np.asarray(self.law.activation.value(self.eps @ self.root.T.astype(np.float32)))
        self._sum = feature_gram(self.phi)

    def _adapt(self, accepted: float, loss: float) -> None:
        self.step = min(max(self.step * math.exp(0.5 * (accepted - _ACCEPTANCE)), _STEPS[0]), _STEPS[1])
        if loss > _COSTLY:
            self.block = max(self.block // 2, 1)
        points = self.eps.reshape(-1, self.root.shape[1]).astype(np.float64)
        values, vectors = np.linalg.eigh(points.T @ points / len(points))
        # Eigenvalues that as many samples of a standard Gaussian would show are noise (Marchenko-Pastur band).
        values[np.abs(np.sqrt(np.maximum(values, 0.0)) - 1) < math.sqrt(len(values) / len(points))] = 1.0
        self.reference = np.asarray((vectors * np.sqrt(np.maximum(values, _LEAST_VARIANCE))) @ vectors.T)

        self.lobes = Lobes.fitted(self.eps.reshape(len(points), -1), (self.phi @ self.V).reshape(len(points), -1))

    def _law_outside(self, rows: slice) -> Conditional:
        N, phi = self.eps.shape[1], self.phi[:, rows]
        others = (self._sum - feature_gram(phi)) * ((N - 1) / max(N - phi.shape[1], 1))
        G = np.linalg.inv(self._matrix(others))
        return Conditional(G @ self.problem.Y, G * (float(self.problem.variances[-1]) / N), self._strength)

    def _jumps(self, rows: slice, lobes: Lobes) -> tuple[Samples, Samples, Floats]:
        """Proposals of the mixture; the change of energy includes its density, there and here."""
        old = self.eps[:, rows]
        new = lobes.draw(old.shape[0] * old.shape[1], self.rng)
        odds = lobes.log_density(new) - lobes.log_density(old.reshape(new.shape))
        new = new.reshape(old.shape)
        change = (squared(new) - squared(old)) / 2 + odds.reshape(old.shape[:2])
        return new, np.asarray(self.law.activation.value(new @ self.root.T.astype(np.float32))), change

    def _radii(self, rows: slice, law: Conditional) -> tuple[Samples, Samples, Floats]:
        """New radii, for degree one: nearly |eps|^2 ~ chi^2_r/Q with Q that of the direction."""
        eps, phi = self.eps[:, rows], self.phi[:, rows]
        radius = squared(eps)
        Q = np.maximum(1 - law.tilt(phi) / radius, _LEAST_Q)
        drawn = self.rng.chisquare(eps.shape[2], Q.shape) / Q
        scale = np.sqrt(drawn / radius).astype(np.float32)[..., None]
        return eps * scale, phi * scale, (1 - Q) * (drawn - radius) / 2

    def _trajectories(self, rows: slice, law: Conditional, kicks: int, tally: _Tally) -> tuple[Samples, Samples, Floats]:
        """End points in eps and phi, and by how much the energy apart from the tilt has grown."""
        old, R = self.eps[:, rows], self.reference.astype(np.float32)
        root, covariance = (self.root @ self.reference).astype(np.float32), (self.reference @ self.reference).astype(np.float32)
        x = old @ np.linalg.inv(self.reference).astype(np.float32)
        p: Samples = self.rng.standard_normal(x.shape, dtype=np.float32)
        before = (squared(p) + squared(old)) / 2
        tilt = law.tilt(self.phi[:, rows])
        scatter = self.rng.standard_normal(x.shape[:2])
        step = np.exp(np.minimum(self._log_step(tilt) + _JITTER * scatter, 0.0)).astype(np.float32)[..., None]
        # The force of a kink is averaged over what a step crosses; acceptance knows the kink itself.
        reach = np.maximum(step * np.linalg.norm(root, axis=1).astype(np.float32), _LEAST_REACH)
        activation, both = self.law.activation, np.hstack([root.T, covariance])

        def force(x: Samples) -> tuple[Samples, Floats]:
            h, Sx = np.split((x.reshape(-1, x.shape[2]) @ both).reshape(*x.shape[:2], -1), [len(root)], axis=2)
            energy, pull = law.at(activation.value(h))
            if self.law.kinked:
                slope = (activation.value(h + reach) - activation.value(h - reach)) / (2 * reach)
            else:
                slope = activation.derivative(h)
            return ((slope * pull).reshape(-1, len(root)) @ root).reshape(x.shape) + Sx - x, energy

        cos, sin = np.cos(step), np.sin(step)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            gradient, first = force(x)
            p -= step / 2 * gradient
            for kick in range(kicks):
                x, p = cos * x + sin * p, cos * p - sin * x
                gradient, last = force(x)
                p -= (step if kick < kicks - 1 else step / 2) * gradient
            new = x @ R
            phi = np.asarray(activation.value(new @ self.root.T.astype(np.float32)))
            # The way back draws its step at the other end.
            back = scatter + (self._log_step(tilt) - self._log_step(law.tilt(phi))) / _JITTER
            change = (squared(p) + squared(new)) / 2 - before + (back**2 - scatter**2) / 2
            tally.count(change + last - first, tilt)
        return new, phi, change

    def _log_step(self, tilt: Floats) -> Floats:
        return np.asarray(math.log(self.step) - _POWER * np.log1p(tilt / _STRONG))

    def _decide(self, rows: slice, eps: Samples, phi: Samples, change: Floats) -> float:
        """Accept or reject what is proposed for a block; return the summed acceptance probability."""
        old, uniform = self.phi[:, rows], self.rng.random(change.shape)
        variance = float(self.problem.variances[-1]) / self.eps.shape[1]
        accepted, log_ratio = accepted_in_turn(
            self._matrix(self._sum), self.problem.Y, old, phi, change, np.log(uniform), variance, self._strength
        )
        new = np.where(accepted[..., None], phi, old)
        self._sum += feature_gram(new) - feature_gram(old)
        self.phi[:, rows] = new
        self.eps[:, rows][accepted] = eps[accepted]
        return float(np.exp(np.minimum(log_ratio, 0.0)).sum())


@dataclass
class _Tally:
    """Acceptance of trajectories under the law that they follow, summed, and averaged by tilt."""

    total: float = np.finfo(float).tiny
    accepted: float = 0.0
    weight: float = np.finfo(float).tiny

    def count(self, change: Floats, tilt: Floats) -> None:
        """Add trajectories and by how much they changed their energy."""
        probability = np.where(np.isfinite(change), np.exp(np.minimum(-change, 0.0)), 0.0)
        self.total += float(probability.sum())
        weight = tilt + 1e-6  # Where tilts vanish all count alike.
        self.accepted += float((weight * probability).sum())
        self.weight += float(weight.sum())
