r"""Finite width, exactly: how a product of chi-squares comes to hold the whole posterior, and the limits in which it is known.

Assumptions: linear activation, Gaussian weights of variance g_l/fan-in, readout variance g_w/(chi N_L), one output, Gaussian
labels' noise kappa. g = g_w g_1 ... g_L/chi, K = X X^T/D, A = g Q K + kappa, v = A^{-1} y. Modes: K = U diag(lam) U^T, b = U^T y.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import lam
from linkern.derivations.routes import bisect_root, log_uniform
from linkern.symbolic import Kind, claim, vanishes

ORIGIN = "linkern; not in the papers"
MULTISCALE = "linkern; the multi-scale adaptive theory expands around this"

N, g, kappa, chi, beta = sp.symbols("N g kappa chi beta", positive=True)
q, Q, b, s, x = sp.symbols("q Q b s x", positive=True)
A = g * Q * lam + kappa


def random_modes(rng, count=4):
    """Random eigenvalues and coefficients as mpmath numbers."""
    return [log_uniform(rng, 0.1, 3) for _ in range(count)], [mpf(rng.gauss(0, 1)) for _ in range(count)]


def expectation(width, function):
    """E function(q), q ~ chi^2_N/N, in t = ln q by the trapezoidal rule (geometric accuracy)."""
    n = mpf(width) / 2
    constant = n * mpmath.log(n) - mpmath.loggamma(n)
    step = mpf(1) / 32 / max(1, mpmath.sqrt(n))
    total = mpf(0)
    for sign in (1, -1):
        index = 0 if sign > 0 else 1
        while True:
            t = sign * index * step
            weight = mpmath.exp(constant + n * (t - mpmath.exp(t)))
            total += weight * function(mpmath.exp(t)) * step
            if index * step > 1 and weight < mpf(10) ** (-mpmath.mp.dps - 8):
                break
            index += 1
    return total


def above(function):
    """A point beyond the largest root."""
    high = mpf(1)
    while function(high) < 0:
        high *= 2
    return high


@claim(
    r"\langle Q^s \rangle = \prod_l \frac{\Gamma(a_l + s)}{\Gamma(a_l)\, a_l^s},\quad a_l = N_l/2",
    Kind.IDENTITY,
    ORIGIN,
)
def mellin_moments():
    """One factor; the factors are independent because each rescales the norm of the vector that reaches it from above."""
    a = sp.Symbol("a", positive=True)
    moment = sp.integrate(x ** (s + a - 1) * sp.exp(-a * x), (x, 0, sp.oo)) * a**a / sp.gamma(a)
    yield vanishes("moment of chi^2_N/N", sp.powsimp(sp.expand(moment / (sp.gamma(a + s) / (sp.gamma(a) * a**s)))) - 1)


@mellin_moments.check
def _(rng):
    width, power = rng.randint(6, 30), mpf(rng.uniform(-1, 2))
    a = mpf(width) / 2
    yield expectation(width, lambda value: value**power), mpmath.gamma(a + power) / mpmath.gamma(a) / a**power


@claim(
    r"\langle e^{v \cdot f} \rangle = \Big(1 - \frac gN v^T K v\Big)^{-N/2}"
    r" \;\Leftrightarrow\; f \,|\, Q \sim N(0, g Q K),\; Q \sim \chi^2_N/N \quad (L = 1)",
    Kind.IDENTITY,
    MULTISCALE,
)
def output_is_a_scale_mixture():
    """Neuron by neuron from the weights, and once more from the Gaussian of random scale."""
    w, h, size = sp.symbols("w h S", real=True)
    size = sp.Symbol("S", positive=True)  # v^T K v
    c = sp.Symbol("c", positive=True)  # g_w/(chi N)
    readout = sp.exp(c * h**2 / 2)
    given = sp.integrate(sp.exp(w * h - w**2 / (2 * c)), (w, -sp.oo, sp.oo)) / sp.sqrt(2 * sp.pi * c)
    yield vanishes("readout weight of one neuron", sp.simplify(given - readout))
    r = sp.Symbol("r", positive=True)  # 1 - c g_1 S > 0
    neuron = sp.integrate(sp.exp(-(h**2) * r / (2 * size)), (h, -sp.oo, sp.oo)) / sp.sqrt(2 * sp.pi * size)
    yield vanishes("its preactivation, h . v ~ N(0, g_1 S)", sp.simplify(neuron - r ** sp.Rational(-1, 2)))
    a, rate = sp.symbols("a rate", positive=True)  # N/2 and N/2 - g S/2 > 0
    mixture = sp.integrate(x ** (a - 1) * sp.exp(-rate * x), (x, 0, sp.oo)) * a**a / sp.gamma(a)
    yield vanishes("mixture of Gaussians", sp.powsimp(sp.expand_power_base(mixture / (a / rate) ** a, force=True)) - 1)


@output_is_a_scale_mixture.check
def _(rng):
    width, exponent = rng.randint(4, 20), mpf(rng.uniform(0.1, 0.8))
    yield expectation(width, lambda value: mpmath.exp(exponent * value / 2)), (1 - exponent / width) ** (-mpf(width) / 2)


@claim(
    r"\langle f \rangle = y + \kappa\, \partial_y \ln Z,\qquad \ln Z(g/\chi, \kappa/\chi, y) = \ln Z(g, \kappa, \sqrt\chi y)"
    r" + \tfrac P2 \ln \chi",
    Kind.IDENTITY,
    ORIGIN,
)
def evidence_identities():
    """Mode by mode under the integral over Q."""
    log_density = -sp.log(A) / 2 - b**2 / (2 * A)
    yield vanishes("gradient", g * Q * lam / A * b - (b + kappa * sp.diff(log_density, b)))
    scaled = log_density.subs({g: g / chi, kappa: kappa / chi}, simultaneous=True)
    yield vanishes("amplitude", sp.expand_log(sp.simplify(scaled - log_density.subs(b, sp.sqrt(chi) * b)) - sp.log(chi) / 2))


@evidence_identities.check
def _(rng):
    width, ridge = rng.randint(6, 12), log_uniform(rng, 0.2, 1)
    value, strength = log_uniform(rng, 0.3, 3), log_uniform(rng, 0.3, 3)

    def evidence(label):
        return expectation(
            width,
            lambda scale: mpmath.exp(-(label**2) / (2 * (scale * strength + ridge))) / mpmath.sqrt(scale * strength + ridge),
        )

    def weighted(scale):
        total = scale * strength + ridge
        return scale * strength / total * value * mpmath.exp(-(value**2) / (2 * total)) / mpmath.sqrt(total)

    # The imaginary part at an imaginary step: no cancellation, an error of the step squared.
    step = mpf(10) ** -32
    slope = evidence(mpmath.mpc(value, step)).imag / step
    yield expectation(width, weighted) / evidence(value), value + ridge * slope / evidence(value)


@claim(
    r"\Phi^l = (1 - \tfrac1{N_l}) g_l \Phi^{l-1} + \frac{G_l}{N_l} \langle Q_{<l} [K + g Q K (v v^T - A^{-1}) K] \rangle",
    Kind.IDENTITY,
    ORIGIN,
)
def hidden_kernels():
    """Of the rows of V^{l-1} all but the one along a^l keep their prior; that one carries f/|a^l|."""
    K, inverse, v, vt = sp.symbols("K A^{-1} v v^T", commutative=False)
    scale, below, size = sp.symbols("scale Q_below G", positive=True)  # g Q, Q_{<l}, G_l
    mean = scale * K * v
    spread = scale * K - scale**2 * K * inverse * K
    # |a^l|^2 = g Q / (G_l Q_{<l}): the norm collected above layer l.
    row = size * below / scale * (mean * scale * vt * K + spread)
    stated = size * below * (K + scale * K * (v * vt - inverse) * K)
    yield vanishes("the row along a", sp.expand(row - stated))


@hidden_kernels.check
def _(rng):
    # One data point: integrate the readout instead of the hidden layer; h is then the variable that is left.
    width, ridge, label = rng.randint(6, 14), log_uniform(rng, 0.2, 1), mpf(rng.gauss(0, 2))
    strength = log_uniform(rng, 0.3, 2)

    def density(scale):
        total = scale * strength + ridge
        return mpmath.exp(-(label**2) / (2 * total)) / mpmath.sqrt(total)

    def grown(scale):
        total = scale * strength + ridge
        return density(scale) * (1 + scale * strength * (label**2 / total**2 - 1 / total))

    norm = expectation(width, density)
    direct = expectation(width, lambda scale: scale * density(scale)) / norm
    yield direct, 1 - mpf(1) / width + expectation(width, grown) / norm / width


@claim(
    r"v^T \Phi^l v = Q_{\le l}\, v^T K v \text{ at tree level: rescaled and adapted kernels agree along } v, \text{ so the means"
    r" coincide}",
    Kind.IDENTITY,
    "linkern; Rubin et al. (2025) state the rescaling for the mean",
)
def rescaling_equals_adaptation_in_the_mean():
    """Phi^l = G_l [K + s_l gQ K v v^T K], s_l = sum_{k<=l} Q_{<k}/N_k: the induction over layers."""
    below, overlap, share, width = sp.symbols("Q_below V s n", positive=True)  # Q_{<l}, v^T K v, s_{l-1}, N_l
    scale = sp.Symbol("scale", positive=True)  # g Q
    factor = 1 + scale * overlap / width  # q_l from N_l (q_l - 1) = gQ v^T K v
    hypothesis = below / overlap - 1 / overlap  # s_{l-1} gQ = (Q_{<l} - 1)/(v^T K v)
    grown = overlap * (1 + (hypothesis / scale + below / width) * scale * overlap)
    yield vanishes("step of the induction", sp.expand(grown - below * factor * overlap))
    yield vanishes("start: empty sum and empty product", hypothesis.subs(below, 1))


@rescaling_equals_adaptation_in_the_mean.check
def _(rng):
    values, labels = random_modes(rng)
    widths = [mpf(rng.randint(4, 30)) for _ in range(rng.randint(1, 4))]
    ridge, strength = log_uniform(rng, 0.2, 1), log_uniform(rng, 0.3, 2)

    def signal(charge):
        total = strength * mpmath.fprod(1 + charge / width for width in widths)
        return total, [c / (total * v + ridge) for v, c in zip(values, labels, strict=True)]

    def mismatch(charge):
        total, v = signal(charge)
        return charge - total * mpmath.fsum(value * c**2 for value, c in zip(values, v, strict=True))

    charge = bisect_root(mismatch, mpf(0), above(mismatch))
    total, v = signal(charge)
    overlap = mpmath.fsum(value * c**2 for value, c in zip(values, v, strict=True))
    adapted, rescaled, share = overlap, mpf(1), mpf(0)
    for width in widths:
        share += rescaled / width
        rescaled *= 1 + charge / width
        adapted = overlap + share * total * overlap**2
        yield adapted, rescaled * overlap


CLAIMS = (
    mellin_moments,
    output_is_a_scale_mixture,
    evidence_identities,
    hidden_kernels,
    rescaling_equals_adaptation_in_the_mean,
)
