"""What a sampling run returns, and every reason not to trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.networks.diagnostics import ChainSummary, summarize
from linkern.networks.hmc import HamiltonianSampler
from linkern.networks.langevin import LangevinSampler
from linkern.networks.observables import Recorder
from linkern.solution import Solution, Status

__all__ = ["Estimate", "PosteriorSamples", "Progress", "collect"]

Array = NDArray[np.float64]

_LOWEST_ACCEPTANCE = 0.3
_LARGEST_VIRIAL_DEVIATION = 5.0
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A posterior mean and its standard error, arrays of one shape."""

    mean: Array
    standard_error: Array


@dataclass(frozen=True)
class Progress:
    """What a callback sees: `done` of `total` updates in `phase` "burn-in" or "sampling", and the overlaps y^T Phi^l y/|y|^2
    of the sample just kept, (chains, L) (None during burn-in)."""

    phase: str
    done: int
    total: int
    step: float
    overlaps: Array | None


@dataclass(frozen=True, kw_only=True, repr=False)
class PosteriorSamples(Solution):
    """Posterior averages of a finite network.

    `residual` is the largest violation, over layers, of the virial identity <|W^l|^2/g_l + W^l.dV/dW^l> = number of
    entries of W^l, per entry; the exact posterior has 0 at every width, so its standard error is its scale. `status`
    is CONVERGED or UNRELIABLE, and `reasons` says why.

    Attributes
    ----------
    kernels : Estimate, (L, P, P)
        Phi^l = phi(h^l) phi(h^l)^T / N_l at the training inputs.
    overlaps : ChainSummary, (L,)
        y^T Phi^l y / |y|^2, with autocorrelation times in kept samples, effective sample sizes and split R-hat.
    overlap_traces : array (chains, samples, L)
        The overlaps of every kept sample: their spread is the network's own fluctuation, of order N^{-1/2}.
    train, test : Estimate, (P,) and (P_test,)
        f at the training and test inputs (`test` is None without test inputs).
    train_variance, test_variance : arrays
        Posterior variance of f.
    energy : ChainSummary, ()
        (beta gamma0^2 N/2) sum (f - y)^2.
    virial : Estimate, (L + 1,)
        The identity behind `residual`, layer by layer.
    acceptance : array (chains,)
        Mean Metropolis acceptance after burn-in (1 for the Langevin integrator).
    step : float
        h or the rotation angle, as frozen after burn-in.
    stiffness : float
        Largest beta gamma0^2 N lambda_max(J J^T) among 32 of the kept samples.
    passes : int
        Forward-backward passes of the whole run.
    reasons : tuple of str
        Why the status is UNRELIABLE; empty otherwise.
    final_weights : tuple of arrays (chains, rows, columns)
        Last state, in units of the prior standard deviation; `start=` of a run that continues this one.
    """

    kernels: Estimate
    overlaps: ChainSummary
    overlap_traces: Array
    train: Estimate
    test: Estimate | None
    train_variance: Array
    test_variance: Array | None
    energy: ChainSummary
    virial: Estimate
    acceptance: Array
    step: float
    stiffness: float
    passes: int
    reasons: tuple[str, ...]
    final_weights: tuple[NDArray[np.floating], ...]

    def __repr__(self) -> str:
        network = ", ".join(f"{name}={self.parameters[name]}" for name in ("widths", "gamma0", "beta", "activation"))
        pairs = zip(self.overlaps.mean, self.overlaps.standard_error, strict=True)
        overlaps = ", ".join(f"{mean:.4g} +- {error:.2g}" for mean, error in pairs)
        lines = [f"PosteriorSamples({network}): {self.status.name}", f"overlaps {overlaps}", *self.reasons]
        return "\n  ".join(lines)


def collect(
    sampler: HamiltonianSampler | LangevinSampler, recorder: Recorder, acceptance: Array, parameters: Mapping[str, Any]
) -> PosteriorSamples:
    """Turn what `recorder` saw into means, errors and a verdict."""
    points = sampler.target.y.size
    kernels, outputs = summarize(recorder.kernels.series), summarize(recorder.outputs.series)
    mean, error = recorder.outputs.mean, outputs.standard_error
    variance = np.maximum(recorder.squares.mean - np.square(mean), 0.0)
    virial, overlaps, energy = summarize(recorder.virial), summarize(recorder.overlaps), summarize(recorder.energies)
    reasons = _doubts(sampler, recorder, overlaps, energy, virial, acceptance)
    tested = mean.size > points
    return PosteriorSamples(
        parameters=parameters,
        residual=float(np.abs(virial.mean).max()),
        status=Status.UNRELIABLE if reasons else Status.CONVERGED,
        kernels=Estimate(recorder.kernels.mean, kernels.standard_error),
        overlaps=overlaps,
        overlap_traces=recorder.overlaps,
        train=Estimate(mean[:points], error[:points]),
        test=Estimate(mean[points:], error[points:]) if tested else None,
        train_variance=variance[:points],
        test_variance=variance[points:] if tested else None,
        energy=energy,
        virial=Estimate(virial.mean, virial.standard_error),
        acceptance=acceptance,
        step=sampler.step,
        stiffness=recorder.stiffness,
        passes=sampler.passes,
        reasons=reasons,
        final_weights=tuple(sampler.weights),
    )


def _doubts(
    sampler: HamiltonianSampler | LangevinSampler,
    recorder: Recorder,
    overlaps: ChainSummary,
    energy: ChainSummary,
    virial: ChainSummary,
    acceptance: Array,
) -> tuple[str, ...]:
    """Return every reason not to trust the averages."""
    reasons = []
    for name, summary in (("overlaps", overlaps), ("energy", energy)):
        if not np.all(summary.reliable):
            reasons.append(
                f"{name}: effective sample size {np.min(summary.effective_sample_size):.3g}, longest autocorrelation "
                f"time {np.max(summary.autocorrelation_time):.3g} of {recorder.energies.shape[1]} samples per chain, "
                f"largest R-hat {np.max(summary.split_rhat):.3g}: increase samples, thin or burn_in"
            )
    violated = np.flatnonzero(np.abs(virial.mean) > _LARGEST_VIRIAL_DEVIATION * virial.standard_error + _ROUNDING)
    if violated.size:
        l = int(violated[0])
        reasons.append(
            f"virial identity of weight layer {l} violated, {virial.mean[l]:.3g} +- {virial.standard_error[l]:.2g}: "
            "increase burn_in or, for the Langevin integrator, decrease step"
        )
    if acceptance.min() < _LOWEST_ACCEPTANCE:
        reasons.append(f"acceptance of a chain is {acceptance.min():.3g}: decrease step or increase burn_in")
    if isinstance(sampler, LangevinSampler) and -math.expm1(-sampler.step) * (1.0 + recorder.stiffness) > 1.0:
        reasons.append(
            f"Langevin step {sampler.step:.3g} is beyond half its stability bound at stiffness "
            f"{recorder.stiffness:.3g}: decrease step"
        )
    return tuple(reasons)
