"""Saddle-point equations solved for the recursions that carry the order parameters from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from linkern.symbolic.action import Action
from linkern.symbolic.layers import Layered, depth, layer

__all__ = ["NotSolvableError", "SaddlePoint", "solve_uniquely"]


class NotSolvableError(ValueError):
    """The equations do not have the structure that was asked for; the message shows how far the derivation came."""


def solve_uniquely(equations: list[sp.Expr], unknowns: list[sp.Expr]) -> dict[sp.Expr, sp.Expr]:
    """Solve equations (expressions that vanish) for as many unknowns; refuse none or several solutions."""
    # Indexed unknowns are exchanged for plain symbols: sp.solve treats those reliably.
    plain = {u: sp.Dummy(f"u{i}", real=True) for i, u in enumerate(unknowns)}
    numerators = [sp.fraction(sp.together(e.subs(plain)))[0] for e in equations]
    solutions = [s for s in sp.solve(numerators, list(plain.values()), dict=True) if len(s) == len(unknowns)]
    if len(solutions) != 1:
        raise NotSolvableError(f"expected one solution for {unknowns}, got {len(solutions)} from {equations}")
    back = {v: k for k, v in plain.items()}
    return {back[u]: sp.factor(value.subs(back)) for u, value in solutions[0].items()}


@dataclass(frozen=True)
class SaddlePoint:
    """The stationarity conditions of an action; expressions that vanish at a saddle point."""

    action: Action

    @cached_property
    def interior(self) -> dict[Layered, sp.Expr]:
        """Conditions of an interior layer 1 <= l < L, per variable."""
        return {q: self.action.stationarity(q) for q in self.action.variables}

    @cached_property
    def last(self) -> dict[Layered, sp.Expr]:
        """Conditions of the last layer, per variable."""
        return {q: self.action.stationarity(q, last=True) for q in self.action.variables}

    @cached_property
    def forward(self) -> dict[sp.Expr, sp.Expr]:
        """c[l] from c[l-1] and the conjugates at l, valid at every layer 1 <= l <= L."""
        equations = [self.interior[q] for q in self.action.conjugates]
        return solve_uniquely(equations, [q[layer] for q in self.action.order_parameters])

    @cached_property
    def backward(self) -> dict[sp.Expr, sp.Expr]:
        """Conjugates at l from c[l] and the conjugates at l+1, valid at every interior layer 1 <= l < L."""
        up = {q[layer + 1]: v.subs(layer, layer + 1) for q, v in zip(*self._forward_pairs(), strict=True)}
        equations = [self.interior[q].subs(up) for q in self.action.order_parameters]
        return solve_uniquely(equations, [q[layer] for q in self.action.conjugates])

    @cached_property
    def boundary(self) -> dict[sp.Expr, sp.Expr]:
        """Conjugates at the last layer from the order parameters there: where the data enter."""
        equations = [self.last[q] for q in self.action.order_parameters]
        return solve_uniquely(equations, [q[depth] for q in self.action.conjugates])

    def _forward_pairs(self) -> tuple[list[Layered], list[sp.Expr]]:
        return list(self.action.order_parameters), [self.forward[q[layer]] for q in self.action.order_parameters]
