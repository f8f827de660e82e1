"""Training of deep linear networks: the march against whole-trajectory iteration; `python benchmarks/bench_flow.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from table import best_time, report
from trajectory_iteration import iterate_trajectories

from linkern.bayes import Spectrum
from linkern.flow import gradient_flow, gradient_independence, leading_perturbation, march, march_montecarlo, solve_fixed_point
from linkern.networks.gradient_flow import train_networks


def task(points: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs and labels of norm one."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal(points)
    return rng.standard_normal((points, inputs)), y / np.linalg.norm(y)


def marches() -> None:
    """Time of exact runs; time and memory of the largest in a process of its own."""
    X, y = task(20, 40)
    seconds = best_time(lambda: march(X, y, depth=5, gamma0=1.5, steps=np.full(99, 0.025)), 10)
    report("march, T = 100, P = 20, L = 5", f"{seconds * 1e3:.1f} ms", "<= 50 ms")
    seconds = best_time(lambda: gradient_independence(X, y, depth=5, gamma0=1.5, steps=np.full(99, 0.025)), 3)
    report("gradient independence, same sizes", f"{seconds * 1e3:.1f} ms")
    times = np.arange(100) * 0.025
    seconds = best_time(lambda: leading_perturbation(X, y, depth=5, gamma0=1.5, times=times), 3)
    report("perturbation theory, same sizes", f"{seconds * 1e3:.1f} ms")
    flow = gradient_flow(X, y, depth=5, gamma0=1.5, time=2.475, points=100, tol=1.0)
    seconds = best_time(lambda: gradient_flow(X, y, depth=5, gamma0=1.5, time=2.475, points=100, tol=1.0), 1)
    report(f"gradient flow, 100 times, three levels, estimated error {flow.error:.1e}", f"{seconds:.2f} s")
    done = subprocess.run([sys.executable, __file__, "--large"], capture_output=True, text=True, check=True)
    seconds, megabytes = (float(value) for value in done.stdout.split())
    report("march, T = 500, P = 100, L = 5", f"{seconds:.2f} s", "<= 2 s")
    report("march, T = 500, P = 100, L = 5: memory above the imports", f"{megabytes:.0f} MB", "<= 150 MB")


def _peak_megabytes() -> float:
    """Peak resident memory of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _large() -> None:
    X, y = task(100, 200)
    before = _peak_megabytes()
    start = time.perf_counter()
    march(X, y, depth=5, gamma0=1.5, steps=np.full(499, 0.025))
    seconds = time.perf_counter() - start
    print(seconds, _peak_megabytes() - before)


def against_iteration(depth: int = 3, times: int = 40, points: int = 6) -> None:
    """Accuracy and time of fixed-point iteration over whole trajectories, by number of iterations."""
    X, y = task(points, 12)
    C, steps = X @ X.T / 12, np.full(times - 1, 0.02)
    run = march(X, y, depth=depth, gamma0=1.0, steps=steps)
    fast = best_time(lambda: march(X, y, depth=depth, gamma0=1.0, steps=steps), 5)
    for iterations in (10, 20, 40, 60):
        start = time.perf_counter()
        f, Phi, G, _ = iterate_trajectories(C, y, depth=depth, gamma0=1.0, steps=steps, iterations=iterations)
        slow = time.perf_counter() - start
        apart = np.abs(f - run.outputs).max()
        last = Phi[-1].reshape(times, points, times, points)[-1, :, -1]
        kernels = np.abs(last - run.feature_kernels()[-1]).max()
        report(
            f"T = {times}, P = {points}, L = {depth}: iteration x {iterations}, error in f {apart:.0e}, in Phi {kernels:.0e}",
            f"{slow:.2f} s",
        )
    report("the march, exact", f"{fast * 1e3:.1f} ms")


def fixed_points(modes: int = 10_000) -> None:
    """All fixed points with weight decay on a given spectrum."""
    lam = 1 / np.arange(1, modes + 1) ** 1.5
    spectrum = Spectrum.from_modes(lam, np.random.default_rng(0).standard_normal(modes) * lam)
    settings = {"spectrum": spectrum, "depth": 3, "gamma0": 1.0, "weight_decay": 0.01}
    solution = solve_fixed_point(**settings)
    seconds = best_time(lambda: solve_fixed_point(**settings), 3)
    report(
        f"fixed points, r = {modes}: {len(solution.branches)} found, residual {solution.residual:.0e}", f"{seconds * 1e3:.0f} ms"
    )


def sampled() -> None:
    """Nonlinear networks at infinite width: seconds per replica, and the replicas' errors."""
    for activation, depth, points, times, step, samples in (("tanh", 3, 10, 100, 0.1, 1000), ("relu", 1, 25, 200, 0.02, 1024)):
        X, y = task(points, 2 * points)
        settings = {
            "depth": depth,
            "gamma0": 1.0,
            "steps": np.full(times - 1, step),
            "activation": activation,
            "samples": samples,
        }
        start = time.perf_counter()
        run = march_montecarlo(X, y, **settings, replicas=4, tol=1e-2, rng=0)
        seconds = (time.perf_counter() - start) / 4
        error = 2 * float(np.sqrt(np.mean(run.outputs_error**2)) / np.sqrt(np.mean(run.outputs**2)))
        report(
            f"{activation}, L = {depth}, T = {times}, P = {points}, S = {samples}: one replica, error in f {error:.1%}",
            f"{seconds:.2f} s",
            "<= 1 s" if depth > 1 else "<= 0.1 s",
        )


def networks(width: int = 2000, steps: int = 20) -> None:
    """Finite networks, scaled to 1000 steps."""
    X, y = task(20, 40)
    for depth, dtype in ((1, "float64"), (3, "float32"), (3, "float64")):
        settings = {"depth": depth, "width": width, "gamma0": 1.0, "dtype": dtype, "rng": 0}
        short = best_time(lambda s=settings: train_networks(X, y, steps=[0.01], **s), 2)
        long = best_time(lambda s=settings: train_networks(X, y, steps=np.full(steps + 1, 0.01), **s), 2)
        report(f"network N = {width}, P = 20, L = {depth}, {dtype}: 1000 steps", f"{(long - short) / steps * 1000:.1f} s")


def main() -> None:
    marches()
    against_iteration()
    fixed_points()
    sampled()
    networks()


if __name__ == "__main__":
    _large() if sys.argv[1:] == ["--large"] else main()
