"""Alignment, overlaps and densities against closed forms and against marginals by brute-force quadrature."""

import numpy as np
import pytest
from scipy import stats

from bayes.montecarlo.hand_made import cubature, deep_linear, hermite, lazy_in_sections, tilted
from linkern.bayes import solve_linear
from linkern.bayes.montecarlo.observables.estimate import Estimate
from linkern.bayes.montecarlo.observables.features import alignment, overlaps, preactivation_density, sample_preactivations
from linkern.bayes.montecarlo.observables.predict import NewInputs
from linkern.bayes.montecarlo.quadrature.solve import solve_quadrature
from linkern.networks import sample_posterior


@pytest.fixture(name="data")
def _data():
    rng = np.random.default_rng(3)
    return rng.standard_normal((5, 4)), rng.standard_normal((5, 2)), rng.standard_normal((3, 4))


@pytest.mark.parametrize("outputs", [1, 2])
def test_alignment_and_overlaps_of_deep_linear_networks(data, outputs):
    X, Y = data[0], data[1][:, :outputs]
    solution = solve_linear(X, Y, depth=3, gamma0=1.5, beta=10.0)
    sample = deep_linear(solution, cubature)
    aligned = alignment(sample, (), Y)
    assert aligned.value == pytest.approx(solution.alignment(), rel=1e-10)
    assert not aligned.standard_error.any()
    expected = [np.trace(Y.T @ np.asarray(K) @ Y) / 5 for K in solution.kernels]
    assert overlaps(sample, (), Y if outputs == 2 else Y[:, 0]).value == pytest.approx(expected, rel=1e-10)


def test_alignment_of_sections_carries_the_error(data):
    X, y = data[0], np.sign(data[0][:, 0])
    rng = np.random.default_rng(0)
    problem = {"activation": "linear", "beta": 5.0}
    sample, sections = lazy_in_sections(X @ X.T / 4, y, size=16000, sections=16, depth=2, rng=rng, **problem)
    C = X @ X.T / 4
    for estimate, exact in (
        (alignment(sample, sections, y), y @ C @ y / (np.linalg.norm(C) * 5)),
        (overlaps(sample, sections, y), y @ C @ y / 5),
    ):
        assert estimate.standard_error[0] == 0
        assert (np.abs(estimate.value[1:] - exact) < 4 * estimate.standard_error[1:]).all()
        assert (estimate.standard_error[1:] < 0.02 * exact).all()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_density_of_one_training_input_is_exact(activation):
    """P = 1: whatever the population, the law on the line is the law itself."""
    phi = np.tanh if activation == "tanh" else lambda h: np.maximum(h, 0)
    C, g, H = np.array([[1.7]]), [1.3, 0.9], -0.36
    sample = tilted(C, np.array([[[H]]]), np.array([[1.0]]), activation=activation, nodes=31, variances=g)
    found = preactivation_density(sample, (), NewInputs(C, C[0]), g, layer=1, points=401)
    t, p = found.points[0], found.density.value[0]
    fine = np.linspace(-40, 40, 400001)
    weights = [np.exp(-(h**2) / (2 * 1.3 * 1.7) - H * phi(h) ** 2 / 2) for h in (t, fine)]
    assert p == pytest.approx(weights[0] / np.trapezoid(weights[1], fine), rel=1e-4, abs=1e-9)
    assert np.trapezoid(p, t) == pytest.approx(1.0, abs=1e-12)
    assert not found.density.standard_error.any()


def test_density_of_training_and_new_inputs_is_the_marginal():
    """P = 2, two tilted tanh layers: the marginals of h^1 and h^2 over all three preactivations, on tensor grids."""
    rng = np.random.default_rng(7)
    points = 0.7 * rng.standard_normal((3, 3))
    C, g, V = points @ points.T / 3, np.array([1.4, 1.1, 0.8]), np.array([[2.0], [-2.5]])
    duals = np.stack([0.3 * np.eye(2) - 0.6 * np.ones((2, 2)), -V @ V.T])
    sample = tilted(C[:2, :2], duals, V, activation="tanh", nodes=40, variances=g)
    K, (z, w) = C, hermite(40, 3)
    for layer, H in enumerate(duals, start=1):
        covariance = g[layer - 1] * K
        new = NewInputs(C[:2], np.diag(C))
        found = preactivation_density(sample, (), new, g, layer=layer, points=101, particles=16000, rng=1)
        for m, tolerance in ((0, 2e-4), (1, 2e-4), (2, 0.01)):
            assert np.trapezoid(found.density.value[m], found.points[m]) == pytest.approx(1.0, abs=1e-12)
            grid, p = found.points[m, ::4], found.density.value[m, ::4]
            exact = marginal(covariance, H, m, grid)
            # The new input draws ten numbers per node: 16000 draws.
            assert np.abs(p - exact).max() < tolerance * exact.max()
        phi = np.tanh(z @ np.linalg.cholesky(covariance).T)
        tilt = w * np.exp(-np.einsum("sp,pq,sq->s", phi[:, :2], H, phi[:, :2]) / 2)
        K = phi.T @ (tilt[:, None] * phi) / tilt.sum()


def test_density_from_a_part_of_the_members_is_unbiased():
    """Fewer members than quadrature nodes: sampled by weight, right within the spread over seeds."""
    C, V, g = np.array([[1.2, 0.3], [0.3, 0.8]]), np.array([[1.5], [-1.5]]), [1.0, 1.0]
    sample = tilted(C, -(V @ V.T)[None], V, activation="tanh", nodes=40, variances=g)
    new = NewInputs(C[:, :1], C[0, :1])
    whole = preactivation_density(sample, (), new, g, layer=1)
    grid, exact = whole.points[0], whole.density.value[0]
    parts = []
    for seed in range(30):
        part = preactivation_density(sample, (), new, g, layer=1, particles=900, rng=seed)
        parts.append(np.interp(grid, part.points[0], part.density.value[0], left=0, right=0))
    error = np.std(parts, axis=0, ddof=1) / np.sqrt(30)
    assert error.max() < 0.01 * exact.max()
    assert (np.abs(np.mean(parts, axis=0) - exact) < 5 * error + 1e-3 * exact.max()).all()


def marginal(covariance, H, m, grid):
    """Density of coordinate m under N(0, covariance) exp(-phi^T H phi/2), phi = tanh of the first two coordinates."""
    others = [0, 1] if m == 2 else [1 - m]
    axis = np.linspace(-6, 6, 241)
    lattice = np.stack([a.ravel() for a in np.meshgrid(*[axis] * len(others), indexing="ij")], axis=1)
    joint = [m, *others]
    precision = np.linalg.inv(covariance[np.ix_(joint, joint)])
    values = np.empty(len(grid))
    for k, t in enumerate(grid):
        h = np.column_stack([np.full(len(lattice), t), lattice])
        train = np.tanh(h[:, [joint.index(0), joint.index(1)]])
        energy = np.einsum("sp,pq,sq->s", h, precision, h) + np.einsum("sp,pq,sq->s", train, H, train)
        values[k] = np.exp(-energy / 2).sum()
    return values / np.trapezoid(values, grid)


def test_density_of_deep_linear_networks_is_gaussian_within_its_band(data):
    X, y, X_new = data[0], data[1][:, :1], data[2]
    solution = solve_linear(X, y, depth=2, gamma0=1.5, beta=10.0)
    rng = np.random.default_rng(2)
    noise = [rng.standard_normal((4000, 4)) for _ in range(2)]

    def part(rows):
        return deep_linear(solution, lambda l, r: (noise[l][rows, :r], np.full(len(noise[l][rows]), 1 / len(noise[l][rows]))))

    sample, sections = part(slice(None)), tuple(part(slice(k, None, 10)) for k in range(10))
    points = np.concatenate([X[:1], X_new])
    found = preactivation_density(sample, sections, NewInputs.of(X, points), 1.0, layer=2, rng=0)
    K1, H2 = np.asarray(solution.kernels[1]), np.asarray(solution.dual_kernels[1])
    b = np.linalg.pinv(X.T) @ points.T
    tilted_law = K1 - K1 @ H2 @ np.linalg.inv(np.eye(5) + K1 @ H2) @ K1
    for m, grid in enumerate(found.points):
        exact = stats.norm.pdf(grid, scale=np.sqrt(b[:, m] @ tilted_law @ b[:, m]))
        error = found.density.standard_error[m]
        assert error.max() < 0.03 * exact.max()
        assert (np.abs(found.density.value[m] - exact) < 5 * error + 1e-3 * exact.max()).all()


def test_samples_follow_the_weights_and_the_seed(data):
    C, V = np.array([[1.2, 0.3], [0.3, 0.8]]), np.array([[1.5], [-1.5]])
    sample = tilted(C, -(V @ V.T)[None], V, activation="tanh", nodes=40, variances=[1.0, 1.0])
    h = sample_preactivations(sample, 1, 20000, rng=4)
    assert h.shape == (20000, 2)
    assert np.array_equal(h, sample_preactivations(sample, 1, 20000, rng=4))
    phi = np.tanh(h)
    products = phi[:, :, None] * phi[:, None, :]
    error = products.std(axis=0) / np.sqrt(20000)
    assert (np.abs(products.mean(axis=0) - sample.kernels[1]) < 4 * error).all()
    assert error.max() < 0.005


def test_bad_input_is_named(data):
    X, Y, X_new = data
    sample = deep_linear(solve_linear(X, Y, depth=1, gamma0=1.0, beta=5.0), cubature)
    with pytest.raises(ValueError, match="Y: expected 5 rows"):
        overlaps(sample, (), Y[:3])
    with pytest.raises(ValueError, match="Y: expected labels that are not all zero"):
        alignment(sample, (), 0 * Y)
    with pytest.raises(ValueError, match=r"layer: expected a hidden layer 1..1, got 2"):
        sample_preactivations(sample, 2, 5)
    with pytest.raises(ValueError, match="new: expected inputs whose preactivation varies"):
        preactivation_density(sample, (), NewInputs.of(X, 0 * X_new), 1.0, layer=1)


def test_neurons_of_wide_networks_follow_the_densities():
    """Preactivations of sampled networks, at a training and a new input, against the density (Kolmogorov and Smirnov)."""
    rng = np.random.default_rng(0)
    X, y, X_new = rng.standard_normal((2, 3)), np.array([1.0, -1.0]), rng.standard_normal((1, 3))
    problem = {"depth": 1, "activation": "tanh", "gamma0": 2.0, "beta": 20.0}
    points = np.concatenate([X[:1], X_new])
    solution = solve_quadrature(X, y, **problem)
    found = preactivation_density(solution.sample, (), NewInputs.of(X, points), 1.0, layer=1, rng=0)
    W = sample_posterior(X, y, width=300, samples=10, chains=10, rng=1, **problem).final_weights[0]
    h = (W @ points.T).reshape(-1, 2) / np.sqrt(3)
    for m, grid in enumerate(found.points):
        p = found.density.value[m]
        cumulative = np.concatenate([[0.0], np.cumsum((p[1:] + p[:-1]) / 2) * (grid[1] - grid[0])])
        assert stats.kstest(h[:, m], lambda t: np.interp(t, grid, cumulative)).pvalue > 1e-3  # noqa: B023
        lazy = stats.norm(scale=np.linalg.norm(points[m]) / np.sqrt(3))
        assert stats.kstest(h[:, m], lazy.cdf).pvalue < 1e-6


def test_what_is_not_a_number_shows():
    assert str(Estimate(np.array(1.2345), np.array(np.nan), np.array(0.0))) == "1.234500 +- nan"
    assert str(Estimate(np.array(1.0), np.array(0.0), np.array(0.0))) == "1"
