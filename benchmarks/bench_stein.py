"""How many snapshots of particles their control variates are worth: `python benchmarks/bench_stein.py`.

The same snapshots of the same particles, with and without what their law knows of their noise; the variance of a kernel is that
over eight independent groups. Then the price: the time of both solutions.
"""

from __future__ import annotations

import time
from unittest import mock

import numpy as np
from table import report

from linkern.bayes.montecarlo import MonteCarloSolution, solve_montecarlo
from linkern.bayes.montecarlo.samples import SampledLayer
from linkern.data import digits

P, BETA, SNAPSHOTS, PARTICLES = 50, 50.0, 16, 4096


def _solved(X: np.ndarray, y: np.ndarray, depth: int, gamma0: float) -> tuple[MonteCarloSolution, float]:
    budget = {"method": "particles", "particles": PARTICLES, "max_samples": SNAPSHOTS * PARTICLES, "tol": 1e-4}
    options = {"depth": depth, "gamma0": gamma0, "beta": BETA, "activation": "tanh", "raise_on_failure": False}
    start = time.perf_counter()
    return solve_montecarlo(X, y, **options, **budget, rng=1), time.perf_counter() - start


def problem(name: str, X: np.ndarray, y: np.ndarray, depth: int, gamma0: float) -> None:
    """Ratios of variances, layer by layer, and of times."""
    with mock.patch.object(SampledLayer, "controlled", lambda layer, *law: layer):
        plain, plain_seconds = _solved(X, y, depth, gamma0)
    found, seconds = _solved(X, y, depth, gamma0)
    ratios = (plain.kernel_errors / found.kernel_errors) ** 2
    report(
        f"{name}, tanh, L = {depth}, P = {P}, gamma0 = {gamma0:g}: variance, without / with",
        f"{ratios[found.kernel_errors.argmax()]:.1f}",
        f"by layer {', '.join(f'{ratio:.1f}' for ratio in ratios)}",
    )
    report("    seconds, with / without", f"{seconds / plain_seconds:.2f}")


def main() -> None:
    """Isotropic inputs, and digits with and without standardisation."""
    gaussian = np.random.default_rng(0).standard_normal((P, P))
    images = digits(classes=(3, 8), samples=P, test=10, rng=0)
    scaled = (images.X - images.X.mean(axis=0)) / np.maximum(images.X.std(axis=0), 1e-9)
    for depth in (2, 3):
        for gamma0 in (0.3, 1.0, 2.0):
            problem("standardised digits", scaled, images.y, depth, gamma0)
        problem("gaussian", gaussian, np.sign(gaussian[:, 0]), depth, 1.0)
    problem("digits", images.X, images.y, 2, 1.0)


if __name__ == "__main__":
    main()
