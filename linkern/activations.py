r"""An activation is a function plus its two Gaussian averages (its dual functions), all in closed form.

For (u, v) ~ N(0, [[a, c], [c, b]]) the infinite-width recursions need only

    dual(a, b, c) = E[phi(u) phi(v)],        dual_derivative(a, b, c) = E[phi'(u) phi'(v)] = d dual / dc  (Price).

Both depend on how close the correlation is to +-1 through s = sqrt(a b - c^2), which every formula here takes from an
exact product difference: the formulas stay accurate where arccos(c / sqrt(a b)) has lost half of its digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = ["Activation", "get", "names"]

Array = NDArray[np.float64]
Elementwise = Callable[[NDArray[np.floating]], NDArray[np.floating]]
Dual = Callable[[ArrayLike, ArrayLike, ArrayLike], Array]

# c^2 may exceed a b by this much, relatively, through rounding in whatever computed the covariance; more is an error.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Activation:
    """A scalar nonlinearity and what the theory needs to know about it.

    Attributes
    ----------
    name : str
    value, derivative : callable
        Elementwise phi and phi', array in, new array of the same shape and floating dtype out (float32 stays float32).
        At the kink of ReLU, phi'(0) = 0.
    degree : float or None
        phi(s h) = s^degree phi(h) for every s > 0, None when no such degree exists.
    parity : {"odd", "even", None}
        Symmetry under h -> -h.
    dual, dual_derivative : callable or None
        `dual(a, b, c)` = E[phi(u) phi(v)] and `dual_derivative(a, b, c)` = E[phi'(u) phi'(v)] for
        (u, v) ~ N(0, [[a, c], [c, b]]); arguments broadcast, float64 out. None when no such function is supplied: such
        an activation serves finite networks but not the kernel recursions.
    """

    name: str
    value: Elementwise = field(repr=False)
    derivative: Elementwise = field(repr=False)
    degree: float | None = None
    parity: Literal["odd", "even"] | None = None
    dual: Dual | None = field(default=None, repr=False)
    dual_derivative: Dual | None = field(default=None, repr=False)


def get(activation: str | Activation) -> Activation:
    """Return the `Activation` of that name; an `Activation` is passed through.

    Raises
    ------
    ValueError
        Unknown name.
    TypeError
        Neither a name nor an `Activation`.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"activation: expected a name or an Activation, got {activation!r}")
    if activation not in _BUILT_IN:
        raise ValueError(f"activation: expected one of {', '.join(names())}, got {activation!r}")
    return _BUILT_IN[activation]


def names() -> tuple[str, ...]:
    """Names that `get` understands."""
    return tuple(_BUILT_IN)


def _root_determinant(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[Array, Array]:
    """Return (sqrt(a b - c^2), c), broadcast, the root with full relative accuracy in the given a, b, c.

    a b and c^2 are formed exactly (as unevaluated sums of two floats, Dekker's product) after scaling a and b by powers
    of four into [1/2, 2), so neither cancellation nor overflow touches the difference.
    """
    x, exponent_a = _scaled_variance("a", a)
    y, exponent_b = _scaled_variance("b", b)
    covariance = np.asarray(c, dtype=np.float64)
    z = covariance * np.ldexp(1.0, -exponent_a) * np.ldexp(1.0, -exponent_b)
    (x_high, x_low), (y_high, y_low), (z_high, z_low) = _halves(x), _halves(y), _halves(z)
    product, square = x * y, z * z
    product_error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    square_error = ((z_high * z_high - square) + 2 * (z_high * z_low)) + z_low * z_low
    determinant = (product - square) + (product_error - square_error)
    if (determinant < -_ROUNDING * product).any():
        excess = (np.abs(z) - np.sqrt(product)).max()
        raise ValueError(f"c: expected |c| <= sqrt(a b), got a covariance that exceeds it (scaled excess {excess:.3g})")
    root = np.sqrt(np.maximum(determinant, 0.0)) * np.ldexp(1.0, exponent_a) * np.ldexp(1.0, exponent_b)
    return root, np.broadcast_to(covariance, root.shape)


def _scaled_variance(name: str, value: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
    """Return (m, e) with value = m 4^e exactly and m in [1/2, 2) (or 0)."""
    variance = np.asarray(value, dtype=np.float64)
    if (variance < 0).any():
        raise ValueError(f"{name}: expected variances >= 0, got {variance.min():.6g}")
    exponent = np.asarray(np.frexp(variance)[1] // 2)
    shrink = np.ldexp(1.0, -exponent)
    return variance * shrink * shrink, exponent


def _halves(x: Array) -> tuple[Array, Array]:
    """Split each float into two parts of at most 26 bits (Veltkamp), so that products of parts are exact."""
    shifted = 134217729.0 * x
    high = shifted - (shifted - x)
    return high, x - high


def _linear_dual(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    shape = np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c))
    return np.array(np.broadcast_to(np.asarray(c, dtype=np.float64), shape))


def _linear_dual_derivative(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    return np.ones(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)))


def _relu_dual(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    """Arc-cosine kernel of order 1: (s + c (pi - theta)) / (2 pi), theta the angle between u and v."""
    s, c = _root_determinant(a, b, c)
    total = np.asarray(s + c * np.arctan2(s, 0.0 - c))
    # Towards correlation -1 the two terms cancel to third order; with t = s/|c|,
    # s - |c| arctan(t) = |c| (t^3/3) 2F1(1, 3/2; 5/2; -t^2) has no cancellation left.
    near_opposite = s < -c
    far = -c[near_opposite]
    t = s[near_opposite] / far
    total[near_opposite] = far * t**3 / 3 * special.hyp2f1(1.0, 1.5, 2.5, -(t**2))
    return total / (2 * math.pi)


def _relu_dual_derivative(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    """Arc-cosine kernel of order 0: (pi - theta) / (2 pi); zero where a variance is zero, because relu'(0) = 0."""
    s, c = _root_determinant(a, b, c)
    # 0.0 - c rather than -c: at s = c = 0 the sign of zero decides between the angles 0 and pi.
    return np.arctan2(s, 0.0 - c) / (2 * math.pi)


def _erf_denominator(a: ArrayLike, b: ArrayLike, s: Array) -> Array:
    """Return sqrt((1 + 2a)(1 + 2b) - 4c^2), written as sqrt(1 + 2a + 2b + 4s^2): a sum of positive terms."""
    return np.hypot(np.sqrt(1 + 2 * (np.asarray(a, dtype=np.float64) + np.asarray(b, dtype=np.float64))), 2 * s)


def _erf_dual(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    """Arc-sine kernel: (2/pi) arcsin(2c / sqrt((1 + 2a)(1 + 2b))), as an arctangent."""
    s, c = _root_determinant(a, b, c)
    return np.arctan2(2 * c, _erf_denominator(a, b, s)) * (2 / math.pi)


def _erf_dual_derivative(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    s, c = _root_determinant(a, b, c)
    return (4 / math.pi) / _erf_denominator(a, b, s)


def _relu(h: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.maximum(h, 0)


def _relu_derivative(h: NDArray[np.floating]) -> NDArray[np.floating]:
    return (h > 0).astype(np.result_type(h, np.float32))


def _erf_derivative(h: NDArray[np.floating]) -> NDArray[np.floating]:
    # A Python float (not a NumPy one) keeps float32 arrays in float32.
    return np.exp(-np.square(h)) * (2 / math.sqrt(math.pi))


_BUILT_IN = {
    activation.name: activation
    for activation in (
        Activation("linear", np.positive, np.ones_like, 1.0, "odd", _linear_dual, _linear_dual_derivative),
        Activation("relu", _relu, _relu_derivative, 1.0, None, _relu_dual, _relu_dual_derivative),
        Activation("erf", special.erf, _erf_derivative, None, "odd", _erf_dual, _erf_dual_derivative),
    )
}
