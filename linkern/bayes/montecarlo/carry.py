r"""Weights of least change that make an average over samples what it is known to be.

Of all weights with sum_s w_s phi_s phi_s^T = Phi, those nearest to given ones u (in relative entropy) are

    w ~ u exp(phi^T A phi/2),   A = argmin ln sum_s u_s exp(phi_s^T A phi_s/2) - Tr(A Phi)/2,

a smooth convex problem of P(P + 1)/2 unknowns. Where there are not many more samples than that, weights can carry Phi F for a
few columns F only, with A = B F^T + F B^T.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from linkern.bayes.montecarlo.averages import gram
from linkern.bayes.montecarlo.law import Samples

__all__ = ["Carried", "carry", "few"]

Floats = NDArray[np.float64]

_ITERATIONS = 40
# Samples per entry of a kernel that can carry all of them.
_PER_UNKNOWN = 16
# Of few eigenvalues the noise is some times the rounding of one.
_ROUNDING = 16


class Carried(NamedTuple):
    """Normalised weights (S,), and the largest singular value of the whitened error that they leave."""

    weights: Floats
    error: float


def few(phi: Samples) -> bool:
    """Whether there are too few samples to carry a whole kernel."""
    P = phi.shape[1]
    return len(phi) < _PER_UNKNOWN * P * (P + 1) // 2


def carry(
    phi: Samples, kernel: Floats, columns: Floats | None = None, weights: Floats | None = None, tol: float = 1e-3
) -> Carried:
    """Weights under which <phi phi^T> is `kernel` up to `tol` in whitened norm, near `weights` (S,) or equal ones; phi is (S, P).

    With columns F (P, k), weights under which <phi phi^T> F is `kernel` F. Directions that the kernel does not have are left
    alone. Cost: two products S P^2, or S P k, per iteration of L-BFGS, some ten.
    """
    start = np.zeros(len(phi)) if weights is None else np.log(np.maximum(weights * len(phi), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(kernel)
    # Below the rounding of the samples the kernel has noise, not directions.
    resolved = values > max(_ROUNDING, len(values)) * np.finfo(phi.dtype).eps * values[-1]
    values, vectors = values[resolved], vectors[:, resolved]
    root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    x = np.asarray(phi @ inverse.astype(phi.dtype))
    S, P = x.shape
    if columns is None:
        F, s = np.eye(P), x
    else:
        F = linalg.orth(root @ columns)
        if not F.size:
            return Carried(np.full(S, 1 / S) if weights is None else weights, 0.0)
        s = x @ F.astype(x.dtype)
    # The data that weights are to have, in units in which the kernel is 1.
    unit = inverse @ root @ F

    def weighed(B: Floats) -> tuple[Floats, float]:
        logs = start + np.einsum("sk,sk->s", x @ B.astype(x.dtype), s).astype(np.float64) / 2
        top = float(logs.max())
        w = np.exp(logs - top)
        total = float(w.sum())
        return w / total, top + np.log(total / S)

    def dual(flat: Floats) -> tuple[float, Floats]:
        B = flat.reshape(F.shape)
        w, log_mean = weighed(B)
        return log_mean - float((B * unit).sum()) / 2, ((gram(x, w, s) - unit) / 2).ravel()

    # Steps that overflow are refused by the line search.
    with np.errstate(over="ignore", invalid="ignore"):
        found = optimize.minimize(
            dual,
            np.zeros(F.size),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "gtol": tol / 2 / P, "ftol": 0.0},
        )
    w = weighed(found.x.reshape(F.shape))[0]
    return Carried(w, float(np.linalg.norm(gram(x, w, s) - unit, 2)))
