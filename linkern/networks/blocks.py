"""Weight updates done block by block: everything that happens to a weight happens while it sits in cache.

A weight matrix of a wide network exceeds the cache, so one update per array expression would stream it from memory
several times. Here a block of rows (or, for small matrices, of chains) gets its rank-P gradient and its whole update
at once. Measured at N = 1024 on one core: five times faster than whole-array expressions. (SciPy's BLAS axpy gains
nothing more, and its thread pool beside NumPy's slowed a step down forty-fold with two threads on two cores.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from linkern.networks.noise import standard_normal

__all__ = ["kick_and_rotate", "langevin_update", "squared_norms"]

Array = NDArray[np.floating]

_BLOCK_BYTES = 1 << 19


def kick_and_rotate(W: Array, p: Array, left: Array, right: Array, *, kick: float, angle: float) -> None:
    """In place: p <- p - kick left right^T, then rotate (W, p) by `angle` (the exact flow of (|W|^2 + |p|^2)/2).

    The rotation is a product of three shears, W += t p, p -= s W, W += t p with t = tan(angle/2), s = sin(angle): each
    has determinant 1 whatever the rounding of t and s, so the map conserves volume and (to rounding, without drift)
    energy even in float32, where rounded cosines would change 10^7 squared weights by a systematic 1e-7 each.
    """
    shear, counter_shear = math.tan(angle / 2), math.sin(angle)
    left = left * kick
    for block in _blocks(W.shape, W.itemsize):
        position, momentum = W[block], p[block]
        scratch = np.matmul(left[block], right[block[0]].swapaxes(-1, -2))
        momentum -= scratch
        if angle != 0.0:
            position += np.multiply(momentum, shear, out=scratch)
            momentum -= np.multiply(position, counter_shear, out=scratch)
            position += np.multiply(momentum, shear, out=scratch)


def langevin_update(
    rng: np.random.Generator, W: Array, left: Array, right: Array, *, decay: float, drift: float, noise: float
) -> None:
    """In place: W <- decay W - drift left right^T + noise xi, xi standard normal."""
    left = left * drift
    for block in _blocks(W.shape, W.itemsize):
        view = W[block]
        view *= decay
        scratch = np.matmul(left[block], right[block[0]].swapaxes(-1, -2))
        view -= scratch
        view += np.multiply(standard_normal(rng, scratch), noise, out=scratch)


def squared_norms(arrays: Sequence[Array]) -> NDArray[np.float64]:
    """Return |W|^2 of every array and chain, summed in float64: (chains, len(arrays))."""
    total = np.zeros((arrays[0].shape[0], len(arrays)))
    for index, W in enumerate(arrays):
        for block in _blocks(W.shape, W.itemsize):
            wide = W[block].astype(np.float64, copy=False)
            total[block[0], index] += np.einsum("cij,cij->c", wide, wide)
    return total


def _blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Yield (chains, rows) slices, each a contiguous piece of at most about _BLOCK_BYTES."""
    chains, rows, columns = shape
    entries = max(1, _BLOCK_BYTES // itemsize)
    if rows * columns <= entries:
        group = entries // (rows * columns)
        for first in range(0, chains, group):
            yield slice(first, first + group), slice(0, rows)
        return
    group = max(1, entries // columns)
    for chain in range(chains):
        for first in range(0, rows, group):
            yield slice(chain, chain + 1), slice(first, first + group)
