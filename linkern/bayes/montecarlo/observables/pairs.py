r"""Kernels between pairs of new inputs: given training preactivations these are jointly Gaussian, and are drawn once per member.

As in `predict`, but the part of the features that training features do not explain is a matrix R^l among new inputs,

    h_* = h b^{l-1} + zeta,  zeta ~ N(0, g_l R^{l-1}),      psi = E[phi(h_*) | h],
    R^l = <(psi - phi b^l)(psi - phi b^l)^T> + <(phi(h_*) - psi)(phi(h_*) - psi)^T>,      Phi^l = b^l^T Phi^l(X, X) b^l + R^l,

where psi is exact and only the second average, over fluctuations of phi, needs the draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks
from linkern.bayes.montecarlo.observables.estimate import Estimate, over_sections
from linkern.bayes.montecarlo.observables.predict import NewInputs, regress
from linkern.bayes.montecarlo.observables.sites import SaddleSample
from linkern.bayes.montecarlo.observables.smoothing import smoothed_moments

__all__ = ["pair_kernels"]

Floats = NDArray[np.float64]


def pair_kernels(
    sample: SaddleSample,
    sections: Sequence[SaddleSample],
    X: ArrayLike,
    X_new: ArrayLike,
    prior_variances: ArrayLike,
    *,
    rng: int | np.random.Generator | None = None,
) -> Estimate:
    """Return Phi^0, .., Phi^L among new inputs, (L + 1, M, M), positive semi-definite.

    Parameters
    ----------
    sample, sections, prior_variances
        As for `predict`.
    X, X_new : (P, D) and (M, D) arrays
        Training and new inputs.
    rng
        For the draws. Their error is part of the standard error where there are sections; a quadrature solution has none, and
        its own draws (one per node) then go unreported.

    Notes
    -----
    Cost per layer: S M (M + P) products, S M averages over a Gaussian, M^3 + P^3. Memory: 5 S M doubles.
    """
    new = NewInputs.of(X, X_new)
    points = checks.real_array("X_new", X_new, ndim=2)
    gram = points @ points.T / points.shape[1]
    g = checks.per_layer("prior_variances", prior_variances, len(sample.sites) + 1, "g_1 ... g_L and g_w")
    generator = checks.random_generator(rng)
    return over_sections(lambda s: _among(s, new, gram, g, generator), sample, sections)


def _among(sample: SaddleSample, new: NewInputs, gram: Floats, g: Floats, rng: np.random.Generator) -> Floats:
    b, _ = regress(sample.kernels[0], new.cross, new.variances)
    R = gram - new.cross.T @ b
    found = [gram]
    for variance, site, Phi in zip(g[:-1], sample.sites, sample.kernels[1:], strict=True):
        h = site.preactivations
        phi = site.activation.value(h)
        weighted = phi * site.weights[:, None]
        mean = h @ b
        psi, _ = smoothed_moments(site.activation, mean, np.sqrt(variance * np.maximum(np.diag(R), 0.0)))
        zeta = rng.standard_normal(mean.shape) @ _root(variance * R).T
        b, _ = regress(weighted.T @ phi, weighted.T @ psi, np.zeros(mean.shape[1]))
        R = _second_moment(psi - phi @ b, site.weights) + _second_moment(site.activation.value(mean + zeta) - psi, site.weights)
        found.append(b.T @ Phi @ b + R)
    return np.stack(found)


def _second_moment(deviations: Floats, weights: Floats) -> Floats:
    scaled = deviations * np.sqrt(weights)[:, None]
    return np.asarray(scaled.T @ scaled)


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
