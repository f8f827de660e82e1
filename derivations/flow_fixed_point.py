"""The end of training with weight decay: rank-one balanced layers, a self-consistent ridge, collapse, and the Bayes limit.

One mode of the data has eigenvalue lam and label coefficient b; s = lam/(lam + rho) is the share of it that is fitted, so
f = s b. Sums over modes are linear, so identities are proved mode by mode with a = (weight_decay/rho)^(1/L) common to all.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import L, l, lam
from linkern.derivations.routes import bisect_root, log_uniform
from linkern.symbolic import Kind, claim, tends_to, vanishes

ORIGIN = "linkern; not in the papers"

rho, decay, g, a, b, q = sp.symbols("rho lambda g a b q", positive=True)
size, norm = sp.symbols("N m", positive=True)
s = lam / (lam + rho)


def _problem(rng, modes=3):
    """Random modes, depth, gamma0^2 and a weight decay well below collapse; the stable root rho."""
    depth = rng.randint(1, 4)
    spectrum = [(log_uniform(rng, 0.1, 3), mpf(rng.gauss(0, 1))) for _ in range(modes)]
    strength = log_uniform(rng, 0.5, 4)

    def decay_at(value):
        total = mpmath.fsum(k * c**2 / (k + value) ** 2 for k, c in spectrum)
        return value * (strength * total) ** (mpf(depth) / (depth + 1))

    ridge = log_uniform(rng, 0.001, 0.03)
    return depth, spectrum, strength, ridge, decay_at(ridge)


@claim(
    r"\min \sum_l |W_l|^2 \text{ at fixed product norm } m \text{ is } (L+1)\, m^{2/(L+1)},\quad\text{so training minimises }"
    r" J(f) = \tfrac12 |y - f|^2 + \frac{\lambda (L+1)}{2 \gamma_0^2} (\gamma_0^2 f^T C^{-1} f)^{1/(L+1)}",
    Kind.SOLUTION,
    ORIGIN,
)
def flow_energy():
    """Arithmetic and geometric mean: equal norms are the stationary point, and the penalty in units of gamma^2."""
    # With n_l = |W_l|^2 and prod n_l = m^2, Lagrange: 1 = mu m^2/n_l for every layer, so all n_l are equal.
    each = norm ** (2 / (L + 1))
    yield vanishes("the product of L + 1 equal norms", sp.powsimp(each ** (L + 1), force=True) - norm**2)
    yield vanishes("their sum", (L + 1) * each - (L + 1) * norm ** (2 / (L + 1)))
    # m^2 = gamma0^2 q N^{L+1} in mean-field scaling; decay/2 sum |W|^2 / (gamma0^2 N).
    total = decay / 2 * (L + 1) * ((g * q) * size ** (L + 1)) ** (1 / (L + 1)) / (g * size)
    penalty = decay * (L + 1) / (2 * g) * (g * q) ** (1 / (L + 1))
    yield vanishes("penalty", sp.powsimp(sp.expand_power_base(sp.powdenest(total, force=True), force=True) - penalty, force=True))


@flow_energy.check
def _(rng):
    depth = rng.randint(1, 4)
    logs = [mpf(rng.gauss(0, 1)) for _ in range(depth)]
    target = mpf(rng.uniform(0.5, 2))
    best = (depth + 1) * target ** (mpf(2) / (depth + 1))
    equal = [target ** (mpf(2) / (depth + 1))] * depth
    last = target**2 / mpmath.fprod(equal)
    yield mpmath.fsum(equal) + last, best
    # Slopes of the sum at equal norms vanish in every direction that keeps the product.
    with mpmath.workdps(140):

        def along(step):
            norms = [n * mpmath.exp(step * k) for n, k in zip(equal, logs, strict=True)]
            return mpmath.fsum(norms) + target**2 / mpmath.fprod(norms)

        yield 1 + mpmath.diff(along, 0), mpf(1)


@claim(
    r"f = C (C + \rho)^{-1} y,\qquad \rho = \lambda a^{-L},\qquad a^{L+1} = \gamma_0^2\, y^T C (C + \rho)^{-2} y",
    Kind.SOLUTION,
    ORIGIN,
)
def flow_self_consistent_ridge():
    """Stationarity of J in one mode; a is common to all modes."""
    f = s * b
    # dJ/df = f - y + rho f / lam with rho = decay (gamma0^2 q)^{-L/(L+1)}.
    slope = sp.diff(decay * (L + 1) / (2 * g) * (g * q) ** (1 / (L + 1)), q)
    at = slope.subs(q, a ** (L + 1) / g)
    yield vanishes("2 d penalty/dq = lambda a^{-L}", sp.powsimp(sp.powdenest(2 * at - decay * a**-L, force=True), force=True))
    yield vanishes("stationarity", sp.simplify(f - b + rho * f / lam))
    yield vanishes("one mode of q", sp.simplify(f**2 / lam - lam * b**2 / (lam + rho) ** 2))


@flow_self_consistent_ridge.check
def _(rng):
    depth, spectrum, strength, ridge, value = _problem(rng)
    fitted = [k / (k + ridge) * c for k, c in spectrum]

    def energy(point):
        quadratic = mpmath.fsum(f**2 / k for f, (k, _) in zip(point, spectrum, strict=True))
        misfit = mpmath.fsum((c - f) ** 2 for f, (_, c) in zip(point, spectrum, strict=True))
        return misfit / 2 + value * (depth + 1) / (2 * strength) * (strength * quadratic) ** (mpf(1) / (depth + 1))

    with mpmath.workdps(140):
        for index in range(len(spectrum)):

            def along(step, index=index):
                return energy([f + (step if i == index else 0) for i, f in enumerate(fitted)])

            # The parameters carry 60 digits only.
            yield 1 + mpmath.diff(along, 0), mpf(1)


@claim(
    r"\Phi^l = a^l f f^T/q,\; G^l = a^{L+1-l} \text{ solve } \lambda f = G^{l+1} \Phi^l \Delta,\;"
    r" \lambda^2 \Phi^l = \gamma_0^2 G^l (\Phi^{l-1}\Delta)(\cdot)^T,"
    r"\; \lambda^2 G^l = \gamma_0^2 (G^{l+1})^2 \Delta^T \Phi^l \Delta;"
    r"\quad K = a^L (C + L f f^T/q)",
    Kind.SOLUTION,
    ORIGIN,
)
def flow_layers_at_rest():
    """With f^T Delta = rho q and C Delta = rho f, both from f = C (C + rho)^{-1} y; products at symbolic layer."""
    f = s * b
    Delta = b - f
    yield vanishes("C Delta = rho f", sp.simplify(lam * Delta - rho * f))
    yield vanishes("f Delta = rho f^2/lam", sp.simplify(f * Delta - rho * f**2 / lam))
    ridge, strength = decay * a**-L, a ** (L + 1) / q  # gamma0^2 = a^{L+1}/q
    # Phi^l Delta = a^l f (f^T Delta)/q = a^l rho f.
    drive = a**l * ridge
    yield vanishes("readout of layer l", sp.powsimp(sp.expand(a ** (L - l) * drive - decay)))
    forward = strength * a ** (L + 1 - l) * drive.subs(l, l - 1) ** 2 - decay**2 * a**l / q
    yield vanishes("features, l > 1", sp.powsimp(sp.expand(sp.powdenest(forward, force=True))))
    first = strength * a**L * ridge**2 - decay**2 * a / q
    yield vanishes("features, l = 1, driven by C Delta = rho f", sp.powsimp(sp.expand(sp.powdenest(first, force=True))))
    backward = strength * a ** (2 * (L - l)) * drive * ridge * q - decay**2 * a ** (L + 1 - l)
    yield vanishes("gradients", sp.powsimp(sp.expand(sp.powdenest(backward, force=True))))
    index = sp.Symbol("j", integer=True, positive=True)
    yield vanishes("K: G^1 C and L equal terms", sp.summation(sp.powsimp(a ** (L - index) * a**index), (index, 1, L)) - L * a**L)


@flow_layers_at_rest.check
def _(rng):
    depth, spectrum, strength, ridge, value = _problem(rng)
    amplitude = (value / ridge) ** (mpf(1) / depth)
    f = [k / (k + ridge) * c for k, c in spectrum]
    quadratic = mpmath.fsum(x**2 / k for x, (k, _) in zip(f, spectrum, strict=True))
    error = [c - x for x, (_, c) in zip(f, spectrum, strict=True)]
    overlap = mpmath.fsum(x * e for x, e in zip(f, error, strict=True))
    yield strength * quadratic, amplitude ** (depth + 1)
    for mode, (k, _) in enumerate(spectrum):
        total = amplitude**depth * (k * error[mode] + depth * f[mode] * overlap / quadratic)
        yield total, value * (depth + 1) * f[mode]


@claim(
    r"\text{posterior with prior variances } T/\lambda,\; T = 1/\beta \to 0:\quad a = \lim A T/\lambda,"
    r"\quad k C' \to (T/\rho)\, C,\quad"
    r" G_l k_l \to a^l,\quad T S \to \gamma_0^2 J",
    Kind.LIMIT,
    ORIGIN,
)
def flow_is_the_zero_temperature_posterior():
    """Width first, time later or the other way round: at zero temperature and fixed weight decay both end in one state."""
    T = sp.Symbol("T", positive=True)
    prior = T / decay
    charge = a * decay / T
    # k_l = (1 + A)^l and G_l = prior^l.
    per_layer = sp.simplify(prior * (1 + charge))
    yield tends_to("kernel scale per layer", per_layer, T, 0, a)
    # k C' + T = (k g_w G_L C + T): ridge rho = T / (k prior^{L+1}) = decay / [prior (1 + A)]^L.
    yield vanishes("ridge", sp.simplify(T / prior - decay))
    # A = gamma0^2 k v^T C' v with v = (y - f)/T: one mode, k C' = T lam/rho.
    signal = (b - s * b) / T
    mode = g * (T / rho) * lam * signal**2
    yield vanishes("charge", sp.simplify(mode * T / decay - g * rho / decay * lam * b**2 / (lam + rho) ** 2))
    # With a^{L+1} = gamma0^2 Q and rho = decay a^{-L}: a = gamma0^2 rho Q/decay.
    yield vanishes("self-consistency", sp.powsimp(sp.expand(decay * a**-L * a ** (L + 1) / decay - a)))
    # Energy: T y^T (kC' + T)^{-1} y = sum b^2 (1 - s); T [A - log(1 + A)] -> decay a.
    yield tends_to("entropy", T * (charge - sp.log(1 + charge)), T, 0, decay * a)
    share = sp.Symbol("s", positive=True)
    # decay a = gamma0^2 sum b^2 s (1 - s), so gamma0^2 J = gamma0^2/2 sum b^2 (1 - s) + L decay a/2 mode by mode.
    penalty = g * b**2 * share * (1 - share)
    left = g * b**2 * (1 - share) ** 2 / 2 + (L + 1) * penalty / 2
    yield vanishes("energy", sp.expand(left - g * b**2 * (1 - share) / 2 - L * penalty / 2))


@flow_is_the_zero_temperature_posterior.check
def _(rng):
    depth, spectrum, strength, ridge, value = _problem(rng)
    amplitude = (value / ridge) ** (mpf(1) / depth)
    # The posterior's equation ln k = L ln(1 + A) at T = 1e-80, solved near the predicted charge.
    with mpmath.workdps(220):
        T = mpf(10) ** -80
        prior = T / value

        def excess(log_charge):
            charge = mpmath.exp(log_charge)
            scale = (1 + charge) ** depth * prior ** (depth + 1)
            total = mpmath.fsum(c**2 * scale * k / (scale * k + T) ** 2 for k, c in spectrum)
            return log_charge - mpmath.log(strength * total)

        guess = mpmath.log(amplitude * value / T)
        charge = mpmath.exp(bisect_root(excess, guess - mpf("1e-3"), guess + mpf("1e-3")))
        scale = (1 + charge) ** depth * prior ** (depth + 1)
        yield charge * T / value, amplitude
        yield T / scale, ridge


@claim(
    r"J - J(0) = \tfrac12 \sum_i b_i^2 s_i (L - 1 - L s_i);\quad C = I,\, \sigma = \gamma_0|y|:\;"
    r" \lambda_{\rm sp} = \tfrac{L+1}{L-1}\big[\tfrac{\sigma(L-1)}{2L}\big]^{2L/(L+1)},\;"
    r" \lambda_1 = \tfrac{1}{L-1}\big[\tfrac{\sigma(L-1)}{L}\big]^{2L/(L+1)}",
    Kind.SOLUTION,
    ORIGIN,
)
def flow_collapse():
    """The weight decay along the curve of fixed points is extremal at s = (L-1)/(2L); energies are equal at s = (L-1)/L."""
    share, sigma = sp.symbols("s sigma", positive=True)
    total = share**2 / 2 - share + (L + 1) * share * (1 - share) / 2
    yield vanishes("energy of a mode", sp.expand(total - share * (L - 1 - L * share) / 2))
    # rho = (1 - s)/s, Q = s^2, decay = rho (sigma^2 s^2)^{L/(L+1)}.
    log_decay = sp.log(1 - share) - sp.log(share) + 2 * L / (L + 1) * sp.log(sigma * share)
    turning = (L - 1) / (2 * L)
    yield vanishes("extremum", sp.simplify(sp.diff(log_decay, share).subs(share, turning)))
    equal = (L - 1) / L
    for name, at, prefactor in (("spinodal", turning, (L + 1) / (L - 1)), ("equal energy", equal, 1 / (L - 1))):
        yield vanishes(name, sp.simplify((1 - at) / at - prefactor))
    yield vanishes("energies", (share * (L - 1 - L * share)).subs(share, equal))


@flow_collapse.check
def _(rng):
    depth, sigma = rng.randint(2, 6), log_uniform(rng, 0.3, 3)

    def log_decay(share):
        return mpmath.log((1 - share) / share) + mpf(2 * depth) / (depth + 1) * mpmath.log(sigma * share)

    def slope(share):
        return 1 / (share - 1) - 1 / share + mpf(2 * depth) / (depth + 1) / share

    top = bisect_root(slope, mpf("0.01"), mpf("0.99"))
    spinodal = mpf(depth + 1) / (depth - 1) * (sigma * (depth - 1) / (2 * depth)) ** (mpf(2 * depth) / (depth + 1))
    yield mpmath.exp(log_decay(top)), spinodal
    value = (sigma * (depth - 1) / depth) ** (mpf(2 * depth) / (depth + 1)) / (depth - 1)

    def energy(share):
        penalty = value * (depth + 1) / (2 * sigma**2) * (sigma * share) ** (mpf(2) / (depth + 1))
        return (1 - share) ** 2 / 2 + penalty

    yield energy(mpf(depth - 1) / depth), mpf(1) / 2


CLAIMS = (
    flow_energy,
    flow_self_consistent_ridge,
    flow_layers_at_rest,
    flow_is_the_zero_temperature_posterior,
    flow_collapse,
)
