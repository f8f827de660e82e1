"""Many outputs: products of scalar branches where the outputs decouple, the coupled equation where they do not."""

import laws
import numpy as np
import pytest
from scipy.linalg import expm

from linkern.bayes import Spectrum, solve_linear
from linkern.solution import Status


def matrix_function(M, function):
    values, vectors = np.linalg.eigh(M)
    return (vectors * function(values)) @ vectors.T


def outputs_equations(spectrum, solution, gamma0, beta):
    """Relative violations of A = gamma0^2 (1+A)^{L/2} M (1+A)^{L/2} and C V (1+A)^L + T V = Y, equal layers."""
    A, depth = solution.charge, solution.ensemble.depth
    C, Y = spectrum.dense(), spectrum.labels
    V = solution.dual_coefficients
    M = V.T @ C @ V
    half = matrix_function(A, lambda a: (1 + np.maximum(a, 0)) ** (depth / 2))
    full = matrix_function(A, lambda a: (1 + np.maximum(a, 0)) ** depth)
    first = laws.relative(A - gamma0**2 * half @ M @ half, A)
    second = laws.relative(C @ V @ full + V / beta - Y, Y)
    commute = np.linalg.norm(A @ M - M @ A) / (np.linalg.norm(A) * np.linalg.norm(M))
    return max(first, second, commute)


@pytest.mark.parametrize("beta", [np.inf, 30.0, 0.3])
@pytest.mark.parametrize("outputs", [2, 5])
def test_the_matrix_equations_of_the_outputs(beta, outputs):
    rng = np.random.default_rng(outputs)
    X, Y = rng.standard_normal((12, 20)), rng.standard_normal((12, outputs)) * np.geomspace(1, 0.01, outputs)
    spectrum = Spectrum.from_data(X, Y)
    solution = solve_linear(spectrum=spectrum, depth=3, gamma0=3.0, beta=beta)
    assert outputs_equations(spectrum, solution, 3.0, beta) < 1e-12
    assert solution.residual < 1e-12
    assert solution.status is Status.CONVERGED
    assert solution.certified == np.isinf(beta)
    np.testing.assert_allclose(solution.rescaling, matrix_function(solution.log_rescaling, np.exp), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.excess, solution.rescaling - np.eye(outputs), atol=1e-12)


def test_a_single_column_and_repeated_columns_reduce_to_one_output():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 12)), rng.standard_normal(8)
    one = solve_linear(X, y, depth=2, gamma0=2.0, beta=3.0)
    column = solve_linear(X, y[:, None], depth=2, gamma0=2.0, beta=3.0)
    assert column.rescaling == one.rescaling
    assert column.fitted.shape == column.dual_coefficients.shape == (8, 1)
    twice = solve_linear(X, np.stack([0.6 * y, 0.8 * y], axis=1), depth=2, gamma0=2.0, beta=3.0)
    assert twice.certified
    np.testing.assert_allclose(np.linalg.eigvalsh(twice.charge), [0.0, one.charge], rtol=1e-12, atol=1e-14)
    laws.assert_same_kernels(twice.kernels, one.kernels, 1e-12)
    np.testing.assert_allclose(twice.fitted, np.stack([0.6 * one.fitted, 0.8 * one.fitted], axis=1), atol=1e-12)


def test_rotating_the_outputs_rotates_the_solution():
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((8, 12)), rng.standard_normal((8, 3))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    plain = solve_linear(X, Y, depth=3, gamma0=2.0, beta=3.0)
    turned = solve_linear(X, Y @ turn, depth=3, gamma0=2.0, beta=3.0)
    laws.assert_same_kernels(turned.kernels, plain.kernels, 1e-11)
    np.testing.assert_allclose(turned.charge, turn.T @ plain.charge @ turn, atol=1e-11)
    np.testing.assert_allclose(turned.predict(X), plain.predict(X) @ turn, atol=1e-11)


@pytest.mark.parametrize("case", ["cold", "whitened", "rank one"])
def test_decoupled_outputs_are_products_of_scalar_solutions(case):
    """All combinations, actions adding up; certified."""
    rng = np.random.default_rng(2)
    if case == "cold":
        lam, B, beta, gamma0 = 10 ** rng.uniform(-2, 0, 6), rng.standard_normal((6, 2)), np.inf, 2.0
        gram = B.T @ (B / lam[:, None])
    elif case == "whitened":
        lam, B, beta, gamma0 = np.ones(6), np.linalg.qr(rng.standard_normal((6, 2)))[0] * [1.0, 0.92], 0.01, 32.5
        gram = B.T @ B
    else:
        lam, B, beta, gamma0 = 10 ** rng.uniform(-1, 0, 6), np.outer(rng.standard_normal(6), [3.0, 4.0]) / 9, 0.02, 37.0
        gram = B.T @ B
    basis = np.linalg.eigh(gram)[1]
    spectrum = Spectrum.from_modes(lam, B)
    solution = solve_linear(spectrum=spectrum, depth=4, gamma0=gamma0, beta=beta)
    scalar = [
        solve_linear(spectrum=Spectrum.from_modes(lam, b), depth=4, gamma0=gamma0, beta=beta).branches for b in (B @ basis).T
    ]
    assert solution.certified
    actions = sorted(a.action + b.action for a in scalar[0] for b in scalar[1])
    np.testing.assert_allclose(sorted(branch.action for branch in solution.branches), actions, rtol=1e-11)
    if case == "whitened":
        assert len(solution.branches) == 9
    for i in range(len(solution.branches)):
        assert solution.select(i).residual < 1e-12


def test_coupled_outputs_with_several_branches():
    """Nearly whitened data keep all nine products of branches; every one solves the matrix equations."""
    rng = np.random.default_rng(3)
    lam = np.exp(0.005 * rng.standard_normal(6))
    B = np.linalg.qr(rng.standard_normal((6, 2)))[0] * [1.0, 0.93] + 0.005 * rng.standard_normal((6, 2))
    spectrum = Spectrum.from_modes(lam, B)
    solution = solve_linear(spectrum=spectrum, depth=4, gamma0=32.2, beta=0.01)
    assert len(solution.branches) == 9
    assert not solution.certified
    for i, branch in enumerate(solution.branches):
        selected = solution.select(i)
        assert outputs_equations(spectrum, selected, 32.2, 0.01) < 1e-11
        assert selected.residual < 1e-11
        assert branch.stable == is_minimum(lam, B, selected, 32.2, 100.0)
    assert solution.branches[solution.global_index].stable


def reduced_action(X, lam, B, gamma0, T, depth):
    """S as a function of K = e^X after eliminating everything else, equal layers: its minima are the stable branches."""
    K = expm(X)
    data = sum(b @ np.linalg.solve(l * K + T * np.eye(len(K)), b) for l, b in zip(lam, B, strict=True))
    A = np.expm1(np.linalg.eigvalsh(X) / depth)
    return gamma0**2 / 2 * data + depth / 2 * (A - np.log1p(A)).sum()


def is_minimum(lam, B, solution, gamma0, T):
    """Second differences of the reduced action in all symmetric directions; the gradient must vanish."""
    X, depth, h = solution.log_rescaling, solution.ensemble.depth, 1e-3
    directions = [np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]]) / np.sqrt(2)]

    def S(*steps):
        shift = sum((step * direction for step, direction in zip(steps, directions, strict=True)), np.zeros((2, 2)))
        return reduced_action(X + shift, lam, B, gamma0, T, depth)

    unit = np.eye(3) * h
    assert max(abs(S(*u) - S(*-u)) / (2 * h) for u in unit) < 1e-5
    hessian = [[(S(*u + w) - S(*u - w) - S(*w - u) + S(*-u - w)) / (4 * h * h) for w in unit] for u in unit]
    return np.linalg.eigvalsh(hessian)[0] > 0


def test_stability_of_decoupled_outputs_includes_rotations():
    """Whitened data: giving the larger rescaling to the smaller output is a saddle, though each output is stable."""
    lam, B = np.ones(2), np.diag([1.0, 0.92])
    solution = solve_linear(spectrum=Spectrum.from_modes(lam, B), depth=4, gamma0=32.5, beta=0.01)
    assert len(solution.branches) == 9
    for i, branch in enumerate(solution.branches):
        assert branch.stable == is_minimum(lam, B, solution.select(i), 32.5, 100.0)
    assert [branch.stable for branch in solution.branches].count(True) == 3


def test_too_many_coupled_outputs_say_so():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="y: expected at most 64 outputs coupled by a finite beta, got 70"):
        solve_linear(rng.standard_normal((80, 90)), rng.standard_normal((80, 70)), depth=2, gamma0=1.0, beta=1.0)
    cold = solve_linear(rng.standard_normal((80, 90)), rng.standard_normal((80, 70)), depth=2, gamma0=1.0)
    assert cold.residual < 1e-11


def test_more_products_than_can_be_listed_keep_the_best():
    """Eight whitened outputs with three branches each: 6561 products, of which the extreme and near-best are listed."""
    Y = np.diag(np.linspace(0.93, 1.0, 8))
    solution = solve_linear(spectrum=Spectrum.from_modes(np.ones(8), Y), depth=4, gamma0=32.5, beta=0.01)
    assert not solution.certified
    assert len(solution.branches) < 100
    single = [
        min(b.action for b in solve_linear(spectrum=Spectrum.from_modes([1.0], [c]), depth=4, gamma0=32.5, beta=0.01).branches)
        for c in np.diag(Y)
    ]
    np.testing.assert_allclose(solution.action, sum(single), rtol=1e-12)


def test_ten_classes():
    """One-hot labels of ten classes, finite temperature: ten coupled outputs."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 200)
    means = rng.standard_normal((10, 30))
    X, Y = means[labels] + rng.standard_normal((200, 30)), np.eye(10)[labels]
    solution = solve_linear(X, Y - Y.mean(axis=0), depth=2, gamma0=0.5, beta=10.0)
    assert solution.residual < 1e-11
    assert solution.branch.stable
    assert solution.alignment()[-1] > solution.alignment()[0]
