r"""How large the first term left out of the series in gamma0^2 is.

Two effects of opposite sign make the next term from the present one. The tilt grows with itself: relative to the present term

    growth = gamma0^2 max_l tr(v_0^T Phi^l_1 v_0) / tr(v_0^T K^l v_0);

and the error signal v that drives it shrinks, to first order by

    feedback = -2 gamma0^2 tr(v_0^T K^L v_1) / tr(v_0^T K^L v_0).

For linear networks on whitened data with C = 1 they are exactly L m gamma0^2 and twice that over 1 + T, m = v_0^T C v_0, and the
next term of layer l is the present one times growth - feedback + (l - 1) m gamma0^2 / 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["growth_and_feedback", "missing_terms"]

Array = NDArray[np.float64]

# (l - 1)/2 of a layer's growth per layer comes on top of growth: below one half of it.
_LAYERS = 1.5
# Ratio of the third to the second term over that of the second to the first: 2 for Catalan's numbers (linear, L = 1, no ridge),
# less with depth or ridge.
_NEXT = 1.5
# Second terms smaller than these shares of growth or feedback are cancellations; the terms after them do not cancel too.
_FLOOR_FIRST, _FLOOR_SECOND = 0.1, 0.25


def growth_and_feedback(kernels: Array, slopes: Array, V0: Array, V1: Array, eps: float) -> tuple[float, float]:
    """Return the two ratios from (L + 1, P, P) kernels and slopes, and V_0, V_1 (P, O)."""
    lazy, grown = (np.einsum("mo,lmn,no->l", V0, x[1:], V0, optimize=True) for x in (kernels, slopes))
    growth = np.divide(eps * grown, lazy, out=np.zeros_like(grown), where=lazy > 0).max()
    turned = -2 * eps * float(np.einsum("mo,mn,no->", V0, kernels[-1], V1, optimize=True))
    return float(growth), turned / lazy[-1] if lazy[-1] > 0 else 0.0


def missing_terms(first: Array, second: Array | None, order: int, growth: float, feedback: float) -> Array:
    """Return estimates of the sum of the terms after `order` from the sizes of the terms of gamma0^2 and (if known) gamma0^4.

    The feedback makes the series alternate: its sum is the next term times 1/(1 + ratio), which keeps the estimate honest far
    outside the radius of convergence, where the true kernels grow ever more slowly and the present term is all error.
    """
    reach = max(growth, feedback, 0.0)
    if second is None:
        return np.asarray(first * max(reach / (1 + reach), _LAYERS * growth - feedback))
    ratio = np.divide(second, first, out=np.zeros_like(first), where=first > 0)
    if order == 1:
        ratio = np.maximum(ratio, _FLOOR_FIRST * reach)
        return np.asarray(first * ratio / (1 + ratio))
    ratio = np.maximum(ratio, _FLOOR_SECOND * reach)
    following = _NEXT * ratio.max()
    return np.asarray(first * ratio * following / (1 + following))
