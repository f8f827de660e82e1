"""Independent tasks in processes side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from typing import TypeVar

from linkern.checks import integer_at_least

__all__ = ["available_cores", "in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """Yield `function` of each item, in order, `jobs` at a time; what it raises is raised.

    One job is done here; for more, function and items travel to fresh processes. BLAS is left one thread in either case (where
    threadpoolctl is installed): sums then round alike, however many jobs there are.
    """
    workers = min(integer_at_least("jobs", jobs), len(items))
    if workers <= 1:
        with _blas_limited():
            yield from map(function, items)
        return
    # Fresh ones: a fork would inherit the state of BLAS's threads without the threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_blas_limited) as pool:
        yield from pool.map(function, items)


def _blas_limited() -> AbstractContextManager:
    """Leave one thread to BLAS from now on, until the end of the context if it is used as one."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    # NumPy's BLAS is loaded with this package, SciPy's is its own.
    import scipy.linalg  # noqa: F401

    return threadpool_limits(1, user_api="blas")
