"""An action over layered order parameters, and its stationarity conditions at a symbolic layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from linkern.symbolic.layers import Layered, depth, layer, layered_bases, place

__all__ = ["Action"]


@dataclass(frozen=True)
class Action:
    r"""The exponent of a posterior, S = sum_{l=1}^{L} bulk(l) + readout.

    Parameters
    ----------
    bulk : Expr
        The term of layer l. It may contain the order parameters at layers l and l - 1 (a chain of layers).
    readout : Expr
        The term of the data; it may contain the order parameters at layer L only.
    order_parameters, conjugates : tuple of Layered
        Kernels' overlaps c_l and the Lagrange variables that enforce their definitions, in matching order.

    Notes
    -----
    Any other `Layered` or `Symbol` in the expressions is a parameter of the model. Stable saddle points minimise S over the
    order parameters after maximising over the conjugates.
    """

    bulk: sp.Expr
    readout: sp.Expr
    order_parameters: tuple[Layered, ...]
    conjugates: tuple[Layered, ...]

    def __post_init__(self) -> None:
        if len(self.order_parameters) != len(self.conjugates):
            raise ValueError(
                f"conjugates: expected one per order parameter ({len(self.order_parameters)}), got {len(self.conjugates)}"
            )
        for q in self.variables:
            wrong = q.shifts(self.bulk) - {0, -1}
            if wrong:
                raise ValueError(f"bulk: {q.name} may appear at layers l and l-1, got shifts {sorted(wrong)}")
            stray = [t for t in self.readout.atoms(sp.Indexed) if t.base == q.base and t.indices[0] != depth]
            if stray:
                raise ValueError(f"readout: expected {q.name} at layer L only, got {stray}")

    @property
    def variables(self) -> tuple[Layered, ...]:
        """Order parameters and conjugates."""
        return self.order_parameters + self.conjugates

    @cached_property
    def layer_parameters(self) -> tuple[sp.IndexedBase, ...]:
        """The layer-dependent parameters of the model, such as prior variances."""
        own = {q.base for q in self.variables}
        return tuple(b for b in layered_bases(self.bulk + self.readout) if b not in own)

    @cached_property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """The layer-independent parameters of the model, sorted by name."""
        labels = {t.base.label for t in (self.bulk + self.readout).atoms(sp.Indexed)}
        symbols = (self.bulk + self.readout).free_symbols - labels - {layer, depth}
        return tuple(sorted((s for s in symbols if isinstance(s, sp.Symbol)), key=str))

    @property
    def expression(self) -> sp.Expr:
        """S as one expression with a symbolic sum over layers."""
        return sp.Sum(self.bulk, (layer, 1, depth)) + self.readout

    def at_depth(self, count: int) -> sp.Expr:
        """Return S for `count` layers, written out."""
        terms = [place(self.bulk, k, self.variables) for k in range(1, count + 1)]
        return sp.Add(*terms) + self.readout.subs(depth, count)

    def stationarity(self, variable: Layered, *, last: bool = False) -> sp.Expr:
        """Return dS/d variable[l] for an interior layer 1 <= l < L, or dS/d variable[L] with `last=True`.

        The sum over layers contributes once for every place in which the variable enters: through the term of its own layer
        and, in the interior, through the term of the layer above.
        """
        own = sp.diff(self.bulk, variable.base[layer])
        if last:
            return place(own, depth) + sp.diff(self.readout, variable.base[depth])
        above = sp.diff(self.bulk, variable.base[layer - 1]) if -1 in variable.shifts(self.bulk) else sp.S.Zero
        return own + place(above, layer + 1)
