"""One data set, every kernel predictor: lazy kernels, with and without posterior variance, and the adaptive Bayesian one.

The order of limits names them: NNGPK is Langevin training run to equilibrium and then infinite width at fixed, vanishing richness
(f does not fluctuate), NNGP the same posterior at gamma0 = 1/sqrt(N), where f keeps a variance; NTK is gradient flow on wide lazy
networks, aNBK the equilibrium at finite richness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks
from linkern.activations import Activation
from linkern.bayes.montecarlo.predict import NewInputs, predict, prediction_error
from linkern.bayes.montecarlo.sites import SaddleSample
from linkern.lazy import nngp_predict, ntk_predict

__all__ = ["Prediction", "compare_predictors"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one predictor says about new inputs.

    Attributes
    ----------
    mean : (M, O) array
        f at the new inputs.
    mean_error : (M, O) array
        Standard error of `mean` from sampling; 0 for the lazy predictors.
    variance : (M,) array
        Posterior variance of each output; 0 for all but NNGP.
    loss : float
        Mean over new inputs of the expected |f - y|^2 = |mean - y|^2 + O variance; nan without labels.
    loss_error : float
        Its standard error from sampling.
    loss_spread : float
        Its standard error as an estimate from M inputs of the loss of the whole population of inputs.
    """

    mean: Floats = field(repr=False)
    mean_error: Floats = field(repr=False)
    variance: Floats = field(repr=False)
    loss: float
    loss_error: float
    loss_spread: float


def compare_predictors(
    X: ArrayLike,
    y: ArrayLike,
    X_new: ArrayLike,
    y_new: ArrayLike | None = None,
    *,
    depth: int,
    activation: str | Activation,
    beta: float,
    prior_variances: ArrayLike = 1.0,
    ridge: float = 0.0,
    sample: SaddleSample | None = None,
    sections: Sequence[SaddleSample] = (),
) -> dict[str, Prediction]:
    """Return the predictions "NNGPK", "NNGP", "NTK" and, for a solution, "aNBK" at new inputs.

    Parameters
    ----------
    X, y, X_new, y_new
        Training inputs (P, D) and labels (P,) or (P, O), new ones (M, D) and (M,) or (M, O).
    depth, activation, prior_variances
        As for `linkern.lazy.nngp_predict`.
    beta : float
        Inverse temperature of NNGPK, NNGP and aNBK.
    ridge : float
        Of the NTK; 0 is gradient flow to interpolation.
    sample, sections
        A solution of the adaptive kernel for the same arguments.

    Raises
    ------
    ValueError, TypeError
        As for `linkern.lazy.nngp_predict` and `ntk_predict`; a solution for other data.
    """
    nngp = nngp_predict(X, y, X_new, depth=depth, activation=activation, prior_variances=prior_variances, beta=beta)
    ntk = ntk_predict(X, y, X_new, depth=depth, activation=activation, prior_variances=prior_variances, ridge=ridge)
    count = len(nngp.mean)
    labels = None if y_new is None else _labels(y_new, nngp.mean)
    assert nngp.variance is not None
    found = {
        "NNGPK": _exact(nngp.mean, np.zeros(count), labels),
        "NNGP": _exact(nngp.mean, nngp.variance, labels),
        "NTK": _exact(ntk.mean, np.zeros(count), labels),
    }
    if sample is not None:
        if sample.coefficients.shape != (len(nngp.fitted), _columns(nngp.mean).shape[1]) or len(sample.sites) != depth:
            raise ValueError(
                f"sample: expected a solution for {depth} layers and labels of shape {nngp.fitted.shape}, "
                f"got {len(sample.sites)} layers and coefficients of shape {sample.coefficients.shape}"
            )
        found["aNBK"] = _sampled(sample, sections, NewInputs.of(X, X_new), prior_variances, labels)
    return found


def _columns(values: Floats) -> Floats:
    return values.reshape(len(values), -1)


def _labels(y_new: ArrayLike, mean: Floats) -> Floats:
    labels = checks.real_array("y_new", y_new, ndim=(1, 2))
    if _columns(labels).shape != _columns(mean).shape:
        raise ValueError(f"y_new: expected shape {mean.shape} as the predictions have, got {labels.shape}")
    return _columns(labels)


def _exact(mean: Floats, variance: Floats, labels: Floats | None) -> Prediction:
    return _prediction(_columns(mean), np.zeros_like(_columns(mean)), variance, labels, 0.0)


def _sampled(
    sample: SaddleSample, sections: Sequence[SaddleSample], new: NewInputs, prior_variances: ArrayLike, labels: Floats | None
) -> Prediction:
    f = predict(sample, sections, new, prior_variances)
    error = 0.0 if labels is None else float(prediction_error(sample, sections, new, labels, prior_variances).standard_error)
    return _prediction(f.value, f.standard_error, np.zeros(len(f.value)), labels, error)


def _prediction(mean: Floats, mean_error: Floats, variance: Floats, labels: Floats | None, loss_error: float) -> Prediction:
    if labels is None:
        return Prediction(mean, mean_error, variance, np.nan, np.nan, np.nan)
    losses = np.square(mean - labels).sum(axis=1) + mean.shape[1] * variance
    # One input says nothing about the spread over inputs.
    spread = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else np.nan
    return Prediction(mean, mean_error, variance, float(losses.mean()), loss_error, spread)
