"""A fixed point of training with weight decay: everything is read off one branch, lazily, and checked layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from linkern.bayes.kernels import UpdatedKernel
from linkern.bayes.spectrum import Spectrum
from linkern.flow.ridge import EPS
from linkern.flow.trajectory import kernel_rows
from linkern.solution import Solution, Status, save_npz

__all__ = ["FixedPoint", "FlowBranch", "certified_point"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FlowBranch:
    """One fixed point.

    Attributes
    ----------
    amplitude : float
        a >= 0: |W^l|^2 of every trained layer in units of N; 0 for the collapsed network.
    log_ridge : float
        ln rho, rho = weight_decay a^{-L}; inf for the collapsed network.
    energy : float
        J, the regularised loss divided by gamma^2 = gamma0^2 N.
    excess_energy : float
        J - J(0), without cancellation.
    stable : bool
        Whether J, and with it the regularised loss as a function of the weights, has a local minimum here.
    condition_number : float
        Relative change of rho per relative change of gamma0^2, weight decay, eigenvalues and label coefficients.
    degenerate : bool
        Whether this stands for two fixed points that float64 cannot tell apart (a spinodal).
    """

    amplitude: float
    log_ridge: float
    energy: float
    excess_energy: float
    stable: bool
    condition_number: float
    degenerate: bool = False

    @property
    def ridge(self) -> float:
        """rho; inf too where it leaves the range of float64 (an unstable branch may)."""
        return math.exp(self.log_ridge) if self.log_ridge < 709 else math.inf


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Solution):
    """One end point of training, and the list of all the others; `residual` re-evaluates the equations of every layer.

    Attributes
    ----------
    spectrum : Spectrum
        The data.
    depth : int
        L.
    gamma0, weight_decay : float
        Parameters.
    branches : tuple of FlowBranch
        All fixed points by ascending amplitude; the first one is the collapsed network.
    branch_index, global_index : int
        Which branch this solution is on, and which one has the least energy.
    certified : bool
        Whether `branches` is proved complete.
    """

    spectrum: Spectrum = field(repr=False)
    depth: int
    gamma0: float
    weight_decay: float
    branches: tuple[FlowBranch, ...]
    branch_index: int
    global_index: int
    certified: bool

    @property
    def branch(self) -> FlowBranch:
        """The branch that this solution is on."""
        return self.branches[self.branch_index]

    @property
    def energy(self) -> float:
        """J."""
        return self.branch.energy

    @property
    def condition_number(self) -> float:
        """Relative change of rho per relative change of gamma0^2, weight decay, eigenvalues and label coefficients."""
        return self.branch.condition_number

    @property
    def dynamics_decide(self) -> bool:
        """Whether several fixed points are stable, so that the initial condition selects among them."""
        return sum(branch.stable for branch in self.branches) > 1

    @property
    def advice(self) -> str:
        """What the list of fixed points says about the end of training, and what it leaves open."""
        if self.dynamics_decide:
            return (
                "several fixed points are stable: the dynamics decide which one training from random weights reaches, and no "
                "property of the fixed points alone tells; run linkern.flow.march to see"
            )
        return "this fixed point is the only stable one" if self.branch.stable else "this fixed point is unstable"

    @property
    def fitted(self) -> Floats:
        """f on the training inputs, shaped like y."""
        return self._shaped(self.spectrum.to_samples((self._share * self._b)[:, None]))

    @property
    def error(self) -> Floats:
        """Delta = y - f, shaped like y."""
        modes = self.spectrum.to_samples((expit(self.branch.log_ridge - self._log_lam) * self._b)[:, None])
        return self._shaped(modes + self.spectrum.labels_outside)

    @property
    def training_error(self) -> float:
        """1/2 sum (f - y)^2."""
        return float((self.error**2).sum() / 2)

    @property
    def dual_coefficients(self) -> Floats:
        """v with f(x) = K(x, X) v, K the final tangent kernel: v = (y - f)/(weight_decay (L + 1)), shaped like y."""
        return self.error / (self.weight_decay * (self.depth + 1))

    @cached_property
    def kernels(self) -> tuple[UpdatedKernel, ...]:
        """Phi^0 = C, then Phi^l = a^l f f^T/q of rank one."""
        C = UpdatedKernel(self.spectrum, 1.0, np.zeros(1), lambda: self._direction)
        a = self.branch.amplitude
        updated = (UpdatedKernel(self.spectrum, 0.0, np.array([a**l]), lambda: self._direction) for l in range(1, self.depth + 1))
        return (C, *updated)

    @property
    def gradient_kernels(self) -> Floats:
        """(L + 1,) array: G^1, .., G^L, G^{L+1} = 1, each a multiple a^{L+1-l} of the all-ones matrix."""
        return self.branch.amplitude ** np.arange(self.depth, -1.0, -1.0)

    @property
    def tangent_kernel(self) -> UpdatedKernel:
        """K = sum_l G^{l+1} Phi^l = a^L (C + L f f^T/q); f solves (K + weight_decay (L + 1)) v = y, f = K v."""
        scale = self.branch.amplitude**self.depth
        return UpdatedKernel(self.spectrum, scale, np.array([self.depth * scale]), lambda: self._direction)

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """Return f at new inputs.

        Parameters
        ----------
        X_new : (m, D) array
            New inputs; needs a solution made from inputs.
        kernel_new : (m, P) array
            Rows of the data kernel C(x, X) instead.

        Returns
        -------
        (m,) or (m, 1) array
        """
        rows = kernel_rows(self.spectrum, X_new, kernel_new)
        signal = self.spectrum.to_samples((self._share * self._b / self.spectrum.eigenvalues)[:, None])
        f = rows @ signal
        return f.reshape(rows.shape[0], *self.spectrum.label_shape[1:])

    def alignment(self) -> Floats:
        """Return the kernel-target alignment y^T Phi^l y / (|Phi^l|_F |y|^2) of every layer l = 0..L; 0 where Phi^l = 0."""
        return np.array([kernel.alignment(self.spectrum.labels) for kernel in self.kernels])

    def select(self, branch_index: int) -> FixedPoint:
        """Return the solution on another branch of the same problem."""
        if not -len(self.branches) <= branch_index < len(self.branches):
            raise ValueError(f"branch_index: expected an index into {len(self.branches)} branches, got {branch_index}")
        return certified_point(replace(self, branch_index=branch_index % len(self.branches)))

    def save(self, path: str | Path) -> Path:
        """Write parameters, spectrum, branches and predictions to an .npz file (`linkern.solution.load_npz`)."""
        arrays = {
            "eigenvalues": self.spectrum.eigenvalues,
            "labels_in_eigenbasis": self.spectrum.coefficients,
            "fitted": self.fitted,
            "branch_amplitude": np.array([branch.amplitude for branch in self.branches]),
            "branch_energy": np.array([branch.energy for branch in self.branches]),
            "branch_stable": np.array([branch.stable for branch in self.branches]),
        }
        record = {**self.parameters, "branch_index": self.branch_index, "residual": self.residual, "status": self.status.name}
        return save_npz(path, arrays, record)

    @property
    def _b(self) -> Floats:
        return self.spectrum.coefficients[:, 0]

    @property
    def _log_lam(self) -> Floats:
        return np.log(self.spectrum.eigenvalues)

    @property
    def _share(self) -> Floats:
        """s_i = lam_i/(lam_i + rho)."""
        return expit(self._log_lam - self.branch.log_ridge)

    @property
    def _direction_modes(self) -> Floats:
        """f / sqrt(q) in the eigenbasis: b lam/(lam + rho), of norm one in C^{-1}; zero for the collapsed network."""
        f = self._b * self._share
        largest = np.abs(f).max(initial=0.0)
        f = f / largest if largest > 0 else f
        q = float((f**2 / self.spectrum.eigenvalues).sum())
        return f / math.sqrt(q) if q > 0 else f

    @cached_property
    def _direction(self) -> Floats:
        return self.spectrum.to_samples(self._direction_modes[:, None])

    def _shaped(self, columns: Floats) -> Floats:
        return columns.reshape(columns.shape[0], *self.spectrum.label_shape[1:])


def certified_point(draft: FixedPoint) -> FixedPoint:
    """Attach the residual of the layers' equations and the verdict."""
    value = _residual(draft)
    status = Status.CONVERGED
    if draft.branch.degenerate or draft.branch.condition_number > 1 / math.sqrt(EPS):
        status = Status.DEGENERATE
    # At a spinodal the equations hold only as well as two roots can be told apart.
    if not value < (1e-6 if status is Status.DEGENERATE else 1e-9):
        status = Status.NOT_CONVERGED
    return replace(draft, residual=value, status=status)


def _residual(draft: FixedPoint) -> float:
    """Largest relative violation of the single-site equations of every layer at rest, in the eigenbasis of C:

    lambda f = G^{l+1} Phi^l Delta (l = 0..L),  lambda^2 Phi^l = gamma0^2 G^l (Phi^{l-1} Delta)(Phi^{l-1} Delta)^T,
    lambda^2 G^l = gamma0^2 (G^{l+1})^2 Delta^T Phi^l Delta (l = 1..L), for the kernels that the solution claims.
    """
    a = draft.branch.amplitude
    if a == 0:
        return 0.0
    f, decay, strength = draft._share * draft._b, draft.weight_decay, draft.gamma0
    Delta, w = draft._b * expit(draft.branch.log_ridge - draft._log_lam), draft._direction_modes
    G = draft.gradient_kernels
    drives = [draft.spectrum.eigenvalues * Delta, *(a**l * w * (w @ Delta) for l in range(1, draft.depth + 1))]
    size = np.linalg.norm(f) * decay
    worst = max(float(np.linalg.norm(G[l] * drive - decay * f) / size) for l, drive in enumerate(drives))
    for l in range(1, draft.depth + 1):
        h = a ** (l / 2) * w * decay
        # Both sides are outer products of one vector each, equal up to a sign.
        drive = strength * math.sqrt(G[l - 1]) * drives[l - 1]
        apart = min(np.linalg.norm(h - drive), np.linalg.norm(h + drive)) / np.linalg.norm(h)
        backward = abs((strength * G[l] / decay) ** 2 * (Delta @ drives[l]) / G[l - 1] - 1)
        worst = max(worst, float(apart), float(backward))
    return worst
