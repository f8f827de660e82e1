"""The posterior of wide networks whose kernels adapt: Langevin dynamics run to equilibrium, then width to infinity."""

from linkern.bayes.linear import LinearSolution, solve_linear, solve_whitened
from linkern.bayes.montecarlo import (
    MonteCarloSolution,
    QuadratureSolution,
    compare_predictors,
    solve_montecarlo,
    solve_quadrature,
    sweep_montecarlo,
)
from linkern.bayes.perturbation import PerturbativeSolution, solve_perturbation
from linkern.bayes.phase import phase_diagram
from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width import (
    WidthSolution,
    anneal_width,
    solve_self_consistent,
    solve_width,
    solve_width_grid,
    solve_width_mean_field,
    solve_width_nonlinear,
    solve_width_nonlinear_sampled,
    solve_width_outputs,
)

__all__ = [
    "LinearSolution",
    "MonteCarloSolution",
    "PerturbativeSolution",
    "QuadratureSolution",
    "Spectrum",
    "WidthSolution",
    "anneal_width",
    "compare_predictors",
    "phase_diagram",
    "solve_linear",
    "solve_montecarlo",
    "solve_perturbation",
    "solve_quadrature",
    "solve_self_consistent",
    "solve_whitened",
    "solve_width",
    "solve_width_grid",
    "solve_width_mean_field",
    "solve_width_nonlinear",
    "solve_width_nonlinear_sampled",
    "solve_width_outputs",
    "sweep_montecarlo",
]
