"""Gradient descent on networks of finite width, down to steps so small that it is gradient flow: the reference for training.

    theta <- (1 - step weight_decay) theta - step gamma0^2 N grad 1/2 sum_mu (f_mu - y_mu)^2,    theta(0) ~ N(0, 1)

With these rates the limit N -> infinity at fixed gamma0 and step exists and is what `linkern.flow` solves. The weight gradient
has rank P and is never formed as a matrix: every block of weights gets its update while it sits in cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from linkern.activations import ActivationLike
from linkern.checks import integer_at_least, nonnegative, random_generator, real_array
from linkern.networks.mlp import MLP
from linkern.solution import ConvergenceError, Solution, Status

__all__ = ["TrainedNetworks", "balance", "train_networks"]

Array = NDArray[np.floating]
Floats = NDArray[np.float64]

# A loss this many times the initial one is divergence, not a transient.
BLOW_UP = 1e8
# Entries of a weight matrix updated at once; a block of them and its gradient stay in the second-level cache.
BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TrainedNetworks(Solution):
    """Independent networks trained on the same data; axes: M networks, T recorded times, P points, P' test points.

    `residual` is the change of f over the last step relative to the largest label, a measure of how far training is from rest.

    Attributes
    ----------
    times : (T,) array
        Recorded times, 0 first.
    outputs : (M, T, P) array
        f on the training inputs, minus f at initialisation where centred.
    test_outputs : (M, T, P') array or None
        The same at test inputs.
    losses : (M, T) array
        1/2 sum (f - y)^2.
    kernels : (M, K, L, P, P) array
        Phi^1, .., Phi^L at the K times asked for.
    tangent_kernels : (M, K, P, P) array
        gamma0^2 N J J^T there.
    kernel_times : (K,) array
        Those times.
    initial_weights, final_weights : tuple of arrays (M, rows, columns)
        Empty for the initial ones unless asked for.
    """

    times: Floats = field(repr=False)
    outputs: Floats = field(repr=False)
    test_outputs: Floats | None = field(repr=False)
    losses: Floats = field(repr=False)
    kernels: Floats = field(repr=False)
    tangent_kernels: Floats = field(repr=False)
    kernel_times: Floats = field(repr=False)
    initial_weights: tuple[Array, ...] = field(repr=False)
    final_weights: tuple[Array, ...] = field(repr=False)


def train_networks(
    X: ArrayLike,
    y: ArrayLike,
    *,
    depth: int,
    width: int | Sequence[int],
    gamma0: float,
    steps: ArrayLike,
    activation: ActivationLike = "linear",
    weight_decay: float = 0.0,
    X_test: ArrayLike | None = None,
    networks: int = 1,
    centred: bool = False,
    record_every: int = 1,
    kernels_at: Sequence[int] = (-1,),
    keep_initial: bool = False,
    dtype: DTypeLike = np.float64,
    rng: int | np.random.Generator | None = None,
    raise_on_failure: bool = True,
) -> TrainedNetworks:
    """Train `networks` networks from independent random weights by gradient descent with all data in every step.

    Parameters
    ----------
    X : (P, D) array
    y : (P,) array
    depth, width, gamma0, activation, dtype
        As for `MLP`.
    steps : (n,) array
        Step sizes > 0, any schedule. Gradient flow is the limit of small steps; two runs with the same seed at one and two
        steps per time extrapolate to second order.
    weight_decay : float
        lambda >= 0; every step must be below 1/lambda.
    X_test : (P', D) array, optional
    networks : int
        M, trained side by side.
    centred : bool
        Whether the output at initialisation is subtracted, as it is zero for N -> infinity.
    record_every : int
        Outputs are recorded after 0, record_every, 2 record_every, .. steps, and after the last one.
    kernels_at : sequence of int
        Step counts 0..n (negative ones from the end, -1 meaning after the last step) at which kernels are recorded.
    keep_initial : bool
        Whether the result holds a copy of the initial weights.
    rng : int or Generator
    raise_on_failure : bool
        Whether a diverging run raises; otherwise it is returned up to where it diverged, with status NOT_CONVERGED.

    Returns
    -------
    TrainedNetworks

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.
    ConvergenceError
        The loss of a network blew up; the message tells the stable step, `solution` holds the run so far.

    Notes
    -----
    6 P flops per weight and step, limited by reading every weight twice and writing it once; float32 is twice as fast.
    """
    data = real_array("X", X, ndim=2)
    labels = real_array("y", y, ndim=1)
    if labels.size != data.shape[0]:
        raise ValueError(f"y: expected {data.shape[0]} labels (one per row of X), got {labels.size}")
    new = None if X_test is None else real_array("X_test", X_test, ndim=2)
    if new is not None and new.shape[1] != data.shape[1]:
        raise ValueError(f"X_test: expected {data.shape[1]} columns as in X, got shape {new.shape}")
    decay = nonnegative("weight_decay", weight_decay)
    sizes = real_array("steps", steps, ndim=1)
    if not (sizes > 0).all() or decay * sizes.max() >= 1:
        bound = f" and below 1/weight_decay = {1 / decay:.6g}" if decay else ""
        raise ValueError(f"steps: expected numbers > 0{bound}, got values from {sizes.min():.6g} to {sizes.max():.6g}")
    every = integer_at_least("record_every", record_every)
    count = integer_at_least("networks", networks)
    when = sorted({_step_count(value, sizes.size) for value in kernels_at})
    mlp = MLP(data.shape[1], depth=depth, width=width, gamma0=gamma0, activation=activation, dtype=dtype)
    weights = mlp.draw_prior(random_generator(rng), count)
    initial = tuple(W.copy() for W in weights) if keep_initial else ()
    run = _Run(mlp, weights, data, labels, new, centred, decay)
    with np.errstate(over="ignore", invalid="ignore"):
        finished = run.train(sizes, every, when)
    solution = run.result(sizes, initial, finished)
    if not finished and raise_on_failure:
        raise ConvergenceError(run.explain(float(sizes[run.step])), solution)
    return solution


class _Run:
    """The state of a training run and its records."""

    def __init__(
        self,
        mlp: MLP,
        weights: list[Array],
        X: Floats,
        y: Floats,
        X_test: Floats | None,
        centred: bool,
        decay: float,
    ) -> None:
        self.mlp, self.weights, self.X, self.y, self.X_test, self.decay = mlp, weights, X, y, X_test, decay
        train = mlp.forward(weights, X).output.astype(np.float64)
        self.offset = train if centred else np.zeros_like(train)
        self.test_offset: Floats | float = 0.0
        if centred and X_test is not None:
            self.test_offset = mlp.forward(weights, X_test).output.astype(np.float64)
        self.step = 0
        self.start_rate = self._stable_rate()
        self.indices: list[int] = []
        self.outputs: list[Floats] = []
        self.test: list[Floats] = []
        self.kernel_indices: list[int] = []
        self.kernels: list[Floats] = []
        self.tangent: list[Floats] = []
        self.last_change = 0.0

    def train(self, steps: Floats, every: int, kernels_at: list[int]) -> bool:
        """Take all steps; return whether the loss stayed within bounds."""
        scale = self.mlp.gamma0**2 * self.mlp.reference_width
        before: Floats | None = None
        limit = math.inf
        for self.step in range(steps.size + 1):
            passed = self.mlp.forward(self.weights, self.X)
            f = passed.output.astype(np.float64) - self.offset
            loss = ((f - self.y) ** 2).sum(axis=1)
            if before is None:
                limit = BLOW_UP * max(float(loss.max()), float(np.finfo(float).tiny))
            else:
                self.last_change = float(np.abs(f - before).max())
            if not (loss <= limit).all():
                self.step -= 1
                return False
            before = f
            if self.step % every == 0 or self.step == steps.size:
                self.indices.append(self.step)
                self.outputs.append(f)
                if self.X_test is not None:
                    test = self.mlp.forward(self.weights, self.X_test).output.astype(np.float64)
                    self.test.append(test - self.test_offset)
            if self.step in kernels_at:
                self.kernel_indices.append(self.step)
                self.kernels.append(self.mlp.kernels(passed))
                self.tangent.append(self.mlp.tangent_kernel(self.weights, passed) * scale)
            if self.step < steps.size:
                eta = float(steps[self.step])
                error = ((f - self.y) * (eta * scale)).astype(self.mlp.dtype)
                for l, left, right in self.mlp.backward(self.weights, passed, error):
                    descend(self.weights[l], left, right, keep=1 - eta * self.decay)
        return True

    def result(self, steps: Floats, initial: tuple[Array, ...], finished: bool) -> TrainedNetworks:
        """Collect the records."""
        times = np.concatenate([[0.0], np.cumsum(steps)])
        count, P, L = self.weights[0].shape[0], self.y.size, self.mlp.depth
        outputs = np.stack(self.outputs, axis=1)
        kernels = np.stack(self.kernels, axis=1) if self.kernels else np.empty((count, 0, L, P, P))
        tangent = np.stack(self.tangent, axis=1) if self.tangent else np.empty((count, 0, P, P))
        return TrainedNetworks(
            parameters={
                "depth": L,
                "widths": self.mlp.widths,
                "gamma0": self.mlp.gamma0,
                "weight_decay": self.decay,
                "activation": self.mlp.activation.name,
                "steps": int(steps.size),
            },
            residual=self.last_change / max(float(np.abs(self.y).max()), float(np.finfo(float).tiny)),
            status=Status.CONVERGED if finished else Status.NOT_CONVERGED,
            times=times[self.indices],
            outputs=outputs,
            test_outputs=np.stack(self.test, axis=1) if self.X_test is not None else None,
            losses=((outputs - self.y) ** 2).sum(axis=2) / 2,
            kernels=kernels,
            tangent_kernels=tangent,
            kernel_times=times[self.kernel_indices],
            initial_weights=initial,
            final_weights=tuple(self.weights),
        )

    def explain(self, step: float) -> str:
        """What went wrong and what step would have been stable."""
        return (
            f"steps: the loss grew more than {BLOW_UP:g}-fold by step {self.step} (step size {step:.6g}); expected step sizes "
            f"below {2 / self.start_rate:.6g}, the bound 2 / (largest eigenvalue of the tangent kernel + weight decay) at "
            f"initialisation, which shrinks while the kernel grows"
        )

    def _stable_rate(self) -> float:
        passed = self.mlp.forward(self.weights, self.X)
        K = self.mlp.tangent_kernel(self.weights, passed) * (self.mlp.gamma0**2 * self.mlp.reference_width)
        return float(np.linalg.eigvalsh(K).max()) + (self.mlp.depth + 1) * self.decay


def descend(W: Array, left: Array, right: Array, *, keep: float) -> None:
    """In place: W <- keep W - left right^T, block by block of rows, for W (M, rows, columns)."""
    rows, columns = W.shape[1:]
    group = max(1, BLOCK // columns)
    for weights, a, b in zip(W, left, right, strict=True):
        transposed = b.T
        for first in range(0, rows, group):
            block = weights[first : first + group]
            if keep != 1.0:
                block *= keep
            block -= a[first : first + group] @ transposed


def balance(weights: Sequence[Array], network: int = 0) -> list[Floats]:
    """Return W^l W^l^T - W^{l+1}^T W^{l+1} of neighbouring layers, l = 0..L-1, which training of linear networks conserves.

    With weight decay they decay as exp(-2 weight_decay t); steps of finite size break the law at second order.
    """
    W = [matrix[network].astype(np.float64) for matrix in weights]
    return [lower @ lower.T - upper.T @ upper for lower, upper in zip(W[:-1], W[1:], strict=True)]


def _step_count(value: int, steps: int) -> int:
    index = integer_at_least("kernels_at", value, -steps - 1)
    if index > steps:
        raise ValueError(f"kernels_at: expected step counts up to {steps}, got {value}")
    return index % (steps + 1)
