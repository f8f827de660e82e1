"""Fixed points of training with weight decay for several outputs, where their directions are fixed by the data.

Balanced layers share their singular values, so F (P x O) minimises

    1/2 |Y - F|^2 + weight_decay (L + 1)/(2 gamma0^2) sum_j a_j,    a_j^{L+1} = gamma0^2 eig_j(F^T C^{-1} F),

and with U the eigenvectors of that matrix F u_j = C (C + weight_decay a_j^{-L})^{-1} Y u_j. In general U depends on the
solution. If the matrices B_k^T B_k of the labels' coefficients in the eigenspaces of C commute (whitened data, labels of rank
one, outputs that live in different eigenspaces), U is their common eigenbasis and every direction is a scalar problem.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, nonnegative, positive
from linkern.flow.fixed_point import FixedPoint
from linkern.flow.linear import solve_fixed_point
from linkern.flow.trajectory import as_spectrum, kernel_rows
from linkern.solution import Solution, Status

__all__ = ["OutputsFixedPoint", "solve_fixed_point_outputs"]

Floats = NDArray[np.float64]
# Coupling between directions, relative to the labels, that counts as rounding.
DECOUPLED = 1e-9


@dataclass(frozen=True, kw_only=True)
class OutputsFixedPoint(Solution):
    """End of training with O outputs; `residual` and `status` are the worst of the directions'.

    Attributes
    ----------
    spectrum : Spectrum
        The data.
    directions : (O, O) array
        Orthonormal combinations of outputs, one per column.
    parts : tuple of FixedPoint
        The scalar problem of every direction, with all its branches.
    """

    spectrum: Spectrum = field(repr=False)
    directions: Floats
    parts: tuple[FixedPoint, ...]

    @property
    def amplitudes(self) -> Floats:
        """(O,): a_j."""
        return np.array([part.branch.amplitude for part in self.parts])

    @property
    def energy(self) -> float:
        """J, the sum of the directions' energies."""
        return float(sum(part.energy for part in self.parts))

    @property
    def fitted(self) -> Floats:
        """(P, O): f on the training inputs."""
        return self.spectrum.to_samples(self._modes) @ self.directions.T

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """Return f at new inputs, (m, O); arguments as for `FixedPoint.predict`."""
        signal = self.spectrum.to_samples(self._modes / self.spectrum.eigenvalues[:, None])
        return kernel_rows(self.spectrum, X_new, kernel_new) @ signal @ self.directions.T

    def feature_kernels(self) -> Floats:
        """(L + 1, P, P): Phi^0 = C, then Phi^l = sum_j a_j^l f_j f_j^T / q_j."""
        depth = self.parts[0].depth
        C = self.spectrum.dense()
        W = np.column_stack([self.spectrum.to_samples(part._direction_modes[:, None]) for part in self.parts])
        a = self.amplitudes
        return np.stack([(C + C.T) / 2, *((W * a**l) @ W.T for l in range(1, depth + 1))])

    def gradient_kernels(self) -> Floats:
        """(L + 1, O, O): G^1, .., G^{L+1} = 1, with eigenvalues a_j^{L+1-l} in the directions."""
        depth, U, a = self.parts[0].depth, self.directions, self.amplitudes
        return np.stack([(U * a ** float(depth + 1 - l)) @ U.T for l in range(1, depth + 2)])

    @property
    def _modes(self) -> Floats:
        """(r, O): f in the eigenbasis of C and in the directions."""
        return np.column_stack([part._share * part._b for part in self.parts])


def solve_fixed_point_outputs(
    X: ArrayLike | None = None,
    Y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    weight_decay: float,
    branch: str = "rich",
) -> OutputsFixedPoint:
    """Return the end of training with weight decay for several outputs whose directions the data fix.

    Parameters
    ----------
    X, kernel, spectrum, depth, gamma0, weight_decay
        As for `solve_fixed_point`.
    Y : (P, O) array
        Labels.
    branch : {"rich", "global", "zero"}
        The choice in every direction.

    Returns
    -------
    OutputsFixedPoint

    Raises
    ------
    ValueError
        Also when the outputs couple, so that their directions depend on the solution: `linkern.flow.march` trains those.
    """
    depth = integer_at_least("depth", depth)
    gamma0, weight_decay = nonnegative("gamma0", gamma0), positive("weight_decay", weight_decay)
    if branch not in ("rich", "global", "zero"):
        raise ValueError(f"branch: expected 'rich', 'global' or 'zero', got {branch!r}")
    spectrum = as_spectrum(X, Y, kernel, spectrum)
    directions = _common_directions(spectrum)
    rotated = spectrum.labels @ directions
    # Each direction sees the same kernel with its own labels; explicit modes share one decomposition.
    outside = np.linalg.norm(spectrum.labels_outside @ directions, axis=0)
    columns = (spectrum.coefficients @ directions).T
    parts = tuple(
        solve_fixed_point(
            spectrum=Spectrum.from_modes(spectrum.eigenvalues, b, float(rest)),
            depth=depth,
            gamma0=gamma0,
            weight_decay=weight_decay,
            branch=branch,
        )
        for b, rest in zip(columns, outside, strict=True)
    )
    worst = max(parts, key=lambda part: (part.status is not Status.CONVERGED, part.residual))
    return OutputsFixedPoint(
        parameters={"depth": depth, "gamma0": gamma0, "weight_decay": weight_decay, "outputs": rotated.shape[1]},
        residual=worst.residual,
        status=worst.status,
        spectrum=spectrum,
        directions=directions,
        parts=parts,
    )


def _common_directions(spectrum: Spectrum) -> Floats:
    """The common eigenbasis of B_k^T B_k over the eigenspaces k of C."""
    lam, B = spectrum.eigenvalues, spectrum.coefficients
    # Eigenvalues ascend; a gap starts a new eigenspace.
    starts = np.flatnonzero(np.diff(lam, prepend=-np.inf) > 1e-10 * np.abs(lam).max(initial=0.0))
    squares = [block.T @ block for block in np.split(B, starts[1:])] if lam.size else []
    scale = float(sum(np.trace(square) for square in squares))
    if scale == 0:
        return np.eye(B.shape[1])
    # Generic weights: eigenvectors of the sum are common eigenvectors, if there are any.
    weights = 1 + np.sqrt(np.arange(2.0, 2.0 + len(squares))) % 1
    U = np.asarray(np.linalg.eigh(sum(w * square for w, square in zip(weights, squares, strict=True)))[1])
    coupling = max(float(np.abs(np.triu(U.T @ square @ U, 1)).max()) for square in squares)
    if coupling > DECOUPLED * scale:
        raise ValueError(
            f"Y: expected outputs that decouple (whitened data, labels of rank one, or different eigenspaces of C), got a "
            f"relative coupling of {coupling / scale:.3g}; their directions depend on the solution: train with linkern.flow.march"
        )
    return U
