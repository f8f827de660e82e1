"""The exact posterior at finite width: 30-digit references, brute-force quadrature with dense matrices, laws, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate

from linkern.bayes.linear import solve_linear
from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width import solve_width, solve_width_grid, solve_width_mean_field
from linkern.solution import Status, load_npz

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "width.json").read_text())


def problem(seed=0, P=6, D=5, m=3):
    rng = np.random.default_rng(seed)
    X, w, X_new = rng.normal(size=(P, D)), rng.normal(size=D), rng.normal(size=(m, D))
    return X, X @ w / np.sqrt(D) + 0.3 * rng.normal(size=P), X_new


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['widths']} chi={c['chi']:.3g} ridge={c['ridge']:.3g}")
def test_thirty_digit_reference(case):
    spectrum = Spectrum.from_modes(case["eigenvalues"], case["coefficients"])
    solution = solve_width(
        spectrum=spectrum, depth=len(case["widths"]), width=case["widths"], chi=case["chi"], ridge=case["ridge"]
    )
    assert solution.status is Status.CONVERGED
    assert solution.log_evidence == pytest.approx(float(case["log_evidence"]), rel=1e-12, abs=1e-12)
    assert solution.average.growth[-1] == pytest.approx(float(case["mean_q"]), rel=1e-10)
    assert solution.log_q_mean == pytest.approx(float(case["mean_log_q"]), rel=1e-10, abs=1e-12)
    # Spectrum sorts the modes.
    order = np.argsort(case["eigenvalues"])
    gains = np.array([float(gain) for gain in case["gains"]])[order]
    assert solution.average.gains == pytest.approx(gains, rel=1e-10)
    fitted = gains * np.array(case["coefficients"])[order]
    assert solution.fitted[order] == pytest.approx(fitted, rel=1e-10, abs=1e-300)


def brute_force(X, y, X_new, widths, g, ridge, layers):
    """Averages over q_1, q_2 by two nested Gauss-Legendre rules with dense matrices, straight from the definitions."""
    points, P, D = np.vstack([X, X_new]), y.size, X.shape[1]
    K = points @ points.T / D
    train = K[:P, :P]
    nodes, weights = np.polynomial.legendre.leggauss(160)
    s, ws = 6 * nodes - 3.4, 6 * weights
    grids = np.meshgrid(*[s] * len(widths), indexing="ij")
    volume = np.ones_like(grids[0])
    for axis in range(len(widths)):
        volume = volume * ws.reshape([-1 if a == axis else 1 for a in range(len(widths))])
    log_prior = sum(N / 2 * (t - np.exp(t)) for N, t in zip(widths, grids, strict=True))
    total, mean, second = 0.0, 0.0, 0.0
    kernels = [0.0] * layers
    inputs = 0.0
    for index in np.ndindex(grids[0].shape):
        q = np.exp([grid[index] for grid in grids])
        Q = q.prod()
        A = g * Q * train + ridge * np.eye(P)
        v, inverse = np.linalg.solve(A, y), np.linalg.inv(A)
        weight = volume[index] * np.exp(log_prior[index] - 0.5 * y @ v - 0.5 * np.linalg.slogdet(A)[1] + 40)
        f = g * Q * K[:, :P] @ v
        cov = g * Q * K - (g * Q) ** 2 * K[:, :P] @ inverse @ K[:P]
        core = np.outer(v, v) - inverse
        Phi = K
        for l in range(layers):
            grown = np.prod(q[:l]) * (K + g * Q * K[:, :P] @ core @ K[:P])
            Phi = (1 - 1 / widths[l]) * Phi + grown / widths[l]
            kernels[l] = kernels[l] + weight * Phi
        inputs = inputs + weight * (np.eye(D) + g * Q / (widths[0] * D) * X.T @ core @ X) / D
        total, mean = total + weight, mean + weight * f
        second = second + weight * (cov + np.outer(f, f))
    mean = mean / total
    return mean, second / total - np.outer(mean, mean), [Phi / total for Phi in kernels], inputs / total


@pytest.mark.parametrize("widths", [(6,), (5, 8)])
def test_every_observable_against_brute_force(widths):
    X, y, X_new = problem(P=4, D=3, m=2)
    g, ridge, P = 1.7, 0.3, 4
    mean, covariance, kernels, inputs = brute_force(X, y, X_new, widths, g, ridge, len(widths))
    solution = solve_width(X, y, depth=len(widths), width=list(widths), readout_variance=3.4, chi=2.0, ridge=ridge)
    new = solution.at(X_new)
    assert solution.fitted == pytest.approx(mean[:P], rel=1e-8)
    assert new.mean == pytest.approx(mean[P:], rel=1e-8)
    assert solution.fitted_covariance() == pytest.approx(covariance[:P, :P], rel=1e-7, abs=1e-9)
    assert solution.fitted_variance == pytest.approx(np.diag(covariance)[:P], rel=1e-8)
    assert new.covariance() == pytest.approx(covariance[P:, P:], rel=1e-8, abs=1e-10)
    assert new.variance == pytest.approx(np.diag(covariance)[P:], rel=1e-8)
    assert new.error(np.ones(2)) == pytest.approx((mean[P:] - 1) ** 2 + np.diag(covariance)[P:], rel=1e-8)
    for l, expected in enumerate(kernels, start=1):
        full = np.block(
            [
                [solution.kernels[l].dense(), new.kernel(l, training=True).T],
                [new.kernel(l, training=True), new.kernel(l)],
            ]
        )
        assert full == pytest.approx(expected, rel=1e-8, abs=1e-9)
        assert solution.kernels[l].trace() == pytest.approx(np.trace(expected[:P, :P]), rel=1e-9)
        assert solution.kernels[l] @ y == pytest.approx(expected[:P, :P] @ y, rel=1e-8, abs=1e-9)
    assert solution.input_weight_covariance() == pytest.approx(inputs, rel=1e-8, abs=1e-10)
    direction = np.array([[1.0, -2.0, 0.5]])
    along = solution.input_weight_covariance(direction)
    assert along == pytest.approx(np.einsum("mi,ij,mj->m", direction, inputs, direction), rel=1e-8)


def test_evidence_against_prior_samples_of_real_weights():
    """ln Z from 2e5 networks drawn from the prior."""
    rng = np.random.default_rng(3)
    X, y, _ = problem(P=3, D=4)
    widths, ridge, samples = (4, 3), 0.5, 200_000
    h = rng.normal(size=(samples, widths[0], 4)) / 2 @ X.T
    h = rng.normal(size=(samples, widths[1], widths[0])) / np.sqrt(widths[0]) @ h
    f = np.einsum("si,sip->sp", rng.normal(size=(samples, widths[1])) / np.sqrt(widths[1]), h)
    likelihood = np.exp(-((f - y) ** 2).sum(axis=1) / (2 * ridge)) / (2 * np.pi * ridge) ** 1.5
    estimate, error = likelihood.mean(), likelihood.std() / np.sqrt(samples)
    exact = np.exp(solve_width(X, y, depth=2, width=widths, ridge=ridge).log_evidence)
    assert abs(estimate - exact) < 4 * error
    assert error < 0.02 * exact


def test_mean_is_the_gradient_of_the_evidence():
    """f = y + kappa d ln Z/dy by finite differences of separate solutions."""
    X, y, _ = problem()
    options = {"depth": 2, "width": (7, 4), "ridge": 0.2, "chi": 1.5}
    solution, h = solve_width(X, y, **options), 1e-4
    gradient = []
    for unit in np.eye(y.size):
        values = [solve_width(X, y + k * h * unit, **options).log_evidence for k in (-2, -1, 1, 2)]
        gradient.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h))
    assert solution.fitted == pytest.approx(y + 0.2 * np.array(gradient), abs=1e-9)
    assert solution.dual_coefficients == pytest.approx((y - solution.fitted) / 0.2, rel=1e-10)


def test_chi_is_a_label_amplitude():
    X, y, X_new = problem()
    chi, base = 37.0, solve_width(*problem()[:2], depth=2, width=9, chi=37.0, ridge=0.4 / 37.0)
    other = solve_width(X, np.sqrt(chi) * y, depth=2, width=9, chi=1.0, ridge=0.4)
    assert base.log_evidence == pytest.approx(other.log_evidence + y.size / 2 * np.log(chi), rel=1e-12)
    assert base.predict(X_new) == pytest.approx(other.predict(X_new) / np.sqrt(chi), rel=1e-11)
    assert base.kernels[2].dense() == pytest.approx(other.kernels[2].dense(), rel=1e-11)


def test_more_data_than_dimensions_and_the_three_ways_to_give_data():
    """P > N, P > D: labels outside the range of the kernel count in the evidence only."""
    X, y, X_new = problem(P=12, D=4)
    options = {"depth": 2, "width": 3, "ridge": 0.1}
    first = solve_width(X, y, **options)
    K = X @ X.T / 4
    second = solve_width(kernel=K, y=y, **options)
    cross, own = X_new @ X.T / 4, X_new @ X_new.T / 4
    assert second.log_evidence == pytest.approx(first.log_evidence, rel=1e-9)
    assert second.predict(kernel_new=cross) == pytest.approx(first.predict(X_new), rel=1e-8)
    variance = second.at(kernel_new=cross, kernel_new_new=own.diagonal()).variance
    assert variance == pytest.approx(first.at(X_new).variance, rel=1e-8)
    assert second.at(kernel_new=cross, kernel_new_new=own).covariance() == pytest.approx(
        first.at(X_new).covariance(), rel=1e-7, abs=1e-10
    )
    dense = first.kernels[1].dense()
    assert np.linalg.matrix_rank(dense, tol=1e-10) == 4
    third = solve_width(spectrum=Spectrum.from_kernel(K, y[:, None]), **options)
    assert third.fitted.shape == (12, 1)


def test_one_data_point_is_an_elementary_integral():
    """P = 1, K = 1: Z = E_q N(y; 0, g q + kappa) with scipy's adaptive quadrature over chi-square."""
    y, ridge, N = 1.3, 1e-6, 5

    def integrand(log_q):
        q = np.exp(log_q)
        A = q + ridge
        return np.exp(N / 2 * (log_q - q) - y**2 / (2 * A)) / np.sqrt(2 * np.pi * A)

    normal = integrate.quad(lambda s: np.exp(N / 2 * (s - np.exp(s))), -30, 6, epsabs=0, epsrel=1e-13, limit=400)[0]
    value = integrate.quad(integrand, -30, 6, epsabs=0, epsrel=1e-13, limit=400)[0] / normal
    solution = solve_width(np.ones((1, 1)), [y], depth=1, width=N, ridge=ridge)
    assert solution.log_evidence == pytest.approx(np.log(value), rel=1e-11)


def test_grid_equals_single_solutions():
    X, y, X_new = problem()
    spectrum = Spectrum.from_data(X, y)
    chi, ridge = np.array([1.0, 30.0])[:, None], np.array([1e-6, 0.1, 1.0])
    grid = solve_width_grid(spectrum=spectrum, depth=2, width=(5, 11), chi=chi, ridge=ridge)
    assert grid.shape == (2, 3)
    for (i, j), cell in np.ndenumerate(grid):
        alone = solve_width(spectrum=spectrum, depth=2, width=(5, 11), chi=float(chi[i, 0]), ridge=float(ridge[j]))
        assert cell.log_evidence == pytest.approx(alone.log_evidence, rel=1e-13)
        assert cell.predict(X_new) == pytest.approx(alone.predict(X_new), rel=1e-12)


def test_permuting_data_and_rotating_inputs_change_nothing():
    X, y, X_new = problem()
    options = {"depth": 3, "width": (4, 6, 5), "ridge": 0.05, "chi": 4.0}
    base = solve_width(X, y, **options)
    order = np.random.default_rng(0).permutation(y.size)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    moved = solve_width(X[order] @ rotation, y[order], **options)
    assert moved.log_evidence == pytest.approx(base.log_evidence, rel=1e-12)
    assert moved.predict(X_new @ rotation) == pytest.approx(base.predict(X_new), rel=1e-10)
    assert moved.kernels[3].dense() == pytest.approx(base.kernels[3].dense()[np.ix_(order, order)], rel=1e-10)
    assert np.linalg.eigvalsh(base.kernels[3].dense()).min() > -1e-14


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_wide_limit_is_nngp(depth):
    X, y, X_new = problem()
    K, cross = X @ X.T / 5, X_new @ X.T / 5
    nngp = cross @ np.linalg.solve(K + 0.3 * np.eye(6), y)
    errors = [
        np.abs(solve_width(X, y, depth=depth, width=N, ridge=0.3).predict(X_new) - nngp).max()
        for N in (1e4, 1e6)
        for N in [int(N)]
    ]
    assert errors[1] < 1e-5
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_mean_field_limit_is_the_adaptive_kernel(depth):
    """chi = gamma0^2 N: kernels and mean tend to those of bayes.linear with an error of order 1/N."""
    X, y, X_new = problem(P=6, D=8)
    variances = [1.2, *[0.9] * (depth - 1), 1.1]
    limit = solve_linear(X, y, depth=depth, gamma0=1.5, beta=4.0, prior_variances=variances)
    errors = []
    for N in (3000, 30000):
        here = solve_width_mean_field(X, y, depth=depth, width=N, gamma0=1.5, beta=4.0, prior_variances=variances)
        kernel = np.abs(here.kernels[depth].dense() - limit.kernels[depth].dense()).max()
        errors.append((kernel, np.abs(here.predict(X_new) - limit.predict(X_new)).max()))
    (wide_kernel, wide_mean), (wider_kernel, wider_mean) = errors
    assert wide_kernel / wider_kernel == pytest.approx(10, rel=0.05)
    assert wide_mean / wider_mean == pytest.approx(10, rel=0.1)
    assert wider_kernel < 2e-3


def test_vanishing_ridge_forgets_q_in_the_mean():
    X, y, X_new = problem(P=4, D=9)
    solution = solve_width(X, y, depth=2, width=3, ridge=1e-10)
    interpolator = X_new @ X.T @ np.linalg.solve(X @ X.T, y)
    assert solution.predict(X_new) == pytest.approx(interpolator, rel=1e-7)


def test_first_order_transition_is_bimodal():
    """L = 3, N = 10, one data point: two modes of nearly equal weight, 1000 apart in Q."""
    spectrum, beta = Spectrum.from_modes([1.0], [1.0]), 1e-3
    found = []
    for strength in (0.03, 0.04, 0.05):
        chi = strength / beta**2 * 10
        found.append(solve_width(spectrum=spectrum, depth=3, width=10, chi=chi, ridge=1 / (beta * chi)))
    assert [solution.log_q_modes().size for solution in found] == [1, 2, 2]
    assert found[1].average.growth[-1] == pytest.approx(19.955, abs=1e-3)
    assert found[2].fitted[0] == pytest.approx(0.64529, abs=1e-5)
    assert all(solution.residual < 1e-10 for solution in found)


def test_save_and_record(tmp_path):
    X, y, _ = problem()
    solution = solve_width(X, y, depth=2, width=7, ridge=0.1)
    arrays, record = load_npz(solution.save(tmp_path / "width.npz"))
    assert arrays["gains"] == pytest.approx(solution.average.gains)
    assert record["width"] == [7, 7]
    assert record["log_evidence"] == solution.log_evidence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": 0.0}, "ridge"),
        ({"chi": -1.0}, "chi"),
        ({"width": 0}, "width"),
        ({"width": (3, 3, 3)}, "width"),
        ({"depth": 0}, "depth"),
        ({"readout_variance": 0.0}, "readout_variance"),
        ({"prior_variances": [1.0, 2.0, 3.0]}, "prior_variances"),
        ({"method": "two-loop"}, "method"),
        ({"method": "tree", "branch": "best"}, "branch"),
        ({"method": "tree", "branch": 5}, "branch"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    X, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        solve_width(X, y, **({"depth": 2, "width": 5, "ridge": 0.1} | changes))


def test_several_outputs_and_missing_points_are_refused():
    X, y, X_new = problem()
    with pytest.raises(ValueError, match="solve_width_outputs"):
        solve_width(X, np.column_stack([y, y]), depth=1, width=5, ridge=0.1)
    with pytest.raises(ValueError, match="y: expected labels"):
        solve_width(X, depth=1, width=5, ridge=0.1)
    with pytest.raises(TypeError, match="width"):
        solve_width(X, y, depth=1, width=5.5, ridge=0.1)
    solution = solve_width(X, y, depth=1, width=5, ridge=0.1)
    with pytest.raises(ValueError, match="kernel_new_new"):
        _ = solution.at(kernel_new=X_new @ X.T / 5).variance
    with pytest.raises(ValueError, match="X_new"):
        solution.predict()
