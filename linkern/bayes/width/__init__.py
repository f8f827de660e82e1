"""Deep linear networks at every width: the exact posterior as a one-dimensional integral, and the expansions around it."""

from linkern.bayes.width.annealing import anneal_width
from linkern.bayes.width.exact import solve_width, solve_width_grid, solve_width_mean_field
from linkern.bayes.width.nonlinear import NeuronEnsemble, solve_width_nonlinear
from linkern.bayes.width.nonlinear_sampled import solve_width_nonlinear_sampled
from linkern.bayes.width.one_loop import solve_self_consistent
from linkern.bayes.width.outputs import solve_width_outputs
from linkern.bayes.width.solution import WidthSolution

__all__ = [
    "NeuronEnsemble",
    "WidthSolution",
    "anneal_width",
    "solve_self_consistent",
    "solve_width",
    "solve_width_grid",
    "solve_width_mean_field",
    "solve_width_nonlinear",
    "solve_width_nonlinear_sampled",
    "solve_width_outputs",
]
