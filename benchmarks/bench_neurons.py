"""What it gains to accept neurons one by one, and what it leaves of bias: `python benchmarks/bench_neurons.py`.

Networks of one hidden layer, accepted as a whole by the Hamiltonian sampler or neuron by neuron, at the same widths.
"""

from __future__ import annotations

import time

import numpy as np
from table import report

from linkern.bayes.montecarlo.task import Task
from linkern.bayes.montecarlo.wide.network import Networks
from linkern.bayes.montecarlo.wide.neurons import Neurons
from linkern.data import digits
from linkern.numerics.threads import blas_in_one_thread

P, BETA, COUNT, SETTLING, DRAWN = 50, 50.0, 8, 40, 40


def _moved(nets: Networks | Neurons, task: Task) -> tuple[float, float, np.ndarray]:
    """Step, seconds per snapshot, and y^T Phi y/P of every network."""
    nets.climb(min(task.first, 0.1), 50, lambda snapshot, rung: None)
    nets.settle(SETTLING)
    start = time.perf_counter()
    drawn = nets.draw(DRAWN)
    seconds = (time.perf_counter() - start) / DRAWN
    Y = task.problem.Y[:, 0]
    return nets.step, seconds, np.mean([np.einsum("p,npq,q->n", Y, s.kernels[:, 0], Y) / P for s in drawn], axis=0)


def problem(name: str, X: np.ndarray, y: np.ndarray, activation: str, width: int) -> None:
    """Steps, times of a quarter turn or nearly so, and overlaps with their errors."""
    task = Task.checked(X, y, None, 1, 1.0, BETA, activation, 1.0)
    rows = []
    with blas_in_one_thread():
        for kind in (Networks, Neurons):
            rows.append(_moved(kind(task.problem, width, np.random.default_rng(1), networks=COUNT), task))
    (whole_step, whole_seconds, whole), (step, seconds, single) = rows
    what = f"{name}, {activation}, P = {P}, N = {width}"
    report(f"{what}: step, one by one / whole", f"{step / whole_step:.1f}", f"{step:.3f}, {whole_step:.3f}")
    report("    seconds from snapshot to snapshot, whole / one by one", f"{whole_seconds / seconds:.1f}", "angles 1.55, 1.5")
    error = np.hypot(whole.std(ddof=1), single.std(ddof=1)) / np.sqrt(COUNT) / whole.mean()
    report("    difference of overlaps y^T Phi y/P", f"{single.mean() / whole.mean() - 1:+.2%}", f"+- {error:.2%}")


def main() -> None:
    """Isotropic inputs and digits, a kink and none."""
    gaussian = np.random.default_rng(0).standard_normal((P, P))
    images = digits(classes=(3, 8), samples=P, test=10, rng=0)
    for activation in ("relu", "tanh"):
        for width in (256, 1024):
            problem("gaussian", gaussian, np.sign(gaussian[:, 0]), activation, width)
    for width in (256, 1024):
        problem("digits", images.X, images.y, "relu", width)


if __name__ == "__main__":
    main()
