"""All solutions for a data set: one scalar equation for one output, a symmetric matrix equation for many."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.ensemble import Ensemble
from linkern.bayes.scalar import ScalarSaddle
from linkern.bayes.spectrum import Spectrum

__all__ = ["Branch", "data_condition_number"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Branch:
    """One solution of the saddle-point equations.

    For O > 1 outputs `log_rescaling` and `charge` are (O,) arrays of eigenvalues, in the same order as the columns of
    `basis`; for one output they are floats.

    Attributes
    ----------
    log_rescaling : float or (O,) array
        x = ln k.
    charge : float or (O,) array
        A.
    action : float
        S (the posterior weight is exp(-N S)).
    stable : bool
        Whether S, maximised over the dual kernels, is a minimum here.
    condition_number : float
        Relative change of k (of x where x < 1) per relative change of gamma0^2, T, eigenvalues and coefficients.
    degenerate : bool
        Whether this stands for two or three solutions that float64 cannot tell apart.
    basis : (O, O) array
        Orthonormal combinations of outputs that diagonalise the charge.
    """

    log_rescaling: float | Floats
    charge: float | Floats
    action: float
    stable: bool
    condition_number: float
    degenerate: bool = False
    basis: Floats = field(default_factory=lambda: np.ones((1, 1)), repr=False)


def scalar_problem(spectrum: Spectrum, ensemble: Ensemble, b: Floats, outside: float) -> ScalarSaddle:
    """The scalar equation for one combination of outputs with coefficients b (r,)."""
    # At T = 0 labels are required to lie in the range of C up to rounding, which must not be divided by T.
    outside = outside if ensemble.temperature else 0.0
    lam = ensemble.lazy_eigenvalues(spectrum.eigenvalues)
    return ScalarSaddle.build(lam, b, outside, ensemble.gamma0, ensemble.temperature, ensemble.widths)


def single_output_branches(spectrum: Spectrum, ensemble: Ensemble) -> tuple[tuple[Branch, ...], bool]:
    """Return all branches for one output, and whether they are proved to be all."""
    problem = scalar_problem(spectrum, ensemble, spectrum.coefficients[:, 0], float(spectrum.residual[0]))
    roots, certified = problem.roots()
    branches = tuple(
        Branch(root.log_rescaling, root.charge, root.action, root.stable, root.condition_number, root.degenerate)
        for root in roots
    )
    return branches, certified


def data_condition_number(spectrum: Spectrum, ensemble: Ensemble, branch: Branch) -> float:
    """First-order change of ln k (relative to x where x < 1) per relative change of C in norm; the worst output.

    From dA = gamma0^2 k (v^T dC v - 2 k v^T dC (k C + T)^{-1} C v) with |dC| = |C|. At T = 0 only changes within the
    range of C are considered.
    """
    x, A = np.atleast_1d(branch.log_rescaling), np.atleast_1d(branch.charge)
    if not spectrum.eigenvalues.size or not x.any():
        return 0.0
    lam = ensemble.lazy_eigenvalues(spectrum.eigenvalues)[:, None]
    unit = lam.max()
    lam, T = lam / unit, ensemble.temperature / unit
    k = np.exp(x)
    b = spectrum.coefficients @ branch.basis
    v = b / (k * lam + T)
    outside = spectrum.residual @ np.abs(branch.basis) / T if T else np.zeros(x.size)
    size = np.maximum(np.abs(v).max(axis=0), outside)
    size = np.where(size > 0, size, 1.0)
    v, outside = v / size, outside / size
    q = (lam * v**2).sum(axis=0)
    norm = np.sqrt((v**2).sum(axis=0) + outside**2)
    smoothed = np.sqrt(((k * lam / (k * lam + T) * v) ** 2).sum(axis=0))
    change = lam.max() * norm * (norm + 2 * smoothed) / np.where(q > 0, q, 1.0)
    slope = (lam * v**2 * (T - k * lam) / (T + k * lam)).sum(axis=0) / np.where(q > 0, q, 1.0)
    E = (A / (ensemble.widths[:, None] + A)).sum(axis=0)
    derivative = np.maximum(np.abs(1 - E * slope), np.finfo(float).eps)
    return float((E * change / derivative).max() / min(x.max(), 1.0))
