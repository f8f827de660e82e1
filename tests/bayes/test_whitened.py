"""The vectorised whitened solver against 50 digits, published values and exact counts."""

import mpmath as mp
import numpy as np
import pytest
from reference.exact import DIGITS, ExactSaddle, Problem

from linkern.bayes import solve_whitened

EPS = np.finfo(float).eps


def test_published_values():
    """Overlaps at beta = 100 from a float32 Newton solver."""
    gamma0 = np.logspace(-1.8, 2, 20)
    one, two = (solve_whitened(gamma0, 100.0, depth) for depth in (1, 2))
    np.testing.assert_allclose(one.overlap[[0, -1]], [1.0002462, 100.491295], rtol=1e-5)
    np.testing.assert_allclose(two.overlap[-1], 478.84778, rtol=1e-5)


def test_three_solutions_of_the_theory_note():
    found = solve_whitened(32.0, 0.01, 4)
    assert found.solutions == 3
    np.testing.assert_allclose([found.lazy.overlap, found.rich.overlap], [2.1518, 145.3879], rtol=1e-4)
    np.testing.assert_allclose([found.lazy.action, found.rich.action], [5.05131, 4.54163], atol=5e-6)
    assert found.overlap == found.rich.overlap


def random_grid(seed, count):
    """Half over the whole range, half where three solutions abound."""
    rng = np.random.default_rng(seed)
    half = count // 2
    beta = np.concatenate([10 ** rng.uniform(-4, 8, half), 10 ** rng.uniform(-4, -1.3, half)])
    beta[:half:8] = np.inf
    wide = 10 ** rng.uniform(-6, 6, half)
    gamma0 = np.concatenate([wide, 10 ** rng.uniform(-1.2, 0, half) / beta[half:]])
    depth = np.concatenate([rng.integers(1, 201, half), rng.integers(2, 12, half)])
    return gamma0, beta, depth


def test_against_fifty_digits_over_the_whole_range():
    gamma0, beta, depth = random_grid(0, 300)
    found = solve_whitened(gamma0, beta, depth)
    assert (found.solutions == 3).sum() > 30
    for i in range(gamma0.size):
        with mp.workdps(DIGITS):
            saddle = ExactSaddle(Problem(float(gamma0[i]), float(beta[i]), (1.0,), (1.0,), (1.0,) * int(depth[i])))
            roots = saddle.roots(2000)
            actions = [saddle.action(x) for x in roots]
            assert len(roots) == found.solutions[i]
            best = actions.index(min(actions))
            for branch, j in ((found.lazy, 0), (found.rich, -1), (found, best)):
                tol = max(1e-12, 10 * EPS * branch.condition_number[i])
                assert abs(mp.mpf(float(branch.excess[i])) / mp.expm1(roots[j]) - 1) < tol
                assert abs(mp.mpf(float(branch.overlap[i])) / mp.exp(roots[j]) - 1) < tol
                assert abs(mp.mpf(float(branch.charge[i])) / saddle.charge(roots[j]) - 1) < tol
                assert abs(mp.mpf(float(branch.action[i])) / actions[j] - 1) < 1e-12


def test_counts_agree_with_the_discriminant_free_count_everywhere():
    """Count sign changes of F on a fine grid of x, vectorised, on 2000 points away from spinodals."""
    gamma0, beta, depth = random_grid(1, 2000)
    found = solve_whitened(gamma0, beta, depth)
    T, mismatches = 1 / beta, 0
    for i in range(gamma0.size):
        x = np.linspace(0, 1.01 * found.rich.log_overlap[i] + 5, 3001)
        k = np.exp(x)
        F = x - depth[i] * np.log1p(gamma0[i] ** 2 * k / (k + T[i]) ** 2)
        crossings = np.count_nonzero(np.diff(F > 0))
        # Two roots may fall between grid points next to a spinodal, where both are ill conditioned.
        close = min(found.lazy.condition_number[i], found.rich.condition_number[i]) > 1e3
        mismatches += crossings != found.solutions[i] and not close
    assert mismatches == 0


def test_saddle_point_holds_at_the_extremes_of_the_range():
    gamma0 = np.array([0.0, 1e-200, 1e-6, 1e6, 1e100])[:, None, None]
    beta = np.array([1e-90, 1e-4, 1.0, 1e12, np.inf])[:, None]
    depth = np.array([1, 2, 200])
    found = solve_whitened(gamma0, beta, depth)
    assert found.overlap.shape == (5, 5, 3)
    assert (found.excess[0] == 0).all()
    assert np.isfinite(found.log_overlap).all()
    np.testing.assert_allclose(found.log_overlap, depth * np.log1p(found.charge), rtol=1e-15)
    c = np.exp(found.log_overlap[2:])
    right = np.log(gamma0[2:]) * 2 + np.log(c) - 2 * np.log(c + 1 / beta)
    np.testing.assert_allclose(np.log(found.charge[2:]), right, atol=2e-12)


def test_shapes_scalars_and_label_norm():
    scalar = solve_whitened(1.0, 2.0, 3)
    assert scalar.log_overlap.shape == ()
    grid = solve_whitened([[1.0], [2.0]], [1.0, 2.0, np.inf], 3)
    assert grid.action.shape == grid.lazy.overlap.shape == grid.solutions.shape == (2, 3)
    np.testing.assert_allclose(solve_whitened(2.0, 2.0, 3).overlap, solve_whitened(1.0, 2.0, 3, label_norm=2.0).overlap)


def test_results_do_not_depend_on_the_neighbours_in_the_grid():
    gamma0, beta, depth = random_grid(2, 9000)
    together = solve_whitened(gamma0, beta, depth)
    for i in range(0, 9000, 501):
        alone = solve_whitened(gamma0[i], beta[i], depth[i])
        np.testing.assert_allclose(together.log_overlap[i], alone.log_overlap, rtol=4e-15)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1.0, 1.0, 2), ValueError, "gamma0: expected numbers >= 0"),
        ((np.nan, 1.0, 2), ValueError, "gamma0: expected finite"),
        ((np.inf, 1.0, 2), ValueError, "gamma0: expected finite"),
        (([], 1.0, 2), ValueError, "gamma0: expected at least one"),
        ((1e300, 1.0, 200), ValueError, "gamma0: an overlap exceeds"),
        ((1.0, 0.0, 2), ValueError, "beta: expected numbers > 0"),
        ((1.0, np.nan, 2), ValueError, "beta: expected numbers > 0"),
        ((1.0, -1.0, 2), ValueError, "beta: expected numbers > 0"),
        ((1.0, "cold", 2), TypeError, "beta: expected real numbers"),
        ((1.0, 1.0, 0), ValueError, "depth: expected integers >= 1"),
        ((1.0, 1.0, 2.0), TypeError, "depth: expected integers"),
        ((1.0, 1.0, True), TypeError, "depth: expected integers"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        solve_whitened(*arguments)
    with pytest.raises(ValueError, match="label_norm"):
        solve_whitened(1.0, 1.0, 1, label_norm=0.0)
