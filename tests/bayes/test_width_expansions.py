"""Expansions in 1/N: their defining formulas with dense matrices, their orders, all branches, annealing, limits."""

import numpy as np
import pytest
from scipy import optimize

from linkern.bayes.linear import solve_linear
from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width import solve_width
from linkern.bayes.width.annealing import anneal_width
from linkern.bayes.width.one_loop import solve_self_consistent
from linkern.solution import Status

METHODS = ("tree", "one-loop", "saddle", "saddle-nlo")


def problem(seed=0, P=5, D=6, m=3):
    rng = np.random.default_rng(seed)
    X, w, X_new = rng.normal(size=(P, D)), rng.normal(size=D), rng.normal(size=(m, D))
    return X, X @ w / np.sqrt(D) + 0.5 * rng.normal(size=P), X_new


class GeneratingFunction:
    """One hidden layer: W(v) = -(N/2) ln(1 - (g/N) v^T K v), its derivatives by hand, its loop term by differences."""

    def __init__(self, K, g, N, ridge, y):
        self.K, self.g, self.N, self.ridge, self.y = K, g, N, ridge, y

    def value(self, v):
        return -self.N / 2 * np.log1p(-self.g / self.N * v @ self.K @ v)

    def slope(self, v):
        return self.g * self.K @ v / (1 - self.g / self.N * v @ self.K @ v)

    def curvature(self, v):
        q, image = 1 / (1 - self.g / self.N * v @ self.K @ v), self.K @ v
        return self.g * q * self.K + 2 * (self.g * q) ** 2 / self.N * np.outer(image, image)

    def log_det(self, v):
        return np.linalg.slogdet(self.ridge * np.eye(v.size) + self.curvature(v))[1]

    def loop_slope(self, v, h=1e-4):
        units = np.eye(v.size)
        return (
            np.array(
                [sum(c * self.log_det(v + k * h * e) for k, c in ((-2, 1), (-1, -8), (1, 8), (2, -1))) / (12 * h) for e in units]
            )
            / 2
        )

    def tree(self, guess):
        return optimize.root(
            lambda v: self.ridge * v + self.slope(v) - self.y,
            guess,
            jac=lambda v: self.ridge * np.eye(v.size) + self.curvature(v),
            tol=1e-14,
        ).x


@pytest.fixture(name="layer")
def _layer():
    X, y, _ = problem()
    K, N, g, ridge = X @ X.T / 6, 12, 0.8, 0.4
    found = {m: solve_width(X, y, depth=1, width=N, readout_variance=g, ridge=ridge, method=m) for m in METHODS}
    return GeneratingFunction(K, g, N, ridge, y), found


def test_tree_level_is_the_saddle_of_the_generating_function(layer):
    theory, found = layer
    v = theory.tree(found["tree"].dual_coefficients * 0.9)
    assert found["tree"].dual_coefficients == pytest.approx(v, rel=1e-10)
    q = 1 / (1 - theory.g / theory.N * v @ theory.K @ v)
    assert np.exp(found["tree"].log_q_mean) == pytest.approx(q, rel=1e-12)
    B = theory.curvature(v)
    covariance = theory.ridge * B @ np.linalg.inv(theory.ridge * np.eye(5) + B)
    assert found["tree"].fitted_covariance() == pytest.approx(covariance, rel=1e-10)
    Phi = theory.K + theory.g * q / theory.N * theory.K @ np.outer(v, v) @ theory.K
    assert found["tree"].kernels[1].dense() == pytest.approx(Phi, rel=1e-10)
    exponent = theory.ridge / 2 * v @ v - theory.y @ v + theory.value(v)
    # Up to the label noise's own normalisation.
    assert found["tree"].log_evidence + 2.5 * np.log(2 * np.pi) == pytest.approx(exponent, rel=1e-12)


def test_one_loop_is_its_first_correction(layer):
    theory, found = layer
    v = theory.tree(found["tree"].dual_coefficients)
    inverse = np.linalg.inv(theory.ridge * np.eye(5) + theory.curvature(v))
    expected = theory.y - theory.ridge * (v + inverse @ theory.loop_slope(v))
    assert found["one-loop"].fitted == pytest.approx(expected, rel=1e-9)
    log_evidence = theory.ridge / 2 * v @ v - theory.y @ v + theory.value(v) - theory.log_det(v) / 2 - 2.5 * np.log(2 * np.pi)
    # The density of ln Q has the exact normalisation, the loop expansion Stirling's: they differ by 1/(6 N).
    assert found["one-loop"].log_evidence == pytest.approx(log_evidence - 1 / (6 * theory.N), abs=1e-4)


def test_self_consistent_loop_solves_its_equation():
    X, y, X_new = problem()
    spectrum, N, g, ridge = Spectrum.from_data(X, y), 12, 0.8, 0.4
    solution = solve_self_consistent(spectrum, width=N, readout_variance=g, ridge=ridge)
    assert solution.status is Status.CONVERGED
    theory = GeneratingFunction(X @ X.T / 6, g, N, ridge, y)
    phi = (y - solution.fitted) / ridge
    assert ridge * phi + theory.slope(phi) - theory.loop_slope(phi) == pytest.approx(y, abs=1e-9)
    assert not np.allclose(solution.response, solution.response[0], rtol=1e-3)
    exact = solve_width(X, y, depth=1, width=N, readout_variance=g, ridge=ridge)
    assert solution.predict(X_new) == pytest.approx(exact.predict(X_new), abs=0.05)


def test_self_consistent_loop_ends_beyond_n_effective_parameters():
    rng = np.random.default_rng(0)
    strengths = []
    for P in (20, 120, 240):
        X = rng.normal(size=(P, P))
        y = X @ rng.normal(size=P) / np.sqrt(P) + 0.5 * rng.normal(size=P)
        solution = solve_self_consistent(Spectrum.from_data(X, y), width=60, ridge=0.3)
        strengths.append((solution.effective_parameters / 60, solution.loop_strength, solution.status))
    assert strengths[0][1:] == (1.0, Status.CONVERGED)
    assert strengths[1][0] > 1
    assert strengths[2][0] > 2
    assert 0.3 < strengths[1][1] < 0.8
    assert 0.1 < strengths[2][1] < 0.4
    assert strengths[2][2] is Status.NOT_CONVERGED


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("mean_field", [False, True])
def test_observed_orders_in_width(depth, mean_field):
    """Errors of the test mean fall like N^-1, N^-2, N^-1, N^-2 at fixed P, over N = 20..5120."""
    rng = np.random.default_rng(1)
    X, X_new = rng.normal(size=(20, 20)), rng.normal(size=(10, 20))
    spectrum = Spectrum.from_data(X, X @ rng.normal(size=20) / np.sqrt(20) + 0.5 * rng.normal(size=20))
    sizes, errors = [20, 80, 320, 1280, 5120], {m: [] for m in (*METHODS, "kernel one-loop", "kernel saddle-nlo")}
    for N in sizes:
        chi = N if mean_field else 1.0
        options = {"spectrum": spectrum, "depth": depth, "width": N, "chi": chi, "ridge": 0.3 / chi}
        exact = solve_width(**options)
        truth, Phi = exact.predict(X_new), exact.kernels[depth].dense()
        for m in METHODS:
            here = solve_width(**options, method=m)
            errors[m].append(np.linalg.norm(here.predict(X_new) - truth) / np.linalg.norm(truth))
            if f"kernel {m}" in errors:
                difference = np.linalg.norm(here.kernels[depth].dense() - Phi)
                errors[f"kernel {m}"].append(difference / np.linalg.norm(Phi))
    # In standard scaling the kernels' growth is itself of order 1/N, and so are all its relative errors.
    for name, order in zip(errors, (1, 2, 1, 2, 2, 2 if mean_field else 3), strict=True):
        # The exponent between the two largest widths: smaller ones are not asymptotic at P = 20.
        slope = np.log(errors[name][-2] / errors[name][-1]) / np.log(4)
        assert slope == pytest.approx(order, abs=0.12), name
    assert errors["one-loop"][-1] < errors["tree"][-1] < 2e-2
    assert errors["saddle-nlo"][-1] < 2e-6


@pytest.mark.parametrize("method", ["tree", "saddle"])
def test_all_branches_are_found(method):
    """Against sign changes of the stationarity condition on a fine grid, in the multiplier instead of ln Q."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        depth, r = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        widths = rng.integers(2, 30, depth)
        lam, ridge = 10 ** rng.uniform(-3, 1, r), 10 ** rng.uniform(-3, 3)
        b = rng.normal(size=r) * 10 ** rng.uniform(0, 3)
        spectrum = Spectrum.from_modes(lam, b)
        found = solve_width(spectrum=spectrum, depth=depth, width=widths, ridge=ridge, method=method).branches
        least = widths.min() / 2
        c = np.concatenate([-least + least * np.geomspace(1e-9, 1, 40_000), np.geomspace(1e-9, 1e9, 160_000)])
        A = np.multiply.outer(np.prod([1 + 2 * c / N for N in widths], axis=0), lam[:1] * 0 + 1) * lam
        total = A + ridge
        force = (b**2 / total * (A / total)).sum(axis=1) / 2 - c
        if method == "saddle":
            force -= (A / total).sum(axis=1) / 2
        assert len(found) == np.count_nonzero(np.diff(np.sign(force)))


def test_saddles_obey_the_equations_of_the_layers():
    """N_l (q_l - 1) = gQ [v^T K v - Tr K A^{-1}] for every l, without the trace at tree level."""
    X, y, _ = problem()
    K = X @ X.T / 6
    for method in ("tree", "saddle"):
        solution = solve_width(X, y, depth=3, width=(7, 20, 11), ridge=0.1, chi=5.0, method=method)
        q = solution.branches[solution.branch_index].layer_factors
        gQ = q.prod() / 5
        A = gQ * K + 0.1 * np.eye(5)
        v = np.linalg.solve(A, y)
        charge = gQ * (v @ K @ v - (np.trace(np.linalg.solve(A, K)) if method == "saddle" else 0.0))
        assert np.array([7, 20, 11]) * (q - 1) == pytest.approx(np.full(3, charge), rel=1e-10)
        assert solution.residual < 1e-10


def test_tree_level_is_the_adaptive_kernel_of_infinite_width():
    """Finite chi and N enter tree level through gamma0^2 = chi/(g_w N) only."""
    X, y, X_new = problem()
    for depth in (1, 2, 3):
        tree = solve_width(X, y, depth=depth, width=50, chi=30.0, ridge=0.01, method="tree")
        limit = solve_linear(X, y, depth=depth, gamma0=np.sqrt(30 / 50), beta=1 / (0.01 * 30))
        assert tree.predict(X_new) == pytest.approx(limit.predict(X_new), rel=1e-9)
        for l in range(depth + 1):
            assert tree.kernels[l].dense() == pytest.approx(limit.kernels[l].dense(), rel=1e-9)


def test_one_layer_tree_level_is_unique():
    rng = np.random.default_rng(2)
    for _ in range(30):
        spectrum = Spectrum.from_modes(10 ** rng.uniform(-4, 2, 6), rng.normal(size=6) * 10 ** rng.uniform(-1, 3))
        solution = solve_width(spectrum=spectrum, depth=1, width=7, ridge=10 ** rng.uniform(-6, 2), method="tree")
        assert len(solution.branches) == 1


def test_annealing_ends_on_a_metastable_branch_and_says_so():
    """P = 1, L = 3: beyond the transition annealing keeps the small root; the exact answer is on the other."""
    spectrum, beta, N = Spectrum.from_modes([1.0], [1.0]), 1e-3, 10
    chi = 0.05 / beta**2 * N
    options = {"spectrum": spectrum, "depth": 3, "width": N, "chi": chi, "ridge": 1 / (beta * chi)}
    path = anneal_width(**options)
    exact, tree = solve_width(**options), solve_width(**options, method="tree")
    assert path.metastable
    assert "metastable" in path.message
    assert path.deficit[-1] == pytest.approx(30.49, abs=0.01)
    assert path.solution.fitted[0] == pytest.approx(0.00118721, rel=1e-4)
    assert exact.fitted[0] == pytest.approx(0.64529, rel=1e-4)
    assert not tree.metastable
    assert tree.fitted[0] == pytest.approx(0.6525, rel=1e-3)
    assert solve_width(**options, method="tree", branch="lazy").metastable
    early = anneal_width(**(options | {"chi": chi / 10, "ridge": 10 / (beta * chi)}))
    assert not early.metastable
    assert np.all(np.diff(early.log_q) > 0)


def test_the_annealed_branch_ends_at_its_spinodal():
    """For weak signals the small root exists up to gamma0^2 beta^2 = (L-1)^(L-1)/L^L."""
    spectrum, beta = Spectrum.from_modes([1.0], [1.0]), 1e-4
    for depth, limit in ((2, 1 / 4), (3, 4 / 27)):
        for factor, survives in ((0.99, True), (1.01, False)):
            chi = factor * limit / beta**2 * 20
            options = {"spectrum": spectrum, "depth": depth, "width": 20, "chi": chi, "ridge": 1 / (beta * chi)}
            lazy = solve_width(**options, method="tree", branch="lazy")
            assert (lazy.log_q_mean < 3) == survives


def test_rescaling_and_adaptation_agree_along_v_only():
    """Same mean, other kernels: v^T Phi^l v = Q_{<=l} v^T K v at tree level, but the bulk is not rescaled."""
    X, y, _ = problem(P=30, D=30)
    K = X @ X.T / 30
    solution = solve_width(X, y, depth=2, width=60, chi=40.0, ridge=0.01, method="tree")
    v = solution.dual_coefficients
    for l in (1, 2):
        ratio = solution.kernels[l].quadratic(v) / (v @ K @ v)
        assert ratio == pytest.approx(solution.average.growth[l], rel=1e-10)
    exact = solve_width(X, y, depth=1, width=100, chi=1.0, ridge=0.3)
    seen = exact.adaptation()
    dense = exact.kernels[1].dense()
    assert seen.overlaps[1] == pytest.approx(y @ dense @ y / (y @ K @ y), rel=1e-12)
    bulk = [np.trace(M) - y @ M @ y / (y @ y) for M in (dense, K)]
    assert seen.bulk_traces[1] == pytest.approx(bulk[0] / bulk[1], rel=1e-12)
    np.testing.assert_allclose(exact.rescaled_kernels[1].dense(), seen.rescalings[1] * K, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="y: expected labels that are not all zero"):
        solve_width(X, 0 * y, depth=1, width=100, ridge=0.3).adaptation()
    rich = solve_width(X, y, depth=1, width=100, chi=100.0, ridge=0.003).adaptation()
    assert rich.rescalings[1] > 2
    assert rich.bulk_traces[1] == pytest.approx(1, abs=0.05)


def test_proportional_regime_without_noise():
    """kappa -> 0: 1 - q = alpha (1 - r/q^L), r = y^T K^{-1} y/(g P)."""
    rng = np.random.default_rng(5)
    N, P = 200, 100
    X = rng.normal(size=(P, 150))
    y = X @ rng.normal(size=150) / np.sqrt(150)
    r = y @ np.linalg.solve(X @ X.T / 150, y) / P
    for depth in (1, 2, 3):
        saddle = solve_width(X, y, depth=depth, width=N, ridge=1e-9, method="saddle")
        q = np.exp(saddle.log_q_mean / depth)
        assert 1 - q == pytest.approx(P / N * (1 - r / q**depth), abs=1e-6)
        exact = solve_width(X, y, depth=depth, width=N, ridge=1e-9)
        error = np.linalg.norm(saddle.kernels[depth].dense() - exact.kernels[depth].dense())
        assert error < 2e-3 * np.linalg.norm(exact.kernels[depth].dense())


@pytest.mark.parametrize("depth", [1, 2])
def test_zero_temperature_at_fixed_weight_decay(depth):
    """q_l/(beta lambda) -> rho with rho = gamma0^2 rho^L u^T K u, u = (rho^L K + lambda)^{-1} y."""
    X, y, _ = problem()
    K, gamma0, decay, N = X @ X.T / 6, 2.0, 0.1, 40

    def excess(log_rho):
        u = np.linalg.solve(np.exp(depth * log_rho) * K + decay * np.eye(5), y)
        return gamma0**2 * np.exp((depth - 1) * log_rho) * (u @ K @ u) - 1

    # The largest root is the global minimum here; for two layers rho = 0 and a smaller root exist besides.
    grid = np.linspace(-8, 8, 2000)
    last = np.flatnonzero(np.diff(np.sign([excess(s) for s in grid])))[-1]
    rho = np.exp(optimize.brentq(excess, grid[last], grid[last + 1], xtol=1e-14))
    beta = 1e7
    g = 1 / (beta * decay)
    chi = gamma0**2 * N
    tree = solve_width(
        X, y, depth=depth, width=N, chi=chi, ridge=1 / (beta * chi), readout_variance=g, prior_variances=g, method="tree"
    )
    q = tree.branches[tree.branch_index].layer_factors
    assert q / (beta * decay) == pytest.approx(np.full(depth, rho), rel=1e-4)
    u = np.linalg.solve(rho**depth * K + decay * np.eye(5), y)
    Phi = rho**depth * K @ np.outer(u, u) @ K / (u @ K @ u)
    assert tree.kernels[depth].dense() == pytest.approx(Phi, rel=1e-3, abs=1e-5)
