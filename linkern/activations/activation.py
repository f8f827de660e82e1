r"""An activation: a function, its derivatives, and its averages over two correlated Gaussians (its dual functions).

For (u, v) ~ N(0, [[a, c], [c, b]]) write F(a, b, c) = E[phi(u) phi(v)]. Price's theorem makes every average with p + q even

    E[phi^(p)(u) phi^(q)(v)] = 2^(i + j) d_a^i d_b^j d_c^k F,     p = 2i + k,  q = 2j + k,

a derivative of F, kinks included: phi'' of ReLU is a delta function and E[phi'' phi] is finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Activation", "ActivationLike", "Averages", "Dual", "Elementwise"]

Array = NDArray[np.float64]
Elementwise = Callable[[NDArray[np.floating]], NDArray[np.floating]]
Dual = Callable[[ArrayLike, ArrayLike, ArrayLike], Array]


class Averages(Protocol):
    """Averages of an activation over two Gaussians, and how they are obtained.

    Attributes
    ----------
    method : str
        "closed form" or "quadrature".
    """

    method: ClassVar[str]

    def __call__(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return E[phi^(p)(u) phi^(q)(v)]; the arguments a, b, c broadcast."""

    def error(self, p: int, q: int, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return an absolute error estimate of the same average; zero for closed forms, whose error is rounding."""


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
        an activation serves finite networks but not the kernel recursions. Filled in from `averages` when that is given.
    second_derivative : callable or None
        phi'' away from kinks (the delta functions at kinks are part of the averages, not of this function).
    averages : Averages or None
        All averages E[phi^(p) phi^(q)]: (p, q) = (0, 0), (1, 1), (2, 0), (0, 2), and the derivatives of these,
        (2, 2), (3, 1), (1, 3), (4, 0), (0, 4).
    derivative_source : {"formula", "numerical"}
        Whether phi' and phi'' are formulas or finite differences.
    """

    name: str
    value: Elementwise = field(repr=False)
    derivative: Elementwise = field(repr=False)
    degree: float | None = None
    parity: Literal["odd", "even"] | None = None
    dual: Dual | None = field(default=None, repr=False)
    dual_derivative: Dual | None = field(default=None, repr=False)
    second_derivative: Elementwise | None = field(default=None, repr=False)
    averages: Averages | None = field(default=None, repr=False)
    derivative_source: Literal["formula", "numerical"] = field(default="formula", repr=False)

    def __post_init__(self) -> None:
        if self.averages is not None:
            for name, order in (("dual", 0), ("dual_derivative", 1)):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, _diagonal_order(self.averages, order))

    @property
    def method(self) -> str | None:
        """How ("closed form" or "quadrature") the averages are obtained; None when there are none."""
        return None if self.averages is None else self.averages.method

    def dual_second(self, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return E[phi''(u) phi(v)] = 2 d dual/da, delta functions of phi'' included."""
        return self._supplied()(2, 0, a, b, c)

    def dual_error(self, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return an absolute error estimate of `dual`."""
        return self._supplied().error(0, 0, a, b, c)

    def dual_derivative_error(self, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        """Return an absolute error estimate of `dual_derivative`."""
        return self._supplied().error(1, 1, a, b, c)

    def _supplied(self) -> Averages:
        if self.averages is None:
            raise ValueError(f"activation: expected one with averages, {self.name!r} lacks them")
        return self.averages


def _diagonal_order(averages: Averages, order: int) -> Dual:
    def dual(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
        return averages(order, order, a, b, c)

    return dual


#: A name, an `Activation`, or an elementwise function, of which `from_function` makes one.
ActivationLike = str | Activation | Elementwise
