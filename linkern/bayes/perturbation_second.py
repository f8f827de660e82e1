r"""Second order in gamma0^2: one hidden layer of any activation, and linear networks of any depth.

One hidden layer. With q = phi^T H_1 phi, r = phi^T H_2 phi and averages over h ~ N(0, g_1 C), A = g_w K + I/beta,

    H_1 = -g_w V_0 V_0^T,   H_2 = -g_w (V_0 V_1^T + V_1 V_0^T),
    Phi_2 = E[(phi phi^T - K) (q - E q)^2]/8 - Cov(phi phi^T, r)/2,   V_2 = -A^{-1} g_w (Phi_1 V_1 + Phi_2 V_0).

Linear networks, phi(h) = s h. Tilted Gaussians are Gaussians; with S = g Phi^{l-1} and H = hatPhi^l,

    Phi^l = s^2 (S^{-1} + s^2 H)^{-1} = s^2 [S - s^2 S H S + s^4 S H S H S - ...],
    hatPhi^{l-1} = g s^2 (1 + s^2 H S)^{-1} H = g s^2 [H - s^2 H S H + ...].

Proved in `derivations/perturbation_second.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from linkern.activations import Activation
from linkern.activations.closed import Polynomial
from linkern.bayes.perturbation_fourpoint import has_closed_form
from linkern.bayes.perturbation_recursion import Corrections, LazyLayers, LazyRows
from linkern.bayes.perturbation_sampling import Fields, Sampling, Weight, affine_answer, by_gauss_hermite, by_sampling

__all__ = ["SecondOrder", "linear_curvatures", "linear_slope", "second_order", "second_order_method", "second_order_rows"]

Array = NDArray[np.float64]
# A matrix (or stack of matrices) as a polynomial in gamma0^2, lowest order first.
Series = list[Array]

ORDER = 2
# With sampled averages the second order, a small difference of large terms that contain the first, needs that one better than
# asked for, and itself no better than a correction does: relative precision of both over the user's, and samples per scramble
# below which their spread is no measure of the error.
TIGHTER, LOOSER = 1 / 3, 5.0
LEAST = 2**12
# Nodes of the exact rule for polynomials.
_MOST_NODES = 2**21


@dataclass(frozen=True)
class SecondOrder:
    """Coefficients of gamma0^4.

    Attributes
    ----------
    kernels : (R, L + 1, P, P) ndarray
        One estimate per scramble, R = 1 when exact.
    duals : (R, L, P, P) ndarray
    signal : (R, P, O) ndarray
        V_2.
    count : int
        Samples per scramble; 0 when exact.
    """

    kernels: Array
    duals: Array
    signal: Array
    count: int


def linear_slope(activation: Activation) -> float | None:
    """Return s of phi(h) = s h, None for other activations."""
    form = activation.averages
    if isinstance(form, Polynomial) and len(form.coefficients) == 2 and form.coefficients[0] == 0:
        return float(form.coefficients[1])
    return None


def second_order_method(activation: Activation, S: Array) -> str:
    """Return "closed form", "exact quadrature" (polynomials of few independent fields) or "untilted averages"."""
    form = activation.averages
    if isinstance(form, Polynomial) and has_closed_form(activation, len(S)):
        degree = len(form.coefficients) - 1
        if degree <= 1:
            return "closed form"
        rank = np.linalg.matrix_rank(S, tol=np.linalg.norm(S, 2) * len(S) * np.finfo(np.float64).eps, hermitian=True)
        if (3 * degree + 1) ** int(rank) <= _MOST_NODES:
            return "exact quadrature"
    return "untilted averages"


def second_order(layers: LazyLayers, first: Corrections, V0: Array, V1: Array, factor: Array, sampling: Sampling) -> SecondOrder:
    """Return the second order of the training inputs; V0 (P, O), V1 (R, P, O), `factor` the lower Cholesky factor of A."""
    slope = linear_slope(layers.activation)
    if slope is not None:
        return _linear(layers, slope, V0, factor)
    g = layers.prior_variances[1]
    average, count = _one_layer(layers.activation, layers.fields(0), first.duals[0], _dual(g, V0, V1), sampling, None)
    average = (average + average.transpose(0, 2, 1)) / 2
    right = g * (first.kernels[:, 1] @ V1 + average @ V0)
    V2 = -np.stack([linalg.cho_solve((factor, True), each) for each in right])
    kernels = np.stack([np.zeros_like(average), average], axis=1)
    return SecondOrder(kernels, _dual(g, V0, V1)[:, None], V2, count)


def linear_curvatures(layers: LazyLayers, V0: Array, factor: Array) -> Array | None:
    """Return Phi^0_2, ..., Phi^L_2 of a linear network, None for other activations."""
    slope = linear_slope(layers.activation)
    return None if slope is None else _linear(layers, slope, V0, factor).kernels[0]


def second_order_rows(
    layers: LazyLayers,
    rows: LazyRows,
    first: Corrections,
    second: SecondOrder,
    V0: Array,
    V1: Array,
    sampling: Sampling,
) -> Array:
    """Return Phi^L_2 between test and training inputs, (R, T, P)."""
    slope = linear_slope(layers.activation)
    if slope is not None:
        zero = np.zeros_like(rows.cross[0])
        kernel: Series = [rows.cross[0], zero, zero]
        for l, g in enumerate(layers.prior_variances[:-1]):
            S = [g * x for x in (layers.kernels[l], first.kernels[0, l], second.kernels[0, l])]
            H = [np.zeros_like(S[0]), first.duals[l], second.duals[0, l]]
            kernel = _tilted([g * x for x in kernel], S, H, slope)
        return kernel[ORDER][None]
    dual = _dual(layers.prior_variances[1], V0, V1)
    fields = layers.fields(0, rows)
    return _one_layer(layers.activation, fields, first.duals[0], dual, sampling, second.count or None)[0]


def _dual(g: float, V0: Array, V1: Array) -> Array:
    """H_2 of the last layer, one for each estimate of V_1."""
    mixed = V0 @ V1.transpose(0, 2, 1)
    return -g * (mixed + mixed.transpose(0, 2, 1))


def _one_layer(
    activation: Activation, fields: Fields, H1: Array, H2: Array, sampling: Sampling, count: int | None
) -> tuple[Array, int]:
    """Return Phi_2 between the rows of `fields` and the training inputs, (R, T, P), and the samples taken.

    `sampling` is that of the first order, already tightened.
    """
    method = second_order_method(activation, fields.S)
    weight = Weight(H1, H2[0] if len(H2) == 1 else H2)
    if method == "untilted averages":
        loose = replace(sampling, tol=LOOSER / TIGHTER * sampling.tol)
        average, count = by_sampling(activation, fields, weight, loose, 0, count)
        return average[:, :, :-1], count
    form = activation.averages
    assert isinstance(form, Polynomial)
    degree = len(form.coefficients) - 1
    if method == "exact quadrature":
        return by_gauss_hermite(activation, fields, weight, degree), 0
    constant, slope = (*form.coefficients, 0.0)[:2]
    fit, row_fit = ((np.full(n, constant), np.full(n, slope)) for n in (len(fields.S), len(fields.rows()[1])))
    return affine_answer(weight, fit, row_fit, fields)[None, :, :-1], 0


def _times(*factors: Series) -> Series:
    """Product of series, cut after the second order."""

    def two(left: Series, right: Series) -> Series:
        return [np.asarray(sum(left[i] @ right[k - i] for i in range(k + 1))) for k in range(ORDER + 1)]

    return reduce(two, factors)


def _combined(terms: list[tuple[float, Series]]) -> Series:
    return [np.asarray(sum(weight * term[k] for weight, term in terms)) for k in range(ORDER + 1)]


def _tilted(rows: Series, S: Series, H: Series, slope: float) -> Series:
    """Kernel of a linear layer; `rows` = S gives the training inputs, covariances of test inputs give theirs."""
    a = slope**2
    third = _times(rows, H, S, H, S)
    return _combined([(a, rows), (-(a**2), _times(rows, H, S)), (a**3, third)])


def _linear(layers: LazyLayers, slope: float, V0: Array, factor: Array) -> SecondOrder:
    """Sweep through the layers, each sweep settling one more order."""
    g, a, L = layers.prior_variances, slope**2, len(layers.slopes)
    zero = np.zeros_like(layers.kernels[0])
    duals: list[Series] = [[zero] * (ORDER + 1)] * L
    kernels: list[Series] = []
    signal: Series = [V0]
    for _ in range(ORDER + 1):
        kernels = [[layers.kernels[0], zero, zero]]
        for l in range(L):
            S = [g[l] * x for x in kernels[-1]]
            kernels.append(_tilted(S, S, duals[l], slope))
        signal = [V0]
        for k in range(1, ORDER + 1):
            right = sum(kernels[-1][j] @ signal[k - j] for j in range(1, k + 1))
            signal.append(-linalg.cho_solve((factor, True), g[-1] * right))
        square = [np.asarray(sum(signal[i] @ signal[k - i].T for i in range(k + 1))) for k in range(ORDER)]
        duals = [[zero, *(-g[-1] * x for x in square)]]
        for l in range(L - 1, 0, -1):
            S, H = [g[l] * x for x in kernels[l]], duals[0]
            duals.insert(0, _combined([(g[l] * a, H), (-g[l] * a**2, _times(H, S, H))]))
    return SecondOrder(
        kernels=np.stack([kernel[ORDER] for kernel in kernels])[None],
        duals=np.stack([dual[ORDER] for dual in duals])[None],
        signal=signal[ORDER][None],
        count=0,
    )
