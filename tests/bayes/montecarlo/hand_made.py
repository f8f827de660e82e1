"""Solutions built by hand: populations whose law is known without solving anything."""

from __future__ import annotations

import numpy as np

from linkern import activations
from linkern.bayes.montecarlo.observables.sites import SaddleSample, SiteEnsemble


def root_of(base):
    values, vectors = np.linalg.eigh(base)
    kept = values > 1e-12 * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def lazy(C, Y, noise, *, activation, beta, variances=None):
    """Untilted populations: `noise` holds standard normal arrays (S, r_l); kernels are those of the population itself."""
    phi = activations.get(activation)
    g = np.ones(len(noise) + 1) if variances is None else np.asarray(variances, float)
    kernels, sites = [C], []
    for variance, eps in zip(g[:-1], noise, strict=True):
        base = variance * kernels[-1]
        root = root_of(base)
        site = SiteEnsemble(base, eps[:, : root.shape[1]], root, np.full(len(eps), 1 / len(eps)), phi)
        kernels.append(site.features.T @ site.features / len(eps))
        sites.append(site)
    V = np.linalg.solve(g[-1] * kernels[-1] + np.eye(len(C)) / beta, Y.reshape(len(C), -1))
    return SaddleSample(np.stack(kernels), np.zeros((len(noise), *C.shape)), V, tuple(sites))


def lazy_in_sections(C, Y, *, size, sections, depth, rng, **problem):
    """A pooled lazy solution and those of its disjoint parts."""
    noise = [rng.standard_normal((size, len(C))) for _ in range(depth)]
    parts = [lazy(C, Y, [n[k::sections] for n in noise], **problem) for k in range(sections)]
    return lazy(C, Y, noise, **problem), tuple(parts)


def deep_linear(solution, draw):
    """Populations of a deep linear solution; `draw(l, r)` returns standard coordinates and weights of the untilted law."""
    kernels = np.stack([np.asarray(K) for K in solution.kernels])
    duals = np.stack([np.asarray(H) for H in solution.dual_kernels])
    sites = []
    for l, (base, H) in enumerate(zip(kernels, duals, strict=False)):
        root = root_of(base)
        precision = np.eye(root.shape[1]) + root.T @ H @ root
        z, weights = draw(l, root.shape[1])
        standard = z @ np.linalg.inv(np.linalg.cholesky(precision))
        sites.append(SiteEnsemble(base, standard, root, weights, activations.get("linear")))
    V = solution.dual_coefficients.reshape(len(kernels[0]), -1)
    return SaddleSample(kernels, duals, V, tuple(sites))


def cubature(_, r):
    """2 r points with the second moments of a standard normal exactly."""
    return np.sqrt(r) * np.concatenate([np.eye(r), -np.eye(r)]), np.full(2 * r, 1 / (2 * r))


def hermite(count, dimension):
    """Tensor Gauss-Hermite nodes (count^dimension, dimension) and weights of a standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(count)
    grids = np.meshgrid(*[z] * dimension, indexing="ij")
    weights = np.ones(1)
    for _ in range(dimension):
        weights = np.outer(weights, w / w.sum()).ravel()
    return np.stack([grid.ravel() for grid in grids], axis=1), weights


def tilted(C, duals, V, *, activation, nodes, variances):
    """Populations on Gauss-Hermite nodes with given tilts; kernels are those of the populations."""
    phi = activations.get(activation)
    kernels, sites = [C], []
    for variance, H in zip(variances[:-1], duals, strict=True):
        base = variance * kernels[-1]
        root = root_of(base)
        standard, weights = hermite(nodes, root.shape[1])
        features = phi.value(standard @ root.T)
        weights = weights * np.exp(-np.einsum("sp,pq,sq->s", features, H, features) / 2)
        weights /= weights.sum()
        sites.append(SiteEnsemble(base, standard, root, weights, phi))
        kernels.append(features.T @ (weights[:, None] * features))
    return SaddleSample(np.stack(kernels), np.asarray(duals), V, tuple(sites))
