"""Laws of training at infinite width: layers balance, every layer reads out the same function, kernels are covariances."""

import numpy as np
import pytest

from linkern.flow import gradient_flow, march


def task(seed=0, points=4, inputs=7):
    r = np.random.default_rng(seed)
    y = r.standard_normal(points)
    return r.standard_normal((points, inputs)), y / np.linalg.norm(y)


@pytest.mark.parametrize("decay", [0.0, 0.4])
@pytest.mark.parametrize("depth", [1, 3])
def test_first_and_last_layer_balance(depth, decay):
    """|w|^2/N = G^L and |W^0 on the span of the data|^2/N = Tr C^{-1} Phi^1 grow alike: e^{2 decay t} times what they gain.

    Both start at |w|^2/N = 1 and Tr C^{-1} C = P, and gain 2 gamma0^2 int e^{2 decay s} Delta . f ds.
    """
    X, y = task()
    C = X @ X.T / 7
    flow = gradient_flow(X, y, depth=depth, gamma0=1.5, time=1.5, points=41, levels=4, weight_decay=decay)
    times = flow.times
    grown = np.exp(2 * decay * times)
    last = grown * np.einsum("tt->t", flow.gradient_kernels()[depth - 1]) - 1
    first = np.array([np.trace(np.linalg.solve(C, flow.feature_kernels(t)[1])) for t in range(0, 41, 8)])
    assert last[-1] > 0.3
    np.testing.assert_allclose(grown[::8] * first - 4, last[::8], atol=2e-5)
    work = 2 * 1.5**2 * grown * np.einsum("tp,tp->t", flow.errors, flow.outputs)
    # Simpson's rule over the recorded times.
    integral = (times[1] / 3) * (work[0] + 4 * work[1:-1:2].sum() + 2 * work[2:-2:2].sum() + work[-1])
    assert last[-1] == pytest.approx(integral, rel=1e-3)


def test_descent_breaks_balance_at_second_order():
    X, y = task(1)
    C = X @ X.T / 7
    defects = []
    for count in (50, 100):
        run = march(X, y, depth=2, gamma0=1.5, steps=np.full(count, 1.5 / count))
        first = np.trace(np.linalg.solve(C, run.feature_kernels()[1])) - 4
        defects.append(first - (run.gradient_kernels()[1, -1, -1] - 1))
    assert abs(defects[1]) > 1e-4
    assert defects[1] == pytest.approx(defects[0] / 2, rel=0.1)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_kernels_are_covariances_and_responses_are_causal(decay):
    X, y = task(2)
    run = march(X, y, depth=3, gamma0=1.5, steps=np.full(25, 0.04), weight_decay=decay)
    for G in run.gradient_kernels():
        np.testing.assert_allclose(G, G.T, rtol=0, atol=0)
        assert np.linalg.eigvalsh(G).min() > -1e-12 * G.max()
    joint = np.block([[run.feature_kernels(t, s)[2] for s in (5, 25)] for t in (5, 25)])
    assert np.linalg.eigvalsh((joint + joint.T) / 2).min() > -1e-12
    for stack in run.responses():
        for response in stack:
            assert not np.triu(response).any()


def test_scaling_of_the_inputs():
    """In the lazy limit inputs k X and steps / k^2 change nothing."""
    X, y = task(3)
    steps = np.full(20, 0.04)
    lazy = [march(k * X, y, depth=2, gamma0=1e-7, steps=steps / k**2).outputs for k in (1, 2)]
    np.testing.assert_allclose(lazy[0], lazy[1], atol=1e-10)
