"""The random problems whose 50-digit solutions are stored; the same on every machine."""

from __future__ import annotations

import math
import random

import numpy as np

from reference.exact import Problem

COUNTS = {"broad": 1500, "coexistence": 600, "spinodal": 200, "layered": 200}


def all_problems() -> list[Problem]:
    """The stored problems, in the order of the stored solutions."""
    makers = {"broad": broad, "coexistence": coexistence, "spinodal": near_spinodal, "layered": layered}
    # random.Random(seed).random() is guaranteed to repeat across Python versions.
    draws = {name: random.Random(2024 + index) for index, name in enumerate(COUNTS)}
    return [makers[name](draws[name]) for name, count in COUNTS.items() for _ in range(count)]


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return 10 ** (low + (high - low) * draw.random())


def _integer(draw: random.Random, low: int, high: int) -> int:
    return low + int(draw.random() * (high - low + 1))


def _modes(draw: random.Random, count: int, decades: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    lam = tuple(_log_uniform(draw, -decades, 0) for _ in range(count))
    b = tuple(2 * draw.random() - 1 for _ in range(count))
    return lam, b


def broad(draw: random.Random) -> Problem:
    """gamma0 in [1e-6, 1e6], beta in [1e-4, inf], L in [1, 200], spectra over 12 decades."""
    lam, b = _modes(draw, _integer(draw, 1, 8), 12)
    depth = _integer(draw, 1, 200) if draw.random() < 0.6 else _integer(draw, 1, 8)
    beta = math.inf if draw.random() < 0.15 else _log_uniform(draw, -4, 10)
    return Problem(_log_uniform(draw, -6, 6), beta, lam, b, (1.0,) * depth)


def _gamma0_at(x: np.ndarray, lam: np.ndarray, b: np.ndarray, T: float, depth: int) -> np.ndarray:
    """The gamma0 at which ln k = x is a solution, for equal widths."""
    k = np.exp(x)[:, None]
    return np.sqrt(np.expm1(x / depth) / (b**2 * lam * k / (k * lam + T) ** 2).sum(axis=1))


def _curve(draw: random.Random) -> tuple[tuple[float, ...], tuple[float, ...], float, int, np.ndarray, np.ndarray]:
    depth = _integer(draw, 2, 12) if draw.random() < 0.7 else _integer(draw, 2, 200)
    lam, b = _modes(draw, _integer(draw, 1, 6), 12 * draw.random())
    T = min(_log_uniform(draw, 1, 6) * min(lam), 1e4)
    x = np.linspace(1e-3, math.log(max(T / min(lam), 2.0)) + 2, 4000)
    return lam, b, T, depth, x, _gamma0_at(x, np.array(lam), np.array(b), T, depth)


def coexistence(draw: random.Random) -> Problem:
    """gamma0 drawn between the extrema of gamma0(x) where there are any: three or more solutions."""
    while True:
        lam, b, T, depth, _, gamma0 = _curve(draw)
        inner = gamma0[1:-1]
        tops = inner[(inner > gamma0[:-2]) & (inner >= gamma0[2:])]
        bottoms = inner[(inner < gamma0[:-2]) & (inner <= gamma0[2:])]
        share = draw.random()
        if tops.size and bottoms.size and bottoms.min() > 1e-6 and tops.max() < 1e6:
            value = float(bottoms.min() ** (1 - share) * tops.max() ** share)
            return Problem(value, 1 / T, lam, b, (1.0,) * depth)


def near_spinodal(draw: random.Random) -> Problem:
    """gamma0 within 1e-2 to 1e-9 (relative) of an extremum of gamma0(x), on either side."""
    while True:
        lam, b, T, depth, x, gamma0 = _curve(draw)
        sign = np.sign(np.diff(gamma0))
        turns = np.flatnonzero(sign[:-1] != sign[1:])
        offset = _log_uniform(draw, -9, -2) * (1 if draw.random() < 0.5 else -1)
        if not turns.size:
            continue
        turn = turns[int(draw.random() * turns.size)]
        fine = np.linspace(x[turn], x[turn + 2], 4001)
        values = _gamma0_at(fine, np.array(lam), np.array(b), T, depth)
        extremum = values.max() if sign[turn] > 0 else values.min()
        # Rounded, so that the last bits of the grid's arithmetic do not matter.
        value = float(f"{extremum * (1 + offset):.12g}")
        if 1e-6 < value < 1e6:
            return Problem(value, 1 / T, lam, b, (1.0,) * depth)


def layered(draw: random.Random) -> Problem:
    """Unequal widths over two decades."""
    lam, b = _modes(draw, _integer(draw, 1, 5), 12 * draw.random())
    widths = tuple(_log_uniform(draw, -1, 1) for _ in range(_integer(draw, 1, 10)))
    beta = math.inf if draw.random() < 0.15 else _log_uniform(draw, -4, 8)
    return Problem(_log_uniform(draw, -6, 6), beta, lam, b, widths)
