r"""Noise in the kernel of a sample that the law which it follows knows of.

Stein's identity <eps s^T> = 1 holds under every law, with the score s = -d ln p/d eps = eps + root^T g, g = phi'(h) o (H phi).
What features have of a line, phi_a ~ a_a h_a, makes noise in <phi phi^T> that is nearly that of

    a h (root F^{-1} s)^T a - a root F^{-1} root^T a,   F = <s s^T>,

symmetrised, whose average is zero. For Gaussian laws F^{-1} is the covariance of eps, and this all the noise there is. How much
of it to take off is told by regression over blocks of the sample.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.averages import blocks
from linkern.bayes.montecarlo.law import Law, Samples, Tilt
from linkern.numerics.threads import side_by_side

__all__ = ["excess"]

Floats = NDArray[np.float64]


class _Block(NamedTuple):
    """Sums over n samples: phi phi^T, h s^T, s s^T, phi h and h^2."""

    n: int
    second: Floats
    product: Floats
    fisher: Floats
    slope: Floats
    squares: Floats


def excess(law: Law, eps: Samples, root: Floats, tilt: Tilt, groups: int) -> Floats:
    """What <phi phi^T> has too much in every group of samples of this root and tilt, (groups, P, P); groups stand together.

    Not for laws whose radius is integrated out. Cost: some four products S P^2.
    """
    size = len(eps) // groups

    def summed(index: int) -> list[_Block]:
        first = index * size
        return [_sums(law, eps[first + rows.start : first + rows.stop], root, tilt) for rows in blocks(size)]

    parts = list(chain.from_iterable(side_by_side(lambda some: [summed(k) for k in range(some.start, some.stop)], groups)))
    every = list(chain.from_iterable(parts))
    n = np.array([block.n for block in every], dtype=float)[:, None, None]
    squares = np.sum([block.squares for block in every], axis=0)
    line = np.divide(np.sum([block.slope for block in every], axis=0), squares, out=np.zeros(len(root)), where=squares > 0)
    natural = np.linalg.solve(np.sum([block.fisher for block in every], axis=0) / len(eps), root.T)
    controls = np.array([block.product for block in every]) @ natural - n * (root @ natural)
    controls = np.outer(line, line) * (controls + controls.swapaxes(1, 2)) / 2
    share = _slope(np.array([block.second for block in every]), controls, n / len(eps))
    return share * controls.reshape(groups, -1, *controls.shape[1:]).sum(axis=1) / size


def _sums(law: Law, eps: Samples, root: Floats, tilt: Tilt) -> _Block:
    single = root.astype(eps.dtype)
    h = eps @ single.T
    phi = law.activation.value(h)
    score = eps + (law.activation.derivative(h) * tilt.apply(phi)) @ single
    second, product, fisher = (np.asarray(a.T @ b, dtype=np.float64) for a, b in ((phi, phi), (h, score), (score, score)))
    slope, squares = (np.einsum("sa,sa->a", h, other, dtype=np.float64) for other in (phi, h))
    return _Block(len(eps), second, product, fisher, slope, squares)


def _slope(values: Floats, controls: Floats, masses: Floats) -> float:
    """Coefficient of the regression of blocks' values (n, P, P) on controls."""
    spread = controls - masses * controls.sum(axis=0)
    power = float((spread**2).sum())
    return float((spread * (values - masses * values.sum(axis=0))).sum()) / power if power > 0 else 0.0
