"""What the exact posterior at finite width costs beyond the eigendecomposition: `python benchmarks/bench_width.py`."""

from __future__ import annotations

import numpy as np
from table import best_time, report

from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width import solve_width, solve_width_grid


def seconds(duration: float) -> str:
    """A duration as the table shows it."""
    return f"{duration:.3f} s"


def single_problem(P: int = 2000) -> None:
    """One problem at P = 2000, L = 3, in standard and in mean-field scaling."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((P, P))
    y = X @ rng.standard_normal(P) / np.sqrt(P) + 0.5 * rng.standard_normal(P)
    report(f"eigendecomposition, P = {P}", seconds(best_time(lambda: Spectrum.from_data(X, y), 1)))
    spectrum = Spectrum.from_data(X, y)
    for N in (10, 1000, 100_000, 1_000_000):
        for chi in (1.0, float(N)):

            def solve(N: int = N, chi: float = chi, method: str = "exact") -> object:
                return solve_width(spectrum=spectrum, depth=3, width=N, chi=chi, ridge=0.3 / chi, method=method)

            report(f"exact, L = 3, N = {N}, chi = {chi:g}", seconds(best_time(solve)), "target 1 s at N = 1000")
    report("Q-saddle and next order, N = 1000", seconds(best_time(lambda: solve(1000, 1.0, "saddle-nlo"))))


def grid(P: int = 200) -> None:
    """400 values of (chi, ridge) in one call."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((P, P))
    spectrum = Spectrum.from_data(X, X @ rng.standard_normal(P) / np.sqrt(P) + 0.5 * rng.standard_normal(P))
    chi, ridge = np.geomspace(1, 100, 20)[:, None], np.geomspace(1e-6, 1, 20)
    for depth in (1, 2, 3):
        action = lambda depth=depth: solve_width_grid(spectrum=spectrum, depth=depth, width=100, chi=chi, ridge=ridge)  # noqa: E731
        report(f"20 x 20 grid, P = {P}, L = {depth}, N = 100", seconds(best_time(action, 2)))


if __name__ == "__main__":
    single_problem()
    grid()
