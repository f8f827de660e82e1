"""How two-layer networks on whitened data remember their initial weights: conserved ratios, the path in time, densities at rest.

Neurons obey the equations of `flow_two_layer`. For the linear activation, and for ReLU with a single point, Delta keeps one
direction; p is the component of h along it, and one number theta(t) = gamma0 int |Delta| carries every neuron:

    p(t) +- z(t) = e^{-lambda t +- theta(t)} (p_0 +- z_0)        until, with ReLU, h = 0
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import gamma0
from linkern.derivations.routes import log_uniform
from linkern.symbolic import Kind, claim, vanishes

ORIGIN = "linkern; not in the papers"

decay, size, S, t, x, nu = sp.symbols("lambda n S t x nu", positive=True)  # size = |y|
z, h, theta, a = sp.symbols("z h theta a", real=True)


def _power_series(starts, slopes, order=70):
    """Coefficients of the solution of an equation whose k-th slope follows from the coefficients up to k."""
    series = [[start] for start in starts]
    for k in range(order):
        for own, slope in zip(series, slopes(series, k), strict=True):
            own.append(slope / (k + 1))
    return series


def _product(first, second, k):
    """The k-th coefficient of a product."""
    return mpmath.fsum(first[i] * second[k - i] for i in range(k + 1))


@claim(
    r"e^{2\lambda t}(|h|^2 - z^2) \text{ is constant for every neuron (linear, ReLU)};\quad"
    r" e^{\lambda t \mp \theta}(p \pm z) \text{ too (linear)},\; p = h\cdot y/|y|,\; \dot\theta = \gamma_0 |\Delta|",
    Kind.IDENTITY,
    ORIGIN,
)
def two_layer_conserved():
    """phi'(h) h = phi(h); for the linear activation Delta stays along y since <z h> starts and stays there."""
    fires, error, p = sp.symbols("phi' Delta p", real=True)
    dh, dz = -decay * h + gamma0 * fires * error * z, -decay * z + gamma0 * error * fires * h
    drift = 2 * h * dh - 2 * z * dz + 2 * decay * (h**2 - z**2)
    yield vanishes("one point's share of d(|h|^2 - z^2)/dt", sp.expand(drift))
    dp, dz = -decay * p + gamma0 * error * z, -decay * z + gamma0 * error * p
    for sign in (1, -1):
        yield vanishes(
            f"p {'+' if sign > 0 else '-'} z", sp.expand(dp + sign * dz + (decay - sign * gamma0 * error) * (p + sign * z))
        )
    # Across y: d<z h>/dt = -2 lambda <z h> + gamma0 (<z^2> Delta + <h h^T> Delta) is linear in the part of <z h> across y.
    across, second = sp.symbols("c q", real=True)
    push = -2 * decay * across + gamma0 * second * (-across / gamma0)
    yield vanishes("nothing across y stays nothing", push.subs(across, 0))


@two_layer_conserved.check
def _(rng):
    y, strength, value = mpf(rng.uniform(0.5, 1)), log_uniform(rng, 0.5, 2), mpf(rng.uniform(0.1, 0.5))
    start = [mpf(rng.gauss(0, 1)) for _ in range(4)]
    error = []

    def slopes(series, k):
        h1, h2, z1, z2 = series
        overlap = (_product(z1, h1, k) + _product(z2, h2, k)) / (2 * strength)
        error.append((y if k == 0 else 0) - overlap)
        partners = (z1, z2, h1, h2)
        return [-value * own[k] + strength * _product(error, other, k) for own, other in zip(series, partners, strict=True)]

    end = mpf(rng.uniform(0.005, 0.01))
    h1, h2, z1, z2 = (mpmath.polyval(own[::-1], end) for own in _power_series(start, slopes))
    yield mpmath.exp(2 * value * end) * (h1**2 - z1**2), start[0] ** 2 - start[2] ** 2
    yield (h1 + z1) / (h2 + z2), (start[0] + start[2]) / (start[1] + start[3])
    yield (h1 - z1) * (h1 + z1) / ((h2 - z2) * (h2 + z2)), (start[0] ** 2 - start[2] ** 2) / (start[1] ** 2 - start[3] ** 2)


@claim(
    r"u = e^{2\theta - 2\lambda t}:\; \dot u = 2(\gamma_0|y| - \lambda)u - S u^2 + S e^{-4\lambda t},\quad"
    r" S u = \gamma_0|y| - \lambda - 2\lambda\, x g'(x)/g(x),\; x = \tfrac{S}{2\lambda}e^{-2\lambda t},"
    r"\; g = c_1 I_\nu + c_2 K_\nu,\;"
    r" \nu = \tfrac{|\gamma_0|y| - \lambda|}{2\lambda}",
    Kind.SOLUTION,
    ORIGIN,
)
def two_layer_linear_history():
    """Linear activation: the whole of training in Bessel functions; S is the mean of the initial variances of p and z."""
    u = sp.Symbol("u", positive=True)
    v = sp.exp(-4 * decay * t) / u
    # <z p> = e^{-2 lambda t} S sinh 2 theta for uncorrelated initial fields.
    growth = 2 * u * (gamma0 * size - S * (u - v) / 2 - decay)
    riccati = 2 * (gamma0 * size - decay) * u - S * u**2 + S * sp.exp(-4 * decay * t)
    yield vanishes("Riccati equation", sp.expand(growth - riccati))
    # S u = w'/w linearises it; w = e^{a t} g(x), dx/dt = -2 lambda x, x^2 g'' = (x^2 + nu^2) g - x g'.
    value, first = sp.symbols("g g1")
    w = value
    rate = a * w - 2 * decay * x * first
    second = ((x**2 + (a / (2 * decay)) ** 2) * value - x * first) / x**2
    curvature = a * rate - 2 * decay * x * (a * first - 2 * decay * (first + x * second))
    yield vanishes("w'' = 2 a w' + S^2 e^{-4 lambda t} w", sp.expand(curvature - 2 * a * rate - (2 * decay * x) ** 2 * w))
    # At rest x -> 0: K_nu ~ x^{-nu} wins.
    ending = (a - 2 * decay * x * sp.diff(x**-nu, x) / x**-nu).subs(nu, a / (2 * decay))
    yield vanishes("at rest S u = 2 (gamma0|y| - lambda)", sp.simplify(ending - 2 * a))
    # At the transition a = 0 the tail is u' = -S u^2: <z^2> = S u/2 = 1/(2 t), from any start.
    yield vanishes("algebraic decay at the transition", sp.diff(1 / (S * t), t) + S * (1 / (S * t)) ** 2)


@two_layer_linear_history.check
def _(rng):
    mean, value = mpf(rng.uniform(0.5, 2)), mpf(rng.uniform(0.3, 0.6))
    pull = value * mpf(rng.uniform(1.3, 3)) - value
    order, start = abs(pull) / (2 * value), mean / (2 * value)
    ratio = (pull - mean) / (2 * value)  # x g'/g at t = 0, where u = 1

    def pairs(at):
        """I and K with their logarithmic slopes, x I' = nu I + x I_{nu+1} and x K' = nu K - x K_{nu+1}."""
        first, second = mpmath.besseli(order, at), mpmath.besselk(order, at)
        return (
            first,
            order * first + at * mpmath.besseli(order + 1, at),
            second,
            order * second - at * mpmath.besselk(order + 1, at),
        )

    first, first_slope, second, second_slope = pairs(start)
    weight = -(first_slope - ratio * first) / (second_slope - ratio * second)

    def closed(moment):
        first, first_slope, second, second_slope = pairs(start * mpmath.exp(-2 * value * moment))
        return (pull - 2 * value * (first_slope + weight * second_slope) / (first + weight * second)) / mean

    end = mpf(rng.uniform(0.005, 0.01))

    def slopes(series, k):
        source = mean * (-4 * value) ** k / mpmath.factorial(k)
        return [2 * pull * series[0][k] - mean * _product(series[0], series[0], k) + source]

    (path,) = _power_series([mpf(1)], slopes)
    integrated = mpmath.polyval(path[::-1], end)
    yield closed(end), integrated
    yield closed(75 / (min(pull, value))), 2 * pull / mean


@claim(
    r"\text{linear, at rest: } p = z = \sqrt{\gamma_0|y| - \lambda}\; (p_0 + z_0)/\langle (p_0 + z_0)^2\rangle^{1/2};\quad"
    r" \text{Laplace weights of variance 1: }"
    r" \kappa_4(h)/\kappa_2(h)^2 = \tfrac34\big(1 + \textstyle\sum_d v_d^4\big),\; p_0 = v\cdot W_0",
    Kind.SOLUTION,
    "Lauditi, Bordelon, Pehlevan (2025), figure 11 (not Gaussian); linkern for the density",
)
def two_layer_linear_shape():
    """p - z dies, p + z only grows by a factor common to all neurons, fixed by the second moment; v is a unit vector."""
    p0, z0, u = sp.symbols("p0 z0 u", positive=True)
    final = sp.sqrt(u) * (p0 + z0) / 2
    # <(p0 + z0)^2> = 2 S.
    moment = u / 4 * 2 * S
    yield vanishes("second moment", moment.subs(u, 2 * (gamma0 * size - decay) / S) - (gamma0 * size - decay))
    scaled = sp.sqrt(gamma0 * size - decay) * (p0 + z0) / sp.sqrt(2 * S)
    yield vanishes("density", sp.simplify(final.subs(u, 2 * (gamma0 * size - decay) / S) - scaled))
    # Cumulants add: a Laplace variable of variance 1 has the generating function -log(1 - x^2/2).
    generating = -sp.log(1 - x**2 / 2)
    kappa2, kappa4 = (sp.diff(generating, x, k).subs(x, 0) for k in (2, 4))
    yield vanishes("kappa_2 = 1", kappa2 - 1)
    fourth = sp.Symbol("V", positive=True)  # sum of v_d^4
    yield vanishes("excess kurtosis", (kappa4 * fourth + kappa4) / (2 * kappa2) ** 2 - sp.Rational(3, 4) * (1 + fourth))


@two_layer_linear_shape.check
def _(rng):
    # Moments of (v_1 W_1 + v_2 W_2 + z)/sqrt(2) from those of the Laplace density by quadrature.
    angle = mpf(rng.uniform(0, 1.5))
    parts = [mpmath.cos(angle), mpmath.sin(angle), mpf(1)]
    root = mpmath.sqrt(2)
    even = [mpmath.quad(lambda s, k=k: s**k * root * mpmath.exp(-root * s), [0, 2, 6, 20, 60, 180]) for k in (2, 4)]
    second = sum(v**2 for v in parts) * even[0]
    pairs = sum(parts[i] ** 2 * parts[k] ** 2 for i in range(3) for k in range(i))
    fourth = sum(v**4 for v in parts) * even[1] + 6 * pairs * even[0] ** 2
    yield fourth / second**2 - 3, mpf(3) / 4 * (1 + parts[0] ** 4 + parts[1] ** 4)


@claim(
    r"\text{ReLU, one point, Gaussian start: a share } \tfrac38 \text{ survives},\; h = |z| = k s,\;"
    r" p(s) = \varphi(s)\,\mathcal{N}(s),\, s > 0;\quad k^2\big(\tfrac38 + \tfrac{1}{4\pi}\big) = \gamma_0|y| - \lambda;\quad"
    r" \langle z\phi(h)\rangle = \tfrac{e^{-2\lambda t}}{2\pi}\big[(\tfrac{\pi}{2} + \arctan\coth\theta)\sinh 2\theta"
    r" + \tfrac12(\cosh 2\theta - 1)\big]",
    Kind.SOLUTION,
    "linkern; density of Lauditi, Bordelon, Pehlevan (2025), figure 10, in closed form",
)
def two_layer_relu_single_point():
    """Neurons with h > 0 move on hyperbolas h cosh + z sinh until h = 0; those with h + z > 0 never get there (y > 0)."""
    psi, edge = sp.symbols("psi psi_0", real=True)
    # Polar angle of (h, z); <r^2> = 2. Survivors: -pi/4 < psi < pi/2, s = r cos(psi - pi/4).
    yield vanishes("share", sp.integrate(1 / (2 * sp.pi), (psi, -sp.pi / 4, sp.pi / 2)) - sp.Rational(3, 8))
    moment = sp.integrate(sp.expand(2 * (sp.cos(psi) + sp.sin(psi)) ** 2 / 2) / (2 * sp.pi), (psi, -sp.pi / 4, sp.pi / 2))
    yield vanishes("<s^2>", sp.simplify(moment - sp.Rational(3, 8) - 1 / (4 * sp.pi)))
    # Alive at theta: tan psi > -coth theta, i.e. psi > -edge with cos 2 edge = -1/cosh 2 theta.
    product = sp.sinh(2 * theta) / 2 + sp.sin(2 * psi) / 2 * sp.cosh(2 * theta)
    total = sp.integrate(product / sp.pi, (psi, -edge, sp.pi / 2))
    bracket = (sp.pi / 2 + edge) * sp.sinh(2 * theta) + (sp.cosh(2 * theta) * (1 + sp.cos(2 * edge))) / 2
    yield vanishes("<z phi(h)> over the angles", sp.simplify(sp.expand(total - bracket / (2 * sp.pi), trig=True)))
    tangent = (sp.exp(theta) + sp.exp(-theta)) / (sp.exp(theta) - sp.exp(-theta))
    cosine = (1 - tangent**2) / (1 + tangent**2)
    yield vanishes("edge", sp.simplify(cosine + 2 / (sp.exp(2 * theta) + sp.exp(-2 * theta))))
    start, first = sp.symbols("z0 h0", positive=True)
    death = (first * sp.sinh(theta) - start * sp.cosh(theta)) ** 2 - (first * sp.cosh(theta) - start * sp.sinh(theta)) ** 2
    yield vanishes("z^2 - h^2 is kept up to h = 0", sp.simplify(death.rewrite(sp.exp).expand() - (start**2 - first**2)))


@two_layer_relu_single_point.check
def _(rng):
    def density(s):
        return mpmath.npdf(s) * mpmath.ncdf(s)

    def integral(function):
        return mpmath.quad(function, [0, 6, 18], method="gauss-legendre")

    yield integral(density), mpf(3) / 8
    yield integral(lambda s: s**2 * density(s)), mpf(3) / 8 + 1 / (4 * mpmath.pi)
    # <z phi(h)> at angle theta, by quadrature over h with the inner integral over z in closed form.
    angle = mpf(rng.uniform(0.2, 1))
    sinh, cosh = mpmath.sinh(angle), mpmath.cosh(angle)

    def inner(own):
        low = -own * cosh / sinh
        tail, edge = 1 - mpmath.ncdf(low), mpmath.npdf(low)
        mixed = (own**2 * tail + tail + low * edge) * sinh * cosh
        return mpmath.npdf(own) * (mixed + own * edge * (cosh**2 + sinh**2))

    closed = (mpmath.pi / 2 + mpmath.atan(cosh / sinh)) * mpmath.sinh(2 * angle) + (mpmath.cosh(2 * angle) - 1) / 2
    yield integral(inner), closed / (2 * mpmath.pi)


CLAIMS = (
    two_layer_conserved,
    two_layer_linear_history,
    two_layer_linear_shape,
    two_layer_relu_single_point,
)
