"""The certified root search on functions whose roots are known."""

import numpy as np
import pytest

from linkern.numerics.roots import Evaluation, bracketed_newton, isolate_roots

EPS = np.finfo(float).eps


def evaluation(function, slope, curvature):
    """An `evaluate` for isolate_roots with a constant bound on |F''|."""

    def evaluate(middle, half):
        value = function(middle)
        return Evaluation(value, slope(middle), np.full_like(middle, curvature), 8 * EPS * (1 + np.abs(middle)))

    return evaluate


def polished(function, slope, found):
    def both(x, _):
        return function(x), slope(x)

    return bracketed_newton(both, found.brackets[:, 0], found.brackets[:, 1], found.rising)


def test_finds_every_root_of_a_fast_oscillation():
    found = isolate_roots(evaluation(lambda x: np.sin(40 * x), lambda x: 40 * np.cos(40 * x), 1600.0), 0.01, 10.0)
    roots = polished(lambda x: np.sin(40 * x), lambda x: 40 * np.cos(40 * x), found)
    expected = np.pi / 40 * np.arange(1, 128)
    np.testing.assert_allclose(roots, expected[expected < 10], rtol=1e-15)
    assert not found.clusters.size
    np.testing.assert_array_equal(found.rising, np.arange(1, len(roots) + 1) % 2 == 0)


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-6])
def test_separates_close_pairs_and_near_misses(gap):
    def slope(x):
        return 2 * (x - 0.7)

    def pair(x):
        return (x - 0.7) ** 2 - gap**2

    missed = isolate_roots(evaluation(lambda x: (x - 0.7) ** 2 + gap**2, slope, 2.0), 0.0, 2.0)
    found = isolate_roots(evaluation(pair, slope, 2.0), 0.0, 2.0)
    assert not len(missed.brackets) + len(missed.clusters) + len(found.clusters)
    np.testing.assert_allclose(polished(pair, slope, found), [0.7 - gap, 0.7 + gap], atol=EPS / gap)


def test_reports_a_double_root_as_a_cluster_and_a_triple_root_with_its_sign_change():
    double = isolate_roots(evaluation(lambda x: (x - 0.7) ** 2, lambda x: 2 * (x - 0.7), 2.0), 0.0, 2.0)
    triple = isolate_roots(evaluation(lambda x: (x - 0.7) ** 3, lambda x: 3 * (x - 0.7) ** 2, 12.0), 0.0, 2.0)
    for found, changes in ((double, False), (triple, True)):
        assert len(found.brackets) == 0
        assert len(found.clusters) == 1
        assert found.clusters[0, 0] <= 0.7 <= found.clusters[0, 1]
        assert (found.cluster_signs[0, 0] != found.cluster_signs[0, 1]) == changes


def test_a_cluster_next_to_simple_roots_and_on_the_boundary():
    """(x - 1/2)^2 (x - 1/4) (3/4 - x): one undecided pair between two simple roots, with the right signs around it."""

    def function(x):
        return (x - 0.5) ** 2 * (x - 0.25) * (0.75 - x)

    def slope(x):
        return 2 * (x - 0.5) * (x - 0.25) * (0.75 - x) + (x - 0.5) ** 2 * (1 - 2 * x)

    found = isolate_roots(evaluation(function, slope, 8.0), 0.0, 1.0)
    np.testing.assert_allclose(polished(function, slope, found), [0.25, 0.75], rtol=1e-14)
    np.testing.assert_array_equal(found.rising, [True, False])
    assert len(found.clusters) == 1
    np.testing.assert_array_equal(found.cluster_signs, [[1.0, 1.0]])
    for upper, count in ((1.0, 1), (0.999, 0)):
        end = isolate_roots(evaluation(lambda x: 1 - x, lambda x: -np.ones_like(x), 0.0), 0.0, upper)
        assert len(end.clusters) == count
        assert not len(end.brackets)


def test_counts_a_root_on_a_grid_point_once():
    found = isolate_roots(evaluation(lambda x: x - 0.5, np.ones_like, 0.0), 0.0, 1.0)
    assert len(found.brackets) == 1


def test_newton_keeps_relative_accuracy_for_tiny_roots_and_survives_flat_ones():
    scale = np.array([1e-300, 1e-12, 1.0, 1e12])
    roots = bracketed_newton(lambda x, i: (x / scale[i] - 1, 1 / scale[i]), np.zeros(4), 5 * scale, np.ones(4, dtype=bool))
    np.testing.assert_allclose(roots, scale, rtol=4e-16)
    # x^9 = 1e-9: Newton alone crawls, and its first step from the left leaves the bracket.
    flat = bracketed_newton(
        lambda x, _: (x**9 - 1e-9, 9 * x**8), np.array([0.0]), np.array([8.0]), np.array([True]), np.array([1e-3])
    )
    np.testing.assert_allclose(flat, 0.1, rtol=1e-14)


def test_newton_handles_falling_functions_and_no_equations():
    falling = bracketed_newton(lambda x, _: (2 - x * x, -2 * x), np.array([0.0]), np.array([2.0]), np.array([False]))
    np.testing.assert_allclose(falling, np.sqrt(2), rtol=4e-16)
    empty = np.empty(0)
    assert bracketed_newton(lambda x, _: (x, x), empty, empty, empty.astype(bool)).size == 0
