r"""Directions in up to three dimensions, for integrands that are smooth between hyperplanes through the origin.

The hyperplanes cut space into cones. A cone spanned by unit rays is covered by the flat simplex p between them,

    int d eps f(eps) = int dp |det rays| int_0^inf dt t^(r-1) f(t p),

and the simplex by a Gauss-Legendre rule.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["RADII", "RANK_TOLERANCE", "TooManyNodesError", "directions", "radial_rule"]

Floats = NDArray[np.float64]

# Eigenvalues of K below this fraction of the largest are rounding; true ones change averages by no more than this.
RANK_TOLERANCE = 1e-13
# A ray closer to a kink than this counts as on it.
_ON_KINK = 1e-12
# Radii that represent a measure of degree 1.
RADII = 24


class TooManyNodesError(ValueError):
    """The rule would need more nodes than allowed."""

    def __init__(self, needed: int, limit: int, purpose: str = "") -> None:
        super().__init__(f"nodes: expected at least {needed}{purpose}, got a limit of {limit}")
        self.needed = needed


def directions(root: Floats, order: int, limit: int) -> tuple[Floats, Floats]:
    """Points p and weights with int d eps f = sum weights int dt t^(r-1) f(t p), for f smooth between the kinks."""
    r = root.shape[1]
    cones = [np.diag(signs) for signs in product((1.0, -1.0), repeat=r)]
    lengths = np.linalg.norm(root, axis=1)
    for normal, length in zip(root, lengths, strict=True):
        if length > math.sqrt(RANK_TOLERANCE) * lengths.max():
            cones = _split(cones, normal / length)
    rays = np.stack(cones)
    needed = len(rays) * order ** (r - 1)
    if needed > limit:
        raise TooManyNodesError(needed, limit)
    barycentric, shares = _simplex_rule(r, order)
    points = np.einsum("mk,ckr->cmr", barycentric, rays).reshape(-1, r)
    return points, np.outer(np.abs(np.linalg.det(rays)), shares).ravel()


def _split(cones: list[Floats], normal: Floats) -> list[Floats]:
    """Cut simplicial cones (rows are unit rays) by a hyperplane; every cut bisects an edge that crosses it."""
    done, todo = [], list(cones)
    while todo:
        cone = todo.pop()
        side = cone @ normal
        low, high = int(side.argmin()), int(side.argmax())
        if side[low] >= -_ON_KINK or side[high] <= _ON_KINK:
            done.append(cone)
            continue
        crossing = side[high] * cone[low] - side[low] * cone[high]
        for replaced in (low, high):
            part = cone.copy()
            part[replaced] = crossing / np.linalg.norm(crossing)
            todo.append(part)
    return done


@lru_cache(maxsize=32)
def _simplex_rule(rank: int, order: int) -> tuple[Floats, Floats]:
    """Barycentric coordinates (M, rank) and weights of a collapsed Gauss-Legendre rule on the simplex."""
    x, c = np.polynomial.legendre.leggauss(order)
    x, c = (x + 1) / 2, c / 2
    points, weights = np.ones((1, 1)), np.ones(1)
    for dimension in range(1, rank):
        tail = (x[:, None, None] * points).reshape(-1, dimension)
        points = np.column_stack([np.repeat(1 - x, len(points)), tail])
        weights = np.outer(c * x ** (dimension - 1), weights).ravel()
    return points, weights


@lru_cache(maxsize=8)
def radial_rule(rank: int, count: int) -> tuple[Floats, Floats]:
    """Gauss rule for the density t^(r-1) exp(-t^2/2) on t > 0, exact for polynomials in t: Lanczos on a fine discretisation."""
    x, c = np.polynomial.legendre.leggauss(200)
    t = 7 * (x + 1)
    mass = c * t ** (rank - 1) * np.exp(-(t**2) / 2)
    basis = [np.sqrt(mass / mass.sum())]
    jacobi = np.zeros((count, count))
    for k in range(count):
        fresh = t * basis[k]
        jacobi[k, k] = basis[k] @ fresh
        # Twice is enough to keep the basis orthogonal to rounding.
        for _ in range(2):
            fresh = fresh - np.stack(basis).T @ (np.stack(basis) @ fresh)
        if k + 1 < count:
            norm = float(np.linalg.norm(fresh))
            jacobi[k, k + 1] = jacobi[k + 1, k] = norm
            basis.append(fresh / norm)
    nodes, vectors = np.linalg.eigh(jacobi)
    return nodes, vectors[0] ** 2
