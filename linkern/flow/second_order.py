"""Feature learning to second order, gamma0^4, in closed form where training excites one mode of the data.

Labels in one eigenspace of C (always so for whitened data) leave one clock w = gamma0 sqrt(k) int Delta, k the eigenvalue:
kernels are polynomials in w and v = w(s), K = (L + 1) k (1 + kappa_1 w^2 + kappa_2 w^4), and with x = (L + 1) k t and epsilon =
gamma0 |y|/((L + 1) sqrt(k)) the clock obeys dw/dx = epsilon - w - kappa_1 w^3/3 - kappa_2 w^5/5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad, solve_ivp

from linkern.bayes.spectrum import Spectrum
from linkern.flow.perturbation import PerturbativeTrajectory, leading_perturbation
from linkern.flow.trajectory import as_spectrum
from linkern.generated import flow as formulas
from linkern.solution import Status

__all__ = ["SecondOrderTrajectory", "second_perturbation"]

Floats = NDArray[np.float64]
# Share of the labels outside one eigenspace, and spread of its eigenvalues, that is rounding.
ONE_MODE = 1e-9
# e^{-x} is below rounding from here on: the lags stand still.
SETTLED = 60.0


@dataclass(frozen=True, kw_only=True)
class SecondOrderTrajectory(PerturbativeTrajectory):
    """Everything to order gamma0^4; `outputs` are y - Delta_0 - gamma0^2 Delta_1 - gamma0^4 Delta_2.

    `residual` is the larger of the leading order's and of the difference of the lags from Duhamel's integrals.

    Attributes
    ----------
    error_curvature : (T, P) array
        Delta_2.
    eigenvalue : float
        k.
    mode : (P,) array
        The labels' part in the range of C, normalised; zero without such a part.
    clock : (2, T) array
        w to order gamma0, and its term of order gamma0^3.
    """

    error_curvature: Floats = field(repr=False)
    eigenvalue: float
    mode: Floats = field(repr=False)
    clock: Floats = field(repr=False)

    def loss_curvature(self) -> Floats:
        """(T,): the loss's coefficient of gamma0^4, Delta_0 . Delta_2 + |Delta_1|^2/2."""
        return (self.leading_errors * self.error_curvature).sum(axis=1) + (self.error_slope**2).sum(axis=1) / 2

    def gradient_kernels(self) -> Floats:
        """G^1, .., G^{L+1} at two times: (L + 1, T, T)."""
        every = slice(None)
        return np.stack([1 + sum(self._growth(self.depth - l, every, every)) for l in range(self.depth + 1)])

    def feature_kernels(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """Phi^0, .., Phi^L between times t and s: (L + 1, P, P), or (L + 1, m, P) between new and training inputs."""
        C, drive, first, second = self._features(t, s, X_new, kernel_new)
        return np.asarray(C + (first + second)[:, None, None] * drive)

    def tangent_kernel(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """K = sum_l G^{l+1} Phi^l to order gamma0^4 (higher products dropped)."""
        C, drive, first, second = self._features(t, s, X_new, kernel_new)
        # G^{l+1} is the mirror image of Phi^l: the same numbers in reverse order.
        grown = float((first + second).sum())
        return np.asarray((self.depth + 1 + grown) * C + (grown + float(first @ first[::-1])) * drive)

    def _features(
        self, t: int, s: int | None, X_new: ArrayLike | None, kernel_new: ArrayLike | None
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """C, its part in the mode, and the relative growth of that part in layers 0..L at first and second order."""
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        if X_new is None and kernel_new is None:
            C = self.spectrum.dense()
        else:
            C = self.spectrum.to_samples(self._cross(X_new, kernel_new).T).T
        growth = np.array([self._growth(l, slice(t, t + 1), slice(s, s + 1)) for l in range(self.depth + 1)])
        return C, np.outer(C @ self.mode, self.mode), growth[:, 0, 0, 0], growth[:, 1, 0, 0]

    def _growth(self, layer: int, rows: slice, columns: slice) -> tuple[Floats, Floats]:
        """Phi^l(w, v)/k - 1 in the mode, orders gamma0^2 and gamma0^4, each (rows, columns)."""
        l, L = float(layer), float(self.depth)
        w, late_w = self.clock[:, rows, None]
        v, late_v = self.clock[:, None, columns]
        memory, drive = formulas.feature_memory(l, L), formulas.feature_drive(l)
        first = memory * (w**2 + v**2) / 2 + drive * w * v
        lagging = memory * (w * late_w + v * late_v) + drive * (w * late_v + late_w * v)
        second = formulas.feature_past(l, L) * (w**4 + v**4) + formulas.feature_square(l, L) * w**2 * v**2
        second = second + formulas.feature_cubic(l, L) * (w**3 * v + w * v**3)
        return np.asarray(first), np.asarray(lagging + second)


def second_perturbation(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    times: ArrayLike,
) -> SecondOrderTrajectory:
    """Gradient flow without weight decay to order gamma0^4, for labels in one eigenspace of C.

    Parameters
    ----------
    X, y, kernel, spectrum, depth, gamma0, times
        As for `leading_perturbation`. The labels' part in the range of C must be an eigenvector of C.

    Returns
    -------
    SecondOrderTrajectory

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected; also if several modes are excited, whose order gamma0^4
        depends on the order in which they are learned and has no closed form here.
    """
    spectrum = as_spectrum(X, y, kernel, spectrum)
    if len(spectrum.label_shape) != 1:
        raise ValueError(f"y: expected one output, (P,), got shape {spectrum.label_shape}")
    base = leading_perturbation(spectrum=spectrum, depth=depth, gamma0=gamma0, times=times)
    k, mode, size = _single_mode(spectrum)
    epsilon = gamma0 * size / ((depth + 1) * np.sqrt(k))
    first, second = formulas.tangent_first(float(depth)), formulas.tangent_second(float(depth))
    x = np.minimum((depth + 1) * k * base.times, SETTLED)
    (a, _, _), (_, repeated, late), residual = _lags(x)
    # Delta_2/|y|, the factor epsilon^4 without gamma0^4.
    slope = size * (epsilon / gamma0) ** 4 * (first**2 * repeated + second * late)
    worst = max(base.residual, residual)
    return SecondOrderTrajectory(
        parameters=base.parameters,
        residual=worst,
        status=Status.CONVERGED if worst < 1e-9 else Status.NOT_CONVERGED,
        spectrum=spectrum,
        depth=base.depth,
        gamma0=base.gamma0,
        weight_decay=0.0,
        times=base.times,
        signal=base.signal - gamma0**5 / k * np.multiply.outer(slope, mode)[:, None, :],
        correction=base.correction,
        leading_errors=base.leading_errors,
        error_slope=base.error_slope,
        error_curvature=np.multiply.outer(slope, spectrum.to_samples(mode[:, None])[:, 0]),
        eigenvalue=k,
        mode=spectrum.to_samples(mode[:, None])[:, 0],
        clock=np.stack([epsilon * -np.expm1(-x), epsilon**3 * first * a]),
    )


def _single_mode(spectrum: Spectrum) -> tuple[float, Floats, float]:
    """The eigenvalue, the unit vector of the labels in the eigenbasis, and their norm."""
    lam, b = spectrum.eigenvalues, spectrum.coefficients[:, 0]
    size = float(np.linalg.norm(b))
    if size == 0:
        return 1.0, b, size
    k = float(lam[np.argmax(np.abs(b))])
    elsewhere = float(np.linalg.norm(b[np.abs(lam - k) > ONE_MODE * k]))
    if elsewhere > ONE_MODE * size:
        raise ValueError(
            f"y: expected labels in one eigenspace of the data kernel (whitened data, for instance), got a share "
            f"{elsewhere / size:.3g} of them in others; use leading_perturbation or march"
        )
    return k, b / size, size


def _lags(x: Floats) -> tuple[Floats, Floats, float]:
    """Solutions (3, T) of the clock's expansion at times x, their slopes, and a residual.

    a' = -a - p^3/3, b' = -b - p^2 a, c' = -c - p^5/5 with p = 1 - e^{-x}. Their closed forms cancel to order x^6 at early times;
    the equations do not.
    """

    def slope(time: float | Floats, lags: Floats) -> Floats:
        p = -np.expm1(-np.asarray(time))
        return -np.asarray(lags) - np.stack([p**3 / 3, p**2 * lags[0], p**5 / 5])

    end = float(x.max())
    found = solve_ivp(slope, (0.0, max(end, 1e-3)), np.zeros(3), method="DOP853", rtol=1e-12, atol=1e-18, dense_output=True)
    lags = found.sol(x)

    def source(time: float, which: int) -> float:
        return float(np.exp(time - end) * (slope(time, found.sol(time)) + found.sol(time))[which])

    exact = [quad(source, 0.0, end, args=(which,), epsabs=1e-12, epsrel=1e-11)[0] for which in range(3)]
    return lags, slope(x, lags), float(np.abs(found.sol(end) - exact).max())
