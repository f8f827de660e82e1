"""The whitened two-class task of figure 2, and networks sampled on it: shared by the figures that compare with networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linkern.data import whitened
from linkern.networks import PosteriorSamples, sample_posterior

__all__ = ["SAMPLES", "sampled_network", "two_class_task"]

SAMPLES = 8


def two_class_task() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return X with X X^T / D = I and labels (+, ..., +, -, ..., -)/sqrt(P)."""
    y = np.where(np.arange(SAMPLES) < SAMPLES // 2, 1.0, -1.0) / np.sqrt(SAMPLES)
    return whitened(SAMPLES, SAMPLES).X, y


def sampled_network(
    *, depth: int, width: int, gamma0: float, beta: float, samples: int, burn_in: int, rng: np.random.Generator
) -> PosteriorSamples:
    """Sample one chain of a deep linear network on the task, in single precision (errors are statistical, not rounding)."""
    X, y = two_class_task()
    return sample_posterior(
        X,
        y,
        depth=depth,
        width=width,
        gamma0=gamma0,
        beta=beta,
        samples=samples,
        burn_in=burn_in,
        chains=1,
        dtype=np.float32,
        rng=rng,
    )
