"""What umbrellas do for particles between lobes of their law: `python benchmarks/bench_umbrella.py`.

The same problems and seeds with and without: the correlation of tilts from a layer's first snapshot to its last, which says
whether particles forget if they were strongly active, the spread of y^T Phi y/P over seeds in quoted standard errors, and the
time.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import numpy as np
from table import report

from linkern.bayes.montecarlo import MonteCarloSolution, pool, solve_montecarlo
from linkern.bayes.montecarlo.particles import Population
from linkern.data import digits

BETA, SNAPSHOTS, PARTICLES, SEEDS = 50.0, 8, 4096, 4


def _solved(X: np.ndarray, y: np.ndarray, depth: int) -> tuple[list[MonteCarloSolution], float, float]:
    """Solutions of all seeds, their largest memory, and seconds per solution."""
    budget: dict[str, Any] = {"method": "particles", "particles": PARTICLES, "max_samples": SNAPSHOTS * PARTICLES, "tol": 1e-4}
    options: dict[str, Any] = {"depth": depth, "gamma0": 1.0, "beta": BETA, "activation": "tanh", "raise_on_failure": False}
    memories: list[float] = []

    def seen(*arguments: Any) -> list[float]:
        memories.extend(found := remembered(*arguments))
        return found

    remembered = pool._memories
    start = time.perf_counter()
    with mock.patch.object(pool, "_memories", seen):
        found = [solve_montecarlo(X, y, **options, **budget, rng=seed) for seed in range(SEEDS)]
    return found, max(memories), (time.perf_counter() - start) / SEEDS


def problem(name: str, X: np.ndarray, y: np.ndarray, depth: int) -> None:
    """Memories, spreads and times."""
    with mock.patch.object(Population, "cover", return_value=None):
        plain = _solved(X, y, depth)
    covered = _solved(X, y, depth)
    report(f"{name}, tanh, L = {depth}, P = {len(X)}: memory of tilts, with", f"{covered[1]:.2f}", f"without {plain[1]:.2f}")
    report("    seconds, with / without", f"{covered[2] / plain[2]:.2f}")
    for what, found in (("with", covered[0]), ("without", plain[0])):
        overlaps = [solution.estimate(lambda s: np.einsum("p,lpq,q->l", y, s.kernels[1:], y) / len(y)) for solution in found]
        values = np.array([overlap.value for overlap in overlaps])
        errors = np.sqrt(np.mean([overlap.standard_error**2 for overlap in overlaps], axis=0))
        spread = (values.std(axis=0, ddof=1) / errors).max()
        report(f"    spread of overlaps over {SEEDS} seeds over quoted errors, {what}", f"{spread:.1f}", f"{values.mean(axis=0)}")


def main() -> None:
    """Digits with and without standardisation."""
    for P, depth in ((50, 1), (50, 2), (200, 1)):
        images = digits(classes=(3, 8), samples=P, test=10, rng=0)
        scaled = (images.X - images.X.mean(axis=0)) / np.maximum(images.X.std(axis=0), 1e-9)
        scaled *= np.sqrt(scaled.shape[1]) / np.linalg.norm(scaled, axis=1, keepdims=True)
        problem("standardised digits", scaled, images.y, depth)
        if P < 200:
            problem("digits", images.X, images.y, depth)


if __name__ == "__main__":
    main()
