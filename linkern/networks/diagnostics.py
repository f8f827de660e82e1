"""How much a correlated chain knows: autocorrelation time, effective sample size, split R-hat and honest standard errors.

A `series` has shape (chains, samples, ...); every trailing entry is an observable of its own. Cost O(samples log samples)
per entry, memory four times the series.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from linkern import checks

__all__ = ["ChainSummary", "autocorrelation_time", "split_rhat", "summarize"]

Array = NDArray[np.float64]

_SOKAL_WINDOW = 5.0
_TOTAL_LENGTH = 50.0
_SINGLE_LENGTH = 10.0
_LARGEST_RHAT = 1.1


@dataclass(frozen=True)
class ChainSummary:
    """Mean of an observable over chains and time, and how far to trust it. All arrays have the observable's shape.

    Attributes
    ----------
    mean, standard_error : arrays
        Standard error sqrt(variance / effective_sample_size).
    autocorrelation_time : array
        tau = 1 + 2 sum_k rho_k, in samples; 1 means independent samples.
    effective_sample_size : array
        chains * samples / tau.
    split_rhat : array
        1 when all half-chains agree.
    reliable : bool array
        Whether all chains together are at least 50 tau long, each chain is at least 10 tau long and split R-hat < 1.1.
        Where False, tau itself is uncertain and so is the standard error.
    """

    mean: Array
    standard_error: Array
    autocorrelation_time: Array
    effective_sample_size: Array
    split_rhat: Array
    reliable: NDArray[np.bool_]


def summarize(series: Array) -> ChainSummary:
    """Return mean, standard error and diagnostics of a (chains, samples, ...) array, samples >= 4."""
    series = _as_series(series)
    chains, samples = series.shape[:2]
    tau = autocorrelation_time(series)
    effective = chains * samples / tau
    rhat = split_rhat(series)
    reliable = (effective >= _TOTAL_LENGTH) & (samples >= _SINGLE_LENGTH * tau) & (rhat < _LARGEST_RHAT)
    standard_error = np.sqrt(series.var(axis=(0, 1)) / np.maximum(effective - 1.0, 1.0))
    return ChainSummary(series.mean(axis=(0, 1)), standard_error, tau, effective, rhat, reliable)


def autocorrelation_time(series: Array) -> Array:
    """Integrated autocorrelation time tau = 1 + 2 sum_k rho_k of a (chains, samples, ...) array, in samples.

    Autocovariances are averaged over chains about the common mean, so that chains which disagree give a long tau. The
    sum is cut at Sokal's window, the first M >= 5 tau(M) (A. Sokal, Monte Carlo methods in statistical mechanics).
    tau is never reported below 1: negative correlations earn no credit. A constant series has tau = 1.
    """
    series = _as_series(series)
    samples = series.shape[1]
    centred = series - series.mean(axis=(0, 1))
    spectrum = fft.rfft(centred, n=fft.next_fast_len(2 * samples, real=True), axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    covariance = fft.irfft(power.mean(axis=0), n=fft.next_fast_len(2 * samples, real=True), axis=0)[:samples]
    variance = covariance[0]
    varies = variance > _rounding(series)
    correlation = covariance[1:] / np.where(varies, variance, 1.0)
    partial = 1.0 + 2.0 * np.concatenate([np.zeros((1, *variance.shape)), np.cumsum(correlation, axis=0)])
    lags = np.arange(samples).reshape(-1, *(1,) * variance.ndim)
    inside = lags >= _SOKAL_WINDOW * partial
    window = np.where(inside.any(axis=0), inside.argmax(axis=0), samples - 1)
    tau = np.take_along_axis(partial, window[None], axis=0)[0]
    return np.where(varies, np.maximum(tau, 1.0), 1.0)


def split_rhat(series: Array) -> Array:
    """Gelman-Rubin R-hat of a (chains, samples, ...) array after halving every chain."""
    series = _as_series(series)
    half = series.shape[1] // 2
    halves = np.concatenate([series[:, :half], series[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    varies = within > _rounding(series)
    ratio = (half - 1) / half + between / np.where(varies, within, 1.0)
    disagreement = np.where(between > _rounding(series), np.inf, 1.0)
    return np.where(varies, np.sqrt(ratio), disagreement)


def _rounding(series: Array) -> Array:
    """Variance that a constant series may show through rounding."""
    return np.square(1e-14 * np.abs(series).max(axis=(0, 1)))


def _as_series(series: Array) -> Array:
    array = np.asarray(series)
    checked = checks.real_array("series", array, ndim=max(array.ndim, 2))
    if checked.shape[1] < 4:
        raise ValueError(f"series: expected at least 4 samples along axis 1, got shape {checked.shape}")
    return checked
