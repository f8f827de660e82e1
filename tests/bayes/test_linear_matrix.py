"""Solutions as P x P matrices: re-typed saddle-point equations, descent-ascent, physical laws, predictors."""

import laws
import numpy as np
import pytest

from linkern.bayes import Spectrum, solve_linear
from linkern.solution import Status, load_npz


def data(P=9, D=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((P, D)), rng.standard_normal(P)


def full_rank_kernel(P, rng):
    Q = np.linalg.qr(rng.standard_normal((P, P)))[0]
    C = (Q * 10 ** rng.uniform(-1.5, 0.5, P)) @ Q.T
    return (C + C.T) / 2


def dense_equations(C, Y, solution, depth, gamma0, T, g, n):
    """Largest relative violation of the matrix equations, and the action as defined by determinants."""
    eye = np.eye(len(C))
    phi, dual = laws.dense(solution.kernels), [None, *laws.dense(solution.dual_kernels)]
    V = np.linalg.solve(g[-1] * n[-1] * phi[-1] + T * eye, Y)
    pairs = [(phi[0], C), (dual[depth], -(gamma0**2) * g[-1] * V @ V.T)]
    for l in range(1, depth + 1):
        pairs.append((phi[l], np.linalg.solve(eye + g[l - 1] * phi[l - 1] @ dual[l], g[l - 1] * phi[l - 1])))
    for l in range(1, depth):
        right = dual[l + 1] @ np.linalg.inv(eye + g[l] * phi[l] @ dual[l + 1])
        pairs.append((n[l - 1] * dual[l], n[l] * g[l] * right))
    S = gamma0**2 / 2 * np.trace(Y.T @ V)
    for l in range(1, depth + 1):
        S -= n[l - 1] / 2 * np.trace(phi[l] @ dual[l])
        S += n[l - 1] / 2 * np.linalg.slogdet(eye + g[l - 1] * phi[l - 1] @ dual[l])[1]
    return max(laws.relative(a - b, b) for a, b in pairs), S


@pytest.mark.parametrize("seed", range(20))
def test_dense_saddle_point_equations_with_layer_variances_widths_and_outputs(seed):
    rng = np.random.default_rng(seed)
    P, depth, outputs = 8, 1 + seed % 5, 1 + seed % 4
    C, Y = full_rank_kernel(P, rng), rng.standard_normal((P, outputs))
    g, n = 10 ** rng.uniform(-0.5, 0.5, depth + 1), 10 ** rng.uniform(-0.5, 0.5, depth)
    gamma0, beta = 10 ** rng.uniform(-1, 1), np.inf if seed % 6 == 5 else 10 ** rng.uniform(-1, 2)
    solution = solve_linear(kernel=C, y=Y, depth=depth, gamma0=gamma0, beta=beta, prior_variances=g, widths=n)
    violation, action = dense_equations(C, Y, solution, depth, gamma0, 1 / beta, g, n)
    assert violation < 1e-11
    assert solution.residual < 1e-11
    assert solution.status is Status.CONVERGED
    np.testing.assert_allclose(solution.action, action, rtol=1e-11)


def test_all_three_branches_solve_the_matrix_equations():
    """Whitened data with the values of the theory note, through the general solver."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    y = Q[0]
    solution = solve_linear(kernel=np.eye(5), y=y, depth=4, gamma0=32.0, beta=0.01)
    ones = np.ones(5)
    found = [solution.select(i) for i in range(3)]
    np.testing.assert_allclose([s.overlaps[-1] for s in found], [2.1518, 7.0252, 145.3879], rtol=1e-4)
    np.testing.assert_allclose([s.action for s in found], [5.05131, 5.06525, 4.54163], atol=5e-6)
    assert [s.branch.stable for s in found] == [True, False, True]
    assert solution.branch_index == solution.global_index == 2
    for s in found:
        violation, action = dense_equations(np.eye(5), y[:, None], s, 4, 32.0, 100.0, ones, ones)
        assert max(violation, s.residual) < 1e-12
        np.testing.assert_allclose(s.action, action, rtol=1e-12)
    for name, index in (("global", 2), ("lazy", 0), ("rich", 2), (1, 1), (-2, 1)):
        again = solve_linear(kernel=np.eye(5), y=y, depth=4, gamma0=32.0, beta=0.01, branch=name)
        assert again.branch_index == index


def test_residual_sees_a_wrong_solution():
    """The certificate must not be a tautology: a solution for other labels, or a shifted root, fails it."""
    from dataclasses import replace

    from linkern.bayes.posterior import solution_on_branch

    X, y = data()
    solution = solve_linear(X, y, depth=3, gamma0=2.0, beta=5.0)
    for shift in (1e-3, 1e-6, 1e-9):
        wrong = replace(solution.branch, log_rescaling=solution.branch.log_rescaling + shift)
        checked = solution_on_branch(solution.spectrum, solution.ensemble, (wrong,), 0, True)
        assert shift / 100 < checked.residual < 100 * shift
        assert (checked.status is Status.NOT_CONVERGED) == (checked.residual > 1e-9)
        wrong = replace(solution.branch, charge=solution.branch.charge + shift)
        assert shift / 100 < solution_on_branch(solution.spectrum, solution.ensemble, (wrong,), 0, True).residual


def test_descent_ascent_on_the_matrix_action_reaches_the_same_kernels():
    """An independent route: alternate steps down in Phi and up in hatPhi, knowing only the action's gradient."""
    rng = np.random.default_rng(3)
    P, depth, gamma0, T, rate = 6, 3, 1.0, 0.5, 0.3
    X, y = rng.standard_normal((P, 4 * P)), rng.standard_normal(P) / np.sqrt(P)
    C, eye = X @ X.T / X.shape[1], np.eye(P)
    phi, dual = [C] * (depth + 1), [np.zeros((P, P))] * (depth + 1)
    for _ in range(4000):
        v = np.linalg.solve(phi[depth] + T * eye, y)
        by_phi = [dual[l + 1] @ np.linalg.inv(eye + phi[l] @ dual[l + 1]) - dual[l] for l in range(1, depth)]
        by_phi.append(-(gamma0**2) * np.outer(v, v) - dual[depth])
        phi = [C, *(phi[l] - rate * (by_phi[l - 1] + by_phi[l - 1].T) / 2 for l in range(1, depth + 1))]
        by_dual = [np.linalg.inv(eye + phi[l - 1] @ dual[l]) @ phi[l - 1] - phi[l] for l in range(1, depth + 1)]
        dual = [dual[0], *(dual[l] + rate * (by_dual[l - 1] + by_dual[l - 1].T) / 2 for l in range(1, depth + 1))]
    solution = solve_linear(X, y, depth=depth, gamma0=gamma0, beta=1 / T)
    laws.assert_same_kernels(solution.kernels, phi, 1e-11)
    laws.assert_same_kernels(solution.dual_kernels, dual[1:], 1e-10)


@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_physical_laws(shape, outputs):
    rng = np.random.default_rng(4)
    X = rng.standard_normal(shape)
    y = rng.standard_normal((shape[0], outputs) if outputs else shape[0])
    widths, variances = [1.0, 0.5, 2.0], [0.7, 1.5, 1.0, 1.3]

    def solve(X, y, gamma0, beta=7.0):
        return solve_linear(X, y, depth=3, gamma0=gamma0, beta=beta, widths=widths, prior_variances=variances)

    solution = solve(X, y, 1.5)
    laws.assert_symmetric_psd(solution.kernels)
    laws.assert_conserved_charge(solution, widths, 1e-12)
    laws.assert_permutation_equivariant(solve, X, y, 1.5, 1e-11)
    laws.assert_rotation_invariant(solve, X, y, 1.5, 1e-11)
    laws.assert_label_scaling(solve, X, y, 1.5, 1e-11)
    laws.assert_sign_symmetric(solve, X, y, 1.5, 1e-11)
    laws.assert_homogeneous(solve, 1.0, 1e-11)
    C = X @ X.T / shape[1]
    laws.assert_lazy_limit(solve, X, y, [C, 0.7 * C, 1.05 * C, 1.05 * C], 1e-2)


def test_gamma0_zero_is_kernel_ridge_regression_exactly():
    X, y = data()
    C = X @ X.T / X.shape[1]
    solution = solve_linear(X, y, depth=3, gamma0=0.0, beta=5.0, prior_variances=[2.0, 1.0, 1.0, 0.5])
    assert (solution.rescaling, solution.excess, solution.charge, solution.action) == (1.0, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(solution.fitted, C @ np.linalg.solve(C + np.eye(9) / 5, y), atol=1e-14)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
@pytest.mark.parametrize("beta", [4.0, np.inf])
def test_predictor_is_kernel_regression_with_the_adapted_kernel(shape, beta):
    """f(x) from the last kernel extended to new points: test rows enter only the Gaussian part."""
    rng = np.random.default_rng(5)
    X, X_new = rng.standard_normal(shape), rng.standard_normal((4, shape[1]))
    y = X @ rng.standard_normal(shape[1])
    C, C_new = X @ X.T / shape[1], X_new @ X.T / shape[1]
    solution = solve_linear(X, y, depth=2, gamma0=2.0, beta=beta)
    v = solution.dual_coefficients
    # k(x) = C_x (1 + [Phi^L - C in its low-rank form] ...): apply the layer recursion to the extended kernel.
    rows, phi = C_new, [np.asarray(kernel) for kernel in solution.kernels]
    for l in (1, 2):
        rows = rows @ np.linalg.inv(np.eye(len(C)) + solution.dual_kernels[l - 1] @ phi[l - 1])
    np.testing.assert_allclose(solution.predict(X_new), rows @ v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.predict(kernel_new=C_new), rows @ v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.predict(X), solution.fitted, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(solution.training_error, 0.5 * np.sum((solution.fitted - y) ** 2), rtol=1e-9, atol=1e-24)
    if np.isfinite(beta):
        np.testing.assert_allclose(phi[-1] @ v + v / beta, y, rtol=1e-11, atol=1e-12)


def test_kernel_objects_act_like_the_matrices_they_stand_for():
    X, y = data()
    solution = solve_linear(X, y, depth=2, gamma0=2.0, beta=4.0, prior_variances=[1.5, 0.5, 1.0])
    u = np.random.default_rng(6).standard_normal((9, 2))
    for kernel in (*solution.kernels, *solution.dual_kernels):
        matrix = kernel.dense()
        assert kernel.shape == matrix.shape
        np.testing.assert_allclose(kernel @ u, matrix @ u, atol=1e-12 * np.abs(matrix).max())
        np.testing.assert_allclose(kernel.trace(), np.trace(matrix), rtol=1e-12)
        np.testing.assert_allclose(kernel.frobenius_norm(), np.linalg.norm(matrix), rtol=1e-12)
        np.testing.assert_allclose(kernel.quadratic(u[:, 0]), u[:, 0] @ matrix @ u[:, 0], rtol=1e-11)
        assert np.asarray(kernel, dtype=np.float32).dtype == np.float32
        with pytest.raises(ValueError, match="u: expected 9 rows"):
            kernel @ np.ones(3)
        with pytest.raises(ValueError, match="copy"):
            np.asarray(kernel, copy=False)
    matrices = [kernel.dense() for kernel in solution.kernels]
    overlap = [y @ K @ y / np.linalg.norm(K) / (y @ y) for K in matrices]
    np.testing.assert_allclose(solution.alignment(), overlap, rtol=1e-12)
    v = solution.dual_coefficients
    np.testing.assert_allclose(solution.overlaps, [v @ K @ v / (v @ matrices[0] @ v) for K in matrices], rtol=1e-12)


def test_kernels_of_a_deep_network_on_many_samples_are_not_built_until_asked_for():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((20_000, 3))
    solution = solve_linear(X, X[:, 0], depth=50, gamma0=1.0, beta=1.0)
    # One dense kernel would take 3.2 GB.
    assert len(solution.kernels) == 51
    assert solution.kernels[-1].quadratic(X[:, 0]) > solution.kernels[0].quadratic(X[:, 0])
    assert solution.residual < 1e-12


def test_data_kernel_and_modes_agree():
    X, y = data(6, 9)
    from_data = solve_linear(X, y, depth=3, gamma0=2.0, beta=3.0)
    from_kernel = solve_linear(kernel=X @ X.T / 9, y=y, depth=3, gamma0=2.0, beta=3.0)
    lam, U = np.linalg.eigh(X @ X.T / 9)
    from_modes = solve_linear(spectrum=Spectrum.from_modes(lam, U.T @ y), depth=3, gamma0=2.0, beta=3.0)
    for other in (from_kernel, from_modes):
        np.testing.assert_allclose(other.rescaling, from_data.rescaling, rtol=1e-12)
        np.testing.assert_allclose(other.action, from_data.action, rtol=1e-12)
    with pytest.raises(ValueError, match="X_new: the training inputs are unknown"):
        from_kernel.predict(X)


def test_whitened_solver_equals_the_general_one():
    from linkern.bayes import solve_whitened

    for gamma0, beta, depth in ((0.3, 5.0, 1), (4.0, np.inf, 6), (40.0, 0.01, 3), (1e-6, 0.3, 50)):
        grid = solve_whitened(gamma0, beta, depth, label_norm=2.0)
        general = solve_linear(kernel=np.eye(3), y=[0.0, 2.0, 0.0], depth=depth, gamma0=gamma0, beta=beta)
        np.testing.assert_allclose(grid.excess, general.excess, rtol=1e-13)
        np.testing.assert_allclose(grid.action, general.action, rtol=1e-13)
        np.testing.assert_allclose(grid.charge, general.charge, rtol=1e-13)
        assert grid.solutions == len(general.branches)


def test_save_and_load(tmp_path):
    X, y = data()
    solution = solve_linear(X, y, depth=2, gamma0=2.0, beta=4.0)
    arrays, record = load_npz(solution.save(tmp_path / "solution.npz"))
    np.testing.assert_array_equal(arrays["coefficients"], solution.coefficients)
    assert record["depth"] == 2
    assert record["beta"] == 4.0
    assert record["status"] == "CONVERGED"
    infinite = solve_linear(X, X[:, 0], depth=2, gamma0=2.0)
    assert load_npz(infinite.save(tmp_path / "cold.npz"))[1]["beta"] == np.inf


def test_an_unresolved_kernel_is_reported():
    """Interpolating random labels with a Hilbert-like kernel depends on eigenvalues that float64 cannot hold."""
    P = 10
    C = 1.0 / (np.arange(P)[:, None] + np.arange(P) + 1)
    y = np.random.default_rng(8).standard_normal(P)
    cold = solve_linear(kernel=C, y=y, depth=2, gamma0=1.0)
    assert cold.status is Status.ILL_CONDITIONED
    assert cold.data_condition_number > 1e10
    warm = solve_linear(kernel=C, y=y, depth=2, gamma0=1.0, beta=10.0)
    assert warm.status is Status.CONVERGED
    # The same spectrum, stated mode by mode, is known to full precision.
    assert solve_linear(spectrum=Spectrum.from_modes(10.0 ** -np.arange(16), np.ones(16)), depth=2, gamma0=1.0).status is (
        Status.CONVERGED
    )


def test_a_spinodal_is_reported_as_degenerate():
    """gamma0 at the whitened spinodal to the last bit: two roots or none, the lazy branch ends."""
    L, s = 4, 0.05
    A = (1 + s) / ((L - 1) - (L + 1) * s)
    k = (1 + A) ** L
    spinodal = np.sqrt(A * k) * (1 + s) / s
    for gamma0 in spinodal * (1 + np.array([-1e-15, 0.0])):
        solution = solve_linear(spectrum=Spectrum.from_modes([1.0], [1.0]), depth=L, gamma0=gamma0, beta=s / k, branch="lazy")
        assert solution.status is Status.DEGENERATE
        assert solution.condition_number > 1e6
        np.testing.assert_allclose(solution.rescaling, k, rtol=1e-6)
