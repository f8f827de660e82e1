"""Lagrange inversion and order-by-order expansion against known series and direct insertion."""

import pytest
import sympy as sp

from linkern.symbolic import binomial_power_coefficient, implicit_series, lagrange_coefficient, lagrange_general_term

u, t, x = sp.symbols("u t x")
L = sp.Symbol("L", positive=True)
k = sp.Symbol("k", integer=True, positive=True)


def test_lagrange_inversion_of_the_tree_function():
    # T = g exp(T): coefficients n^(n-1)/n!.
    found = [lagrange_coefficient(sp.exp(u), u, u, n) for n in range(1, 7)]
    assert found == [sp.Rational(n ** (n - 1), sp.factorial(n)) for n in range(1, 7)]


def test_catalan_numbers_for_symbolic_order():
    # w = 1 + g w^2: Catalan numbers.
    term = lagrange_general_term((1 + u) ** 2, 1 + u, u, k)
    assert [term.subs(k, n) for n in range(1, 7)] == [1, 2, 5, 14, 42, 132]


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, [1, -1, 2, -5, 14]), (2, [2, -3, 10, -42, 198]), (3, [3, -6, 28, -165, 1092])]
)
def test_overlap_series_has_the_known_coefficients(depth, expected):
    step, overlap = (1 + u) ** (-L), (1 + u) ** L
    assert [lagrange_coefficient(step, overlap, u, n).subs(L, depth) for n in range(1, 6)] == expected


def test_binomial_theorem_refuses_other_functions():
    assert binomial_power_coefficient(3 * (1 - 2 * u) ** L, u, k) == 3 * (-2) ** k * sp.binomial(L, k)
    with pytest.raises(ValueError, match="expected a constant times a power"):
        binomial_power_coefficient(sp.exp(u), u, k)


def test_implicit_series_solves_a_cubic_order_by_order():
    equation = x**3 - x - 6 + t * x**2
    coefficients = implicit_series(equation, x, sp.Integer(2), t, 4)
    trial = sum(value * t**i for i, value in enumerate(coefficients))
    assert sp.series(equation.subs(x, trial), t, 0, 5).removeO() == 0
    assert coefficients[1] == -sp.Rational(4, 11)


def test_implicit_series_names_a_wrong_start_and_a_branch_point():
    with pytest.raises(ValueError, match="start: the equation"):
        implicit_series(x**2 - 1 - t, x, sp.Integer(3), t, 1)
    with pytest.raises(ValueError, match="branch point"):
        implicit_series(x**2 - t, x, sp.Integer(0), t, 1)
