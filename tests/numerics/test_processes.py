"""Tasks in processes: order, errors, and results that do not depend on their number."""

import math
import os

import numpy as np
import pytest

from linkern.numerics.processes import in_processes


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_are_in_order(jobs):
    assert list(in_processes(math.factorial, [5, 3, 4], jobs)) == [120, 6, 24]
    assert list(in_processes(math.factorial, [], jobs)) == []


def test_more_jobs_have_processes_of_their_own():
    assert os.getpid() not in set(in_processes(_process, [0, 1], 2))
    assert list(in_processes(_process, [0, 1], 1)) == [os.getpid()] * 2


def _process(item):
    return os.getpid()


def test_blas_has_one_thread_anywhere_and_gets_its_own_back():
    control = pytest.importorskip("threadpoolctl")
    with control.threadpool_limits(2, user_api="blas"):
        for jobs in (1, 2):
            assert list(in_processes(_threads, [0, 1], jobs)) == [{1}, {1}]
        assert _threads(0) == {2}


def _threads(item):
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_raised_arrives(jobs):
    with pytest.raises(ValueError, match="factorial"):
        list(in_processes(math.factorial, [1, -1], jobs))


@pytest.mark.parametrize(("jobs", "error"), [(0, ValueError), (1.5, TypeError)])
def test_jobs_are_counted(jobs, error):
    with pytest.raises(error, match="jobs"):
        list(in_processes(math.factorial, np.arange(2), jobs))
