"""What is read off a solution of the nonlinear saddle point, whatever found it: a `SaddleSample`, its parts, and the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.montecarlo.observables import features
from linkern.bayes.montecarlo.observables.estimate import Estimate, over_sections
from linkern.bayes.montecarlo.observables.pairs import pair_kernels
from linkern.bayes.montecarlo.observables.predict import NewInputs, new_kernels, new_variances, predict, prediction_error
from linkern.bayes.montecarlo.observables.sites import SaddleSample
from linkern.solution import Solution, save_npz

__all__ = ["SampledSolution"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledSolution(Solution):
    """The adaptive kernels of every layer, with all that averages over single neurons tell.

    Numbers that sampling leaves uncertain are `Estimate`s: a value, its standard error and `interval(level)`.

    Attributes
    ----------
    sample : SaddleSample
        Kernels, duals, error signals, and one weighted population of neurons per layer.
    sections : tuple of SaddleSample
        The same from G disjoint, statistically independent parts; their spread gives all error bars. Empty for quadrature.
    labels : (P, O) array
    label_shape : tuple of int
        Shape of y.
    X : (P, D) array or None
        None if the problem was given by its kernel: then there is nothing to compare new inputs with.
    """

    sample: SaddleSample = field(repr=False)
    sections: tuple[SaddleSample, ...] = field(repr=False, default=())
    labels: Floats = field(repr=False)
    label_shape: tuple[int, ...] = field(repr=False)
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

        Mean squared deviation of phi phi^T from its average over the squared standard error of that average; infinite for
        quadrature.
        """
        error = np.linalg.norm(self.standard_error[1:], axis=(1, 2))
        spread = np.zeros(len(error))
        for l, (site, kernel) in enumerate(zip(self.sample.sites, self.kernels[1:], strict=True)):
            phi = site.features
            norm = np.einsum("si,si->s", phi, phi)
            spread[l] = site.weights @ norm**2 - np.sum(kernel**2)
        return np.divide(spread, error**2, out=np.full(len(error), np.inf), where=error > 0)

    def estimate(self, quantity: Callable[[SaddleSample], NDArray[np.float64] | float]) -> Estimate:
        """Return any function of a `SaddleSample` with its standard error."""
        return over_sections(quantity, self.sample, self.sections)

    def alignment(self) -> Estimate:
        """Return the kernel-target alignment Tr(Y^T Phi^l Y)/(|Phi^l| |Y^T Y|) of every layer l = 0..L."""
        return features.alignment(self.sample, self.sections, self.labels)

    def overlaps(self) -> Estimate:
        """Return Tr(Y^T Phi^l Y)/P of every layer l = 0..L."""
        return features.overlaps(self.sample, self.sections, self.labels)

    def predict(self, X_new: ArrayLike) -> Floats:
        """Return f at (M, D) new inputs, (M,) or (M, O); `prediction` has the errors."""
        return self.prediction(X_new).value

    def prediction(self, X_new: ArrayLike) -> Estimate:
        """Return f at (M, D) new inputs with standard errors, shaped like y."""
        found = predict(self.sample, self.sections, self.inputs(X_new), self._variances)
        shape = (-1, *self.label_shape[1:])
        value, error, bias = (part.reshape(shape) for part in (found.value, found.standard_error, found.bias))
        return Estimate(value, error, bias, found.degrees)

    def test_error(self, X_new: ArrayLike, y_new: ArrayLike) -> Estimate:
        """Return the mean over (M, D) new inputs of |f - y_new|^2, with the standard error that sampling leaves."""
        return prediction_error(self.sample, self.sections, self.inputs(X_new), y_new, self._variances)

    def kernels_at(self, X_new: ArrayLike) -> Estimate:
        """Return Phi^0, .., Phi^L between (M, D) new and the training inputs, (L + 1, M, P)."""
        return new_kernels(self.sample, self.sections, self.inputs(X_new), self._variances)

    def variances_at(self, X_new: ArrayLike) -> Estimate:
        """Return Phi^l(x, x), l = 0..L, at (M, D) new inputs, (L + 1, M)."""
        return new_variances(self.sample, self.sections, self.inputs(X_new), self._variances)

    def kernels_among(self, X_new: ArrayLike, *, rng: int | np.random.Generator | None = None) -> Estimate:
        """Return Phi^0, .., Phi^L among (M, D) new inputs, (L + 1, M, M), positive semi-definite; see `pairs` for `rng`."""
        return pair_kernels(self.sample, self.sections, self._inputs(), X_new, self._variances, rng=rng)

    def density(
        self, X_new: ArrayLike, *, layer: int, particles: int = 4096, rng: int | np.random.Generator | None = None
    ) -> features.Density:
        """Return the density of the preactivation of `layer` (1..L) at each of (M, D) inputs, with error band.

        `particles` neurons are averaged over; more of them smooth tails that few neurons make. Errors at neighbouring points
        have one sign: an error of V moves a whole lobe. `preactivations` are neurons whose averages are the kernels.
        """
        new, g = self.inputs(X_new), self._variances
        return features.preactivation_density(
            self.sample, self.sections, new, g, layer=layer, particles=particles, rng=rng
        )  # fmt: skip

    def preactivations(self, size: int, *, layer: int, rng: int | np.random.Generator | None = None) -> Floats:
        """Draw `size` neurons of `layer` (1..L): (size, P) preactivations at the training inputs."""
        return features.sample_preactivations(self.sample, layer, size, rng=rng)

    def inputs(self, X_new: ArrayLike) -> NewInputs:
        """What observables need to know of (M, D) inputs, training inputs included."""
        return NewInputs.of(self._inputs(), X_new)

    def save(self, path: str | Path) -> Path:
        """Write kernels, duals, error signals and their errors to an .npz file (`linkern.solution.load_npz`)."""
        V = self.estimate(lambda s: s.coefficients)
        arrays = {
            "kernels": self.kernels,
            "kernels_error": self.standard_error,
            "dual_kernels": self.dual_kernels,
            "dual_coefficients": V.value.reshape(self.label_shape),
            "dual_coefficients_error": V.standard_error.reshape(self.label_shape),
        }
        return save_npz(path, arrays, self._record())

    def _record(self) -> dict[str, Any]:
        return {**self.parameters, "residual": self.residual, "status": self.status.name}

    def _inputs(self) -> Floats:
        if self.X is None:
            raise ValueError("X_new: expected a solution made from inputs X, this one was made from a kernel")
        return self.X

    @property
    def _variances(self) -> Floats:
        return np.asarray(self.parameters["prior_variances"], dtype=np.float64)
