"""Infinite width from finite ones: posterior averages approach their limit as a + b/N, so a few widths give a.

The collapsed sampler makes it cheap; nothing here knows of a saddle point, its branches or its dual variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from linkern import checks
from linkern.networks.collapsed import CollapsedSamples, sample_collapsed
from linkern.networks.results import Estimate
from linkern.solution import Solution, Status

__all__ = ["WidthExtrapolation", "extrapolate_width"]

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_SMALLEST_P_VALUE = 1e-3


@dataclass(frozen=True, kw_only=True)
class WidthExtrapolation(Solution):
    """Posterior averages at N = infinity; every attribute below is the `a` of a + b/N, as an Estimate.

    `residual` is the largest residual of the runs; `status` is UNRELIABLE when a run's is, or when three or more widths
    do not lie on a line in 1/N (`fit_p_value` < 0.001).

    Attributes
    ----------
    kernels : Estimate, (L, P, P)
    overlaps, alignment : Estimate, (L,)
    train, test : Estimate, shaped like y, and the same at the test inputs (None without them)
    fit_p_value : float
        Smallest p-value, over layers, of the overlaps' chi^2 (times L, so that it is one test); 1 for two widths.
    runs : tuple of CollapsedSamples
        One per width.
    """

    kernels: Estimate
    overlaps: Estimate
    alignment: Estimate
    train: Estimate
    test: Estimate | None
    fit_p_value: float
    runs: tuple[CollapsedSamples, ...]


def extrapolate_width(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    widths: Sequence[int] = (128, 512),
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
    **options: Any,
) -> WidthExtrapolation:
    """Run `sample_collapsed` at several widths and extrapolate to infinite width by weighted least squares in 1/N.

    Parameters
    ----------
    X, y
        As in `sample_collapsed`.
    widths : sequence of int
        At least two different ones. What 1/N^2 leaves behind shrinks with the smallest: choose it well above P; the
        standard error of the limit is about N_2/(N_2 - N_1) times that of the largest width.
    rng : seed or Generator
        Each width gets its own child.
    **options
        Everything else that `sample_collapsed` takes except `width`.

    Returns
    -------
    WidthExtrapolation
    """
    if isinstance(widths, str) or not isinstance(widths, Sequence | np.ndarray):
        raise TypeError(f"widths: expected two widths or more, got {widths!r}")
    sizes = [checks.integer_at_least("widths", N) for N in widths]
    if len(set(sizes)) < 2:
        raise ValueError(f"widths: expected at least two different widths, got {widths!r}")
    children = checks.random_generator(rng).spawn(len(sizes))
    runs = tuple(sample_collapsed(X, y, width=N, rng=child, **options) for N, child in zip(sizes, children, strict=True))
    inverse = 1.0 / np.array(sizes)

    def limit(pick: Callable[[CollapsedSamples], Any]) -> Estimate:
        chosen = [pick(run) for run in runs]
        return _limit(inverse, chosen)[0]

    overlaps, chi_squared = _limit(inverse, [run.overlaps for run in runs])
    spare = len(sizes) - 2
    p_value = min(1.0, float(chi_squared.size * stats.chi2.sf(chi_squared, spare).min())) if spare else 1.0
    trusted = all(run.status is Status.CONVERGED for run in runs) and p_value >= _SMALLEST_P_VALUE
    return WidthExtrapolation(
        parameters={**runs[0].parameters, "widths": tuple(sizes)},
        residual=max(run.residual for run in runs),
        status=Status.CONVERGED if trusted else Status.UNRELIABLE,
        kernels=limit(lambda run: run.kernels),
        overlaps=overlaps,
        alignment=limit(lambda run: run.alignment),
        train=limit(lambda run: run.train),
        test=None if runs[0].test is None else limit(lambda run: run.test),
        fit_p_value=p_value,
        runs=runs,
    )


def _limit(inverse: Array, runs: Sequence[Any]) -> tuple[Estimate, Array]:
    """Intercept at 1/N = 0 of the straight line through means with standard errors, and chi^2, entry by entry."""
    values = np.stack([run.mean for run in runs])
    # Entries that do not fluctuate (a kernel of dead inputs) get the error of rounding.
    errors = np.maximum(np.stack([run.standard_error for run in runs]), _EPS * np.abs(values).max())
    x = inverse.reshape(-1, *(1,) * (values.ndim - 1))
    weights = errors**-2.0
    total = weights.sum(axis=0)
    centre, mean = (weights * x).sum(axis=0) / total, (weights * values).sum(axis=0) / total
    spread = (weights * np.square(x - centre)).sum(axis=0)
    slope = (weights * (x - centre) * values).sum(axis=0) / spread
    chi_squared = (weights * np.square(values - mean - slope * (x - centre))).sum(axis=0)
    return Estimate(mean - slope * centre, np.sqrt(1.0 / total + np.square(centre) / spread)), chi_squared
