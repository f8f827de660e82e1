"""The textbook route, as a baseline: gradient descent in Phi and ascent in hatPhi of the P x P action, in plain NumPy.

S = gamma0^2/2 y^T (Phi^L + T)^{-1} y - 1/2 sum_l Tr Phi^l hatPhi^l + 1/2 sum_l ln det(1 + Phi^{l-1} hatPhi^l), Phi^0 = C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def gradient_in_phi(phi: list[Floats], dual: list[Floats], y: Floats, gamma0: float, T: float) -> list[Floats]:
    """2 dS/dPhi^l for l = 1..L."""
    eye = np.eye(len(y))
    gradients = [dual[l + 1] @ np.linalg.inv(eye + phi[l] @ dual[l + 1]) - dual[l] for l in range(len(phi) - 1)]
    v = np.linalg.solve(phi[-1] + T * eye, y)
    gradients.append(-(gamma0**2) * np.outer(v, v) - dual[-1])
    return [(g + g.T) / 2 for g in gradients]


def gradient_in_dual(C: Floats, phi: list[Floats], dual: list[Floats]) -> list[Floats]:
    """2 dS/dhatPhi^l for l = 1..L."""
    eye, below = np.eye(len(C)), [C, *phi[:-1]]
    gradients = [np.linalg.inv(eye + K @ d) @ K - p for K, d, p in zip(below, dual, phi, strict=True)]
    return [(g + g.T) / 2 for g in gradients]


def descent_ascent(
    C: Floats, y: Floats, *, depth: int, gamma0: float, T: float, rate: float = 0.2, tol: float = 1e-6, steps: int = 5000
) -> tuple[list[Floats], float, int]:
    """Alternate a step down in all Phi and a step up in all hatPhi, from the lazy kernels.

    Simultaneous steps spiral outwards; steps of more than about 0.3 diverge.

    Returns
    -------
    The kernels, the residual (largest gradient relative to its kernel) and the number of steps taken.
    """
    phi = [C.copy() for _ in range(depth)]
    dual = [np.zeros_like(C) for _ in range(depth)]
    residual, taken = np.inf, 0
    while residual >= tol and taken < steps:
        taken += 1
        down = gradient_in_phi(phi, dual, y, gamma0, T)
        phi = [p - rate * g for p, g in zip(phi, down, strict=True)]
        up = gradient_in_dual(C, phi, dual)
        dual = [d + rate * g for d, g in zip(dual, up, strict=True)]
        # The first dual kernels start from 0 and stay there for a step or two.
        sizes = [max(float(np.linalg.norm(a)), 1e-300) for a in (*phi, *dual)]
        residual = max(float(np.linalg.norm(g)) / size for g, size in zip([*up, *down], sizes, strict=True))
    return phi, residual, taken
