"""Independent parts of a computation side by side, each with products in one thread.

Products of small matrices gain little from the threads inside BLAS: two of them on two cores made networks 1.5 times slower
(measured), where two networks at a time take 0.6 of the time of one after the other. Where threadpoolctl is installed, which can
tell BLAS so, parts run in as many threads as BLAS has (OMP_NUM_THREADS bounds them) and results do not depend on how many.
Elsewhere one part follows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

# Its BLAS, beside NumPy's, is there before they are counted.
import scipy.linalg  # noqa: F401

__all__ = ["blas_in_one_thread", "side_by_side"]

Part = TypeVar("Part")

_executor: ContextVar[tuple[ThreadPoolExecutor, int] | None] = ContextVar("_executor", default=None)


@contextmanager
def blas_in_one_thread() -> Iterator[None]:
    """Leave the threads of BLAS to `side_by_side` for as long as this lasts.

    Once for a whole run: threads that BLAS has just used keep their core busy for a while.
    """
    controller = _controller()
    threads = 1 if controller is None else max((library["num_threads"] for library in controller.info()), default=1)
    if threads == 1:
        yield
        return
    with controller.limit(limits=1), ThreadPoolExecutor(threads) as executor:
        token = _executor.set((executor, threads))
        try:
            yield
        finally:
            _executor.reset(token)


def side_by_side(function: Callable[[slice], Part], count: int, *, worthwhile: bool = True) -> list[Part]:
    """Return `function` of contiguous slices that cover range(count), in order; what it raises is raised.

    Of one slice where that is not `worthwhile`: parts of less than some tenths of a millisecond wait for the interpreter.
    """
    running = _executor.get()
    if running is None or count < 2 or not worthwhile:
        return [function(slice(0, count))]
    executor, threads = running
    parts = min(threads, count)
    edges = [count * index // parts for index in range(parts + 1)]
    return list(executor.map(function, (slice(*ends) for ends in pairwise(edges))))


@cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="blas")
