"""Beyond the papers: every layer has its own prior variance g_l and its own width n_l N.

The same engine, another action. It finds that the charge n_l c_l c_hat_l is conserved, that the overlap grows by
g_l (1 + A/n_l) from layer to layer, and one scalar equation; the equal-width network is the special case g = n = 1.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations import whitened
from linkern.derivations.notation import A, L, T, a, c, c_hat, gamma0, l, n, prior, prior_readout, width
from linkern.derivations.routes import log_uniform, solve_chain
from linkern.symbolic import (
    Action,
    Kind,
    NumPyFunction,
    SaddlePoint,
    claim,
    equal,
    find_invariants,
    holds,
    layer_drift,
    reduce_to_scalar,
    vanishes,
)

ORIGIN = "linkern; not in the papers"

action = Action(
    bulk=width[l] * (-c[l] * c_hat[l] + sp.log(1 + prior[l] * c[l - 1] * c_hat[l])) / 2,
    readout=gamma0**2 / (2 * (prior_readout * width[L] * c[L] + T)),
    order_parameters=(c,),
    conjugates=(c_hat,),
)
saddle = SaddlePoint(action)
(invariant,) = find_invariants(saddle)
reduction = reduce_to_scalar(saddle, invariant, -A)

_own = {prior[l]: 1, width[l]: 1, prior[l + 1]: 1, width[l + 1]: 1, width[L]: 1, prior_readout: 1}


def _random_chain(rng):
    depth, g, temperature = rng.randint(2, 5), log_uniform(rng, 0.1, 5), log_uniform(rng, 0.01, 1)
    priors = [log_uniform(rng, 0.5, 2) for _ in range(depth)]
    widths = [log_uniform(rng, 0.5, 2) for _ in range(depth)]
    readout = log_uniform(rng, 0.5, 2)
    return priors, widths, readout, g, temperature, *solve_chain(depth, g, temperature, priors, widths, readout)


@claim(
    r"c_l = \frac{g_l c_{l-1}}{1 + g_l c_{l-1} \hat c_l},\quad"
    r" n_l \hat c_l = \frac{n_{l+1} g_{l+1} \hat c_{l+1}}{1 + g_{l+1} c_l \hat c_{l+1}},\quad"
    r" \hat c_L = -\frac{g_w \gamma_0^2}{(g_w n_L c_L + 1/\beta)^2}",
    Kind.SOLUTION,
    ORIGIN,
)
def layered_recursion():
    """Stationarity at a symbolic layer; with g = n = 1 it is the recursion of the papers."""
    below, above = prior[l] * c[l - 1], prior[l + 1] * width[l + 1] / width[l]
    yield equal("forward", saddle.forward[c[l]], below / (1 + below * c_hat[l]))
    stated = above * c_hat[l + 1] / (1 + prior[l + 1] * c[l] * c_hat[l + 1])
    yield equal("backward", saddle.backward[c_hat[l]], stated)
    demand = -prior_readout * gamma0**2 / (prior_readout * width[L] * c[L] + T) ** 2
    yield equal("readout", saddle.boundary[c_hat[L]], demand)
    yield equal("equal layers, forward", saddle.forward[c[l]].subs(_own), whitened.saddle.forward[c[l]])
    yield equal("equal layers, backward", saddle.backward[c_hat[l]].subs(_own), whitened.saddle.backward[c_hat[l]])


@layered_recursion.check
def _(rng):
    # The recursion was stepped upwards by the solver; the last condition is the one that was not imposed layer by layer.
    _, widths, readout, g, temperature, overlaps, conjugates = _random_chain(rng)
    yield conjugates[-1], -readout * g / (readout * widths[-1] * overlaps[-1] + temperature) ** 2


@claim(
    r"n_l c_l \hat c_l = n_{l+1} c_{l+1} \hat c_{l+1} = -A; \text{ found by the same search}",
    Kind.IDENTITY,
    ORIGIN,
)
def layered_conservation():
    """The drift of the found quantity vanishes identically."""
    yield holds("the search returns n_l c_l c_hat_l", sp.Eq(invariant, width[l] * c[l] * c_hat[l]))
    yield vanishes("drift", layer_drift(saddle, invariant))


@layered_conservation.check
def _(rng):
    _, widths, _, _, _, overlaps, conjugates = _random_chain(rng)
    for share, here, conjugate in zip(widths, overlaps, conjugates, strict=True):
        yield share * here * conjugate, widths[0] * overlaps[0] * conjugates[0]


@claim(
    r"c_L = \prod_{l=1}^{L} g_l \Big(1 + \frac{A}{n_l}\Big),\qquad"
    r" A = \frac{g_w n_L \gamma_0^2\, c_L}{(g_w n_L c_L + 1/\beta)^2}",
    Kind.SOLUTION,
    ORIGIN,
)
def layered_depth_law():
    """Growth per layer from the recursion with the conserved charge, and the charge from the readout."""
    growth = prior[l] * (1 + A / width[l])
    yield equal("growth per layer", reduction.growth, growth)
    step = saddle.forward[c[l]].subs(c_hat[l], -A / (width[l] * c[l]))
    yield equal("the recursion holds", step.subs(c[l], growth * c[l - 1]), growth * c[l - 1])
    scale = prior_readout * width[L]
    yield equal("charge", reduction.readout_charge, scale * gamma0**2 * c[L] / (scale * c[L] + T) ** 2)
    yield equal("equal layers", reduction.growth.subs(_own), whitened.reduction.growth.subs(a, A))


@layered_depth_law.check
def _(rng):
    priors, widths, readout, g, temperature, overlaps, _ = _random_chain(rng)
    scale = readout * widths[-1]
    charge = scale * g * overlaps[-1] / (scale * overlaps[-1] + temperature) ** 2
    value = mpf(1)
    for variance, share, overlap in zip(priors, widths, overlaps, strict=True):
        value *= variance * (1 + charge / share)
        yield overlap, value


@claim(
    r"S = \frac{\gamma_0^2}{2(g_w n_L c_L + 1/\beta)} + \frac12 \sum_{l=1}^{L} \Big[A - n_l \ln\Big(1 + \frac{A}{n_l}\Big)\Big]",
    Kind.IDENTITY,
    ORIGIN,
)
def layered_action():
    """The bulk term of one layer on the chain."""
    stated = (A - width[l] * sp.log(1 + A / width[l])) / 2
    yield equal("one layer", reduction.layer_action, stated)
    readout = gamma0**2 / (2 * (prior_readout * width[L] * c[L] + T))
    yield equal("readout", action.readout, readout)


@layered_action.check
def _(rng):
    priors, widths, readout, g, temperature, overlaps, conjugates = _random_chain(rng)
    charge = -widths[0] * overlaps[0] * conjugates[0]
    total, closed, below = mpf(0), mpf(0), mpf(1)
    for variance, share, here, conjugate in zip(priors, widths, overlaps, conjugates, strict=True):
        total += share * (mpmath.log1p(variance * below * conjugate) - here * conjugate) / 2
        closed += (charge - share * mpmath.log1p(charge / share)) / 2
        below = here
    # The readout term is the same on both sides and larger than the rest; the layers are compared without it.
    yield total, closed


_charge, _ratio = sp.symbols("charge ratio", positive=True)
_HOME = "derivations/layered.py"
FUNCTIONS = (
    NumPyFunction(
        "layer_log_growth",
        (_charge, n),
        sp.log(1 + _ratio),
        "Logarithm of the growth of the overlap through one layer of relative width n, besides its prior variance.",
        "ln(1 + A/n)",
        _HOME,
        let=((_ratio, _charge / n),),
    ),
    NumPyFunction(
        "layer_growth_slope",
        (_charge, n),
        _charge / (n + _charge),
        "Slope of one layer's logarithmic growth against the logarithm of the charge.",
        "d ln(1 + A/n) / d ln A = A/(n + A)",
        _HOME,
    ),
    NumPyFunction(
        "layer_action",
        (_charge, n),
        n * (_ratio - sp.log(1 + _ratio)) / 2,
        "Contribution of one layer of relative width n to the action.",
        "[A - n ln(1 + A/n)]/2",
        _HOME,
        let=((_ratio, _charge / n),),
        small=(_ratio, 12, 0.03),
    ),
)

CLAIMS = (layered_recursion, layered_conservation, layered_depth_law, layered_action)
