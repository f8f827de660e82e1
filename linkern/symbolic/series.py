"""Exact series of implicitly defined functions: Lagrange inversion to any order, and order-by-order expansion."""

from __future__ import annotations

import sympy as sp

__all__ = ["binomial_power_coefficient", "implicit_series", "lagrange_coefficient", "lagrange_general_term"]


def lagrange_coefficient(phi: sp.Expr, outer: sp.Expr, u: sp.Symbol, order: int) -> sp.Expr:
    """Return the coefficient of g**order in outer(u(g)), where u = g * phi(u) and u(0) = 0.

    Lagrange inversion: [g^n] H(u(g)) = (1/n) [u^(n-1)] H'(u) phi(u)^n for n >= 1. Symbolic parameters (the depth, say) stay
    symbolic. Needs phi and H analytic at u = 0 with phi(0) != 0.
    """
    if order == 0:
        return outer.subs(u, 0)
    integrand = sp.diff(outer, u) * phi**order
    derivative = sp.diff(integrand, u, order - 1) if order > 1 else integrand
    return sp.factor(sp.simplify(derivative.subs(u, 0) / (order * sp.factorial(order - 1))))


def binomial_power_coefficient(power: sp.Expr, u: sp.Symbol, index: sp.Expr) -> sp.Expr:
    """Return [u^index] of C * (1 + s u)**p by the binomial theorem, for symbolic `index` and exponent.

    Raises
    ------
    ValueError
        If `power` is not of that form.
    """
    merged = sp.powsimp(sp.powdenest(power, force=True), force=True)
    constant, rest = merged.as_independent(u)
    base, exponent = rest.as_base_exp()
    slope = sp.diff(base, u)
    if exponent.has(u) or slope.has(u) or sp.simplify(base.subs(u, 0) - 1) != 0:
        raise ValueError(f"expected a constant times a power of 1 + s*{u}, got {merged}")
    return constant * slope**index * sp.binomial(sp.simplify(exponent), index)


def lagrange_general_term(phi: sp.Expr, outer: sp.Expr, u: sp.Symbol, order: sp.Symbol) -> sp.Expr:
    """Return the coefficient of g**order for SYMBOLIC order >= 1, where H'(u) phi(u)^n is a binomial power.

    This is Lagrange inversion followed by the binomial theorem: a proof for all orders at once.
    """
    return binomial_power_coefficient(sp.diff(outer, u) * phi**order, u, order - 1) / order


def implicit_series(equation: sp.Expr, unknown: sp.Symbol, start: sp.Expr, small: sp.Symbol, order: int) -> list[sp.Expr]:
    """Return [start, c_1, ..., c_order] with unknown = start + sum c_k small^k solving equation(unknown, small) = 0.

    The equation must vanish at (start, 0), be analytic there and have a non-zero derivative with respect to the unknown
    (the implicit function theorem); each order is then one linear equation. Where the equation is not analytic in the
    original variables, substitute the dominant balance first (a Puiseux expansion).

    Raises
    ------
    ValueError
        If `start` does not solve the equation at small = 0, or the derivative vanishes there (a branch point).
    """
    at_start = sp.simplify(sp.limit(equation.subs(unknown, start), small, 0))
    if at_start != 0:
        raise ValueError(f"start: the equation at {small} = 0 leaves {at_start}, expected 0")
    slope = sp.simplify(sp.limit(sp.diff(equation, unknown).subs(unknown, start), small, 0))
    if slope == 0:
        raise ValueError("start: a branch point (the derivative with respect to the unknown vanishes)")
    coefficients = [start]
    for k in range(1, order + 1):
        trial = sum(c * small**i for i, c in enumerate(coefficients))
        expanded = sp.series(equation.subs(unknown, trial), small, 0, k + 1).removeO()
        coefficients.append(sp.simplify(-expanded.coeff(small, k) / slope))
    return coefficients
