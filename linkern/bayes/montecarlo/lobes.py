r"""An independent check for activations of degree one: are the rare, strongly active neurons represented?

Where phi is linear, a tilt by readouts is Gaussian: around every minimum d of Q on the unit sphere lies a lobe of neurons with
variance 1/Q(d) along d. Lobes of small Q hold few neurons that carry much of the kernel, and particles may not have found them.
Descent from many starts finds such directions; a mixture of the prior and one half-Gaussian per direction then is a proposal for
plain importance sampling, which shares nothing with the particles but the tilt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Law, Tilt, bounded

__all__ = ["LobeCheck", "check_lobes"]

Floats = NDArray[np.float64]

_SCOUTS, _DESCENT, _SAME, _MOST = 256, 80, 0.98, 48
_PROPOSALS, _PRIOR_SHARE = 32768, 0.3
# Below this many effective proposals the check is silent.
_LEAST_EFFECTIVE = 300.0


@dataclass(frozen=True)
class LobeCheck:
    """Strength of the tilt, <-phi^T hatPhi phi>, by importance sampling from scratch.

    Attributes
    ----------
    energy, standard_error : float
        nan where too few proposals are effective to tell.
    lowest : float
        Smallest Q found on the unit sphere.
    """

    energy: float
    standard_error: float
    lowest: float


def check_lobes(law: Law, root: Floats, tilt: Tilt, eps: NDArray[np.floating], rng: np.random.Generator) -> LobeCheck:
    """Estimate the strength of a tilt independently of the particles `eps`, which serve as starts of the search only."""
    r = law.rank
    starts = np.concatenate([eps[rng.integers(len(eps), size=4 * _SCOUTS)], rng.standard_normal((4 * _SCOUTS, r))])
    directions, lows = _minima(law, root, tilt, starts.astype(np.float64))
    component = rng.choice(len(lows) + 1, size=_PROPOSALS, p=_shares(len(lows)))
    points = rng.standard_normal((_PROPOSALS, r))
    inside = component > 0
    d = directions[component[inside] - 1]
    along = np.einsum("sr,sr->s", points[inside], d)
    points[inside] += (np.abs(along) / np.sqrt(lows[component[inside] - 1]) - along)[:, None] * d
    u = _Q(law, root, tilt, points / np.linalg.norm(points, axis=1)[:, None])
    log_weights = -r / 2 * np.log(bounded(u)[0]) - _log_proposal(directions, lows, points, r)
    w = np.exp(log_weights - log_weights.max())
    w /= w.sum()
    strength = r * (1 - u) / bounded(u)[0]
    energy = float(w @ strength)
    error = float(np.sqrt(np.square(w) @ np.square(strength - energy)))
    if 1 / np.square(w).sum() < _LEAST_EFFECTIVE:
        energy = error = float("nan")
    return LobeCheck(energy, error, float(lows.min(initial=1.0)))


def _shares(lobes: int) -> Floats:
    if not lobes:
        return np.ones(1)
    return np.concatenate([[_PRIOR_SHARE], np.full(lobes, (1 - _PRIOR_SHARE) / lobes)])


def _Q(law: Law, root: Floats, tilt: Tilt, unit: Floats) -> Floats:
    return np.asarray(1 + tilt.quadratic(np.asarray(law.activation.value(unit @ root.T))))


def _minima(law: Law, root: Floats, tilt: Tilt, starts: Floats) -> tuple[Floats, Floats]:
    """Local minima of Q on the unit sphere, (K, r), and their values, lowest first."""
    eps = starts / np.linalg.norm(starts, axis=1)[:, None]
    Q = _Q(law, root, tilt, eps)
    order = np.argsort(Q)[:_SCOUTS]
    eps, Q, length = eps[order], Q[order], np.ones(_SCOUTS)
    for _ in range(_DESCENT):
        h = eps @ root.T
        trial = eps - length[:, None] * ((law.activation.derivative(h) * tilt.apply(law.activation.value(h))) @ root)
        trial /= np.maximum(np.linalg.norm(trial, axis=1), np.finfo(float).tiny)[:, None]
        below = _Q(law, root, tilt, trial)
        better = below < Q
        eps[better], Q[better] = trial[better], below[better]
        length = np.where(better, 1.5, 0.4) * length
    kept: list[int] = []
    for index in np.argsort(Q):
        if len(kept) < _MOST and Q[index] < 1 and all(eps[index] @ eps[k] < _SAME for k in kept):
            kept.append(int(index))
    return eps[kept], np.asarray(bounded(Q[kept])[0])


def _log_proposal(directions: Floats, lows: Floats, points: Floats, r: int) -> Floats:
    """Log-density of the direction of a proposal relative to the uniform one."""
    shares = _shares(len(lows))
    cosine = points @ directions.T / np.linalg.norm(points, axis=1)[:, None]
    lobes = 2 * (cosine > 0) * np.sqrt(lows) * (1 - (1 - lows) * cosine**2) ** (-r / 2)
    return np.asarray(np.log(shares[0] + lobes @ shares[1:]))
