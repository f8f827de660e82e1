"""Deep linear Bayes, whitened data: from the action to one scalar equation.

Assumptions: linear activation, data kernel C = I, labels with |y| = 1 (otherwise gamma0 -> gamma0 |y|), width -> infinity at
fixed depth L. The feature kernels differ from the identity in the direction of the labels only, Phi^l = I + (c_l - 1) yy^T,
so that one overlap c_l and its conjugate per layer remain.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import L, T, a, c, c_hat, gamma0, l
from linkern.derivations.routes import lazy_side_overlap, log_uniform, solve_chain
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

PAPER = "Lauditi, Bordelon, Pehlevan (2025)"

action = Action(
    bulk=(-c[l] * c_hat[l] + sp.log(1 + c[l - 1] * c_hat[l])) / 2,
    readout=gamma0**2 / (2 * (c[L] + T)),
    order_parameters=(c,),
    conjugates=(c_hat,),
)
saddle = SaddlePoint(action)
(invariant,) = find_invariants(saddle)
reduction = reduce_to_scalar(saddle, invariant, -a)


def _random_chain(rng):
    """Return depth, gamma0^2, T and the solution of the saddle-point equations found by shooting."""
    depth, g, temperature = rng.randint(2, 6), log_uniform(rng, 0.1, 10), log_uniform(rng, 0.01, 1)
    ones = [mpf(1)] * depth
    return depth, g, temperature, *solve_chain(depth, g, temperature, ones, ones, mpf(1))


@claim(
    r"c_l = \frac{c_{l-1}}{1 + c_{l-1}\hat c_l},\quad \hat c_l = \frac{\hat c_{l+1}}{1 + c_l \hat c_{l+1}},\quad"
    r" \hat c_L = -\frac{\gamma_0^2}{(c_L + 1/\beta)^2}",
    Kind.SOLUTION,
    f"{PAPER}, eqs. 36-38",
)
def whitened_recursion():
    """Stationarity of S at a symbolic layer; the layer calculus itself is compared with plain differentiation."""
    yield equal("forward", saddle.forward[c[l]], c[l - 1] / (1 + c[l - 1] * c_hat[l]))
    yield equal("backward", saddle.backward[c_hat[l]], c_hat[l + 1] / (1 + c[l] * c_hat[l + 1]))
    yield equal("readout", saddle.boundary[c_hat[L]], -(gamma0**2) / (c[L] + T) ** 2)
    written_out = action.at_depth(3)
    for q in (c, c_hat):
        interior, last = action.stationarity(q).subs(l, 2), action.stationarity(q, last=True).subs(L, 3)
        yield equal(f"dS/d{q.name}[2] of three layers written out", sp.diff(written_out, q[2]), interior)
        yield equal(f"dS/d{q.name}[3] of three layers written out", sp.diff(written_out, q[3]), last)


@whitened_recursion.check
def _(rng):
    depth, g, temperature, overlaps, conjugates = _random_chain(rng)

    def entropy(values):
        below, total = mpf(1), mpf(0)
        for here, conjugate in zip(values[:depth], values[depth:], strict=True):
            total += (mpmath.log1p(below * conjugate) - here * conjugate) / 2
            below = here
        return total + g / (2 * (below + temperature))

    point = [*overlaps, *conjugates]
    for i in range(2 * depth):
        shifted = list(point)

        def along(value, i=i, shifted=shifted):
            shifted[i] = value
            return entropy(shifted)

        with mpmath.workdps(140):
            yield 1 + mpmath.diff(along, point[i]), mpf(1)


@claim(
    r"c_l \hat c_l = c_{l+1} \hat c_{l+1} \quad (1 \le l < L); \text{ found by a search, the only one of degree} \le 2",
    Kind.IDENTITY,
    f"{PAPER}, eqs. 39-40",
)
def conservation():
    """The drift of the found quantity from layer to layer vanishes identically."""
    yield holds("the search returns c_l c_hat_l", sp.Eq(invariant, c[l] * c_hat[l]))
    yield vanishes("drift", layer_drift(saddle, invariant))


@conservation.check
def _(rng):
    _, _, _, overlaps, conjugates = _random_chain(rng)
    for here, conjugate in zip(overlaps, conjugates, strict=True):
        yield here * conjugate, overlaps[0] * conjugates[0]


@claim(
    r"c_l = (1 + a)^l,\qquad a = \frac{\gamma_0^2 c_L}{(c_L + 1/\beta)^2}",
    Kind.SOLUTION,
    f"{PAPER}, eqs. 16 and 41",
)
def exponential_depth_law():
    """With the conserved charge -a the recursion is geometric; induction over layers from c_0 = 1."""
    profile = reduction.profile()
    charge_at = -a / c[l]
    yield equal("start of the induction", profile.subs(l, 0), 1)
    below, here = profile.subs(l, l - 1), profile
    step = saddle.forward[c[l]].subs(c_hat[l], charge_at)
    yield equal("step of the induction", step.subs({c[l]: here, c[l - 1]: below}), here)
    dual = (charge_at.subs(c[l], here), charge_at.subs(c[l], here).subs(l, l + 1))
    backward = saddle.backward[c_hat[l]].subs({c_hat[l + 1]: dual[1], c[l]: here})
    yield equal("the conjugates obey their recursion", backward, dual[0])
    yield equal("the charge set by the data", reduction.readout_charge, gamma0**2 * c[L] / (c[L] + T) ** 2)


@exponential_depth_law.check
def _(rng):
    _, g, temperature, overlaps, _ = _random_chain(rng)
    charge = g * overlaps[-1] / (overlaps[-1] + temperature) ** 2
    for index, overlap in enumerate(overlaps, start=1):
        yield overlap, (1 + charge) ** index


@claim(
    r"c_L = \left(1 + \frac{\gamma_0^2 c_L}{(c_L + 1/\beta)^2}\right)^L",
    Kind.SOLUTION,
    f"{PAPER}, eq. 41",
)
def scalar_equation():
    """The reduction's equation, term by term."""
    equation = reduction.scalar_equation
    yield equal("left side", equation.lhs, c[L])
    yield equal("right side", equation.rhs, (1 + gamma0**2 * c[L] / (c[L] + T) ** 2) ** L)


@scalar_equation.check
def _(rng):
    depth, g, temperature, overlaps, _ = _random_chain(rng)
    yield overlaps[-1], lazy_side_overlap(depth, g, temperature)


@claim(
    r"S = \frac{\gamma_0^2}{2(c_L + 1/\beta)} + \frac{L}{2}\left[a - \ln(1+a)\right]",
    Kind.IDENTITY,
    "linkern, from the action",
)
def reduced_action():
    """The action on the chain, and its slope: the reduced force."""
    yield equal("value", reduction.action - gamma0**2 / (2 * (c[L] + T)), L * (a - sp.log(1 + a)) / 2)
    chain = reduction.action.subs(c[L], reduction.profile(L))
    slope = sp.diff(chain, a) / sp.diff(sp.log(reduction.profile(L)), a)
    yield equal("dS/d ln c_L is the force", slope, reduction.force.subs(c[L], reduction.profile(L)))


@reduced_action.check
def _(rng):
    depth, g, temperature, overlaps, conjugates = _random_chain(rng)
    total, below = g / (2 * (overlaps[-1] + temperature)), mpf(1)
    for here, conjugate in zip(overlaps, conjugates, strict=True):
        total += (mpmath.log1p(below * conjugate) - here * conjugate) / 2
        below = here
    charge = g * overlaps[-1] / (overlaps[-1] + temperature) ** 2
    yield total, g / (2 * (overlaps[-1] + temperature)) + mpf(depth) / 2 * (charge - mpmath.log1p(charge))


FUNCTIONS = (
    NumPyFunction(
        "overlap_excess",
        (a, l),
        sp.exp(l * sp.log(1 + a)) - 1,
        "Growth c_l - 1 of the overlap up to layer l (equal layers) at conserved charge a.",
        "(1 + a)^l - 1",
        "derivations/whitened.py",
    ),
)

CLAIMS = (whitened_recursion, conservation, exponential_depth_law, scalar_equation, reduced_action)
