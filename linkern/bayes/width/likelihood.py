"""The likelihood of Q: labels drawn from N(0, g Q K + kappa), mode by mode, for many (g, kappa) at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.generated import width as formulas

__all__ = ["LikelihoodTerms", "ModeLikelihood"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
# Modes times points evaluated at once: a few such arrays stay within the cache of a small machine.
CHUNK = 1 << 17


class LikelihoodTerms(NamedTuple):
    """ln N(y; 0, A) = fit + volume + constant and derivatives in t = ln Q, one entry per point.

    Attributes
    ----------
    fit, volume : arrays
        -1/2 y^T A^{-1} y and -1/2 ln det A, up to constants.
    fit_slope, volume_slope : arrays
        1/2 sum u x >= 0 and -1/2 sum x <= 0.
    fit_curvature, volume_curvature : arrays
        Second derivatives; |fit_curvature| <= fit_slope and volume_curvature <= 0.
    fit_third, volume_third : arrays
        Third derivatives.
    """

    fit: Floats
    volume: Floats
    fit_slope: Floats
    volume_slope: Floats
    fit_curvature: Floats
    volume_curvature: Floats
    fit_third: Floats
    volume_third: Floats


@dataclass(frozen=True)
class ModeLikelihood:
    """Labels in the eigenbasis of K, and the parameters of G problems that share them.

    Attributes
    ----------
    lam, b : (r,) arrays
        Eigenvalues of K and labels' coefficients.
    outside : float
        Squared norm of the labels outside the range of K.
    empty : int
        P - r.
    scale, ridge : (G,) arrays
        g and kappa.
    """

    lam: Floats
    b: Floats
    outside: float
    empty: int
    scale: Floats
    ridge: Floats

    @classmethod
    def build(cls, spectrum: Spectrum, scale: Floats, ridge: Floats) -> ModeLikelihood:
        """Take the labels of the first (only) output."""
        outside = float(spectrum.residual[0])
        empty = spectrum.samples - spectrum.eigenvalues.size
        return cls(spectrum.eigenvalues, spectrum.coefficients[:, 0], outside**2, empty, scale, ridge)

    def gains(self, t: Floats, problem: Indices) -> tuple[Floats, Floats]:
        """Return x = gQ lam / (gQ lam + kappa) and 1 / (gQ lam + kappa), each (n, r)."""
        signal = (self.scale[problem] * np.exp(t))[:, None] * self.lam
        precision = 1 / (signal + self.ridge[problem][:, None])
        return signal * precision, precision

    def constant(self) -> Floats:
        """(G,) array: what does not depend on Q."""
        samples = self.lam.size + self.empty
        return np.asarray(
            -0.5 * samples * math.log(2 * math.pi) - 0.5 * self.empty * np.log(self.ridge) - 0.5 * self.outside / self.ridge
        )

    def terms(self, t: Floats, problem: Indices) -> LikelihoodTerms:
        """Evaluate at the points t, each belonging to one of the problems: O(r) per point."""
        sums = [self._block(t[part], problem[part]) for part in self._parts(t.size)]
        return LikelihoodTerms(*(np.concatenate(column) for column in zip(*sums, strict=True)))

    def _parts(self, count: int) -> Iterator[slice]:
        step = max(1, CHUNK // max(1, self.lam.size))
        for start in range(0, max(count, 1), step):
            yield slice(start, start + step)

    def _block(self, t: Floats, problem: Indices) -> LikelihoodTerms:
        x, precision = self.gains(t, problem)
        u = self.b**2 * precision
        return LikelihoodTerms(
            fit=-0.5 * u.sum(axis=1),
            volume=0.5 * np.log(precision).sum(axis=1),
            fit_slope=formulas.fit_slope(u, x).sum(axis=1),
            volume_slope=formulas.volume_slope(x).sum(axis=1),
            fit_curvature=formulas.fit_curvature(u, x).sum(axis=1),
            volume_curvature=formulas.volume_curvature(x).sum(axis=1),
            fit_third=formulas.fit_third(u, x).sum(axis=1),
            volume_third=formulas.volume_third(x).sum(axis=1),
        )

    def limits(self) -> tuple[Floats, Floats]:
        """Suprema of fit (Q -> inf) and volume (Q -> 0), per problem."""
        return np.zeros(self.ridge.size), -0.5 * self.lam.size * np.log(self.ridge)
