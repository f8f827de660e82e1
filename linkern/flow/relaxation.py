"""Training of infinitely wide two-layer networks over long times: adaptive steps to where weight decay brings them to rest.

One hidden layer has no memory: sampled neurons follow ordinary differential equations, stiff from large eigenvalues of the data
kernel and long from small weight decay. Stabilised steps (`linkern.flow.relaxation_steps`) follow the same gradient flow as short
steps of `march_montecarlo` at a small fraction of their number; the end depends on the path, so the path is controlled too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import activations
from linkern.activations import ActivationLike
from linkern.checks import integer_at_least, nonnegative, positive, random_generator, real_array
from linkern.conventions import homogeneity_degree
from linkern.flow.montecarlo import PRECISION, MonteCarloTrajectory, data_and_labels, kernel_root, over_replicas
from linkern.flow.relaxation_neurons import Neurons, kink_slopes, random_weights
from linkern.flow.relaxation_steps import chebyshev_steps
from linkern.solution import ConvergenceError, Status

__all__ = ["Relaxation", "relax"]

Floats = NDArray[np.float64]
# How much coarser the run is with which the first replica is compared to estimate the error of its steps.
COARSER_STEPS, COARSER_KINK = 4.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Relaxation(MonteCarloTrajectory):
    """Gradient flow at L = 1: a `MonteCarloTrajectory` with kernels at the first and the last time.

    Attributes
    ----------
    kernel_outputs, kernel_outputs_error : (P + P',) arrays or None
        K (K + weight_decay kappa I)^{-1} y with the final tangent kernel; None with weight decay and an activation that is not
        homogeneous, for which no such relation holds.
    initial_kernel_outputs, initial_kernel_outputs_error : (P + P',) arrays or None
        The same with the tangent kernel of time 0.
    rest : float
        How far from rest the end is: the largest norm over replicas of d(weights)/dt relative to weight_decay times the
        weights, which is the relative violation of weight_decay h = gamma0 C (Delta phi') z and weight_decay z = gamma0
        Delta . phi. Without weight decay: relative to the weights over the duration of the run.
    error : (T,) array
        Estimated largest error of f from finite steps and rounded kinks, relative to the largest label: what changes, for one
        replica, in a run with 4 times the tolerance and kinks rounded twice as widely. Largest while f moves fast.
    evaluations : float
        Times that all neurons' forces were computed, per replica.
    kernel_products : float
        Cost per replica in units of S P^2 multiplications, the cost of h C for all neurons.
    """

    initial_kernel_outputs: Floats | None = field(repr=False)
    initial_kernel_outputs_error: Floats | None = field(repr=False)
    rest: float
    error: Floats = field(repr=False)
    evaluations: float
    kernel_products: float


def relax(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    X_test: ArrayLike | None = None,
    gamma0: float,
    times: ArrayLike,
    activation: ActivationLike,
    weight_decay: float = 0.0,
    samples: int = 1000,
    replicas: int = 4,
    tol: float = 1e-2,
    kink: float = 1e-2,
    rng: int | np.random.Generator | None = None,
) -> Relaxation:
    """Train an infinitely wide network of one hidden layer from random weights by gradient flow.

    Parameters
    ----------
    X, y, kernel, X_test, gamma0, activation, weight_decay, samples, replicas
        As for `march_montecarlo`, which starts from the same neurons at the same `rng`; y is (P,).
    times : (T,) array
        Ascending times from 0 at which f is recorded; they do not influence the steps. Rest takes about 10/weight_decay.
    tol : float
        Estimated error of one step relative to the weights; see `Relaxation.error` for what it amounts to.
    kink : float
        For ReLU and other activations that consist of two straight lines: half the width over which the kink is rounded, in
        units of the root mean square of h at the start. Neurons at rest on their kinks then have a definite slope phi'.
    rng : int or Generator

    Returns
    -------
    Relaxation
        With status UNRELIABLE where the standard error or the error of the steps is large.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.
    ConvergenceError
        The neurons' forces stop being finite.

    Notes
    -----
    Cost per evaluation 2 S P r multiplications, r <= P the rank of C; their number grows with the square root of the stiffness,
    to some hundreds until rest or, with kinks, one to a few thousand. The error estimate costs up to one replica more.
    """
    C, labels = data_and_labels(X, y, kernel, X_test)
    labels = real_array("y", labels, ndim=1)
    gamma0, decay = positive("gamma0", gamma0), nonnegative("weight_decay", weight_decay)
    grid = real_array("times", times, ndim=1)
    if grid.size < 2 or grid[0] != 0 or not (np.diff(grid) > 0).all():
        raise ValueError(f"times: expected at least 2 ascending times, the first one 0, got {times!r}")
    count = integer_at_least("replicas", replicas, 2)
    tol, kink = positive("tol", tol), positive("kink", kink)
    phi = activations.get(activation)
    root = kernel_root(C)
    number = integer_at_least("samples", samples, 4 * (root.shape[1] + 1))
    starts = [random_weights(number, root.shape[1], child) for child in random_generator(rng).spawn(count)]
    systems = [Neurons(root, labels, gamma0, decay, phi, kink) for _ in starts]
    with np.errstate(over="ignore", invalid="ignore"):
        runs = [_run(neurons, start, grid, tol) for neurons, start in zip(systems, starts, strict=True)]
        coarse = _run(Neurons(root, labels, gamma0, decay, phi, COARSER_KINK * kink), starts[0], grid, COARSER_STEPS * tol)
    error = np.abs(coarse.outputs - runs[0].outputs).max(axis=1) / max(float(np.abs(labels).max()), np.finfo(float).tiny)
    parameters: dict[str, object] = {
        "depth": 1,
        "gamma0": gamma0,
        "weight_decay": decay,
        "activation": phi.name,
        "samples": number,
        "replicas": count,
        "tol": tol,
        "kink": kink if kink_slopes(phi) else 0.0,
    }
    return _collect(systems, runs, grid, error, parameters)


@dataclass
class _Run:
    """Records of one replica."""

    outputs: Floats
    initial: tuple[Floats, Floats, Floats]
    final: tuple[Floats, Floats, Floats]
    state: Floats
    rest: float


def _run(neurons: Neurons, start: Floats, times: Floats, tol: float) -> _Run:
    outputs = [neurons.outputs(start)]
    state = force = start
    try:
        for step in chebyshev_steps(neurons.drive, start, end=float(times[-1]), tol=tol):
            while len(outputs) < times.size and times[len(outputs)] <= step.end:
                outputs.append(neurons.outputs(step.at(float(times[len(outputs)]))))
            state, force = step.after, step.drive_after
    except FloatingPointError as failure:
        raise ConvergenceError(f"activation, y, kernel: expected finite forces on the neurons, got {failure}") from failure
    slowest = neurons.decay or 1 / float(times[-1])
    rest = float(np.linalg.norm(force) / np.linalg.norm(state)) / slowest
    return _Run(np.stack(outputs), neurons.kernels(start), neurons.kernels(state), state, rest)


def _predict(neurons: Neurons, K: Floats) -> Floats | None:
    """K (K + weight_decay kappa)^{-1} y at all points."""
    degree = neurons.activation.degree
    if neurons.decay and degree is None:
        return None
    ridge = neurons.decay * homogeneity_degree(1, degree or 0.0)
    # Without ridge a kernel without full rank asks for the solution of least norm.
    P = neurons.labels.size
    return np.asarray(K @ np.linalg.lstsq(K[:P] + ridge * np.eye(P), neurons.labels)[0])


def _predictions(neurons: list[Neurons], kernels: list[Floats]) -> tuple[Floats | None, Floats | None]:
    values = [value for one, K in zip(neurons, kernels, strict=True) if (value := _predict(one, K)) is not None]
    return over_replicas(np.stack(values)) if values else (None, None)


def _collect(systems: list[Neurons], runs: list[_Run], times: Floats, error: Floats, parameters: dict[str, object]) -> Relaxation:
    labels, root = systems[0].labels, systems[0].root
    P = labels.size
    f, f_error = over_replicas(np.stack([run.outputs for run in runs]))
    losses, losses_error = over_replicas(np.stack([((run.outputs[:, :P] - labels) ** 2).sum(axis=1) / 2 for run in runs]))
    Phi, Phi_error = over_replicas(np.stack([[[run.initial[0]], [run.final[0]]] for run in runs]))
    G, G_error = over_replicas(np.stack([[[run.initial[1]], [run.final[1]]] for run in runs]))
    K, K_error = over_replicas(np.stack([[run.initial[2], run.final[2]] for run in runs]))
    predicted, predicted_error = _predictions(systems, [run.final[2] for run in runs])
    lazy, lazy_error = _predictions(systems, [run.initial[2] for run in runs])
    states = np.concatenate([run.state for run in runs])
    residual = float(f_error[:, :P].max()) / max(float(np.abs(labels).max()), float(np.finfo(float).tiny))
    return Relaxation(
        parameters=parameters,
        residual=residual,
        status=Status.UNRELIABLE if max(residual, error.max()) > PRECISION else Status.CONVERGED,
        times=times,
        outputs=f[:, :P],
        outputs_error=f_error[:, :P],
        test_outputs=f[:, P:],
        test_outputs_error=f_error[:, P:],
        losses=losses,
        losses_error=losses_error,
        kernel_times=times[[0, -1]],
        feature_kernels=Phi,
        feature_kernels_error=Phi_error,
        gradient_kernels=G,
        gradient_kernels_error=G_error,
        tangent_kernels=K,
        tangent_kernels_error=K_error,
        kernel_outputs=predicted,
        kernel_outputs_error=predicted_error,
        initial_kernel_outputs=lazy,
        initial_kernel_outputs_error=lazy_error,
        preactivations=(states[:, :-1] @ root[:P].T)[None],
        backward_fields=np.broadcast_to(states[:, -1:], (len(states), P))[None],
        samples_needed=None,
        rest=max(run.rest for run in runs),
        error=error,
        evaluations=float(np.mean([neurons.evaluations for neurons in systems])),
        kernel_products=float(np.mean([neurons.multiplications for neurons in systems])),
    )
