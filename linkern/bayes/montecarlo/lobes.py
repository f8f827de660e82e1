r"""Where the rare, strongly active neurons of activations of degree one are, and whether particles represent them.

Around every minimum d of Q on the unit sphere lies a lobe of neurons with variance 1/Q(d) along d. Lobes of small Q hold few
neurons that carry much of the kernel, and particles may not have found them. Descent from many starts finds such directions; a
mixture of the prior and one half-Gaussian per direction then is a proposal for plain importance sampling, which shares nothing
with the particles but the tilt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Law, Tilt
from linkern.bayes.montecarlo.mixture import Mixture
from linkern.bayes.montecarlo.samples import SampledLayer

__all__ = ["LobeCheck", "check_lobes", "minima"]

Floats = NDArray[np.float64]

_LOOKED_AT, _SCOUTS, _DESCENT, _SAME, _MOST = 8192, 256, 80, 0.98, 48
_PROPOSALS = 32768
# Beyond the edge of its domain a tilt has lobes without width.
_NARROWEST = 1e-4
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
    directions, lows = minima(law, root, tilt, eps, rng)
    mixture = Mixture.prior(law.rank).with_lobes(directions[:_MOST], np.maximum(lows[:_MOST], _NARROWEST))
    sample = SampledLayer.proposed(mixture, _PROPOSALS, 1, rng, scrambled=False)
    view = sample.view(law, root)
    weights, rho = view.weights(tilt)
    strength = -rho * view.tilt_of(tilt)
    energy = float(weights.w @ strength)
    error = float(np.sqrt(np.square(weights.w) @ np.square(strength - energy)))
    if weights.effective * _PROPOSALS < _LEAST_EFFECTIVE:
        energy = error = float("nan")
    return LobeCheck(energy, error, float(lows.min(initial=1.0)))


def minima(law: Law, root: Floats, tilt: Tilt, eps: NDArray[np.floating], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Local minima of Q on the unit sphere below 1, (K, r), and their values, lowest first: descent from many starts.

    Half of the starts are the lowest of the samples `eps`, half the lowest of the prior's.
    """
    sampled = eps[rng.choice(len(eps), size=min(len(eps), _LOOKED_AT), replace=False)]
    kinds = []
    for starts in (sampled, rng.standard_normal((_LOOKED_AT // 4, law.rank))):
        unit = starts / np.linalg.norm(starts, axis=1)[:, None]
        Q = _Q(tilt, law.activation.value(unit @ root.T.astype(unit.dtype)))
        kinds.append(unit[np.argsort(Q)[: _SCOUTS // 2]].astype(np.float64))
    eps = np.concatenate(kinds)
    h = eps @ root.T
    phi = law.activation.value(h)
    Q, length = _Q(tilt, phi), np.ones(len(eps))
    for _ in range(_DESCENT):
        trial = eps - length[:, None] * ((law.activation.derivative(h) * tilt.apply(phi)) @ root)
        trial /= np.maximum(np.linalg.norm(trial, axis=1), np.finfo(float).tiny)[:, None]
        h_trial = trial @ root.T
        phi_trial = law.activation.value(h_trial)
        below = _Q(tilt, phi_trial)
        better = below < Q
        for old, new in ((eps, trial), (h, h_trial), (phi, phi_trial), (Q, below)):
            old[better] = new[better]
        length = np.where(better, 1.5, 0.4) * length
    order = np.argsort(Q)
    eps, Q = eps[order], Q[order]
    alike = eps @ eps.T >= _SAME
    kept: list[int] = []
    for index in np.flatnonzero(Q < 1).tolist():
        if not alike[index, kept].any():
            kept.append(index)
    return eps[kept], np.asarray(law.bend(Q[kept])[0])


def _Q(tilt: Tilt, phi: NDArray[np.floating]) -> Floats:
    return np.asarray(1 + tilt.quadratic(phi), dtype=np.float64)
