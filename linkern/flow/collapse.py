"""Where weight decay makes a deep linear network collapse to zero: spinodals and the line of equal energy.

On the curve of fixed points weight_decay(x) = e^x (gamma0^2 Q(e^x))^{L/(L+1)}, x = ln rho, nonzero fixed points are born in
pairs where the weight decay is extremal, <1 - s> = (L + 1)/(2L), and cost as much as the zero state where
sum_i b_i^2 s_i (L - 1 - L s_i) = 0. Neither condition contains gamma0: both lines are powers gamma0^{2L/(L+1)}.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, positive
from linkern.flow.ridge import EPS, RidgeEquation
from linkern.numerics.roots import Evaluation, bracketed_newton, isolate_roots

__all__ = ["CollapseLines", "collapse_lines"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CollapseLines:
    """Special values of the weight decay at one gamma0.

    Attributes
    ----------
    depth : int
        L.
    gamma0 : float
        Richness.
    collapse : float
        Above it zero is the only fixed point. For L = 1 it is gamma0 sqrt(y^T C y), and the transition is continuous.
    equal_energy : float
        Up to it the best nonzero fixed point has less energy than zero, above it more (equal to `collapse` for L = 1).
    spinodals : (m,) array
        All extrema of the weight decay along the curve of fixed points, by ascending ridge: a stable and an unstable
        one meet at each. Empty for L = 1.
    certified : bool
        Whether it is proved that none is missing.
    """

    depth: int
    gamma0: float
    collapse: float
    equal_energy: float
    spinodals: Floats
    certified: bool

    def at(self, gamma0: float) -> CollapseLines:
        """Return the lines at another gamma0: everything scales with gamma0^{2L/(L+1)}."""
        factor = (positive("gamma0", gamma0) / self.gamma0) ** (2 * self.depth / (self.depth + 1))
        return CollapseLines(
            self.depth, gamma0, self.collapse * factor, self.equal_energy * factor, self.spinodals * factor, self.certified
        )


def collapse_lines(spectrum: Spectrum, *, depth: int, gamma0: float = 1.0) -> CollapseLines:
    """Return the collapse line, the line of equal energy and all spinodals of a data set.

    Parameters
    ----------
    spectrum : Spectrum
        One output.
    depth : int
        L >= 1 hidden layers.
    gamma0 : float
        Richness > 0.

    Returns
    -------
    CollapseLines

    Raises
    ------
    TypeError, ValueError
        Naming the argument; in particular for several outputs and for labels outside the range of the kernel.

    Notes
    -----
    Cost O(r) per point of the search, a few hundred points. The searches are certified: in x the two conditions have
    second derivatives of at most 8 and 2L.
    """
    depth = integer_at_least("depth", depth)
    gamma0 = positive("gamma0", gamma0)
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum: expected a Spectrum, got {type(spectrum).__name__}")
    if spectrum.coefficients.shape[1] != 1:
        raise ValueError(f"spectrum: expected one output, got {spectrum.coefficients.shape[1]}")
    ridge = RidgeEquation.build(spectrum.eigenvalues, spectrum.coefficients[:, 0], depth)
    if not ridge.log_lam.size:
        raise ValueError("spectrum: expected labels with a part in the range of the kernel, got none")
    if depth == 1:
        value = math.exp(math.log(gamma0) + ridge.log_readout / 2)
        return CollapseLines(1, gamma0, value, value, np.empty(0), True)
    turning, sure = _roots(ridge, lambda x: _turning(ridge, x), 8.0)
    equal, certain = _roots(ridge, lambda x: _gain(ridge, x), 2.0 * depth)
    spinodals = np.exp(ridge.log_decay(turning, gamma0))
    return CollapseLines(
        depth=depth,
        gamma0=gamma0,
        collapse=float(spinodals.max()),
        equal_energy=float(np.exp(ridge.log_decay(equal, gamma0)).max()),
        spinodals=spinodals,
        certified=sure and certain,
    )


def _turning(ridge: RidgeEquation, x: Floats) -> tuple[Floats, Floats]:
    """F' = p - 2 <r> and its derivative."""
    _, r1, r2, _ = ridge.moments(x)
    return ridge.power - 2 * r1, -2 * (r1 - 3 * r2 + 2 * r1**2)


def _gain(ridge: RidgeEquation, x: Floats) -> tuple[Floats, Floats]:
    """L - 1 - L <s> over the weights b_i^2 s_i (it vanishes with the energy), and its derivative."""
    gap = ridge.log_lam - x[:, None]
    terms = ridge.log_share - np.logaddexp(0.0, -gap)
    weights = np.exp(terms - terms.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    s = expit(gap)
    first, second = (weights * s).sum(axis=1), (weights * s**2).sum(axis=1)
    return ridge.depth - 1 - ridge.depth * first, ridge.depth * (first - 2 * second + first**2)


def _roots(ridge: RidgeEquation, condition: Callable[[Floats], tuple[Floats, Floats]], curvature: float) -> tuple[Floats, bool]:
    """All roots between the points where every mode is fitted and where none is, for L >= 2."""

    def evaluate(middle: Floats, half: Floats) -> Evaluation:
        value, slope = condition(middle)
        return Evaluation(value, slope, np.full_like(middle, curvature), np.full_like(middle, 64 * EPS * curvature))

    # At rho = lam_i e^{+-margin} all shares are beyond the value (L-1)/(2L) or (L-1)/L that the conditions ask for.
    margin = math.log(4 * ridge.depth)
    found = isolate_roots(evaluate, float(ridge.log_lam.min()) - margin, float(ridge.log_lam.max()) + margin)
    x = bracketed_newton(
        lambda x, _: condition(x), found.brackets[:, 0], found.brackets[:, 1], found.rising, rtol=1e-15, atol=1e-15
    )
    return np.sort(np.concatenate([x, found.clusters.mean(axis=1)])), not found.clusters.size
