"""Bias of the sampled equations of deep ReLU networks against wide ones: `python benchmarks/deep_relu_bias.py [effort]`.

The measure is the progress <y . f>/|y|^2, averaged over all times: signed, and far less noisy than f itself. Networks of several
widths, extrapolated linearly in 1/N, tell the truth to within a standard error; rows of the march vary the number of samples
and both tolerances. `effort` multiplies the number of networks and replicas (1: about five minutes of one core).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table import report

from linkern.flow import march_montecarlo
from linkern.networks import train_networks

Floats = NDArray[np.float64]
POINTS, INPUTS, TIMES = 8, 20, 60
STEPS = {2: 0.02, 3: 0.015}
#: Width of the networks and number of batches of ten.
WIDTHS = {125: 50, 250: 40, 500: 25, 1000: 15}
#: Samples, tolerance, tolerance of g, number of pairs of replicas.
RUNS = (
    (250, 1e-3, 1e-2, 40),
    (500, 1e-3, 1e-2, 24),
    (1000, 1e-3, 1e-2, 12),
    (2000, 1e-3, 1e-2, 6),
    (1000, 1e-3, 1e-3, 12),
    (1000, 1e-3, 1e-1, 12),
    (1000, 1e-2, 1e-1, 12),
)


def mean(values: list[float]) -> tuple[float, float]:
    """Mean and standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def measure(depth: int, effort: float) -> None:
    """Print the table of one depth."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((POINTS, INPUTS)), np.sign(rng.standard_normal(POINTS))
    task: dict[str, Any] = {"depth": depth, "gamma0": 1.0, "steps": np.full(TIMES, STEPS[depth]), "activation": "relu"}
    streams = rng.spawn(1000)

    def progress(outputs: Floats) -> float:
        return float((outputs @ y).mean() / POINTS)

    values, errors = [], []
    for width, batches in WIDTHS.items():
        start = time.process_time()
        nets: dict[str, Any] = {"width": width, "networks": 10, "centred": True, "dtype": np.float32, "kernels_at": ()}
        count = max(3, round(batches * effort))
        batch = [progress(train_networks(X, y, **task, **nets, rng=streams.pop()).outputs) for _ in range(count)]
        value, error = mean(batch)
        values.append(value)
        errors.append(error)
        cost = time.process_time() - start
        report(f"L = {depth}: {10 * count} networks, N = {width}", f"{value:.5f}", f"s.e. {error:.5f}, {cost:.0f} s")
    line, covariance = np.polyfit(1 / np.array(list(WIDTHS)), values, 1, w=1 / np.array(errors), cov="unscaled")
    truth, doubt = float(line[1]), float(np.sqrt(covariance[1, 1]))
    report(f"L = {depth}: N to infinity, slope {line[0]:.2f} / N", f"{truth:.5f}", f"s.e. {doubt:.5f}")
    for samples, tol, loose, pairs in RUNS:
        start = time.process_time()
        settings: dict[str, Any] = {"samples": samples, "tol": tol, "gradient_tol": loose}
        count = max(3, round(pairs * effort))
        runs = [march_montecarlo(X, y, **task, **settings, replicas=2, rng=streams.pop()) for _ in range(count)]
        value, error = mean([progress(run.outputs) for run in runs])
        apart, noise = 100 * (value / truth - 1), 100 * np.hypot(error, doubt) / truth
        short = sum(run.samples_needed is not None for run in runs)
        report(
            f"L = {depth}: march, S = {samples}, tolerances {tol:g}, {loose:g}",
            f"{value:.5f}",
            f"{apart:+.2f} +- {noise:.2f} %, {short}/{count} short of directions, {time.process_time() - start:.0f} s",
        )


if __name__ == "__main__":
    for layers in STEPS:
        measure(layers, float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
