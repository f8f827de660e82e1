"""Single-output solutions against 50-digit references: 2500 stored problems, live recomputation, exact root counts."""

import math
import random
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
from reference import problems as makers
from reference.exact import DIGITS, ExactSaddle, Problem
from reference.problems import COUNTS, all_problems

from linkern.bayes import Spectrum, solve_linear

EPS = np.finfo(float).eps
KINDS = [name for name, count in COUNTS.items() for _ in range(count)]


@pytest.fixture(scope="module")
def stored():
    return dict(np.load(Path(__file__).parents[1] / "reference" / "linear.npz"))


@pytest.fixture(scope="module")
def problems(stored):
    """The stored inputs; regenerated ones only differ where elementary functions do."""
    lam, b = (np.split(stored[name], np.cumsum(stored["modes"])[:-1]) for name in ("eigenvalues", "coefficients"))
    unequal = stored["widths"]
    found = []
    for i, depth in enumerate(stored["depth"]):
        widths = (1.0,) * int(depth)
        if KINDS[i] == "layered":
            widths, unequal = tuple(map(float, unequal[:depth])), unequal[depth:]
        found.append(Problem(float(stored["gamma0"][i]), float(stored["beta"][i]), tuple(lam[i]), tuple(b[i]), widths))
    return found


def solution_of(problem: Problem):
    spectrum = Spectrum.from_modes(problem.eigenvalues, problem.coefficients)
    return solve_linear(spectrum=spectrum, depth=problem.depth, gamma0=problem.gamma0, beta=problem.beta, widths=problem.widths)


def tolerance(branch) -> float:
    return max(1e-12, 10 * EPS * branch.condition_number)


def test_the_stored_problems_cover_the_claimed_range(stored, problems):
    assert len(problems) >= 2000
    gamma0, beta, depth = stored["gamma0"], stored["beta"], stored["depth"]
    assert gamma0.min() < 1e-5
    assert gamma0.max() > 1e5
    assert beta.min() < 2e-4
    assert np.isinf(beta).sum() > 100
    assert (depth.min(), depth.max()) == (1, 200)
    assert (np.bincount(stored["owner"]) >= 3).sum() > 700


def test_the_stored_problems_are_those_of_the_generator(problems):
    for fresh, kept in list(zip(all_problems(), problems, strict=True))[:1500:10]:
        np.testing.assert_allclose(fresh.eigenvalues, kept.eigenvalues, rtol=1e-13)
        assert math.isclose(fresh.gamma0, kept.gamma0, rel_tol=1e-13)


def test_every_branch_of_every_stored_problem(stored, problems):
    """Count, k, k - 1, action and v of all branches, and the choice of the global one."""
    first = np.searchsorted(stored["owner"], np.arange(len(problems) + 1))
    for i, problem in enumerate(problems):
        x, S = (stored[name][first[i] : first[i + 1]] for name in ("log_rescaling", "action"))
        solution = solution_of(problem)
        assert solution.certified, i
        assert len(solution.branches) == len(x), i
        assert solution.branch_index == np.argmin(S[:, 0]), i
        for branch, exact_x, exact_S in zip(solution.branches, x, S, strict=True):
            error = abs((branch.log_rescaling - exact_x[0]) - exact_x[1])
            # An error in x is the relative error of k; relative to x it is that of k - 1 where k - 1 is small.
            assert error <= tolerance(branch) * min(exact_x[0], 1.0), i
            assert abs((branch.action - exact_S[0]) - exact_S[1]) <= 1e-12 * exact_S[0], i
        exact = x[solution.branch_index].sum()
        lam, b, T = problem.widths[-1] * np.array(problem.eigenvalues), np.array(problem.coefficients), 1 / problem.beta
        order = np.argsort(lam)
        v = (b / (np.exp(exact) * lam + T))[order]
        np.testing.assert_allclose(solution.coefficients, v, rtol=max(tolerance(solution.branch), 1e-13) + 20 * EPS * exact)
        assert solution.residual < 1e-12, i


@pytest.mark.parametrize("start", [0, 1500, 2100, 2300])
def test_live_recomputation_at_fifty_digits(problems, start):
    """The stored numbers are not trusted alone: some of each kind are solved again, at full precision."""
    for problem in problems[start : start + 6]:
        solution = solution_of(problem)
        with mp.workdps(DIGITS):
            saddle = ExactSaddle(problem)
            roots = saddle.roots()
            assert len(roots) == len(solution.branches)
            for branch, x in zip(solution.branches, roots, strict=True):
                k = mp.exp(mp.mpf(branch.log_rescaling))
                assert abs(mp.expm1(x) / mp.expm1(branch.log_rescaling) - 1) < 2 * tolerance(branch)
                assert abs(k / mp.exp(x) - 1) < tolerance(branch)
                assert branch.stable == (saddle.slope(x) > 0)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6, 7, 8, 10, 11])
def test_no_branch_is_missed_by_exact_root_counting(seed):
    """F = 0 is a polynomial in A with rational coefficients; Sturm's theorem counts its positive roots exactly."""
    rng = np.random.default_rng(seed)
    depth, modes = int(rng.integers(2, 5)), int(rng.integers(1, 4 if seed % 2 else 3))
    lam = np.round(10 ** rng.uniform(-3, 0, modes), 6)
    b = np.round(rng.uniform(0.2, 1, modes), 3)
    T = float(np.round(100 * lam.max(), 3))
    gamma0 = float(np.round(T * rng.uniform(0.2, 0.6) / np.sqrt((b**2 * lam).sum()), 3))
    A = sp.Symbol("A")
    k = (1 + A) ** depth
    exact = [sp.Rational(value) for value in lam], [sp.Rational(value) for value in b]
    factors = [(k * l + sp.Rational(T)) ** 2 for l in exact[0]]
    full = sp.prod(factors)
    source = sum(c**2 * l * sp.prod(factors[:i] + factors[i + 1 :]) for i, (l, c) in enumerate(zip(*exact, strict=True)))
    polynomial = sp.Poly(sp.expand(A * full - sp.Rational(gamma0) ** 2 * k * source), A)
    solution = solve_linear(spectrum=Spectrum.from_modes(lam, b), depth=depth, gamma0=gamma0, beta=1 / T)
    # 1/T is rounded: compare with the T that the solver saw.
    assert math.isclose(1 / (1 / T), T, rel_tol=4e-16)
    assert solution.certified
    assert len(solution.branches) == polynomial.count_roots(0, None)


def test_no_branch_is_missed_by_a_dense_scan_at_fifty_digits(stored, problems):
    """Sign changes of F on 2000 points over all of x, on problems with five or seven solutions."""
    counts = np.bincount(stored["owner"])
    many = np.flatnonzero(counts >= 5)
    assert many.size >= 10
    for i in many[:3]:
        solution = solution_of(problems[i])
        with mp.workdps(DIGITS):
            saddle = ExactSaddle(problems[i])
            upper = saddle.upper_bound()
            signs = [saddle.F(upper * j / 2000) > 0 for j in range(2001)]
        assert sum(a != b for a, b in zip(signs, signs[1:], strict=False)) == len(solution.branches) == counts[i]


def test_condition_number_predicts_the_effect_of_a_perturbation():
    """Near a spinodal a relative change of one input moves k by at most condition number times it, and by about that."""
    lam, b = np.array([1.0, 0.01]), np.array([1.0, 2.0])
    base = {"depth": 4, "beta": 0.01}
    gamma0 = 33.5
    solution = solve_linear(spectrum=Spectrum.from_modes(lam, b), gamma0=gamma0, branch="lazy", **base)
    step = 1e-7
    moved = [
        solve_linear(spectrum=Spectrum.from_modes(lam, b), gamma0=gamma0 * (1 + step / 2), branch="lazy", **base),
        solve_linear(spectrum=Spectrum.from_modes(lam * (1 + step), b), gamma0=gamma0, branch="lazy", **base),
        solve_linear(spectrum=Spectrum.from_modes(lam, b * (1 + step)), gamma0=gamma0, branch="lazy", **base),
        solve_linear(spectrum=Spectrum.from_modes(lam, b), gamma0=gamma0, branch="lazy", depth=4, beta=0.01 * (1 - step)),
    ]
    change = sum(abs(other.log_rescaling - solution.log_rescaling) for other in moved) / step
    x = solution.log_rescaling
    assert 0.4 * solution.condition_number < change / min(x, 1.0) <= 1.01 * solution.condition_number


@pytest.mark.slow
@pytest.mark.parametrize("maker", ["broad", "coexistence", "near_spinodal", "layered"])
def test_fresh_problems_at_fifty_digits(maker):
    """Sixty problems of each kind that are not stored, with k and action checked on every branch."""
    draw = random.Random(maker)
    for _ in range(60):
        problem = getattr(makers, maker)(draw)
        solution = solution_of(problem)
        with mp.workdps(DIGITS):
            saddle = ExactSaddle(problem)
            roots = saddle.roots()
            assert len(roots) == len(solution.branches)
            for branch, x in zip(solution.branches, roots, strict=True):
                assert abs(mp.mpf(branch.log_rescaling) - x) < tolerance(branch) * min(x, 1)
                assert abs(mp.mpf(branch.action) / saddle.action(x) - 1) < 1e-12
