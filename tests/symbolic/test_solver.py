"""The compiled solver of an action of one's own, checked against equations written by hand."""

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import fsolve

from linkern.symbolic import Action, ChainSolver, Layered, NotSolvableError, SaddlePoint, depth, find_invariants, layer

l, L = layer, depth
gamma0, T = sp.symbols("gamma0 T", positive=True)


def _solver(readout, bulk=None, extra=()):
    c, c_hat = Layered("c", start=1), Layered("c_hat", positive=False)
    bulk = bulk(c, c_hat) if bulk else (-c[l] * c_hat[l] + sp.log(1 + c[l - 1] * c_hat[l])) / 2
    return ChainSolver(SaddlePoint(Action(bulk, readout(c), (c,), (c_hat,))))


def test_three_branches_of_the_regression_action():
    solver = _solver(lambda c: gamma0**2 / (2 * (c[L] + T)))
    solutions = solver.solve(depth=4, gamma0=32, T=100)
    assert [s.stable for s in solutions] == [True, True, False]
    last = [s.overlaps[-1] for s in solutions]
    assert last == pytest.approx([145.3879, 2.1518, 7.0252], rel=1e-4)
    assert [s.action for s in solutions] == pytest.approx([4.54163, 5.05131, 5.06525], rel=1e-5)
    for solution in solutions:
        assert solution.residual < 1e-13
        a = 32**2 * solution.overlaps[-1] / (solution.overlaps[-1] + 100) ** 2
        np.testing.assert_allclose(solution.overlaps, (1 + a) ** np.arange(5), rtol=1e-9)


def test_layered_action_against_a_general_root_finder():
    g, n, g_w = Layered("g"), Layered("n"), sp.Symbol("g_w", positive=True)
    solver = _solver(
        lambda c: gamma0**2 / (2 * (g_w * n[L] * c[L] + T)),
        lambda c, c_hat: n[l] * (-c[l] * c_hat[l] + sp.log(1 + g[l] * c[l - 1] * c_hat[l])) / 2,
    )
    variances, widths, readout = np.array([0.7, 1.4, 1.1]), np.array([1.0, 0.5, 2.0]), 1.3
    (solution,) = solver.solve(depth=3, gamma0=1.5, T=0.2, g=variances, n=widths, g_w=readout)

    def equations(unknowns):
        overlaps, duals = np.concatenate([[1.0], unknowns[:3]]), unknowns[3:]
        forward = [variances[i] * overlaps[i] / (1 + variances[i] * overlaps[i] * duals[i]) - overlaps[i + 1] for i in range(3)]
        ratio = widths[1:] * variances[1:] / widths[:-1]
        inner = variances[1:] * overlaps[1:-1] * duals[1:]
        backward = list(ratio * duals[1:] / (1 + inner) - duals[:-1])
        last = -(1.5**2) * readout / (readout * widths[-1] * overlaps[-1] + 0.2) ** 2 - duals[-1]
        return [*forward, *backward, last]

    start = np.concatenate([np.cumprod(variances), -0.1 * np.ones(3)])
    expected, _, converged, _ = fsolve(equations, start, full_output=True, xtol=1e-13)
    assert converged == 1
    np.testing.assert_allclose(solution.overlaps[1:], expected[:3], rtol=1e-9)
    np.testing.assert_allclose(solution.conjugates, expected[3:], rtol=1e-9)


def test_a_readout_that_pushes_the_other_way_shrinks_the_kernels():
    # An energy that increases with the overlap: the conjugates are positive.
    solver = _solver(lambda c: gamma0**2 * c[L] / 2)
    (solution,) = solver.solve(depth=3, gamma0=0.8)
    assert (solution.conjugates > 0).all()
    assert solution.residual < 1e-13
    # By hand: c_hat_L = gamma0^2, so a = -gamma0^2 c_L and c_L = (1 + a)^3.
    assert solution.overlaps[-1] == pytest.approx((1 - 0.64 * solution.overlaps[-1]) ** 3, rel=1e-9)


def test_biases_break_the_conservation_law_and_are_solved_all_the_same():
    # Preactivations with biases: variance g c + b. No polynomial is conserved.
    b = sp.Symbol("b", positive=True)
    solver = _solver(
        lambda c: gamma0**2 / (2 * (c[L] + T)),
        lambda c, c_hat: (-c[l] * c_hat[l] + sp.log(1 + (c[l - 1] + b) * c_hat[l])) / 2,
    )
    assert find_invariants(solver.saddle) == ()
    (solution,) = solver.solve(depth=3, gamma0=1.2, T=0.3, b=0.4)
    assert solution.stable
    assert solution.residual < 1e-13

    def action(overlaps, duals):
        below = np.concatenate([[1.0], overlaps[:-1]])
        return np.sum(np.log1p((below + 0.4) * duals) - overlaps * duals) / 2 + 1.2**2 / (2 * (overlaps[-1] + 0.3))

    point = np.concatenate([solution.overlaps[1:], solution.conjugates])
    assert action(point[:3], point[3:]) == pytest.approx(solution.action, rel=1e-13)
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-5
        ahead, behind = point + step, point - step
        assert abs(action(ahead[:3], ahead[3:]) - action(behind[:3], behind[3:])) / 2e-5 < 1e-8


def test_two_order_parameters_per_layer_are_refused():
    c, d = Layered("c", start=1), Layered("d", start=1)
    c_hat, d_hat = Layered("c_hat", positive=False), Layered("d_hat", positive=False)
    bulk = -c[l] * c_hat[l] - d[l] * d_hat[l] + sp.log(1 + c[l - 1] * c_hat[l]) + sp.log(1 + d[l - 1] * d_hat[l])
    with pytest.raises(NotSolvableError, match="one order parameter per layer"):
        ChainSolver(SaddlePoint(Action(bulk, c[L] + d[L], (c, d), (c_hat, d_hat))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0, "gamma0": 1, "T": 1}, "depth: expected an integer >= 1"),
        ({"depth": 2, "gamma0": 1}, "parameters: expected"),
        ({"depth": 2, "gamma0": 1, "T": 1, "beta": 1}, "parameters: expected"),
        ({"depth": 2, "gamma0": np.nan, "T": 1}, "gamma0: expected finite"),
    ],
)
def test_bad_input_is_named(arguments, message):
    solver = _solver(lambda c: gamma0**2 / (2 * (c[L] + T)))
    with pytest.raises(ValueError, match=message):
        solver.solve(**arguments)
