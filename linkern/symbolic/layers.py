"""Quantities that live on the layers of a network whose depth is a symbol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

__all__ = ["Layered", "depth", "layer", "layered_bases", "place"]

#: The generic layer index l = 1..L and the number of hidden layers L.
layer = sp.Symbol("l", integer=True, positive=True)
depth = sp.Symbol("L", integer=True, positive=True)


@dataclass(frozen=True)
class Layered:
    """One number per layer: an order parameter, its conjugate, or a layer-dependent parameter of the model.

    `c = Layered("c", start=1)` is written `c[l]`, `c[l - 1]`, `c[L]` in an action; `start` is its known value at layer 0
    (the data), if it has one.

    Parameters
    ----------
    name : str
        Name in generated code.
    latex : str, optional
        How it prints in documents; by default the name.
    start : expression, optional
        Value at layer 0.
    positive : bool
        Whether SymPy may assume it positive (overlaps and variances are, conjugates are only real).
    """

    name: str
    latex: str | None = None
    start: sp.Expr | int | None = None
    positive: bool = True

    @cached_property
    def base(self) -> sp.IndexedBase:
        """The SymPy object behind the layers."""
        label = sp.Symbol(self.name, real=True, positive=True if self.positive else None)
        assumptions = {"positive": True} if self.positive else {"real": True}
        return sp.IndexedBase(label, **assumptions)

    def __getitem__(self, index: sp.Expr | int) -> sp.Expr:
        """Return the value at a layer; layer 0 gives `start` where that is known."""
        if sp.sympify(index) == 0 and self.start is not None:
            return sp.sympify(self.start)
        return self.base[index]

    def shifts(self, expression: sp.Expr) -> set[int]:
        """Return the integers s for which `expression` contains the value at layer l + s."""
        found = set()
        for term in expression.atoms(sp.Indexed):
            if term.base == self.base:
                shift = sp.simplify(term.indices[0] - layer)
                if not shift.is_Integer:
                    raise ValueError(f"{term}: expected a layer l + integer inside the bulk of an action")
                found.add(int(shift))
        return found


def layered_bases(expression: sp.Expr) -> list[sp.IndexedBase]:
    """Return the bases of all layered quantities in `expression`, sorted by name."""
    return sorted({term.base for term in expression.atoms(sp.Indexed)}, key=str)


def place(expression: sp.Expr, index: sp.Expr | int, quantities: Iterable[Layered] = ()) -> sp.Expr:
    """Return `expression` (written for layer l) at layer `index`, with the known values of `quantities` at layer 0."""
    placed = expression.subs(layer, index)
    return placed.subs({q.base[0]: q.start for q in quantities if q.start is not None})
