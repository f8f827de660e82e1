"""One data set, every kernel predictor: lazy kernels, with and without posterior variance, and the adaptive Bayesian one.

The order of limits names them: NNGPK is Langevin training run to equilibrium and then infinite width at fixed, vanishing richness
(f does not fluctuate), NNGP the same posterior at gamma0 = 1/sqrt(N), where f keeps a variance; NTK is gradient flow on wide lazy
networks, aNBK the equilibrium at finite richness.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.montecarlo.observables.predict import new_labels, predict
from linkern.bayes.montecarlo.observables.sampled import SampledSolution
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
    solution: SampledSolution, X_new: ArrayLike, y_new: ArrayLike | None = None, *, ridge: float = 0.0
) -> dict[str, Prediction]:
    """Return the predictions "NNGPK", "NNGP", "NTK" and "aNBK" of one problem, that of `solution`, at new inputs.

    Parameters
    ----------
    solution : MonteCarloSolution or QuadratureSolution
        Made from inputs X.
    X_new : (M, D) array
    y_new : (M,) or (M, O) array, optional
        Their labels, for the losses.
    ridge : float
        Of the NTK; 0 is gradient flow to interpolation.

    Raises
    ------
    ValueError, TypeError
        As for `linkern.lazy.nngp_predict` and `ntk_predict`; a solution made from a kernel.
    """
    if not isinstance(solution, SampledSolution):
        raise TypeError(f"solution: expected one of solve_montecarlo or solve_quadrature, got {type(solution).__name__}")
    new = solution.inputs(X_new)
    labels = solution.labels.reshape(solution.label_shape)
    network = {
        "depth": len(solution.sample.sites),
        "activation": solution.sample.sites[0].activation,
        "prior_variances": solution.parameters["prior_variances"],
    }
    assert solution.X is not None
    nngp = nngp_predict(solution.X, labels, X_new, beta=solution.parameters["beta"], **network)
    ntk = ntk_predict(solution.X, labels, X_new, ridge=ridge, **network)
    assert nngp.variance is not None
    count = len(nngp.mean)
    y_new = None if y_new is None else new_labels(y_new, count, solution.labels.shape[1])
    f = predict(solution.sample, solution.sections, new, network["prior_variances"])
    error = 0.0 if y_new is None else float(solution.test_error(X_new, y_new).standard_error)
    return {
        "NNGPK": _exact(nngp.mean, np.zeros(count), y_new),
        "NNGP": _exact(nngp.mean, nngp.variance, y_new),
        "NTK": _exact(ntk.mean, np.zeros(count), y_new),
        "aNBK": _prediction(f.value, f.standard_error, np.zeros(count), y_new, error),
    }


def _columns(values: Floats) -> Floats:
    return values.reshape(len(values), -1)


def _exact(mean: Floats, variance: Floats, labels: Floats | None) -> Prediction:
    return _prediction(_columns(mean), np.zeros_like(_columns(mean)), variance, labels, 0.0)


def _prediction(mean: Floats, mean_error: Floats, variance: Floats, labels: Floats | None, loss_error: float) -> Prediction:
    if labels is None:
        return Prediction(mean, mean_error, variance, np.nan, np.nan, np.nan)
    losses = np.square(mean - labels).sum(axis=1) + mean.shape[1] * variance
    # One input says nothing about the spread over inputs.
    spread = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else np.nan
    return Prediction(mean, mean_error, variance, float(losses.mean()), loss_error, spread)
