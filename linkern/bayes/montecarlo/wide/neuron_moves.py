r"""How networks move whose neurons are accepted one by one: kicks, the work that every neuron does, and weights.

Given the error signals V, neurons of infinite width are independent, of law exp(-|eps|^2/2 + tau) with
tau = gamma0^2 g_w |V^T phi|^2/2, phi = phi(root eps). N of them make the kernel, and V = M^{-1} Y, M = g_w Phi + T, answers to
all of them at every kick, as in a network of width N whose readout is at its mode. The network's potential is
U = (gamma0^2 N/2) Tr(Y^T V), and from one kick to the next

    U' - U = -sum_i gamma0^2 g_w (V^T phi'_i . V'^T phi'_i - V^T phi_i . V'^T phi_i)/2,

without error, for M'^{-1} - M^{-1} = -M^{-1} (M' - M) M'^{-1}. Every neuron has its share of the work done, and its own error of
energy decides whether it goes or stays. A network that is accepted as a whole needs steps that shrink like N^{-1/4}, which its
few strongly active neurons rule; here they were 2 to 4 times as long at N = 1024, and do not depend on N (`benchmarks`).

Beside all others, at every width, a neuron of a network has the law exp(-|eps|^2/2 + tau/(1 - t)), t = g_w phi^T M^{-1} phi/N (V
with itself included; Sherman and Morrison's formula). So <(phi phi^T - Phi_lazy) exp(-tau/(1 - t))> = 0: prior draws among
neurons need not be averaged over.

Under an umbrella (`levelling`) neurons have weights w of mean 1, <phi phi^T> is the weighted mean, and t is w times as large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from linkern.activations.kinks import averaged_slope
from linkern.bayes.montecarlo.law import Samples
from linkern.bayes.montecarlo.saddle import Problem
from linkern.bayes.montecarlo.wide.levelling import Levelling
from linkern.networks.noise import standard_normal

__all__ = ["Field", "MovingNetworks", "work"]

Floats = NDArray[np.float64]

# The angle in which momenta fall to 1/e; that under an umbrella, and how fast V* follows V while it adapts. What neurons give
# back there is weighted: where they swing (memory 2, one datum) so does V, by a fifth at any width.
_MEMORY, _LEVEL_MEMORY, _FOLLOWING = 2.0, 1.0, 0.03
# Where tilts vanish all count alike.
_LEAST_STRENGTH = 1e-6
_LEAST_REACH = 1e-30
# Of 1 - t, against rounding.
_LEAST_SHARE = 1e-6
# Activations of a network that are worked on at a time.
_BLOCK = 2**17


class Field:
    """What all networks share: the law of h, the labels, and how neurons make error signals."""

    def __init__(self, problem: Problem, levelling: Levelling | None) -> None:
        self.levelling = levelling
        self.law, self.Y, self.temperature = problem.laws[0], problem.Y, problem.temperature
        self.g = float(problem.variances[-1])
        self.root = problem.root.astype(np.float32)
        self.across = np.ascontiguousarray(self.root.T)
        self.deviation = np.maximum(np.linalg.norm(problem.root, axis=1), _LEAST_REACH).astype(np.float32)
        self.lazy = np.linalg.matrix_power(problem.whitening[0], 2)

    def regression(self, kernels: Floats) -> Floats:
        """M."""
        M = self.g * kernels
        diagonal = np.arange(len(self.Y))
        M[:, diagonal, diagonal] += self.temperature
        return M

    def signals(self, kernels: Floats) -> Floats:
        """V; NaN where kernels overflowed."""
        # Where a feature overflows its diagonal entry does.
        finite = np.isfinite(np.diagonal(kernels, axis1=1, axis2=2)).all(axis=1)[:, None, None]
        if not finite.all():
            kernels = np.where(finite, kernels, 0.0)
        V = np.stack([_solved(M, self.Y) for M in self.regression(kernels)])
        return np.where(finite, V, np.nan)

    def force(self, h: Samples, s: Samples, V: Samples, step: float) -> Samples:
        """(s V^T phi'(h)) root, phi' averaged at kinks over what a step crosses."""
        phi, reach = self.law.activation, self.deviation * np.float32(step)
        slope = averaged_slope(phi, h, reach) if self.law.kinked else phi.derivative(h)
        # The factor of few columns is cheaper behind the product.
        if s.shape[-1] == 1:
            slope *= V.swapaxes(1, 2)
            return np.asarray((slope @ self.root) * s)
        slope *= s @ V.swapaxes(1, 2)
        return np.asarray(slope @ self.root)


class _View(NamedTuple):
    """Preactivations and features of all neurons, block by block, V (k, P, O) in double, V^T phi and V*^T phi (k, N, O)."""

    h: Sequence[Samples]
    phi: Sequence[Samples]
    V: Floats
    s: Samples
    still: Samples | None

    def against(self, V: Floats) -> Samples:
        """V^T phi of other error signals."""
        return _against(self.phi, V)


class MovingNetworks:
    """k networks of N neurons at eps, (k, N, r), with weights (k, N) of mean 1, V, and gamma0, (k, 1)."""

    gamma0: Floats
    # V*, (k, P, O), none before the umbrella adapts.
    _still: Floats | None = None

    def __init__(self, field: Field, width: int, rngs: list[np.random.Generator]) -> None:
        self._field, self._rngs = field, rngs
        self.eps, self._p = (self._normal(np.empty((len(rngs), width, field.root.shape[1]), np.float32)) for _ in range(2))
        # Whatever the number of networks: sums over neurons must not depend on it.
        rows = max(1, _BLOCK // len(field.Y))
        self._rows = [np.s_[:, start : start + rows] for start in range(0, width, rows)]
        with np.errstate(over="ignore", invalid="ignore"):
            h = [self.eps[block] @ field.across for block in self._rows]
            self._here = self._seen(h, [field.law.activation.value(part) for part in h])
        if np.isnan(self.V).any():
            raise ValueError(
                f"activation: expected finite feature kernels on prior draws, {field.law.activation.name!r} overflows"
            )

    @property
    def V(self) -> Floats:
        """Error signals, (k, P, O)."""
        return self._here.V

    def kernels(self) -> Floats:
        """Phi, less what averages to zero, (k, P, P)."""
        field, phi, w = self._field, np.concatenate(self._here.phi, axis=1), self.weights
        N = phi.shape[1]
        Phi = (_transposed(phi * w[..., None].astype(phi.dtype)) @ phi).astype(np.float64) / N
        precision = np.linalg.inv(field.regression(Phi)).astype(phi.dtype)
        t = (field.g / N) * w * np.einsum("kip,kip->ki", phi @ precision, phi).astype(np.float64)
        weights = w * np.exp(-self._tilt() / np.clip(1 - t, _LEAST_SHARE, 1.0))
        second = _transposed(phi * weights[..., None].astype(phi.dtype)) @ phi
        return np.asarray(Phi - (second / N - weights.mean(axis=1)[:, None, None] * field.lazy))

    @property
    def coordinate(self) -> Floats:
        """tau*, (k, N), once the umbrella adapts."""
        assert self._here.still is not None
        return self._strength(self._here.still)

    def follow(self) -> Floats:
        """Let V* follow V."""
        self._still = self.V if self._still is None else self._still + _FOLLOWING * (self.V - self._still)
        self._here = self._here._replace(still=_against(self._here.phi, self._still))
        self.weights = self._weights(self._here.still)
        return self._still

    def move(self, step: float, kicks: int) -> Floats:
        """Some kicks; acceptance and tau of every neuron, (2, k N)."""
        eps, p, before = self.eps, self._refreshed(step * kicks), self._here
        start = eps.copy(), p.copy()
        strength, tilt = self.gamma0**2 * self._field.g, self._tilt() + _LEAST_STRENGTH
        gain = _squared(eps) + _squared(p) - 2 * self._height()
        with np.errstate(over="ignore", invalid="ignore"):
            for kick in range(kicks):
                self._kick(strength * (step if kick else step / 2), step)
                here = self._here
                self._rotate(step)
                gain += 2 * strength * work(here, self._here)
            self._kick(strength * step / 2, step)
            gain -= _squared(eps) + _squared(p) - 2 * self._height()
            probability = np.where(np.isfinite(gain), np.exp(np.minimum(gain / 2, 0.0)), 0.0)
        uniform = np.stack([rng.random(eps.shape[1]) for rng in self._rngs])
        self._return(uniform >= probability, start, before)
        return np.stack([probability.ravel(), (tilt * self.weights).ravel()])

    def _kick(self, strength: Floats, step: float) -> None:
        V, s = self.V.astype(np.float32), self._here.s * strength.astype(np.float32)[..., None]
        still, levelling = self._here.still, self._field.levelling
        if self._still is not None and still is not None and levelling is not None:
            slope = (strength * levelling.slope(self.coordinate)).astype(np.float32)
            V = np.concatenate([V, self._still.astype(np.float32)], axis=-1)
            s = np.concatenate([s, still * slope[..., None]], axis=-1)
        for block, h in zip(self._rows, self._here.h, strict=True):
            self._p[block] += self._field.force(h, s[block], V, step)

    def _rotate(self, angle: float) -> None:
        """Positions and momenta into each other, and look."""
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        h = []
        for block in self._rows:
            x, p = self.eps[block], self._p[block]
            self.eps[block], self._p[block] = cos * x + sin * p, cos * p - sin * x
            h.append(self.eps[block] @ self._field.across)
        self._here = self._seen(h, [self._field.law.activation.value(part) for part in h])

    def _refreshed(self, angle: float) -> Samples:
        """Momenta that have forgotten a part of themselves."""
        kept = math.exp(-angle / (_MEMORY if self._field.levelling is None else _LEVEL_MEMORY))
        self._p *= np.float32(kept)
        self._p += np.float32(math.sqrt(1 - kept**2)) * self._normal(np.empty_like(self._p))
        return self._p

    def _return(self, rejected: NDArray[np.bool_], start: tuple[Samples, Samples], before: _View) -> None:
        """Send neurons back the way they came, and look."""
        self.eps[rejected], self._p[rejected] = start[0][rejected], -start[1][rejected]
        here = self._here
        for block, *pairs in zip(self._rows, here.h, before.h, here.phi, before.phi, strict=True):
            some = rejected[block]
            for part, old in (pairs[:2], pairs[2:]):
                part[some] = old[some]
        self._here = self._seen(here.h, here.phi)

    def _seen(self, h: Sequence[Samples], phi: Sequence[Samples]) -> _View:
        still = None if self._still is None else _against(phi, self._still)
        self.weights = self._weights(still)
        weighted: Sequence[Samples] = phi
        if still is not None:
            roots = np.sqrt(self.weights).astype(np.float32)[..., None]
            weighted = [part * roots[block] for block, part in zip(self._rows, phi, strict=True)]
        second = np.asarray(np.sum([_transposed(part) @ part for part in weighted], axis=0, dtype=np.float64))
        V = self._field.signals(second / self.eps.shape[1])
        return _View(h, phi, V, _against(phi, V), still)

    def _tilt(self) -> Floats:
        """tau of every neuron, (k, N)."""
        return self._strength(self._here.s)

    def _strength(self, s: Samples) -> Floats:
        return np.asarray(self.gamma0**2 * self._field.g / 2 * np.square(s, dtype=np.float64).sum(axis=-1))

    def _height(self) -> Floats | float:
        """b of every neuron, (k, N)."""
        if self._field.levelling is None or self._here.still is None:
            return 0.0
        return self._field.levelling.height(self.coordinate)

    def _weights(self, still: Samples | None) -> Floats:
        if self._field.levelling is None or still is None:
            return np.ones(self.eps.shape[:2])
        weights = np.exp(-self._field.levelling.height(self._strength(still)))
        return np.asarray(weights / weights.mean(axis=1, keepdims=True))

    def _normal(self, out: Samples) -> Samples:
        for rng, part in zip(self._rngs, out, strict=True):
            standard_normal(rng, part)
        return out


def work(here: _View, there: _View) -> Floats:
    """Change of |V^T phi|^2/2 of every neuron, (k, N), where V changes on the way: both ends see both."""
    return np.asarray((there.s * there.against(here.V) - here.s * here.against(there.V)).sum(axis=-1, dtype=np.float64) / 2)


def _solved(M: Floats, Y: Floats) -> Floats:
    """M^{-1} Y; by Cholesky's method, which takes half the time, unless rounding left an eigenvalue that is not positive."""
    V, failed = linalg.lapack.dposv(M, Y)[1:]
    return np.linalg.solve(M, Y) if failed else V


def _against(phi: Sequence[Samples], V: Floats) -> Samples:
    factor = V.astype(np.float32)
    return np.concatenate([part @ factor for part in phi], axis=1)


def _squared(x: Samples) -> Floats:
    return np.asarray(np.einsum("kir,kir->ki", x, x, dtype=np.float64))


def _transposed(array: Samples) -> Samples:
    return array.swapaxes(-1, -2)
