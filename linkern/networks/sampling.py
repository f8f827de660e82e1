"""Sample the posterior of a finite network and report kernels, overlaps and predictions with error bars.

Unlike everything else in the package nothing here knows the theory: weights are drawn, kernels are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from linkern import checks
from linkern.activations import ActivationLike
from linkern.networks.hmc import HamiltonianSampler
from linkern.networks.langevin import LangevinSampler
from linkern.networks.mlp import MLP
from linkern.networks.observables import Recorder
from linkern.networks.results import PosteriorSamples, Progress, collect
from linkern.networks.target import Posterior

__all__ = ["sample_posterior"]

Array = NDArray[np.float64]
Sampler = HamiltonianSampler | LangevinSampler

_DEFAULT_BURN_IN = 150
_LONGEST_DESCENT = 60
_LANGEVIN_BURN_IN_TIME = 10.0
_LANGEVIN_THINNING_TIME = 0.2


def sample_posterior(
    X: ArrayLike,
    y: ArrayLike,
    *,
    depth: int,
    width: int | Sequence[int],
    gamma0: float,
    beta: float,
    activation: ActivationLike = "linear",
    prior_variances: ArrayLike = 1.0,
    integrator: str = "hmc",
    step: float | None = None,
    burn_in: int | None = None,
    samples: int = 500,
    thin: int | None = None,
    chains: int = 4,
    dtype: DTypeLike = np.float64,
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
    X_test: ArrayLike | None = None,
    start: Sequence[ArrayLike] | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> PosteriorSamples:
    """Sample p(W) ~ exp(-(beta gamma0^2 N/2) sum (f - y)^2 - sum_l |W^l|^2/(2 g_l)) of a network of finite width.

    Parameters
    ----------
    X : array (P, D)
    y : array (P,)
        Labels, not all zero.
    depth, width, gamma0, activation, prior_variances, dtype
        The network, see `MLP`; N is the last hidden width. float32 halves the time and memory of wide networks;
        energies, kernels and averages are accumulated in float64 either way.
    beta : float
        Inverse temperature, finite; 0 samples the prior.
    integrator : {"hmc", "langevin"}
        "hmc": Metropolis-corrected, exact at every width; one update is one trajectory. "langevin": one update is one
        overdamped step, biased by the step; several hundred updates may be needed for one independent sample.
    step : float, optional
        Rotation angle (hmc) or h (langevin); by default adapted during burn-in, see the samplers.
    burn_in : int, optional
        Updates that are thrown away. Default: 150 trajectories (hmc, of which the first 60 descend from the prior) or
        as many steps as make ten relaxation times of the prior (langevin).
    samples : int
        Kept samples per chain, at least 4.
    thin : int, optional
        Updates per kept sample. Default: 1 (hmc) or 0.2 relaxation times of the prior (langevin).
    chains : int
        Independent chains, run side by side.
    rng : seed or Generator
    X_test : array (P_test, D), optional
    start : sequence of L + 1 arrays (chains, rows, columns), optional
        Start here instead of at a prior draw: `final_weights` of an earlier run.
    callback : callable, optional
        Called with a `Progress` after every burn-in update and every kept sample.

    Returns
    -------
    PosteriorSamples

    Raises
    ------
    ConvergenceError
        The Langevin step is unstable.

    Notes
    -----
    Where the posterior has several phases separated by a barrier (first-order transitions exist for L >= 2), each chain
    stays in the phase it falls into from its start; R-hat sees it only if the chains differ.

    Memory: per chain, 3 (hmc) or 1 (langevin) copies of the sum_l N_l N_{l-1} weights plus at most 32 L P^2 float64 of
    kernel means. Time per forward-backward pass: 4 P flops per weight, bound by memory traffic when P is small.
    """
    X_train = checks.real_array("X", X, ndim=2)
    labels = _labels(y, X_train.shape[0])
    X_new = _test_inputs(X_test, X_train.shape[1])
    beta = checks.nonnegative("beta", beta)
    samples = checks.integer_at_least("samples", samples, 4)
    chains = checks.integer_at_least("chains", chains)
    generator = checks.random_generator(rng)
    mlp = MLP(
        X_train.shape[1],
        depth=depth,
        width=width,
        gamma0=gamma0,
        activation=activation,
        prior_variances=prior_variances,
        dtype=dtype,
    )
    target = Posterior(mlp, X_train, labels, beta)
    weights = mlp.draw_prior(generator, chains) if start is None else _given_start(start, mlp, chains)
    burn_in = None if burn_in is None else checks.integer_at_least("burn_in", burn_in, 0)
    descent = 0 if start is not None else _descent(burn_in)
    sampler = _sampler(integrator, target, weights, generator, step, descent)
    burned = _burn_in(sampler, burn_in, callback)
    thin = _thinning(sampler, thin)
    recorder = Recorder(target, chains, samples, X_new)
    acceptance = _run(sampler, recorder, samples, thin, callback)
    parameters = {
        "depth": mlp.depth,
        "widths": mlp.widths,
        "gamma0": mlp.gamma0,
        "beta": beta,
        "activation": mlp.activation.name,
        "prior_variances": mlp.prior_variances.tolist(),
        "integrator": integrator,
        "burn_in": burned,
        "samples": samples,
        "thin": thin,
        "chains": chains,
        "dtype": mlp.dtype.name,
        "seed": int(rng) if isinstance(rng, Integral) else None,
    }
    return collect(sampler, recorder, acceptance, parameters)


def _sampler(
    integrator: str,
    target: Posterior,
    weights: list[NDArray[np.floating]],
    rng: np.random.Generator,
    step: float | None,
    descent: int,
) -> Sampler:
    if step is not None:
        step = checks.positive("step", step)
    if integrator == "hmc":
        if step is not None and step >= math.pi:
            raise ValueError(f"step: expected a rotation angle below pi, got {step!r}")
        return HamiltonianSampler(target, weights, rng, step=step, descent=descent)
    if integrator == "langevin":
        return LangevinSampler(target, weights, rng, step=step)
    raise ValueError(f"integrator: expected 'hmc' or 'langevin', got {integrator!r}")


def _descent(burn_in: int | None) -> int:
    """Updates of the descent from the prior: most of its work is done by 60, and adapting the step needs as many again."""
    return min(_LONGEST_DESCENT, 2 * (_DEFAULT_BURN_IN if burn_in is None else burn_in) // 5)


def _burn_in(sampler: Sampler, burn_in: int | None, callback: Callable[[Progress], None] | None) -> int:
    """Run burn-in and return its number of updates."""
    timed = burn_in is None and isinstance(sampler, LangevinSampler)
    total = _DEFAULT_BURN_IN if burn_in is None else burn_in
    done, elapsed = 0, 0.0
    while elapsed < _LANGEVIN_BURN_IN_TIME if timed else done < total:
        sampler.burn_in_update()
        done += 1
        elapsed += sampler.step
        if callback is not None:
            # With a given time rather than a given number the total is a forecast.
            forecast = done + math.ceil((_LANGEVIN_BURN_IN_TIME - elapsed) / sampler.step) if timed else total
            callback(Progress("burn-in", done, max(done, forecast), sampler.step, None))
    sampler.freeze()
    return done


def _thinning(sampler: Sampler, thin: int | None) -> int:
    if thin is not None:
        return checks.integer_at_least("thin", thin)
    return max(1, round(_LANGEVIN_THINNING_TIME / sampler.step)) if isinstance(sampler, LangevinSampler) else 1


def _run(sampler: Sampler, recorder: Recorder, samples: int, thin: int, callback: Callable[[Progress], None] | None) -> Array:
    """Fill `recorder`; return the mean acceptance of every chain."""
    acceptance = np.zeros(recorder.overlaps.shape[0])
    for index in range(samples):
        for _ in range(thin):
            acceptance += sampler.update()
        recorder.record(index, sampler.weights)
        if callback is not None:
            overlaps = recorder.overlaps[:, index].copy()
            callback(Progress("sampling", (index + 1) * thin, samples * thin, sampler.step, overlaps))
    return acceptance / (samples * thin)


def _labels(y: ArrayLike, points: int) -> Array:
    labels = checks.real_array("y", y, ndim=1)
    if labels.size != points:
        raise ValueError(f"y: expected {points} labels (one per row of X), got {labels.size}")
    if not labels.any():
        raise ValueError("y: expected at least one label that is not zero (overlaps with y are undefined), got zeros")
    return labels


def _test_inputs(X_test: ArrayLike | None, inputs: int) -> Array | None:
    if X_test is None:
        return None
    array = checks.real_array("X_test", X_test, ndim=2)
    if array.shape[1] != inputs:
        raise ValueError(f"X_test: expected {inputs} columns as in X, got shape {array.shape}")
    return array


def _given_start(start: Sequence[ArrayLike], mlp: MLP, chains: int) -> list[NDArray[np.floating]]:
    expected = [(chains, *shape) for shape in mlp.shapes]
    if not isinstance(start, Sequence):
        raise TypeError(f"start: expected a sequence of {len(expected)} arrays, got {start!r}")
    arrays = [checks.real_array(f"start[{l}]", W, ndim=3) for l, W in enumerate(start)]
    if [W.shape for W in arrays] != expected:
        raise ValueError(f"start: expected arrays of shapes {expected}, got {[W.shape for W in arrays]}")
    # A copy: chains update their weights in place.
    return [np.array(W, dtype=mlp.dtype, order="C") for W in arrays]
