"""The door of the sampled solver: what is given becomes a `Problem`, its lazy solution, and the first rung of the ladder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import activations, checks
from linkern.activations import Activation, ActivationLike
from linkern.bayes.montecarlo.law import Law, roots_of
from linkern.bayes.montecarlo.saddle import Problem, State
from linkern.bayes.montecarlo.tilt import require_finite_tilt
from linkern.lazy import layer_kernels

__all__ = ["Task", "checked_data"]

Floats = NDArray[np.float64]

# The readout's tilt gamma0^2 g_w V^T Phi V on prior particles at the first rung.
_FIRST_TILT = 0.15
# Relative size of the readout's signal on the labels below which nothing can be learnt.
_SILENT = 1e-10
# Estimated error of Gaussian averages that is too much, relative to them: 1e-3 with kinks, 2e-2 with jumps.
_INACCURATE = 5e-3


@dataclass(frozen=True)
class Task:
    """A validated problem.

    Attributes
    ----------
    problem : Problem
    warm : float
        Temperature at which gamma0 is raised, that of the kernel itself if beta is larger. Error signals along weak directions
        of the kernel, large at low temperature, then grow with populations that can answer them.
    start : State
        The lazy solution at that temperature.
    first : float
        gamma0 of the first rung; inf where the labels are orthogonal to everything the network can express.
    lazy : (L + 1, P, P) array
        Lazy kernels.
    X : (P, D) array or None
    label_shape : tuple of int
    """

    problem: Problem
    warm: float
    start: State
    first: float
    lazy: Floats
    X: Floats | None
    label_shape: tuple[int, ...]

    @classmethod
    def checked(
        cls,
        X: ArrayLike | None,
        y: ArrayLike | None,
        kernel: ArrayLike | None,
        depth: int,
        gamma0: float,
        beta: float,
        activation: ActivationLike,
        prior_variances: ArrayLike,
    ) -> Task:
        """Validate what the user gave."""
        inputs, C, labels = checked_data(X, y, kernel)
        depth = checks.integer_at_least("depth", depth)
        if gamma0 == 0:
            raise ValueError("gamma0: expected a finite number > 0, got 0; linkern.lazy has the kernels of that limit")
        gamma0, beta = checks.positive("gamma0", gamma0), checks.positive("beta", beta)
        phi = activations.get(activation)
        require_finite_tilt(phi)
        g = checks.per_layer("prior_variances", prior_variances, depth + 1, "g_1 ... g_L of the hidden layers, then g_w")
        values, vectors = np.linalg.eigh(C)
        keep = values > np.finfo(float).eps * len(C) * max(float(values[-1]), 0.0)
        if not keep.any():
            raise ValueError("X, kernel: expected at least one input that is not zero, got a vanishing data kernel")
        rank = int(keep.sum())
        factor = vectors[:, keep] * np.sqrt(values[keep])
        # The recursion over layers takes inputs; these have the same data kernel.
        lazy = layer_kernels(factor * math.sqrt(rank), depth=depth, activation=phi, prior_variances=g)
        _require_averages(phi, g, lazy)
        Y = labels.reshape(len(C), -1)
        laws = tuple(Law.of(phi, rank if l == 0 else len(C)) for l in range(depth))
        root = math.sqrt(g[0]) * factor
        problem = Problem(root, roots_of(lazy[1]), C, Y, laws, gamma0, 1 / beta, g)
        warm = max(1 / beta, float(g[-1] * np.trace(lazy[-1]) / len(C)))
        V = linalg.solve(g[-1] * lazy[-1] + warm * np.eye(len(C)), Y, assume_a="pos")
        M = problem.whitening[0] if depth == 1 else roots_of(g[-2] * lazy[-2])[0]
        tilt = float(g[-1] * np.sum(V * (lazy[-1] @ V)))
        silent = g[-1] * np.linalg.norm(lazy[-1] @ V) <= _SILENT * np.linalg.norm(Y)
        first = math.inf if silent else math.sqrt(_FIRST_TILT / tilt)
        start = State(np.zeros((depth - 1, *C.shape)), M @ V)
        return cls(problem, warm, start, first, lazy, inputs, labels.shape)


def _require_averages(phi: Activation, g: Floats, lazy: Floats) -> None:
    """Refuse an activation that jumps, or nearly: samplers need slopes, and kernels without a tilt, which they take from it."""
    powers = np.diagonal(lazy, axis1=1, axis2=2)
    variances = g[:-1, None] * powers[:-1]
    error = float((phi.dual_error(variances, variances, variances) / powers[1:].max()).max())
    if error > _INACCURATE:
        raise ValueError(
            "activation: expected a continuous function that varies over distances like those of preactivations, got "
            f"{phi.name!r}, whose Gaussian averages are uncertain by {error:.1%}"
        )


def checked_data(X: ArrayLike | None, y: ArrayLike | None, kernel: ArrayLike | None) -> tuple[Floats | None, Floats, Floats]:
    """Return inputs, None if the kernel C is given in their place, C, and labels (P,) or (P, O)."""
    if y is None:
        raise ValueError("y: expected labels, got None")
    labels = checks.real_array("y", y, ndim=(1, 2))
    if (X is None) == (kernel is None):
        raise ValueError(f"X, kernel: expected exactly one of them, got {'none' if X is None else 'both'}")
    if kernel is None:
        inputs = checks.real_array("X", X, ndim=2)
        if len(inputs) != len(labels):
            raise ValueError(f"y: expected {len(inputs)} labels (one per row of X), got {len(labels)}")
        return inputs, inputs @ inputs.T / inputs.shape[1], labels
    C = checks.kernel_matrix("kernel", kernel, size=len(labels))
    lowest, highest = np.linalg.eigvalsh(C)[[0, -1]]
    if lowest < -max(1e-12, 10 * np.finfo(float).eps * len(C)) * abs(highest):
        raise ValueError(f"kernel: expected a positive semi-definite matrix, got smallest eigenvalue {lowest:.6g}")
    return None, C, labels
