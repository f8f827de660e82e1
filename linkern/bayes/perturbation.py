r"""Weak feature learning in wide networks of any activation and depth: first order in gamma0^2 around the NNGP.

    Phi^l = K^l + gamma0^2 Phi^l_1 + O(gamma0^4),   hatPhi^l = gamma0^2 H^l + O(gamma0^4),   f = f_0 + gamma0^2 f_1 + O(gamma0^4)
    A = g_w K^L + I/beta,   v_0 = A^{-1} y,   v_1 = -A^{-1} g_w Phi^L_1 v_0,   f_1(x) = g_w [Phi^L_1(x, X) v_0 + K^L(x, X) v_1]

The expansion needs no convergent tilt: for activations that grow faster than linearly the posterior of infinite width does not
exist at any gamma0 > 0 and the series is formal (asymptotic), which `solve_perturbation` cannot see in its first term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import checks
from linkern.activations import Activation, get
from linkern.bayes.perturbation_fourpoint import REPLICAS, Sampling, has_closed_form
from linkern.bayes.perturbation_recursion import LazyLayers
from linkern.lazy import layer_kernels, nngp_predict
from linkern.solution import Solution, Status

__all__ = ["PerturbativePrediction", "PerturbativeSolution", "solve_perturbation"]

Array = NDArray[np.float64]

# Above this relative size of the first correction the next one is not small.
_LARGEST_RATIO = 0.3


@dataclass(frozen=True, kw_only=True)
class PerturbativePrediction:
    """Predictions at test inputs.

    Attributes
    ----------
    mean : (P_test,) or (P_test, O) ndarray
        f_0 + gamma0^2 f_1.
    lazy, correction : ndarray
        f_0 and gamma0^2 f_1.
    standard_error : ndarray
        Of `mean`, from the sampled averages; zero where closed forms serve.
    """

    mean: Array
    lazy: Array
    correction: Array
    standard_error: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class PerturbativeSolution(Solution):
    """Kernels, duals and predictor to first order in gamma0^2.

    Attributes
    ----------
    lazy_kernels : (L + 1, P, P) ndarray
        K^0 = C, K^1, ..., K^L.
    kernel_slopes : (L + 1, P, P) ndarray
        Phi^l_1 = d Phi^l / d gamma0^2 at 0.
    kernel_slope_errors : (L + 1, P, P) ndarray
        Their standard errors.
    dual_slopes : (L, P, P) ndarray
        d hatPhi^l / d gamma0^2, l = 1..L; exact up to the error of the dual functions.
    signal, signal_slope : (P,) or (P, O) ndarray
        v_0 and v_1.
    signal_slope_error : ndarray
    fitted : (P,) or (P, O) ndarray
        f at the training inputs, y - (v_0 + gamma0^2 v_1)/beta.
    method : {"closed form", "untilted averages"}
        How the four-point averages were found.
    ratio : float
        Largest over layers of gamma0^2 |Phi^l_1| / |K^l|: the parameter that must be small.
    relative_error : float
        Largest over layers of the standard error of Phi^l_1 relative to Phi^l_1, in Frobenius norm.

    `residual` is |A v_0 - y| / |y|.
    """

    lazy_kernels: Array
    kernel_slopes: Array
    kernel_slope_errors: Array
    dual_slopes: Array
    signal: Array
    signal_slope: Array
    signal_slope_error: Array
    fitted: Array
    method: str
    ratio: float
    relative_error: float
    _problem: _Problem = field(repr=False)

    @property
    def kernels(self) -> Array:
        """Phi^0, ..., Phi^L to first order."""
        return self.lazy_kernels + self._problem.eps * self.kernel_slopes

    @property
    def dual_kernels(self) -> Array:
        """hatPhi^1, ..., hatPhi^L to first order."""
        return self._problem.eps * self.dual_slopes

    @property
    def standard_errors(self) -> Array:
        """Standard errors of `kernels` from sampling alone; zero for closed forms."""
        return self._problem.eps * self.kernel_slope_errors

    @property
    def truncation_errors(self) -> Array:
        """(L + 1,) estimates of |Phi^l - `kernels`| (Frobenius): the next term of a geometric series, ratio |last|/|first|."""
        first = linalg.norm(self.lazy_kernels, axis=(1, 2))
        last = self._problem.eps * linalg.norm(self.kernel_slopes, axis=(1, 2))
        return np.divide(last**2, first, out=np.zeros_like(first), where=first > 0)

    def predict(self, X_test: ArrayLike) -> PerturbativePrediction:
        """Return the predictor at (P_test, D) test inputs.

        Cost: that of the solution for blocks of P training and at most max(P, 32) test inputs.
        """
        X_test = checks.real_array("X_test", X_test, ndim=2)
        if X_test.shape[1] != self._problem.X.shape[1]:
            raise ValueError(f"X_test: expected {self._problem.X.shape[1]} columns as in X, got shape {X_test.shape}")
        height = max(len(self._problem.X), 32)
        parts = [self._problem.at(X_test[i : i + height]) for i in range(0, len(X_test), height)]
        lazy, slopes = (np.concatenate(part) for part in zip(*parts, strict=True))
        slope, error = _mean_and_error(np.moveaxis(slopes, 1, 0))
        eps, shape = self._problem.eps, (len(X_test), *self.signal.shape[1:])
        lazy, slope, error = (x.reshape(shape) for x in (lazy, slope, error))
        return PerturbativePrediction(mean=lazy + eps * slope, lazy=lazy, correction=eps * slope, standard_error=eps * error)


@dataclass(frozen=True)
class _Problem:
    """What predictions need to repeat the calculation with more points."""

    X: Array
    signal: Array
    activation: Activation
    prior_variances: Array
    temperature: float
    eps: float
    sampling: Sampling

    def layers(self, X: Array) -> LazyLayers:
        kernels = layer_kernels(
            X, depth=len(self.prior_variances) - 1, activation=self.activation, prior_variances=self.prior_variances
        )
        return LazyLayers.of(self.activation, self.prior_variances, kernels)

    def signal_slopes(self, K: Array, corrections: Array) -> Array:
        """Return v_1 for every scramble, (R, P, O)."""
        A = self.prior_variances[-1] * K + self.temperature * np.eye(len(K))
        factor = linalg.cho_factor(A, lower=True)
        right = self.prior_variances[-1] * corrections @ self.signal
        return -np.stack([linalg.cho_solve(factor, each) for each in right])

    def at(self, X_test: Array) -> tuple[Array, Array]:
        """Return f_0 (P_test, O) and f_1 per scramble (P_test, R, O)."""
        P = len(self.X)
        layers = self.layers(np.vstack([self.X, X_test]))
        padded = np.vstack([self.signal, np.zeros((len(X_test), self.signal.shape[1]))])
        # Test points have no data term: their rows of the duals vanish, and so they do not act back.
        last = layers.corrections(layers.duals(padded), self.sampling)[:, -1]
        K, g = layers.kernels[-1], self.prior_variances[-1]
        v1 = self.signal_slopes(K[:P, :P], last[:, :P, :P])
        slopes = g * (last[:, P:, :P] @ self.signal + K[P:, :P] @ v1)
        return g * K[P:, :P] @ self.signal, np.moveaxis(slopes, 0, 1)


def solve_perturbation(
    X: ArrayLike,
    y: ArrayLike,
    *,
    depth: int,
    activation: str | Activation,
    gamma0: float,
    beta: float = math.inf,
    prior_variances: ArrayLike = 1.0,
    tolerance: float = 0.01,
    samples: int = 2**20,
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
) -> PerturbativeSolution:
    """Solve the infinite-width posterior to first order in gamma0^2.

    Parameters
    ----------
    X : (P, D) array_like
    y : (P,) or (P, O) array_like
    depth : int
        L >= 1 hidden layers.
    activation : str or Activation
        Any with `averages`.
    gamma0 : float
        Richness >= 0; only the final sums contain it, the slopes do not.
    beta : float
        Inverse temperature > 0 of the loss 1/2 sum (f - y)^2; `inf` needs a nonsingular NNGP kernel.
    prior_variances : float or (L + 1,) array_like
        g_1, ..., g_L of the hidden layers, then g_w of the readout.
    tolerance : float
        Relative standard error asked of every layer's four-point average where it is sampled.
    samples : int
        Largest number of samples per layer; at least 2^13.
    rng : int, Generator, SeedSequence or None
        Only used by sampled averages.

    Returns
    -------
    PerturbativeSolution
        Status UNRELIABLE when the correction is above 0.3 of the lazy kernel in some layer, or when `samples` did not reach
        three times `tolerance`.

    Raises
    ------
    ValueError, TypeError
        As `linkern.lazy.nngp_predict`, and for an activation without averages.

    Notes
    -----
    Closed forms for polynomials (linear included), sin, cos and exp, P <= 150: O(L P^4) work, O(P^2) to O(P^3) memory (linear:
    O(L P^3), any P). Otherwise sampled: O(L samples P^2) work, O(L P^2) memory times 16 scrambles plus 100 MB.

    Equations: the Hessian recursion of Lauditi, Bordelon and Pehlevan (2025), eqs. 46-53, for any activation.
    """
    gamma0 = checks.nonnegative("gamma0", gamma0)
    phi = get(activation)
    if phi.averages is None:
        raise ValueError(f"activation: expected one with averages, {phi.name!r} lacks them")
    tolerance = checks.positive("tolerance", tolerance)
    samples = checks.integer_at_least("samples", samples, 2**13)
    X = checks.real_array("X", X, ndim=2)
    lazy = nngp_predict(X, y, X[:1], depth=depth, activation=phi, beta=beta, prior_variances=prior_variances)
    seed = int(checks.random_generator(rng).integers(2**63))
    v0 = lazy.dual_coefficients
    problem = _Problem(
        X=X,
        signal=v0.reshape(len(X), -1),
        activation=phi,
        prior_variances=np.array(lazy.parameters["prior_variances"]),
        temperature=lazy.ridge,
        eps=gamma0**2,
        sampling=Sampling(tolerance, samples, seed),
    )
    layers = problem.layers(X)
    H = layers.duals(problem.signal)
    corrections = layers.corrections(H, problem.sampling)
    slopes, errors = _mean_and_error(corrections)
    v1, v1_error = (x.reshape(v0.shape) for x in _mean_and_error(problem.signal_slopes(layers.kernels[-1], corrections[:, -1])))
    ratio, relative_error = _sizes(layers.kernels, slopes, errors, problem.eps)
    poor = ratio > _LARGEST_RATIO or relative_error > 3 * tolerance
    return PerturbativeSolution(
        parameters={
            **{k: lazy.parameters[k] for k in ("depth", "activation", "prior_variances", "beta")},
            "gamma0": gamma0,
            "tolerance": tolerance,
            "samples": samples,
            "seed": seed,
        },
        residual=lazy.residual,
        status=Status.UNRELIABLE if poor else lazy.status,
        lazy_kernels=layers.kernels,
        kernel_slopes=slopes,
        kernel_slope_errors=errors,
        dual_slopes=H,
        signal=v0,
        signal_slope=v1,
        signal_slope_error=v1_error,
        fitted=lazy.fitted - problem.eps * problem.temperature * v1,
        method="closed form" if has_closed_form(phi, len(X)) else "untilted averages",
        ratio=ratio,
        relative_error=relative_error,
        _problem=problem,
    )


def _mean_and_error(replicas: Array) -> tuple[Array, Array]:
    """Mean over the first axis and its standard error; one replica is exact."""
    if len(replicas) == 1:
        return replicas[0].copy(), np.zeros_like(replicas[0])
    return replicas.mean(axis=0), replicas.std(axis=0, ddof=1) / math.sqrt(REPLICAS)


def _sizes(kernels: Array, slopes: Array, errors: Array, eps: float) -> tuple[float, float]:
    lazy, slope, error = (linalg.norm(x[1:], axis=(1, 2)) for x in (kernels, slopes, errors))
    ratio = np.divide(eps * slope, lazy, out=np.zeros_like(slope), where=lazy > 0)
    relative = np.divide(error, slope, out=np.zeros_like(slope), where=slope > 0)
    return float(ratio.max()), float(relative.max())
