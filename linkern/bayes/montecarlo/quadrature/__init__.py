"""The saddle point on at most three points, by integration: the reference for every sampled solution."""

from linkern.bayes.montecarlo.quadrature.solve import QuadratureSolution, solve_quadrature

__all__ = ["QuadratureSolution", "solve_quadrature"]
