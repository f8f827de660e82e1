r"""The lazy limits: kernels that training cannot change, and the two predictors that they define.

With K^0 = C = X X^T / D, prior (initialisation) variances g_1, ..., g_L of the hidden layers and g_w of the readout,

    K^l = E[phi(u) phi(v)] over (u, v) ~ N(0, g_l K^{l-1}),      dotK^l = E[phi'(u) phi'(v)] over the same,
    Theta^0 = C,    Theta^l = K^l + g_{l+1} dotK^l * Theta^{l-1}   (entry by entry, g_{L+1} = g_w).

The readout sees K^L. For f = w . phi(h^L) / (gamma0 N) and gamma^2 = gamma0^2 N,

    NNGP kernel  g_w K^L = gamma^2 x prior covariance of f,
    NTK          Theta^L = gamma^2 x J J^T,   J = df/dtheta at initialisation, theta ~ N(0, g) the weights themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import checks
from linkern.activations import ActivationLike
from linkern.kernel_recursion import Kind, WideNetwork
from linkern.solution import Solution, Status

__all__ = ["LazyPrediction", "layer_kernels", "nngp_kernel", "nngp_predict", "ntk_kernel", "ntk_predict"]

Array = NDArray[np.float64]

# Entries per block of the train/test kernel in the predictors, 128 MB.
_TEST_BLOCK = 2**24
_EPS = float(np.finfo(np.float64).eps)
# Status ILL_CONDITIONED when float64 guarantees fewer than six digits of the dual coefficients.
_RESOLUTION = 1e-6


def layer_kernels(
    X: ArrayLike,
    X2: ArrayLike | None = None,
    *,
    depth: int,
    activation: ActivationLike,
    prior_variances: ArrayLike = 1.0,
) -> Array:
    """Return K^0, ..., K^L, the lazy limit (gamma0 -> 0) of the feature kernels Phi^l of every layer.

    Parameters
    ----------
    X : (P, D) array_like
        Inputs, one per row.
    X2 : (P2, D) array_like, optional
        Inputs of the columns (for example the training set); `X` itself when absent.
    depth : int
        Number L >= 1 of hidden layers.
    activation : str, Activation or callable
        A name from `linkern.activations.names()`, or an `Activation` that has dual functions (`from_function` makes one from
        any callable).
    prior_variances : float or (L + 1,) array_like
        g_1, ..., g_L of the hidden layers, then g_w of the readout (which K^l does not contain).

    Returns
    -------
    (L + 1, P, P2) ndarray
        Without `X2` every layer is symmetric to the last bit.

    Raises
    ------
    ValueError, TypeError
        Bad shapes, not-finite numbers, depth < 1, variances <= 0, unknown activation, or squared lengths that overflow.

    Notes
    -----
    Cost O(P P2 (D + L)), half of it when `X2` is absent; memory: the result plus 50 MB of blocks. Kernel entries fix
    the angle between two inputs only to about 1e-7, so rows within that angle of (anti)parallel count as such.
    """
    network = WideNetwork.checked(depth, activation, prior_variances)
    return network.kernels(*_inputs(X, X2), "layers")


def nngp_kernel(
    X: ArrayLike,
    X2: ArrayLike | None = None,
    *,
    depth: int,
    activation: ActivationLike,
    prior_variances: ArrayLike = 1.0,
) -> Array:
    """Return the (P, P2) NNGP kernel g_w K^L: gamma0^2 N times the prior covariance of the wide network's output.

    Parameters, errors, symmetry and cost as for `layer_kernels`; memory: the result plus 50 MB.
    """
    network = WideNetwork.checked(depth, activation, prior_variances)
    return network.kernels(*_inputs(X, X2), "nngp")[0]


def ntk_kernel(
    X: ArrayLike,
    X2: ArrayLike | None = None,
    *,
    depth: int,
    activation: ActivationLike,
    prior_variances: ArrayLike = 1.0,
) -> Array:
    """Return the (P, P2) neural tangent kernel Theta^L: gamma0^2 N times J J^T of the wide network at initialisation.

    The gradient is with respect to the weights W ~ N(0, g) of h^{l+1} = W^l phi(h^l)/sqrt(N), as gradient flow on those
    weights has it. Parameters, errors, symmetry and cost as for `layer_kernels`; memory: the result plus 50 MB.
    """
    network = WideNetwork.checked(depth, activation, prior_variances)
    return network.kernels(*_inputs(X, X2), "ntk")[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class LazyPrediction(Solution):
    """A kernel predictor f(x) = k(x)^T v with v = (K + ridge I)^{-1} y.

    Attributes
    ----------
    mean : (P_test,) or (P_test, O) ndarray
        Predictions f at the test inputs; the trailing axis is there when y has it.
    variance : (P_test,) ndarray or None
        NNGP only: posterior variance of gamma f = gamma0 sqrt(N) f, the same for every output. The variance of f itself
        is this divided by gamma0^2 N; gamma0 = 1/sqrt(N) is the usual NNGP. Without the label noise 1/beta.
    fitted : (P,) or (P, O) ndarray
        f at the training inputs.
    dual_coefficients : (P,) or (P, O) ndarray
        v.
    ridge : float
        What was added to the kernel's diagonal.
    condition_number : float
        Of K + ridge I in the 1-norm, as LAPACK estimates it from the Cholesky factor (a lower bound, usually tight).

    `residual` is max over outputs of |(K + ridge I) v - y| / |y|.
    """

    mean: Array
    variance: Array | None
    fitted: Array
    dual_coefficients: Array
    ridge: float
    condition_number: float


def nngp_predict(
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    *,
    depth: int,
    activation: ActivationLike,
    beta: float,
    prior_variances: ArrayLike = 1.0,
) -> LazyPrediction:
    """Posterior mean and variance of the NNGP: Langevin training, t -> inf first, then N -> inf with gamma0 -> 0.

        mean = K_* (K + I/beta)^{-1} y,     gamma0^2 N variance = K_** - K_* (K + I/beta)^{-1} K_*^T

    Parameters
    ----------
    X : (P, D) array_like
    y : (P,) or (P, O) array_like
    X_test : (P_test, D) array_like
    depth, activation, prior_variances
        As for `nngp_kernel`.
    beta : float
        Inverse temperature > 0 of exp(-(beta gamma0^2 N / 2) sum (f - y)^2): the ridge is 1/beta, the noise variance
        that a Gaussian-process text would write. `inf` (no ridge) needs a kernel that is nonsingular in float64.

    Returns
    -------
    LazyPrediction

    Raises
    ------
    ValueError
        As for `nngp_kernel`; labels that do not fit the inputs; a kernel that is singular in float64 at this `beta`
        (the message gives its condition number; finding that costs an eigenvalue computation).

    Notes
    -----
    Cost O(P^3/3 + P^2 P_test); memory 2 P^2 doubles plus blocks of 128 MB.
    """
    beta = checks.positive("beta", beta, infinite=True)
    network = WideNetwork.checked(depth, activation, prior_variances)
    return _predict(network, (X, y, X_test), "nngp", 1 / beta, {"beta": beta})


def ntk_predict(
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    *,
    depth: int,
    activation: ActivationLike,
    ridge: float = 0.0,
    prior_variances: ArrayLike = 1.0,
) -> LazyPrediction:
    """Limit t -> inf of gradient flow on the wide lazy network with f(0) = 0: f = Theta_* (Theta + ridge I)^{-1} y.

    Parameters
    ----------
    X, y, X_test, depth, activation, prior_variances
        As for `nngp_predict`.
    ridge : float
        0: plain gradient flow, which interpolates; needs a kernel that is nonsingular in float64.
        lambda: weight decay towards the *initial* weights, d theta/dt = -gamma^2 grad - lambda (theta - theta_0); this
        is exact for the linearised network.
        lambda kappa, kappa = `conventions.homogeneity_degree(depth, degree)`: the stationary point of
        df/dt = Theta (y - f) - lambda kappa f, weight decay towards zero with the kernel held at its initial value. The
        true kernel decays under this flow, so that this is a comparator for the adaptive kernel and no limit theorem.

    Returns
    -------
    LazyPrediction
        `variance` is None.

    Raises
    ------
    ValueError
        As for `nngp_predict`, naming `ridge`.
    """
    ridge = checks.nonnegative("ridge", ridge)
    network = WideNetwork.checked(depth, activation, prior_variances)
    return _predict(network, (X, y, X_test), "ntk", ridge, {"ridge": ridge})


def _inputs(X: ArrayLike, X2: ArrayLike | None) -> tuple[Array, Array | None]:
    X = checks.real_array("X", X, ndim=2)
    return X, None if X2 is None else _more_inputs("X2", X2, X)


def _more_inputs(name: str, value: ArrayLike, X: Array) -> Array:
    array = checks.real_array(name, value, ndim=2)
    if array.shape[1] != X.shape[1]:
        raise ValueError(f"{name}: expected {X.shape[1]} columns as in X, got shape {array.shape}")
    return array


def _predict(
    network: WideNetwork,
    data: tuple[ArrayLike, ArrayLike, ArrayLike],
    kind: Kind,
    ridge: float,
    asked: dict[str, float],
) -> LazyPrediction:
    X = checks.real_array("X", data[0], ndim=2)
    y = checks.real_array("y", data[1], ndim=(1, 2))
    if len(y) != len(X):
        raise ValueError(f"y: expected {len(X)} rows as in X, got shape {y.shape}")
    X_test = _more_inputs("X_test", data[2], X)
    K = network.kernels(X, None, kind)[0]
    factor, condition_number = _factorised(K, ridge, *asked)
    v = linalg.cho_solve((factor, True), y)
    fitted = K @ v
    violation = np.atleast_1d(np.linalg.norm(fitted + ridge * v - y, axis=0))
    scale = np.atleast_1d(np.linalg.norm(y, axis=0))
    mean, variance = _at_test_inputs(network, X, X_test, kind, factor, v)
    return LazyPrediction(
        parameters={
            "kernel": kind,
            "depth": network.depth,
            "activation": network.activation.name,
            "prior_variances": tuple(network.variances.tolist()),
            **asked,
        },
        residual=float((violation / np.where(scale > 0, scale, 1.0)).max()),
        status=Status.ILL_CONDITIONED if condition_number * _EPS > _RESOLUTION else Status.CONVERGED,
        mean=mean,
        variance=variance,
        fitted=fitted,
        dual_coefficients=v,
        ridge=ridge,
        condition_number=condition_number,
    )


def _at_test_inputs(
    network: WideNetwork, X: Array, X_test: Array, kind: Kind, factor: Array, v: Array
) -> tuple[Array, Array | None]:
    mean = np.empty((len(X_test), *v.shape[1:]))
    variance = np.empty(len(X_test)) if kind == "nngp" else None
    height = max(1, _TEST_BLOCK // len(X))
    for start in range(0, len(X_test), height):
        rows = slice(start, start + height)
        cross = network.kernels(X_test[rows], X, kind)[0]
        mean[rows] = cross @ v
        if variance is not None:
            prior = network.variances[-1] * network.diagonal("X_test", X_test[rows], tangent=False)[0][-1]
            explained = linalg.solve_triangular(factor, cross.T, lower=True, overwrite_b=True)
            # A test input that is also a training input comes out at zero give or take rounding.
            variance[rows] = np.maximum(prior - np.einsum("ij,ij->j", explained, explained), 0.0)
    return mean, variance


def _factorised(K: Array, ridge: float, argument: str) -> tuple[Array, float]:
    """Return the lower Cholesky factor of K + ridge I and the condition number; refuse what float64 cannot invert."""
    # The transpose of a symmetric matrix in row order is the same matrix in LAPACK's order: factorised in place.
    A = K.copy().T
    np.fill_diagonal(A, A.diagonal() + ridge)
    norm = linalg.norm(A, 1)
    try:
        factor = linalg.cholesky(A, lower=True, overwrite_a=True)
    except linalg.LinAlgError:
        _refuse(K, ridge, argument)
    reciprocal, _ = linalg.lapack.dpocon(factor, norm, uplo="L")
    if not reciprocal > _EPS:
        _refuse(K, ridge, argument)
    return factor, 1 / reciprocal


def _refuse(K: Array, ridge: float, argument: str) -> NoReturn:
    eigenvalues = linalg.eigvalsh(K)
    largest, smallest = eigenvalues[-1], eigenvalues[0]
    resolution = max(largest * len(K) * _EPS, np.finfo(np.float64).tiny)
    condition = largest / smallest if smallest > resolution else np.inf
    advice = {
        "beta": f"a finite beta well below {1 / resolution:.3g} (the ridge is 1/beta)",
        "ridge": f"a ridge well above {resolution:.3g}",
    }[argument]
    raise ValueError(
        f"{argument}: the kernel is singular in float64 with ridge {ridge:.3g}: eigenvalues from {smallest:.3g} to "
        f"{largest:.3g} (condition number {condition:.3g}), {int((eigenvalues > resolution).sum())} of {len(K)} above "
        f"rounding; expected {advice}, or training inputs without duplicates and, for the linear activation, P <= D"
    )
