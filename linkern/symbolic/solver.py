"""From saddle-point equations to numbers: every solution of a user's own chain, with its certificate.

No conservation law is needed. The overlap of the first layer is the one unknown; the equations then give layer after layer,
and the condition at the last layer is left over as one scalar equation in one unknown, which is scanned for all its roots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from linkern.checks import integer_at_least, real_array
from linkern.symbolic.emit import stable
from linkern.symbolic.layers import depth, layer
from linkern.symbolic.saddle import NotSolvableError, SaddlePoint, solve_uniquely

__all__ = ["ChainSolution", "ChainSolver"]

Floats = NDArray[np.float64]
Values = Mapping[str, Floats]

# ln of the first overlap relative to its lazy value (zero conjugate), scanned on both sides of zero.
_SCAN = np.geomspace(1e-15, 60, 6000)
# A sign change at a pole does not satisfy the equations; solutions do, to rounding.
_TRUSTED = 1e-6


@dataclass(frozen=True)
class ChainSolution:
    """One saddle point of a chain.

    Attributes
    ----------
    overlaps : ndarray, shape (depth + 1,)
        The order parameter at layers 0..L.
    conjugates : ndarray, shape (depth,)
        The conjugates at layers 1..L.
    action : float
        The value of the action; the smallest one dominates the posterior.
    stable : bool
        Whether the action, extremal in all other variables, is a minimum in the last overlap.
    residual : float
        Largest violation of the stationarity conditions of all layers, relative to the largest term of each.
    """

    overlaps: Floats
    conjugates: Floats
    action: float
    stable: bool
    residual: float


@dataclass(frozen=True)
class ChainSolver:
    """A NumPy solver compiled from the saddle point of a chain with one order parameter per layer.

    Raises
    ------
    NotSolvableError
        If the equations of a layer cannot be solved uniquely for the variables of the next one; the message shows them.
    """

    saddle: SaddlePoint

    def __post_init__(self) -> None:
        count = len(self.saddle.action.order_parameters)
        if count != 1:
            raise NotSolvableError(f"expected a chain with one order parameter per layer, got {count}")

    def solve(self, *, depth: int, **parameters: ArrayLike) -> tuple[ChainSolution, ...]:
        """Return every saddle point found, sorted by action: the first one is the global minimum.

        Parameters
        ----------
        depth : int
            Number of hidden layers L.
        **parameters
            The parameters of the action by name: a number for a symbol, `depth` numbers for a layered parameter.

        Raises
        ------
        ValueError
            If parameters are missing, unknown or of the wrong length, or if no saddle point was found.

        Notes
        -----
        Cost O(depth) per evaluation, 12 000 evaluations in one vectorised sweep. The logarithm of the first overlap is
        scanned with 0.7 % spacing, so two solutions closer than that can be missed. Where that matters, bound the slope and
        search with `linkern.numerics.roots.isolate_roots`, as `linkern.bayes.linear` does.
        """
        values = self._check(integer_at_least("depth", depth), parameters)
        scan = np.concatenate([-_SCAN[::-1], [0.0], _SCAN])
        with np.errstate(all="ignore"):  # starts that leave the domain give nan and are passed over
            force, last = self._force(scan, values)
            change = np.flatnonzero((force[:-1] == 0) | (force[:-1] * force[1:] < 0))
            solutions = []
            for i in change[np.isfinite(last[change]) & np.isfinite(last[change + 1])]:
                root = scan[i]
                if force[i] != 0:
                    root = brentq(lambda x: float(self._force(np.array([x]), values)[0][0]), scan[i], scan[i + 1], xtol=1e-300)
                rising = bool((force[i + 1] - force[i]) * (last[i + 1] - last[i]) > 0)
                solutions.append(self._solution(float(root), rising, values))
        solutions = [s for s in solutions if s.residual < _TRUSTED]
        if not solutions:
            raise ValueError(f"parameters: no saddle point was found for {parameters} at depth {depth}")
        return tuple(sorted(solutions, key=lambda s: s.action))

    # Symbols by which compiled expressions know their arguments.
    @cached_property
    def _names(self) -> dict[sp.Expr, sp.Symbol]:
        (q,), (dual,) = self.saddle.action.order_parameters, self.saddle.action.conjugates
        names = {q.base[layer - 1]: "q_below", q.base[layer]: "q_here", q.base[layer + 1]: "q_above", q.base[depth]: "q_last"}
        names |= {dual.base[layer]: "dual_here", dual.base[layer + 1]: "dual_above", dual.base[depth]: "dual_last"}
        for base in self.saddle.action.layer_parameters:
            names |= {
                base[layer]: f"{base.label}_here",
                base[layer + 1]: f"{base.label}_above",
                base[depth]: f"{base.label}_last",
            }
        return {key: sp.Symbol(name) for key, name in names.items()}

    def _compile(self, expression: sp.Expr) -> Callable[[Values], Floats]:
        arguments = [layer, depth, *self.saddle.action.parameters, *self._names.values()]
        function = sp.lambdify(arguments, stable(expression).subs(self._names), modules=["scipy", "numpy"])
        order = [str(argument) for argument in arguments]
        return lambda values: function(*(values.get(name, np.nan) for name in order))

    @cached_property
    def _first_conjugate(self) -> Callable[[Values], Floats]:
        (q,), (dual,) = self.saddle.action.order_parameters, self.saddle.action.conjugates
        forward = q[layer] - self.saddle.forward[q[layer]]
        return self._compile(solve_uniquely([forward], [dual[layer]])[dual[layer]])

    @cached_property
    def _next_conjugate(self) -> Callable[[Values], Floats]:
        (dual,) = self.saddle.action.conjugates
        backward = dual[layer] - self.saddle.backward[dual[layer]]
        return self._compile(solve_uniquely([backward], [dual[layer + 1]])[dual[layer + 1]])

    @cached_property
    def _overlap(self) -> Callable[[Values], Floats]:
        (q,) = self.saddle.action.order_parameters
        return self._compile(self.saddle.forward[q[layer]])

    @cached_property
    def _conditions(self) -> tuple[tuple[tuple[Callable[[Values], Floats], ...], slice], ...]:
        """Terms of each stationarity condition, and the layers at which it holds."""
        (q,), (dual,) = self.saddle.action.order_parameters, self.saddle.action.conjugates
        every, interior, last = slice(None), slice(None, -1), slice(-1, None)
        conditions = ((self.saddle.interior[dual], every), (self.saddle.interior[q], interior), (self.saddle.last[q], last))
        return tuple(
            (tuple(self._compile(term) for term in sp.Add.make_args(sp.expand(condition))), layers)
            for condition, layers in conditions
        )

    @cached_property
    def _slope(self) -> Callable[[Values], Floats]:
        return self._compile(self.saddle.last[self.saddle.action.order_parameters[0]])

    @cached_property
    def _action(self) -> tuple[Callable[[Values], Floats], Callable[[Values], Floats]]:
        return self._compile(self.saddle.action.bulk), self._compile(self.saddle.action.readout)

    def _check(self, count: int, parameters: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        """Return scalars by name and layered parameters as (depth,) arrays."""
        scalars = {str(s) for s in self.saddle.action.parameters}
        layered = {str(base.label) for base in self.saddle.action.layer_parameters}
        if set(parameters) != scalars | layered:
            raise ValueError(f"parameters: expected {sorted(scalars | layered)}, got {sorted(parameters)}")
        values: dict[str, Floats] = {"L": np.array(float(count))}
        for name, value in parameters.items():
            values[name] = real_array(name, value, ndim=0 if name in scalars else 1)
            if name in layered and values[name].size != count:
                raise ValueError(f"{name}: expected {count} numbers (one per layer), got {values[name].size}")
        return values

    def _at(self, index: int, values: Values) -> dict[str, Floats]:
        """The parameters as seen from layer `index` = 1..L."""
        seen = dict(values) | {"l": np.array(float(index))}
        for base in self.saddle.action.layer_parameters:
            column = values[str(base.label)]
            seen[f"{base.label}_here"], seen[f"{base.label}_last"] = column[index - 1], column[-1]
            seen[f"{base.label}_above"] = column[index] if index < column.size else np.array(np.nan)
        return seen

    def _climb(self, x: Floats, values: Values) -> tuple[Floats, Floats]:
        """Overlaps (depth + 1, m) and conjugates (depth, m) for m values of ln(first overlap / its lazy value)."""
        first = self._at(1, values)
        start = np.full(x.shape, float(self.saddle.action.order_parameters[0][0]))
        lazy = self._overlap(first | {"q_below": start, "dual_here": np.zeros_like(x)})
        overlaps, duals = [start, lazy * np.exp(x)], []
        duals.append(np.broadcast_to(self._first_conjugate(first | {"q_below": start, "q_here": overlaps[1]}), x.shape))
        for index in range(1, int(values["L"])):
            seen = self._at(index, values) | {"q_below": overlaps[-2], "q_here": overlaps[-1], "dual_here": duals[-1]}
            duals.append(np.broadcast_to(self._next_conjugate(seen), x.shape))
            above = self._at(index + 1, values) | {"q_below": overlaps[-1], "dual_here": duals[-1]}
            overlaps.append(np.broadcast_to(self._overlap(above), x.shape))
        positive = np.all(np.array(overlaps) > 0, axis=0) if self.saddle.action.order_parameters[0].positive else True
        return np.where(positive, overlaps, np.nan), np.array(duals)

    def _force(self, x: Floats, values: Values) -> tuple[Floats, Floats]:
        """dS/dc_L with all other conditions met, and c_L."""
        overlaps, duals = self._climb(x, values)
        seen = self._at(int(values["L"]), values) | {"q_last": overlaps[-1], "dual_last": duals[-1]}
        return np.broadcast_to(self._slope(seen), x.shape), overlaps[-1]

    def _solution(self, x: float, minimum: bool, values: Values) -> ChainSolution:
        overlaps, duals = (a[:, 0] for a in self._climb(np.array([x]), values))
        count = duals.size
        bulk, readout = self._action
        total, worst = 0.0, 0.0
        for index in range(1, count + 1):
            seen = self._at(index, values) | {"q_last": overlaps[-1], "dual_last": duals[-1]}
            seen |= {"q_below": overlaps[index - 1], "q_here": overlaps[index], "dual_here": duals[index - 1]}
            if index < count:
                seen |= {"q_above": overlaps[index + 1], "dual_above": duals[index]}
            total += float(bulk(seen))
            for terms, layers in self._conditions:
                if index - 1 in range(count)[layers]:
                    sizes = np.array([float(term(seen)) for term in terms])
                    largest = np.abs(sizes).max()
                    worst = max(worst, abs(sizes.sum()) / largest if largest > 0 else 0.0)
        total += float(readout(seen))
        return ChainSolution(overlaps, duals, total, minimum, worst)
