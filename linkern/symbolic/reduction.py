"""From a chain of layers to one scalar: a conserved charge turns the recursion into a product over layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from linkern.symbolic.layers import Layered, depth, layer, place
from linkern.symbolic.saddle import NotSolvableError, SaddlePoint

__all__ = ["ScalarReduction", "reduce_to_scalar"]

_dummy = sp.Symbol("j", integer=True, positive=True)


@dataclass(frozen=True)
class ScalarReduction:
    """A saddle point that one number, the conserved charge, determines.

    Attributes
    ----------
    saddle : SaddlePoint
        The equations that were reduced.
    charge : Symbol
        The one unknown.
    conjugate : Expr
        The conjugate at layer l as a function of the order parameter there and the charge.
    growth : Expr
        Ratio of the order parameter at layer l to that at layer l - 1; free of order parameters.
    """

    saddle: SaddlePoint
    charge: sp.Symbol
    conjugate: sp.Expr
    growth: sp.Expr

    @property
    def order_parameter(self) -> Layered:
        """The order parameter of the chain."""
        return self.saddle.action.order_parameters[0]

    def profile(self, index: sp.Expr | int = layer) -> sp.Expr:
        """Return the order parameter at layer `index`: the depth law."""
        start = self.order_parameter[0]
        if self.growth.has(layer):
            return start * sp.Product(self.growth.subs(layer, _dummy), (_dummy, 1, index))
        return start * self.growth**index

    @cached_property
    def readout_charge(self) -> sp.Expr:
        """The charge that the data demand, as a function of the order parameter at the last layer."""
        conjugate = self.saddle.action.conjugates[0]
        demanded = self.saddle.boundary[conjugate[depth]]
        (charge,) = sp.solve(sp.Eq(place(self.conjugate, depth), demanded), self.charge)
        return sp.factor(charge)

    @cached_property
    def scalar_equation(self) -> sp.Eq:
        """The order parameter at the last layer equals the product of the layers' growths at the demanded charge."""
        last = self.order_parameter[depth]
        return sp.Eq(last, self.profile(depth).subs(self.charge, self.readout_charge), evaluate=False)

    @cached_property
    def force(self) -> sp.Expr:
        """c_L dS/dc_L once every other variable is extremal: a function of c_L and the charge; zero at a saddle point.

        Along the chain the charge parametrises c_L, so that this is the slope of the reduced action against ln c_L: the
        saddle point is a minimum where the force increases with c_L.
        """
        conjugate, last = self.saddle.action.conjugates[0], self.order_parameter[depth]
        slope = self.saddle.last[self.order_parameter].subs(conjugate[depth], place(self.conjugate, depth))
        return sp.simplify(last * slope)

    @cached_property
    def layer_action(self) -> sp.Expr:
        """The bulk term of the action at layer l on the chain, as a function of the charge."""
        conjugate, q = self.saddle.action.conjugates[0], self.order_parameter
        below = sp.Dummy("below", positive=True)
        here = self.growth * below
        bulk = self.saddle.action.bulk.subs(conjugate[layer], self.conjugate).subs(q[layer], here)
        value = sp.expand(sp.expand_log(sp.simplify(bulk.subs(q.base[layer - 1], below)), force=True))
        if value.has(below):
            raise NotSolvableError(f"the action of a layer depends on the order parameter itself: {value}")
        return value

    @cached_property
    def action(self) -> sp.Expr:
        """The reduced action as a function of c_L and the charge."""
        bulk = self.layer_action
        total = sp.Sum(bulk, (layer, 1, depth)) if bulk.has(layer) else depth * bulk
        return total + self.saddle.action.readout


def reduce_to_scalar(saddle: SaddlePoint, invariant: sp.Expr, value: sp.Expr) -> ScalarReduction:
    """Use a conserved quantity to reduce a chain with one order parameter per layer to one scalar equation.

    Parameters
    ----------
    saddle : SaddlePoint
        The equations of a chain with one order parameter and one conjugate.
    invariant : Expr
        A conserved quantity at layer l, for instance from `find_invariants`.
    value : Expr
        Its value: a symbol (the charge) or minus a symbol, whichever makes the charge come out positive.

    Raises
    ------
    NotSolvableError
        If the growth from layer to layer still depends on the order parameters; the message shows the recursion.
    """
    (q,), (conjugate,) = saddle.action.order_parameters, saddle.action.conjugates
    (charge,) = value.free_symbols
    unknown = sp.Dummy("u", real=True)
    (from_charge,) = sp.solve(sp.Eq(invariant.subs(conjugate[layer], unknown), value), unknown)
    here, below = sp.Dummy("here", positive=True), sp.Dummy("below", positive=True)
    step = saddle.forward[q[layer]].subs(conjugate[layer], from_charge)
    step = step.subs({q[layer]: here, q.base[layer - 1]: below})
    candidates = [s for s in sp.solve(sp.fraction(sp.together(here - step))[0], here) if s != 0]
    growths = [sp.factor(sp.simplify(s / below)) for s in candidates]
    if len(growths) != 1 or growths[0].has(below):
        raise NotSolvableError(f"the recursion does not reduce to a product over layers: c[l]/c[l-1] = {growths}")
    return ScalarReduction(saddle=saddle, charge=charge, conjugate=sp.factor(from_charge), growth=growths[0])
