"""The residual of a solution: the saddle-point equations of every layer as matrix equations, in low-rank algebra.

Nothing of how the solution was found enters. Given the claimed matrices (in the eigenbasis of C, where C = diag(lam))

    Phi^l = G_l (C + W diag(core_l) W^T),    hatPhi^l = -gamma0^2 V diag(dual_l) V^T,    Phi^0 = C,

it evaluates Phi^l + g_l Phi^{l-1} hatPhi^l Phi^l = g_l Phi^{l-1}, its dual, and (g_w n_L Phi^L + T) V = Y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.ensemble import Ensemble

__all__ = ["Claim", "residual"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Claim:
    """A claimed solution in the eigenbasis of C.

    Attributes
    ----------
    lam : (r,) array
        Eigenvalues of C.
    b, V, W : (r, O) arrays
        Labels, error signals, and the columns of the kernels' update.
    scales : (L + 1,) array
        Multiples of C in Phi^l, l = 0..L.
    core : (L + 1, O) array
        Phi^l = scales[l] (C + W diag(core[l]) W^T).
    dual : (L, O) array
        hatPhi^l = -gamma0^2 V diag(dual[l - 1]) V^T, l = 1..L.
    """

    lam: Floats
    b: Floats
    V: Floats
    W: Floats
    scales: Floats
    core: Floats
    dual: Floats


@dataclass(frozen=True)
class _Scaled:
    """The claim in units in which C, V and the lazy kernels are of order 1, so that no norm overflows.

    `images` holds Phi^l V for l = 0..L, `steps` the ratios g_l scales[l-1] / scales[l] (1 if the scales are right).
    """

    lam: Floats
    V: Floats
    W: Floats
    core: Floats
    dual: Floats
    images: Floats
    steps: Floats
    widths: Floats


def residual(claim: Claim, ensemble: Ensemble) -> float:
    """Return the largest violation of the equations, each relative to its own largest term (Frobenius norms).

    Time and memory O(L r O).
    """
    if not claim.lam.size or not claim.b.any():
        return 0.0
    unit, size = float(claim.lam.max()), float(np.abs(claim.V).max())
    lam, V, W = claim.lam / unit, claim.V / size, claim.W / np.sqrt(unit)
    images = lam[:, None] * V + W @ (claim.core[:, :, None] * (W.T @ V))
    strength = (ensemble.gamma0 * size * np.sqrt(unit)) ** 2
    scaled = _Scaled(
        lam=lam,
        V=V,
        W=W,
        core=claim.core,
        dual=claim.dual * claim.scales[1:, None] * strength,
        images=images,
        steps=ensemble.prior_variances[:-1] * claim.scales[:-1] / claim.scales[1:],
        widths=ensemble.widths,
    )
    top = strength * ensemble.prior_variances[-1] * claim.scales[-1]
    return max(
        _label_equation(claim, ensemble, images[-1] * unit * size),
        _layer_equations(scaled),
        _dual_equations(scaled),
        _relative(np.abs(scaled.dual[-1] - top), np.full(V.shape[1], top)),
    )


def _relative(error: Floats, scale: Floats) -> float:
    ratio = np.where(scale > 0, error / np.where(scale > 0, scale, 1.0), error)
    return float(ratio.max(initial=0.0))


def _label_equation(claim: Claim, ensemble: Ensemble, image: Floats) -> float:
    """(g_w n_L Phi^L + T) V = Y."""
    factor = ensemble.prior_variances[-1] * ensemble.widths[-1] * claim.scales[-1]
    largest = float(np.abs(claim.b).max())
    error = (image / largest) * factor + (claim.V / largest) * ensemble.temperature - claim.b / largest
    return float(np.linalg.norm(error) / np.linalg.norm(claim.b / largest))


def _layer_equations(claim: _Scaled) -> float:
    """Phi^l - g_l Phi^{l-1} = g_l (Phi^{l-1} V) diag(dual_l) (Phi^l V)^T for every l: both sides are C plus rank O."""
    before, after, step = claim.images[:-1], claim.images[1:], claim.steps[:, None]
    update = claim.core[1:] - step * claim.core[:-1]
    W = np.broadcast_to(claim.W, before.shape)
    left = np.concatenate([W * update[:, None], -before * (step * claim.dual)[:, None]], axis=2)
    error = np.abs(1 - claim.steps) * np.linalg.norm(claim.lam) + _product_norm(left, np.concatenate([W, after], axis=2))
    return _relative(error, np.linalg.norm(claim.lam) + _product_norm(W * claim.core[1:, None], W))


def _dual_equations(claim: _Scaled) -> float:
    """n_l hatPhi^l (1 + g_{l+1} Phi^l hatPhi^{l+1}) = n_{l+1} g_{l+1} hatPhi^{l+1} for l < L."""
    R = np.asarray(np.linalg.qr(claim.V, mode="r"))
    overlaps = np.einsum("ro,lrp->lop", claim.V, claim.images[1:-1])
    below = claim.widths[:-1, None] * claim.dual[:-1]
    next_dual = claim.steps[1:, None] * claim.dual[1:]
    above = claim.widths[1:, None] * next_dual
    eye = np.eye(claim.V.shape[1])
    error = below[:, :, None] * (eye - overlaps * next_dual[:, None]) - above[:, :, None] * eye
    largest = np.maximum(below, above)[:, :, None] * eye
    return _relative(np.linalg.norm(R @ error @ R.T, axis=(1, 2)), np.linalg.norm(R @ largest @ R.T, axis=(1, 2)))


def _product_norm(A: Floats, B: Floats) -> Floats:
    """Frobenius norms of A_l B_l^T for thin A_l and B_l, by QR (a Gram matrix would lose half of the digits)."""
    left, right = (np.asarray(np.linalg.qr(factor, mode="r")) for factor in (A, B))
    return np.asarray(np.linalg.norm(left @ right.swapaxes(1, 2), axis=(1, 2)))
