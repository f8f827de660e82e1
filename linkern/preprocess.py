r"""Scaling inputs before anything is learned: centring, the sphere, whitening; in terms of C = X X^T / D."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import checks

__all__ = ["normalise", "whiten"]

Array = NDArray[np.float64]

# What centring leaves of a row is rounding when it is this small compared with the row.
_ROUNDING = 1e-13


def normalise(X: ArrayLike, X_test: ArrayLike | None = None, *, center: bool, sphere: bool) -> tuple[Array, Array]:
    """Return copies of (X, X_test), first centred, then put on the sphere; each step only if asked for.

    Parameters
    ----------
    X, X_test : (P, D), (P_test, D) array_like
        No `X_test` means P_test = 0.
    center : bool
        Subtract the mean of the *training* inputs from both. Centred training rows are linearly dependent: C becomes
        singular, and a linear kernel then needs a finite beta.
    sphere : bool
        Rescale every row to |x|^2 = D: C gets a unit diagonal.

    Raises
    ------
    ValueError
        A zero row cannot go onto the sphere; the message has its index.
    """
    X = checks.real_array("X", X, ndim=2)
    test = X[:0] if X_test is None or np.size(X_test) == 0 else checks.real_array("X_test", X_test, ndim=2)
    if test.shape[1] != X.shape[1]:
        raise ValueError(f"X_test: expected {X.shape[1]} columns as in X, got shape {test.shape}")
    shift = X.mean(axis=0) if center else np.zeros(X.shape[1])
    scaled = []
    for name, rows in (("X", X), ("X_test", test)):
        moved = rows - shift
        if sphere:
            lengths = np.linalg.norm(moved, axis=1, keepdims=True)
            zero = np.flatnonzero(lengths[:, 0] <= _ROUNDING * np.linalg.norm(rows, axis=1))
            if zero.size:
                after = " after centring" if center else ""
                raise ValueError(f"{name}: expected non-zero rows for sphere=True, got row {zero[0]} = 0{after}")
            moved = moved / lengths * np.sqrt(X.shape[1])
        scaled.append(moved)
    return scaled[0], scaled[1]


def whiten(X: ArrayLike, *, project: bool = False) -> Array:
    """Return the closest inputs whose data kernel is the identity: sqrt(D) U V^T from X = U diag(s) V^T.

    Parameters
    ----------
    X : (P, D) array_like
    project : bool
        What to do with r < P linearly independent rows, where C = I is impossible (C = X X^T / D has rank at most D, so
        always when P > D): raise an error, or return inputs for which C is the projector onto the range of X X^T, that
        is the identity there and zero on the P - r other directions.

    Returns
    -------
    (P, D) ndarray

    Raises
    ------
    ValueError
        Dependent rows and not `project`.
    """
    X = checks.real_array("X", X, ndim=2)
    P, D = X.shape
    U, s, Vt = linalg.svd(X, full_matrices=False)
    rank = int((s > s[0] * max(P, D) * np.finfo(np.float64).eps).sum())
    if rank < P and not project:
        reason = f"P > D = {D} rows always are" if P > D else "look for duplicates, zero rows or a subtracted mean"
        raise ValueError(
            f"X: expected {P} linearly independent rows, without which X X^T / D = I is impossible, got rank {rank} "
            f"(dependent: {reason}); project=True gives the identity on the range"
        )
    return np.sqrt(D) * (U[:, :rank] @ Vt[:rank])
