"""Deep linear Bayesian networks of infinite width: one eigendecomposition and one scalar equation give everything.

With C' = g_w n_L g_1 .. g_L C and k = prod_l (1 + A/n_l), the error signal is v = (k C' + T)^{-1} y, the predictor
f(x) = k C'(x, X) v, and every layer's kernel is its lazy kernel plus one rank-one term along C v.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from linkern.bayes.ensemble import Ensemble
from linkern.bayes.outputs import all_branches
from linkern.bayes.posterior import LinearSolution, global_index, solution_on_branch
from linkern.bayes.saddles import Branch
from linkern.bayes.spectrum import Spectrum
from linkern.bayes.whitened import WhitenedSolution, solve_whitened

__all__ = ["Branch", "LinearSolution", "WhitenedSolution", "solve_linear", "solve_whitened"]

EPS = float(np.finfo(np.float64).eps)


def solve_linear(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    beta: float = math.inf,
    prior_variances: ArrayLike = 1.0,
    widths: ArrayLike = 1.0,
    branch: str | int = "global",
) -> LinearSolution:
    """Solve the infinite-width posterior of a deep linear network exactly.

    Parameters
    ----------
    X : (P, D) array
        Inputs. Give X and y, or kernel and y, or a Spectrum (worth it for many parameter values).
    y : (P,) or (P, O) array
        Labels.
    kernel : (P, P) array
        The data kernel C = X X^T / D itself.
    spectrum : Spectrum
        The decomposed data.
    depth : int
        L >= 1 hidden layers.
    gamma0 : float
        Richness, >= 0; 0 is the lazy limit.
    beta : float
        Inverse temperature of the loss 1/2 sum (f - y)^2; inf interpolates.
    prior_variances : float or (L + 1,) array
        g_1 .. g_L and g_w.
    widths : float or (L,) array
        Relative widths N_l / N.
    branch : {"global", "lazy", "rich"} or int
        Least action, smallest k, largest stable k, or an index into `branches`.

    Returns
    -------
    LinearSolution

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected. In particular for beta = inf with labels outside
        the range of a singular kernel, where no network fits the labels.

    Notes
    -----
    Cost: the eigendecomposition, then O(r) per evaluation of the scalar equation (r the rank), for many outputs
    O(r O^2). Equations: k = prod_l (1 + A/n_l), A = gamma0^2 k v^T C' v.
    """
    ensemble = Ensemble.checked(depth=depth, gamma0=gamma0, beta=beta, prior_variances=prior_variances, widths=widths)
    spectrum = _spectrum(X, y, kernel, spectrum)
    _require_labels_in_range(spectrum, ensemble)
    branches, certified = all_branches(spectrum, ensemble)
    return solution_on_branch(spectrum, ensemble, branches, _choose(branch, branches), certified)


def _spectrum(X: ArrayLike | None, y: ArrayLike | None, kernel: ArrayLike | None, spectrum: Spectrum | None) -> Spectrum:
    if sum(given is not None for given in (X, kernel, spectrum)) > 1:
        raise ValueError("X, kernel, spectrum: expected exactly one of them, got several")
    if spectrum is not None:
        if not isinstance(spectrum, Spectrum):
            raise TypeError(f"spectrum: expected a Spectrum, got {type(spectrum).__name__}")
        if y is not None:
            raise ValueError("y: the labels are part of the spectrum, do not give them twice")
        return spectrum
    if X is None and kernel is None:
        raise ValueError("X, kernel, spectrum: expected exactly one of them, got none")
    if y is None:
        raise ValueError("y: expected labels, got None")
    return Spectrum.from_kernel(kernel, y) if kernel is not None else Spectrum.from_data(np.asarray(X), y)


def _require_labels_in_range(spectrum: Spectrum, ensemble: Ensemble) -> None:
    """At T = 0 labels outside the range of C cannot be fitted; rounding in the eigenvectors is forgiven."""
    outside = float(np.hypot.reduce(spectrum.residual))
    if not math.isinf(ensemble.beta) or outside == 0:
        return
    total = float(np.hypot(outside, np.hypot.reduce(spectrum.coefficients.ravel(), initial=0.0)))
    tolerance = 0.0
    if spectrum.source != "modes" and spectrum.eigenvalues.size:
        spread = spectrum.eigenvalues[-1] / spectrum.eigenvalues[0]
        tolerance = min(1e-6, 100 * EPS * math.sqrt(spectrum.samples) * spread)
    if outside > tolerance * total:
        raise ValueError(
            f"beta: with beta = inf the labels must lie in the range of the kernel, but a fraction "
            f"{outside / total:.3g} of |y| lies outside (rank {spectrum.eigenvalues.size} of {spectrum.samples}); "
            f"give a finite beta"
        )


def _choose(branch: str | int, branches: tuple[Branch, ...]) -> int:
    stable = [index for index, candidate in enumerate(branches) if candidate.stable]
    if branch == "global":
        return global_index(branches)
    if branch == "lazy":
        return 0
    if branch == "rich":
        return stable[-1] if stable else len(branches) - 1
    if isinstance(branch, (int, np.integer)) and not isinstance(branch, bool):
        if not -len(branches) <= branch < len(branches):
            raise ValueError(f"branch: expected an index into {len(branches)} branches, got {branch}")
        return int(branch) % len(branches)
    raise ValueError(f"branch: expected 'global', 'lazy', 'rich' or an index, got {branch!r}")
