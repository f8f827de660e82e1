"""Error bars for any number derived from a sampled solution: repeat the derivation on independent parts of the population.

Sections are solutions of the same equations from disjoint groups of particles. How much a quantity differs among G of them
says how uncertain it is for the whole population (spread / sqrt(G)), however nonlinear it is. Parts are G times smaller than
the whole and the bias of an average over a population falls as one over its size, so that they also show the bias of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from linkern import checks
from linkern.bayes.montecarlo.observables.sites import SaddleSample

__all__ = ["Estimate", "over_sections"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number (or array of numbers) and how far sampling lets it be trusted; indexed like the array, printed with its error.

    Attributes
    ----------
    value : array
        From the whole population.
    standard_error : array
        Of `value`, same shape; 0 where there is no sampling.
    bias : array
        Mean excess of `value` over an infinite population, to first order in the inverse population, same shape. It is itself
        uncertain by about standard_error / sqrt(G - 1) and worth subtracting only where it is larger than that.
    degrees : float
        Of freedom of Student's t distribution that intervals use: G - 1, or inf where there is no sampling.
    """

    value: Floats
    standard_error: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    degrees: float = math.inf

    def __getitem__(self, index: Any) -> Estimate:
        return Estimate(self.value[index], self.standard_error[index], self.bias[index], self.degrees)

    def __str__(self) -> str:
        texts = np.empty(np.shape(self.value), dtype=object)
        for index in np.ndindex(texts.shape):
            texts[index] = _with_error(float(self.value[index]), float(self.standard_error[index]))
        return str(texts[()]) if texts.ndim == 0 else np.array2string(texts, formatter={"all": str}, separator=", ")

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the two ends of the confidence interval of that level, 0 < level < 1."""
        level = checks.positive("level", level)
        if level >= 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {level}")
        half = stats.t.ppf((1 + level) / 2, self.degrees) * self.standard_error
        return self.value - half, self.value + half


def _with_error(value: float, error: float) -> str:
    """Both to two digits of the error."""
    if error == 0:
        return f"{value:.6g}"
    decimals = min(15, max(0, 1 - math.floor(math.log10(error)))) if math.isfinite(error) else 6
    return f"{value:.{decimals}f} +- {error:.{decimals}f}"


def over_sections(
    quantity: Callable[[SaddleSample], NDArray[np.float64] | float], sample: SaddleSample, sections: Sequence[SaddleSample]
) -> Estimate:
    """Return `quantity(sample)` with the errors that `quantity(section)` shows.

    Parameters
    ----------
    quantity : callable
        Any function of one solution, array out (of the same shape for all).
    sample : SaddleSample
        The solution of the whole population.
    sections : sequence of SaddleSample
        G >= 2 statistically independent solutions from disjoint parts of it; empty for solutions without sampling.

    Raises
    ------
    ValueError
        For a single section.

    Notes
    -----
    With q_g of section g and q of the whole: standard error std(q_g, ddof=1)/sqrt(G), bias (mean q_g - q)/(G - 1).
    Cost: G + 1 evaluations; memory: four results.
    """
    value = np.asarray(quantity(sample), dtype=np.float64)
    if not sections:
        return Estimate(value, np.zeros(value.shape), np.zeros(value.shape))
    G = len(sections)
    if G < 2:
        raise ValueError("sections: expected none, or at least 2 independent solutions, got 1")
    total, squares = np.zeros(value.shape), np.zeros(value.shape)
    for section in sections:
        # Differences from the whole, not the values: squares of those could lose the digits that matter.
        difference = np.asarray(quantity(section), dtype=np.float64) - value
        total += difference
        squares += difference**2
    variance = np.maximum(squares - total**2 / G, 0.0) / (G - 1)
    return Estimate(value, np.sqrt(variance / G), total / (G * (G - 1)), float(G - 1))
