"""Physical laws that every solution must obey, whatever solver made it; tests apply them, nothing here knows a formula.

A "solution" is anything with `kernels` (Phi^0 .. Phi^L) and, where a law needs them, `dual_kernels` (hatPhi^1 .. hatPhi^L)
and `fitted`. A "solve" is a function of (X, y, gamma0) that returns one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Solve = Callable[[np.ndarray, np.ndarray, float], Any]


def dense(kernels: Sequence[Any]) -> list[np.ndarray]:
    """The kernels as P x P arrays."""
    return [np.asarray(kernel) for kernel in kernels]


def relative(difference: np.ndarray, scale: np.ndarray) -> float:
    """Frobenius norm of a difference relative to that of its scale."""
    return float(np.linalg.norm(difference) / np.linalg.norm(scale))


def assert_same_kernels(found: Sequence[Any], expected: Sequence[Any], tol: float) -> None:
    """Layer by layer, in Frobenius norm."""
    assert len(found) == len(expected)
    for a, b in zip(dense(found), dense(expected), strict=True):
        assert relative(a - b, b) < tol


def assert_symmetric_psd(kernels: Sequence[Any], tol: float = 1e-12) -> None:
    """Every kernel is symmetric to the last bit and has no negative eigenvalue beyond rounding."""
    for kernel in dense(kernels):
        np.testing.assert_array_equal(kernel, kernel.T)
        eigenvalues = np.linalg.eigvalsh(kernel)
        assert eigenvalues[0] >= -tol * max(eigenvalues[-1], 1e-300)


def assert_conserved_charge(solution: Any, widths: Sequence[float], tol: float) -> None:
    """n_l Tr Phi^l hatPhi^l is the same number in every layer, and not positive."""
    pairs = zip(dense(solution.kernels)[1:], dense(solution.dual_kernels), widths, strict=True)
    charges = np.array([-n * np.trace(phi @ dual) for phi, dual, n in pairs])
    assert (charges >= 0).all()
    assert np.ptp(charges) <= tol * charges.max()


def assert_permutation_equivariant(solve: Solve, X: np.ndarray, y: np.ndarray, gamma0: float, tol: float, seed: int = 0) -> None:
    """Permuting the data permutes kernels and predictions."""
    order = np.random.default_rng(seed).permutation(len(X))
    plain, permuted = solve(X, y, gamma0), solve(X[order], y[order], gamma0)
    assert_same_kernels(permuted.kernels, [kernel[np.ix_(order, order)] for kernel in dense(plain.kernels)], tol)
    assert relative(permuted.fitted - plain.fitted[order], plain.fitted) < tol


def assert_rotation_invariant(solve: Solve, X: np.ndarray, y: np.ndarray, gamma0: float, tol: float, seed: int = 0) -> None:
    """Rotating the inputs changes nothing."""
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((X.shape[1], X.shape[1])))[0]
    plain, rotated = solve(X, y, gamma0), solve(X @ rotation, y, gamma0)
    assert_same_kernels(rotated.kernels, plain.kernels, tol)
    assert relative(rotated.fitted - plain.fitted, plain.fitted) < tol


def assert_lazy_limit(solve: Solve, X: np.ndarray, y: np.ndarray, lazy: Sequence[np.ndarray], gamma0: float) -> None:
    """As gamma0 -> 0 the kernels tend to the lazy ones, with a distance proportional to gamma0^2."""
    assert_same_kernels(solve(X, y, 0.0).kernels, lazy, 1e-13)
    far, near = (dense(solve(X, y, value).kernels)[-1] - lazy[-1] for value in (gamma0, gamma0 / 10))
    assert relative(far, lazy[-1]) > 1e-9
    assert relative(100 * near - far, far) < 0.1


def assert_label_scaling(solve: Solve, X: np.ndarray, y: np.ndarray, gamma0: float, tol: float, factor: float = 7.0) -> None:
    """Only gamma0 |y| matters to the kernels; predictions scale with y."""
    plain, scaled = solve(X, y, gamma0), solve(X, factor * y, gamma0 / factor)
    assert_same_kernels(scaled.kernels, plain.kernels, tol)
    assert relative(scaled.fitted - factor * plain.fitted, factor * plain.fitted) < tol


def assert_sign_symmetric(solve: Solve, X: np.ndarray, y: np.ndarray, gamma0: float, tol: float) -> None:
    """y -> -y leaves the kernels and turns the predictions."""
    plain, turned = solve(X, y, gamma0), solve(X, -y, gamma0)
    assert_same_kernels(turned.kernels, plain.kernels, tol)
    assert relative(turned.fitted + plain.fitted, plain.fitted) < tol


def assert_homogeneous(solve_at: Callable[[np.ndarray, np.ndarray, float, float], Any], degree: float, tol: float) -> None:
    """Scaling inputs by a scales kernels by a^(2 degree) if T and gamma0^2 are scaled alike; predictions stay.

    `solve_at` takes (X, y, gamma0, beta) and `degree` is that of the features in the inputs (1 for linear and ReLU).
    """
    rng = np.random.default_rng(0)
    X, y, factor = rng.standard_normal((7, 5)), rng.standard_normal(7), 3.0
    size = factor**degree
    plain = solve_at(X, y, 1.3, 4.0)
    scaled = solve_at(factor * X, y, 1.3 * size, 4.0 / size**2)
    assert_same_kernels(scaled.kernels, [size**2 * kernel for kernel in dense(plain.kernels)], tol)
    assert relative(scaled.fitted - plain.fitted, plain.fitted) < tol
