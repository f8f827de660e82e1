r"""Posterior averages over Q of everything that a network computes, from a quadrature or from an expansion.

Both are linear functionals of functions of t = ln Q, written as a few weighted rows: values at quadrature nodes, or the
value and two derivatives at a saddle point,

    <F> = sum_n w_n F(t_n)        or        <F> = F + delta F' + F''/(2a).

Every kernel is then, in the eigenbasis of K (and in units of its lazy value G_l K),

    Phi^l = alpha_l K + K [ B^T core_l B - diag(shrinkage_l) ] K,     B = rows of v,

because Phi^l = (1 - 1/N_l) Phi^{l-1} + (1/N_l) <Q_{<l} [K + gQ K (v v^T - A^{-1}) K]>, Q_{<l} = q_1 ... q_{l-1}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.width.likelihood import ModeLikelihood
from linkern.bayes.width.quadrature import Nodes
from linkern.generated import width as formulas

__all__ = ["Average", "Expansion", "LayerWeights", "average_of_expansion", "average_of_nodes"]

Floats = NDArray[np.float64]
Method = Literal["exact", "tree", "one-loop", "saddle", "saddle-nlo"]


class LayerWeights(NamedTuple):
    """What one layer's kernel needs: alpha, core (m,) or (m, m), shrinkage (r,)."""

    scale: float
    core: Floats
    shrinkage: Floats


@dataclass(frozen=True)
class Average:
    """Averages in the eigenbasis of K.

    Attributes
    ----------
    gains : (r,) array
        <x_i>; the mean output is x_i b_i.
    fluctuations : (k, r) array
        Cov(x_i, x_j) = sum_k of products of rows.
    signal_rows : (m, r) array
        Rows of 1/A_i.
    misfits : (r,) array
        <1/A_i>.
    layers : tuple of LayerWeights
        For l = 1..L.
    growth : (L + 1,) array
        <Q_{<= l}>, l = 0..L.
    log_q_mean, log_q_variance : float
        Of t = ln Q.
    """

    gains: Floats
    fluctuations: Floats
    signal_rows: Floats
    misfits: Floats
    layers: tuple[LayerWeights, ...]
    growth: Floats
    log_q_mean: float
    log_q_variance: float


@dataclass(frozen=True)
class Expansion:
    """Laplace's method at one saddle point.

    Attributes
    ----------
    t : float
        The saddle point.
    shift : float
        delta, the mean of t minus the saddle point (0 at leading order).
    variance : float
        1/a.
    q : (L,) array
        The layers' factors, prod q_l = e^t.
    compliance : (L,) array
        2 / (N_l q_l).
    method : str
        Which terms to keep.
    """

    t: float
    shift: float
    variance: float
    q: Floats
    compliance: Floats
    method: Method


def average_of_nodes(likelihood: ModeLikelihood, problem: int, nodes: Nodes, widths: Floats) -> Average:
    """Average over quadrature nodes: O(n r) time and memory for n nodes."""
    x, precision = likelihood.gains(nodes.t, np.full(nodes.t.size, problem))
    w = nodes.weights
    gains = w @ x
    scale = likelihood.scale[problem] * np.exp(nodes.t)
    layers, alpha, weights = [], 1.0, np.zeros(w.size)
    for width, growth in zip(widths, nodes.growth, strict=True):
        share = w * growth / width
        alpha = (1 - 1 / width) * alpha + share.sum()
        weights = (1 - 1 / width) * weights + share
        core = weights * scale
        layers.append(LayerWeights(float(alpha), core, core @ precision))
    growths = np.vstack([nodes.growth, np.exp(nodes.t)]) @ w
    mean = float(w @ nodes.t)
    return Average(
        gains=gains,
        fluctuations=np.sqrt(w)[:, None] * (x - gains),
        signal_rows=precision,
        misfits=w @ precision,
        layers=tuple(layers),
        growth=growths,
        log_q_mean=mean,
        log_q_variance=float(w @ (nodes.t - mean) ** 2),
    )


def average_of_expansion(likelihood: ModeLikelihood, problem: int, point: Expansion, widths: Floats) -> Average:
    """Average by Laplace's method: O(r).

    "tree" and "saddle" take every function at the saddle point; the other two add its first correction. Covariances
    are of leading order in all four. Tree level has no shrinkage, which is of the order of one loop.
    """
    corrected = point.method in ("one-loop", "saddle-nlo")
    weights = np.array([1.0, point.shift, point.variance / 2]) * (1.0 if corrected else np.array([1.0, 0.0, 0.0]))
    x, precision = (rows[0] for rows in likelihood.gains(np.array([point.t]), np.array([problem])))
    x1, x2 = formulas.gain_slope(x), formulas.gain_curvature(x)
    rows = precision * np.array([np.ones_like(x), formulas.precision_slope(x), formulas.precision_curvature(x)])
    jets = _growth_jets(point, corrected)
    scale = float(likelihood.scale[problem] * np.exp(point.t))
    # Products with gQ: e^t has all derivatives equal to itself.
    multiply = np.array([[1.0, 0, 0], [1, 1, 0], [1, 2, 1]])
    strengths = [(_Jet(scale * (multiply @ jet.derivatives), jet.correction)) for jet in jets[:-1]]
    return Average(
        gains=weights @ np.array([x, x1, x2]),
        fluctuations=np.sqrt(point.variance) * x1[None],
        signal_rows=rows,
        misfits=weights @ rows,
        layers=_expansion_layers(point, widths, weights, rows, jets, strengths),
        growth=np.array([jet.mean(weights) for jet in jets]),
        log_q_mean=point.t + weights[1],
        log_q_variance=point.variance,
    )


class _Jet(NamedTuple):
    """Value and two derivatives in t, and a relative correction of order 1/N to the value."""

    derivatives: Floats
    correction: float

    def mean(self, weights: Floats) -> float:
        return float(weights @ self.derivatives + self.correction * self.derivatives[0])


def _growth_jets(point: Expansion, corrected: bool) -> list[_Jet]:
    """E[q_1 ... q_{l-1} | t] for l = 1..L + 1."""
    k1, k2 = point.compliance.sum(), (point.compliance**2).sum()
    jets = []
    for l in range(point.q.size + 1):
        s1, s2 = point.compliance[:l].sum(), (point.compliance[:l] ** 2).sum()
        slope, curvature = formulas.growth_slope(s1, k1), formulas.growth_curvature(s1, s2, k1, k2)
        correction = formulas.growth_correction(s1, s2, k1, k2) if corrected else 0.0
        jets.append(_Jet(point.q[:l].prod() * np.array([1.0, slope, slope**2 + curvature]), float(correction)))
    return jets


def _expansion_layers(
    point: Expansion, widths: Floats, weights: Floats, rows: Floats, jets: list[_Jet], strengths: list[_Jet]
) -> tuple[LayerWeights, ...]:
    leading = np.array([1.0, 0.0, 0.0])
    strict = point.method in ("tree", "one-loop")
    layers, alpha = [], 1.0
    core, shrinkage, zeroth = np.zeros((3, 3)), np.zeros(rows.shape[1]), np.zeros((3, 3))
    for width, jet, strength in zip(widths, jets, strengths, strict=False):
        if strict:
            # Orders in 1/N are kept apart: 1 - 1/N multiplies leading terms only, shrinkage is taken at the saddle.
            if point.method == "one-loop":
                alpha += (jet.mean(leading) - 1) / width
                shrinkage = shrinkage + strength.mean(leading) / width * rows[0]
                core = core - zeroth / width
        else:
            alpha = (1 - 1 / width) * alpha + jet.mean(weights) / width
            shrinkage = (1 - 1 / width) * shrinkage + _diagonal(strength, weights, rows) / width
            core = (1 - 1 / width) * core
        core = core + _outer(strength, weights) / width
        zeroth = zeroth + _outer(strength._replace(correction=0.0), leading) / width
        layers.append(LayerWeights(float(alpha), core, shrinkage))
    return tuple(layers)


def _outer(strength: _Jet, weights: Floats) -> Floats:
    """Coefficients of <rho p p^T> in products of p, p', p''."""
    value, first, _ = strength.derivatives
    _, shift, half = weights
    cross, last = shift * value + 2 * half * first, half * value
    return np.array([[strength.mean(weights), cross, last], [cross, 2 * last, 0.0], [last, 0.0, 0.0]])


def _diagonal(strength: _Jet, weights: Floats, rows: Floats) -> Floats:
    """<rho p>."""
    value, first, _ = strength.derivatives
    _, shift, half = weights
    return np.asarray(strength.mean(weights) * rows[0] + (shift * value + 2 * half * first) * rows[1] + half * value * rows[2])
