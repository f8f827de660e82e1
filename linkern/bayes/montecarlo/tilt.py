r"""Which activations have an infinite-width posterior at gamma0 > 0: those that grow at most linearly.

Training tilts the Gaussian of the last layer by exp(+gamma^2 (v . phi(h))^2 / 2). Against exp(-h^2 / 2) this has a finite
integral for small v when |phi(h)| <= a + b |h|, and for no v but zero when phi grows faster.
"""

from __future__ import annotations

import numpy as np

from linkern.activations import Activation

__all__ = ["require_finite_tilt"]

# Eight points in every decade, so that an oscillating activation does not slip through at its zeros; small ones for the domain.
_DECADES = 10.0 ** np.arange(-2, 7)
_PHASES = np.linspace(1.0, 4.5, 8)
# |phi(t)| / |t| may settle by this factor over the last decade; t ln t already grows by 1.2.
_SETTLING = 1.1
# Ratios below this belong to bounded or slowly growing activations, whatever their phase.
_NEGLIGIBLE = 1e-4


def require_finite_tilt(activation: Activation) -> None:
    """Refuse an activation whose tilted measures are infinite at every gamma0 > 0.

    Parameters
    ----------
    activation : Activation
        Judged by its degree where it has one, else by |phi(t)| / |t| at |t| up to 4.5e6.

    Raises
    ------
    ValueError
        Faster than linear growth, or values that are not finite numbers at these t.
    """
    condition = "expected |phi(h)| to grow at most linearly (otherwise exp(gamma0^2 (v . phi)^2 / 2) has no Gaussian average)"
    if activation.degree is not None:
        if activation.degree > 1:
            raise ValueError(f"activation: {condition}, got {activation.name!r} of degree {activation.degree:g}")
        return
    t = (_DECADES[:, None] * _PHASES)[..., None] * np.array([1.0, -1.0])
    with np.errstate(all="ignore"):
        values = np.asarray(activation.value(t.ravel()), dtype=np.float64).reshape(t.shape)
        ratios = np.abs(values / t).max(axis=1)
    if not np.isfinite(values).all():
        where = float(t[~np.isfinite(values)][0])
        got = "not a number" if np.isnan(values).any() else "an overflow"
        raise ValueError(f"activation: {condition}, got {got} from {activation.name!r} at h = {where:g}")
    if (ratios[-1] > np.maximum(_SETTLING * ratios[-2], _NEGLIGIBLE)).any():
        raise ValueError(
            f"activation: {condition}, got |phi(h)|/|h| = {ratios[-2].max():.3g} near |h| = 1e5 "
            f"and {ratios[-1].max():.3g} near 1e6 from {activation.name!r}"
        )
