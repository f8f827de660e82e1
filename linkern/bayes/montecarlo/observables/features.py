r"""What a sampled solution says about features: kernels against labels, and the law of single preactivations.

The density of one preactivation t = h_* needs no bandwidth. Under the untilted Gaussian h = q t/K_** + (a part independent of t),
q the covariance of h with t and K_** the variance of t, so that given that part

    p(t | part) is proportional to exp(-t^2/(2 K_**) - phi(h)^T hatPhi phi(h)/2),     h = part + q t/K_**,

a function of one variable, normalised on a grid. Its average over the population (Rao-Blackwell) is the density: exact for one
training input, as smooth as the law itself, and the same formula for training inputs and new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks
from linkern.bayes.montecarlo.observables.estimate import Estimate, over_sections
from linkern.bayes.montecarlo.observables.predict import Extension, NewInputs
from linkern.bayes.montecarlo.observables.sites import SaddleSample, SiteEnsemble

__all__ = ["Density", "alignment", "overlaps", "preactivation_density", "sample_preactivations"]

Floats = NDArray[np.float64]

# Entries (samples x grid points x training inputs) worked on at a time: they stay in cache.
_BLOCK = 2**17
# Sites with less than this of the largest weight do not decide how far a grid reaches.
_NEGLIGIBLE = 1e-12
_MARGIN = 1.25


def alignment(sample: SaddleSample, sections: Sequence[SaddleSample], Y: ArrayLike) -> Estimate:
    """Return the kernel-target alignment Tr(Y^T Phi^l Y) / (|Phi^l|_F |Y^T Y|_F) of layers l = 0..L, labels (P,) or (P, O)."""
    labels = _labels(sample, Y)
    scale = float(np.linalg.norm(labels.T @ labels))
    if scale == 0:
        raise ValueError("Y: expected labels that are not all zero")

    def aligned(s: SaddleSample) -> Floats:
        norms = np.linalg.norm(s.kernels, axis=(1, 2)) * scale
        along = _quadratic(s, labels)
        return np.divide(along, norms, out=np.zeros_like(along), where=norms > 0)

    return over_sections(aligned, sample, sections)


def overlaps(sample: SaddleSample, sections: Sequence[SaddleSample], Y: ArrayLike) -> Estimate:
    """Return Tr(Y^T Phi^l Y)/P of layers l = 0..L, labels (P,) or (P, O)."""
    labels = _labels(sample, Y)
    return over_sections(lambda s: _quadratic(s, labels) / len(labels), sample, sections)


def _labels(sample: SaddleSample, Y: ArrayLike) -> Floats:
    labels = checks.real_array("Y", Y, ndim=(1, 2))
    P = sample.kernels.shape[1]
    if len(labels) != P:
        raise ValueError(f"Y: expected {P} rows, one per training input, got shape {labels.shape}")
    return labels.reshape(P, -1)


def _quadratic(sample: SaddleSample, Y: Floats) -> Floats:
    return np.einsum("po,lpq,qo->l", Y, sample.kernels, Y, optimize=True)


@dataclass(frozen=True, eq=False)
class Density:
    """Densities of single preactivations on grids.

    Attributes
    ----------
    points : (M, T) array
        Of equal spacing per row, symmetric about 0.
    density : Estimate, (M, T)
    """

    points: Floats
    density: Estimate


def preactivation_density(
    sample: SaddleSample,
    sections: Sequence[SaddleSample],
    new: NewInputs,
    prior_variances: ArrayLike,
    *,
    layer: int,
    points: int = 201,
    particles: int = 4096,
    rng: int | np.random.Generator | None = None,
) -> Density:
    """Return the density of the preactivations h^layer at each of M inputs, new ones or (with their own rows of X) training ones.

    Parameters
    ----------
    sample, sections, new, prior_variances
        As for `predict`.
    layer : int
        1..L.
    points : int
        T >= 16 grid points, from minus to plus 1.25 times the largest |h| of the population.
    particles : int
        Members of the population to average over, at most: a larger population (a quadrature rule, too) is sampled by weight, a
        smaller one repeated, each time with another draw of what training preactivations leave open.
    rng
        For these choices and draws; without either, as for training inputs and small populations, nothing is random.

    Notes
    -----
    Cost: per input 2 `particles` T P evaluations of phi and, inside the network, P times as many multiplications; memory: the
    result. Each density integrates to 1 by the trapezoidal rule on its grid.
    """
    index = _layer_index(layer, sample)
    points, particles = checks.integer_at_least("points", points, 16), checks.integer_at_least("particles", particles)
    generator = checks.random_generator(rng)
    whole = _Line.of(sample, new, prior_variances, index, particles, generator)
    grids = whole.reach[:, None] * np.linspace(-1.0, 1.0, points)
    # Parts keep their share of the members, so that their spread shows the error of the members averaged over.
    share = max(1, particles // max(1, len(sections)))

    def density(s: SaddleSample) -> Floats:
        line = whole if s is sample else _Line.of(s, new, prior_variances, index, share, generator)
        return line.density(grids)

    return Density(grids, over_sections(density, sample, sections))


def sample_preactivations(sample: SaddleSample, layer: int, size: int, *, rng: int | np.random.Generator | None = None) -> Floats:
    """Return (size, P) preactivations h^layer at the training inputs, drawn (with replacement) from the population.

    Rows are what neurons of a wide network look like: independent draws from the single-site law.
    """
    site = sample.sites[_layer_index(layer, sample)]
    size = checks.integer_at_least("size", size)
    rows = checks.random_generator(rng).choice(len(site.weights), size=size, p=site.weights)
    return np.asarray(site.standard(rows) @ site.root.T, dtype=np.float64)


def _members(weights: Floats, count: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], Floats]:
    """Return at most `count` members and their weights: all of a small population, repeated, or draws from a large one."""
    repeats = count // len(weights)
    if repeats:
        return np.tile(np.arange(len(weights)), repeats), np.tile(weights / repeats, repeats)
    return rng.choice(len(weights), size=count, p=weights), np.full(count, 1 / count)


def _layer_index(layer: int, sample: SaddleSample) -> int:
    layer = checks.integer_at_least("layer", layer)
    if layer > len(sample.sites):
        raise ValueError(f"layer: expected a hidden layer 1..{len(sample.sites)}, got {layer}")
    return layer - 1


@dataclass(frozen=True, eq=False)
class _Line:
    """Members of one population, each with a line through it on which one preactivation t varies.

    `h` (S, P) and `weights` (S,) are the members, `t` (S, M) their preactivations at the inputs asked for, `along` (P, M) dh/dt,
    `variance` (M,) that of t without tilt; the tilt phi^T hatPhi phi = sum_k signs_k (phi . factor_k)^2.
    """

    site: SiteEnsemble
    h: Floats
    weights: Floats
    t: Floats
    along: Floats
    variance: Floats
    factor: Floats
    signs: Floats

    @classmethod
    def of(
        cls,
        sample: SaddleSample,
        new: NewInputs,
        prior_variances: ArrayLike,
        index: int,
        particles: int,
        rng: np.random.Generator,
    ) -> _Line:
        site = sample.sites[index]
        extension = Extension.of(sample, new, prior_variances)
        g = checks.per_layer("prior_variances", prior_variances, len(sample.sites) + 1, "g_1 ... g_L and g_w")[index]
        b, unexplained = extension.coefficients[index], g * extension.unexplained[index]
        members, weights = _members(site.weights, particles, rng)
        h = np.asarray(site.standard(members) @ site.root.T, dtype=np.float64)
        t = h @ b + np.sqrt(unexplained) * rng.standard_normal((len(h), len(unexplained)))
        covariance = site.base @ b
        variance = np.einsum("pm,pm->m", b, covariance) + unexplained
        values, vectors = np.linalg.eigh(sample.dual_kernels[index])
        size = np.abs(values)
        kept = size > len(values) * np.finfo(np.float64).eps * size.max()
        factor = vectors[:, kept] * np.sqrt(size[kept])
        along = np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 0)
        return cls(site, h, weights, t, along, variance, factor, np.sign(values[kept]))

    @property
    def reach(self) -> Floats:
        """(M,) half-widths of grids that hold the population."""
        seen = self.weights > _NEGLIGIBLE * self.weights.max()
        largest = np.abs(self.t[seen]).max(axis=0)
        if not (largest > 0).all():
            raise ValueError("X_new: expected inputs whose preactivation varies, got one of zero variance (a zero input?)")
        return _MARGIN * largest

    def density(self, grids: Floats) -> Floats:
        """(M, T) densities."""
        return np.stack([self._one(m, grid) for m, grid in enumerate(grids)])

    def _one(self, m: int, grid: Floats) -> Floats:
        spacing = grid[1] - grid[0]
        total = np.zeros(len(grid))
        height = max(1, _BLOCK // (len(grid) * self.h.shape[1]))
        for start in range(0, len(self.h), height):
            rows = slice(start, start + height)
            part = self.h[rows] - self.t[rows, m, None] * self.along[:, m]
            phi = self.site.activation.value(part[:, None, :] + grid[:, None] * self.along[:, m])
            log_p = -(np.square(phi @ self.factor) @ self.signs + grid**2 / self.variance[m]) / 2
            p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
            p /= np.trapezoid(p, dx=spacing, axis=1)[:, None]
            total += self.weights[rows] @ p
        return total
