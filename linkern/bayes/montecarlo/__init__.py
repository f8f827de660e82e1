"""Nonlinear networks of infinite width in the Bayesian ensemble: adaptive kernels, by sampling neurons or by quadrature."""

from linkern.bayes.montecarlo.observables.compare import compare_predictors
from linkern.bayes.montecarlo.quadrature.solve import QuadratureSolution, solve_quadrature
from linkern.bayes.montecarlo.solution import MonteCarloSolution
from linkern.bayes.montecarlo.solver import solve_montecarlo
from linkern.bayes.montecarlo.sweep import sweep_montecarlo

__all__ = [
    "MonteCarloSolution",
    "QuadratureSolution",
    "compare_predictors",
    "solve_montecarlo",
    "solve_quadrature",
    "sweep_montecarlo",
]
