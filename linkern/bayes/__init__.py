"""The posterior of wide networks whose kernels adapt: Langevin dynamics run to equilibrium, then width to infinity."""

from linkern.bayes.linear import solve_linear, solve_whitened
from linkern.bayes.phase import phase_diagram
from linkern.bayes.spectrum import Spectrum

__all__ = ["Spectrum", "phase_diagram", "solve_linear", "solve_whitened"]
