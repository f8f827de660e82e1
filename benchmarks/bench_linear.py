"""What the closed-form solvers cost, as ratios measured in one run: `python benchmarks/bench_linear.py`."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import scipy.linalg
from descent_ascent import descent_ascent
from table import best_time, report

from linkern.bayes import Spectrum, solve_linear, solve_whitened


def against_eigendecomposition(P: int = 2000) -> None:
    """Whole solve, from a dense kernel, against LAPACK's eigendecomposition of the same kernel."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((P, 2 * P)) / np.arange(1, 2 * P + 1) ** 0.5
    C, y = X @ X.T / X.shape[1], rng.standard_normal(P)
    scipy.linalg.eigh(C, driver="evd")
    for depth, beta in ((3, 1e2), (50, 1e-3)):
        ratios = []
        # Pairs in alternation: a busy machine slows both sides.
        for _ in range(5):
            alone = best_time(lambda: scipy.linalg.eigh(C, driver="evd", check_finite=False), 1)
            total = best_time(lambda d=depth, b=beta: solve_linear(kernel=C, y=y, depth=d, gamma0=3.0, beta=b), 1)
            ratios.append(total / alone)
        ratio = f"{np.median(ratios):.3f}"
        report(f"P = {P}, L = {depth}, beta = {beta:g}: solve / eigendecomposition", ratio, "<= 1.3")
    spectrum = Spectrum.from_kernel(C, y)
    again = best_time(lambda: solve_linear(spectrum=spectrum, depth=3, gamma0=3.0, beta=1e2), 3)
    report(f"P = {P}: next parameters on the same spectrum", f"{again * 1e3:.1f} ms")


def tall_data() -> None:
    """Time and peak memory of P = 1e6, D = 64, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--tall"], capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()
    report("P = 1e6, D = 64: solve and training residual", f"{float(seconds):.2f} s", "<= 10 s")
    report("P = 1e6, D = 64: peak resident memory, data included", f"{float(megabytes):.0f} MB", "<= 2048 MB")


def _tall() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1_000_000, 64))
    y = X[:, 0] + rng.standard_normal(len(X))
    start = time.perf_counter()
    solution = solve_linear(X, y, depth=3, gamma0=1.0, beta=1.0)
    _ = solution.training_error, solution.fitted
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def whitened_grid(points: int = 1_000_000) -> None:
    """A million random grid points, against as many evaluations of exp and log1p."""
    rng = np.random.default_rng(0)
    gamma0, beta = 10 ** rng.uniform(-6, 6, points), 10 ** rng.uniform(-4, 6, points)
    depth = rng.integers(1, 201, points)
    seconds = best_time(lambda: solve_whitened(gamma0, beta, depth), 3)
    unit = best_time(lambda: np.log1p(np.exp(-beta)), 3)
    report("whitened grid of 1e6 points", f"{seconds:.2f} s", "<= 2 s")
    report("whitened grid / one exp and log1p per point", f"{seconds / unit:.0f}")


def against_descent_ascent(P: int = 100) -> None:
    """Time to the residual that gradient descent-ascent reaches."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((P, 4 * P)), rng.standard_normal(P) / np.sqrt(P)
    C = X @ X.T / X.shape[1]
    start = time.perf_counter()
    kernels, residual, steps = descent_ascent(C, y, depth=3, gamma0=1.0, T=0.5)
    slow = time.perf_counter() - start
    solution = solve_linear(kernel=C, y=y, depth=3, gamma0=1.0, beta=2.0)
    fast = best_time(lambda: solve_linear(kernel=C, y=y, depth=3, gamma0=1.0, beta=2.0), 5)
    difference = np.linalg.norm(kernels[-1] - solution.kernels[-1].dense()) / np.linalg.norm(kernels[-1])
    report(f"P = {P}, L = 3: descent-ascent to residual {residual:.1e} ({steps} steps)", f"{slow:.2f} s")
    report(f"P = {P}, L = 3: this library, residual {solution.residual:.1e}", f"{fast * 1e3:.1f} ms")
    report(f"P = {P}, L = 3: ratio (last kernels differ by {difference:.1e})", f"{slow / fast:.0f}")


def main() -> None:
    against_eigendecomposition()
    tall_data()
    whitened_grid()
    against_descent_ascent()


if __name__ == "__main__":
    _tall() if sys.argv[1:] == ["--tall"] else main()
