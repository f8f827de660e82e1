"""From a scalar reduction to numbers: every saddle point of a user's own action, with its certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from linkern.checks import integer_at_least, real_array
from linkern.symbolic.emit import stable
from linkern.symbolic.layers import depth, layer
from linkern.symbolic.reduction import ScalarReduction

__all__ = ["ChainSolution", "ChainSolver"]

# The charge is scanned on both sides of zero over these decades; see `ChainSolver.solve`.
_SCAN = np.logspace(-16, 16, 6401)


@dataclass(frozen=True)
class ChainSolution:
    """One saddle point of a chain.

    Attributes
    ----------
    charge : float
        The conserved charge.
    overlaps : ndarray, shape (depth + 1,)
        The order parameter at layers 0..L.
    conjugates : ndarray, shape (depth,)
        The conjugates at layers 1..L.
    action : float
        The value of the action; the smallest one dominates the posterior.
    stable : bool
        Whether the action is a minimum along the chain.
    residual : float
        Largest relative violation of the stationarity conditions of all layers, evaluated as differentiated from the action
        (the reduction is not used).
    """

    charge: float
    overlaps: NDArray[np.float64]
    conjugates: NDArray[np.float64]
    action: float
    stable: bool
    residual: float


@dataclass(frozen=True)
class ChainSolver:
    """The NumPy solver that a `ScalarReduction` compiles to."""

    reduction: ScalarReduction

    @cached_property
    def _arguments(self) -> tuple[list[sp.Symbol], dict[sp.Expr, sp.Symbol]]:
        """Scalar parameters, and the layer parameters as plain symbols."""
        action = self.reduction.saddle.action
        here = {base[layer]: sp.Symbol(str(base.label) + "_here") for base in action.layer_parameters}
        last = {base[depth]: sp.Symbol(str(base.label) + "_last") for base in action.layer_parameters}
        return list(action.parameters), here | last

    def _compile(self, expression: sp.Expr) -> Callable[..., NDArray[np.float64]]:
        scalars, layered = self._arguments
        q, conjugate = self.reduction.order_parameter, self.reduction.saddle.action.conjugates[0]
        fields = {q[layer]: sp.Symbol("q_here"), q.base[layer - 1]: sp.Symbol("q_below"), q[depth]: sp.Symbol("q_last")}
        fields |= {conjugate[layer]: sp.Symbol("dual_here"), conjugate[depth]: sp.Symbol("dual_last")}
        fields |= {q.base[layer + 1]: sp.Symbol("q_above"), conjugate[layer + 1]: sp.Symbol("dual_above")}
        above = {
            base[layer + 1]: sp.Symbol(str(base.label) + "_above")
            for base in self.reduction.saddle.action.layer_parameters
        }
        replaced = fields | layered | above
        names = [self.reduction.charge, layer, depth, *scalars, *replaced.values()]
        function = sp.lambdify(names, stable(expression).subs(replaced), modules=["scipy", "numpy"])
        order = [str(name) for name in names]
        return lambda **values: function(*(values.get(name, np.nan) for name in order))

    @cached_property
    def _growth(self) -> Callable[..., NDArray[np.float64]]:
        return self._compile(self.reduction.growth)

    @cached_property
    def _force(self) -> Callable[..., NDArray[np.float64]]:
        return self._compile(self.reduction.force)

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
        Cost O(depth) per evaluation, about 13 000 evaluations for the scan. The charge is scanned over 32 decades on both
        sides of zero (400 points a decade): two solutions closer than 0.6 % in charge can be missed. Where that matters,
        derive bounds on the slope and use a certified search, as `linkern.bayes.linear` does.
        """
        count = integer_at_least("depth", depth)
        values = self._check(count, parameters)
        charges = np.concatenate([-_SCAN[::-1], [0.0], _SCAN])
        with np.errstate(all="ignore"):  # outside the domain the growth is not positive; such charges are dropped below
            forces, logs = self._along_chain(charges, values)
        usable = np.isfinite(forces) & np.isfinite(logs)
        solutions = []
        for i in np.flatnonzero(usable[:-1] & usable[1:] & ((forces[:-1] == 0) | (forces[:-1] * forces[1:] < 0))):
            root = charges[i]
            if forces[i] != 0:
                root = brentq(
                    lambda a: self._along_chain(np.array([a]), values)[0][0], *charges[i : i + 2], xtol=1e-300
                )
            rising = (forces[i + 1] - forces[i]) * (logs[i + 1] - logs[i]) > 0
            solution = self._solution(float(root), bool(rising), values, count)
            if solution.residual < 1e-6:  # a pole also changes sign; it does not satisfy the equations
                solutions.append(solution)
        if not solutions:
            raise ValueError(f"parameters: no saddle point was found for {parameters} at depth {count}")
        return tuple(sorted(solutions, key=lambda s: s.action))

    def _check(self, count: int, parameters: dict[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
        action = self.reduction.saddle.action
        scalars = {str(s) for s in action.parameters}
        layered = {str(base.label) for base in action.layer_parameters}
        if set(parameters) != scalars | layered:
            raise ValueError(f"parameters: expected {sorted(scalars | layered)}, got {sorted(parameters)}")
        values: dict[str, NDArray[np.float64]] = {"L": np.float64(count)}
        for name, value in parameters.items():
            array = real_array(name, value, ndim=0 if name in scalars else 1)
            if name in scalars:
                values[name] = array
                continue
            if array.size != count:
                raise ValueError(f"{name}: expected {count} numbers (one per layer), got {array.size}")
            above = np.append(array[1:], np.nan)
            values |= {f"{name}_here": array[:, None], f"{name}_above": above[:, None], f"{name}_last": array[-1]}
        return values

    def _profile(self, charges: NDArray[np.float64], values: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Logarithms of the order parameter at layers 0..L (rows) for each charge (columns)."""
        layers = np.arange(1.0, float(values["L"]) + 1)[:, None]
        charge = {str(self.reduction.charge): charges[None, :]}
        growth = np.broadcast_to(self._growth(l=layers, **charge, **values), (layers.size, charges.size))
        start = float(self.reduction.order_parameter[0])
        return np.log(start) + np.vstack([np.zeros((1, charges.size)), np.cumsum(np.log(growth), axis=0)])

    def _along_chain(
        self, charges: NDArray[np.float64], values: dict
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        last = self._profile(charges, values)[-1]
        force = self._force(q_last=np.exp(last), **{str(self.reduction.charge): charges}, **values)
        return np.broadcast_to(force, charges.shape), last

    def _solution(self, charge: float, stable_: bool, values: dict, count: int) -> ChainSolution:
        overlaps = np.exp(self._profile(np.array([charge]), values)[:, 0])
        here = {"l": np.arange(1.0, count + 1)[:, None], "q_here": overlaps[1:, None], "q_below": overlaps[:-1, None]}
        point = values | here | {"q_last": overlaps[-1], str(self.reduction.charge): charge}
        shape = (count, 1)
        duals = np.broadcast_to(self._compile(self.reduction.conjugate)(**point), shape)
        bulk = np.broadcast_to(self._compile(self.reduction.saddle.action.bulk)(dual_here=duals, **point), shape)
        readout = self._compile(self.reduction.saddle.action.readout)(**point)
        return ChainSolution(
            charge=charge,
            overlaps=overlaps,
            conjugates=duals[:, 0].copy(),
            action=float(np.sum(bulk) + readout),
            stable=stable_,
            residual=self._residual(overlaps, duals, point),
        )

    def _residual(self, overlaps: NDArray[np.float64], duals: NDArray[np.float64], point: dict) -> float:
        """Every stationarity condition relative to its largest term."""
        saddle = self.reduction.saddle
        up = {"dual_here": duals, "dual_above": np.append(duals[1:], [[np.nan]], axis=0)}
        up |= {"q_above": np.append(overlaps[2:], np.nan)[:, None], "dual_last": duals[-1, 0]}
        worst = 0.0
        q, conjugate = self.reduction.order_parameter, saddle.action.conjugates[0]
        # The conjugates' conditions hold at every layer, the order parameters' in the interior and, apart, at the last one.
        for condition, rows in ((saddle.interior[conjugate], None), (saddle.interior[q], -1), (saddle.last[q], 1)):
            terms = [
                np.broadcast_to(self._compile(t)(**point, **up), duals.shape)[:rows]
                for t in sp.Add.make_args(sp.expand(condition))
            ]
            total, size = np.abs(np.sum(terms, axis=0)), np.max(np.abs(terms), axis=0)
            if total.size:
                worst = max(worst, float(np.max(np.divide(total, size, out=np.zeros_like(total), where=size > 0))))
        return worst
