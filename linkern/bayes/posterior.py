"""The solution object of a deep linear network: everything is read off one branch, lazily."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.certificate import Claim, residual
from linkern.bayes.ensemble import Ensemble
from linkern.bayes.kernels import UpdatedKernel
from linkern.bayes.saddles import Branch, data_condition_number
from linkern.bayes.spectrum import Spectrum
from linkern.checks import real_array
from linkern.solution import Solution, Status, save_npz

__all__ = ["LinearSolution", "global_index", "solution_on_branch"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearSolution(Solution):
    """One branch of solutions of a deep linear network, and the list of all the others.

    For one output (y of shape (P,) or (P, 1)) `log_rescaling`, `rescaling` and `charge` are floats; for O outputs
    they are symmetric O x O matrices.

    Attributes
    ----------
    spectrum : Spectrum
        The data.
    branches : tuple of Branch
        All solutions, by ascending (total) log rescaling.
    branch_index, global_index : int
        Which branch this solution is on, and which one has the least action.
    certified : bool
        Whether `branches` is proved complete.
    data_condition_number : float
        Relative change of k (of ln k where k < e) per relative change of C in norm, to first order. It is what counts
        when C comes as a matrix: rounding C costs about this many epsilons.
    """

    spectrum: Spectrum = field(repr=False)
    ensemble: Ensemble = field(repr=False)
    branches: tuple[Branch, ...]
    branch_index: int
    global_index: int
    certified: bool
    data_condition_number: float

    @property
    def branch(self) -> Branch:
        """The branch that this solution is on."""
        return self.branches[self.branch_index]

    @property
    def action(self) -> float:
        """S; posterior weight is exp(-N S)."""
        return self.branch.action

    @property
    def condition_number(self) -> float:
        """Relative change of k (of ln k where k < e) per relative change of gamma0^2, T, eigenvalues, coefficients."""
        return self.branch.condition_number

    @property
    def log_rescaling(self) -> float | Floats:
        """x = ln k."""
        return self._matrix(self._x)

    @property
    def rescaling(self) -> float | Floats:
        """k = prod_l (1 + A / n_l): the predictor is that of kernel regression with k C'."""
        return self._matrix(np.exp(self._x))

    @property
    def excess(self) -> float | Floats:
        """k - 1, to full relative accuracy however small."""
        return self._matrix(np.expm1(self._x))

    @property
    def charge(self) -> float | Floats:
        """A, the conserved charge: -n_l c_l hatc_l in every layer."""
        return self._matrix(self._A)

    @cached_property
    def overlaps(self) -> Floats:
        """v^T Phi^l v / v^T C v = G_l k_l, l = 0..L: (L + 1,) for one output, else (L + 1, O) in the basis of A."""
        overlaps = self.ensemble.lazy_scales[:, None] * np.exp(self.ensemble.log_growth(self._A))
        return overlaps[:, 0] if self._single else overlaps

    @cached_property
    def kernels(self) -> tuple[UpdatedKernel, ...]:
        """Phi^0 = C, Phi^1, .., Phi^L."""
        growth = np.expm1(self.ensemble.log_growth(self._A))
        return tuple(
            UpdatedKernel(self.spectrum, float(scale), core * scale, lambda: self._update)
            for scale, core in zip(self.ensemble.lazy_scales, growth, strict=True)
        )

    @cached_property
    def dual_kernels(self) -> tuple[UpdatedKernel, ...]:
        """hatPhi^1, .., hatPhi^L: negative semi-definite, rank one per output."""
        return tuple(
            UpdatedKernel(self.spectrum, 0.0, -weights, lambda: self.ensemble.gamma0 * self._signal)
            for weights in self._dual_weights
        )

    @cached_property
    def coefficients(self) -> Floats:
        """U^T v in the eigenbasis of C, shape (r,) or (r, O) like y."""
        return self._shaped(self._modes @ self.branch.basis.T)

    @cached_property
    def dual_coefficients(self) -> Floats:
        """v = (k C' + T)^{-1} y in sample space, shaped like y; y - f = T v."""
        return self._shaped(self._signal @ self.branch.basis.T)

    @cached_property
    def fitted(self) -> Floats:
        """f on the training inputs, shaped like y."""
        lam = self.ensemble.lazy_eigenvalues(self.spectrum.eigenvalues)[:, None]
        modes = lam * (self._modes * np.exp(self._x)) @ self.branch.basis.T
        return self._shaped(self.spectrum.to_samples(modes))

    @property
    def training_error(self) -> float:
        """1/2 sum (f - y)^2 = T^2 |v|^2 / 2."""
        T = self.ensemble.temperature
        misfit = np.concatenate([(T * self._modes).ravel(), self.spectrum.residual])
        size = float(np.abs(misfit).max()) or 1.0
        return float(((misfit / size) ** 2).sum() / 2 * size * size)

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """Return the posterior mean f at new inputs.

        Parameters
        ----------
        X_new : (m, D) array
            New inputs; needs a solution made from inputs.
        kernel_new : (m, P) array
            Rows of the data kernel C(x, X) (prior variances not included) instead.

        Returns
        -------
        (m,) or (m, O) array
        """
        if X_new is not None and kernel_new is None:
            X = self.spectrum.data_matrix
            rows = real_array("X_new", X_new, ndim=2)
            if rows.shape[1] != X.shape[1]:
                raise ValueError(f"X_new: expected {X.shape[1]} columns, got shape {rows.shape}")
            f = rows @ self._primal
        elif kernel_new is not None and X_new is None:
            rows = real_array("kernel_new", kernel_new, ndim=2)
            if rows.shape[1] != self.spectrum.samples:
                raise ValueError(f"kernel_new: expected {self.spectrum.samples} columns, got shape {rows.shape}")
            f = rows @ (self._signal_in_range * (np.exp(self._x) * self.ensemble.readout_scale)) @ self.branch.basis.T
        else:
            raise ValueError("X_new, kernel_new: expected exactly one of them")
        return f.reshape(rows.shape[0], *self.spectrum.label_shape[1:])

    def alignment(self) -> Floats:
        """Return the kernel-target alignment Tr(Y^T Phi^l Y) / (|Phi^l|_F |Y^T Y|_F) of every layer l = 0..L."""
        return np.array([kernel.alignment(self.spectrum.labels) for kernel in self.kernels])

    def select(self, branch_index: int) -> LinearSolution:
        """Return the solution on another branch of the same problem."""
        if not -len(self.branches) <= branch_index < len(self.branches):
            raise ValueError(f"branch_index: expected an index into {len(self.branches)} branches, got {branch_index}")
        return solution_on_branch(self.spectrum, self.ensemble, self.branches, branch_index % len(self.branches), self.certified)

    def save(self, path: str | Path) -> Path:
        """Write parameters, spectrum, branches and coefficients to an .npz file (`linkern.solution.load_npz`)."""
        arrays = {
            "eigenvalues": self.spectrum.eigenvalues,
            "labels_in_eigenbasis": self.spectrum.coefficients,
            "coefficients": self.coefficients,
            "overlaps": self.overlaps,
            "branch_log_rescaling": np.array([branch.log_rescaling for branch in self.branches]),
            "branch_action": np.array([branch.action for branch in self.branches]),
            "branch_stable": np.array([branch.stable for branch in self.branches]),
        }
        record = {
            **self.parameters,
            "branch_index": self.branch_index,
            "certified": self.certified,
            "residual": self.residual,
            "status": self.status.name,
        }
        return save_npz(path, arrays, record)

    @property
    def _single(self) -> bool:
        return self.spectrum.coefficients.shape[1] == 1

    @property
    def _x(self) -> Floats:
        return np.atleast_1d(self.branch.log_rescaling)

    @property
    def _A(self) -> Floats:
        return np.atleast_1d(self.branch.charge)

    def _matrix(self, diagonal: Floats) -> float | Floats:
        if self._single:
            return float(diagonal[0])
        basis = self.branch.basis
        matrix = (basis * diagonal) @ basis.T
        return np.asarray((matrix + matrix.T) / 2)

    def _shaped(self, columns: Floats) -> Floats:
        return columns.reshape(columns.shape[0], *self.spectrum.label_shape[1:])

    @cached_property
    def _modes(self) -> Floats:
        """(r, O) array: v in the eigenbasis of C, outputs rotated to the basis of A."""
        lam = self.ensemble.lazy_eigenvalues(self.spectrum.eigenvalues)[:, None]
        return (self.spectrum.coefficients @ self.branch.basis) / (lam * np.exp(self._x) + self.ensemble.temperature)

    @cached_property
    def _signal(self) -> Floats:
        """(P, O) array: v in sample space, outputs rotated to the basis of A."""
        v = self._signal_in_range
        if math.isinf(self.ensemble.beta):
            return v
        return v + self.spectrum.labels_outside @ self.branch.basis / self.ensemble.temperature

    @cached_property
    def _signal_in_range(self) -> Floats:
        """(P, O) array: the part of v in the range of C, which alone predicts: C(x, X) vanishes on the rest."""
        return self.spectrum.to_samples(self._modes)

    @cached_property
    def _update_modes(self) -> Floats:
        """(r, O) array: C v / sqrt(v^T C v), so that Phi^l = G_l [C + W diag(k_l - 1) W^T]."""
        v = self._modes / np.maximum(np.abs(self._modes).max(axis=0, initial=0.0), np.finfo(float).tiny)
        unit = float(self.spectrum.eigenvalues.max(initial=0.0)) or 1.0
        lam = self.spectrum.eigenvalues[:, None] / unit
        norm = np.sqrt((lam * v**2).sum(axis=0))
        return lam * v * (math.sqrt(unit) / np.where(norm > 0, norm, 1.0))

    @cached_property
    def _update(self) -> Floats:
        return self.spectrum.to_samples(self._update_modes)

    @cached_property
    def _dual_weights(self) -> Floats:
        """(L, O) array: hatPhi^l = -gamma0^2 V diag(weights) V^T; c_l hatc_l n_l = const fixes them from l = L."""
        scales = np.log(self.ensemble.lazy_scales[:, None]) + self.ensemble.log_growth(self._A)
        ratios = np.exp(scales[-1] - scales[1:]) * (self.ensemble.widths[-1] / self.ensemble.widths)[:, None]
        return self.ensemble.prior_variances[-1] * ratios

    @cached_property
    def _primal(self) -> Floats:
        """(D, O) array of weights theta with f(x) = x . theta."""
        weights = np.exp(self._x) * self.ensemble.readout_scale
        return np.asarray(self.spectrum.to_inputs(self._modes * weights) @ self.branch.basis.T)


def solution_on_branch(
    spectrum: Spectrum, ensemble: Ensemble, branches: tuple[Branch, ...], index: int, certified: bool
) -> LinearSolution:
    """Assemble the solution on one branch, then let it compute its own residual and verdict."""
    condition = data_condition_number(spectrum, ensemble, branches[index])
    draft = LinearSolution(
        parameters=ensemble.record(),
        residual=math.nan,
        status=Status.CONVERGED,
        spectrum=spectrum,
        ensemble=ensemble,
        branches=branches,
        branch_index=index,
        global_index=global_index(branches),
        certified=certified,
        data_condition_number=condition,
    )
    claim = Claim(
        lam=spectrum.eigenvalues,
        b=spectrum.coefficients @ branches[index].basis,
        V=draft._modes,
        W=draft._update_modes,
        scales=ensemble.lazy_scales,
        core=np.expm1(ensemble.log_growth(draft._A)),
        dual=draft._dual_weights,
    )
    value = residual(claim, ensemble)
    return replace(draft, residual=value, status=_verdict(value, branches[index], condition, spectrum))


def _verdict(value: float, branch: Branch, condition: float, spectrum: Spectrum) -> Status:
    if not value < 1e-9:
        return Status.NOT_CONVERGED
    if branch.degenerate or branch.condition_number > 1 / math.sqrt(EPS):
        return Status.DEGENERATE
    if spectrum.source != "modes" and condition * EPS > 1e-6:
        return Status.ILL_CONDITIONED
    return Status.CONVERGED


def global_index(branches: tuple[Branch, ...]) -> int:
    """Index of the branch with the least action."""
    return min(range(len(branches)), key=lambda index: branches[index].action)
