r"""What a solution of the sampled saddle point is made of: one weighted population of preactivations per layer.

The single-site measure of layer l is p(h) ~ N(h; 0, g_l Phi^{l-1}) exp(-phi(h)^T hatPhi^l phi(h) / 2), and every observable of
the theory is an average over it, Phi^l = <phi(h) phi(h)^T> first of all. Nothing else of the solver enters predictors, densities
or overlaps; quadrature rules and sampled populations look the same to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation

__all__ = ["SaddleSample", "SiteEnsemble"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SiteEnsemble:
    """Weighted samples of the preactivations of one layer at the training inputs.

    Attributes
    ----------
    base : (P, P) array
        Covariance g_l Phi^{l-1} of the untilted preactivations.
    coordinates : (S, r) array
        Coordinates in which the untilted measure is standard normal, r the rank of `base`, up to `lengths`.
    root : (P, r) array
        h = standard root^T, so that base = root root^T.
    weights : (S,) array
        Non-negative, of sum 1.
    activation : Activation
    lengths : (S,) array, optional
        Factors of the rows of `coordinates`: several ensembles can share one population of directions.
    """

    base: Floats = field(repr=False)
    coordinates: NDArray[np.floating] = field(repr=False)
    root: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    activation: Activation
    lengths: Floats | None = field(default=None, repr=False)

    def standard(self, rows: slice | NDArray[np.intp] = slice(None)) -> Floats:
        """Standard coordinates of some members, (.., r); formed anew at every call."""
        chosen = np.asarray(self.coordinates[rows], dtype=np.float64)
        return chosen if self.lengths is None else chosen * self.lengths[rows, None]

    @property
    def preactivations(self) -> Floats:
        """(S, P) array h; formed anew at every access."""
        return np.asarray(self.standard() @ self.root.T, dtype=np.float64)

    @property
    def features(self) -> Floats:
        """(S, P) array phi(h); formed anew at every access."""
        return np.asarray(self.activation.value(self.preactivations), dtype=np.float64)

    @cached_property
    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2: how many equally weighted samples the weights are worth."""
        return float(1 / np.square(self.weights).sum())


@dataclass(frozen=True, eq=False)
class SaddleSample:
    """A solution of the saddle-point equations with averages taken over given populations.

    Attributes
    ----------
    kernels : (L + 1, P, P) array
        Phi^0 = C, Phi^1, .., Phi^L.
    dual_kernels : (L, P, P) array
        hatPhi^1, .., hatPhi^L = -gamma0^2 g_w V V^T.
    coefficients : (P, O) array
        V = beta (Y - f) = (g_w Phi^L + 1/beta)^{-1} Y.
    sites : tuple of SiteEnsemble
        Of layers 1, .., L.
    """

    kernels: Floats = field(repr=False)
    dual_kernels: Floats = field(repr=False)
    coefficients: Floats = field(repr=False)
    sites: tuple[SiteEnsemble, ...] = field(repr=False)
