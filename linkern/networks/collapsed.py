"""Sample the posterior of a finite network in its preactivations, every weight integrated out exactly.

The target of `collapsed_target` is sampled by the trajectories of `hmc`: its prior is Gaussian as the weights' is, with N P
instead of N^2 dimensions per layer. The readout and the weights towards new inputs enter through their conditional means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import activations, checks
from linkern.activations import ActivationLike
from linkern.networks.collapsed_observables import Predictor, Recorder
from linkern.networks.collapsed_sampler import CollapsedSampler
from linkern.networks.collapsed_target import CollapsedPosterior, Root, symmetric_root
from linkern.networks.diagnostics import ChainSummary, summarize
from linkern.networks.results import Estimate
from linkern.numerics.threads import blas_in_one_thread
from linkern.solution import Solution, Status

__all__ = ["CollapsedSamples", "sample_collapsed"]

Array = NDArray[np.float64]

_LOWEST_ACCEPTANCE = 0.3
_LARGEST_VIRIAL_DEVIATION = 5.0
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class CollapsedSamples(Solution):
    """Posterior averages of a finite network.

    `residual` is the largest violation, over layers, of the virial identity <|eps^l|^2 + eps^l . dV/deps^l> = number of
    entries of eps^l, per entry; the exact posterior has 0 at every width, so its standard error is its scale. `status`
    is CONVERGED or UNRELIABLE, and `reasons` says why.

    Attributes
    ----------
    kernels : Estimate, (L, P, P)
        Phi^l = phi(h^l)^T phi(h^l) / N_l at the training inputs.
    overlaps : ChainSummary, (L,)
        Tr(Y^T Phi^l Y) / |Y|^2, with effective sample sizes and split R-hat.
    alignment : ChainSummary, (L,)
        Tr(Y^T Phi^l Y) / (|Phi^l|_F |Y^T Y|_F) of every sample, averaged.
    overlap_traces : array (chains, samples, L)
    train, test : Estimate, (P,) or (P, O), and the same at the test inputs
        f, averaged over the readout analytically (`test` is None without test inputs).
    train_variance, test_variance : arrays, shaped like the means
        Posterior variance of f, the readout's share included.
    energy : ChainSummary, ()
        (gamma0^2 N/2) Tr(Y^T v) + (O/2) ln det M.
    virial : Estimate, (L,)
    acceptance : array (chains,)
        Mean acceptance probability after burn-in.
    step : float
        Rotation angle between two kicks, as frozen after burn-in.
    passes : int
        Forward-backward passes of the whole run.
    reasons : tuple of str
    """

    kernels: Estimate
    overlaps: ChainSummary
    alignment: ChainSummary
    overlap_traces: Array
    train: Estimate
    test: Estimate | None
    train_variance: Array
    test_variance: Array | None
    energy: ChainSummary
    virial: Estimate
    acceptance: Array
    step: float
    passes: int
    reasons: tuple[str, ...]


def sample_collapsed(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    depth: int,
    width: int | Sequence[int],
    gamma0: float,
    beta: float,
    activation: ActivationLike,
    prior_variances: ArrayLike = 1.0,
    samples: int = 200,
    chains: int = 8,
    burn_in: int = 100,
    step: float | None = None,
    X_test: ArrayLike | None = None,
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
) -> CollapsedSamples:
    """Sample p(W) ~ exp(-(beta gamma0^2 N/2) sum (f - y)^2 - sum_l |W^l|^2/(2 g_l)) without ever holding a weight.

    Parameters
    ----------
    X : (P, D) array
        Inputs; or, in their place, `kernel`.
    y : (P,) or (P, O) array
        Labels, not all zero.
    kernel : (P, P) array
        C = X X^T / D.
    depth, width, gamma0, activation, prior_variances
        The network, as in `sample_posterior`: g_0..g_L of W^0, .., W^{L-1}, w; N is the last hidden width.
    beta : float
        Inverse temperature, > 0 and finite.
    samples : int
        Trajectories kept per chain, at least 4.
    chains : int
    burn_in : int
        Trajectories thrown away; with step=None they also adapt the step to an acceptance near 0.8.
    step : float, optional
        Rotation angle between two kicks, below pi.
    X_test : (m, D) array, optional
        New inputs, with X. Their preactivations are drawn from their conditional given those of the training inputs.
    rng : seed or Generator

    Returns
    -------
    CollapsedSamples

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Cost per pass and chain O(L (N P^2 + P^3)), memory O(chains L N P): no term grows like N^2. Use it for P below N, and
    `sample_posterior` otherwise. Autocorrelation times, digits, L = 2, N = 128, tanh: 1 trajectory of 3 ms at P = 20,
    beta = 5; 16 trajectories of 27 ms at P = 50, beta = 50. Kinks shorten the step: ReLU costs about twice as much.
    """
    inputs, C = _data_kernel(X, kernel)
    points = C.shape[0]
    labels = _labels(y, points)
    new = _test_inputs(X_test, inputs)
    depth = checks.integer_at_least("depth", depth)
    samples = checks.integer_at_least("samples", samples, 4)
    chains = checks.integer_at_least("chains", chains)
    burn_in = checks.integer_at_least("burn_in", burn_in, 0)
    generator = checks.random_generator(rng)
    data_root = _data_root(C)
    meaning = "one per weight matrix: the hidden layers' and the readout's"
    target = CollapsedPosterior(
        data_root.matrix,
        labels.reshape(points, -1),
        widths=_widths(width, depth),
        gamma0=checks.positive("gamma0", gamma0),
        beta=checks.positive("beta", beta),
        activation=activations.get(activation),
        prior_variances=checks.per_layer("prior_variances", prior_variances, depth + 1, meaning),
    )
    with blas_in_one_thread():
        sampler = CollapsedSampler(target, target.prior_draws(chains, generator), generator, _step(step))
        for done in range(burn_in):
            sampler.burn_in_step(early=2 * done < burn_in)
        sampler.freeze()
        predictor = None if inputs is None or new is None else Predictor(target, data_root, inputs, new, generator)
        recorder = Recorder(target, predictor, chains, samples)
        acceptance = np.zeros(chains)
        for index in range(samples):
            acceptance += sampler.update()
            recorder.record(index, sampler.weights)
    parameters = {
        "depth": depth,
        "widths": target.widths,
        "gamma0": target.gamma0,
        "beta": target.beta,
        "activation": target.activation.name,
        "prior_variances": target.prior_variances.tolist(),
        "samples": samples,
        "chains": chains,
        "burn_in": burn_in,
        "seed": int(rng) if isinstance(rng, Integral) else None,
    }
    return _collect(sampler, recorder, acceptance / samples, parameters, labels.shape)


def _collect(
    sampler: CollapsedSampler, recorder: Recorder, acceptance: Array, parameters: dict[str, object], shape: tuple[int, ...]
) -> CollapsedSamples:
    """Turn what `recorder` saw into means, errors and a verdict."""
    overlaps, energy, virial = summarize(recorder.overlaps), summarize(recorder.energies), summarize(recorder.virial)
    mean, variance = recorder.outputs.mean, recorder.variances.mean + recorder.squares.mean
    variance = np.maximum(variance - np.square(mean), 0.0)
    error = summarize(recorder.outputs.series).standard_error
    points, tested = shape[0], mean.shape[0] > shape[0]

    def train(values: Array) -> Array:
        return values[:points].reshape(shape)

    def test(values: Array) -> Array:
        return values[points:].reshape(-1, *shape[1:])

    reasons = _doubts(overlaps, energy, virial, acceptance)
    return CollapsedSamples(
        parameters=parameters,
        residual=float(np.abs(virial.mean).max()),
        status=Status.UNRELIABLE if reasons else Status.CONVERGED,
        kernels=Estimate(recorder.kernels.mean, summarize(recorder.kernels.series).standard_error),
        overlaps=overlaps,
        alignment=summarize(recorder.alignments),
        overlap_traces=recorder.overlaps,
        train=Estimate(train(mean), train(error)),
        test=Estimate(test(mean), test(error)) if tested else None,
        train_variance=train(variance),
        test_variance=test(variance) if tested else None,
        energy=energy,
        virial=Estimate(virial.mean, virial.standard_error),
        acceptance=acceptance,
        step=sampler.step,
        passes=sampler.passes,
        reasons=reasons,
    )


def _doubts(overlaps: ChainSummary, energy: ChainSummary, virial: ChainSummary, acceptance: Array) -> tuple[str, ...]:
    """Return every reason not to trust the averages."""
    reasons = []
    for name, summary in (("overlaps", overlaps), ("energy", energy)):
        if not np.all(summary.reliable):
            reasons.append(
                f"{name}: effective sample size {np.min(summary.effective_sample_size):.3g}, longest autocorrelation "
                f"time {np.max(summary.autocorrelation_time):.3g} trajectories, largest R-hat "
                f"{np.max(summary.split_rhat):.3g}: increase samples or burn_in"
            )
    violated = np.flatnonzero(np.abs(virial.mean) > _LARGEST_VIRIAL_DEVIATION * virial.standard_error + _ROUNDING)
    if violated.size:
        l = int(violated[0])
        reasons.append(
            f"virial identity of layer {l + 1} violated, {virial.mean[l]:.3g} +- {virial.standard_error[l]:.2g}: increase burn_in"
        )
    if acceptance.min() < _LOWEST_ACCEPTANCE:
        reasons.append(f"acceptance of a chain is {acceptance.min():.3g}: decrease step or increase burn_in")
    return tuple(reasons)


def _data_kernel(X: ArrayLike | None, kernel: ArrayLike | None) -> tuple[Array | None, Array]:
    if (X is None) == (kernel is None):
        raise ValueError(f"X, kernel: expected exactly one of them, got {'none' if X is None else 'both'}")
    if kernel is not None:
        return None, checks.kernel_matrix("kernel", kernel)
    inputs = checks.real_array("X", X, ndim=2)
    return inputs, inputs @ inputs.T / inputs.shape[1]


def _data_root(C: Array) -> Root:
    """R^0 with as many rows as C has rank."""
    root = symmetric_root(C)
    smallest, largest = np.linalg.eigvalsh(C)[[0, -1]]
    if smallest < -1e-10 * abs(largest):
        raise ValueError(f"kernel: expected a positive semi-definite matrix, got eigenvalues {smallest:.3g} to {largest:.3g}")
    s, U = root.singular_values[root.singular_values > 0], root.vectors[:, root.singular_values > 0]
    if not s.size:
        raise ValueError("X, kernel: expected a data kernel that is not zero, got zeros")
    return Root(s[:, None] * U.T, s, U)


def _labels(y: ArrayLike | None, points: int) -> Array:
    if y is None:
        raise ValueError("y: expected labels, got None")
    labels = checks.real_array("y", y, ndim=(1, 2))
    if labels.shape[0] != points:
        raise ValueError(f"y: expected {points} labels (one per input), got shape {labels.shape}")
    if not labels.any():
        raise ValueError("y: expected at least one label that is not zero (overlaps with y are undefined), got zeros")
    return labels


def _test_inputs(X_test: ArrayLike | None, X: Array | None) -> Array | None:
    if X_test is None:
        return None
    if X is None:
        raise ValueError("X_test: expected with X, got it with kernel")
    array = checks.real_array("X_test", X_test, ndim=2)
    if array.shape[1] != X.shape[1]:
        raise ValueError(f"X_test: expected {X.shape[1]} columns as in X, got shape {array.shape}")
    return array


def _step(step: float | None) -> float | None:
    if step is not None and checks.positive("step", step) >= math.pi:
        raise ValueError(f"step: expected a rotation angle below pi, got {step!r}")
    return step


def _widths(width: int | Sequence[int], depth: int) -> tuple[int, ...]:
    if not isinstance(width, Sequence):
        return (checks.integer_at_least("width", width),) * depth
    if len(width) != depth:
        raise ValueError(f"width: expected one integer or {depth} integers (one per hidden layer), got {width!r}")
    return tuple(checks.integer_at_least("width", N) for N in width)
