r"""Finite width in the limits where it is known: wide, noiseless, mean field, proportional, zero temperature.

Assumptions and symbols as in `width`.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.covariance import mode_weight
from linkern.derivations.notation import L, T, gamma0, k, lam
from linkern.derivations.routes import bisect_root, log_uniform
from linkern.derivations.width import ORIGIN, A, N, Q, above, b, beta, expectation, g, kappa, q, random_modes
from linkern.symbolic import Kind, claim, tends_to, vanishes


@claim(r"N \to \infty:\ \langle e^{v \cdot f} \rangle \to e^{g\, v^T K v / 2} \text{ (NNGP)}", Kind.LIMIT, "known")
def wide_limit():
    """The generating function of a Gaussian with the lazy kernel."""
    size = sp.Symbol("S", positive=True)
    yield tends_to("logarithm", -N / 2 * sp.log(1 - g * size / N), N, sp.oo, g * size / 2, "-")


@wide_limit.check
def _(rng):
    exponent = log_uniform(rng, 0.2, 2)
    # Neville's extrapolation in 1/N of the finite-width logarithm.
    points = [mpf(1) / (40 * 2**j) for j in range(36)]
    with mpmath.workdps(160):
        table = [-mpmath.log1p(-exponent * h) / (2 * h) for h in points]
        for level in range(1, len(table)):
            table = [
                (points[i] * table[i + 1] - points[i + level] * table[i]) / (points[i] - points[i + level])
                for i in range(len(table) - 1)
            ]
        yield table[0], exponent / 2


@claim(r"\kappa \to 0:\ f_* = k_*^T K^{-1} y \text{ at every width: } Q \text{ drops out of the mean}", Kind.LIMIT, ORIGIN)
def vanishing_ridge():
    """One mode of the predictor's coefficient, for every value of Q."""
    yield tends_to("gQ/(gQ lam + kappa)", g * Q / A, kappa, sp.S.Zero, 1 / lam)


@vanishing_ridge.check
def _(rng):
    width, value, label = rng.randint(8, 14), log_uniform(rng, 0.5, 2), mpf(rng.gauss(0, 1))

    def mean(ridge):
        def density(scale):
            total = scale * value + ridge
            return mpmath.exp(-(label**2) / (2 * total)) / mpmath.sqrt(total)

        top = expectation(width, lambda scale: density(scale) * scale / (scale * value + ridge))
        return top / expectation(width, density)

    tiny = mpf(10) ** -50
    yield mean(tiny), 1 / value


tree_charge = g * Q * lam * b**2 / A**2


@claim(
    r"N_l (q_l - 1) = g Q\, v^T K v \text{ at } \chi = \gamma_0^2 N,\ \kappa = 1/(\beta \gamma_0^2 N),\ g = 1/(\gamma_0^2 N)"
    r" \text{ is } \ln k = L \ln(1 + A),\ k = Q",
    Kind.IDENTITY,
    "linkern; connects the multi-scale theory with Lauditi et al. (2025), eq. 16",
)
def tree_level_is_mean_field():
    """One mode of the charge; the layers' product is the law k = (1 + A)^L."""
    scaled = tree_charge.subs({g: 1 / (gamma0**2 * N), kappa: T / (gamma0**2 * N), Q: k})
    yield vanishes("charge per neuron", sp.simplify(scaled / N - gamma0**2 * b**2 * mode_weight))
    yield vanishes("product of layers", sp.expand_log(sp.log((1 + q) ** L), force=True) - L * sp.log(1 + q))


@tree_level_is_mean_field.check
def _(rng):
    values, labels = random_modes(rng)
    depth, width = rng.randint(1, 4), rng.randint(5, 50)
    rich, temperature = log_uniform(rng, 0.3, 2), log_uniform(rng, 0.1, 1)

    def finite(log_q):
        scale, ridge = mpmath.exp(log_q * depth) / (rich * width), temperature / (rich * width)
        charge = mpmath.fsum(scale * v * c**2 / (scale * v + ridge) ** 2 for v, c in zip(values, labels, strict=True))
        return width * mpmath.expm1(log_q) - charge

    def infinite(log_k):
        grown = mpmath.exp(log_k)
        charge = rich * mpmath.fsum(
            grown * v * c**2 / (grown * v + temperature) ** 2 for v, c in zip(values, labels, strict=True)
        )
        return log_k - depth * mpmath.log1p(charge)

    log_q = bisect_root(finite, mpf(0), above(finite))
    # Both equations may have several roots; the finite one is inserted into the other.
    yield 1 + infinite(depth * log_q), mpf(1)


@claim(
    r"\kappa \to 0:\ N(q - 1) = g Q [v^T K v - \mathrm{Tr} K A^{-1}] \to 1 - q = \alpha (1 - r/q^L),\; \alpha = P/N,\;"
    r" r = y^T K^{-1} y / (g P)",
    Kind.LIMIT,
    "Li and Sompolinsky (2021), here for any depth from the Q-saddle",
)
def proportional_regime():
    """One mode, and their sum over P modes."""
    force = g * Q * (lam * b**2 / A**2 - lam / A)
    yield tends_to("one mode", force, kappa, sp.S.Zero, b**2 / (g * Q * lam) - 1)
    P, r = sp.symbols("P r", positive=True)
    yield vanishes("sum over modes", (1 - q) - P / N * (1 - r / q**L) - ((1 - q) + (r * P / q**L - P) / N))


@proportional_regime.check
def _(rng):
    values, labels = random_modes(rng)
    depth, width, strength = rng.randint(1, 4), rng.randint(8, 30), log_uniform(rng, 0.5, 2)
    tiny = mpf(10) ** -55

    def full(log_q):
        scale = strength * mpmath.exp(depth * log_q)
        return width * mpmath.expm1(log_q) - mpmath.fsum(
            scale * v * (c**2 / (scale * v + tiny) ** 2 - 1 / (scale * v + tiny)) for v, c in zip(values, labels, strict=True)
        )

    low = mpf(-1)
    while full(low) > 0:
        low /= 2
    q_value = mpmath.exp(bisect_root(full, low, above(full)))
    size = len(values)
    ratio = mpmath.fsum(c**2 / v for v, c in zip(values, labels, strict=True)) / (strength * size)
    yield 1 - mpf(size) / width * (1 - ratio / q_value**depth), q_value


@claim(
    r"\beta \to \infty \text{ at fixed weight decay } \lambda:\ q_l/(\beta\lambda) \to \rho = \gamma_0^2 \rho^L u^T K u,\;"
    r" u = (\rho^L K + \lambda)^{-1} y",
    Kind.LIMIT,
    ORIGIN,
)
def zero_temperature():
    """Prior variances 1/(beta lambda) in every layer; one mode of the charge in the variable rho, then the limit."""
    rho, decay = sp.symbols("rho lambda", positive=True)
    strength = (1 / (beta * decay)) ** (L + 1) / (gamma0**2 * N)
    at = {g: strength, Q: (beta * decay * rho) ** L, kappa: 1 / (beta * gamma0**2 * N)}
    charge = sp.simplify(sp.powsimp(sp.expand_power_base(tree_charge.subs(at, simultaneous=True), force=True), force=True))
    expected = gamma0**2 * rho**L * lam * b**2 / (rho**L * lam + decay) ** 2
    ratio = sp.simplify(sp.powsimp(sp.expand_power_base(charge / (N * beta * decay * expected), force=True), force=True))
    yield vanishes("charge per neuron and beta lambda", sp.simplify(sp.powdenest(ratio, force=True)) - 1)
    yield tends_to("the other side", (beta * decay * rho - 1) / (beta * decay), beta, sp.oo, rho, "-")


@zero_temperature.check
def _(rng):
    values, labels = random_modes(rng)
    depth, width, rich, decay = rng.randint(1, 3), rng.randint(5, 20), mpf(rng.uniform(2, 4)), log_uniform(rng, 0.05, 0.2)

    def charge(rho):
        return (
            rich**2
            * rho**depth
            * mpmath.fsum(v * c**2 / (rho**depth * v + decay) ** 2 for v, c in zip(values, labels, strict=True))
        )

    inverse = mpf(10) ** 70
    rho = log_uniform(rng, 0.2, 2)
    scale = (1 / (inverse * decay)) ** (depth + 1) / (rich**2 * width) * (inverse * decay * rho) ** depth
    ridge = 1 / (inverse * rich**2 * width)
    finite = mpmath.fsum(scale * v * c**2 / (scale * v + ridge) ** 2 for v, c in zip(values, labels, strict=True))
    # The defect of both equations at the same rho.
    yield (width * (inverse * decay * rho - 1) - finite) / (width * inverse * decay), rho - charge(rho)


@claim(
    r"\text{weak signal, } P = 1:\ \text{the branch of small } Q \text{ ends at } \gamma_0^2 \beta^2 y^2 = (L-1)^{L-1}/L^L,\;"
    r" a = 1/(L-1)",
    Kind.SOLUTION,
    ORIGIN,
)
def small_branch_ends():
    """a = z (1 + a)^L with z = gamma0^2 beta^2 y^2: where both sides touch."""
    a = sp.Symbol("a", positive=True)
    needed = a / (1 + a) ** L
    slope = sp.diff(needed, a)
    yield vanishes("the maximum of a/(1+a)^L", sp.simplify(slope.subs(a, 1 / (L - 1))))
    value = sp.powsimp(sp.expand_power_base(sp.simplify(needed.subs(a, 1 / (L - 1)) / ((L - 1) ** (L - 1) / L**L)), force=True))
    yield vanishes("its value", sp.simplify(sp.powdenest(value, force=True) - 1))


@small_branch_ends.check
def _(rng):
    depth = rng.randint(2, 7)
    bound = mpf(depth - 1) ** (depth - 1) / mpf(depth) ** depth
    top = mpmath.findroot(lambda a: mpmath.diff(lambda z: z / (1 + z) ** depth, a), mpf(1) / depth)
    yield top / (1 + top) ** depth, bound


CLAIMS = (
    wide_limit,
    vanishing_ridge,
    tree_level_is_mean_field,
    proportional_regime,
    zero_temperature,
    small_branch_ends,
)
