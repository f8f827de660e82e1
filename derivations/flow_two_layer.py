"""Two-layer networks on whitened data with weight decay: the transition, and all that is fixed at rest.

A neuron has preactivations h (one per point) and a readout weight z; Delta = y - f, f = <z phi(h)>/gamma0 and

    dh/dt = -lambda h + gamma0 phi'(h) Delta z,    dz/dt = -lambda z + gamma0 Delta . phi(h)        (C = I)

A is the set of points where the neuron fires, |Delta_A|^2 the sum of Delta^2 over it. With ReLU h_mu < 0 obeys dh_mu/dt =
-lambda h_mu and never fires again, so A only shrinks; h_mu > 0 at rest needs Delta_mu z > 0, so all labels in A have one sign.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import gamma0
from linkern.derivations.routes import log_uniform
from linkern.symbolic import Kind, claim, holds, tends_to, vanishes

PAPER = "Lauditi, Bordelon, Pehlevan (2025), (69)-(74) for one point with y = 1; linkern for any labels"
ORIGIN = "linkern; not in the papers"

decay, m, size, S = sp.symbols("lambda m n S", positive=True)  # size = |y_j| of a group of points
z = sp.Symbol("z", real=True)


def _labels(rng):
    """Labels of both signs, gamma0 and a decay below both transitions."""
    y = [mpf(rng.uniform(0.3, 1)) * sign for sign in (1, 1, 1, -1, -1)]
    strength = log_uniform(rng, 0.5, 4)
    weakest = mpmath.sqrt(sum(v**2 for v in y if v < 0))
    return y, strength, strength * weakest * mpf(rng.uniform(0.2, 0.8))


def _groups(y):
    """Positive and negative part and their norms."""
    parts = [[v if v * sign > 0 else mpf(0) for v in y] for sign in (1, -1)]
    return [(part, mpmath.sqrt(sum(v**2 for v in part))) for part in parts]


@claim(
    r"(h, z) \ne 0 \text{ at rest} \Rightarrow \gamma_0 |\Delta_A| = \lambda,\; h = z \Delta_A/|\Delta_A|,\; |h|^2 = z^2;"
    r"\quad \text{near rest: rates } \pm\gamma_0|\Delta_A| - \lambda",
    Kind.SOLUTION,
    PAPER,
)
def two_layer_neuron_at_rest():
    """Eliminate h; a set that contains another one has the larger norm, so neurons that fire less die out."""
    error, more = sp.symbols("e d", positive=True)  # |Delta_A|^2, and what further points add to it
    drive = gamma0**2 * error * z / decay
    yield vanishes(
        "h eliminated: z (lambda^2 - gamma0^2 |Delta_A|^2) = 0", decay * z - drive - z * (decay**2 - gamma0**2 * error) / decay
    )
    alive = {error: decay**2 / gamma0**2}
    yield vanishes("|h|^2 = z^2", (gamma0**2 * error * z**2 / decay**2).subs(alive) - z**2)
    yield vanishes("h = z Delta/|Delta|", (gamma0 / decay - 1 / sp.sqrt(error)).subs(alive))
    slope = sp.Matrix([[-decay, gamma0 * sp.sqrt(error)], [gamma0 * sp.sqrt(error), -decay]])
    for sign in (1, -1):
        residue = slope * sp.Matrix([1, sign]) - (sign * gamma0 * sp.sqrt(error) - decay) * sp.Matrix([1, sign])
        yield holds(f"mode p {'+' if sign > 0 else '-'} z", residue.is_zero_matrix)
    yield holds("a larger set, a larger rate", sp.expand(gamma0**2 * (error + more) - gamma0**2 * error).is_positive)


@two_layer_neuron_at_rest.check
def _(rng):
    errors, strength = [mpf(rng.gauss(0, 1)) for _ in range(3)], log_uniform(rng, 0.5, 4)
    value = strength * mpmath.sqrt(sum(e**2 for e in errors))
    # The linear system of one neuron (h_1, h_2, h_3, z), by its spectrum.
    matrix = mpmath.zeros(4, 4)
    for i, e in enumerate(errors):
        matrix[i, 3] = matrix[3, i] = strength * e
    rates, vectors = mpmath.eigsy(matrix)
    yield rates[3], value
    yield -rates[0], value
    for i, e in enumerate(errors):
        yield vectors[i, 3] / vectors[3, 3], strength * e / value


@claim(
    r"m_j = \langle z^2\rangle_j = \langle |h|^2\rangle_j = \max(\gamma_0|y_j| - \lambda, 0),\quad f_j = y_j m_j/(\gamma_0|y_j|),"
    r"\quad \Phi = \sum_j m_j\, y_j y_j^T/|y_j|^2,\quad K\Delta = 2\lambda f",
    Kind.SOLUTION,
    PAPER,
)
def two_layer_fixed_point():
    """One group j of neurons that fire on the same points (linear: all; ReLU: the labels of one sign); Delta_j = e y_j."""
    # Self-consistency f_j = <z h>/gamma0 = m Delta_j/lambda, hence Delta_j = y_j/(1 + m/lambda).
    shrink = 1 / (1 + m / decay)
    at = {m: gamma0 * size - decay}
    yield vanishes("gamma0 |Delta_j| = lambda", sp.simplify((gamma0 * size * shrink - decay).subs(at)))
    fitted = m / (gamma0 * size)
    yield vanishes("f_j = (1 - e) y_j", sp.simplify((1 - shrink - fitted).subs(at)))
    yield vanishes("the paper's m = gamma0 - lambda at y = 1", (at[m] - (gamma0 - decay)).subs(size, 1))
    # K on the group: m y y^T/|y|^2 + m I.
    yield vanishes("K Delta = 2 lambda f", sp.simplify((2 * m * shrink - 2 * decay * fitted).subs(at)))
    yield vanishes("continuous at the transition", at[m].subs(decay, gamma0 * size))


@two_layer_fixed_point.check
def _(rng):
    y, strength, value = _labels(rng)
    neurons = []
    for sign, (part, norm) in zip((1, -1), _groups(y), strict=True):
        weights = [mpf(rng.expovariate(1)) for _ in range(4)]
        scale = mpmath.sqrt(8 * (strength * norm - value) / sum(w**2 for w in weights))
        # A network of 8 neurons with the moments claimed, whatever else their distribution is.
        neurons += [([abs(v) / norm * w * scale for v in part], sign * w * scale) for w in weights]
    f = [sum(readout * max(fields[i], 0) for fields, readout in neurons) / (8 * strength) for i in range(5)]
    for fields, readout in neurons:
        for i, own in enumerate(fields):
            if own:
                yield value * own, strength * (y[i] - f[i]) * readout
        yield value * readout, strength * sum((y[i] - f[i]) * max(own, 0) for i, own in enumerate(fields))


@claim(
    r"\tfrac12|y-f|^2 + \tfrac{\lambda}{2\gamma_0^2}\langle |h|^2 + z^2\rangle"
    r" \ge \tfrac12|y-f|^2 + \tfrac{\lambda}{\gamma_0}\big(|f_+| + |f_-|\big),\text{ attained; its minimum is the fixed point}",
    Kind.INEQUALITY,
    ORIGIN,
)
def two_layer_energy():
    """ReLU; the linear activation has |f| for |f_+| + |f_-|. With p_+ = <z_+ phi(h)>, p_-: gamma0 f = p_+ - p_-, p_+- >= 0."""
    norm, excess, overlap = sp.symbols("|h| d r", nonnegative=True)
    yield vanishes("the means of |h|^2, z^2", (norm**2 + z**2) / 2 - norm * z - (norm - z) ** 2 / 2)
    # |<z_+ phi(h)>| <= <|z| |h|> by the triangle inequality; p_+ exceeds gamma0 f_+ in every component.
    part = sp.Symbol("f", nonnegative=True)
    yield holds("|p_+| >= gamma0 |f_+|", sp.expand((part + excess) ** 2 - part**2).is_nonnegative)
    # At given |f_j| = r the misfit is least along y_j.
    energy = (size - overlap) ** 2 / 2 + decay * overlap / gamma0
    yield vanishes("stationary at |f_j| = |y_j| - lambda/gamma0", sp.diff(energy, overlap).subs(overlap, size - decay / gamma0))
    yield holds("convex", sp.diff(energy, overlap, 2).is_positive)
    yield vanishes(
        "slope at zero changes sign at the transition", sp.diff(energy, overlap).subs({overlap: 0, decay: gamma0 * size})
    )
    yield vanishes(
        "attained: <z^2> = <|h|^2> = gamma0 |f_j|", decay / (2 * gamma0**2) * 2 * gamma0 * overlap - decay * overlap / gamma0
    )


@two_layer_energy.check
def _(rng):
    y, strength, value = _labels(rng)

    def energy(f):
        penalty = sum(norm for _, norm in _groups(f))
        return sum((v - w) ** 2 for v, w in zip(y, f, strict=True)) / 2 + value / strength * penalty

    best = [mpf(0)] * 5
    for part, norm in _groups(y):
        best = [b + v * (1 - value / (strength * norm)) for b, v in zip(best, part, strict=True)]
    with mpmath.workdps(140):
        for i in range(5):
            yield 1 + mpmath.diff(lambda step, i=i: energy([b + (step if k == i else 0) for k, b in enumerate(best)]), 0), mpf(1)


@claim(
    r"\lim_{\gamma_0\to0}\lim_{t\to\infty} f = 0,\quad \lim_{\lambda\to0}\lim_{t\to\infty} f = y,\;"
    r" \operatorname{tr}\Phi \to \gamma_0 \textstyle\sum_j|y_j|;\qquad \lambda = 0 \text{ before } t\to\infty\ (\text{linear}):"
    r" \langle p^2\rangle = \langle z^2\rangle = \sqrt{S^2 + \gamma_0^2|y|^2} \to S",
    Kind.LIMIT,
    "Lauditi, Bordelon, Pehlevan (2025), E.1, with the limit t -> infinity made explicit",
)
def two_layer_limits():
    """The end of training is lazy for gamma0 -> 0 only if weight decay is switched off before training ends."""
    moment = sp.Max(gamma0 * size - decay, 0)
    yield vanishes("gamma0 -> 0 at fixed decay: collapsed", moment.subs(gamma0, decay / (2 * size)))
    yield tends_to("decay -> 0 after training: |f|/|y| -> 1", (gamma0 * size - decay) / (gamma0 * size), decay, 0, sp.S.One)
    yield tends_to("trace", gamma0 * size - decay, decay, 0, gamma0 * size)
    # Without decay: S sinh 2 theta = gamma0 |y|; p = p0 cosh + z0 sinh with <p0^2> = <z0^2> = S has <p^2> = S cosh 2 theta.
    pull = sp.Symbol("sigma", positive=True)
    final = S * sp.cosh(sp.asinh(pull / S))
    yield vanishes("<p^2> without decay", sp.simplify(final - sp.sqrt(S**2 + pull**2)))
    yield tends_to("lazy: the initial variance", sp.sqrt(S**2 + pull**2), pull, 0, S)
    yield tends_to("rich: the fixed point at decay -> 0", sp.sqrt(S**2 + pull**2) / pull, pull, sp.oo, sp.S.One, side="-")


@two_layer_limits.check
def _(rng):
    mean, pull = mpf(rng.uniform(0.5, 2)), mpf(rng.uniform(0.2, 3))
    angle = mpmath.findroot(lambda q: mean * mpmath.sinh(2 * q) - pull, pull / (2 * mean))
    yield mean * mpmath.cosh(2 * angle), mpmath.sqrt(mean**2 + pull**2)
    value = mpf(10) ** -70
    yield (pull - value) / pull, mpf(1)


CLAIMS = (
    two_layer_neuron_at_rest,
    two_layer_fixed_point,
    two_layer_energy,
    two_layer_limits,
)
