"""Parts side by side: all of a range, in order, the same whatever the threads; what they raise."""

import threading

import numpy as np
import pytest

from linkern.networks import collapsed_sampler, sample_collapsed
from linkern.numerics import threads
from linkern.numerics.threads import blas_in_one_thread, side_by_side


def indices(part):
    return list(range(part.start, part.stop))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_parts_cover_the_range_in_order(count):
    assert side_by_side(indices, count) == [list(range(count))]
    with blas_in_one_thread():
        parts = side_by_side(indices, count)
        assert [index for part in parts for index in part] == list(range(count))
        assert all(parts)
        assert side_by_side(indices, count, worthwhile=False) == [list(range(count))]
    assert side_by_side(indices, count) == [list(range(count))]


def test_products_are_in_one_thread_and_threads_return_to_blas():
    control = pytest.importorskip("threadpoolctl")

    def counts():
        return [pool["num_threads"] for pool in control.threadpool_info() if pool["user_api"] == "blas"]

    with control.threadpool_limits(3, user_api="blas"):
        before = counts()
        with blas_in_one_thread():
            assert set(counts()) == {1}
            assert len(side_by_side(indices, 8)) == max(before)
            # Within a part there are no more threads to share.
            with blas_in_one_thread():
                assert set(counts()) == {1}
        assert counts() == before


def test_parts_run_at_the_same_time():
    control = pytest.importorskip("threadpoolctl")
    with control.threadpool_limits(2, user_api="blas"), blas_in_one_thread():
        barrier = threading.Barrier(2)
        assert len(side_by_side(lambda part: barrier.wait(timeout=20), 2)) == 2


def test_without_threadpoolctl_one_part_follows_the_other(monkeypatch):
    monkeypatch.setattr(threads, "_controller", lambda: None)
    with blas_in_one_thread():
        assert side_by_side(indices, 5) == [list(range(5))]


def test_errors_of_parts_are_raised():
    def fails(part):
        raise ZeroDivisionError(f"part {part.start}")

    with blas_in_one_thread(), pytest.raises(ZeroDivisionError, match="part 0"):
        side_by_side(fails, 4)


def test_samples_are_the_same_whatever_the_threads(monkeypatch):
    control = pytest.importorskip("threadpoolctl")
    # Also where threads do not gain.
    monkeypatch.setattr(collapsed_sampler, "_WORTH_THREADS", 0)
    rng = np.random.default_rng(0)
    X, y, found = rng.standard_normal((6, 4)), rng.standard_normal(6), []
    for count in (1, 2, 3):
        with control.threadpool_limits(count, user_api="blas"):
            found.append(
                sample_collapsed(
                    X, y, depth=2, width=24, gamma0=1.0, beta=4.0, activation="relu", samples=8, chains=5, burn_in=10, rng=3
                )
            )
    for other in found[1:]:
        np.testing.assert_array_equal(other.overlap_traces, found[0].overlap_traces)
        np.testing.assert_array_equal(other.kernels.mean, found[0].kernels.mean)
