"""The activations that come with a name, and makers of families and of activations from any function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from linkern import checks
from linkern.activations.activation import Activation, ActivationLike, Elementwise
from linkern.activations.closed import ErrorFunction, Exponential, Generated, LeakyReLU, Polynomial, ReLUPower, Wave
from linkern.activations.quadrature import HermiteSeries

__all__ = ["from_function", "get", "leaky_relu", "names", "polynomial", "relu_power"]

Values = NDArray[np.floating]
_GAUSS = 1 / math.sqrt(2 * math.pi)

# Where derivatives that are given are compared with differences, over which steps, up to which relative error, and the share of
# points that may disagree.
_PROBES, _PROBING_STEPS, _PROBING_ERROR, _MOST_WRONG = np.linspace(-2.93, 3.11, 61), (1e-3, 2e-3), 1e-4, 0.2
# A function is elementwise if rows (one that begins below zero and one above), the table and single numbers give the same.
_TABLE = np.array([[-0.5, 0.25, 1.0], [1.5, -0.75, -2.0]])
_PARTS = (np.s_[0], np.s_[1], np.s_[:], np.s_[0, 0, ...], np.s_[1, 0, ...])
# Where degree and parity are checked. The tolerance lets functions pass that compute in float32.
_SCALES, _SAME = np.array([0.03, 0.11, 0.9, 4.0, 170.0]), 1e-5


def get(activation: ActivationLike) -> Activation:
    """Return the `Activation` of that name; an `Activation` is passed through.

    Any other callable f means `from_function(f)`: its derivatives are numerical and its averages come from quadrature. Where
    f has kinks, or formulas for its derivatives, call `from_function` or name an activation.

    Raises
    ------
    ValueError
        Unknown name, or a function that is not elementwise.
    TypeError
        Neither a name nor an `Activation` nor a callable.
    """
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        _require_elementwise("activation", activation)
        return from_function(activation)
    if not isinstance(activation, str):
        raise TypeError(f"activation: expected a name, an Activation or a function as from_function takes it, got {activation!r}")
    if activation not in _BUILT_IN:
        raise ValueError(f"activation: expected one of {', '.join(names())}, got {activation!r}")
    return _BUILT_IN[activation]


def names() -> tuple[str, ...]:
    """Names that `get` understands."""
    return tuple(_BUILT_IN)


def relu_power(power: int) -> Activation:
    """Return max(h, 0)^power for power = 1, 2 or 3, with closed-form averages."""
    power = checks.integer_at_least("power", power)
    if power > 3:
        raise ValueError(f"power: expected 1, 2 or 3 (closed forms are generated for these), got {power}")
    return Activation(
        "relu" if power == 1 else f"relu{power}",
        _positive_part if power == 1 else lambda h: np.maximum(h, 0) ** power,
        lambda h: power * np.maximum(h, 0) ** (power - 1) if power > 1 else _step(h),
        float(power),
        second_derivative=lambda h: power * (power - 1) * (np.maximum(h, 0) ** max(power - 2, 0) * _step(h)),
        averages=ReLUPower(power),
    )


def leaky_relu(slope: float = 0.01) -> Activation:
    """Return h for h > 0 and slope h otherwise, slope in [0, 1]; phi'(0) = slope."""
    slope = checks.nonnegative("slope", slope)
    if slope > 1:
        raise ValueError(f"slope: expected a number in [0, 1], got {slope}")
    return Activation(
        f"leaky_relu({slope:g})",
        lambda h: np.maximum(h, slope * h),
        lambda h: slope + (1 - slope) * _step(h),
        1.0,
        second_derivative=np.zeros_like,
        averages=LeakyReLU(slope),
    )


def polynomial(coefficients: Sequence[float]) -> Activation:
    """Return sum_k coefficients[k] h^k, with closed-form averages of any degree."""
    values = checks.real_array("coefficients", coefficients, ndim=1)
    given = tuple(np.trim_zeros(values, "b").tolist()) or (0.0,)
    powers = [k for k, value in enumerate(given) if value]
    odd, even = all(k % 2 for k in powers), all(k % 2 == 0 for k in powers)

    def derived(order: int) -> Elementwise:
        # Python floats keep float32 arrays in float32.
        terms = np.polynomial.polynomial.polyder(given, order).tolist()
        return lambda h: sum((h**k * float(value) for k, value in enumerate(terms)), np.zeros_like(h))

    return Activation(
        f"polynomial({', '.join(f'{value:g}' for value in given)})",
        derived(0),
        derived(1),
        float(powers[0]) if len(powers) == 1 else None,
        "odd" if odd and powers else "even" if even else None,
        second_derivative=derived(2),
        averages=Polynomial(given),
    )


def from_function(
    value: Callable[[Values], Values],
    derivative: Callable[[Values], Values] | None = None,
    second_derivative: Callable[[Values], Values] | None = None,
    *,
    name: str = "custom",
    degree: float | None = None,
    parity: Literal["odd", "even"] | None = None,
) -> Activation:
    """Return an activation from any elementwise function, with averages by quadrature.

    Parameters
    ----------
    value : callable
        phi, elementwise on arrays of any number of axes. Integers and truth values become floats; NumPy's warnings are
        silenced, and results that are not finite are reported where they are used.
    derivative, second_derivative : callable, optional
        phi' and phi''. Missing ones are central differences of order eight (about 1e-12 and 1e-10 of the scale of a
        function that varies over distances of order one); `derivative_source` of the result says so.
    name, degree, parity
        As in `Activation`; `degree` >= 0 and `parity` are checked at a few points.

    Raises
    ------
    TypeError, ValueError
        Not an elementwise function of real values; a derivative that differences of what it is the derivative of contradict;
        a degree or parity that phi does not have.

    Notes
    -----
    For a function with kinks the averages of phi and phi' are right but converge slowly, and those of phi'' lack the delta
    functions; the error estimates grow accordingly. Prefer a named activation there.
    """
    phi = _elementwise("value", value)
    first = _difference(phi, 0.02) if derivative is None else _elementwise("derivative", derivative)
    second = _difference(first, 0.02) if second_derivative is None else _elementwise("second_derivative", second_derivative)
    if derivative is not None:
        _require_slope("derivative", first, phi)
    if second_derivative is not None:
        _require_slope("second_derivative", second, first)
    return Activation(
        name,
        phi,
        first,
        _checked_degree(degree, phi),
        _checked_parity(parity, phi),
        second_derivative=second,
        averages=HermiteSeries(name, (phi, first, second)),
        derivative_source="numerical" if derivative is None or second_derivative is None else "formula",
    )


def _elementwise(argument: str, function: Callable[[Values], Values]) -> Elementwise:
    """The function, checked, silent and with floats out, of the dtype of the floats that go in."""
    _require_elementwise(argument, function)

    def silent(h: Values) -> Values:
        given = np.asarray(h)
        dtype = np.result_type(given, np.float32)
        with np.errstate(all="ignore"):
            return np.asarray(function(given.astype(dtype, copy=False)), dtype=dtype)

    return silent


def _require_elementwise(argument: str, function: Callable[[Values], Values]) -> None:
    """Refuse what does not act entry by entry, with real values, on arrays of any number of axes."""
    if not callable(function):
        raise TypeError(f"{argument}: expected an elementwise function, got {function!r}")
    found = [_probed(argument, function, _TABLE[part]) for part in _PARTS]
    for part, values in zip(_PARTS, found, strict=True):
        h, here, there = np.broadcast_arrays(_TABLE[part], values, found[2][part])
        wrong = ~np.isclose(here, there, rtol=_SAME, equal_nan=True)
        if wrong.any():
            raise ValueError(
                f"{argument}: expected an elementwise function, got {here[wrong][0]:.6g} and {there[wrong][0]:.6g} at "
                f"h = {h[wrong][0]:g} in arrays of shapes {h.shape} and {_TABLE.shape}"
            )


def _probed(argument: str, function: Callable[[Values], Values], h: Values) -> Values:
    given = h.copy()
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(function(given))
        values = np.asarray(result.real, dtype=np.float64)
    except Exception as error:
        raise ValueError(
            f"{argument}: expected an elementwise function, got {error!r} from an array of shape {h.shape} "
            "(np.vectorize with otypes=[float] makes one from a function of numbers)"
        ) from error
    if np.iscomplexobj(result):
        raise ValueError(f"{argument}: expected real values, got {result.dtype} from {h.dtype}")
    if result.shape != h.shape:
        raise ValueError(f"{argument}: expected an elementwise function, got shape {result.shape} from shape {h.shape}")
    if (given != h).any():
        raise ValueError(f"{argument}: expected a function that leaves its argument as it is, got one that writes to it")
    return values


def _checked_degree(degree: float | None, phi: Elementwise) -> float | None:
    if degree is None:
        return None
    degree = checks.nonnegative("degree", degree)
    h = np.concatenate((-_SCALES, _SCALES))
    with np.errstate(all="ignore"):
        expected = np.exp2(degree) * phi(h)
    _require_same(f"degree: expected phi(2h) = 2^degree phi(h), got degree {degree:g}", "phi(2h)", phi(2 * h), expected, h)
    return degree


def _checked_parity(parity: Literal["odd", "even"] | None, phi: Elementwise) -> Literal["odd", "even"] | None:
    if parity is None:
        return None
    if parity not in ("odd", "even"):
        raise ValueError(f"parity: expected 'odd', 'even' or None, got {parity!r}")
    sign = -1 if parity == "odd" else 1
    expected = f"phi(-h) = {'-' if sign < 0 else ''}phi(h)"
    _require_same(f"parity: expected {expected}, got {parity!r}", "phi(-h)", phi(-_SCALES), sign * phi(_SCALES), _SCALES)
    return parity


def _require_same(claim: str, symbol: str, values: Values, expected: Values, h: Values) -> None:
    wrong = ~np.isclose(values, expected, rtol=_SAME, atol=0, equal_nan=True)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"{claim} and {symbol} = {values[at]:.6g} in place of {expected[at]:.6g} at h = {h[at]:g}")


def _difference(function: Callable[[Values], Values], step: float) -> Elementwise:
    """Central difference of order eight."""

    def slope(h: Values) -> Values:
        weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
        with np.errstate(all="ignore"):
            total = sum(w * (function(h + k * step) - function(h - k * step)) for k, w in enumerate(weights, start=1))
            return np.asarray(total / step)

    return slope


def _require_slope(argument: str, slope: Callable[[Values], Values], function: Callable[[Values], Values]) -> None:
    """Refuse a slope that differences contradict at most points; they know nothing of kinks and of fast oscillations."""
    with np.errstate(all="ignore"):
        given = slope(_PROBES)
        fine, coarse = (_difference(function, step)(_PROBES) for step in _PROBING_STEPS)
        size = _PROBING_ERROR * (1 + np.abs(fine))
        wrong = (np.abs(fine - coarse) < size) & ~(np.abs(given - fine) < 10 * size)
    if wrong.mean() > _MOST_WRONG:
        worst = int(np.argmax(wrong))
        raise ValueError(
            f"{argument}: expected the derivative, got {given[worst]:.6g} at h = {_PROBES[worst]:g}, where differences give "
            f"{fine[worst]:.6g}"
        )


def _positive_part(h: Values) -> Values:
    # A third of the time that np.maximum takes, measured.
    return np.clip(h, 0.0, np.inf)


def _step(h: Values) -> Values:
    return (h > 0).astype(np.result_type(h, np.float32))


def _erf_derivative(h: Values) -> Values:
    # A Python float (not a NumPy one) keeps float32 arrays in float32.
    return np.exp(-np.square(h)) * (2 / math.sqrt(math.pi))


def _density(h: Values) -> Values:
    return np.exp(-np.square(h) / 2) * _GAUSS


def _tanh_derivatives() -> tuple[Elementwise, ...]:
    return (
        np.tanh,
        lambda h: 1 - np.tanh(h) ** 2,
        lambda h: -2 * np.tanh(h) * (1 - np.tanh(h) ** 2),
        lambda h: (6 * np.tanh(h) ** 2 - 2) * (1 - np.tanh(h) ** 2),
        lambda h: 8 * np.tanh(h) * (2 - 3 * np.tanh(h) ** 2) * (1 - np.tanh(h) ** 2),
    )


def _softplus_derivatives() -> tuple[Elementwise, ...]:
    # With p = expit(h) and w = p (1 - p): p' = w and w' = w (1 - 2p).
    return (
        lambda h: np.logaddexp(h, 0),
        special.expit,
        lambda h: special.expit(h) * special.expit(-h),
        lambda h: special.expit(h) * special.expit(-h) * (1 - 2 * special.expit(h)),
        lambda h: special.expit(h) * special.expit(-h) * (1 - 6 * special.expit(h) * special.expit(-h)),
    )


def _smooth(name: str, functions: tuple[Elementwise, ...], parity: Literal["odd", "even"] | None) -> Activation:
    value, first, second = functions[:3]
    averages = HermiteSeries(name, functions)
    return Activation(name, value, first, None, parity, second_derivative=second, averages=averages)


def _linear() -> Activation:
    return Activation(
        "linear", np.positive, np.ones_like, 1.0, "odd", second_derivative=np.zeros_like, averages=Polynomial((0.0, 1.0))
    )


_BUILT_IN = {
    activation.name: activation
    for activation in (
        _linear(),
        relu_power(1),
        relu_power(2),
        relu_power(3),
        Activation(
            "erf",
            special.erf,
            _erf_derivative,
            None,
            "odd",
            second_derivative=lambda h: -2 * h * _erf_derivative(h),
            averages=ErrorFunction(),
        ),
        Activation(
            "gelu",
            lambda h: h * special.ndtr(h),
            lambda h: special.ndtr(h) + h * _density(h),
            second_derivative=lambda h: (2 - np.square(h)) * _density(h),
            averages=Generated("gelu"),
        ),
        Activation(
            "gaussian",
            lambda h: np.exp(-np.square(h) / 2),
            lambda h: -h * np.exp(-np.square(h) / 2),
            None,
            "even",
            second_derivative=lambda h: (np.square(h) - 1) * np.exp(-np.square(h) / 2),
            averages=Generated("gaussian"),
        ),
        Activation("sin", np.sin, np.cos, None, "odd", second_derivative=lambda h: -np.sin(h), averages=Wave(odd=True)),
        Activation(
            "cos", np.cos, lambda h: -np.sin(h), None, "even", second_derivative=lambda h: -np.cos(h), averages=Wave(odd=False)
        ),
        Activation("exp", np.exp, np.exp, second_derivative=np.exp, averages=Exponential()),
        _smooth("tanh", _tanh_derivatives(), "odd"),
        _smooth("softplus", _softplus_derivatives(), None),
    )
}
_BUILT_IN["leaky_relu"] = leaky_relu()
