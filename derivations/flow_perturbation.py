"""Leading feature learning of deep linear gradient flow: the order gamma0^2 of every kernel, at symbolic depth.

At gamma0 -> 0 the fields of a neuron are h^l = u^l and g^l = r^l with u ~ N(0, C), r ~ N(0, 1), constant in time, and the
error decays as Delta_0 = exp(-(L + 1) C t) y. With v = int Delta_0 and V(t) = int_0^t Delta_0(s) v(s)^T ds all corrections
are polynomials in the layer index times v v^T, V and q(t, s) = v(t)^T C v(s). Sums over layers are done for symbolic L.
"""

from __future__ import annotations

import mpmath
import numpy as np
import sympy as sp
from mpmath import mpf

from linkern.derivations.notation import L, l
from linkern.symbolic import Kind, NumPyFunction, claim, vanishes

ORIGIN = "linkern; corrects Bordelon, Pehlevan (2022), appendix on perturbation theory"
HOME = "derivations/flow_perturbation.py"

j = sp.Symbol("j", integer=True, positive=True)
t, s = sp.symbols("t s", positive=True)
x, z = sp.symbols("x z", positive=True)

#: Responses to constant noise at leading order, in units of C v and v.
forward_response = l
backward_response = L + 1 - l

#: Phi^l = C + gamma0^2 C [memory (V(t) + V(s)^T) + drive v(t) v(s)^T] C.
feature_memory = sp.factor(sp.summation((L + 1 - j) * j, (j, 1, l)))
feature_drive = sp.factor(sp.summation(j**2, (j, 1, l)))
#: G^l = 1 + gamma0^2 [memory (q(t,t) + q(s,s)) + drive q(t,s)].
gradient_memory = sp.factor(sp.summation(j * (L + 1 - j), (j, l, L)) / 2)
gradient_drive = sp.factor(sp.summation((L + 1 - j) ** 2, (j, l, L)))
#: Equal times, where V + V^T = v v^T; and the tangent kernel K = (L + 1) C + gamma0^2 growth (C v v^T C + q C).
feature_growth = sp.factor(feature_memory + feature_drive)
gradient_growth = sp.factor(2 * gradient_memory + gradient_drive)
tangent_growth = sp.factor(sp.summation(feature_growth.subs(l, j), (j, 0, L)))

#: (1 - e^{-x})/x and, for the error's correction, int_0^1 (1 - e^{-z u})^2 du / z.
relaxed = (sp.exp(-x) - 1) / (-x)  # in this order the difference is emitted as expm1
settled = (1 - 2 * relaxed.subs(x, z) + relaxed.subs(x, 2 * z)) / z


def _exact_slopes(rng, quantity):
    """Slope in gamma0^2 at 0 of kernels of the full discrete-time equations, and the discrete v, V of the same problem.

    The equations are iterated over the whole trajectory on (T P) x (T P) matrices with gamma0^2 = 10^-60 in 200 digits; the
    closed forms hold for sums in place of integrals.
    """
    depth, T, P = rng.randint(1, 3), 4, 2
    with mpmath.workdps(200):
        strength = mpf(10) ** -60
        gamma0, eta = mpmath.sqrt(strength), mpf(rng.uniform(0.05, 0.2))
        root = np.array([[mpf(rng.gauss(0, 1)) for _ in range(3)] for _ in range(P)])
        C, y = root @ root.T / 3, np.array([mpf(rng.gauss(0, 1)) for _ in range(P)])
        zero, one = mpf(0), mpf(1)
        Phi = [np.kron(np.full((T, T), one), C) for _ in range(depth + 1)]
        G = [np.full((T, T), one) for _ in range(depth + 2)]
        A = [np.full((T * P, T), zero) for _ in range(depth + 1)]
        B = [np.full((T, T * P), zero) for _ in range(depth + 1)]
        Delta = np.tile(y, (T, 1))
        past = np.array([[eta * gamma0 if b < a else zero for b in range(T)] for a in range(T)])
        unit = np.array([[one if a == b else zero for b in range(T)] for a in range(T)])
        wide = np.kron(unit, np.array([[one, zero], [zero, one]]))
        # Layers pass the news on one by one, once per time step: after so many rounds nothing changes any more.
        for _ in range(2 * T * (depth + 1)):
            pick = np.array([[Delta[a][m] if a == b else zero for b in range(T) for m in range(P)] for a in range(T)])
            for k in range(1, depth + 1):
                Ck = A[k - 1] + np.repeat(past, P, axis=0) * (Phi[k - 1] @ pick.T)
                Dk = B[k] + (past * G[k + 1]) @ pick
                inverse, power = unit, unit
                for _ in range(T):
                    power = power @ (Dk @ Ck)
                    inverse = inverse + power
                g_u, h_r = inverse @ Dk, Ck @ inverse
                h_u = wide + Ck @ g_u
                Phi[k] = h_u @ Phi[k - 1] @ h_u.T + h_r @ G[k + 1] @ h_r.T
                G[k] = g_u @ Phi[k - 1] @ g_u.T + inverse @ G[k + 1] @ inverse.T
                A[k], B[k - 1] = h_r, g_u
            joint = g_u @ Phi[depth - 1] @ h_u.T + inverse @ G[depth + 1] @ h_r.T
            Delta = np.array([[y[m] - joint[a, a * P + m] / gamma0 for m in range(P)] for a in range(T)])
        v, V = [np.full(P, zero)], [np.full((P, P), zero)]
        for a in range(T - 1):
            V.append(V[-1] + eta * np.outer(Delta[a], v[-1]))
            v.append(v[-1] + eta * Delta[a])
        base = Phi[0] if quantity == "features" else G[depth + 1]
        slopes = [(k - base) / strength for k in (Phi if quantity == "features" else G)]
    return depth, T, P, C, v, V, slopes


def _coefficient(expression, layer, depth):
    return mpf(sp.Rational(expression.subs({l: layer, L: depth})).p) / sp.Rational(expression.subs({l: layer, L: depth})).q


@claim(
    r"h^l = u^l + \gamma_0\, l\, C v(t)\, r^l,\qquad g^l = r^l + \gamma_0 (L+1-l)\, v(t)^T u^l \quad\text{to first order}",
    Kind.SERIES,
    ORIGIN,
)
def flow_leading_responses():
    """Induction over layers: every layer adds its own drive to the response of the layer below (above)."""
    yield vanishes("first layer: A^0 = 0 leaves the drive C v", forward_response.subs(l, 1) - 1)
    yield vanishes("step: A^l = A^{l-1} + C v", forward_response - (forward_response.subs(l, l - 1) + 1))
    yield vanishes("last layer: B^L = 0 leaves the drive v", backward_response.subs(l, L) - 1)
    yield vanishes("step: B^{l-1} = B^l + v", backward_response - (backward_response.subs(l, l + 1) + 1))


@flow_leading_responses.check
def _(rng):
    depth, T, _, C, v, _, slopes = _exact_slopes(rng, "gradients")
    last = T - 1
    for layer in range(1, depth + 1):
        # The part of <g^l g^l> that is not passed on from above, at two times, isolates the product of the responses.
        own = [slopes[layer][a, b] - slopes[layer + 1][a, b] for a, b in ((last, last), (last, 1), (1, 1))]
        cross = own[1] - (own[0] + own[2]) / 2
        difference = v[last] - v[1]
        q_spread = -(difference @ C @ difference) / 2
        # Memory terms cancel: what is left is (L+1-l)^2 (q(t,s) - (q(t,t) + q(s,s))/2).
        yield cross, mpf(depth + 1 - layer) ** 2 * q_spread


@claim(
    r"\Phi^l(t,s) = C + \gamma_0^2 C\Big[\tfrac{l(l+1)(3L+2-2l)}{6}\,(V(t) + V(s)^T)"
    r" + \tfrac{l(l+1)(2l+1)}{6}\, v(t) v(s)^T\Big] C",
    Kind.SERIES,
    ORIGIN,
)
def flow_feature_kernels():
    """Layer l adds l (L+1-l) (V + V^T) from the second-order field and l^2 v v^T from the first-order one."""
    step_memory = feature_memory - feature_memory.subs(l, l - 1)
    step_drive = feature_drive - feature_drive.subs(l, l - 1)
    yield vanishes("memory added by layer l", step_memory - forward_response * backward_response)
    yield vanishes("drive added by layer l", step_drive - forward_response**2)
    yield vanishes("nothing in the data layer", feature_memory.subs(l, 0))
    yield vanishes("nothing in the data layer", feature_drive.subs(l, 0))
    yield vanishes("as stated, memory", feature_memory - l * (l + 1) * (3 * L + 2 - 2 * l) / 6)
    yield vanishes("as stated, drive", feature_drive - l * (l + 1) * (2 * l + 1) / 6)
    yield vanishes("equal times", feature_growth - (L + 1) * l * (l + 1) / 2)


@flow_feature_kernels.check
def _(rng):
    depth, T, P, C, v, V, slopes = _exact_slopes(rng, "features")
    for layer in range(1, depth + 1):
        memory, drive = (_coefficient(c, layer, depth) for c in (feature_memory, feature_drive))
        for a, b in ((T - 1, T - 1), (T - 1, 1), (1, 2)):
            expected = C @ (memory * (V[a] + V[b].T) + drive * np.outer(v[a], v[b])) @ C
            found = slopes[layer][a * P : (a + 1) * P, b * P : (b + 1) * P]
            yield from zip(found.ravel(), expected.ravel(), strict=True)


@claim(
    r"G^l(t,s) = 1 + \gamma_0^2 \sum_{j=l}^L \Big[\tfrac{j(L+1-j)}{2}\,(q(t,t) + q(s,s)) + (L+1-j)^2 q(t,s)\Big],"
    r"\quad q(t,s) = v(t)^T C v(s)",
    Kind.SERIES,
    ORIGIN,
)
def flow_gradient_kernels():
    """The mirror image, summed from the readout down; int Delta_0^T C v = q/2."""
    step_memory = gradient_memory - gradient_memory.subs(l, l + 1)
    step_drive = gradient_drive - gradient_drive.subs(l, l + 1)
    yield vanishes("memory added by layer l", step_memory - forward_response * backward_response / 2)
    yield vanishes("drive added by layer l", step_drive - backward_response**2)
    yield vanishes("nothing at the readout", gradient_memory.subs(l, L + 1))
    yield vanishes("nothing at the readout", gradient_drive.subs(l, L + 1))
    yield vanishes("equal times", gradient_growth - (L + 1) * (L + 1 - l) * (L + 2 - l) / 2)
    value = sp.Function("q")(t)
    yield vanishes("int q'/2", sp.integrate(sp.diff(value, t) / 2, t) - value / 2)


@flow_gradient_kernels.check
def _(rng):
    depth, T, _, C, v, V, slopes = _exact_slopes(rng, "gradients")
    for layer in range(1, depth + 1):
        memory, drive = (_coefficient(c, layer, depth) for c in (gradient_memory, gradient_drive))
        for a, b in ((T - 1, T - 1), (T - 1, 1), (1, 2)):
            # In discrete time int Delta^T C v is the trace of V C, not half of q.
            past = 2 * (np.trace(V[a] @ C) + np.trace(V[b] @ C))
            yield slopes[layer][a, b], memory * past + drive * (v[a] @ C @ v[b])


@claim(
    r"K = (L+1) C + \gamma_0^2 \frac{L(L+1)^2(L+2)}{6}\,\big(C v v^T C + q\, C\big)",
    Kind.SERIES,
    ORIGIN,
)
def flow_tangent_kernel():
    """Sums of the equal-time corrections over layers; both sums are the same number."""
    yield vanishes("features", tangent_growth - L * (L + 1) ** 2 * (L + 2) / 6)
    gradients = sp.summation(gradient_growth.subs(l, j + 1), (j, 0, L))
    yield vanishes("gradients", gradients - tangent_growth)


@flow_tangent_kernel.check
def _(rng):
    depth = rng.randint(1, 40)
    growth = _coefficient(tangent_growth, 0, depth)
    features = mpmath.fsum(mpf((depth + 1) * k * (k + 1)) / 2 for k in range(depth + 1))
    triple = mpmath.fsum(mpf(m * (depth + 1 - m) + m**2) for k in range(depth + 1) for m in range(1, k + 1))
    yield growth, features
    yield growth, triple


rate_k, rate_j = sp.symbols("Lambda_k Lambda_j", positive=True)


def _integrand(time):
    """One pair of modes of -Delta_1 e^{Lambda_k t}, without y_k y_j^2 c_L/(L+1)^2: the source K_1 Delta_0 in the eigenbasis."""
    slow, fast = 1 - sp.exp(-rate_k * time), 1 - sp.exp(-rate_j * time)
    return sp.exp(rate_k * time) * slow * fast * sp.exp(-rate_j * time) + rate_k / rate_j * fast**2


@claim(
    r"\Delta_{1,k} = -\frac{c_L}{(L+1)^2} y_k t \sum_j y_j^2 \big\{ \phi(z,x) - \phi(2z,x) - e^{-x}[\epsilon(z) - \epsilon(2z)]"
    r" + x e^{-x} w(z) \big\},\quad x = \Lambda_k t,\, z = \Lambda_j t,\quad \phi(p,q) = \tfrac{e^{-p}-e^{-q}}{q-p},\,"
    r" \epsilon(p) = \phi(0,p),\, w(z) = \tfrac{1 - 2\epsilon(z) + \epsilon(2z)}{z}",
    Kind.SERIES,
    ORIGIN,
)
def flow_error_correction():
    """d Delta_1/dt = -K_0 Delta_1 - K_1 Delta_0 with Delta_1(0) = 0, by differentiating the closed form of each pair of modes."""

    def eps(p):
        return (1 - sp.exp(-p)) / p

    def phi(p, q):
        return (sp.exp(-p) - sp.exp(-q)) / (q - p)

    X, Z = rate_k * t, rate_j * t
    w = (1 - 2 * eps(Z) + eps(2 * Z)) / Z
    closed = t * (phi(Z, X) - phi(2 * Z, X) - sp.exp(-X) * (eps(Z) - eps(2 * Z)) + X * sp.exp(-X) * w)
    moving = sp.expand(sp.diff(sp.exp(X) * closed, t) - _integrand(t))
    yield vanishes("slope in the moving frame", sp.simplify(moving))
    yield vanishes("start", sp.limit(sp.simplify(closed), t, 0))
    # (K_1 Delta_0)_k = c_L kappa_k sum_j kappa_j [v_k v_j Delta_0j + v_j^2 Delta_0k], Lambda = (L+1) kappa, v = y (1-e)/Lambda.
    slow, fast = 1 - sp.exp(-X), 1 - sp.exp(-Z)
    source = slow * fast * sp.exp(-Z) / (rate_k * rate_j) + fast**2 * sp.exp(-X) / rate_j**2
    yield vanishes("the source", sp.simplify(rate_k * rate_j * source * sp.exp(X) - _integrand(t)))


@flow_error_correction.check
def _(rng):
    a, b, time = (mpf(rng.uniform(0.2, 3)) for _ in range(3))

    def source(u):
        slow, fast = -mpmath.expm1(-a * u), -mpmath.expm1(-b * u)
        return mpmath.exp(-a * (time - u)) * (slow * fast * mpmath.exp(-b * u) + a / b * fast**2 * mpmath.exp(-a * u))

    def eps(p):
        return -mpmath.expm1(-p) / p

    def phi(p, q):
        return (mpmath.exp(-p) - mpmath.exp(-q)) / (q - p)

    X, Z = a * time, b * time
    w = (1 - 2 * eps(Z) + eps(2 * Z)) / Z
    closed = phi(Z, X) - phi(2 * Z, X) - mpmath.exp(-X) * (eps(Z) - eps(2 * Z)) + X * mpmath.exp(-X) * w
    yield time * closed, mpmath.quad(source, mpmath.linspace(0, time, 5))


def _function(name, arguments, expression, summary, equation, **options):
    return NumPyFunction(name, arguments, expression, summary, equation, HOME, **options)


FUNCTIONS = (
    _function("feature_memory", (l, L), feature_memory, "Weight of C (V(t) + V(s)^T) C in Phi^l.", "l (l + 1) (3L + 2 - 2l) / 6"),
    _function("feature_drive", (l,), feature_drive, "Weight of C v(t) v(s)^T C in Phi^l.", "l (l + 1) (2l + 1) / 6"),
    _function("gradient_memory", (l, L), gradient_memory, "Weight of q(t,t) + q(s,s) in G^l.", "sum_{j=l}^L j (L + 1 - j) / 2"),
    _function("gradient_drive", (l, L), gradient_drive, "Weight of q(t,s) in G^l.", "sum_{j=l}^L (L + 1 - j)^2"),
    _function(
        "tangent_growth", (L,), tangent_growth, "Weight of C v v^T C + q C in the tangent kernel.", "L (L + 1)^2 (L + 2) / 6"
    ),
    _function("relaxed_mean", (x,), relaxed, "Mean of exp(-x u) over 0 < u < 1.", "(1 - e^{-x}) / x"),
    _function(
        "settled_square",
        (z,),
        settled,
        "Mean of (1 - exp(-z u))^2 over 0 < u < 1, divided by z.",
        "(1 - 2 e(z) + e(2z)) / z with e(z) = (1 - e^{-z}) / z",
        small=(z, 18, 0.7),
    ),
)

CLAIMS = (
    flow_leading_responses,
    flow_feature_kernels,
    flow_gradient_kernels,
    flow_tangent_kernel,
    flow_error_correction,
)
