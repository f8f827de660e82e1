r"""Weak feature learning in wide networks of any activation and depth: first order in gamma0^2 around the NNGP, or second.

    Phi^l = K^l + gamma0^2 Phi^l_1 + O(gamma0^4),   hatPhi^l = gamma0^2 H^l + O(gamma0^4),   f = f_0 + gamma0^2 f_1 + O(gamma0^4)
    A = g_w K^L + I/beta,   v_0 = A^{-1} y,   v_1 = -A^{-1} g_w Phi^L_1 v_0,   f_1(x) = g_w [Phi^L_1(x, X) v_0 + K^L(x, X) v_1]

With one hidden layer, q = g_w |v_0^T phi|^2 and r = 2 g_w (v_0^T phi) . (v_1^T phi), the next order is

    Phi_2 = Cov(phi phi^T, r)/2 + <(phi phi^T - K)(q - <q>)^2>/8,   v_2 = -A^{-1} g_w (Phi_1 v_1 + Phi_2 v_0).

The expansion needs no convergent tilt: for activations that grow faster than linearly the posterior of infinite width does not
exist at any gamma0 > 0 and the series is formal (asymptotic), which `solve_perturbation` cannot see in its first term.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import checks
from linkern.activations import Activation, ActivationLike, get
from linkern.bayes.perturbation_fourpoint import has_closed_form
from linkern.bayes.perturbation_recursion import Corrections, LazyLayers
from linkern.bayes.perturbation_sampling import Sampling
from linkern.bayes.perturbation_second import LEAST, TIGHTER, SecondOrder, linear_slope, second_order, second_order_method
from linkern.bayes.perturbation_solution import PerturbativePrediction, PerturbativeSolution, Series, mean_and_error
from linkern.bayes.perturbation_truncation import growth_and_feedback
from linkern.lazy import layer_kernels, nngp_predict
from linkern.solution import Status

__all__ = ["PerturbativePrediction", "PerturbativeSolution", "solve_perturbation"]

Array = NDArray[np.float64]

# Above this relative size of the first correction the next one is not small.
_LARGEST_RATIO = 0.3
# Slopes below this share of |v_0| |y| |K| are rounding.
_NO_SLOPE = 1e-14


def solve_perturbation(
    X: ArrayLike,
    y: ArrayLike,
    *,
    depth: int,
    activation: ActivationLike,
    gamma0: float,
    beta: float = math.inf,
    prior_variances: ArrayLike = 1.0,
    order: int = 1,
    tol: float = 0.01,
    samples: int = 2**20,
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
) -> PerturbativeSolution:
    """Solve the infinite-width posterior to first or second order in gamma0^2.

    Parameters
    ----------
    X : (P, D) array_like
    y : (P,) or (P, O) array_like
    depth : int
        L >= 1 hidden layers.
    activation : str, Activation or callable
        Any with `averages`.
    gamma0 : float
        Richness >= 0; only the final sums contain it, the slopes do not.
    beta : float
        Inverse temperature > 0 of the loss 1/2 sum (f - y)^2; `inf` needs a nonsingular NNGP kernel.
    prior_variances : float or (L + 1,) array_like
        g_1, ..., g_L of the hidden layers, then g_w of the readout.
    order : {1, 2}
        2 adds the terms of gamma0^4: one hidden layer of any activation, or linear networks of any depth.
    tol : float
        Relative standard error asked of every layer's four-point average where it is sampled. With order 2 a third of it at first
        order, five times as much at second, and at least 2^16 samples.
    samples : int
        Largest number of samples per layer; at least 2^13.
    rng : int, Generator, SeedSequence or None
        Only used by sampled averages.

    Returns
    -------
    PerturbativeSolution
        Status UNRELIABLE when the first correction is above 0.3 of the lazy kernel in some layer or of the error signal as the
        kernel sees it (half of `feedback`), or when `samples` did not reach three times `tol`.

    Raises
    ------
    ValueError, TypeError
        As `linkern.lazy.nngp_predict`, for an activation without averages, and for order 2 of a deep nonlinear network.

    Notes
    -----
    Closed forms for polynomials (linear included), sin, cos and exp, P <= 150: O(L P^4) work, O(P^2) to O(P^3) memory (linear:
    O(L P^3), any P). Otherwise sampled: O(L samples P^2) work, O(L P^2) memory times 16 scrambles plus 100 MB.

    Second order: exact for linear networks, O(L P^3), and for polynomials of degree d at inputs of rank r with (3d + 1)^r at most
    2^21, O((3d + 1)^r P^2); otherwise sampled in a second pass like the first. Where both orders are sampled, the second carries
    a bias of the order of the product of their relative errors, below its standard error.

    Equations: the Hessian recursion of Lauditi, Bordelon and Pehlevan (2025), eqs. 46-53, for any activation;
    second order proved in `derivations/perturbation_second.py`.
    """
    gamma0 = checks.nonnegative("gamma0", gamma0)
    phi = get(activation)
    if phi.averages is None:
        raise ValueError(f"activation: expected one with averages, {phi.name!r} lacks them")
    tol = checks.positive("tol", tol)
    samples = checks.integer_at_least("samples", samples, 2**13)
    order = _checked_order(order, depth, phi)
    X = checks.real_array("X", X, ndim=2)
    lazy = nngp_predict(X, y, X[:1], depth=depth, activation=phi, beta=beta, prior_variances=prior_variances)
    seed = int(checks.random_generator(rng).integers(2**63))
    sampling = Sampling(tol, samples, seed) if order == 1 else Sampling(TIGHTER * tol, samples, seed, LEAST)
    g = np.array(lazy.parameters["prior_variances"])
    layers = LazyLayers.of(phi, g, layer_kernels(X, depth=depth, activation=phi, prior_variances=g))
    V0 = lazy.dual_coefficients.reshape(len(X), -1)
    factor = linalg.cholesky(g[-1] * layers.kernels[-1] + lazy.ridge * np.eye(len(X)), lower=True)
    first = layers.corrections(V0, sampling)
    V1 = -np.stack([linalg.cho_solve((factor, True), g[-1] * each @ V0) for each in first.kernels[:, -1]])
    second = second_order(layers, first, V0, V1, factor, sampling) if order == 2 else None
    eps = gamma0**2
    found, fitted = _coefficients(first, V1, second, lazy.dual_coefficients.shape), lazy.fitted
    for k, name in enumerate(("signal_slope", "signal_curvature")[:order], start=1):
        fitted = fitted - eps**k * lazy.ridge * found[name]
    slopes = found["kernel_slopes"]
    ratio = _largest_ratio(eps * slopes, layers.kernels)
    # Where symmetry leaves no first order (odd activations, even labels), slopes are the square of a rounding error, all noise.
    driven = _NO_SLOPE * np.linalg.norm(V0) * np.linalg.norm(y) * linalg.norm(layers.kernels, axis=(1, 2))
    relative_error = _largest_ratio(found["kernel_slope_errors"], slopes, driven)
    second_error = 0.0 if second is None else _largest_ratio(eps * found["kernel_curvature_errors"], slopes, driven)
    growth, feedback = growth_and_feedback(layers.kernels, slopes, V0, V1.mean(axis=0), eps)
    reasons = _doubts(ratio, feedback, max(relative_error, second_error), tol)
    return PerturbativeSolution(
        parameters={
            **{k: lazy.parameters[k] for k in ("depth", "activation", "prior_variances", "beta")},
            "gamma0": gamma0,
            "order": order,
            "tol": tol,
            "samples": samples,
            "seed": seed,
        },
        residual=lazy.residual,
        status=Status.UNRELIABLE if reasons else lazy.status,
        reasons=reasons,
        lazy_kernels=layers.kernels,
        signal=lazy.dual_coefficients,
        fitted=fitted,
        order=order,
        method="closed form" if has_closed_form(phi, len(X)) else "untilted averages",
        second_method=second_order_method(phi, g[0] * layers.kernels[0]) if order == 2 else None,
        ratio=ratio,
        growth=growth,
        feedback=feedback,
        relative_error=relative_error,
        **found,
        # Means of kernels are enough from here on, and 16 times smaller.
        _series=Series(X, layers, replace(first, kernels=slopes[None]), _slim(second), V0, V1, factor, eps, sampling),
    )


def _checked_order(order: int, depth: int, phi: Activation) -> int:
    order = checks.integer_at_least("order", order)
    if order > 2:
        raise ValueError(f"order: expected 1 or 2, got {order}")
    if order == 2 and checks.integer_at_least("depth", depth) > 1 and linear_slope(phi) is None:
        raise ValueError(
            f"order: expected 1 for depth {depth} and activation {phi.name!r}, got 2; second order exists for one hidden layer "
            "and for linear networks"
        )
    return order


def _coefficients(first: Corrections, V1: Array, second: SecondOrder | None, shape: tuple[int, ...]) -> dict[str, Any]:
    """Means and errors of the series' coefficients, under the names that the solution gives them."""
    found: dict[str, Any] = {"dual_slopes": first.duals}
    found["kernel_slopes"], found["kernel_slope_errors"] = mean_and_error(first.kernels)
    found["signal_slope"], found["signal_slope_error"] = (x.reshape(shape) for x in mean_and_error(V1))
    if second is not None:
        found["dual_curvatures"] = second.duals.mean(axis=0)
        found["kernel_curvatures"], found["kernel_curvature_errors"] = mean_and_error(second.kernels)
        found["signal_curvature"], found["signal_curvature_error"] = (x.reshape(shape) for x in mean_and_error(second.signal))
    return found


def _slim(second: SecondOrder | None) -> SecondOrder | None:
    if second is None:
        return None
    return replace(second, kernels=second.kernels.mean(axis=0)[None], duals=second.duals.mean(axis=0)[None])


def _doubts(ratio: float, feedback: float, error: float, tol: float) -> tuple[str, ...]:
    doubts = []
    # Half of the feedback is the relative change of the error signal.
    if max(ratio, feedback / 2) > _LARGEST_RATIO:
        doubts.append(
            f"the first correction is {ratio:.2g} of a lazy kernel and {feedback / 2:.2g} of the error signal, above "
            f"{_LARGEST_RATIO:g}; take a smaller gamma0, or solve_montecarlo"
        )
    if error > 3 * tol:
        doubts.append(f"the sampled averages have a relative standard error of {error:.2g} for tol = {tol:g}; try more samples")
    return tuple(doubts)


def _largest_ratio(parts: Array, wholes: Array, least: Array | float = 0.0) -> float:
    """Largest over the hidden layers whose |whole| exceeds `least` of |part|/|whole|, Frobenius norms."""
    part, whole = (linalg.norm(x, axis=(1, 2)) for x in (parts, wholes))
    return float(np.divide(part, whole, out=np.zeros_like(part), where=whole > least)[1:].max())
