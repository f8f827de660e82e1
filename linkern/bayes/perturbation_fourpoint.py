r"""Connected four-point averages of Gaussian fields, contracted: Cov(phi_m phi_n, sum_ab H_ab phi_a phi_b) for h ~ N(0, S).

Closed forms: Wick's theorem for polynomials, sums of exponentials for sin, cos and exp (as matrix products, O(n^4) work and
O(n^3) memory). For other activations an average without tilt by randomised quasi-Monte Carlo: unbiased, O(samples n^2), error
bars from independent scrambles. Its control variate replaces phi by its best affine fit, whose answer is a matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import ndtri
from scipy.stats import qmc

from linkern.activations import Activation
from linkern.activations.closed import Exponential, Polynomial, Wave

__all__ = ["REPLICAS", "Sampling", "affine", "connected", "has_closed_form"]

Array = NDArray[np.float64]

#: Independent scrambles of the quasi-random points; their spread is the standard error.
REPLICAS = 16
# Closed forms above this number of points cost more than sampling.
_LARGEST_CLOSED = 150
# Samples per batch times points: 16 MB.
_BATCH_ENTRIES = 2**21
_FIRST = 2**8


@dataclass(frozen=True)
class Sampling:
    """How hard to sample: relative standard error asked for, samples allowed in all, and the seed."""

    tolerance: float
    largest: int
    seed: int


def has_closed_form(activation: Activation, points: int) -> bool:
    """Whether the average needs no sampling."""
    form = activation.averages
    if isinstance(form, Polynomial) and len(form.coefficients) <= 2:
        return True
    return points <= _LARGEST_CLOSED and isinstance(form, (Polynomial, Wave, Exponential))


def connected(activation: Activation, S: Array, H: Array, K: Array, sampling: Sampling, layer: int) -> Array:
    """Return the (R, n, n) covariance: R = 1 from a closed form, else one estimate per scramble (their mean is the estimate).

    `K` is E[phi phi^T], which the caller has; `layer` selects the random stream.
    """
    form = activation.averages
    if not has_closed_form(activation, len(S)):
        return _sampled(activation, S, H, K, sampling, layer)
    if isinstance(form, Polynomial):
        if len(form.coefficients) <= 2:
            constant, slope = (*form.coefficients, 0.0)[:2]
            return affine(np.full(len(S), constant), np.full(len(S), slope), S, H)[None]
        return _polynomial(form, S, H)[None]
    signs = form.odd if isinstance(form, Wave) else None
    return (_exponentials(signs, S, H) - K * (H * K).sum())[None]


def affine(constant: Array, slope: Array, S: Array, H: Array) -> Array:
    """Return the answer for phi_m = constant_m + slope_m h_m."""
    G = slope[:, None] * S * slope
    GH = G @ H
    mixed = np.outer(constant, GH @ constant)
    return 2 * (GH @ G + mixed + mixed.T)


def _polynomial(form: Polynomial, S: Array, H: Array) -> Array:
    """Sum over the numbers of contractions between the four fields, those inside each field taken as means of derivatives."""
    n, degree = len(S), len(form.coefficients) - 1
    mean = [form.mean(k, S.diagonal()) for k in range(degree + 1)]
    power = [S**k / math.factorial(k) for k in range(degree + 1)]
    result = np.zeros((n, n))
    pairs = [(i, k) for i, k in product(range(degree + 1), repeat=2) if i + k <= degree]
    for m in range(n):
        # Rows of `leg` are n, columns a: i lines from m to a and k from n to a.
        leg = {(i, k): power[i][m] * power[k] for i, k in pairs}
        for (j, l), f in product(pairs, range(degree + 1)):
            if f + j + l > degree:
                continue
            right = (leg[j, l] * mean[f + j + l]) @ (power[f] * H).T
            for i, k in pairs:
                if f + i + k > degree or i + j > degree or k + l > degree or i + j + k + l == 0:
                    continue
                total = np.einsum("na,na,a->n", leg[i, k], right, mean[f + i + k])
                for e in range(degree - max(i + j, k + l) + 1):
                    result[m] += power[e][m] * total * mean[e + i + j][m] * mean[e + k + l]
    return result


def _exponentials(odd: bool | None, S: Array, H: Array) -> Array:
    """E[phi_m phi_n phi^T H phi] for exp (`odd` None), sin and cos: each product is a sum over signs of exponentials."""
    n, half = len(S), S.diagonal() / 2
    result = np.empty((n, n))
    if odd is None:
        weight = H * np.exp(S)
        for m in range(n):
            legs = np.exp(S[m] + S + half)
            result[m] = np.exp(half[m] + half + S[m]) * np.einsum("na,na->n", legs @ weight, legs)
        return result
    flip = -1 if odd else 1
    # W[t] couples a and b whose signs multiply to t; sines carry the product of all signs.
    alike, unlike = H * np.exp(-S), flip * H * np.exp(S)
    for m in range(n):
        total = np.zeros(n)
        for sign in (1, -1):
            plus, minus = (np.exp(-half - t * (S[m] + sign * S)) for t in (1, -1))
            quadratic = sum(np.einsum("na,na->n", x @ alike, x) for x in (plus, minus))
            quadratic += 2 * np.einsum("na,na->n", plus @ unlike, minus)
            total += (flip if sign < 0 else 1) * np.exp(-half[m] - half - sign * S[m]) * quadratic
        result[m] = total / 8
    return result


def _sampled(activation: Activation, S: Array, H: Array, K: Array, sampling: Sampling, layer: int) -> Array:
    """Average (phi phi^T - K)(phi^T H phi - Tr H K) minus the same of the affine fit, per scramble."""
    factor = _factor(S)
    rank = factor.shape[1]
    constant, slope = _affine_fit(activation, np.sqrt(S.diagonal()))
    G = np.outer(constant, constant) + slope[:, None] * S * slope
    known = affine(constant, slope, S, H)
    streams = np.random.default_rng([sampling.seed, layer]).spawn(REPLICAS)
    points = [qmc.Sobol(rank, scramble=True, seed=stream) for stream in streams]
    sums, count, batch = np.zeros((REPLICAS, len(S), len(S))), 0, _FIRST
    while True:
        for r in range(REPLICAS):
            for _ in range(batch // min(batch, _largest_batch(len(S)))):
                z = _normal(points[r].random(min(batch, _largest_batch(len(S)))))
                h = z @ factor.T
                sums[r] += _centred(activation.value(h), K, H) - _centred(constant + slope * h, G, H)
        count += batch
        estimates = known + sums / count
        mean = estimates.mean(axis=0)
        error = linalg.norm(estimates.std(axis=0, ddof=1)) / math.sqrt(REPLICAS)
        if error <= sampling.tolerance * linalg.norm(mean) or 2 * count * REPLICAS > sampling.largest:
            return estimates
        # A power of two in all keeps the points balanced.
        batch = count


def _centred(phi: NDArray[np.floating], mean: Array, H: Array) -> Array:
    """Sum over samples of (phi phi^T - mean)(phi^T H phi - Tr H mean)."""
    q = np.einsum("sa,sa->s", phi @ H, phi) - (H * mean).sum()
    return (phi * q[:, None]).T @ phi - mean * q.sum()


def _normal(uniform: Array) -> Array:
    # A scrambled point may be exactly 0, where the normal quantile is infinite.
    return ndtri(np.clip(uniform, 2.0**-40, 1 - 2.0**-40))


def _largest_batch(points: int) -> int:
    return max(_FIRST, 2 ** int(math.log2(_BATCH_ENTRIES / points)))


def _factor(S: Array) -> Array:
    """S = factor factor^T, directions of largest variance first, where quasi-random points are most even."""
    eigenvalues, vectors = linalg.eigh(S)
    kept = eigenvalues > eigenvalues[-1] * len(S) * np.finfo(np.float64).eps
    if not kept.any():
        kept[-1] = True
    return (vectors[:, kept] * np.sqrt(np.maximum(eigenvalues[kept], 0.0)))[:, ::-1]


def _affine_fit(activation: Activation, deviation: Array) -> tuple[Array, Array]:
    """Mean and regression slope of phi(h) on h, by a rule whose error costs variance, never bias."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    values = activation.value(deviation[:, None] * nodes)
    slope = (values * nodes) @ weights
    return values @ weights, np.divide(slope, deviation, out=np.zeros_like(slope), where=deviation > 0)
