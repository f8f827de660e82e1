"""What sampled kernels cost: `python benchmarks/bench_montecarlo.py`, with `--large` also those that take minutes.

Every problem runs in a process of its own, for its peak memory: on all cores, as it is judged, then in one thread, where time in
matrix products means something. True errors are those of the identity activation, whose closed form the solver knows nothing of;
other activations quote their standard errors.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from products import count_products
from table import best_time, report

BETA = 50.0
# Activation, depth, P, gamma0, the most seconds that it should take and, where they are not Gaussian, the data.
SMALL = [
    *((name, 1, 20, 1.0, 2) for name in ("linear", "relu", "tanh")),
    *((name, 1, 50, 1.0, 5) for name in ("linear", "relu", "tanh")),
    *((name, 2, 20, 2.0, 15) for name in ("linear", "relu", "tanh")),
    *((name, 3, 20, 2.0, 15) for name in ("linear", "relu")),
]
LARGE = [
    *((name, 1, 200, 1.0, 40) for name in ("linear", "relu")),
    *((name, 1, 200, 1.0, 40, "standardised digits") for name in ("relu", "tanh")),
    *((name, depth, 50, 1.0, 90) for depth in (2, 3) for name in ("linear", "relu")),
    *(("relu", depth, 50, 1.0, 90, data) for depth in (2, 3) for data in ("digits", "standardised digits")),
    *(("tanh", depth, 50, 1.0, 90, data) for depth in (2, 3) for data in ("digits", "standardised digits")),
]


def problem(activation: str, depth: int, P: int, gamma0: float, target: int, data: str = "gaussian") -> None:
    """Seconds, largest error of a layer's kernel relative to it, memory, and the share of matrix products."""
    arguments = json.dumps([activation, depth, P, gamma0, data])

    def run(**threads: str) -> dict[str, Any]:
        command = [sys.executable, __file__, "--one", arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | threads)
        return dict(json.loads(done.stdout))

    found, alone = run(), run(OMP_NUM_THREADS="1")
    what = f"{data}, {activation}, L = {depth}, P = {P}, gamma0 = {gamma0:g}"
    report(f"{what}: {found['status']}, {found['samples']} samples", f"{found['seconds']:.1f} s", f"<= {target} s")
    truth = "" if found["error"] is None else f"true error {found['error']:.2%}, "
    report(f"    {truth}standard error", f"{found['quoted']:.2%}", "<= 1 %")
    report("    peak resident memory, interpreter included", f"{found['megabytes']:.0f} MB", "<= 512 MB")
    report("    in one thread", f"{alone['seconds']:.1f} s")
    report(f"    time in matrix products {alone['share']:.0%}; share of the machine's best product", f"{alone['speed']:.0%}")


def _inputs(data: str, P: int) -> tuple[np.ndarray, np.ndarray]:
    if data == "gaussian":
        X = np.random.default_rng(0).standard_normal((P, P))
        return X, np.sign(X[:, 0])
    # Imported here, so that all products of the library are counted.
    from linkern.data import digits

    task = digits(classes=(3, 8), samples=P, test=10, rng=0)
    if data == "digits":
        return task.X, task.y
    X = (task.X - task.X.mean(axis=0)) / np.maximum(task.X.std(axis=0), 1e-9)
    return X * np.sqrt(X.shape[1]) / np.linalg.norm(X, axis=1, keepdims=True), task.y


def _one(activation: str, depth: int, P: int, gamma0: float, data: str) -> None:
    products = count_products("linkern")
    # Imported here, so that their products are counted.
    from linkern.bayes import solve_linear
    from linkern.bayes.montecarlo import solve_montecarlo

    X, y = _inputs(data, P)
    options = {"depth": depth, "gamma0": gamma0, "beta": BETA}
    start = time.perf_counter()
    found = solve_montecarlo(X, y, activation=activation, rng=1, raise_on_failure=False, **options)
    seconds = time.perf_counter() - start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    error = None
    if activation == "linear":
        exact = np.stack([kernel.dense() for kernel in solve_linear(X, y, **options).kernels])
        error = float((np.linalg.norm(found.kernels - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2))).max())
    record = {
        "status": "; ".join((found.status.name.lower(), *found.reasons)),
        "samples": found.snapshots * found.particles,
        "seconds": seconds,
        "error": error,
        "quoted": float(found.kernel_errors.max()),
        "megabytes": megabytes,
        "share": products.seconds / seconds,
        "speed": products.multiplications / seconds / _machine(),
    }
    print(json.dumps(record))


def _machine(size: int = 1500) -> float:
    """Multiplications per second of a float32 matrix product."""
    a = np.ones((size, size), dtype=np.float32)
    return size**3 / best_time(lambda: a @ a, 5)


def main() -> None:
    for case in SMALL + (LARGE if "--large" in sys.argv[1:] else []):
        problem(*case)


if __name__ == "__main__":
    _one(*json.loads(sys.argv[2])) if sys.argv[1:2] == ["--one"] else main()
