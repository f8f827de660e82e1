"""Two-layer networks trained to where weight decay brings them to rest: long steps against short ones.

Run `python benchmarks/bench_relaxation.py`. A kernel product is S P^2 multiplications, the cost of h C for all neurons; a step of
the march costs 2 r/P of them, r the rank of C.
"""

from __future__ import annotations

import time

import numpy as np
from table import report

from linkern.data import digits
from linkern.flow import march_montecarlo, relax

GAMMA0, DECAY = 4.0, 2.0


def task(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits 3 and 8."""
    data = digits(classes=(3, 8), samples=points, rng=0)
    return data.X, data.y


def cpu(action) -> tuple[object, float]:
    """Result and processor seconds of one run."""
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def against_the_march(points: int = 40, samples: int = 400, end: float = 3.0) -> None:
    """Errors of f, cost and time per replica, relative to a run with steps and kinks far finer than needed."""
    X, y = task(points)
    rank = np.linalg.matrix_rank(X)
    times = np.concatenate([[0.0], np.geomspace(0.01, end, 20)])
    for activation in ("tanh", "relu"):
        settings = {
            "gamma0": GAMMA0,
            "weight_decay": DECAY,
            "activation": activation,
            "samples": samples,
            "replicas": 2,
            "rng": 1,
        }
        exact = relax(X, y, times=times, tol=3e-4, kink=2e-3, **settings)
        rate = np.linalg.eigvalsh(exact.tangent_kernels[1])[-1]
        for tol in (1e-2, 1e-3):
            run, seconds = cpu(lambda t=tol, s=settings: relax(X, y, times=times, tol=t, **s))
            errors = np.abs(run.outputs - exact.outputs).max(axis=1)
            report(
                f"{activation}, relax to {tol:g}: error in f {errors.max():.0e}, at the end {errors[-1]:.0e}; "
                f"{seconds / 3:.1f} s",
                f"{run.kernel_products:.0f} products",
            )
        for fraction in (1.0, 0.25, 0.0625):
            count = int(np.ceil(end * rate / fraction))
            steps = np.full(count, end / count)
            run, seconds = cpu(lambda n=steps, s=settings: march_montecarlo(X, y, depth=1, steps=n, **s))
            apart = [
                np.abs(np.interp(times, run.times, f) - g).max() for f, g in zip(run.outputs.T, exact.outputs.T, strict=True)
            ]
            last = np.abs(run.outputs[-1] - exact.outputs[-1]).max()
            report(
                f"{activation}, march, {count} steps: error in f {max(apart):.0e}, at the end {last:.0e}; {seconds / 2:.1f} s",
                f"{2 * rank * count / points:.0f} products",
            )


def full_size(points: int = 300, samples: int = 5000) -> None:
    """To ten lifetimes of the weights."""
    X, y = task(points)
    for activation in ("tanh", "relu"):
        settings = {
            "gamma0": GAMMA0,
            "weight_decay": DECAY,
            "activation": activation,
            "samples": samples,
            "replicas": 2,
            "rng": 1,
        }
        run, seconds = cpu(lambda s=settings: relax(X, y, times=[0.0, 10 / DECAY], **s))
        rate = np.linalg.eigvalsh(run.tangent_kernels[1])[-1]
        report(
            f"{activation}, P = {points}, S = {samples}: rest {run.rest:.0e}, error {run.error[-1]:.0e}, "
            f"{run.evaluations:.0f} forces",
            f"{run.kernel_products:.0f} products",
            "a few hundred",
        )
        report("  processor seconds with the error estimate, two replicas", f"{seconds:.0f} s")
        report("  steps of the march at its bound of stability, 2/(largest eigenvalue of K)", f"{10 / DECAY * rate / 2:.0f}")


def main() -> None:
    against_the_march()
    full_size()


if __name__ == "__main__":
    main()
