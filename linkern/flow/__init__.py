"""Gradient flow of wide networks: width to infinity, then training."""

from linkern.flow.collapse import collapse_lines
from linkern.flow.comparators import gradient_independence, static_ntk
from linkern.flow.dynamics import march
from linkern.flow.limit import gradient_flow
from linkern.flow.linear import solve_fixed_point
from linkern.flow.montecarlo import march_montecarlo
from linkern.flow.outputs import solve_fixed_point_outputs
from linkern.flow.perturbation import leading_perturbation

__all__ = [
    "collapse_lines",
    "gradient_flow",
    "gradient_independence",
    "leading_perturbation",
    "march",
    "march_montecarlo",
    "solve_fixed_point",
    "solve_fixed_point_outputs",
    "static_ntk",
]
