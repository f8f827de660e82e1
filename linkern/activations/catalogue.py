"""The activations that come with a name, and makers of families and of activations from any function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from linkern import checks
from linkern.activations.activation import Activation, Elementwise
from linkern.activations.closed import ErrorFunction, Exponential, Generated, LeakyReLU, Polynomial, ReLUPower, Wave
from linkern.activations.quadrature import HermiteSeries

__all__ = ["from_function", "get", "leaky_relu", "names", "polynomial", "relu_power"]

Values = NDArray[np.floating]
_GAUSS = 1 / math.sqrt(2 * math.pi)

# Where derivatives that are given are compared with differences, over which steps, up to which relative error, and the share of
# points that may disagree.
_PROBES, _PROBING_STEPS, _PROBING_ERROR, _MOST_WRONG = np.linspace(-2.93, 3.11, 61), (1e-3, 2e-3), 1e-4, 0.2


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
        phi, elementwise on float64 arrays.
    derivative, second_derivative : callable, optional
        phi' and phi''. Missing ones are central differences of order eight (about 1e-12 and 1e-10 of the scale of a
        function that varies over distances of order one); `derivative_source` of the result says so.
    name, degree, parity
        As in `Activation`; `parity` is trusted.

    Raises
    ------
    TypeError, ValueError
        Not an elementwise function; a derivative that differences of what it is the derivative of contradict.

    Notes
    -----
    For a function with kinks the averages of phi and phi' are right but converge slowly, and those of phi'' lack the delta
    functions; the error estimates grow accordingly. Prefer a named activation there.
    """
    if not callable(value):
        raise TypeError(f"value: expected an elementwise function, got {value!r}")
    probe = np.array([-0.5, 0.25, 1.0])
    if np.shape(value(probe)) != probe.shape:
        raise ValueError(f"value: expected an elementwise function, got shape {np.shape(value(probe))} from shape {probe.shape}")
    numerical = derivative is None or second_derivative is None
    first = derivative or _difference(value, 0.02)
    second = second_derivative or _difference(first, 0.02)
    for argument, slope, function in (("derivative", derivative, value), ("second_derivative", second_derivative, first)):
        if slope is not None:
            _require_slope(argument, slope, function)
    return Activation(
        name,
        value,
        first,
        degree,
        parity,
        second_derivative=second,
        averages=HermiteSeries(name, (value, first, second)),
        derivative_source="numerical" if numerical else "formula",
    )


def _difference(function: Callable[[Values], Values], step: float) -> Elementwise:
    """Central difference of order eight."""

    def slope(h: Values) -> Values:
        weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
        total = sum(w * (function(h + k * step) - function(h - k * step)) for k, w in enumerate(weights, start=1))
        return np.asarray(total / step)

    return slope


def _require_slope(argument: str, slope: Callable[[Values], Values], function: Callable[[Values], Values]) -> None:
    """Refuse a slope that differences contradict at most points; they know nothing of kinks and of fast oscillations."""
    with np.errstate(all="ignore"):
        given = np.broadcast_to(slope(_PROBES), _PROBES.shape)
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
