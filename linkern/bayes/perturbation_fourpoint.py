r"""Connected four-point averages of Gaussian fields, contracted: Cov(phi_x phi_n, sum_ab H_ab phi_a phi_b) for h ~ N(0, S).

The inputs n, a, b are training inputs; x is one too or a test input, and n may be x itself. Closed forms: Wick's theorem for
polynomials, sums of exponentials for sin, cos and exp, O(P^3) work for every x. Other activations: `perturbation_sampling`.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation
from linkern.activations.closed import Exponential, Polynomial, Wave
from linkern.bayes.perturbation_sampling import Fields, Sampling, Weight, affine_answer, by_sampling

__all__ = ["connected", "has_closed_form"]

Array = NDArray[np.float64]

# Closed forms above this number of points cost more than sampling.
_LARGEST_CLOSED = 150


def has_closed_form(activation: Activation, points: int) -> bool:
    """Whether the average needs no sampling."""
    form = activation.averages
    if isinstance(form, Polynomial) and len(form.coefficients) <= 2:
        return True
    return points <= _LARGEST_CLOSED and isinstance(form, (Polynomial, Wave, Exponential))


def connected(
    activation: Activation, fields: Fields, H: Array, sampling: Sampling, layer: int, count: int | None = None
) -> tuple[Array, int]:
    """Return the (R, T, P + 1) covariance, last column x with itself, and the samples taken per scramble (0: closed form).

    R = 1 for a closed form, else one estimate per scramble (their mean is the estimate). `count` and `layer` as for sampling.
    """
    form = activation.averages
    if not has_closed_form(activation, len(fields.S)):
        return by_sampling(activation, fields, Weight(H), sampling, layer, count)
    rows, own = fields.rows()
    if isinstance(form, Polynomial) and len(form.coefficients) <= 2:
        constant, slope = (*form.coefficients, 0.0)[:2]
        fit, row_fit = ((np.full(n, constant), np.full(n, slope)) for n in (len(fields.S), len(own)))
        return affine_answer(Weight(H), fit, row_fit, fields)[None], 0
    result = np.empty((len(own), len(fields.S) + 1))
    for x, (row, variance) in enumerate(zip(rows, own, strict=True)):
        # x itself is one more candidate for n.
        lines = np.vstack([fields.S, row])
        variances = np.append(fields.S.diagonal(), variance)
        if isinstance(form, Polynomial):
            result[x] = _polynomial(form, lines, variances, fields.S.diagonal(), H)
        else:
            signs = form.odd if isinstance(form, Wave) else None
            result[x] = _exponentials(signs, lines, variances, fields.S, H)
    if not isinstance(form, Polynomial):
        result -= fields.means() * (fields.K * H).sum()
    return result[None], 0


def _polynomial(form: Polynomial, lines: Array, variances: Array, below: Array, H: Array) -> Array:
    """Sum over the numbers of contractions between the four fields, those inside each field taken as means of derivatives.

    Rows of `lines` are n, columns a; x is the last row, and `below` holds the variances of a.
    """
    S = lines[:-1]
    degree, from_x = len(form.coefficients) - 1, np.append(lines[-1], variances[-1])
    mean_n = [form.mean(k, variances) for k in range(degree + 1)]
    mean = [form.mean(k, below) for k in range(degree + 1)]
    pairs = [(i, k) for i, k in product(range(degree + 1), repeat=2) if i + k <= degree]
    # Legs: i lines from x to a and k from n to a.
    leg = {(i, k): lines[-1] ** i / math.factorial(i) * lines**k / math.factorial(k) for i, k in pairs}
    inner = [S**f / math.factorial(f) * H for f in range(degree + 1)]
    between = [from_x**e / math.factorial(e) for e in range(degree + 1)]
    result = np.zeros(len(lines))
    for (j, l), f in product(pairs, range(degree + 1)):
        if f + j + l > degree:
            continue
        right = (leg[j, l] * mean[f + j + l]) @ inner[f].T
        for i, k in pairs:
            if f + i + k > degree or i + j > degree or k + l > degree or i + j + k + l == 0:
                continue
            total = np.einsum("na,na,a->n", leg[i, k], right, mean[f + i + k])
            for e in range(degree - max(i + j, k + l) + 1):
                result += between[e] * total * mean_n[e + i + j][-1] * mean_n[e + k + l]
    return result


def _exponentials(odd: bool | None, lines: Array, variances: Array, S: Array, H: Array) -> Array:
    """E[phi_x phi_n phi^T H phi] for exp (`odd` None), sin and cos: each product is a sum over signs of exponentials."""
    half, half_n, from_x = S.diagonal() / 2, variances / 2, np.append(lines[-1], variances[-1])
    if odd is None:
        legs = np.exp(lines[-1] + lines + half)
        return np.exp(half_n[-1] + half_n + from_x) * np.einsum("na,na->n", legs @ (H * np.exp(S)), legs)
    flip = -1 if odd else 1
    # W[t] couples a and b whose signs multiply to t; sines carry the product of all signs.
    alike, unlike = H * np.exp(-S), flip * H * np.exp(S)
    total = np.zeros(len(lines))
    for sign in (1, -1):
        plus, minus = (np.exp(-half - t * (lines[-1] + sign * lines)) for t in (1, -1))
        quadratic = sum(np.einsum("na,na->n", e @ alike, e) for e in (plus, minus))
        quadratic = quadratic + 2 * np.einsum("na,na->n", plus @ unlike, minus)
        total += (flip if sign < 0 else 1) * np.exp(-half_n[-1] - half_n - sign * from_x) * quadratic
    return total / 8
