"""The published route to rich solutions: start from the NNGP, raise chi step by step and re-solve tree level nearby.

With two or more hidden layers several solutions coexist. Ascending from the previous one follows the branch of small Q up
to its spinodal, long after another has become the maximum of the posterior: the end of the path may be metastable, and the
path says so. `solve_width` compares all branches instead, and its exact method has no branches at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width.average import Method
from linkern.bayes.width.exact import solve_width
from linkern.bayes.width.saddles import WidthBranch
from linkern.bayes.width.solution import WidthSolution
from linkern.checks import integer_at_least, positive

__all__ = ["AnnealingPath", "anneal_width"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnnealingPath:
    """What annealing finds, and how much better the global solution is.

    Attributes
    ----------
    chi : (n,) array
        From 1 (or from the target, if that is smaller) to the target.
    log_q : (n,) array
        ln Q of the branch that is followed.
    deficit : (n,) array
        Exponent of the best branch minus that of the followed one: 0 where annealing is right, and a posterior weight of
        about exp(-deficit) where it is not.
    solution : WidthSolution
        At the end of the path; `solution.metastable` tells whether its branch is the global one.
    """

    chi: Floats
    log_q: Floats
    deficit: Floats
    solution: WidthSolution = field(repr=False)

    @property
    def metastable(self) -> bool:
        """Whether the path ends on a branch that is not the global one."""
        return self.solution.metastable

    @property
    def message(self) -> str:
        """A sentence on how far to trust the end of the path."""
        if not self.metastable:
            return "the annealed branch is the global maximum of the tree-level posterior"
        return (
            f"the annealed branch is metastable: another tree-level branch has a posterior weight larger by a factor of about "
            f"exp({self.deficit[-1]:.4g}); use branch='global' or method='exact'"
        )


def anneal_width(
    spectrum: Spectrum,
    *,
    depth: int,
    width: int | list[int],
    chi: float,
    ridge: float,
    readout_variance: float = 1.0,
    prior_variances: float | list[float] = 1.0,
    method: Method = "tree",
    steps: int = 40,
) -> AnnealingPath:
    """Follow the tree-level solution from chi = 1 to `chi` at fixed ridge * chi.

    Parameters
    ----------
    spectrum, depth, width, chi, ridge, readout_variance, prior_variances
        The problem at the end of the path, as in `solve_width`.
    method : {"tree", "one-loop"}
        What to evaluate at the end.
    steps : int
        Number of values of chi, spaced geometrically.

    Notes
    -----
    Each step ascends the exponent from the previous solution: to the next stationary point above if it rises there, to the
    one below if it falls. Cost: one search for all branches per step.
    """
    if method not in ("tree", "one-loop"):
        raise ValueError(f"method: expected 'tree' or 'one-loop', got {method!r}")
    chi, ridge = positive("chi", chi), positive("ridge", ridge)
    path = np.geomspace(min(1.0, chi), chi, integer_at_least("steps", steps, 2))
    log_q, deficit, here = [], [], 0.0

    def solve(value: float, chosen: Method, branch: str | int) -> WidthSolution:
        return solve_width(
            spectrum=spectrum,
            depth=depth,
            width=width,
            chi=value,
            ridge=ridge * chi / value,
            readout_variance=readout_variance,
            prior_variances=prior_variances,
            method=chosen,
            branch=branch,
        )

    index = 0
    for value in path:
        branches = solve(float(value), "tree", "global").branches
        index = _ascend(branches, here)
        here = branches[index].log_q
        log_q.append(here)
        deficit.append(max(b.exponent for b in branches if b.stable) - branches[index].exponent)
    return AnnealingPath(path, np.array(log_q), np.array(deficit), solve(float(path[-1]), method, index))


def _ascend(branches: tuple[WidthBranch, ...], start: float) -> int:
    """The maximum in whose basin `start` lies: minima of the exponent are the borders."""
    stable = [index for index, branch in enumerate(branches) if branch.stable]
    borders = [branch.log_q for branch in branches if not branch.stable]
    return stable[min(sum(start > border for border in borders), len(stable) - 1)]
