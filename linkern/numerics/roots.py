"""All roots of a scalar equation, with a certificate: bounds on derivatives decide, sampling density never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evaluation", "RootIsolation", "bracketed_newton", "isolate_roots"]

Floats = NDArray[np.float64]
# What is known of an interval; monotone ones carry the sign of the slope, 1 or -1.
FREE, TOUCHES, OPEN = 0.0, 2.0, 3.0


class Evaluation(NamedTuple):
    """F on the intervals [m - h, m + h], as arrays over intervals.

    Attributes
    ----------
    value, slope : arrays
        F(m) and F'(m).
    curvature : array
        An upper bound of |F''| on the whole interval.
    rounding : array
        An upper bound of the rounding error in `value`.
    """

    value: Floats
    slope: Floats
    curvature: Floats
    rounding: Floats


class RootIsolation(NamedTuple):
    """Disjoint intervals that together hold every root.

    Attributes
    ----------
    brackets : (m, 2) array
        Each holds exactly one root; F is monotone inside and changes sign from end to end beyond rounding.
    rising : (m,) bool array
        Whether F rises through the bracket's root.
    clusters : (c, 2) array
        Intervals (possibly points) where F touches zero to within its rounding error, so that the number of roots
        cannot be decided in float64: a double or triple root, or a near miss.
    cluster_signs : (c, 2) array
        Signs of F before and after a cluster; different signs mean an odd number of roots.
    """

    brackets: Floats
    rising: NDArray[np.bool_]
    clusters: Floats
    cluster_signs: Floats


def isolate_roots(
    evaluate: Callable[[Floats, Floats], Evaluation], lower: float, upper: float, *, pieces: int = 32
) -> RootIsolation:
    """Isolate every root of F in [lower, upper] by bisection with derivative bounds (Taylor's theorem).

    With midpoint m, halfwidth h and |F''| <= M on the interval, |F(m)| > |F'(m)| h + M h^2 / 2 proves that it holds no
    root, and |F'(m)| > M h that F is monotone, so that the signs at the ends tell whether it holds one or none.
    Whatever is neither is bisected, unless F cannot be told from zero anywhere on it. Signs within rounding of zero
    are never used. All open intervals of a level are evaluated in one call.

    Parameters
    ----------
    evaluate : callable
        Maps arrays (midpoints, halfwidths) to an `Evaluation`.
    lower, upper : float
        The search range.
    pieces : int
        Number of equal intervals to start from.

    Returns
    -------
    RootIsolation
    """
    edges = np.linspace(lower, upper, pieces + 1)
    signs = _sign(evaluate(edges, np.zeros_like(edges)))
    left, right, sign_left, sign_right = edges[:-1], edges[1:], signs[:-1], signs[1:]
    settled: list[Floats] = []
    while left.size:
        half = (right - left) / 2
        middle = left + half
        found = evaluate(middle, half)
        F, slope, curvature, rounding = found
        variation = np.abs(slope) * half + curvature * half**2 / 2
        free = np.abs(F) > variation + 2 * rounding
        monotone = ~free & (np.abs(slope) > curvature * half)
        hopeless = ~free & ~monotone & ((np.abs(F) + variation <= 3 * rounding) | (middle <= left) | (middle >= right))
        kind = np.select([free, monotone, hopeless], [FREE, np.sign(slope), TOUCHES], OPEN)
        done = kind != OPEN
        settled.append(np.column_stack([left, right, sign_left, sign_right, kind])[done])
        # The sign at a midpoint is computed once and handed to both halves.
        left, right, middle, sign_middle = left[~done], right[~done], middle[~done], _sign(found)[~done]
        sign_left, sign_right = (
            np.concatenate([sign_left[~done], sign_middle]),
            np.concatenate([sign_middle, sign_right[~done]]),
        )
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return _decide(_merge_monotone(np.concatenate(settled)))


def _sign(found: Evaluation) -> Floats:
    """Sign of F, 0 where rounding could have made it."""
    return np.where(np.abs(found.value) > found.rounding, np.sign(found.value), 0.0)


def _merge_monotone(rows: Floats) -> Floats:
    """Sort the intervals and join neighbours on which F is monotone in the same direction."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    joins = (np.abs(rows[1:, 4]) == 1) & (rows[1:, 4] == rows[:-1, 4])
    first = np.flatnonzero(np.concatenate([[True], ~joins]))
    last = np.concatenate([first[1:], [len(rows)]]) - 1
    merged = rows[first]
    merged[:, 1], merged[:, 3] = rows[last, 1], rows[last, 3]
    return merged


def _decide(rows: Floats) -> RootIsolation:
    """Turn intervals that cover the range into brackets and clusters."""
    monotone = np.abs(rows[:, 4]) == 1
    crossing = monotone & (rows[:, 2] * rows[:, 3] < 0)
    brackets = rows[crossing]
    clusters: list[list[float]] = []
    before, pending = rows[0, 2], False
    # A point at the end closes what is open there and shows a root on the very boundary.
    for left, right, sign_left, sign_right, kind in [*rows, (rows[-1, 1], rows[-1, 1], rows[-1, 3], rows[-1, 3], FREE)]:
        touches = kind == TOUCHES
        if pending and sign_left != 0 and not touches:
            clusters[-1][3], before, pending = sign_left, sign_left, False
        if touches or sign_left == 0:
            # Undecided from here; a run of undecided intervals and points is one cluster.
            end = right if touches or sign_right == 0 else left
            if pending:
                clusters[-1][1] = max(clusters[-1][1], end)
            else:
                clusters.append([left, end, before, before])
            pending = True
        if sign_right != 0 and not touches:
            if pending:
                clusters[-1][3] = sign_right
            before, pending = sign_right, False
    found = np.array(_join_fringe(clusters, brackets)).reshape(-1, 4)
    return RootIsolation(brackets[:, :2], brackets[:, 4] > 0, found[:, :2], found[:, 2:])


def _join_fringe(clusters: list[list[float]], brackets: Floats) -> list[list[float]]:
    """Join clusters that lie closer than they are wide, with no bracket between.

    Where |F| passes through the size of its rounding error, decided and undecided intervals alternate.
    """
    joined: list[list[float]] = []
    for cluster in clusters:
        joined.append(cluster)
        while len(joined) > 1:
            (left, end, before, _), (start, right, _, after) = joined[-2:]
            between = ((brackets[:, 0] >= end) & (brackets[:, 1] <= start)).any()
            if between or start - end > max(end - left, right - start):
                break
            joined[-2:] = [[left, right, before, after]]
    return joined


def bracketed_newton(
    function: Callable[[Floats, NDArray[np.intp]], tuple[Floats, Floats]],
    lower: Floats,
    upper: Floats,
    rising: NDArray[np.bool_],
    start: Floats | None = None,
    *,
    rtol: float = 4e-16,
    atol: float = 0.0,
    max_iterations: int = 200,
) -> Floats:
    """Solve many independent scalar equations F = 0 at once: Newton's method, kept inside brackets by bisection.

    SciPy's `elementwise.find_root` brackets too but uses no derivative, and its `newton` uses one but no bracket;
    here both matter, since roots next to a spinodal are flat and roots at weak coupling are tiny.

    Parameters
    ----------
    function : callable
        Maps (x, index) to (F, F'); `index` says which of the equations are still open.
    lower, upper : (m,) arrays
        Ends of brackets in which F changes sign once.
    rising : (m,) bool array
        Whether F is negative at `lower`.
    start : (m,) array, optional
        First guesses inside the brackets; the midpoints by default.
    rtol, atol : float
        A root is done when a step changes it by less than `rtol` |x| + `atol`, or its bracket has collapsed.

    Returns
    -------
    (m,) array
    """
    left, right = np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)
    roots = (left + right) / 2 if start is None else np.clip(start, left, right)
    index = np.arange(roots.size)
    x, up = roots.copy(), np.asarray(rising)
    previous = right - left
    for _ in range(max_iterations):
        if not index.size:
            break
        F, slope = function(x, index)
        before = (F < 0) == up
        left, right = np.where(before, x, left), np.where(before, right, x)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = -F / slope
        # Newton must stay inside and at least halve the step before last, otherwise it may crawl or cycle.
        newton = (x + step >= left) & (x + step <= right) & (2 * np.abs(step) <= np.abs(previous))
        new = np.where(newton, x + step, left + (right - left) / 2)
        step = new - x
        done = (np.abs(step) <= rtol * np.abs(new) + atol) | (F == 0)
        roots[index] = np.where(F == 0, x, new)
        keep = ~done
        index, x, up, previous = index[keep], new[keep], up[keep], step[keep]
        left, right = left[keep], right[keep]
    return roots
