"""Fixed points of training with weight decay: mpmath, minimisation, networks trained to the end, and the Bayes limit."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize

from linkern.bayes import Spectrum, solve_linear
from linkern.flow.collapse import collapse_lines
from linkern.flow.fixed_point import certified_point
from linkern.flow.linear import solve_fixed_point
from linkern.solution import Status, load_npz


def task(seed=0, points=5, inputs=8):
    r = np.random.default_rng(seed)
    return r.standard_normal((points, inputs)), r.standard_normal(points)


def objective(f, y, C, depth, gamma0, decay):
    q = f @ np.linalg.solve(C, f)
    return 0.5 * np.sum((y - f) ** 2) + decay * (depth + 1) / (2 * gamma0**2) * (gamma0**2 * q) ** (1 / (depth + 1))


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(("gamma0", "decay"), [(1.0, 0.1), (2.5, 0.7), (0.3, 1e-6), (50.0, 3.0)])
def test_scalar_equation_at_fifty_digits(depth, gamma0, decay):
    X, y = task()
    solution = solve_fixed_point(X, y, depth=depth, gamma0=gamma0, weight_decay=decay)
    assert solution.status is Status.CONVERGED
    assert solution.residual < 1e-11
    assert solution.certified
    with mpmath.workdps(50):
        C = mpmath.matrix(X @ X.T / 8)
        labels, g, lam = mpmath.matrix(y), mpmath.mpf(gamma0), mpmath.mpf(decay)

        def excess(a):
            v = mpmath.lu_solve(C + lam * a**-depth * mpmath.eye(5), labels)
            return mpmath.log(g**2 * (v.T * C * v)[0, 0]) - (depth + 1) * mpmath.log(a)

        a = mpmath.findroot(excess, mpmath.mpf(solution.branch.amplitude), tol=1e-80)
        v = mpmath.lu_solve(C + lam * a**-depth * mpmath.eye(5), labels)
        f = np.array([float(x) for x in C * v])
        assert abs(solution.branch.amplitude / float(a) - 1) < 1e-12
    np.testing.assert_allclose(solution.fitted, f, rtol=0, atol=1e-12 * np.abs(f).max())


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_stable_branches_are_the_minima_of_the_energy(depth):
    X, y = task(1)
    C = X @ X.T / 8
    lines = collapse_lines(Spectrum.from_data(X, y), depth=depth, gamma0=1.3)
    for decay in (0.2 * lines.collapse, 0.95 * lines.collapse):
        solution = solve_fixed_point(X, y, depth=depth, gamma0=1.3, weight_decay=decay)
        assert [b.stable for b in solution.branches] == ([False, True] if depth == 1 else [True, False, True])
        arguments = (y, C, depth, 1.3, decay)
        found = minimize(objective, solution.fitted * 1.02, arguments, method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose(found.x, solution.fitted, atol=2e-6)
        assert abs(objective(solution.fitted, *arguments) - solution.energy) < 1e-13 * solution.energy
        unstable = solution.select(0 if depth == 1 else 1)
        assert "unstable" in unstable.advice or solution.dynamics_decide
        away = minimize(objective, unstable.fitted + 1e-3 * solution.fitted, arguments, method="BFGS").x
        assert np.abs(away - unstable.fitted).max() > 0.01
        assert solution.dynamics_decide == (depth > 1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_kernels_and_tangent_kernel(depth):
    X, y = task(2)
    decay = 0.3
    solution = solve_fixed_point(X, y, depth=depth, gamma0=1.5, weight_decay=decay)
    f, a, C = solution.fitted, solution.branch.amplitude, X @ X.T / 8
    q = f @ np.linalg.solve(C, f)
    for l in range(1, depth + 1):
        np.testing.assert_allclose(solution.kernels[l].dense(), a**l * np.outer(f, f) / q, rtol=1e-11, atol=1e-13)
    K = sum(G * np.asarray(Phi) for G, Phi in zip(solution.gradient_kernels, solution.kernels, strict=True))
    np.testing.assert_allclose(solution.tangent_kernel.dense(), K, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(K @ np.linalg.solve(K + decay * (depth + 1) * np.eye(5), y), f, rtol=1e-10)
    np.testing.assert_allclose(solution.error, y - f, rtol=1e-10)
    np.testing.assert_allclose(K @ solution.dual_coefficients, f, rtol=1e-9, atol=1e-12)
    expected = [y @ k.dense() @ y / np.linalg.norm(k.dense()) / (y @ y) for k in solution.kernels]
    np.testing.assert_allclose(solution.alignment(), expected, rtol=1e-10)
    new = np.random.default_rng(9).standard_normal((3, 8))
    expected = new @ X.T / 8 @ np.linalg.solve(C + solution.branch.ridge * np.eye(5), y)
    np.testing.assert_allclose(solution.predict(new), expected, rtol=1e-11)
    np.testing.assert_allclose(solution.predict(kernel_new=new @ X.T / 8), expected, rtol=1e-11)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("inputs", [8, 3])
def test_a_narrow_network_ends_at_the_fixed_point(depth, inputs):
    """Width does not matter at rest; with fewer inputs than points a part of the labels stays out of reach."""
    X, y = task(3, inputs=inputs)
    N, gamma0, decay, eta = 20, 2.0, 0.4, 0.02
    r = np.random.default_rng(0)
    W = [r.standard_normal((N, inputs)), *(r.standard_normal((N, N)) for _ in range(depth - 1))]
    w = r.standard_normal(N)
    for _ in range(4000):
        h = [W[0] @ X.T / inputs**0.5]
        for V in W[1:]:
            h.append(V @ h[-1] / N**0.5)
        error = y - w @ h[-1] / (gamma0 * N)
        scale, g = eta * gamma0**2 * N, w / (gamma0 * N)
        new_w = w * (1 - eta * decay) + scale * h[-1] @ error / (gamma0 * N)
        for l in range(depth - 1, 0, -1):
            back = W[l].T @ g / N**0.5
            W[l] = W[l] * (1 - eta * decay) + scale * np.outer(g, h[l - 1] @ error) / N**0.5
            g = back
        W[0] = W[0] * (1 - eta * decay) + scale * np.outer(g, error @ X) / inputs**0.5
        w = new_w
    solution = solve_fixed_point(X, y, depth=depth, gamma0=gamma0, weight_decay=decay)
    np.testing.assert_allclose(y - error, solution.fitted, atol=1e-10)
    for l, layer in enumerate(h):
        np.testing.assert_allclose(layer.T @ layer / N, solution.kernels[l + 1].dense(), atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_zero_temperature_posterior_at_fixed_weight_decay(depth):
    """Prior variances 1/(beta lambda) in all layers, beta -> inf: two temperatures and an extrapolation linear in 1/beta."""
    X, y = task(4)
    decay = 0.3
    solution = solve_fixed_point(X, y, depth=depth, gamma0=1.5, weight_decay=decay)
    runs = []
    for T in (2e-6, 1e-6):
        runs.append(solve_linear(X, y, depth=depth, gamma0=1.5, beta=1 / T, prior_variances=T / decay, branch="rich"))
    np.testing.assert_allclose(2 * runs[1].fitted - runs[0].fitted, solution.fitted, rtol=2e-9)
    np.testing.assert_allclose(runs[1].fitted, solution.fitted, rtol=1e-4)
    for l in range(1, depth + 1):
        limit = 2 * runs[1].kernels[l].dense() - runs[0].kernels[l].dense()
        np.testing.assert_allclose(limit, solution.kernels[l].dense(), atol=2e-9 * np.abs(limit).max())
    actions = [run.action * T / 1.5**2 for run, T in zip(runs, (2e-6, 1e-6), strict=True)]
    # The entropy T ln T of the layers is what remains at small T.
    assert abs(actions[1] - solution.energy) < 1e-4 * solution.energy


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_whitened_collapse_lines(depth):
    s = 1.7 * 2.0
    lines = collapse_lines(Spectrum.from_modes([1.0], [2.0]), depth=depth, gamma0=1.7)
    spinodal = (depth + 1) / (depth - 1) * (s * (depth - 1) / (2 * depth)) ** (2 * depth / (depth + 1))
    equal = (s * (depth - 1) / depth) ** (2 * depth / (depth + 1)) / (depth - 1)
    assert lines.collapse == pytest.approx(spinodal, rel=1e-13)
    assert lines.equal_energy == pytest.approx(equal, rel=1e-13)
    assert lines.certified
    assert lines.at(0.3).collapse == pytest.approx(
        collapse_lines(Spectrum.from_modes([1.0], [2.0]), depth=depth, gamma0=0.3).collapse, rel=1e-12
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_collapse_lines_separate_the_numbers_of_solutions(depth):
    lam, b = np.array([1e-6, 1e-2, 1.0, 30.0]), np.array([3e-2, 0.4, 1.0, 0.5])
    spectrum = Spectrum.from_modes(lam, b)
    lines = collapse_lines(spectrum, depth=depth, gamma0=0.8)

    def solve(decay):
        return solve_fixed_point(spectrum=spectrum, depth=depth, gamma0=0.8, weight_decay=decay, branch="global")

    assert len(solve(lines.collapse * 1.001).branches) == 1
    assert len(solve(lines.collapse * 0.999).branches) > 1
    assert solve(lines.equal_energy * 1.001).branch_index == 0
    assert solve(lines.equal_energy * 0.999).branch_index > 0
    for value in lines.spinodals:
        counts = [len(solve(value * factor).branches) for factor in (0.999, 1.001)]
        assert abs(counts[0] - counts[1]) == 2


def test_four_nonzero_fixed_points_and_a_brute_force_count():
    """Eigenvalues ten decades apart: the network may fit the large modes only, or all."""
    spectrum = Spectrum.from_modes([1.0, 1e-10], [1.0, 0.05])
    lines = collapse_lines(spectrum, depth=6, gamma0=1.0)
    assert lines.spinodals.size == 3
    low, high = np.sort(lines.spinodals)[0], np.sort(lines.spinodals)[1]
    decay = np.sqrt(low * high)
    solution = solve_fixed_point(spectrum=spectrum, depth=6, gamma0=1.0, weight_decay=decay)
    x = np.linspace(-60, 30, 2_000_001)
    Q = sum(k * b**2 / (k + np.exp(x)) ** 2 for k, b in ((1.0, 1.0), (1e-10, 0.05)))
    F = 7 / 6 * x + np.log(Q) - 7 / 6 * np.log(decay)
    assert len(solution.branches) == 1 + np.count_nonzero(np.diff(np.sign(F)))
    assert [b.amplitude for b in solution.branches] == sorted(b.amplitude for b in solution.branches)


def test_extreme_parameters_and_spinodal():
    spectrum = Spectrum.from_modes(10.0 ** np.arange(-120, 121, 20), np.ones(13))
    solution = solve_fixed_point(spectrum=spectrum, depth=3, gamma0=1e-3, weight_decay=1e-80)
    assert solution.status is Status.CONVERGED
    assert solution.residual < 1e-9
    white = Spectrum.from_modes([1.0], [1.0])
    exactly = collapse_lines(white, depth=2, gamma0=1.0).collapse
    at = solve_fixed_point(spectrum=white, depth=2, gamma0=1.0, weight_decay=exactly)
    assert len(at.branches) == 1 or at.status in (Status.DEGENERATE, Status.CONVERGED)
    assert solve_fixed_point(spectrum=white, depth=2, gamma0=0.0, weight_decay=1.0).fitted[0] == 0
    nothing = solve_fixed_point(np.eye(3), np.zeros(3), depth=2, gamma0=1.0, weight_decay=1.0)
    assert not nothing.fitted.any()
    assert nothing.branches[0].stable


def test_save(tmp_path):
    X, y = task()
    solution = solve_fixed_point(X, y, depth=2, gamma0=1.0, weight_decay=0.1)
    arrays, record = load_npz(solution.save(tmp_path / "a.npz"))
    np.testing.assert_array_equal(arrays["fitted"], solution.fitted)
    assert record["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"depth": 0}, "depth"), ({"gamma0": -1.0}, "gamma0"), ({"weight_decay": 0.0}, "weight_decay"),
        ({"weight_decay": np.nan}, "weight_decay"), ({"branch": "best"}, "branch"), ({"branch": 9}, "branch"),
        ({"y": np.ones((5, 2))}, "y"), ({"y": None}, "y"), ({"kernel": np.eye(5)}, "X, kernel, spectrum"),
        ({"y": np.ones(4)}, "y"),
    ],
)  # fmt: skip
def test_bad_input(change, name):
    X, y = task()
    arguments = {"X": X, "y": y, "depth": 2, "gamma0": 1.0, "weight_decay": 0.1} | change
    with pytest.raises((ValueError, TypeError), match=f"{name}: expected"):
        solve_fixed_point(**arguments)


def test_the_certificate_sees_a_wrong_root():
    X, y = task()
    solution = solve_fixed_point(X, y, depth=2, gamma0=1.0, weight_decay=0.3)
    for change in ({"amplitude": solution.branch.amplitude * (1 + 1e-6)}, {"log_ridge": solution.branch.log_ridge + 1e-6}):
        wrong = replace(solution.branch, **change)
        branches = tuple(wrong if branch is solution.branch else branch for branch in solution.branches)
        judged = certified_point(replace(solution, branches=branches))
        assert judged.residual > 1e-7
        assert judged.status is Status.NOT_CONVERGED
