"""Many outputs: a symmetric matrix equation for X = ln K, which in the eigenbasis of X is a set of scalar equations.

With K = prod_l (1 + A/n_l) and V the solution of C' V K + T V = Y, the saddle point is A = gamma0^2 M K, M = V^T C' V.
A, M and K commute there, so the unknowns are an orthonormal basis of outputs in which M is diagonal, and one scalar
problem per basis vector. At T = 0, for a whitened kernel and for labels of rank one the basis does not depend on the
solution: products of scalar branches are then all the solutions. Otherwise the matrix equation is solved from every
(bounded) combination of scalar branches, and completeness is not claimed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from linkern.bayes.ensemble import Ensemble
from linkern.bayes.growth import Growth
from linkern.bayes.saddles import Branch, scalar_problem, single_output_branches
from linkern.bayes.scalar import Root
from linkern.bayes.spectrum import Spectrum

__all__ = ["all_branches"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
MAX_PRODUCTS = 4096
MAX_STARTS = 64
MAX_COUPLED = 64


def all_branches(spectrum: Spectrum, ensemble: Ensemble) -> tuple[tuple[Branch, ...], bool]:
    """Return the branches by ascending total log rescaling, and whether they are proved to be all."""
    if spectrum.coefficients.shape[1] == 1:
        return single_output_branches(spectrum, ensemble)
    coupled = CoupledOutputs(spectrum, ensemble)
    basis = coupled.fixed_basis()
    branches, certified = coupled.products(basis) if basis is not None else (coupled.search(), False)
    return tuple(sorted(branches, key=lambda branch: float(np.sum(branch.log_rescaling)))), certified


@dataclass(frozen=True)
class CoupledOutputs:
    """The matrix equation for O outputs."""

    spectrum: Spectrum
    ensemble: Ensemble

    @property
    def growth(self) -> Growth:
        """The layers' relative widths."""
        return Growth.of(self.ensemble.widths)

    @property
    def lam(self) -> Floats:
        """(r, 1) array: eigenvalues of C'."""
        return self.ensemble.lazy_eigenvalues(self.spectrum.eigenvalues)[:, None]

    def weighted_basis(self, weights: Floats) -> Floats:
        """Eigenvectors of B^T diag(weights) B, complete, largest eigenvalue first."""
        # Singular vectors of diag(w)^{1/2} B resolve small outputs that the O x O matrix would round away.
        scaled = np.sqrt(weights / weights.max(initial=0.0))[:, None] * self.spectrum.coefficients
        return np.linalg.svd(scaled, full_matrices=scaled.shape[0] < scaled.shape[1])[2].T

    def fixed_basis(self) -> Floats | None:
        """The basis of outputs, if it is the same for all solutions."""
        lam, B = self.spectrum.eigenvalues, self.spectrum.coefficients
        if not lam.size:
            return np.eye(B.shape[1])
        if np.isinf(self.ensemble.beta):
            return self.weighted_basis(lam[0] / lam)
        whitened = lam[-1] - lam[0] <= 16 * EPS * lam.size * lam[-1]
        singular = np.linalg.svd(B / max(np.abs(B).max(), np.finfo(float).tiny), compute_uv=False)
        rank_one = singular[1:].sum() <= 16 * EPS * singular[0]
        return self.weighted_basis(np.ones_like(lam)) if whitened or rank_one else None

    def scalar_roots(self, basis: Floats) -> tuple[list[list[Root]], bool]:
        """All roots of the scalar equation of every basis vector."""
        found = [scalar_problem(self.spectrum, self.ensemble, b, 0.0).roots() for b in (self.spectrum.coefficients @ basis).T]
        return [roots for roots, _ in found], all(certified for _, certified in found)

    def products(self, basis: Floats) -> tuple[list[Branch], bool]:
        """Combine scalar branches into solutions; certain to be all unless there are more than `MAX_PRODUCTS`."""
        columns, certified = self.scalar_roots(basis)
        combinations, complete = _combinations(columns, MAX_PRODUCTS)
        return [self._product(basis, roots) for roots in combinations], certified and complete

    def _product(self, basis: Floats, roots: tuple[Root, ...]) -> Branch:
        x = np.array([root.log_rescaling for root in roots])
        A = np.array([root.charge for root in roots])
        stable = all(root.stable for root in roots) and bool((self._rotation_stiffness(basis, x, A) >= 0).all())
        # Outputs that hardly rescale need not be known relative to themselves, only to the largest.
        largest = min(max(float(x.max()), np.finfo(float).tiny), 1.0)
        condition = max(root.condition_number * min(root.log_rescaling, 1.0) / largest for root in roots)
        degenerate = any(root.degenerate for root in roots)
        return Branch(x, A, self._action(basis, x, A), stable, condition, degenerate, basis)

    def _action(self, basis: Floats, x: Floats, A: Floats) -> float:
        problems = [
            scalar_problem(self.spectrum, self.ensemble, b, outside)
            for b, outside in zip((self.spectrum.coefficients @ basis).T, self._outside(basis), strict=True)
        ]
        return float(sum(p.action(*pair) for p, pair in zip(problems, zip(x, A, strict=True), strict=True)))

    def _outside(self, basis: Floats) -> Floats:
        """Norms whose squares add up to |Y outside the range|^2; only the sum enters the action."""
        return np.sqrt(basis.T**2 @ self.spectrum.residual**2)

    def _divided(self, x: Floats, f: Floats, slope: Floats) -> Floats:
        """(O, O) array of [f(x_o) - f(x_p)] / (x_o - x_p), with the derivative where the points (nearly) coincide."""
        gap = x[:, None] - x
        close = np.abs(gap) <= 1e-7 * np.maximum(np.abs(x[:, None]), np.abs(x))
        quotient = (f[:, None] - f) / np.where(close, 1.0, gap)
        return np.where(close, (slope[:, None] + slope) / 2, quotient)

    def _stiffness_parts(self, x: Floats, A: Floats) -> tuple[Floats, Floats]:
        """Divided differences of e^x and of A(x) e^{-x}, where prod_l (1 + A(x)/n_l) = e^x."""
        k = np.exp(x)
        # d A / dx = 1 / sum_l 1/(n_l + A).
        slope = 1 / (1 / (self.ensemble.widths[:, None] + A)).sum(axis=0)
        return self._divided(x, k, k), self._divided(x, A / k, (slope - A) / k)

    def _rotation_stiffness(self, basis: Floats, x: Floats, A: Floats) -> Floats:
        """Second derivative of S along rotations mixing outputs o and p, when the outputs decouple: (O, O)."""
        kappa, phi = self._stiffness_parts(x, A)
        k, T, lam = np.exp(x), self.ensemble.temperature, self.lam
        v = self.ensemble.gamma0 * (self.spectrum.coefficients @ basis) / (k * lam + T)
        w = (lam**2 / (k * lam + T)).T @ v**2
        return kappa * phi + kappa**2 * (w + w.T)

    def search(self) -> list[Branch]:
        """Solve the coupled equations from products of scalar branches in the lazy and the rich basis."""
        lam, T = self.lam[:, 0], self.ensemble.temperature
        if self.spectrum.coefficients.shape[1] > MAX_COUPLED:
            raise ValueError(
                f"y: expected at most {MAX_COUPLED} outputs coupled by a finite beta, got "
                f"{self.spectrum.coefficients.shape[1]}; rotate y to its leading singular vectors, or take beta = inf"
            )
        lazy = self.weighted_basis(lam / (lam + T) ** 2)
        largest = math.exp(max(roots[-1].log_rescaling for roots in self.scalar_roots(lazy)[0]))
        rich = self.weighted_basis(lam / (largest * lam + T) ** 2)
        found: list[Branch] = []
        for basis in (lazy, rich, self.weighted_basis(np.ones_like(lam))):
            columns, _ = self.scalar_roots(basis)
            for roots in _combinations(columns, MAX_STARTS)[0]:
                x = np.array([root.log_rescaling for root in roots])
                self._add(found, self._solve((basis * x) @ basis.T))
        if not found:
            # Nothing converged: hand over the decoupled approximation, whose residual will say what it is.
            x = np.array([min(roots, key=lambda root: root.action).log_rescaling for roots in columns])
            found.append(self._branch((basis * x) @ basis.T))
        return found

    @staticmethod
    def _add(found: list[Branch], branch: Branch | None) -> None:
        if branch is None:
            return
        X = (branch.basis * branch.log_rescaling) @ branch.basis.T
        for other in found:
            difference = X - (other.basis * other.log_rescaling) @ other.basis.T
            if np.linalg.norm(difference) <= 1e-7 * np.linalg.norm(X):
                return
        found.append(branch)

    def _charge_matrix(self, x: Floats, basis: Floats) -> Floats:
        """gamma0^2 K^{1/2} M K^{1/2} in the eigenbasis of K: equal to diag(A) at a solution."""
        k = np.exp(np.minimum(x, 690.0))
        v = self.spectrum.coefficients @ basis * np.sqrt(k) / (self.lam * k + self.ensemble.temperature)
        v = v * self.ensemble.gamma0
        return v.T @ (self.lam * v)

    def _solve(self, X: Floats) -> Branch | None:
        """Solve X = ln K(gamma0^2 K^{1/2} M K^{1/2}) from X, then polish with Newton's method."""
        rows = np.tril_indices(X.shape[0])
        size = max(float(np.abs(X).max()), np.finfo(float).tiny)

        def assemble(packed: Floats) -> Floats:
            matrix = np.zeros_like(X)
            matrix[rows] = packed * size
            return matrix + np.tril(matrix, -1).T

        def mismatch(packed: Floats) -> Floats:
            matrix = assemble(packed)
            x, basis = np.linalg.eigh(matrix)
            A, turn = np.linalg.eigh(self._charge_matrix(x, basis))
            basis = basis @ turn
            return np.asarray((matrix - (basis * self.growth.log_growth(np.maximum(A, 0.0))) @ basis.T)[rows] / size)

        answer = scipy.optimize.root(mismatch, X[rows] / size, method="hybr", options={"xtol": 1e-12})
        if not np.abs(mismatch(answer.x)).max() < 1e-5:
            return None
        X = assemble(answer.x)
        for _ in range(4):
            X = X + self._newton_step(X)
        return self._branch(X)

    def _hessian(self, x: Floats, A: Floats, basis: Floats) -> Floats:
        """Hessian of 2 S with respect to X in its eigenbasis, (O, O, O, O), where the gradient vanishes."""
        O = x.size
        kappa, phi = self._stiffness_parts(x, A)
        k, T, lam = np.exp(x), self.ensemble.temperature, self.lam
        v = self.ensemble.gamma0 * (self.spectrum.coefficients @ basis) / (k * lam + T)
        # response[o, p, q] = sum_i lam_i^2 v_ip v_iq / (k_o lam_i + T)
        response = np.stack([v.T @ (lam**2 / (lam * k_o + T) * v) for k_o in k])
        H = np.zeros((O, O, O, O))
        for o in range(O):
            H[o, :, o, :] += kappa[o][:, None] * kappa[o] * response[o].T
            H[:, o, o, :] += kappa[o][:, None] * kappa[o] * response[o]
        index = np.arange(O)
        H[index[:, None], index, index[:, None], index] += kappa * phi
        # Symmetric variations only: average over the transposition of the varied matrix.
        return (H + H.transpose(0, 1, 3, 2)) / 2

    def _symmetric_hessian(self, x: Floats, A: Floats, basis: Floats) -> Floats:
        """The Hessian on symmetric matrices, in the orthonormal basis of their lower triangles."""
        i, j = np.tril_indices(x.size)
        H = self._hessian(x, A, basis)[i, j][:, i, j]
        weight = np.where(i == j, 1.0, np.sqrt(2.0))
        H = H * weight * weight[:, None]
        return (H + H.T) / 2

    def _newton_step(self, X: Floats) -> Floats:
        x, basis = np.linalg.eigh(X)
        charge = self._charge_matrix(x, basis)
        A = self.growth.charge(np.maximum(x, 0.0))
        kappa, _ = self._stiffness_parts(x, A)
        root = np.sqrt(np.exp(x))
        gradient = np.diag(A) - charge * kappa / (root[:, None] * root)
        i, j = np.tril_indices(x.size)
        weight = np.where(i == j, 1.0, np.sqrt(2.0))
        step = np.linalg.lstsq(self._symmetric_hessian(x, A, basis), -gradient[i, j] * weight, rcond=1e-14)[0] / weight
        matrix = np.zeros_like(X)
        matrix[i, j] = matrix[j, i] = step
        return np.asarray(basis @ matrix @ basis.T)

    def _branch(self, X: Floats) -> Branch:
        x, basis = np.linalg.eigh(X)
        x = np.maximum(x, 0.0)
        charge = self._charge_matrix(x, basis)
        A = np.diag(charge).copy()
        eigenvalues = np.linalg.eigvalsh(self._symmetric_hessian(x, A, basis))
        softest = max(float(np.abs(eigenvalues).min()), EPS * float(np.abs(eigenvalues).max()))
        scale = max(float(np.abs(x).max()), np.finfo(float).tiny)
        condition = 6 * float(np.linalg.norm(A)) / (softest * min(1.0, scale)) if A.any() else 0.0
        return Branch(x, A, self._action(basis, x, A), bool(eigenvalues[0] > 0), condition, False, basis)


def _combinations(columns: list[list[Root]], limit: int) -> tuple[list[tuple[Root, ...]], bool]:
    """One root per output in all ways; past `limit` ways only the extreme and the best ones and their neighbours."""
    if math.prod(len(roots) for roots in columns) <= limit:
        return list(itertools.product(*columns)), True
    lazy, rich = (tuple(roots[end] for roots in columns) for end in (0, -1))
    best = tuple(min(roots, key=lambda root: root.action) for roots in columns)
    chosen = [best, *(corner for corner in (lazy, rich) if corner != best)]
    changes = [(o, root) for o, roots in enumerate(columns) for root in roots if root is not best[o]]
    neighbours = [(*best[:o], root, *best[o + 1 :]) for o, root in changes]
    chosen += [roots for roots in neighbours if roots not in chosen]
    return chosen[:limit], False
