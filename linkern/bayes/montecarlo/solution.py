"""What the sampled solver returns: kernels with standard errors, the populations behind them, and reasons to doubt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.montecarlo.anneal import Rung
from linkern.bayes.montecarlo.lobes import LobeCheck
from linkern.bayes.montecarlo.observables.sampled import SampledSolution

__all__ = ["MonteCarloSolution"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MonteCarloSolution(SampledSolution):
    """The adaptive kernels of every layer, sampled.

    Attributes
    ----------
    kernel_errors : (L,) array
        Standard error of Phi^1, .., Phi^L relative to the kernel, in Frobenius norm; the tolerance bounds the largest.
    effective_fraction : float
        Effective fraction of the pooled particles, smallest over layers; of networks, of the weights that carry the kernels.
    pareto_k : float
        Shape of the tail of the final weights, -inf where no single one matters; above 0.7 averages are not to be trusted.
    identity : float
        Activations of degree one: relative spread over layers of Tr(Phi^l hatPhi^l), equal by rescaling symmetry. Else nan.
    lobes : tuple of LobeCheck
        Activations of degree one: per layer, the strength of the tilt by importance sampling, which for particles is a check
        from scratch that looks for rare, strongly active neurons.
    acceptance : tuple of float
        Per layer: of particles in their last move, by strength of the tilt; of networks the mean, all layers moving at once;
        empty for independent samples.
    snapshots, particles : int
        Size of the final average: snapshots of a population of that many particles per layer, of that many neurons over all
        wide networks (of which `sample` keeps some 130 000), or one set of independent samples.
    samples_needed : int or None
        Particles x snapshots that the tolerance would take, where the budget did not allow them; None, too, if no time would do.
    reasons : tuple of str
        Why the status is not CONVERGED.
    path : tuple of Rung
        The ladder from weak to strong feature learning.

    `residual` is that of the saddle-point equations averaged over the final particles; of networks, that of their extrapolated
    error signals with the extrapolated kernel, which has the order of what the widths leave.
    """

    kernel_errors: NDArray[np.float64]
    effective_fraction: float
    pareto_k: float
    identity: float
    lobes: tuple[LobeCheck, ...]
    acceptance: tuple[float, ...]
    snapshots: int
    particles: int
    samples_needed: int | None
    reasons: tuple[str, ...]
    path: tuple[Rung, ...] = field(repr=False)

    def _record(self) -> dict[str, Any]:
        return {**super()._record(), "reasons": list(self.reasons)}
