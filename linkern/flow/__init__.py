"""Gradient flow of wide networks: width to infinity, then training."""

from linkern.flow.collapse import collapse_lines
from linkern.flow.comparators import gradient_independence, static_ntk
from linkern.flow.dynamics import march
from linkern.flow.limit import gradient_flow
from linkern.flow.linear import solve_fixed_point
from linkern.flow.montecarlo import march_montecarlo
from linkern.flow.outputs import solve_fixed_point_outputs
from linkern.flow.perturbation import leading_perturbation
from linkern.flow.relaxation import relax
from linkern.flow.second_order import second_perturbation
from linkern.flow.two_layer import solve_two_layer_whitened

__all__ = [
    "collapse_lines",
    "gradient_flow",
    "gradient_independence",
    "leading_perturbation",
    "march",
    "march_montecarlo",
    "relax",
    "second_perturbation",
    "solve_fixed_point",
    "solve_fixed_point_outputs",
    "solve_two_layer_whitened",
    "static_ntk",
]
