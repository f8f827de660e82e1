"""Gradient flow as the limit of gradient descent: three step sizes, Richardson's extrapolation, and an error estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, nonnegative, positive, real_array
from linkern.flow.dynamics import DescentTrajectory, march
from linkern.flow.trajectory import Trajectory, as_spectrum
from linkern.solution import ConvergenceError, Status

__all__ = ["FlowTrajectory", "gradient_flow"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FlowTrajectory(Trajectory):
    """Gradient flow at infinite width; `residual` is the largest of the descents' residuals.

    Attributes
    ----------
    error : float
        Estimated largest error of `outputs`, relative to the largest label: what the last level of extrapolation changed.
    levels : tuple of DescentTrajectory
        The descents, each with half the step of the one before.
    """

    error: float
    levels: tuple[DescentTrajectory, ...] = field(repr=False)

    def gradient_kernels(self) -> Floats:
        """G^1, .., G^{L+1} at two times, as `DescentTrajectory.gradient_kernels`."""
        O = self.signal.shape[1]
        if len(self.spectrum.label_shape) == 1:
            return self._limit(lambda run, every: run.gradient_kernels()[:, ::every, ::every])
        return self._limit(lambda run, every: run.gradient_kernels()[:, ::every, :O, ::every, :O])

    def feature_kernels(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """Phi^0, .., Phi^L between times t and s, as `DescentTrajectory.feature_kernels`."""
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        return self._limit(lambda run, every: run.feature_kernels(t * every, s * every, X_new=X_new, kernel_new=kernel_new))

    def tangent_kernel(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """K, as `DescentTrajectory.tangent_kernel`."""
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        return self._limit(lambda run, every: run.tangent_kernel(t * every, s * every, X_new=X_new, kernel_new=kernel_new))

    def _limit(self, read: Callable[[DescentTrajectory, int], Floats]) -> Floats:
        return extrapolate([read(run, 2**level) for level, run in enumerate(self.levels)])[0]


def gradient_flow(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    time: float | None = None,
    points: int = 51,
    times: ArrayLike | None = None,
    weight_decay: float = 0.0,
    levels: int = 3,
    tol: float = 1e-3,
    raise_on_failure: bool = True,
) -> FlowTrajectory:
    """Train an infinitely wide deep linear network by gradient flow d theta/dt = -gamma^2 grad loss - weight_decay theta.

    Parameters
    ----------
    X, y, kernel, spectrum, depth, gamma0, weight_decay
        As for `march`.
    time : float
        End of training > 0. Give `time` or `times`.
    points : int
        Number T of equidistant times from 0 to `time`, at least 2; the coarsest descent takes T - 1 steps.
    times : (T,) array
        Ascending times from 0 instead, any spacing: short steps while the error is large, long ones later.
    levels : int
        Number of descents, 2 or more, with T - 1, 2 (T - 1), 4 (T - 1), .. steps.
    tol : float
        Largest acceptable estimated error relative to the largest label.
    raise_on_failure : bool
        Whether an estimate above the tolerance raises; otherwise the status says NOT_CONVERGED.

    Returns
    -------
    FlowTrajectory

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.
    ConvergenceError
        The estimated error exceeds the tolerance, or the coarsest descent diverges: more points are needed.

    Notes
    -----
    Cost 8^(levels - 1) times that of a `march` with T times. The global error of Euler's method has an expansion in powers of
    the step, of which `levels` - 1 terms are eliminated.
    """
    grid = _grid(time, points, times)
    points = grid.size
    levels = integer_at_least("levels", levels, 2)
    tol = positive("tol", tol)
    weight_decay = nonnegative("weight_decay", weight_decay)
    spectrum = as_spectrum(X, y, kernel, spectrum)
    runs = []
    for level in range(levels):
        steps = np.repeat(np.diff(grid) / 2**level, 2**level)
        try:
            runs.append(march(spectrum=spectrum, depth=depth, gamma0=gamma0, steps=steps, weight_decay=weight_decay))
        except ConvergenceError as failure:
            raise ConvergenceError(
                f"points: the descent with {steps.size} steps up to time = {grid[-1]:g} diverges; expected more than {points} "
                f"points ({failure})",
                failure.solution,
            ) from None
    signal, error = extrapolate([run.signal[:: 2**level] for level, run in enumerate(runs)])
    scale = max(float(np.abs(spectrum.labels).max()), float(np.finfo(float).tiny))
    samples = runs[0]._to_samples(error * spectrum.eigenvalues / gamma0)
    estimate = float(np.abs(samples).max()) / scale
    accurate = estimate <= tol
    descents_converged = all(run.status is Status.CONVERGED for run in runs)
    solution = FlowTrajectory(
        parameters={**runs[0].parameters, "time": float(grid[-1]), "points": points, "levels": levels},
        residual=max(run.residual for run in runs),
        status=Status.CONVERGED if accurate and descents_converged else Status.NOT_CONVERGED,
        spectrum=spectrum,
        depth=depth,
        gamma0=gamma0,
        weight_decay=weight_decay,
        times=grid,
        signal=signal,
        error=estimate,
        levels=tuple(runs),
    )
    if raise_on_failure and not accurate:
        raise ConvergenceError(
            f"points: estimated error {estimate:.3g} of the largest label exceeds tol = {tol:g}; expected more than "
            f"{points} points or more than {levels} levels",
            solution,
        )
    return solution


def extrapolate(values: list[Floats]) -> tuple[Floats, Floats]:
    """Return the limit of values at steps h, h/2, h/4, .. with errors in h, h^2, .., and what the last level changed."""
    table = values
    change = np.zeros_like(values[-1])
    for order in range(1, len(values)):
        refined = [fine + (fine - coarse) / (2**order - 1) for coarse, fine in zip(table[:-1], table[1:], strict=True)]
        change = refined[-1] - table[-1]
        table = refined
    return table[-1], change


def _grid(time: float | None, points: int, times: ArrayLike | None) -> Floats:
    """The recorded times."""
    if (time is None) == (times is None):
        raise ValueError("time, times: expected exactly one of them")
    if times is None:
        assert time is not None
        return np.linspace(0.0, positive("time", time), integer_at_least("points", points, 2))
    grid = real_array("times", times, ndim=1)
    if grid.size < 2 or grid[0] != 0 or not (np.diff(grid) > 0).all():
        raise ValueError(f"times: expected at least 2 ascending times, the first one 0, got {times!r}")
    return grid
