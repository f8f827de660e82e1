"""The one decomposition: eigenvalues, coefficients and the maps between samples and modes."""

import subprocess
import sys

import numpy as np
import pytest

from linkern.bayes import Spectrum, solve_linear


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
@pytest.mark.parametrize("outputs", [None, 3])
def test_data_kernel_and_numpy_agree(shape, outputs):
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape)
    y = rng.standard_normal(shape[0] if outputs is None else (shape[0], outputs))
    C = X @ X.T / shape[1]
    rank = min(shape)
    exact = np.linalg.eigvalsh(C)[-rank:]
    u = rng.standard_normal((shape[0], 2))
    for spectrum in (Spectrum.from_data(X, y), Spectrum.from_kernel(C, y)):
        np.testing.assert_allclose(spectrum.eigenvalues, exact, rtol=1e-11)
        projected = spectrum.to_samples(spectrum.coefficients)
        np.testing.assert_allclose(projected + spectrum.labels_outside, spectrum.labels, atol=1e-13)
        np.testing.assert_allclose(spectrum.to_modes(spectrum.labels_outside), 0, atol=1e-13)
        np.testing.assert_allclose(spectrum.residual, np.linalg.norm(spectrum.labels_outside, axis=0), rtol=1e-13)
        np.testing.assert_allclose(spectrum.dense(), C, atol=1e-13)
        np.testing.assert_allclose(spectrum.apply(u), C @ u, atol=1e-13)
        assert spectrum.coefficients.shape == (rank, outputs or 1)
        assert spectrum.label_shape == y.shape


def test_rank_is_detected():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 9))
    y = rng.standard_normal(30)
    for spectrum in (Spectrum.from_data(X, y), Spectrum.from_kernel(X @ X.T, y), Spectrum.from_data(X[:8].T, y[:9])):
        assert spectrum.eigenvalues.size == 4


def test_labels_in_the_range_have_no_residual():
    """Rounding left over from the projection would otherwise be divided by T."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((50, 8)) * np.logspace(0, -3, 8)
    assert Spectrum.from_data(X, X @ np.ones(8)).residual[0] == 0.0
    assert Spectrum.from_data(X[:8], rng.standard_normal(8)).residual[0] == 0.0
    cold = solve_linear(X, X @ np.ones(8), depth=2, gamma0=1.0, beta=1e14)
    limit = solve_linear(X, X @ np.ones(8), depth=2, gamma0=1.0)
    np.testing.assert_allclose(
        cold.dual_coefficients, limit.dual_coefficients, rtol=1e-4, atol=1e-6 * np.abs(limit.dual_coefficients).max()
    )


def test_tall_ill_conditioned_data_keep_the_least_squares_fit():
    """Singular values over six decades: the weights of the interpolating fit agree with LAPACK's SVD-based solution."""
    rng = np.random.default_rng(3)
    X = np.linalg.qr(rng.standard_normal((200, 6)))[0] * np.logspace(0, -6, 6) @ np.linalg.qr(rng.standard_normal((6, 6)))[0]
    theta = rng.standard_normal(6)
    solution = solve_linear(X, X @ theta, depth=2, gamma0=1.0)
    np.testing.assert_allclose(solution.predict(np.eye(6)), theta, rtol=1e-6)
    np.testing.assert_allclose(solution.fitted, X @ theta, atol=1e-13)


def test_explicit_modes_stay_as_they_are():
    spectrum = Spectrum.from_modes([1e-12, 1.0, 0.0, 1e-6], [1.0, 2.0, 3.0, 4.0], 5.0)
    np.testing.assert_array_equal(spectrum.eigenvalues, [1e-12, 1e-6, 1.0])
    np.testing.assert_array_equal(spectrum.coefficients[:, 0], [1.0, 4.0, 2.0])
    np.testing.assert_allclose(spectrum.residual, np.hypot(3.0, 5.0), rtol=1e-15)
    np.testing.assert_array_equal(spectrum.dense(), np.diag([1e-12, 1.0, 0.0, 1e-6, 0.0]))
    solution = solve_linear(spectrum=spectrum, depth=2, gamma0=1.0, beta=2.0)
    assert solution.fitted.shape == (5,)
    np.testing.assert_allclose(spectrum.labels[:, 0] - solution.fitted, solution.dual_coefficients / 2.0, rtol=1e-12)
    np.testing.assert_allclose(solution.training_error, 0.5 * np.sum((spectrum.labels[:, 0] - solution.fitted) ** 2), rtol=1e-13)
    several = Spectrum.from_modes([1.0, 2.0], np.eye(2), [3.0, 0.0])
    np.testing.assert_array_equal(several.labels_outside, [[0, 0], [0, 0], [3, 0]])


def test_one_spectrum_serves_many_parameters():
    rng = np.random.default_rng(4)
    X, y = rng.standard_normal((20, 30)), rng.standard_normal(20)
    spectrum = Spectrum.from_data(X, y)
    for depth, gamma0, beta in ((1, 0.1, 2.0), (5, 3.0, np.inf), (30, 0.5, 0.1)):
        reused = solve_linear(spectrum=spectrum, depth=depth, gamma0=gamma0, beta=beta)
        assert reused.rescaling == solve_linear(X, y, depth=depth, gamma0=gamma0, beta=beta).rescaling


def test_solvers_import_neither_sympy_nor_matplotlib():
    code = "import sys, linkern.bayes; print(sorted({'sympy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
