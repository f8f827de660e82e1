"""Leading feature learning: gradient flow of deep linear networks to order gamma0^2, in closed form.

With Delta_0 = exp(-(L+1) C t) y, v = int Delta_0, V = int Delta_0 v^T and q(t, s) = v(t)^T C v(s), kernels move by multiples
of C (V + V^T) C, C v v^T C and q. In the eigenbasis everything is elementary functions of x_k = (L+1) lam_k t; they are
arranged so that neither small nor large arguments lose digits or overflow. With O outputs Delta_0 and v are P x O, products
v v^T sum over outputs, and q is an O x O matrix: y_k y_j^2 becomes (y_k . y_j) y_j in the error's correction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gamma, gammainc

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, positive
from linkern.flow.comparators import checked_times
from linkern.flow.trajectory import Trajectory, as_spectrum
from linkern.generated import flow as formulas
from linkern.solution import Status

__all__ = ["PerturbativeTrajectory", "leading_perturbation"]

Floats = NDArray[np.float64]
# Smallest argument: 1 - e^{-x} over x is exactly 1 there.
TINY = 1e-300
# Below this x_k the closed form loses more than three digits.
SLOW = 1e-3


@dataclass(frozen=True, kw_only=True)
class PerturbativeTrajectory(Trajectory):
    """Everything to order gamma0^2; `outputs` are y - Delta_0 - gamma0^2 Delta_1.

    `residual` compares Delta_1 at the last time with Duhamel's integral by Gauss-Legendre quadrature, relative to the labels.

    Attributes
    ----------
    correction : float
        gamma0^2 c_L |q(t, t)|/(L + 1) at the last time: the relative growth of the tangent kernel. Domain of validity:
        correction << 1; at 0.1 expect errors of about a percent, beyond 1 the expansion is meaningless.
    leading_errors, error_slope : (T, P) or (T, P, O) arrays
        Delta_0 and Delta_1.
    """

    correction: float
    leading_errors: Floats = field(repr=False)
    error_slope: Floats = field(repr=False)

    def loss_expansion(self) -> tuple[Floats, Floats]:
        """(T,) arrays: the loss 1/2 |Delta_0|^2 at gamma0 = 0 and its slope Delta_0 . Delta_1 in gamma0^2."""
        leading, slope = (errors.reshape(self.times.size, -1) for errors in (self.leading_errors, self.error_slope))
        return (leading**2).sum(axis=1) / 2, (leading * slope).sum(axis=1)

    def gradient_kernels(self) -> Floats:
        """G^1, .., G^{L+1} at two times: (L + 1, T, T), or (L + 1, T, O, T, O) where y has an axis of outputs."""
        v = np.stack([self._moments(time)[0] for time in self.times])
        q = np.einsum("tkc,k,skd->tcsd", v, self.spectrum.eigenvalues, v)
        own = np.einsum("tctd->tcd", q)
        memory = own[:, :, None, :] + own.transpose(1, 0, 2)[None]
        unit, strength, depth = np.eye(v.shape[2])[None, :, None, :], self.gamma0**2, float(self.depth)
        layers = np.arange(1.0, depth + 2)[:, None, None, None, None]
        change = formulas.gradient_memory(layers, depth) * memory + formulas.gradient_drive(layers, depth) * q
        G = unit + strength * change
        return G if len(self.spectrum.label_shape) == 2 else G[:, :, 0, :, 0]

    def feature_kernels(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """Phi^0, .., Phi^L between times t and s: (L + 1, P, P), or (L + 1, m, P) between new and training inputs."""
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        train = self.spectrum.to_samples(np.diag(self.spectrum.eigenvalues))
        if X_new is None and kernel_new is None:
            rows, C = train, self.spectrum.dense()
        else:
            rows = self._cross(X_new, kernel_new)
            C = self.spectrum.to_samples(rows.T).T
        (v, V), (w, W) = self._moments(self.times[t]), self._moments(self.times[s])
        # V enters between two factors C, of which one is the rows' own.
        memory = (rows @ (V + W.T)) @ train.T
        drive = (rows @ v) @ (train @ w).T
        layers = np.arange(self.depth + 1.0)[:, None, None]
        strength = self.gamma0**2
        change = formulas.feature_memory(layers, float(self.depth)) * memory + formulas.feature_drive(layers) * drive
        return np.asarray(C + strength * change)

    def tangent_kernel(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """K = sum_l G^{l+1} Phi^l to order gamma0^2 (products of corrections dropped); with an axis of outputs (m, O, P, O)."""
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        Phi = self.feature_kernels(t, s, X_new=X_new, kernel_new=kernel_new)
        G = self.gradient_kernels()
        if G.ndim == 3:
            return np.asarray(Phi.sum(axis=0) + (G[:, t, s] - 1).sum() * Phi[0])
        unit = np.eye(G.shape[2])
        excess = (G[:, t, :, s] - unit).sum(axis=0)
        return np.einsum("mp,ij->mipj", Phi.sum(axis=0), unit) + np.einsum("mp,ij->mipj", Phi[0], excess)

    def _moments(self, time: float) -> tuple[Floats, Floats]:
        """v (r, O) and V (r, r) in the eigenbasis."""
        B, rate = self.spectrum.coefficients, (self.depth + 1) * self.spectrum.eigenvalues
        x = np.maximum(rate * time, TINY)
        v = B * (time * formulas.relaxed_mean(x))[:, None]
        V = (B @ B.T) * time**2 * _lagging_mean(x[:, None], x[None, :])
        return v, V


def leading_perturbation(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    times: ArrayLike,
) -> PerturbativeTrajectory:
    """Gradient flow without weight decay to order gamma0^2, at any times.

    Parameters
    ----------
    X, y, kernel, spectrum, depth, gamma0
        As for `linkern.flow.march`.
    times : (T,) array
        Times >= 0, ascending.

    Returns
    -------
    PerturbativeTrajectory

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Cost O(T r^2 O). Modes outside the range of C do not move; small eigenvalues need no special treatment.
    """
    depth = integer_at_least("depth", depth)
    gamma0 = positive("gamma0", gamma0)
    when = checked_times(times)
    spectrum = as_spectrum(X, y, kernel, spectrum)
    lam, B = spectrum.eigenvalues, spectrum.coefficients
    rate = (depth + 1) * lam
    growth = float(formulas.tangent_growth(float(depth)))
    slope = np.stack([-growth / (depth + 1) ** 2 * _error_modes(rate, B, time) for time in when])
    leading = B * np.exp(-rate * when[:, None])[:, :, None]
    progress = B * (when[:, None] * formulas.relaxed_mean(np.maximum(rate * when[:, None], TINY)))[:, :, None]
    signal = gamma0 * (depth + 1) * progress - gamma0**3 * slope / lam[:, None]
    v = progress[-1]
    size = growth * float(np.linalg.norm((v.T * lam) @ v, 2)) / (depth + 1)
    check = -growth / (depth + 1) ** 2 * _duhamel(rate, B, float(when[-1]))
    scale = float(np.linalg.norm(B)) * size
    residual = float(np.abs(check - slope[-1]).max(initial=0.0)) / scale if scale > 0 else 0.0
    return PerturbativeTrajectory(
        parameters={"depth": depth, "gamma0": gamma0, "weight_decay": 0.0},
        residual=residual,
        status=Status.CONVERGED if residual < 1e-9 else Status.NOT_CONVERGED,
        spectrum=spectrum,
        depth=depth,
        gamma0=gamma0,
        weight_decay=0.0,
        times=when,
        signal=signal.swapaxes(1, 2),
        correction=gamma0**2 * size,
        leading_errors=_to_samples(spectrum, leading) + spectrum.labels_outside.reshape(spectrum.label_shape),
        error_slope=_to_samples(spectrum, slope),
    )


def _to_samples(spectrum: Spectrum, modes: Floats) -> Floats:
    """(T, r, O) in the eigenbasis to (T, P) or (T, P, O)."""
    return np.stack([spectrum.to_samples(columns).reshape(spectrum.label_shape) for columns in modes])


def _error_modes(rate: Floats, B: Floats, time: float) -> Floats:
    """-Delta_1 (L + 1)^2 / c_L, (r, O); the closed form cancels for modes that have hardly moved: there Duhamel's integral."""
    values, slow = _correction(rate, B, time), rate * time < SLOW
    if slow.any():
        values[slow] = _duhamel(rate, B, time)[slow]
    return values


def _correction(rate: Floats, B: Floats, time: float) -> Floats:
    """t sum_j (b_k . b_j) b_j {phi(z, x) - phi(2z, x) - e^{-x} [e(z) - e(2z)] + x e^{-x} w(z)}, x = rate_k t, z = rate_j t."""
    x = np.maximum(rate * time, TINY)[:, None]
    z = x.T
    e, e2 = formulas.relaxed_mean(z), formulas.relaxed_mean(2 * z)
    pair = _between(z, x) - _between(2 * z, x) - np.exp(-x) * (e - e2) + x * np.exp(-x) * formulas.settled_square(z)
    return np.asarray(time * ((pair * (B @ B.T)) @ B))


def _between(p: Floats, q: Floats) -> Floats:
    """(e^{-p} - e^{-q}) / (q - p), the mean of e^{-x} between p and q; no overflow, no cancellation."""
    return np.asarray(np.exp(-np.minimum(p, q)) * formulas.relaxed_mean(np.maximum(np.abs(p - q), TINY)))


def _lagging_mean(x: Floats, z: Floats) -> Floats:
    """int_0^1 e^{-x u} (1 - e^{-z u})/z du = [e(x) - e(x + z)] / z; a series in z where that cancels."""
    small = z < 1e-3
    safe = np.where(small, 1.0, z)
    direct = (formulas.relaxed_mean(x) - formulas.relaxed_mean(x + safe)) / safe
    if not small.any():
        return np.asarray(direct)
    first, second, third = (_power_mean(x, n) for n in (1, 2, 3))
    series = first - z * second / 2 + z**2 * third / 6 - z**3 * _power_mean(x, 4) / 24 + z**4 * _power_mean(x, 5) / 120
    return np.where(small, series, direct)


def _power_mean(x: Floats, n: int) -> Floats:
    """int_0^1 u^n e^{-x u} du, from the regularised incomplete gamma function or, for small x, its series."""
    near = np.minimum(x, 1.0)
    series = sum((-near) ** k / (gamma(k + 1) * (n + 1 + k)) for k in range(20))
    far = np.maximum(x, 1.0)
    return np.where(x < 1.0, series, gammainc(n + 1, far) * gamma(n + 1) / far ** (n + 1))


def _duhamel(rate: Floats, B: Floats, time: float) -> Floats:
    """The same as `_correction` by quadrature of its positive integrand, on intervals that shrink towards both ends."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    graded = 2.0 ** -np.arange(1.0, 50.0)
    edges = np.concatenate([[0.0], graded[::-1], 1 - graded[1:], [1.0]])
    half = np.diff(edges)[:, None] / 2
    u = ((edges[:-1, None] + half) + half * nodes).ravel() * time
    measure = (half * weights).ravel() * time
    decayed = np.exp(-np.outer(u, rate))
    settled = -np.expm1(-np.outer(u, rate))
    # sum_j b_j b_j^T of the two source terms, (nodes, O O).
    squares = np.einsum("jc,jd->jcd", B, B).reshape(rate.size, -1)
    driven = (settled * decayed) @ squares
    grown = (settled**2 / rate) @ squares
    relax = measure[:, None] * np.exp(-np.outer(time - u, rate))
    total = (relax * settled).T @ driven + rate[:, None] * ((relax * decayed).T @ grown)
    return np.einsum("kc,kcd->kd", B, total.reshape(rate.size, B.shape[1], -1))
