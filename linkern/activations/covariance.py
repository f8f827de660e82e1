"""The one number that averages of two correlated Gaussians are sensitive to: s = sqrt(a b - c^2), free of cancellation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["root_determinant"]

Array = NDArray[np.float64]

# c^2 may exceed a b by this much, relatively, through rounding in whatever computed the covariance; more is an error.
_ROUNDING = 1e-10


def root_determinant(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[Array, Array]:
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
