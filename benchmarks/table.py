"""Timing and printing, shared by the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["best_time", "report"]


def best_time(action: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def report(what: str, value: str, target: str = "") -> None:
    """Print one row of the table."""
    print(f"{what:<74} {value:>14}  {target}", flush=True)
