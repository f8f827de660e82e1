"""Bad input stops at the door: every check names the argument, what was given and what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "integer_at_least",
    "kernel_matrix",
    "nonnegative",
    "per_layer",
    "positive",
    "random_generator",
    "real_array",
]


def real_array(name: str, value: ArrayLike, *, ndim: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Return `value` as a finite float64 array with `ndim` axes (no copy when it already is one)."""
    dims = (ndim,) if isinstance(ndim, int) else ndim
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError
        array = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__}") from None
    if array.ndim not in dims:
        expected = " or ".join(str(d) for d in dims)
        raise ValueError(f"{name}: expected {expected} axes, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one entry, got shape {array.shape}")
    # A finite sum of finite numbers is the usual case and needs no mask as large as the data.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(array.sum())
    if suspicious and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name}: expected finite numbers, got {array[tuple(bad)]} at index {tuple(map(int, bad))}")
    return array


def _real(name: str, value: float, expected: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    return float(value)


def positive(name: str, value: float, *, infinite: bool = False) -> float:
    """Return `value` as a float > 0; `infinite` says whether `inf` is allowed."""
    expected = "a number > 0 (inf allowed)" if infinite else "a finite number > 0"
    number = _real(name, value, expected)
    if not number > 0 or (math.isinf(number) and not infinite):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


def nonnegative(name: str, value: float) -> float:
    """Return `value` as a finite float >= 0."""
    number = _real(name, value, "a finite number >= 0")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
    return number


def integer_at_least(name: str, value: int, least: int = 1) -> int:
    """Return `value` as an int >= `least`; a float, even an integral one, is refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer >= {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
    return int(value)


def per_layer(name: str, value: ArrayLike, count: int, meaning: str) -> NDArray[np.float64]:
    """Return `value` (one number for all, or `count` numbers) as `count` positive floats."""
    array = real_array(name, value, ndim=(0, 1))
    if array.ndim == 1 and array.size != count:
        raise ValueError(f"{name}: expected one number or {count} numbers ({meaning}), got {array.size}")
    if not (array > 0).all():
        raise ValueError(f"{name}: expected numbers > 0, got {value!r}")
    return np.full(count, array) if array.ndim == 0 else array.copy()


def kernel_matrix(name: str, value: ArrayLike, *, size: int | None = None) -> NDArray[np.float64]:
    """Return `value` as a symmetric P x P matrix; asymmetry beyond rounding is refused, not averaged away.

    Whether the matrix is positive semi-definite is left to whoever computes its eigenvalues.
    """
    C = real_array(name, value, ndim=2)
    if C.shape[0] != C.shape[1]:
        raise ValueError(f"{name}: expected a square matrix, got shape {C.shape}")
    if size is not None and C.shape[0] != size:
        raise ValueError(f"{name}: expected a {size} x {size} matrix (one row per label), got shape {C.shape}")
    asymmetry = float(np.abs(C - C.T).max())
    scale = float(np.abs(C).max())
    if asymmetry > 1e-10 * scale:
        raise ValueError(f"{name}: expected a symmetric matrix, got max |C - C^T| = {asymmetry:.3g} (max |C| = {scale:.3g})")
    return C


def random_generator(rng: int | np.random.Generator | np.random.SeedSequence | None) -> np.random.Generator:
    """Return the Generator that `rng` (seed, SeedSequence, Generator or None) stands for."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(f"rng: expected a non-negative integer seed or a numpy Generator, got {rng!r}") from None
