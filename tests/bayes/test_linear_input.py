"""Bad, extreme and degenerate input: a right answer or a clear error that names the argument; never a warning."""

import numpy as np
import pytest

from linkern.bayes import Spectrum, solve_linear

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 4)), RNG.standard_normal(6)
C = X @ X.T / 4
BASE = {"depth": 2, "gamma0": 1.0, "beta": 3.0}


def with_entry(array, value):
    changed = array.copy()
    changed.flat[1] = value
    return changed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": with_entry(X, np.nan)}, ValueError, r"X: expected finite numbers, got nan at index \(0, 1\)"),
        ({"X": with_entry(X, np.inf)}, ValueError, "X: expected finite numbers, got inf"),
        ({"X": X[0]}, ValueError, "X: expected 2 axes"),
        ({"X": np.empty((0, 4))}, ValueError, "X: expected at least one entry"),
        ({"X": "data"}, TypeError, "X: expected an array of real numbers"),
        ({"X": 1j * X}, TypeError, "X: expected an array of real numbers"),
        ({"y": with_entry(Y, np.nan)}, ValueError, "y: expected finite numbers, got nan"),
        ({"y": Y[:5]}, ValueError, "y: expected 6 labels"),
        ({"y": Y[None, None]}, ValueError, "y: expected 1 or 2 axes"),
        ({"y": None}, ValueError, "y: expected labels, got None"),
        ({"X": None, "kernel": with_entry(C, 9.0)}, ValueError, "kernel: expected a symmetric matrix"),
        (
            {"X": None, "kernel": C - np.eye(6)},
            ValueError,
            "kernel: expected a positive semi-definite matrix, got smallest eig.* -1 ",
        ),
        ({"X": None, "kernel": C[:5]}, ValueError, "kernel: expected a square matrix"),
        ({"X": None, "kernel": C[:5, :5]}, ValueError, "y: expected 5 labels"),
        ({"kernel": C}, ValueError, "X, kernel, spectrum: expected exactly one"),
        ({"X": None}, ValueError, "X, kernel, spectrum: expected exactly one"),
        ({"X": None, "spectrum": C}, TypeError, "spectrum: expected a Spectrum, got ndarray"),
        ({"X": None, "spectrum": Spectrum.from_data(X, Y)}, ValueError, "y: the labels are part of the spectrum"),
        ({"depth": 0}, ValueError, "depth: expected an integer >= 1, got 0"),
        ({"depth": 1.5}, TypeError, "depth: expected an integer >= 1, got 1.5"),
        ({"depth": 2.0}, TypeError, "depth: expected an integer"),
        ({"gamma0": -1.0}, ValueError, "gamma0: expected a finite number >= 0, got -1.0"),
        ({"gamma0": np.inf}, ValueError, "gamma0: expected a finite number"),
        ({"gamma0": np.nan}, ValueError, "gamma0: expected a finite number"),
        ({"gamma0": "rich"}, TypeError, "gamma0: expected a finite number"),
        ({"beta": 0.0}, ValueError, "beta: expected a number > 0"),
        ({"beta": -1.0}, ValueError, "beta: expected a number > 0"),
        ({"beta": np.nan}, ValueError, "beta: expected a number > 0"),
        ({"beta": 1e-310}, ValueError, "beta: expected a number whose inverse is finite"),
        ({"beta": np.inf}, ValueError, "beta: with beta = inf the labels must lie in the range .* a fraction 0.[0-9]+ of"),
        ({"prior_variances": [1.0, 2.0]}, ValueError, "prior_variances: expected one number or 3"),
        ({"prior_variances": 0.0}, ValueError, "prior_variances: expected numbers > 0"),
        ({"prior_variances": 1e200}, ValueError, "prior_variances: expected a product within"),
        ({"widths": [1.0, 2.0, 3.0]}, ValueError, "widths: expected one number or 2"),
        ({"widths": -1.0}, ValueError, "widths: expected numbers > 0"),
        ({"branch": "best"}, ValueError, "branch: expected 'global', 'lazy', 'rich' or an index, got 'best'"),
        ({"branch": 1}, ValueError, "branch: expected an index into 1 branches, got 1"),
        ({"gamma0": 1e200}, ValueError, "gamma0: .* leaves the range of float64"),
        ({"gamma0": 1e100}, ValueError, "gamma0: the kernel's rescaling exceeds the range"),
        ({"y": 1e160 * Y}, ValueError, "gamma0: .* range of float64"),
        ({"X": 1e160 * X}, ValueError, "X: the kernel's entries leave the range of float64"),
        ({"X": 1e-160 * X}, ValueError, "X: the kernel's entries leave the range of float64"),
        ({"X": None, "kernel": 1e305 * C}, ValueError, "kernel: the kernel's entries leave the range of float64"),
    ],
)
def test_clear_errors(change, error, message):
    with pytest.raises(error, match=message):
        solve_linear(**{"X": X, "y": Y, **BASE, **change})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, -1.0], [1.0, 1.0]), "eigenvalues: expected numbers >= 0, got -1.0"),
        (([1.0, 2.0], [1.0]), "coefficients: expected one row per eigenvalue"),
        (([1.0], [1.0], -1.0), "residual: expected numbers >= 0"),
        (([1.0], [[1.0, 2.0]], [1.0, 2.0, 3.0]), "residual: expected one number per output"),
        (([1.0], [[1.0, 2.0]], 1.0), "residual: expected one number per output"),
        (([1.0, np.nan], [1.0, 1.0]), "eigenvalues: expected finite"),
    ],
)
def test_bad_modes(arguments, message):
    with pytest.raises(ValueError, match=message):
        Spectrum.from_modes(*arguments)


def test_modes_that_no_float_can_square_together():
    with pytest.raises(ValueError, match="eigenvalues: they spread over more than 140 decades"):
        solve_linear(spectrum=Spectrum.from_modes([1.0, 1e-200], [1.0, 1.0]), depth=2, gamma0=1.0)
    # With a ridge the small one is merely lazy.
    assert solve_linear(spectrum=Spectrum.from_modes([1.0, 1e-200], [1.0, 1.0]), **BASE).residual < 1e-12


@pytest.mark.parametrize("beta", [3.0, np.inf])
def test_zero_labels_are_exactly_lazy(beta):
    for y in (np.zeros(6), np.zeros((6, 3))):
        solution = solve_linear(X, y, depth=3, gamma0=5.0, beta=beta)
        assert solution.certified
        assert solution.residual == 0.0
        np.testing.assert_array_equal(solution.rescaling, 1.0 if y.ndim == 1 else np.eye(3))
        np.testing.assert_array_equal(solution.fitted, y)
        np.testing.assert_allclose(np.asarray(solution.kernels[3]), C, atol=1e-15)
        np.testing.assert_array_equal(solution.alignment(), 0.0)


def test_zero_inputs():
    solution = solve_linear(0 * X, Y, **BASE)
    assert (solution.rescaling, solution.charge, solution.residual) == (1.0, 0.0, 0.0)
    np.testing.assert_array_equal(solution.fitted, 0.0)
    np.testing.assert_allclose(solution.dual_coefficients, 3.0 * Y)
    np.testing.assert_allclose(solution.action, 1.5 * Y @ Y)
    np.testing.assert_allclose(solution.training_error, 0.5 * Y @ Y)
    with pytest.raises(ValueError, match=r"a fraction 1 of \|y\| lies outside \(rank 0 of 6\)"):
        solve_linear(0 * X, Y, depth=2, gamma0=1.0)


def test_one_sample_is_the_whitened_problem():
    solution = solve_linear(X[:1], Y[:1], depth=3, gamma0=2.0, beta=3.0)
    lam = C[0, 0]
    np.testing.assert_allclose((1 + solution.charge) ** 3, solution.rescaling, rtol=1e-14)
    k = solution.rescaling
    np.testing.assert_allclose(solution.charge, 4 * Y[0] ** 2 * lam * k / (k * lam + 1 / 3) ** 2, rtol=1e-13)


def test_constant_data_has_rank_one():
    ones = np.ones((6, 4))
    solution = solve_linear(ones, Y, **BASE)
    assert solution.spectrum.eigenvalues.size == 1
    np.testing.assert_allclose(solution.fitted, np.full(6, solution.fitted[0]), rtol=1e-13)
    np.testing.assert_allclose(
        np.asarray(solution.kernels[1]), np.full((6, 6), np.asarray(solution.kernels[1])[0, 0]), rtol=1e-13
    )
    cold = solve_linear(ones, np.full(6, 2.0), depth=2, gamma0=1.0)
    np.testing.assert_allclose(cold.fitted, 2.0, rtol=1e-14)
    with pytest.raises(ValueError, match="rank 1 of 6"):
        solve_linear(ones, Y, depth=2, gamma0=1.0)


@pytest.mark.parametrize("tall", [True, False])
def test_singular_kernel_at_zero_temperature_gives_the_least_norm_interpolant(tall):
    rng = np.random.default_rng(1)
    shape = (40, 6) if tall else (6, 9)
    X = rng.standard_normal(shape)
    X[:, -1] = X[:, 0] - 2 * X[:, 1]
    if not tall:
        X[-1] = X[0] + X[1]
    theta = rng.standard_normal(shape[1])
    y = X @ theta
    solution = solve_linear(X, y, depth=3, gamma0=2.0)
    np.testing.assert_allclose(solution.fitted, y, rtol=1e-11, atol=1e-12)
    X_new = rng.standard_normal((5, shape[1]))
    np.testing.assert_allclose(solution.predict(X_new), X_new @ np.linalg.lstsq(X, y, rcond=1e-10)[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        solution.dual_coefficients * solution.rescaling, np.linalg.pinv(X @ X.T / shape[1], rcond=1e-10) @ y, atol=1e-8
    )
    assert solution.residual < 1e-12


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100, 1e150])
def test_labels_of_any_scale(scale):
    plain = solve_linear(X, Y, **BASE)
    scaled = solve_linear(X, scale * Y, depth=2, gamma0=1 / scale, beta=3.0)
    np.testing.assert_allclose(scaled.rescaling, plain.rescaling, rtol=1e-13)
    np.testing.assert_allclose(scaled.fitted, scale * plain.fitted, rtol=1e-12)
    np.testing.assert_allclose(scaled.training_error, plain.training_error * scale * scale, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(scaled.kernels[2]), np.asarray(plain.kernels[2]), rtol=1e-11)
    np.testing.assert_allclose(np.asarray(scaled.dual_kernels[1]), np.asarray(plain.dual_kernels[1]), rtol=1e-11)
    np.testing.assert_allclose(scaled.alignment(), plain.alignment(), rtol=1e-12)
    np.testing.assert_allclose(scaled.data_condition_number, plain.data_condition_number, rtol=1e-10)
    assert scaled.residual < 1e-13
    two = solve_linear(X, scale * np.stack([Y, Y[::-1]], axis=1), depth=2, gamma0=1 / scale, beta=3.0)
    assert two.residual < 1e-12


@pytest.mark.parametrize("scale", [1e-140, 1e-100, 1e100, 1e140])
def test_inputs_of_any_scale(scale):
    """T and gamma0^2 scale with C: the same solution in other units."""
    shape = (6, 4), (4, 6)
    for rows, columns in shape:
        X = np.random.default_rng(2).standard_normal((rows, columns))
        y = X[:, 0]
        plain = solve_linear(X, y, **BASE)
        scaled = solve_linear(scale * X, y, depth=2, gamma0=scale, beta=3.0 / scale / scale)
        np.testing.assert_allclose(scaled.rescaling, plain.rescaling, rtol=1e-12)
        np.testing.assert_allclose(scaled.fitted, plain.fitted, rtol=1e-11)
        np.testing.assert_allclose(scaled.predict(scale * X), plain.fitted, rtol=1e-10)
        np.testing.assert_allclose(
            np.asarray(scaled.kernels[2]) / scale / scale, np.asarray(plain.kernels[2]), rtol=1e-10, atol=1e-13
        )
        np.testing.assert_allclose(scaled.alignment(), plain.alignment(), rtol=1e-11)
        assert scaled.residual < 1e-13


def test_extreme_but_representable_parameters():
    for change in (
        {"gamma0": 1e-200},
        {"beta": 1e300},
        {"beta": 1e-300},
        {"depth": 10_000},
        {"widths": 1e-8},
        {"widths": 1e8},
    ):
        y = X @ np.ones(4)
        solution = solve_linear(X, y, **{**BASE, **change})
        assert solution.residual < 1e-12
        assert solution.certified
    tiny = solve_linear(X, Y, depth=2, gamma0=1e-12, beta=3.0)
    lam, U = np.linalg.eigh(C)
    first = 2e-24 * ((U.T @ Y) ** 2 * lam / (lam + 1 / 3) ** 2).sum()
    np.testing.assert_allclose(tiny.excess, first, rtol=1e-13)


def test_lists_and_integers_are_welcome():
    ints = (9 * X).astype(int)
    a = solve_linear(ints.tolist(), (9 * Y).astype(int).tolist(), **BASE)
    b = solve_linear(ints.astype(float), np.trunc(9 * Y), **BASE)
    assert a.rescaling == b.rescaling


def test_predict_and_select_check_their_arguments():
    solution = solve_linear(X, Y, **BASE)
    for arguments, message in (
        ({}, "X_new, kernel_new: expected exactly one"),
        ({"X_new": X, "kernel_new": C}, "X_new, kernel_new: expected exactly one"),
        ({"X_new": X[:, :3]}, "X_new: expected 4 columns"),
        ({"kernel_new": C[:, :3]}, "kernel_new: expected 6 columns"),
        ({"X_new": X * np.nan}, "X_new: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            solution.predict(**arguments)
    with pytest.raises(ValueError, match="branch_index: expected an index into 1 branches, got 3"):
        solution.select(3)


def test_input_arrays_are_not_changed():
    data, labels, kernel = X.copy(), Y.copy(), C.copy()
    solve_linear(data, labels, **BASE)
    solve_linear(kernel=kernel, y=labels, **BASE)
    np.testing.assert_array_equal(data, X)
    np.testing.assert_array_equal(labels, Y)
    np.testing.assert_array_equal(kernel, C)
