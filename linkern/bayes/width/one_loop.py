r"""Self-consistent one loop for one hidden layer: the stationary point of the one-loop effective action, where it exists.

    y = kappa phi + W'(phi) - 1/2 d/dphi ln det(kappa + W''(phi)),   W(phi) = -(N/2) ln(1 - (g/N) phi^T K phi)

In the eigenbasis of K the loop turns gQ K into a matrix function of K, R_i = q_e - c_3 lam_i/A_i, that is not a multiple
of the identity: phi_i = b_i/(kappa + lam_i R_i) and f_i = lam_i R_i phi_i. Beyond about N effective parameters no solution
is connected to tree level, and where one exists it is not better than the strict first correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width.exact import solve_width
from linkern.bayes.width.kernels import NewPoints
from linkern.checks import integer_at_least, positive
from linkern.solution import Solution, Status

__all__ = ["SelfConsistentLoop", "solve_self_consistent"]

Floats = NDArray[np.float64]
SMALLEST_STEP = 1e-3


@dataclass(frozen=True, kw_only=True)
class SelfConsistentLoop(Solution):
    """The solution, or how far it can be followed.

    Attributes
    ----------
    loop_strength : float
        Largest factor eta <= 1 in front of the loop term up to which the solution continues tree level. Below 1 there is
        no self-consistent solution at eta = 1 on this branch: `status` is NOT_CONVERGED and the fields describe the last
        eta that has one.
    response : (r,) array
        R_i.
    effective_parameters : float
        sum_i x_i at tree level; no solution beyond about N.
    log_evidence : float
        The effective action at the solution, nan where there is none.
    """

    spectrum: Spectrum
    loop_strength: float
    response: Floats = field(repr=False)
    effective_parameters: float
    log_evidence: float

    @property
    def _coefficients(self) -> Floats:
        lam = self.spectrum.eigenvalues
        return self.spectrum.coefficients[:, 0] / (self.parameters["ridge"] + lam * self.response)

    @property
    def fitted(self) -> Floats:
        """f at the training inputs, shaped like y."""
        modes = self.spectrum.eigenvalues * self.response * self._coefficients
        return self.spectrum.to_samples(modes[:, None]).reshape(self.spectrum.label_shape)

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """Mean at new inputs (m, D), or given rows K(x, X) (m, P)."""
        if (X_new is None) == (kernel_new is None):
            raise ValueError("X_new, kernel_new: expected exactly one of them")
        if X_new is not None:
            points = NewPoints.from_inputs(self.spectrum, X_new)
        elif kernel_new is not None:
            points = NewPoints.from_kernel(self.spectrum, kernel_new, None)
        return np.asarray(points.modes.T @ (self.response * self._coefficients))


@dataclass(frozen=True)
class _Equations:
    """Two equations in (ln q, ln(1 + rho)) at loop strength eta."""

    lam: Floats
    b: Floats
    g: float
    kappa: float
    width: float

    def response(self, q: float, rho: float, s2: float, s3: float, eta: float) -> Floats:
        """R_i from the scalars of the previous evaluation."""
        g, n = self.g, self.width
        A = g * q * self.lam + self.kappa
        slope = 2 * g * q**2 / n
        loop = 0.5 * slope * (g * self.lam / A).sum()
        loop += (g**2 / n) * (2 * q * slope * s2 - q**2 * g * slope * s3) / (1 + rho)
        return np.asarray(g * q - eta * loop - eta * (2 * g**2 / n) * q**2 / (1 + rho) * self.lam / A)

    def scalars(self, q: float, response: Floats) -> tuple[float, float, float]:
        """phi^T K phi, s_2 = sum lam^2 phi^2/A and s_3 = sum lam^3 phi^2/A^2."""
        A = self.g * q * self.lam + self.kappa
        phi = self.b / (self.kappa + self.lam * response)
        weight = self.lam * phi**2
        return float(weight.sum()), float((weight * self.lam / A).sum()), float((weight * (self.lam / A) ** 2).sum())

    def mismatch(self, unknown: Floats, eta: float) -> Floats:
        """Unknowns ln q and s_2, s_3 in units of phi^T K phi-like size; zero at a solution."""
        q = math.exp(min(unknown[0], 300.0))
        s2, s3 = unknown[1], unknown[2]
        rho = 2 * self.g**2 * q**2 / self.width * s2
        norm, new2, new3 = self.scalars(q, self.response(q, rho, s2, s3, eta))
        return np.array([-math.expm1(-min(unknown[0], 300.0)) - self.g / self.width * norm, s2 - new2, s3 - new3])


def solve_self_consistent(
    spectrum: Spectrum,
    *,
    width: int,
    ridge: float,
    readout_variance: float = 1.0,
    chi: float = 1.0,
    prior_variance: float = 1.0,
) -> SelfConsistentLoop:
    """Continue the tree-level solution of one hidden layer to the self-consistent one-loop solution.

    Parameters as in `linkern.bayes.width.solve_width` with depth 1. The loop term is switched on from 0 to 1 in steps that
    are halved where no solution is found; the continuation ends at a fold.
    """
    n = integer_at_least("width", width)
    kappa = positive("ridge", ridge)
    g = positive("readout_variance", readout_variance) / positive("chi", chi) * positive("prior_variance", prior_variance)
    tree = solve_width(spectrum=spectrum, depth=1, width=n, chi=1.0, readout_variance=g, ridge=kappa, method="tree")
    equations = _Equations(spectrum.eigenvalues, spectrum.coefficients[:, 0], g, kappa, float(n))
    q = math.exp(tree.log_q_mean)
    _, s2, s3 = equations.scalars(q, np.full(spectrum.eigenvalues.size, g * q))
    unknown = np.array([math.log(q), s2, s3])
    eta, step = 0.0, 0.125
    while eta < 1 and step >= SMALLEST_STEP:
        target = min(1.0, eta + step)
        scale = np.maximum(np.abs(unknown), 1e-12)
        answer = optimize.root(
            lambda z, target=target, scale=scale: equations.mismatch(z * scale, target) / np.array([1.0, *scale[1:]]),
            unknown / scale,
            options={"xtol": 1e-13},
        )
        moved = np.abs(answer.x - unknown / scale).max()
        # A jump to another solution is not a continuation.
        if np.abs(answer.fun).max() < 1e-9 and moved < 0.5:
            unknown, eta = answer.x * scale, target
        else:
            step /= 2
    q, s2, s3 = math.exp(unknown[0]), unknown[1], unknown[2]
    rho = 2 * g**2 * q**2 / n * s2
    response = equations.response(q, rho, s2, s3, eta)
    residual = float(np.abs(equations.mismatch(unknown, eta) / np.array([1.0, s2 or 1.0, s3 or 1.0])).max())
    return SelfConsistentLoop(
        parameters={"width": n, "ridge": kappa, "scale": g, "method": "self-consistent one loop"},
        residual=residual,
        status=Status.CONVERGED if eta == 1 and residual < 1e-8 else Status.NOT_CONVERGED,
        spectrum=spectrum,
        loop_strength=eta,
        response=response,
        effective_parameters=float(tree.average.gains.sum()),
        log_evidence=_effective_action(equations, spectrum, q, rho, response) if eta == 1 else math.nan,
    )


def _effective_action(equations: _Equations, spectrum: Spectrum, q: float, rho: float, response: Floats) -> float:
    """kappa/2 phi^2 - y phi + W - 1/2 ln det(kappa + W'') - P/2 ln(2 pi), modes outside the range of K included."""
    kappa, P = equations.kappa, spectrum.samples
    phi = equations.b / (kappa + equations.lam * response)
    A = equations.g * q * equations.lam + kappa
    value = kappa / 2 * phi @ phi - equations.b @ phi + equations.width / 2 * math.log(q)
    value -= 0.5 * (np.log(A).sum() + math.log1p(rho) + (P - equations.lam.size) * math.log(kappa))
    outside = float(spectrum.residual[0]) ** 2
    return float(value - outside / (2 * kappa) - P / 2 * math.log(2 * math.pi))
