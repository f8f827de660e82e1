r"""Noise in the kernel of a sample that the law which it follows knows of.

Stein's identity <eps s^T> = 1 holds under every law, with the score s = -d ln p/d eps = eps + root^T g, g = phi'(h) o (H phi).
What features have of a line, phi_a ~ a_a h_a, makes noise in <phi phi^T> that is nearly that of

    a h (root F^{-1} s)^T a - a root F^{-1} root^T a,   F = <s s^T>,

symmetrised, whose average is zero. For Gaussian laws F^{-1} is the covariance of eps, and this all the noise there is. Where
tilts are weak, nearly all noise is that of

    (phi phi^T - Phi_lazy) exp(phi^T H phi/2),

whose average is zero, too: Phi_lazy belongs to the same root without a tilt. How much of both to take off is told by regression
over blocks of the sample.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.law import Law, Samples, Tilt
from linkern.numerics.threads import side_by_side

__all__ = ["excess"]

Floats = NDArray[np.float64]

# With less of the sample effective without its tilt, a few samples would decide.
_LEAST_EFFECTIVE = 0.02
# Blocks of a group, so many that regression does not fit the groups that tell errors, and samples of a block.
_LEAST_BLOCKS, _LARGEST_BLOCK = 8, 2048


class _Sums(NamedTuple):
    """Over samples of weights w, of a block or in arrays over blocks, with u = w exp(phi^T H phi/2).

    Of w phi phi^T, w h s^T, w s s^T and u phi phi^T; of w phi h and w h^2; of w, u and u^2.
    """

    second: Floats
    product: Floats
    fisher: Floats
    untilted: Floats
    slope: Floats
    squares: Floats
    n: Floats
    u: Floats
    uu: Floats


def excess(law: Law, eps: Samples, weights: Floats, root: Floats, tilt: Tilt, lazy: Floats, groups: int) -> Floats:
    """What <phi phi^T> has too much in every group of weighted samples of this root and tilt, (groups, P, P).

    Groups stand together. `lazy` is <phi phi^T> without the tilt. Not for laws whose radius is integrated out. Cost: some five
    products S P^2.
    """
    size = len(eps) // groups
    count = max(_LEAST_BLOCKS, math.ceil(size / _LARGEST_BLOCK))
    weights = weights / weights.mean()

    def summed(index: int) -> list[_Sums]:
        parts = np.array_split(np.arange(index * size, (index + 1) * size), count)
        return [_sums(law, eps[part], weights[part], root, tilt) for part in parts]

    parts = list(chain.from_iterable(side_by_side(lambda some: [summed(k) for k in range(some.start, some.stop)], groups)))
    sums = _Sums(*(np.array(each) for each in zip(*chain.from_iterable(parts), strict=True)))
    n, u = sums.n[:, None, None], sums.u[:, None, None]
    squares = sums.squares.sum(axis=0)
    line = np.divide(sums.slope.sum(axis=0), squares, out=np.zeros(len(root)), where=squares > 0)
    natural = np.linalg.solve(sums.fisher.sum(axis=0) / len(eps), root.T)
    stein = sums.product @ natural - n * (root @ natural)
    controls = [np.outer(line, line) * (stein + stein.swapaxes(1, 2)) / 2]
    if u.sum() ** 2 > _LEAST_EFFECTIVE * len(eps) * sums.uu.sum():
        controls.append(sums.untilted - u * lazy)
    shares = _regression(sums.second, controls, n / len(eps))
    noise = np.tensordot(shares, np.array(controls), axes=1)
    return noise.reshape(groups, -1, *lazy.shape).sum(axis=1) / size


def _sums(law: Law, eps: Samples, w: Floats, root: Floats, tilt: Tilt) -> _Sums:
    single = root.astype(eps.dtype)
    h = eps @ single.T
    phi = law.activation.value(h)
    Hphi = tilt.apply(phi)
    score = eps + (law.activation.derivative(h) * Hphi) @ single
    # What overflows is not effective.
    with np.errstate(over="ignore", invalid="ignore"):
        u = w * np.exp(np.einsum("sa,sa->s", phi, Hphi, dtype=np.float64) / 2)
        pairs = (w, phi, phi), (w, h, score), (w, score, score), (u, phi, phi)
        products = [np.asarray((a[:, None].astype(b.dtype) * b).T @ c, dtype=np.float64) for a, b, c in pairs]
    lines = (w @ (h * other) for other in (phi, h))
    return _Sums(*products, *lines, *(np.asarray(total) for total in (w.sum(), u.sum(), u @ u)))


def _regression(values: Floats, controls: list[Floats], masses: Floats) -> Floats:
    """Coefficients of the regression of blocks' values (n, P, P) on controls."""
    spreads = np.stack([(part - masses * part.sum(axis=0)).ravel() for part in controls])
    return np.linalg.lstsq(spreads @ spreads.T, spreads @ (values - masses * values.sum(axis=0)).ravel())[0]
