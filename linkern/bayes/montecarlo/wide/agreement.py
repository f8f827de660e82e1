"""Whether networks agree with one another, with their past, and with those that came another way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from linkern.bayes.montecarlo.wide.network import Snapshot
from linkern.networks.diagnostics import split_rhat

__all__ = ["apart", "drift", "hysteresis", "largest_rhat", "table"]

Floats = NDArray[np.float64]

# Parts of the run of networks that are chosen from, the share by which these may differ, and how unlikely more than that must be.
_BLOCKS, _MATTERS, _CHANCE = 4, 0.03, 0.05
# Of differences: share of the mean that counts as none, whatever its significance.
_NONE = 1e-6


def table(Y: Floats, snapshot: Snapshot) -> Floats:
    """Tr(Y^T V) and Tr(Y^T Phi^l Y) of every network, (L + 1, n)."""
    signal = np.einsum("po,npo->n", Y, snapshot.V)
    return np.vstack([signal, np.einsum("po,nlpq,qo->ln", Y, snapshot.kernels, Y, optimize=True)])


def drift(tables: Sequence[Floats]) -> float:
    """How likely the most surprising difference between halves of the run is under stationarity."""
    half, chances = len(tables) // 2, [1.0]
    for late, early in zip(np.mean(tables[-half:], axis=0), np.mean(tables[:half], axis=0), strict=True):
        if np.abs(late - early).max() > _NONE * np.abs(late).max():
            chances.append(float(stats.ttest_rel(late, early).pvalue))
    return min(1.0, min(chances) * max(len(chances) - 1, 1))


def hysteresis(tables: Sequence[Floats], chance: float) -> float:
    """Largest relative difference between the halves of the networks that is less likely than `chance`."""
    means = np.mean(tables, axis=0)
    half, largest = means.shape[1] // 2, 0.0
    for row in means:
        share = abs(row[:half].mean() - row[half:].mean()) / max(abs(row.mean()), np.finfo(float).tiny)
        if share > _NONE and stats.ttest_ind(row[:half], row[half:]).pvalue * len(means) < chance:
            largest = max(largest, float(share))
    return largest


def apart(tables: Sequence[Floats]) -> bool:
    """Whether networks differ by more than chance allows, and by enough to matter."""
    blocks = np.stack([block.mean(axis=0) for block in np.array_split(np.array(tables), _BLOCKS)])
    means = blocks.mean(axis=0)
    matters = np.ptp(means, axis=1) > _MATTERS * np.abs(means.mean(axis=1))
    chances = [float(stats.f_oneway(*blocks[:, row].T).pvalue) for row in np.flatnonzero(matters)]
    return min(chances, default=1.0) < _CHANCE


def largest_rhat(tables: Sequence[Floats]) -> float:
    """Split R-hat of the row that agrees least."""
    return float(split_rhat(np.array(tables).swapaxes(0, 2).swapaxes(1, 2)).max())
