r"""Averages over one layer's tilted Gaussian N(h; 0, K) exp(-phi(h)^T H phi(h) / 2) / Z, for K of rank r <= 3.

Smooth activations: the trapezoidal rule in standard coordinates, h = root eps, on those points of a lattice that count. It
converges exponentially in the number of nodes, at a rate set by how far the activation's singularities are from the real axis.

Activations of degree 1 (linear, ReLU, leaky ReLU): Q(eps) = |eps|^2 + phi^T H phi is of degree 2 and quadratic between the kinks
h_a = 0, so the radius integrates out and Gauss-Legendre rules on the cones between the kinks meet smooth integrands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from linkern.activations import Activation
from linkern.bayes.montecarlo.observables.sites import SiteEnsemble
from linkern.bayes.montecarlo.quadrature.cones import RADII, RANK_TOLERANCE, TooManyNodesError, directions, radial_rule

__all__ = ["InfiniteTiltError", "LayerAverages", "TiltedLayer", "TooManyNodesError", "averages", "site_ensemble"]

Floats = NDArray[np.float64]

LARGEST_RANK = 3
# Nodes this many nats below the highest one are left out: exp(-37) = 1e-16.
CUT = 37.0
FIRST_REACH, LARGEST_REACH, SCAN = 8.8, 2000.0, 25
# Nodes per standard deviation and order of the Gauss-Legendre rule at fineness 1.
DENSITY, ORDER = 1.5, 12
# Directions in the plane that represent a measure of degree 1.
ANGLES = 1500
_CHUNK = 2**15
# Points along the sides of a block, for every rank.
_SIDES = {1: 64, 2: 8, 3: 4}


class InfiniteTiltError(ArithmeticError):
    """The tilt exceeds what the Gaussian confines: Z is infinite."""


@dataclass(frozen=True, eq=False)
class TiltedLayer:
    """The single-site measure of one layer: covariance K = `base`, `dual` H (symmetric), and the activation."""

    base: Floats
    dual: Floats
    activation: Activation

    @cached_property
    def root(self) -> Floats:
        """(P, r) array with K = root root^T that changes smoothly with K, so that the error of a coarse rule does too."""
        values, vectors = np.linalg.eigh(self.base)
        keep = values > RANK_TOLERANCE * max(values[-1], 0.0)
        if keep.sum() > LARGEST_RANK:
            raise ValueError(
                f"X: quadrature serves at most {LARGEST_RANK} dimensions (P <= {LARGEST_RANK} points), got a kernel of rank "
                f"{keep.sum()}; a sampled solution has no such limit"
            )
        root = vectors[:, keep] * np.sqrt(values[keep])
        # Eigenvectors jump where eigenvalues cross; the polar factor against a fixed generic matrix turns them back.
        generic = np.cos(np.outer(np.arange(1, len(root) + 1), np.arange(1, root.shape[1] + 1)))
        return np.asarray(root @ linalg.polar(root.T @ generic)[0]) if root.size else root

    @property
    def rank(self) -> int:
        """r."""
        return self.root.shape[1]

    @property
    def homogeneous(self) -> bool:
        """Whether the radius can be integrated out."""
        return self.activation.degree == 1

    def slope(self, h: Floats) -> Floats:
        """phi'; for degree 1 from phi itself, as a numerical derivative would be wrong near the kink."""
        if not self.homogeneous:
            return np.asarray(self.activation.derivative(h))
        up, down = self.activation.value(np.array([1.0, -1.0]))
        return np.where(h > 0, up, -down)

    def exponent(self, standard: Floats) -> Floats:
        """Return Q = |eps|^2 + phi^T H phi at the rows of `standard`."""
        Q = np.empty(len(standard))
        for part in _chunks(len(standard)):
            eps = standard[part]
            phi = self.activation.value(eps @ self.root.T)
            Q[part] = np.einsum("si,si->s", eps, eps) + np.einsum("sa,sa->s", phi @ self.dual, phi)
        return Q


@dataclass(frozen=True, eq=False)
class LayerAverages:
    """What the saddle-point equations need of one layer.

    Attributes
    ----------
    log_partition : float
        ln Z, 0 without tilt.
    kernel : (P, P) array
        <phi phi^T>.
    message : (P, P) array
        -2 d ln Z / dK = -<g g^T> + H * <phi' phi'^T> + diag(<phi''_a (H phi)_a>), g = phi' * (H phi); NaN unless asked for.
    whitened_message : (r, r) array
        I - <eps eps^T>, which equals root^T message root by another integration by parts.
    root : (P, r) array
    """

    log_partition: float
    kernel: Floats
    message: Floats
    whitened_message: Floats
    root: Floats


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Points whose weighted averages are those of the measure; for degree 1, of functions of degree 0 and 2 only."""

    standard: Floats
    weights: Floats
    log_partition: float


def averages(layer: TiltedLayer, fineness: float, limit: int, *, message: bool = False) -> LayerAverages:
    """Integrate over the layer's measure.

    Parameters
    ----------
    layer : TiltedLayer
    fineness : float
        Density of the rule relative to the coarsest sensible one; doubling it squares the error of a smooth integrand.
    limit : int
        Largest number of nodes.
    message : bool
        Whether to form the message, which takes the activation's derivatives.

    Raises
    ------
    InfiniteTiltError
        Z is infinite.
    TooManyNodesError
        Before they are allocated.
    """
    nodes = _nodes(layer, fineness, limit)
    kernel = np.zeros_like(layer.base)
    for part in _chunks(len(nodes.weights)):
        phi = layer.activation.value(nodes.standard[part] @ layer.root.T)
        with np.errstate(over="ignore", invalid="ignore"):
            kernel += (nodes.weights[part][:, None] * phi).T @ phi
    moment = (nodes.weights[:, None] * nodes.standard).T @ nodes.standard
    derivative = _message(layer, nodes, fineness, limit) if message else np.full_like(layer.base, np.nan)
    return LayerAverages(nodes.log_partition, kernel, derivative, np.eye(layer.rank) - moment, layer.root)


def _message(layer: TiltedLayer, nodes: _Nodes, fineness: float, limit: int) -> Floats:
    phi_of, P = layer.activation, len(layer.base)
    outer, slopes = np.zeros((2, P, P))
    bend = np.zeros(P) if not layer.homogeneous else _bend_at_kinks(layer, fineness, limit)
    for part in _chunks(len(nodes.weights)):
        h, w = nodes.standard[part] @ layer.root.T, nodes.weights[part][:, None]
        slope = layer.slope(h)
        field = phi_of.value(h) @ layer.dual
        g = slope * field
        outer += (w * g).T @ g
        slopes += (w * slope).T @ slope
        if not layer.homogeneous and phi_of.second_derivative is not None:
            bend += (w * phi_of.second_derivative(h) * field).sum(axis=0)
    return slopes * layer.dual - outer + np.diag(bend)


def site_ensemble(layer: TiltedLayer, fineness: float, limit: int) -> SiteEnsemble:
    """Return nodes and weights as a population that serves averages of any smooth function, radius included."""
    nodes, count = _nodes(layer, fineness, limit), RADII
    # Kinks of other inputs lie between the nodes; in a plane it costs little to have many.
    refinement = min(ANGLES, limit // RADII) / len(nodes.weights)
    if layer.homogeneous and layer.rank == 2 and refinement > 1:
        nodes = _nodes(layer, refinement * fineness, limit)
    elif layer.homogeneous and RADII * len(nodes.weights) > limit:
        nodes, count = _nodes(layer, fineness / 1.5, limit), RADII // 2
    standard, weights = nodes.standard, nodes.weights
    if layer.homogeneous and layer.rank:
        radii, shares = radial_rule(layer.rank, count)
        standard = (standard[:, None, :] * (radii / math.sqrt(layer.rank))[:, None]).reshape(-1, layer.rank)
        weights = np.outer(weights, shares).ravel()
    return SiteEnsemble(layer.base, standard, layer.root, weights / weights.sum(), layer.activation)


def _chunks(count: int) -> Iterator[slice]:
    """Slices small enough that the temporaries of a pass stay in cache."""
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def _nodes(layer: TiltedLayer, fineness: float, limit: int) -> _Nodes:
    if layer.rank == 0:
        return _Nodes(np.zeros((1, 0)), np.ones(1), -float(layer.exponent(np.zeros((1, 0)))[0]) / 2)
    return (_cone_nodes if layer.homogeneous else _trapezoid_nodes)(layer, fineness, limit)


def _trapezoid_nodes(layer: TiltedLayer, fineness: float, limit: int) -> _Nodes:
    # Singularities of the activation come closer, in standard coordinates, as the preactivations grow.
    steps = 1 / (DENSITY * fineness * np.maximum(1.0, np.abs(layer.root).max(axis=0)))
    standard, log_weight = _lattice(layer, steps, limit)
    top = float(log_weight.max())
    weights = np.exp(log_weight - top)
    volume = float(np.log(steps / math.sqrt(2 * math.pi)).sum())
    total_weight = float(weights.sum())
    return _Nodes(standard, weights / total_weight, top + math.log(total_weight) + volume)


def _lattice(layer: TiltedLayer, steps: Floats, limit: int) -> tuple[Floats, Floats]:
    """Lattice points whose density is not negligible, and the logarithms of it.

    Strong tilts have long, thin lobes, which fill little of any box: blocks of points are added where those at hand do not end.
    """
    r = layer.rank
    local = _grid([step * np.arange(_SIDES[r]) for step in steps])
    fresh, seen = _seeds(layer, steps, limit), np.empty(0, np.int64)
    points, logs, top = [], [], -np.inf
    while fresh.size:
        seen = np.union1d(seen, fresh)
        _require(len(seen) * len(local), limit)
        standard = ((_SIDES[r] * steps * _decoded(fresh, r))[:, None, :] + local).reshape(-1, r)
        log_density = -layer.exponent(standard) / 2
        top = max(top, float(log_density.max()))
        keep = log_density >= top - CUT
        points.append(standard[keep])
        logs.append(log_density[keep])
        fresh = np.setdiff1d(_neighbours(fresh, keep.reshape(-1, *[_SIDES[r]] * r)), seen)
    standard, log_density = np.concatenate(points), np.concatenate(logs)
    keep = log_density >= top - CUT
    return standard[keep], log_density[keep]


def _seeds(layer: TiltedLayer, steps: Floats, limit: int) -> NDArray[np.int64]:
    """Blocks that a coarse scan finds to matter; separate lobes are among them."""
    grid, cell = _scan(layer)
    # The scan knows how many points the lattice will have.
    _require(math.ceil(len(grid) * np.prod(cell / steps)), limit)
    return np.unique(_encoded(np.floor(np.round(grid / steps) / _SIDES[layer.rank]).astype(np.int64)))


def _require(needed: int, limit: int) -> None:
    if needed > limit:
        raise TooManyNodesError(needed, limit)


def _encoded(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for the indices (.., r) of a block, up to +-2^20."""
    return np.asarray(((blocks + (1 << 20)) << (21 * np.arange(blocks.shape[1]))).sum(axis=1))


def _decoded(codes: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    return np.asarray((codes[:, None] >> (21 * np.arange(rank)) & ((1 << 21) - 1)) - (1 << 20))


def _neighbours(codes: NDArray[np.int64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Blocks across every face with points that are alive, (blocks, side, .., side)."""
    found = []
    for axis in range(alive.ndim - 1):
        layers = np.moveaxis(alive, axis + 1, 1).reshape(len(codes), alive.shape[1], -1)
        for end, shift in ((0, -1), (-1, 1)):
            found.append(codes[layers[:, end].any(axis=1)] + shift * (1 << 21 * axis))
    return np.concatenate(found)


def _scan(layer: TiltedLayer) -> tuple[Floats, Floats]:
    """Points of a coarse grid, in a box that grows until it holds all that matters, where the density is not negligible."""
    reach = np.full(layer.rank, FIRST_REACH)
    while True:
        grid = _grid([np.linspace(-each, each, SCAN) for each in reach])
        log_density = -layer.exponent(grid).reshape((SCAN,) * layer.rank) / 2
        lowest = log_density.max() - CUT
        faces = (np.moveaxis(log_density, axis, 0)[[0, -1]].max() for axis in range(layer.rank))
        short = np.array(list(faces)) >= lowest
        if not short.any():
            return grid[log_density.ravel() >= lowest], 2 * reach / (SCAN - 1)
        reach[short] *= 1.25
        if reach.max() > LARGEST_REACH:
            raise InfiniteTiltError


def _grid(axes: list[NDArray[Any]]) -> NDArray[Any]:
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def _cone_nodes(layer: TiltedLayer, fineness: float, limit: int) -> _Nodes:
    r = layer.rank
    points, weights = directions(layer.root, math.ceil(ORDER * fineness), limit)
    Q = layer.exponent(points)
    if Q.min() <= 0:
        raise InfiniteTiltError
    weights = weights * Q ** (-r / 2)
    Z = float(weights.sum())
    log_partition = math.log(Z / 2) + math.lgamma(r / 2) - r / 2 * math.log(math.pi)
    # Given its direction, |t p|^2 has mean r |p|^2 / Q: at that radius averages of degree 2 are right, those of degree 0 anyway.
    return _Nodes(points * np.sqrt(r / Q)[:, None], weights / Z, log_partition)


def _bend_at_kinks(layer: TiltedLayer, fineness: float, limit: int) -> Floats:
    """<phi''_a (H phi)_a> for phi'' = jump * delta: an integral over the hyperplane h_a = 0, again made of cones."""
    P, r = layer.root.shape
    phi = layer.activation.value
    jump = float(np.sum(phi(np.array([1.0, -1.0]))))
    bend = np.zeros(P)
    if jump == 0 or r < 2:
        return bend
    order = math.ceil(ORDER * fineness)
    points, weights = directions(layer.root, order, limit)
    Z = float((weights * layer.exponent(points) ** (-r / 2)).sum())
    lengths = np.linalg.norm(layer.root, axis=1)
    for a in np.flatnonzero(lengths > math.sqrt(RANK_TOLERANCE) * lengths.max()):
        plane = np.linalg.svd(layer.root[a : a + 1])[2][1:]
        points, weights = directions(layer.root @ plane.T, order, limit)
        points = points @ plane
        field = phi(points @ layer.root.T) @ layer.dual[:, a]
        bend[a] = jump * (weights * field * layer.exponent(points) ** (-r / 2)).sum() / (lengths[a] * Z)
    return bend
