"""What the sampled solver returns: kernels with standard errors, the populations behind them, and reasons to doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.montecarlo.anneal import Rung
from linkern.bayes.montecarlo.estimate import Estimate, over_sections
from linkern.bayes.montecarlo.lobes import LobeCheck
from linkern.bayes.montecarlo.observables import Density, alignment, overlaps, preactivation_density
from linkern.bayes.montecarlo.predict import NewInputs, predict
from linkern.bayes.montecarlo.sites import SaddleSample
from linkern.solution import Solution, save_npz

__all__ = ["MonteCarloSolution"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class MonteCarloSolution(Solution):
    """The adaptive kernels of every layer, sampled.

    Attributes
    ----------
    sample : SaddleSample
        Kernels, duals, error signals and populations from all particles.
    sections : tuple of SaddleSample
        The same from G disjoint, statistically independent groups of particles; their spread gives all error bars.
    kernel_errors : (L,) array
        Standard error of Phi^1, .., Phi^L relative to the kernel, in Frobenius norm; the tolerance bounds the largest.
    effective_fraction : float
        Effective fraction of the pooled particles, smallest over layers; of networks, of the weights that carry the kernels.
    pareto_k : float
        Shape of the tail of the final weights, -inf where no single one matters; above 0.7 averages are not to be trusted.
    identity : float
        Activations of degree one: relative spread over layers of Tr(Phi^l hatPhi^l), equal by rescaling symmetry. Else nan.
    lobes : tuple of LobeCheck
        Activations of degree one: per layer, the strength of the tilt by importance sampling, which for particles is a check
        from scratch that looks for rare, strongly active neurons.
    acceptance : tuple of float
        Per layer: of particles in their last move, by strength of the tilt; of networks the mean, all layers moving at once;
        empty for independent samples.
    snapshots, particles : int
        Size of the final average: snapshots of a population of that many particles per layer, of that many neurons over all
        wide networks (of which `sample` keeps some 130 000), or one set of independent samples.
    samples_needed : int or None
        Particles x snapshots that the tolerance would take, where the budget did not allow them; None, too, if no time would do.
    reasons : tuple of str
        Why the status is not CONVERGED.
    path : tuple of Rung
        The ladder from weak to strong feature learning.

    `residual` is that of the saddle-point equations averaged over the final particles; of networks, that of their extrapolated
    error signals with the extrapolated kernel, which has the order of what the widths leave.
    """

    sample: SaddleSample = field(repr=False)
    sections: tuple[SaddleSample, ...] = field(repr=False)
    kernel_errors: Floats
    effective_fraction: float
    pareto_k: float
    identity: float
    lobes: tuple[LobeCheck, ...]
    acceptance: tuple[float, ...]
    snapshots: int
    particles: int
    samples_needed: int | None
    reasons: tuple[str, ...]
    path: tuple[Rung, ...] = field(repr=False)
    label_shape: tuple[int, ...] = field(repr=False)
    labels: Floats = field(repr=False)
    X: Floats | None = field(repr=False)

    @property
    def kernels(self) -> Floats:
        """(L + 1, P, P) array Phi^0 = C, Phi^1, .., Phi^L."""
        return self.sample.kernels

    @property
    def dual_kernels(self) -> Floats:
        """(L, P, P) array hatPhi^1, .., hatPhi^L."""
        return self.sample.dual_kernels

    @property
    def standard_error(self) -> Floats:
        """(L + 1, P, P) array, of `kernels`."""
        return self.estimate(lambda s: s.kernels).standard_error

    @property
    def dual_coefficients(self) -> Floats:
        """V = beta (Y - f), shaped like y."""
        return self.sample.coefficients.reshape(self.label_shape)

    @property
    def fitted(self) -> Floats:
        """f at the training inputs, shaped like y."""
        temperature = 1 / float(self.parameters["beta"])
        return (self.labels - temperature * self.sample.coefficients).reshape(self.label_shape)

    @property
    def effective_sample_size(self) -> Floats:
        """(L,) numbers of independent, equally weighted samples that the kernels of the layers are worth.

        Mean squared deviation of phi phi^T from its average over the squared standard error of that average.
        """
        error = np.linalg.norm(self.standard_error[1:], axis=(1, 2))
        spread = []
        for site, kernel in zip(self.sample.sites, self.kernels[1:], strict=True):
            phi = site.features
            norm = np.einsum("si,si->s", phi, phi)
            spread.append(site.weights @ norm**2 - np.sum(kernel**2))
        return np.asarray(np.asarray(spread) / error**2)

    def estimate(self, quantity: Callable[[SaddleSample], NDArray[np.float64] | float]) -> Estimate:
        """Return any function of a `SaddleSample` with its standard error."""
        return over_sections(quantity, self.sample, self.sections)

    def predict(self, X_new: ArrayLike) -> Floats:
        """Return f at (m, D) new inputs, (m,) or (m, O); `prediction` has the errors."""
        return self.prediction(X_new).value

    def prediction(self, X_new: ArrayLike) -> Estimate:
        """Return f at (m, D) new inputs with standard errors, shaped like y."""
        found = predict(self.sample, self.sections, self.inputs(X_new), self.parameters["prior_variances"])
        shape = (-1, *self.label_shape[1:])
        value, error, bias = (part.reshape(shape) for part in (found.value, found.standard_error, found.bias))
        return Estimate(value, error, bias, found.degrees)

    def density(self, X_new: ArrayLike, *, layer: int, rng: int | np.random.Generator | None = None) -> Density:
        """Return the density of the preactivation of `layer` (1..L) at each of (m, D) inputs, with error band."""
        found = self.parameters["prior_variances"]
        return preactivation_density(self.sample, self.sections, self.inputs(X_new), found, layer=layer, rng=rng)

    def save(self, path: str | Path) -> Path:
        """Write kernels, duals, error signals and their errors to an .npz file (`linkern.solution.load_npz`)."""
        V = self.estimate(lambda s: s.coefficients)
        arrays = {
            "kernels": self.kernels,
            "kernels_error": self.standard_error,
            "dual_kernels": self.dual_kernels,
            "dual_coefficients": V.value,
            "dual_coefficients_error": V.standard_error,
        }
        record = {**self.parameters, "residual": self.residual, "status": self.status.name, "reasons": list(self.reasons)}
        return save_npz(path, arrays, record)

    def alignment(self) -> Estimate:
        """Return the kernel-target alignment of every layer l = 0..L."""
        return alignment(self.sample, self.sections, self.labels)

    def overlaps(self) -> Estimate:
        """Return y^T Phi^l y/P of every layer l = 0..L."""
        return overlaps(self.sample, self.sections, self.labels)

    def inputs(self, X_new: ArrayLike) -> NewInputs:
        """What observables need to know of (m, D) inputs, training inputs included."""
        if self.X is None:
            raise ValueError("X_new: expected a solution made from inputs X, this one was made from a kernel")
        return NewInputs.of(self.X, X_new)
