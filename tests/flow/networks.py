"""A wide linear network trained by plain gradient descent, typed in again for these tests."""

import numpy as np


def descend(X, y, *, depth, gamma0, steps, weight_decay, width, seed):
    """Return f at all times (T, P, O) and the last Phi^1..Phi^L."""
    r = np.random.default_rng(seed)
    P, D = X.shape
    Y = y.reshape(P, -1)
    W = [r.standard_normal((width, D)), *(r.standard_normal((width, width)) for _ in range(depth - 1))]
    w = r.standard_normal((Y.shape[1], width))
    outputs = []
    for eta in (*steps, None):
        h = [W[0] @ X.T / D**0.5]
        for V in W[1:]:
            h.append(V @ h[-1] / width**0.5)
        outputs.append((w @ h[-1] / (gamma0 * width)).T)
        if eta is None:
            break
        error = Y - outputs[-1]
        g, rate, keep = w.T @ error.T / (gamma0 * width), eta * gamma0**2 * width, 1 - eta * weight_decay
        w = keep * w + rate * (error.T @ h[-1].T) / (gamma0 * width)
        for l in range(depth - 1, 0, -1):
            back = W[l].T @ g / width**0.5
            W[l] = keep * W[l] + rate * g @ h[l - 1].T / width**0.5
            g = back
        W[0] = keep * W[0] + rate * g @ X / D**0.5
    return np.array(outputs), [layer.T @ layer / width for layer in h]
