r"""One nonlinear hidden layer at finite width on any number of points: averages over one neuron, sampled where they matter.

The tree level of `nonlinear` is the saddle point of one hidden layer at infinite width with

    gamma0^2 = chi/(g_w N),   1/beta = ridge chi/g_w,   V = (g_w/chi) v,

so that particles of `solve_montecarlo` follow the tilted law of the neuron already. Given the log-weights -gamma0^2 (V . phi)^2/2
they represent its prior, well exactly where the tilts of `nonlinear` need it; tree level and one loop follow as from quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.activations import ActivationLike
from linkern.bayes.montecarlo.observables.estimate import Estimate, over_sections
from linkern.bayes.montecarlo.observables.predict import NewInputs, regress
from linkern.bayes.montecarlo.observables.sites import SaddleSample
from linkern.bayes.montecarlo.observables.smoothing import smoothed_moments
from linkern.bayes.montecarlo.solution import MonteCarloSolution
from linkern.bayes.montecarlo.solver import solve_montecarlo
from linkern.bayes.width.nonlinear import NeuronEnsemble, NonlinearWidthSolution, solve_width_nonlinear
from linkern.checks import integer_at_least, positive, real_array
from linkern.solution import Solution, Status

__all__ = ["SampledWidthSolution", "neuron_prior", "solve_width_nonlinear_sampled"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SampledWidthSolution(Solution):
    """Posterior of one hidden layer, to tree level or one loop, with standard errors from disjoint groups of particles.

    `residual` is the larger of the imbalance of the tree level and of the saddle point that the particles come from; `status`
    and `reasons` are those of the saddle point.

    Attributes
    ----------
    method : str
        "tree" or "one-loop".
    fitted, dual_coefficients : Estimate, (P,)
    test : Estimate, (m,)
        Posterior mean at the test inputs.
    kernel, covariance : Estimate, (P, P)
        Phi^1 = <phi phi^T>, and the covariance of f at the training inputs to leading order.
    log_evidence : Estimate, ()
    reasons : tuple of str
    saddle : MonteCarloSolution
        The infinitely wide network with the same tree level.
    """

    method: str
    fitted: Estimate
    test: Estimate
    kernel: Estimate
    covariance: Estimate
    dual_coefficients: Estimate
    log_evidence: Estimate
    reasons: tuple[str, ...]
    saddle: MonteCarloSolution = field(repr=False)


def solve_width_nonlinear_sampled(
    X: ArrayLike,
    y: ArrayLike,
    *,
    activation: ActivationLike,
    width: int,
    ridge: float,
    readout_variance: float = 1.0,
    chi: float = 1.0,
    prior_variance: float = 1.0,
    method: str = "one-loop",
    X_new: ArrayLike | None = None,
    tol: float = 0.01,
    particles: int | None = None,
    max_samples: int | None = None,
    rng: int | np.random.Generator | None = None,
    raise_on_failure: bool = True,
) -> SampledWidthSolution:
    """Solve h = V x, V ~ N(0, g_1/D), f = a . phi(h), a ~ N(0, g_w/(chi N)), y | f ~ N(f, ridge), from sampled neurons.

    Parameters
    ----------
    X : (P, D) array
    y : (P,) array
    activation, width, ridge, readout_variance, chi, prior_variance, method, X_new
        As for `solve_width_nonlinear`; |phi| must grow at most linearly.
    tol, particles, max_samples, rng, raise_on_failure
        As for `solve_montecarlo`: the standard error of the tree level's kernel, relative to it, and how to get there.

    Returns
    -------
    SampledWidthSolution

    Raises
    ------
    ConvergenceError
        As for `solve_montecarlo` and `solve_width_nonlinear`.
    ValueError, TypeError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Cost beyond `solve_montecarlo` with S pooled particles: twice some 10 products S P^2. Memory: S P^2 doubles at one loop, so
    that P = 50 calls for max_samples near 30000. The error of a loop correction is not controlled by tol; read it off.
    """
    if method not in ("tree", "one-loop"):
        raise ValueError(f"method: expected 'tree' or 'one-loop', got {method!r}")
    labels = real_array("y", y, ndim=1)
    new = None if X_new is None else NewInputs.of(X, X_new)
    N, kappa = integer_at_least("width", width), positive("ridge", ridge)
    g_w, spread = positive("readout_variance", readout_variance), positive("chi", chi)
    saddle = solve_montecarlo(
        X,
        labels,
        depth=1,
        gamma0=math.sqrt(spread / (g_w * N)),
        beta=g_w / (kappa * spread),
        activation=activation,
        prior_variances=[positive("prior_variance", prior_variance), 1.0],
        tol=tol,
        particles=particles,
        max_samples=max_samples,
        rng=rng,
        raise_on_failure=raise_on_failure,
    )

    def finite(s: SaddleSample) -> NonlinearWidthSolution:
        return solve_width_nonlinear(
            y=labels,
            ensemble=neuron_prior(s, saddle.parameters["gamma0"], prior_variance, new),
            activation=activation,
            width=N,
            ridge=kappa,
            readout_variance=g_w,
            chi=spread,
            prior_variance=prior_variance,
            method=method,
        )

    solved = {s: finite(s) for s in (saddle.sample, *saddle.sections)}
    whole = solved[saddle.sample]

    def estimate(quantity: Callable[[NonlinearWidthSolution], Floats | float]) -> Estimate:
        return over_sections(lambda s: quantity(solved[s]), saddle.sample, saddle.sections)

    return SampledWidthSolution(
        parameters={**whole.parameters, "tol": float(tol), "seed": saddle.parameters["seed"]},
        residual=max(whole.residual, saddle.residual),
        status=saddle.status if whole.status is Status.CONVERGED else whole.status,
        method=method,
        fitted=estimate(lambda found: found.fitted),
        test=estimate(lambda found: found.test),
        kernel=estimate(lambda found: found.kernel),
        covariance=estimate(lambda found: found.covariance),
        dual_coefficients=estimate(lambda found: found.dual_coefficients),
        log_evidence=estimate(lambda found: found.log_evidence),
        reasons=saddle.reasons,
        saddle=saddle,
    )


def neuron_prior(sample: SaddleSample, gamma0: float, prior_variance: float, new: NewInputs | None = None) -> NeuronEnsemble:
    """Return the neuron's prior as represented by a solution with one hidden layer, whose particles follow the tilted law.

    Parameters
    ----------
    sample : SaddleSample
        One hidden layer, prior variances (g_1, 1).
    gamma0 : float
        Of that solution.
    prior_variance : float
        g_1.
    new : NewInputs, optional
        Test inputs.
    """
    (site,) = sample.sites
    h = site.preactivations
    phi = np.asarray(site.activation.value(h), dtype=np.float64)
    test = np.empty((len(h), 0))
    if new is not None:
        b, unexplained = regress(sample.kernels[0], new.cross, new.variances)
        test, _ = smoothed_moments(site.activation, h @ b, np.sqrt(prior_variance * unexplained))
    tilt = gamma0**2 * np.square(phi @ sample.coefficients).sum(axis=1) / 2
    weights = site.weights * np.exp(tilt.min() - tilt)
    kept = weights > 0
    return NeuronEnsemble(phi[kept], test[kept], np.log(weights[kept] / weights[kept].sum()))
