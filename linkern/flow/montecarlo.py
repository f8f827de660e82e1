"""Training of infinitely wide nonlinear networks: the mean-field equations by sampling single neurons, causally, with error bars.

Because the equations are causal one march in time solves them: no iteration over whole trajectories. Independent replicas tell
the sampling error; every replica has a bias of order 1/samples on top, as a network has of order 1/width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import activations
from linkern.activations import ActivationLike
from linkern.checks import integer_at_least, kernel_matrix, nonnegative, positive, random_generator, real_array
from linkern.conventions import homogeneity_degree
from linkern.flow.particles import Particles
from linkern.solution import ConvergenceError, Solution, Status

__all__ = ["MonteCarloTrajectory", "march_montecarlo"]

Floats = NDArray[np.float64]
# A loss this many times the initial one is divergence, not a transient.
BLOW_UP = 1e8
# Innovations of g below this variance are dropped unless asked for: g of ReLU jumps, and its rank would never stop growing.
GRADIENT_TOLERANCE = 1e-2
# Standard errors above this fraction of the largest label are no result.
PRECISION = 0.1


@dataclass(frozen=True, kw_only=True)
class MonteCarloTrajectory(Solution):
    """Means over replicas and their standard errors; `residual` is the largest standard error of f relative to the labels.

    T times, P training and P' test points, K times at which kernels were asked for. Labels with an axis of O outputs give f
    that axis behind every axis of points, and backward fields and the kernels G and K too: (P, O) in place of P.

    Attributes
    ----------
    times : (T,) array
    outputs, outputs_error : (T, P) arrays
        f on the training inputs.
    test_outputs, test_outputs_error : (T, P') arrays
        f at test inputs (P' = 0 without any).
    losses, losses_error : (T,) arrays
        1/2 sum (f - y)^2 on the training inputs.
    kernel_times : (K,) array
    feature_kernels, feature_kernels_error : (K, L, P, P) arrays
        Phi^1, .., Phi^L on the training inputs.
    gradient_kernels, gradient_kernels_error : (K, L, P, P) arrays
        G^1, .., G^L.
    tangent_kernels, tangent_kernels_error : (K, P + P', P) arrays
        K = sum_l G^{l+1} Phi^l between all points and the training points, which drives df/dt = K (y - f) for small steps.
    kernel_outputs, kernel_outputs_error : (P + P',) arrays or None
        With `settle`: K (K + weight_decay kappa I)^{-1} y with the final tangent kernel, at training and test inputs. Equal to f
        at rest; not so without weight decay, where the final kernel does not determine the network.
    preactivations, backward_fields : (L, replicas * samples, P) arrays
        Samples of h^l and z^l at the last time, for their densities.
    samples_needed : int or None
        None, or the number of samples below which correlations with the past were neglected for lack of directions.
    """

    times: Floats = field(repr=False)
    outputs: Floats = field(repr=False)
    outputs_error: Floats = field(repr=False)
    test_outputs: Floats = field(repr=False)
    test_outputs_error: Floats = field(repr=False)
    losses: Floats = field(repr=False)
    losses_error: Floats = field(repr=False)
    kernel_times: Floats = field(repr=False)
    feature_kernels: Floats = field(repr=False)
    feature_kernels_error: Floats = field(repr=False)
    gradient_kernels: Floats = field(repr=False)
    gradient_kernels_error: Floats = field(repr=False)
    tangent_kernels: Floats = field(repr=False)
    tangent_kernels_error: Floats = field(repr=False)
    kernel_outputs: Floats | None = field(repr=False)
    kernel_outputs_error: Floats | None = field(repr=False)
    preactivations: Floats = field(repr=False)
    backward_fields: Floats = field(repr=False)
    samples_needed: int | None


def march_montecarlo(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    X_test: ArrayLike | None = None,
    depth: int,
    gamma0: float,
    steps: ArrayLike,
    activation: ActivationLike,
    weight_decay: float = 0.0,
    samples: int = 1000,
    replicas: int = 4,
    tol: float = 1e-3,
    gradient_tol: float | None = None,
    kernels_at: Sequence[int] = (-1,),
    settle: int = 0,
    rng: int | np.random.Generator | None = None,
) -> MonteCarloTrajectory:
    """Train an infinitely wide network of any depth and activation from random weights by gradient descent.

    Parameters
    ----------
    X : (P, D) array
        Inputs; or the data kernel instead.
    y : (P,) or (P, O) array
        Labels.
    kernel : (P, P) or (P + P', P + P') array
        C = X X^T / D; rows beyond the labels are test points.
    X_test : (P', D) array, optional
        Test inputs, with X only.
    depth, gamma0, steps, weight_decay
        As for `linkern.flow.march`.
    activation : str, Activation or callable
        By name, or your own.
    samples : int
        Neurons per layer and replica.
    replicas : int
        Independent runs, at least 2.
    tol : float
        Share of a field's variance below which what is new in it is not propagated as noise to the neighbouring layers.
    gradient_tol : float, optional
        The same for g; the larger of `tol` and 0.01 by default.
    kernels_at : sequence of int
        Time indices at which kernels are recorded.
    settle : int
        With weight decay and a homogeneous activation: number of last times over which g = phi'(h) z is averaged neuron by
        neuron for the predictor with the final kernel, `kernel_outputs`. ReLU neurons rest on their kinks, where phi' chatters.
    rng : int or Generator

    Returns
    -------
    MonteCarloTrajectory
        With status UNRELIABLE where the standard error is large or the samples were too few for the ranks.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.
    ConvergenceError
        A run diverged: the steps are too long.

    Notes
    -----
    O(T S r (P + new) L) time per replica, r the rank of a field's history (tens to hundreds), memory O(S r L). For the linear
    activation with tolerance ~ 1e-13 the sampling error vanishes identically, which is the self-test of the method.

    Deep ReLU (benchmarks/deep_relu_bias.py): against networks extrapolated to infinite width no bias of f is seen at the default
    tolerances for samples = 500 to 2000, within 0.2 % for L = 2 and 0.5 % for L = 3, whereas networks of width N themselves are
    off by 4/N and 7/N of f. gradient_tol = 0.1 slows training by 1 % for L = 2 and by 2 to 3 % for L = 3.
    """
    C, labels = data_and_labels(X, y, kernel, X_test)
    depth = integer_at_least("depth", depth)
    gamma0, decay = positive("gamma0", gamma0), nonnegative("weight_decay", weight_decay)
    sizes = real_array("steps", steps, ndim=1)
    if not (sizes > 0).all() or decay * sizes.max() >= 1:
        bound = f" and below 1/weight_decay = {1 / decay:.6g}" if decay else ""
        raise ValueError(f"steps: expected numbers > 0{bound}, got values from {sizes.min():.6g} to {sizes.max():.6g}")
    count = integer_at_least("replicas", replicas, 2)
    tol = positive("tol", tol)
    loose = max(tol, GRADIENT_TOLERANCE) if gradient_tol is None else positive("gradient_tol", gradient_tol)
    phi = activations.get(activation)
    last = integer_at_least("settle", settle, 0)
    if last > sizes.size + 1 or (last and (not decay or phi.degree is None)):
        raise ValueError(
            f"settle: expected at most {sizes.size + 1} times, weight_decay > 0 and a homogeneous activation, got "
            f"settle = {last}, weight_decay = {decay:g}, activation {phi.name!r}"
        )
    root, outputs = kernel_root(C), labels.size // len(labels)
    number = integer_at_least("samples", samples, 4 * (root.shape[1] + outputs))
    when = [_time_index(value, sizes.size) for value in kernels_at]
    runs = []
    for child in random_generator(rng).spawn(count):
        particles = Particles(root, labels.ravel(), depth, gamma0, phi, number, (tol, loose), child, outputs)
        with np.errstate(over="ignore", invalid="ignore"):
            runs.append(_run(particles, sizes, decay, when, last))
    times = np.concatenate([[0.0], np.cumsum(sizes)])
    record = {"depth": depth, "gamma0": gamma0, "weight_decay": decay, "activation": phi.name, "samples": number}
    return _collect(runs, times, when, labels, {**record, "replicas": count, "tol": tol})


@dataclass
class _Run:
    """Records of one replica."""

    outputs: Floats
    features: list[Floats]
    gradients: list[Floats]
    tangents: list[Floats]
    predicted: Floats | None
    particles: Particles


def _run(particles: Particles, steps: Floats, decay: float, when: list[int], settle: int) -> _Run:
    outputs = np.empty((steps.size + 1, particles.f.size))
    kernels: dict[int, tuple[Floats, Floats, Floats]] = {}
    limit = math.inf
    for t in range(steps.size + 1):
        particles.evaluate()
        outputs[t] = particles.f
        loss = float((particles.Delta**2).sum())
        if t == 0:
            limit = BLOW_UP * max(loss, float(np.finfo(float).tiny))
        if not loss <= limit:
            rate = float(np.linalg.eigvalsh(particles.root @ particles.root.T)[-1]) * (len(particles.layers) + 1)
            raise ConvergenceError(
                f"steps: the loss grew more than {BLOW_UP:g}-fold by time index {t} (step {steps[t - 1]:.6g}); expected smaller "
                f"steps: for an activation of slope at most 1, descent starts stable below about {2 / rate:.3g}"
            )
        if t in when:
            kernels[t] = particles.feature_kernels(), particles.gradient_kernels(), particles.tangent_kernel()
        if t > steps.size - settle:
            particles.average_gradients()
        if t < steps.size:
            particles.step(float(steps[t]), decay)
    features, gradients, tangents = ([kernels[t][kind] for t in when] for kind in range(3))
    predicted = _kernel_outputs(particles, decay) if settle else None
    return _Run(outputs, features, gradients, tangents, predicted, particles)


def _kernel_outputs(particles: Particles, decay: float) -> Floats:
    """K (K + decay kappa)^{-1} y at all points, with this replica's own final kernel."""
    degree = particles.activation.degree
    assert degree is not None
    K = particles.settled_tangent_kernel()[:, : particles.labels.size]
    ridge = decay * homogeneity_degree(len(particles.layers), degree)
    train = K[: particles.labels.size]
    return np.asarray(K @ np.linalg.solve(train + ridge * np.eye(len(train)), particles.labels))


def _collect(
    runs: list[_Run], times: Floats, when: list[int], labels: Floats, parameters: dict[str, object]
) -> MonteCarloTrajectory:
    # Rows over (point, output) get the axes that the labels have.
    P, n, trained, everything = len(labels), labels.size, labels.shape, (-1, *labels.shape[1:])
    K_shape = (len(when), len(runs[0].particles.root), *labels.shape[1:], *trained)
    f, f_error = over_replicas(np.stack([run.outputs.reshape(times.size, *everything) for run in runs]))
    losses, losses_error = over_replicas(np.stack([((run.outputs[:, :n] - labels.ravel()) ** 2).sum(axis=1) / 2 for run in runs]))
    Phi, Phi_error = over_replicas(np.stack([np.stack(run.features)[:, :, :P, :P] for run in runs]))
    G, G_error = over_replicas(
        np.stack([np.stack(run.gradients)[:, :, :n, :n].reshape(len(when), -1, *trained, *trained) for run in runs])
    )
    K, K_error = over_replicas(np.stack([np.stack(run.tangents)[:, :, :n].reshape(K_shape) for run in runs]))
    predicted = [run.predicted.reshape(everything) for run in runs if run.predicted is not None]
    kernel_outputs, kernel_outputs_error = over_replicas(np.stack(predicted)) if predicted else (None, None)
    needed = max((run.particles.samples_needed() or 0 for run in runs), default=0) or None
    residual = float(f_error[:, :P].max()) / max(float(np.abs(labels).max()), float(np.finfo(float).tiny))
    layers = range(len(runs[0].particles.layers))
    return MonteCarloTrajectory(
        parameters=parameters,
        residual=residual,
        status=Status.UNRELIABLE if needed or residual > PRECISION else Status.CONVERGED,
        times=times,
        outputs=f[:, :P],
        outputs_error=f_error[:, :P],
        test_outputs=f[:, P:],
        test_outputs_error=f_error[:, P:],
        losses=losses,
        losses_error=losses_error,
        kernel_times=times[when],
        feature_kernels=Phi,
        feature_kernels_error=Phi_error,
        gradient_kernels=G,
        gradient_kernels_error=G_error,
        tangent_kernels=K,
        tangent_kernels_error=K_error,
        kernel_outputs=kernel_outputs,
        kernel_outputs_error=kernel_outputs_error,
        preactivations=np.stack([np.concatenate([run.particles.layers[l].h[:, :P] for run in runs]) for l in layers]),
        backward_fields=np.stack(
            [np.concatenate([run.particles.layers[l].z[:, :n].reshape(-1, *trained) for run in runs]) for l in layers]
        ),
        samples_needed=needed,
    )


def over_replicas(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard error over replicas."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))


def data_and_labels(
    X: ArrayLike | None, y: ArrayLike | None, kernel: ArrayLike | None, X_test: ArrayLike | None
) -> tuple[Floats, Floats]:
    """The kernel of training and then test points, and the labels."""
    if (X is None) == (kernel is None):
        raise ValueError("X, kernel: expected exactly one of them")
    if y is None:
        raise ValueError("y: expected labels, got None")
    labels = real_array("y", y, ndim=(1, 2))
    if X is None:
        assert kernel is not None
        if X_test is not None:
            raise ValueError("X_test: expected only together with X; append test points to the kernel")
        C = kernel_matrix("kernel", kernel)
        if C.shape[0] < len(labels):
            raise ValueError(f"y: expected at most {C.shape[0]} labels (the size of the kernel), got {len(labels)}")
        return C, labels
    points = real_array("X", X, ndim=2)
    if points.shape[0] != len(labels):
        raise ValueError(f"y: expected {points.shape[0]} labels (one per row of X), got {len(labels)}")
    if X_test is not None:
        new = real_array("X_test", X_test, ndim=2)
        if new.shape[1] != points.shape[1]:
            raise ValueError(f"X_test: expected {points.shape[1]} columns as in X, got shape {new.shape}")
        points = np.vstack([points, new])
    return points @ points.T / points.shape[1], labels


def kernel_root(C: Floats) -> Floats:
    """(P, rank) array B with C = B B^T."""
    values, vectors = np.linalg.eigh(C)
    threshold = np.finfo(float).eps * C.shape[0] * max(abs(float(values[0])), float(values[-1]))
    if values[0] < -10 * threshold:
        raise ValueError(f"kernel: expected a positive semi-definite matrix, got smallest eigenvalue {values[0]:.6g}")
    keep = values > threshold
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def _time_index(value: int, steps: int) -> int:
    index = integer_at_least("kernels_at", value, -steps - 1)
    if index > steps:
        raise ValueError(f"kernels_at: expected time indices up to {steps}, got {value}")
    return index % (steps + 1)
