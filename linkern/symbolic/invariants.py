"""Conserved quantities of the layer-to-layer map, found by a search over polynomials."""

from __future__ import annotations

from itertools import product

import sympy as sp

from linkern.symbolic.layers import layer
from linkern.symbolic.saddle import SaddlePoint

__all__ = ["find_invariants", "layer_drift"]


def _monomials(fields: list[sp.Expr], parameters: list[sp.Expr], degree: int) -> list[sp.Expr]:
    """Return field monomials of total degree 1..`degree` times parameter powers -1, 0, 1."""
    powers = [e for e in product(range(degree + 1), repeat=len(fields)) if 1 <= sum(e) <= degree]
    weights = list(product((0, 1, -1), repeat=len(parameters)))
    return [
        sp.Mul(*(f**i for f, i in zip(fields, e, strict=True)), *(p**j for p, j in zip(parameters, w, strict=True)))
        for w in weights
        for e in powers
    ]


def layer_drift(saddle: SaddlePoint, quantity: sp.Expr) -> sp.Expr:
    """Return quantity(l) - quantity(l+1) on solutions of the saddle-point equations, as one fraction.

    The equations determine the conjugates at l and the order parameters at l + 1 from the rest, which stays free: the drift
    is zero for all values of the free variables if and only if the quantity is conserved.
    """
    above = {key.subs(layer, layer + 1): value.subs(layer, layer + 1) for key, value in saddle.forward.items()}
    here = quantity.subs(saddle.backward)
    there = quantity.subs(layer, layer + 1).subs(above)
    return sp.together(here - there)


def find_invariants(saddle: SaddlePoint, *, degree: int = 2) -> tuple[sp.Expr, ...]:
    """Search for conserved quantities: polynomials in the variables of one layer that take the same value at every layer.

    Parameters
    ----------
    saddle : SaddlePoint
        The equations.
    degree : int
        Highest total degree in the order parameters and conjugates. Layer-dependent parameters of the model may appear with
        powers -1, 0 and 1.

    Returns
    -------
    tuple of Expr
        A basis of the conserved polynomials of the lowest degree at which there are any; empty if there are none. Each has
        been substituted back: its drift from layer to layer is identically zero.

    Notes
    -----
    An ansatz with unknown coefficients is inserted into the equations; the numerators' coefficients in the free variables
    give a linear system, whose exact null space is the space of conserved polynomials.
    """
    fields = [q[layer] for q in saddle.action.variables]
    parameters = [base[layer] for base in saddle.action.layer_parameters]
    for order in range(1, degree + 1):
        monomials = _monomials(fields, parameters, order)
        found = _null_combinations(monomials, [layer_drift(saddle, m) for m in monomials])
        if found:
            return tuple(i for i in found if sp.simplify(layer_drift(saddle, i)) == 0)
    return ()


def _null_combinations(monomials: list[sp.Expr], drifts: list[sp.Expr]) -> list[sp.Expr]:
    """Return the combinations of `monomials` whose drifts cancel identically."""
    atoms = sorted(set().union(*(d.atoms(sp.Indexed) for d in drifts)), key=str)
    plain = {a: sp.Dummy(f"x{i}") for i, a in enumerate(atoms)}
    fractions = [sp.fraction(sp.together(d.subs(plain))) for d in drifts]
    denominator = sp.lcm_list([den for _, den in fractions])
    polynomials = [sp.Poly(sp.cancel(num * denominator / den), *plain.values()) for num, den in fractions]
    terms = sorted(set().union(*(p.monoms() for p in polynomials)))
    matrix = sp.Matrix([[p.coeff_monomial(t) for p in polynomials] for t in terms])
    combinations = []
    for vector in matrix.nullspace():
        scale = next(x for x in vector if x != 0)
        combinations.append(sp.factor(sum(x / scale * m for x, m in zip(vector, monomials, strict=True))))
    return combinations
