"""Simpler theories of training, with the interface of the exact solution: the static tangent kernel and gradient independence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, nonnegative, positive, real_array
from linkern.flow.causal import IndependentMarch
from linkern.flow.dynamics import DescentTrajectory, run_march
from linkern.flow.trajectory import Trajectory, as_spectrum
from linkern.solution import Status

__all__ = ["StaticTrajectory", "gradient_independence", "static_ntk"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StaticTrajectory(Trajectory):
    """Kernel regression with the tangent kernel (L + 1) C of random weights; `residual` is 0, the formula being exact."""

    def gradient_kernels(self) -> Floats:
        """G^1, .., G^{L+1} at two times, all one: (L + 1, T, T) or (L + 1, T, O, T, O)."""
        T, O = self.times.size, self.signal.shape[1]
        if len(self.spectrum.label_shape) == 1:
            return np.ones((self.depth + 1, T, T))
        return np.broadcast_to(np.eye(O)[None, None, :, None, :], (self.depth + 1, T, O, T, O)).copy()

    def feature_kernels(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """Phi^0 = .. = Phi^L = C at all times: (L + 1, P, P), or (L + 1, m, P) between new and training inputs."""
        self._index("t", t)
        self._index("s", t if s is None else s)
        if X_new is None and kernel_new is None:
            C = self.spectrum.dense()
        else:
            C = self.spectrum.to_samples(self._cross(X_new, kernel_new).T).T
        return np.repeat(C[None], self.depth + 1, axis=0)

    def tangent_kernel(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """K = (L + 1) C; with an axis of outputs (m, O, P, O)."""
        K = self.feature_kernels(t, s, X_new=X_new, kernel_new=kernel_new).sum(axis=0)
        return K if len(self.spectrum.label_shape) == 1 else np.einsum("mp,ij->mipj", K, np.eye(self.signal.shape[1]))


def static_ntk(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    times: ArrayLike,
    weight_decay: float = 0.0,
) -> StaticTrajectory:
    """Gradient flow with the tangent kernel held at its initial value: df/dt = K (y - f) - (L + 1) weight_decay f.

    Domain of validity: gamma0 -> 0 without weight decay. With weight decay the true kernel shrinks like
    exp(-2 L weight_decay t), and this is a comparator only.

    Parameters
    ----------
    X, y, kernel, spectrum, depth, gamma0, weight_decay
        As for `linkern.flow.march`.
    times : (T,) array
        Times >= 0, ascending.

    Returns
    -------
    StaticTrajectory
    """
    depth = integer_at_least("depth", depth)
    gamma0 = positive("gamma0", gamma0)
    weight_decay = nonnegative("weight_decay", weight_decay)
    when = checked_times(times)
    spectrum = as_spectrum(X, y, kernel, spectrum)
    rate = (depth + 1) * spectrum.eigenvalues
    total = rate + (depth + 1) * weight_decay
    # f / C = (L + 1) (1 - e^{-total t}) / total b, written so that a vanishing rate is no division by zero.
    progress = -np.expm1(-total * when[:, None]) / total
    signal = gamma0 * (depth + 1) * progress[:, None, :] * spectrum.coefficients.T
    return StaticTrajectory(
        parameters={"depth": depth, "gamma0": gamma0, "weight_decay": weight_decay},
        residual=0.0,
        status=Status.CONVERGED,
        spectrum=spectrum,
        depth=depth,
        gamma0=gamma0,
        weight_decay=weight_decay,
        times=when,
        signal=signal,
    )


def gradient_independence(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    steps: ArrayLike,
    weight_decay: float = 0.0,
    raise_on_failure: bool = True,
) -> DescentTrajectory:
    """Gradient descent at infinite width with the response functions neglected, A = B = 0.

    Domain of validity: exact for one hidden layer as its steps go to zero (there A^0 = B^1 = 0 anyway); for L >= 2 wrong at
    order gamma0^2, the order at which the kernels start to move. Arguments, result and errors as for `linkern.flow.march`;
    `residual` compares kernels built by two routes. Cost O(L r (T O)^3).
    """
    data = as_spectrum(X, y, kernel, spectrum)
    return run_march(IndependentMarch, data, depth, gamma0, steps, weight_decay, raise_on_failure)


def checked_times(times: ArrayLike) -> Floats:
    """Return ascending times >= 0."""
    when = real_array("times", times, ndim=1)
    if (when < 0).any() or (np.diff(when) < 0).any():
        raise ValueError(f"times: expected ascending numbers >= 0, got {times!r}")
    return when
