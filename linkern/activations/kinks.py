"""Slopes averaged over what a step crosses, so that trajectories feel a kink before they are beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.activations.activation import Activation

__all__ = ["averaged_slope"]

Array = NDArray[Any]


def averaged_slope(activation: Activation, h: Array, reach: Array) -> Array:
    """phi' averaged over h +- reach > 0, of the dtype of h: two evaluations of phi, or of degree one a ramp."""
    if activation.degree == 1:
        # The same ratio: from the slope on the left to that on the right of the only kink, linearly.
        left, right = (sign * float(activation.value(np.array(sign))) for sign in (-1.0, 1.0))
        slope = h * (0.5 * (right - left) / reach)
        slope += 0.5 * (right + left)
        return np.clip(slope, min(left, right), max(left, right), out=slope)
    return np.asarray((activation.value(h + reach) - activation.value(h - reach)) / (2.0 * reach))
