r"""What `linkern.bayes.solve_perturbation` returns: kernels, duals and predictor as polynomials in gamma0^2."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import checks
from linkern.bayes.perturbation_recursion import Corrections, LazyLayers, LazyRows
from linkern.bayes.perturbation_sampling import REPLICAS, Sampling
from linkern.bayes.perturbation_second import SecondOrder, linear_curvatures, second_order_rows
from linkern.bayes.perturbation_truncation import missing_terms
from linkern.kernel_recursion import WideNetwork
from linkern.lazy import layer_kernels
from linkern.solution import Solution

__all__ = ["PerturbativePrediction", "PerturbativeSolution", "Series", "mean_and_error"]

Array = NDArray[np.float64]


# Test inputs per block: bounds the sampled averages of a block to some 200 MB.
_ENTRIES, _LARGEST_BLOCK = 2**23, 2**13


@dataclass(frozen=True, kw_only=True)
class PerturbativePrediction:
    """Predictions at test inputs.

    Attributes
    ----------
    mean : (P_test,) or (P_test, O) ndarray
        f_0 + gamma0^2 f_1, with order 2 also + gamma0^4 f_2.
    lazy, correction : ndarray
        f_0 and gamma0^2 f_1.
    second_correction : ndarray
        gamma0^4 f_2; zero with order 1.
    standard_error : ndarray
        Of `mean`, from the sampled averages; zero where closed forms serve.
    """

    mean: Array
    lazy: Array
    correction: Array
    second_correction: Array
    standard_error: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class PerturbativeSolution(Solution):
    """Kernels, duals and predictor to first or second order in gamma0^2.

    Attributes
    ----------
    lazy_kernels : (L + 1, P, P) ndarray
        K^0 = C, K^1, ..., K^L.
    kernel_slopes, kernel_curvatures : (L + 1, P, P) ndarray
        Phi^l_1 = d Phi^l / d gamma0^2 at 0 and Phi^l_2, the coefficient of gamma0^4.
    kernel_slope_errors, kernel_curvature_errors : (L + 1, P, P) ndarray
        Their standard errors.
    dual_slopes, dual_curvatures : (L, P, P) ndarray
        Coefficients of gamma0^2 and gamma0^4 in hatPhi^l, l = 1..L; the first exact up to the error of the dual functions.
    signal, signal_slope, signal_curvature : (P,) or (P, O) ndarray
        v_0, v_1 and v_2.
    signal_slope_error, signal_curvature_error : ndarray
    fitted : (P,) or (P, O) ndarray
        f at the training inputs, y - (v_0 + gamma0^2 v_1 + gamma0^4 v_2)/beta.
    order : {1, 2}
        With 1 the curvatures are None.
    method : {"closed form", "untilted averages"}
        How the four-point averages of the first order were found.
    second_method : {"closed form", "exact quadrature", "untilted averages"} or None
        How those of the second order were found.
    ratio : float
        Largest over layers of gamma0^2 |Phi^l_1| / |K^l|: the parameter that must be small.
    growth : float
        gamma0^2 tr(v_0^T Phi^l_1 v_0) / tr(v_0^T K^l v_0), its largest value over layers: the same where the labels see it.
    feedback : float
        -2 gamma0^2 tr(v_0^T K^L v_1) / tr(v_0^T K^L v_0): relative first-order decrease of what drives the kernels.
    relative_error : float
        Largest over layers of the standard error of Phi^l_1 relative to Phi^l_1, in Frobenius norm.

    reasons : tuple of str
        Why the status is UNRELIABLE, with advice.

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
    order: int
    method: str
    ratio: float
    growth: float
    feedback: float
    relative_error: float
    reasons: tuple[str, ...]
    kernel_curvatures: Array | None = None
    kernel_curvature_errors: Array | None = None
    dual_curvatures: Array | None = None
    signal_curvature: Array | None = None
    signal_curvature_error: Array | None = None
    second_method: str | None = None
    _series: Series = field(repr=False)

    @property
    def kernels(self) -> Array:
        """Phi^0, ..., Phi^L to the order solved."""
        return self._sum(self.lazy_kernels, self.kernel_slopes, self.kernel_curvatures)

    @property
    def dual_kernels(self) -> Array:
        """hatPhi^1, ..., hatPhi^L to the order solved."""
        return self._sum(0.0, self.dual_slopes, self.dual_curvatures)

    @property
    def dual_coefficients(self) -> Array:
        """V = beta (y - f) to the order solved, shaped like y."""
        return self._sum(self.signal, self.signal_slope, self.signal_curvature)

    @property
    def standard_error(self) -> Array:
        """Standard errors of `kernels` from sampling alone (with order 2 a bound); zero for closed forms."""
        return self._sum(0.0, self.kernel_slope_errors, self.kernel_curvature_errors)

    @property
    def truncation_errors(self) -> Array:
        """(L + 1,) estimates of |Phi^l - `kernels`| (Frobenius), from the terms left out.

        Measured on some 2000 layers (linear, ReLU, tanh, erf, GELU; L <= 4), truth over estimate: linear networks with order 1
        0.67 to 1.06; order 2 typically 0.75 to 1.3 and up to 2.4; other networks with order 1 typically 0.3 to 1, in deep
        ones up to 4.6. Where growth and feedback cancel the truth can be far below. Linear networks with order 1: O(L P^3) work
        at every access.
        """
        series = self._series
        curvatures = self.kernel_curvatures if self.order == 2 else series.linear_curvatures()
        first = series.eps * linalg.norm(self.kernel_slopes, axis=(1, 2))
        second = None if curvatures is None else series.eps**2 * linalg.norm(curvatures, axis=(1, 2))
        return missing_terms(first, second, self.order, self.growth, self.feedback)

    def predict(self, X_test: ArrayLike) -> PerturbativePrediction:
        """Return the predictor at (P_test, D) test inputs.

        A prediction does not depend on the other test inputs, and at a training input it equals `fitted`.

        Cost: closed forms O(L P^3) per test input (linear: O(L P^2)); sampled averages are repeated with the samples that the
        solution took, O(L samples (P + rank) (P + P_test)) in all, memory O(P_test P) times 16 scrambles plus 100 MB.
        """
        X_test = checks.real_array("X_test", X_test, ndim=2)
        P, columns = self._series.X.shape
        if X_test.shape[1] != columns:
            raise ValueError(f"X_test: expected {columns} columns as in X, got shape {X_test.shape}")
        height = min(_LARGEST_BLOCK, max(32, _ENTRIES // (REPLICAS * (P + 1))))
        parts = [self._series.at(X_test[i : i + height]) for i in range(0, len(X_test), height)]
        eps, shape = self._series.eps, (len(X_test), *self.signal.shape[1:])
        lazy, first, second = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        _, error = mean_and_error(eps * first + eps**2 * second)
        lazy, first, second, error = (
            x.reshape(shape) for x in (lazy[0], eps * first.mean(axis=0), eps**2 * second.mean(axis=0), error)
        )
        return PerturbativePrediction(
            mean=lazy + first + second, lazy=lazy, correction=first, second_correction=second, standard_error=error
        )

    def _sum(self, lazy: Array | float, slope: Array, curvature: Array | None) -> Array:
        eps = self._series.eps
        return lazy + eps * slope + (0.0 if curvature is None else eps**2 * curvature)


@dataclass(frozen=True)
class Series:
    """What predictions need to repeat the calculation at test inputs.

    `first` and `second` may hold means of kernels in place of one estimate per scramble; `slopes` is v_1 for every
    scramble and `factor` the lower Cholesky factor of A.
    """

    X: Array
    layers: LazyLayers
    first: Corrections
    second: SecondOrder | None
    signal: Array
    slopes: Array
    factor: Array
    eps: float
    sampling: Sampling

    def rows(self, X_test: Array) -> LazyRows:
        """Lazy kernels of the test inputs."""
        phi, g = self.layers.activation, self.layers.prior_variances
        cross = layer_kernels(X_test, self.X, depth=len(g) - 1, activation=phi, prior_variances=g)
        own, _ = WideNetwork.checked(len(g) - 1, phi, g).diagonal("X_test", X_test, tangent=False)
        return LazyRows(cross, np.stack(own))

    def linear_curvatures(self) -> Array | None:
        """Phi^0_2, ..., Phi^L_2 of a linear network, None for other activations."""
        return linear_curvatures(self.layers, self.signal, self.factor)

    def at(self, X_test: Array) -> tuple[Array, Array, Array]:
        """Return f_0 (1, T, O), and f_1 and f_2 per scramble (R, T, O); f_2 = 0 with order 1."""
        layers, g, rows = self.layers, self.layers.prior_variances[-1], self.rows(X_test)
        K = rows.cross[-1]
        change = layers.row_corrections(rows, self.first, self.sampling)
        first = g * (change @ self.signal + K @ self.slopes)
        if self.second is None:
            return (g * K @ self.signal)[None], first, np.zeros_like(first)
        again = second_order_rows(layers, rows, self.first, self.second, self.signal, self.slopes, self.sampling)
        second = g * (again @ self.signal + change @ self.slopes + K @ self.second.signal)
        return (g * K @ self.signal)[None], first, second


def mean_and_error(replicas: Array) -> tuple[Array, Array]:
    """Mean over the first axis and its standard error; one replica is exact."""
    if len(replicas) == 1:
        return replicas[0].copy(), np.zeros_like(replicas[0])
    return replicas.mean(axis=0), replicas.std(axis=0, ddof=1) / math.sqrt(REPLICAS)
