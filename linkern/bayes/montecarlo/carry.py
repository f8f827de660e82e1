r"""Weights of least change that make an average over samples what it is known to be.

Of all weights with sum_s w_s phi_s phi_s^T = Phi, those nearest to equal ones (in relative entropy) are

    w ~ exp(phi^T A phi/2),   A = argmin ln sum_s exp(phi_s^T A phi_s/2) - Tr(A Phi)/2,

a smooth convex problem of P(P + 1)/2 unknowns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from linkern.bayes.montecarlo.averages import gram
from linkern.bayes.montecarlo.law import Samples, roots_of

__all__ = ["Carried", "carry"]

Floats = NDArray[np.float64]

_ITERATIONS = 40


class Carried(NamedTuple):
    """Normalised weights (S,), and the largest eigenvalue of the whitened error that they leave."""

    weights: Floats
    error: float


def carry(phi: Samples, kernel: Floats, tol: float = 1e-3) -> Carried:
    """Weights under which <phi phi^T> is `kernel` up to `tol` in whitened norm; phi is (S, P).

    Directions that the kernel does not have are left alone. Cost: two products S P^2 per iteration of L-BFGS, some ten.
    """
    inverse = roots_of(kernel)[1]
    x = np.asarray(phi @ inverse.astype(phi.dtype))
    S, P = x.shape
    unit = inverse @ kernel @ inverse

    def weighed(A: Floats) -> tuple[Floats, float]:
        logs = np.einsum("sp,sp->s", x @ A.astype(x.dtype), x).astype(np.float64) / 2
        top = float(logs.max())
        w = np.exp(logs - top)
        total = float(w.sum())
        return w / total, top + np.log(total / S)

    def dual(flat: Floats) -> tuple[float, Floats]:
        A = flat.reshape(P, P)
        w, log_mean = weighed(A)
        return log_mean - float((A * unit).sum()) / 2, ((gram(x, w, x) - unit) / 2).ravel()

    found = optimize.minimize(
        dual, np.zeros(P * P), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "gtol": tol / 2 / P, "ftol": 0.0}
    )
    w = weighed(found.x.reshape(P, P))[0]
    return Carried(w, float(np.linalg.norm(gram(x, w, x) - unit, 2)))
