r"""Averages without tilt, E[(phi phi^T - K) w(phi)] over h ~ N(0, S), that carry the series in gamma0^2.

    first order:   w = q - E q,                                                   q = phi^T H phi
    second order:  w = (q - E q)^2/8 - (r - E r)/2,                               r = phi^T R phi

By randomised quasi-Monte Carlo, unbiased, with error bars from independent scrambles; the control variate replaces phi by its
best affine fit, whose answer is a matrix product. Polynomials of few independent fields: by a Gauss-Hermite rule, exactly.

A test input adds one field h_x = E[h_x | h] + sigma_x xi. It does not act back and averages never join two test inputs, so one
xi serves them all: predictions do not depend on the batch, and at a training input they repeat the solution's own samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import ndtri
from scipy.stats import qmc

from linkern.activations import Activation

__all__ = ["REPLICAS", "Fields", "Sampling", "Weight", "affine_answer", "by_gauss_hermite", "by_sampling"]

Array = NDArray[np.float64]
Floats = NDArray[np.floating]

#: Independent scrambles of the quasi-random points; their spread is the standard error.
REPLICAS = 16
# Samples per batch times points: 16 MB.
_BATCH_ENTRIES = 2**21
_FIRST = 2**8
# Conditional variances below this share of the variance are rounding: the test input is in the span of the training inputs.
_DETERMINED = 1e-12


@dataclass(frozen=True)
class Sampling:
    """How hard to sample: relative standard error asked for, samples allowed in all, seed, and least samples per scramble."""

    tol: float
    largest: int
    seed: int
    least: int = _FIRST

    @property
    def first_batch(self) -> int:
        """The least samples per scramble as a power of two, inside what is allowed."""
        return max(_FIRST, 2 ** int(math.log2(min(self.least, self.largest / REPLICAS))))


@dataclass(frozen=True)
class Fields:
    """Gaussian fields of one layer at P training inputs and T more inputs (the training inputs themselves when absent).

    Attributes
    ----------
    S, K : (P, P) ndarray
        Covariance of h and E[phi phi^T].
    cross, cross_kernel : (T, P) ndarray or None
        The same between test and training inputs.
    own, own_kernel : (T,) ndarray or None
        The same of every test input with itself.
    """

    S: Array
    K: Array
    cross: Array | None = None
    own: Array | None = None
    cross_kernel: Array | None = None
    own_kernel: Array | None = None

    def rows(self) -> tuple[Array, Array]:
        """Return covariances of the rows with the training inputs and with themselves."""
        if self.cross is None or self.own is None:
            return self.S, self.S.diagonal()
        return self.cross, self.own

    def means(self) -> Array:
        """Return E[phi_x phi_n] and, as last column, E[phi_x^2] of the rows: (T, P + 1)."""
        if self.cross_kernel is None or self.own_kernel is None:
            return np.column_stack([self.K, self.K.diagonal()])
        return np.column_stack([self.cross_kernel, self.own_kernel])


@dataclass(frozen=True)
class Weight:
    """w(phi): the connected part of phi^T H phi, or with `second` the weight of second order (H its first order).

    `second` is (P, P), or (R, P, P) with one matrix for every scramble.
    """

    H: Array
    second: Array | None = None

    def replica(self, r: int) -> Weight:
        """Return the weight that scramble r uses."""
        return self if self.second is None or self.second.ndim == 2 else Weight(self.H, self.second[r])

    def at(self, phi: Floats, K: Array) -> Array:
        """Return w at (samples, P) values whose second moments are K."""
        q = _connected(phi, self.H, K)
        return q if self.second is None else q * q / 8 - _connected(phi, self.second, K) / 2


def _connected(phi: Floats, H: Array, K: Array) -> Array:
    return np.asarray(np.einsum("sa,sa->s", phi @ H, phi) - (H * K).sum())


def affine_answer(weight: Weight, fit: tuple[Array, Array], row_fit: tuple[Array, Array], fields: Fields) -> Array:
    """Return the average for phi_m = constant_m + slope_m h_m: (T, P + 1), the last column the row's input with itself.

    Gaussian cumulants of quadratic forms with Q = H, G the covariance and c the mean of phi: 2 (G Q G + c (G Q c)^T + ...) and
    8 (G Q G Q G + c (G Q G Q c)^T + ... + (G Q c)(G Q c)^T).
    """
    (constant, slope), (row_constant, row_slope) = fit, row_fit
    cross, own = fields.rows()
    G, g = slope[:, None] * fields.S * slope, row_slope[:, None] * cross * slope

    def second_cumulant(Q: Array) -> Array:
        left, u, u_row = g @ Q, G @ (Q @ constant), g @ (Q @ constant)
        pairs = left @ G + np.outer(row_constant, u) + np.outer(u_row, constant)
        return 2 * np.column_stack([pairs, np.einsum("xa,xa->x", left, g) + 2 * row_constant * u_row])

    if weight.second is None:
        return second_cumulant(weight.H)
    Q, left = weight.H, g @ weight.H @ G @ weight.H
    u, u_row = G @ (Q @ constant), g @ (Q @ constant)
    v, v_row = G @ (Q @ u), g @ (Q @ u)
    pairs = left @ G + np.outer(row_constant, v) + np.outer(v_row, constant) + np.outer(u_row, u)
    own_pair = np.einsum("xa,xa->x", left, g) + 2 * row_constant * v_row + u_row**2
    return np.column_stack([pairs, own_pair]) - second_cumulant(weight.second) / 2


def by_sampling(
    activation: Activation, fields: Fields, weight: Weight, sampling: Sampling, layer: int, count: int | None = None
) -> tuple[Array, int]:
    """Return the average for every scramble, (R, T, P + 1), and the number of samples per scramble.

    With `count` that many are taken; without, as many as the relative standard error asked for needs. `layer` selects the
    random stream. Work O(samples (P^2 + T P)), memory O(R T P) plus 100 MB.
    """
    cross, own = fields.rows()
    means, alone = fields.means(), fields.cross is None
    fit = _affine_fit(activation, np.sqrt(fields.S.diagonal()))
    row_fit = fit if alone else _affine_fit(activation, np.sqrt(own))
    factor, row_factor, sigma = _factors(fields.S, cross, own)
    # Coefficients of the affine fits in (1, z, xi).
    line = np.column_stack([fit[0], fit[1][:, None] * factor, np.zeros(len(factor))])
    row_line = np.column_stack([row_fit[0], row_fit[1][:, None] * row_factor, row_fit[1] * sigma])
    line_means = _pairs(row_line, np.eye(line.shape[1]), line)
    weights = [weight.replica(r) for r in range(REPLICAS)]
    known = np.stack([affine_answer(each, fit, row_fit, fields) for each in weights])
    streams = np.random.default_rng([sampling.seed, layer]).spawn(REPLICAS)
    # The last dimension is xi: there even when nothing reads it, so that all runs share the others.
    points = [qmc.Sobol(factor.shape[1] + 1, scramble=True, seed=stream) for stream in streams]
    sums, done, batch = np.zeros_like(known), 0, sampling.first_batch
    while True:
        for r, size in _batches(batch, max(len(own), len(fields.S))):
            z = _normal(points[r].random(size))
            phi = activation.value(z[:, :-1] @ factor.T)
            rows = phi if alone else activation.value(z[:, :-1] @ row_factor.T + z[:, -1:] * sigma)
            w = weights[r].at(phi, fields.K)
            sums[r] += np.column_stack([rows.T @ (phi * w[:, None]), w @ rows**2]) - means * w.sum()
            z = np.column_stack([np.ones(size), z])
            w = weights[r].at(z @ line.T, line[:, :-1] @ line[:, :-1].T)
            sums[r] -= _pairs(row_line, z.T @ (z * w[:, None]), line) - line_means * w.sum()
        done += batch
        estimates = known + sums / done
        if count is None:
            enough = _precise(estimates[:, :, :-1], sampling.tol) or 2 * done * REPLICAS > sampling.largest
        else:
            enough = done >= count
        if enough:
            return estimates, done
        # A power of two in all keeps the points balanced.
        batch = done


def _pairs(rows: Array, moments: Array, columns: Array) -> Array:
    """Return rows M columns^T and, as last column, the diagonal of rows M rows^T."""
    left = rows @ moments
    return np.column_stack([left @ columns.T, np.einsum("xk,xk->x", left, rows)])


def by_gauss_hermite(activation: Activation, fields: Fields, weight: Weight, degree: int) -> Array:
    """Return the average (1, T, P) for a polynomial of the given degree, exactly; without the inputs' averages with themselves.

    Work O((3 degree + 1)^rank (P^2 + T P degree)).
    """
    cross, own = fields.rows()
    factor, row_factor, sigma = _factors(fields.S, cross, own)
    shape = (3 * degree + 1,) * factor.shape[1]
    nodes, masses = _hermite(shape[0])
    inner_nodes, inner_masses = _hermite(degree // 2 + 1)
    total, size = math.prod(shape), max(_FIRST, _BATCH_ENTRIES // max(len(own), len(fields.S)))
    result = np.zeros((len(own), len(fields.S)))
    for start in range(0, total, size):
        index = np.unravel_index(np.arange(start, min(start + size, total)), shape)
        z, mass = nodes[np.stack(index, axis=1)], np.prod([masses[i] for i in index], axis=0)
        phi = activation.value(z @ factor.T)
        centre, w = z @ row_factor.T, weight.at(phi, fields.K) * mass
        row_phi = sum(p * activation.value(centre + x * sigma) for x, p in zip(inner_nodes, inner_masses, strict=True))
        result += (row_phi * w[:, None]).T @ phi - fields.means()[:, :-1] * w.sum()
    return result[None]


def _precise(estimates: Array, tol: float) -> bool:
    error = linalg.norm(estimates.std(axis=0, ddof=1)) / math.sqrt(REPLICAS)
    return bool(error <= tol * linalg.norm(estimates.mean(axis=0)))


def _batches(samples: int, points: int) -> Iterator[tuple[int, int]]:
    size = min(samples, max(_FIRST, 2 ** int(math.log2(_BATCH_ENTRIES / points))))
    return ((r, size) for r in range(REPLICAS) for _ in range(samples // size))


def _normal(uniform: Array) -> Array:
    # A scrambled point may be exactly 0, where the normal quantile is infinite.
    return np.asarray(ndtri(np.clip(uniform, 2.0**-40, 1 - 2.0**-40)))


def _hermite(nodes: int) -> tuple[Array, Array]:
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return x, w / w.sum()


def _factors(S: Array, cross: Array, own: Array) -> tuple[Array, Array, Array]:
    """Return factors of h = factor z and h_x = row_factor z + sigma_x xi.

    Directions of largest variance come first, where quasi-random points are most even.
    """
    eigenvalues, vectors = linalg.eigh(S)
    kept = eigenvalues > eigenvalues[-1] * len(S) * np.finfo(np.float64).eps
    if not kept.any():
        kept[-1] = True
    roots, vectors = np.sqrt(np.maximum(eigenvalues[kept], 0.0))[::-1], vectors[:, kept][:, ::-1]
    row_factor = np.divide(cross @ vectors, roots, out=np.zeros((len(cross), len(roots))), where=roots > 0)
    left = own - np.einsum("xr,xr->x", row_factor, row_factor)
    return vectors * roots, row_factor, np.sqrt(np.where(left > _DETERMINED * own, left, 0.0))


def _affine_fit(activation: Activation, deviation: Array) -> tuple[Array, Array]:
    """Mean and regression slope of phi(h) on h, by a rule whose error costs variance, never bias."""
    nodes, weights = _hermite(80)
    values = activation.value(deviation[:, None] * nodes)
    slope = (values * nodes) @ weights
    return values @ weights, np.divide(slope, deviation, out=np.zeros_like(slope), where=deviation > 0)
