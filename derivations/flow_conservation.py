"""What training conserves: the balance of neighbouring layers, with weight decay an exact exponential.

Layer l receives dW_l/dt = B^T S Z^T - lambda W_l, where Z holds the features below, S the error signal from above it times the
labels' errors (any loss), and B = W_{l+1} for linear units. All matrices are noncommutative symbols; a transpose is a symbol of
its own.
"""

from __future__ import annotations

import mpmath
import sympy as sp
from mpmath import mpf

from linkern.symbolic import Kind, claim, vanishes

W, Wt, V, Vt, S, St, Z, Zt = sp.symbols("W W^T V V^T S S^T Z Z^T", commutative=False)
decay, eta = sp.symbols("lambda eta", positive=True)
strength, fit = sp.symbols("gamma2 p", real=True)

# Lower layer W (features Z below it), upper layer V, signal S at the output of V.
push_lower, push_lower_t = Vt * S * Zt, Z * St * V
push_upper, push_upper_t = S * Zt * Wt, W * Z * St


def _slope(product):
    """Time derivative of a product of W, V and their transposes."""
    velocity = {
        W: push_lower - decay * W,
        Wt: push_lower_t - decay * Wt,
        V: push_upper - decay * V,
        Vt: push_upper_t - decay * Vt,
    }
    first, second = product
    return sp.expand(velocity[first] * second + first * velocity[second])


@claim(
    r"\frac{d}{dt}\big(W_l W_l^T - W_{l+1}^T W_{l+1}\big) = -2\lambda \big(W_l W_l^T - W_{l+1}^T W_{l+1}\big)",
    Kind.IDENTITY,
    "Du, Hu, Lee (2018) without weight decay; linkern with it",
)
def flow_balance():
    """Both products gain the same two terms from the loss."""
    drift = _slope((W, Wt)) - _slope((Vt, V))
    yield vanishes("drift of the imbalance", sp.expand(drift + 2 * decay * (W * Wt - Vt * V)))


def _matrix(rng, rows, columns):
    return mpmath.matrix([[mpf(rng.gauss(0, 1)) for _ in range(columns)] for _ in range(rows)])


@flow_balance.check
def _(rng):
    lower, upper, readout = _matrix(rng, 3, 4), _matrix(rng, 2, 3), _matrix(rng, 1, 2)
    X, y, value = _matrix(rng, 4, 5), _matrix(rng, 1, 5), mpf(rng.uniform(0.1, 1))

    def loss(w, v):
        error = y - readout * v * w * X
        return (error * error.T)[0, 0] / 2

    def velocity(which, matrix):
        """Minus the gradient by central differences of a quartic polynomial at 120 digits, minus the decay."""
        step = mpf(10) ** -50
        out = mpmath.matrix(matrix.rows, matrix.cols)
        for i in range(matrix.rows):
            for k in range(matrix.cols):
                values = []
                for sign in (1, -1):
                    moved = matrix.copy()
                    moved[i, k] += sign * step
                    values.append(loss(moved, upper) if which == "lower" else loss(lower, moved))
                out[i, k] = -(values[0] - values[1]) / (2 * step) - value * matrix[i, k]
        return out

    with mpmath.workdps(180):
        dW, dV = velocity("lower", lower), velocity("upper", upper)
        drift = dW * lower.T + lower * dW.T - dV.T * upper - upper.T * dV
        expected = -2 * value * (lower * lower.T - upper.T * upper)
        yield from ((drift[i, k], expected[i, k]) for i in range(3) for k in range(3))


@claim(
    r"\big(W_l W_l^T - W_{l+1}^T W_{l+1}\big)_{t+1} = (1-\eta\lambda)^2 \big(\cdot\big)_t"
    r" + \eta^2 \big(W_{l+1}^T S Z^T Z S^T W_{l+1} - W_l Z S^T S Z^T W_l^T\big)",
    Kind.IDENTITY,
    "linkern",
)
def descent_balance():
    """Gradient descent breaks the law at second order in its step, for a reason that is written down."""
    keep = 1 - eta * decay
    new_W, new_Wt = keep * W + eta * push_lower, keep * Wt + eta * push_lower_t
    new_V, new_Vt = keep * V + eta * push_upper, keep * Vt + eta * push_upper_t
    change = new_W * new_Wt - new_Vt * new_V - keep**2 * (W * Wt - Vt * V)
    yield vanishes("defect", sp.expand(change - eta**2 * (push_lower * push_lower_t - push_upper_t * push_upper)))


@descent_balance.check
def _(rng):
    w, v, signal, features = _matrix(rng, 3, 4), _matrix(rng, 2, 3), _matrix(rng, 2, 5), _matrix(rng, 4, 5)
    step, value = mpf(rng.uniform(0.01, 0.1)), mpf(rng.uniform(0.1, 1))
    to_w, to_v = v.T * signal * features.T, signal * features.T * w.T
    new_w, new_v = (1 - step * value) * w + step * to_w, (1 - step * value) * v + step * to_v
    left = new_w * new_w.T - new_v.T * new_v
    right = (1 - step * value) ** 2 * (w * w.T - v.T * v) + step**2 * (to_w * to_w.T - to_v.T * to_v)
    yield from ((left[i, k], right[i, k]) for i in range(3) for k in range(3))


@claim(
    r"\tfrac12 \frac{d}{dt}\frac{|W_l|^2}{N} = \gamma_0^2\, \Delta\cdot f - \lambda \frac{|W_l|^2}{N}"
    r" \text{ in every layer, hence } e^{2\lambda t}\big(|W_l|^2 - |W_m|^2\big) \text{ is constant}",
    Kind.IDENTITY,
    "linkern",
)
def flow_norms():
    """W . dW/dt is Euler's theorem for f, of degree one in every layer; the difference of two layers' equations is linear."""
    first, second = sp.symbols("n_l n_m", positive=True)
    slopes = [2 * (strength * fit - decay * n) for n in (first, second)]
    time = sp.Symbol("t", positive=True)
    total = sp.exp(2 * decay * time) * (slopes[0] - slopes[1] + 2 * decay * (first - second))
    yield vanishes("drift of e^{2 lambda t} (n_l - n_m)", sp.expand(total))
    scale = sp.Symbol("c", positive=True)
    yield vanishes("Euler: d f(c W)/dc at c = 1 is f", sp.diff(scale * fit, scale) - fit)


@flow_norms.check
def _(rng):
    w, v, X, y = _matrix(rng, 3, 4), _matrix(rng, 1, 3), _matrix(rng, 4, 5), _matrix(rng, 1, 5)
    output = v * w * X
    error = y - output
    along_w = w.T * v.T * error * X.T
    inner_w = mpmath.fsum(along_w[i, i] for i in range(4))
    along_v = (error * (w * X).T * v.T)[0, 0]
    yield inner_w, (error * output.T)[0, 0]
    yield along_v, (error * output.T)[0, 0]


CLAIMS = (flow_balance, descent_balance, flow_norms)
