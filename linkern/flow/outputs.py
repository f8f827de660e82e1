"""Fixed points of training with weight decay for several outputs.

Balanced layers share their singular values, so F (P x O) minimises

    J = 1/2 |Y - F|^2 + weight_decay (L + 1)/(2 gamma0^2) sum_j a_j,    a_j^{L+1} = gamma0^2 eig_j(F^T C^{-1} F),

a Schatten quasi-norm of C^{-1/2} F with exponent 2/(L + 1), and with U the eigenvectors of that matrix F u_j =
C (C + weight_decay a_j^{-L})^{-1} Y u_j: a scalar problem per direction. If the matrices B_k^T B_k of the labels' coefficients
in the eigenspaces of C commute (whitened data, labels of rank one, outputs in different eigenspaces), U is their common
eigenbasis. In general U depends on the solution (`linkern.flow.directions`); for L = 1 J is convex, the minimum is proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, nonnegative, positive
from linkern.flow.directions import Stationary, coupled_minima
from linkern.flow.fixed_point import FixedPoint
from linkern.flow.linear import solve_fixed_point
from linkern.flow.trajectory import as_spectrum, kernel_rows
from linkern.solution import Solution, Status

__all__ = ["OutputsFixedPoint", "solve_fixed_point_outputs"]

Floats = NDArray[np.float64]
# Coupling between directions, relative to the labels, that counts as rounding.
DECOUPLED = 1e-9
# Largest violation of a coupled fixed point's equations that is rounding.
TOLERANCE = 1e-8


@dataclass(frozen=True, kw_only=True)
class OutputsFixedPoint(Solution):
    """End of training with O outputs; `residual` and `status` are the worst of the directions' and of their coupling.

    Attributes
    ----------
    spectrum : Spectrum
        The data.
    directions : (O, O) array
        Orthonormal combinations of outputs, one per column.
    parts : tuple of FixedPoint
        The scalar problem of every direction, with all its branches.
    coupled : bool
        Whether the directions depend on the solution.
    stable : bool
        Whether J has a local minimum here.
    certified : bool
        Whether all stable fixed points are known: those of decoupled directions, or the only one for L = 1. Those of coupled
        outputs for L > 1 are found by descent on J from as many starts as there are outputs.
    alternatives : tuple of OutputsFixedPoint
        The other fixed points found for coupled outputs, by ascending energy. Decoupled ones are in the parts' branches.
    """

    spectrum: Spectrum = field(repr=False)
    directions: Floats
    parts: tuple[FixedPoint, ...]
    coupled: bool
    stable: bool
    certified: bool
    alternatives: tuple[OutputsFixedPoint, ...] = field(repr=False, default=())

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
    """Return the end of training with weight decay for several outputs.

    Parameters
    ----------
    X, kernel, spectrum, depth, gamma0, weight_decay
        As for `solve_fixed_point`.
    Y : (P, O) array
        Labels.
    branch : {"rich", "global", "zero"}
        Largest stable amplitudes, least energy, or the collapsed network: in every direction if they decouple, else among
        the local minima found.

    Returns
    -------
    OutputsFixedPoint

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Coupled outputs cost O(r O^2) per evaluation of J, some hundreds of them per start, up to O starts.
    """
    depth = integer_at_least("depth", depth)
    gamma0, weight_decay = nonnegative("gamma0", gamma0), positive("weight_decay", weight_decay)
    if branch not in ("rich", "global", "zero"):
        raise ValueError(f"branch: expected 'rich', 'global' or 'zero', got {branch!r}")
    spectrum = as_spectrum(X, Y, kernel, spectrum)
    task = {"depth": depth, "gamma0": gamma0, "weight_decay": weight_decay}
    directions, coupling = _common_directions(spectrum)
    if coupling <= DECOUPLED:
        solution = _combined(spectrum, directions, task, [branch] * directions.shape[1])
        return replace(solution, coupled=False, certified=all(part.certified for part in solution.parts))
    found = _coupled(spectrum, task)
    stable = [solution for solution in found if solution.stable]
    if branch == "zero":
        chosen = next(solution for solution in found if not solution.amplitudes.any())
    elif branch == "global":
        chosen = stable[0]
    else:
        chosen = max(stable, key=lambda solution: float(solution.amplitudes.sum()))
    return replace(chosen, alternatives=tuple(solution for solution in found if solution is not chosen))


def _coupled(spectrum: Spectrum, task: dict[str, Any]) -> list[OutputsFixedPoint]:
    """The collapsed network and the minima found, by ascending energy."""
    lam, B, depth = spectrum.eigenvalues, spectrum.coefficients, task["depth"]
    # The labels' principal directions decide about the collapsed network, and are where to start.
    V = np.linalg.svd(np.sqrt(lam)[:, None] * B)[2].T
    R = V * np.sqrt(_combined(spectrum, V, task, ["rich"] * len(V)).amplitudes)
    R = R[:, R.any(axis=0)]
    starts = [R[:, : m + 1] for m in range(R.shape[1])]
    minima = [_at(spectrum, task, point) for point in coupled_minima(lam, B, depth, task["gamma0"], task["weight_decay"], starts)]
    found: list[OutputsFixedPoint] = []
    for solution in [*minima, _combined(spectrum, V, task, ["zero"] * len(V))]:
        if not any(np.allclose(solution.amplitudes, other.amplitudes, rtol=1e-6, atol=0) for other in found):
            found.append(solution)
    certified = depth == 1 and minima[0].status is Status.CONVERGED
    return sorted((replace(solution, certified=certified) for solution in found), key=lambda solution: solution.energy)


def _combined(spectrum: Spectrum, directions: Floats, task: dict[str, Any], branches: Sequence[str | int]) -> OutputsFixedPoint:
    """One scalar problem per direction; each sees the same kernel with its own labels."""
    outside = np.linalg.norm(spectrum.labels_outside @ directions, axis=0)
    columns = (spectrum.coefficients @ directions).T
    parts = tuple(
        solve_fixed_point(spectrum=Spectrum.from_modes(spectrum.eigenvalues, b, float(rest)), branch=branch, **task)
        for b, rest, branch in zip(columns, outside, branches, strict=True)
    )
    worst = max(parts, key=lambda part: (part.status is not Status.CONVERGED, part.residual))
    return OutputsFixedPoint(
        parameters={**task, "outputs": directions.shape[1]},
        residual=worst.residual,
        status=worst.status,
        spectrum=spectrum,
        directions=directions,
        parts=parts,
        coupled=True,
        stable=all(part.branch.stable for part in parts),
        certified=False,
    )


def _at(spectrum: Spectrum, task: dict[str, Any], point: Stationary) -> OutputsFixedPoint:
    """A coupled fixed point, with every direction on its scalar branch of the amplitude found."""
    everything = _combined(spectrum, point.directions, task, [0] * len(point.amplitudes))
    nearest = [
        int(np.argmin([abs(branch.amplitude - a) for branch in part.branches]))
        for part, a in zip(everything.parts, point.amplitudes, strict=True)
    ]
    solution = _combined(spectrum, point.directions, task, nearest)
    largest = max(float(point.amplitudes.max()), float(np.finfo(float).tiny))
    apart = float(np.abs(solution.amplitudes - point.amplitudes).max()) / largest
    residual = max(solution.residual, point.violation, apart)
    failed = solution.status is not Status.CONVERGED or residual > TOLERANCE
    return replace(
        solution,
        residual=residual,
        status=Status.NOT_CONVERGED if failed else Status.CONVERGED,
        stable=point.stable,
    )


def _common_directions(spectrum: Spectrum) -> tuple[Floats, float]:
    """The common eigenbasis of B_k^T B_k over the eigenspaces k of C, and how much they fail to commute."""
    lam, B = spectrum.eigenvalues, spectrum.coefficients
    # Eigenvalues ascend; a gap starts a new eigenspace.
    starts = np.flatnonzero(np.diff(lam, prepend=-np.inf) > 1e-10 * np.abs(lam).max(initial=0.0))
    squares = [block.T @ block for block in np.split(B, starts[1:])] if lam.size else []
    scale = float(sum(np.trace(square) for square in squares))
    if scale == 0:
        return np.eye(B.shape[1]), 0.0
    # Generic weights: eigenvectors of the sum are common eigenvectors, if there are any.
    weights = 1 + np.sqrt(np.arange(2.0, 2.0 + len(squares))) % 1
    U = np.asarray(np.linalg.eigh(sum(w * square for w, square in zip(weights, squares, strict=True)))[1])
    coupling = max(float(np.abs(np.triu(U.T @ square @ U, 1)).max()) for square in squares)
    return U, coupling / scale
