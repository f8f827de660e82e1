"""The prior and the temperature: every parameter of the problem except the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.checks import integer_at_least, nonnegative, per_layer, positive

__all__ = ["Ensemble"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Deep linear networks h^1 = W^0 x / sqrt(D), h^{l+1} = W^l h^l / sqrt(n_l N), f = w . h^L / (gamma0 N).

    Attributes
    ----------
    depth : int
        L, the number of hidden layers.
    gamma0 : float
        Richness, >= 0.
    beta : float
        Inverse temperature, > 0, may be inf.
    prior_variances : (L + 1,) array
        g_1 .. g_L of the hidden layers' weights, then g_w of the readout's.
    widths : (L,) array
        Relative widths n_1 .. n_L.
    """

    depth: int
    gamma0: float
    beta: float
    prior_variances: Floats
    widths: Floats

    @classmethod
    def checked(cls, *, depth: int, gamma0: float, beta: float, prior_variances: ArrayLike, widths: ArrayLike) -> Ensemble:
        """Validate the arguments of a solver; every error names the argument."""
        depth = integer_at_least("depth", depth)
        variances = per_layer("prior_variances", prior_variances, depth + 1, "hidden layers from first to last, then the readout")
        beta = positive("beta", beta, infinite=True)
        if math.isinf(1 / beta):
            raise ValueError(f"beta: expected a number whose inverse is finite, got {beta!r}")
        exponents = np.cumsum(np.log2(variances))
        if np.abs(exponents).max() > 960:
            raise ValueError("prior_variances: expected a product within the range of float64, rescale the kernel")
        return cls(
            depth=depth,
            gamma0=nonnegative("gamma0", gamma0),
            beta=beta,
            prior_variances=variances,
            widths=per_layer("widths", widths, depth, "hidden layers from first to last"),
        )

    @property
    def temperature(self) -> float:
        """T = 1 / beta."""
        return 1 / self.beta

    @cached_property
    def lazy_scales(self) -> Floats:
        """(L + 1,) array G_0 = 1, G_l = g_1 ... g_l: the lazy kernels are G_l C."""
        return np.concatenate([[1.0], np.cumprod(self.prior_variances[:-1])])

    @property
    def readout_scale(self) -> float:
        """g_w n_L G_L: at gamma0 = 0 the network is kernel ridge regression with this multiple of C."""
        return float(self.prior_variances[-1] * self.widths[-1] * self.lazy_scales[-1])

    def lazy_eigenvalues(self, eigenvalues: Floats) -> Floats:
        """Eigenvalues of the lazy readout kernel C' = g_w n_L G_L C."""
        log_scale = math.log2(self.readout_scale)
        if eigenvalues.size and not -960 < log_scale + math.log2(eigenvalues[-1]) < 990:
            raise ValueError("prior_variances: the readout kernel leaves the range of float64; rescale the data kernel")
        return self.readout_scale * eigenvalues

    def log_growth(self, charge: Floats) -> Floats:
        """Return ln k_l for l = 0..L: an (L + 1, O) array for charges of shape (O,)."""
        steps = np.log1p(charge / self.widths[:, None])
        return np.concatenate([np.zeros((1, charge.size)), np.cumsum(steps, axis=0)])

    def record(self) -> Mapping[str, Any]:
        """The parameters as plain Python objects, ready for JSON."""
        return {
            "depth": self.depth,
            "gamma0": self.gamma0,
            "beta": self.beta,
            "prior_variances": self.prior_variances.tolist(),
            "widths": self.widths.tolist(),
        }
