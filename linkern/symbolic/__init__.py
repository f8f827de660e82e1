"""The symbolic half: actions of symbolic depth, their saddle points, invariants, series, claims and generated code."""

from linkern.symbolic.action import Action
from linkern.symbolic.claims import Claim, Kind, Outcome, Step, Verdict, claim, equal, holds, tends_to, vanishes
from linkern.symbolic.emit import NumPyFunction, render_module, stable
from linkern.symbolic.invariants import find_invariants, layer_drift
from linkern.symbolic.layers import Layered, depth, layer
from linkern.symbolic.reduction import ScalarReduction, reduce_to_scalar
from linkern.symbolic.saddle import NotSolvableError, SaddlePoint
from linkern.symbolic.series import (
    binomial_power_coefficient,
    implicit_series,
    lagrange_coefficient,
    lagrange_general_term,
)
from linkern.symbolic.solver import ChainSolution, ChainSolver

__all__ = [
    "Action",
    "ChainSolution",
    "ChainSolver",
    "Claim",
    "Kind",
    "Layered",
    "NotSolvableError",
    "NumPyFunction",
    "Outcome",
    "SaddlePoint",
    "ScalarReduction",
    "Step",
    "Verdict",
    "binomial_power_coefficient",
    "claim",
    "depth",
    "equal",
    "find_invariants",
    "holds",
    "implicit_series",
    "lagrange_coefficient",
    "lagrange_general_term",
    "layer",
    "layer_drift",
    "reduce_to_scalar",
    "render_module",
    "stable",
    "tends_to",
    "vanishes",
]
