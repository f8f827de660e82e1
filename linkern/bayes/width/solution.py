"""The posterior of one finite-width network, ready to be asked: predictions, kernels, weights, evidence, branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.kernels import UpdatedKernel
from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width.average import Average
from linkern.bayes.width.kernels import FiniteWidthKernel, NewPoints
from linkern.bayes.width.quadrature import Nodes
from linkern.bayes.width.saddles import SaddleProblem, WidthBranch
from linkern.checks import real_array
from linkern.solution import Solution, save_npz

__all__ = ["Adaptation", "Predictions", "WidthPrior", "WidthSolution"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WidthPrior:
    """The network and its prior.

    Attributes
    ----------
    widths : (L,) array
    prior_variances : (L,) array
        g_1..g_L.
    readout_variance, chi, ridge : float
        g_w, chi and kappa.
    """

    widths: Floats
    prior_variances: Floats
    readout_variance: float
    chi: float
    ridge: float

    @property
    def scale(self) -> float:
        """g = g_w g_1 ... g_L / chi."""
        return float(self.readout_variance / self.chi * self.prior_variances.prod())

    @property
    def lazy_scales(self) -> Floats:
        """(L + 1,) array G_0 = 1, G_l = g_1 ... g_l."""
        return np.concatenate([[1.0], np.cumprod(self.prior_variances)])

    def record(self, **more: Any) -> Mapping[str, Any]:
        """The parameters as plain Python objects, ready for JSON."""
        return {
            **more,
            "width": [int(width) for width in self.widths],
            "readout_variance": self.readout_variance,
            "chi": self.chi,
            "ridge": self.ridge,
            "prior_variances": self.prior_variances.tolist(),
        }


@dataclass(frozen=True)
class Predictions:
    """The posterior of the output at new points.

    Attributes
    ----------
    mean, variance : (m,) arrays
        Of f; the label noise is not included.
    """

    points: NewPoints = field(repr=False)
    mean: Floats
    _solution: WidthSolution = field(repr=False)

    @cached_property
    def variance(self) -> Floats:
        """(m,) array."""
        solution, modes = self._solution, self.points.modes
        within = (modes**2).T @ solution._residual_gains
        spread = (solution._fluctuations @ modes) ** 2
        return solution._mean_scale * self.points.remainder_diagonal + within + spread.sum(axis=0)

    def covariance(self) -> Floats:
        """(m, m) array; needs K among the new points."""
        solution, modes = self._solution, self.points.modes
        spread = solution._fluctuations @ modes
        total = solution._mean_scale * self.points.remainder_matrix
        total = total + (modes.T * solution._residual_gains) @ modes + spread.T @ spread
        return np.asarray((total + total.T) / 2)

    def error(self, y_new: ArrayLike) -> Floats:
        """(m,) array of E(f - y)^2 over the posterior; add the ridge for a noisy label."""
        y_new = real_array("y_new", y_new, ndim=1)
        if y_new.shape != self.mean.shape:
            raise ValueError(f"y_new: expected {self.mean.size} labels, got shape {y_new.shape}")
        return (self.mean - y_new) ** 2 + self.variance

    def kernel(self, layer: int, *, training: bool = False) -> Floats:
        """Phi^layer among the new points, (m, m), or with `training` between new and training points, (m, P)."""
        kernel = self._solution.kernels[layer]
        return kernel.between(self.points, None if training else self.points)


@dataclass(frozen=True)
class Adaptation:
    """Observables that tell adapted kernels from rescaled ones; arrays run over l = 0..L, in units of the lazy kernel G_l K.

    Attributes
    ----------
    overlaps : array
        y^T Phi^l y / (G_l y^T K y).
    bulk_traces : array
        (Tr Phi^l - y^T Phi^l y/|y|^2) / the same of G_l K: the robust discriminator.
    rescalings : array
        <Q_{<= l}>: what both would be if the kernel only were rescaled.
    """

    overlaps: Floats
    bulk_traces: Floats
    rescalings: Floats


@dataclass(frozen=True, kw_only=True)
class WidthSolution(Solution):
    """Posterior of a deep linear network of finite width; see `linkern.bayes.width` for the model.

    `residual`: for the exact method the largest of the relative difference of the integral's two halves, the balance
    E l'(t) = 0, and the violation of f = y + kappa d ln Z/dy along y, evaluated on separate nodes; for expansions the
    imbalance of the saddle-point equation.

    Attributes
    ----------
    spectrum : Spectrum
    prior : WidthPrior
    method : str
    log_evidence : float
        ln Z = ln p(y | X). At leading order ("tree", "saddle") the exponent alone, without determinants.
    average : Average
        Averages in the eigenbasis of K.
    nodes : Nodes or None
        The posterior of ln Q (exact method only).
    branch_index : int or None
        Which of `branches` an expansion stands on.
    """

    spectrum: Spectrum
    prior: WidthPrior = field(repr=False)
    method: str
    log_evidence: float
    average: Average = field(repr=False)
    nodes: Nodes | None = field(repr=False)
    branch_index: int | None
    _saddles: SaddleProblem = field(repr=False)

    @cached_property
    def branches(self) -> tuple[WidthBranch, ...]:
        """All stationary points of S_0 by ascending Q; for the exact method those of the Q-saddle."""
        return self._saddles.roots()[0]

    @property
    def metastable(self) -> bool:
        """Whether an expansion stands on a branch that has not the largest weight; never for the exact method."""
        if self.branch_index is None:
            return False
        return self.branches[self.branch_index].exponent < max(b.exponent for b in self.branches if b.stable)

    @property
    def log_q_mean(self) -> float:
        """<ln Q>."""
        return self.average.log_q_mean

    @property
    def log_q_variance(self) -> float:
        """Var ln Q."""
        return self.average.log_q_variance

    def log_q_modes(self) -> Floats:
        """Local maxima of the posterior density of ln Q at the nodes (exact method only)."""
        if self.nodes is None:
            raise ValueError(f"method: expected 'exact' for the density of ln Q, got {self.method!r}")
        density = np.concatenate([[-np.inf], self.nodes.log_density, [-np.inf]])
        inner = density[1:-1]
        return self.nodes.t[(inner > density[:-2]) & (inner > density[2:])]

    @cached_property
    def kernels(self) -> tuple[FiniteWidthKernel, ...]:
        """Phi^0 = K, Phi^1, .., Phi^L."""
        rows = self.average.signal_rows * self._b
        empty = self.average.layers[0]._replace(
            scale=1.0, core=np.zeros_like(self.average.layers[0].core), shrinkage=np.zeros_like(self._b)
        )
        return tuple(
            FiniteWidthKernel(self.spectrum, float(scale), weights, rows)
            for scale, weights in zip(self.prior.lazy_scales, (empty, *self.average.layers), strict=True)
        )

    @cached_property
    def fitted(self) -> Floats:
        """f at the training inputs, shaped like y."""
        modes = (self.average.gains * self._b)[:, None]
        return self.spectrum.to_samples(modes).reshape(self.spectrum.label_shape)

    @cached_property
    def dual_coefficients(self) -> Floats:
        """(y - f)/kappa, shaped like y, without cancellation."""
        v = self.spectrum.to_samples((self.average.misfits * self._b)[:, None])
        return (v + self.spectrum.labels_outside / self.prior.ridge).reshape(self.spectrum.label_shape)

    @cached_property
    def fitted_variance(self) -> Floats:
        """(P,) array: posterior variance of f at the training inputs; O(P r m), builds the P x r eigenvectors."""
        basis = self.spectrum.to_samples(np.eye(self._b.size))
        spread = self._mode_fluctuations @ basis.T
        return (basis**2) @ (self.prior.ridge * self.average.gains) + (spread**2).sum(axis=0)

    def fitted_covariance(self) -> Floats:
        """(P, P) array: posterior covariance of f at the training inputs."""
        basis = self.spectrum.to_samples(np.eye(self._b.size))
        spread = self._mode_fluctuations @ basis.T
        return np.asarray((basis * (self.prior.ridge * self.average.gains)) @ basis.T + spread.T @ spread)

    def at(
        self,
        X_new: ArrayLike | None = None,
        *,
        kernel_new: ArrayLike | None = None,
        kernel_new_new: ArrayLike | None = None,
    ) -> Predictions:
        """Everything about new points: give inputs (m, D), or K(x, X) (m, P) and, for variances, K(x, x') or its diagonal."""
        if (X_new is None) == (kernel_new is None):
            raise ValueError("X_new, kernel_new: expected exactly one of them")
        if X_new is not None:
            points = NewPoints.from_inputs(self.spectrum, X_new)
        elif kernel_new is not None:
            points = NewPoints.from_kernel(self.spectrum, kernel_new, kernel_new_new)
        return Predictions(points, points.modes.T @ (self._mode_gains * self._b), self)

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """Posterior mean at new inputs (m, D), or given rows K(x, X): an (m,) or (m, 1) array like y."""
        mean = self.at(X_new, kernel_new=kernel_new).mean
        return mean.reshape(mean.size, *self.spectrum.label_shape[1:])

    def input_weight_covariance(self, directions: ArrayLike | None = None) -> Floats:
        """<V0^T V0>/N_1, V0 the input weights: (D, D), or u^T (.) u along directions (m, D); g_1/D I under the prior."""
        X = self.spectrum.data_matrix
        D = X.shape[1]
        if directions is None:
            vectors = np.eye(D)
        else:
            vectors = real_array("directions", directions, ndim=2)
            if vectors.shape[1] != D:
                raise ValueError(f"directions: expected {D} columns, got shape {vectors.shape}")
        modes = self.spectrum.to_modes(X @ vectors.T)
        layer = self.kernels[1]
        prior = self.prior.prior_variances[0] / D
        if directions is None:
            change = layer.update(modes, modes) / D
            return np.asarray(prior * (np.eye(D) + (change + change.T) / 2))
        change = (modes * layer.image(modes)).sum(axis=0) / D
        return np.asarray(prior * ((vectors**2).sum(axis=1) + change))

    @cached_property
    def rescaled_kernels(self) -> tuple[UpdatedKernel, ...]:
        """G_l <Q_{<= l}> K, l = 0..L: what `kernels` would be if the mean predictor, which sees a rescaling, told all."""
        scales = self.prior.lazy_scales * self.average.growth
        empty = np.zeros((self.spectrum.samples, 1))
        return tuple(UpdatedKernel(self.spectrum, float(scale), np.zeros(1), lambda: empty) for scale in scales)

    def adaptation(self) -> Adaptation:
        """Compare the adapted kernels with rescaled ones (`kernels` with `rescaled_kernels`); needs labels that are not zero."""
        y = self.spectrum.labels[:, 0]
        if not y.any():
            raise ValueError("y: expected labels that are not all zero, there is no direction to compare kernels along")
        lazy, lazy_trace = self.kernels[0].quadratic(y), self.kernels[0].trace()
        overlaps = np.array([kernel.quadratic(y) for kernel in self.kernels]) / self.prior.lazy_scales
        traces = np.array([kernel.trace() for kernel in self.kernels]) / self.prior.lazy_scales
        square = float(y @ y)
        bulk_of_lazy = lazy_trace - lazy / square
        # A kernel that lives along y alone has no bulk.
        bulk = (traces - overlaps / square) / bulk_of_lazy if bulk_of_lazy > 0 else np.full_like(traces, np.nan)
        return Adaptation(overlaps / lazy, bulk, self.average.growth)

    def save(self, path: str | Path) -> Path:
        """Write parameters, spectrum and averages to an .npz file (`linkern.solution.load_npz`)."""
        arrays = {
            "eigenvalues": self.spectrum.eigenvalues,
            "labels_in_eigenbasis": self._b,
            "gains": self.average.gains,
            "growth": self.average.growth,
        }
        if self.nodes is not None:
            arrays |= {"log_q": self.nodes.t, "weights": self.nodes.weights}
        record = {
            **self.parameters,
            "log_evidence": self.log_evidence,
            "log_q_mean": self.log_q_mean,
            "log_q_variance": self.log_q_variance,
            "residual": self.residual,
            "status": self.status.name,
        }
        return save_npz(path, arrays, record)

    @property
    def _b(self) -> Floats:
        return self.spectrum.coefficients[:, 0]

    @property
    def _mode_gains(self) -> Floats:
        """(r,) array: <gQ/A_i>, the predictor's coefficient per unit of U^T k."""
        return self.average.gains / self.spectrum.eigenvalues

    @property
    def _mean_scale(self) -> float:
        return self.prior.scale * float(self.average.growth[-1])

    @property
    def _residual_gains(self) -> Floats:
        """(r,) array: <gQ (1 - x_i)>/lam_i = kappa <x_i>/lam_i^2."""
        return self.prior.ridge * self.average.gains / self.spectrum.eigenvalues**2

    @property
    def _mode_fluctuations(self) -> Floats:
        return self.average.fluctuations * self._b

    @property
    def _fluctuations(self) -> Floats:
        return self._mode_fluctuations / self.spectrum.eigenvalues
