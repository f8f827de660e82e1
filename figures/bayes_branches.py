"""Hysteresis of deep networks: solutions followed up and down in gamma0, linear ones against all exact branches."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import Spectrum, solve_linear
from linkern.bayes.montecarlo.sweep import sweep_montecarlo
from linkern.data import digits
from linkern.plotting import points_with_errors

TITLE = "branches of deep networks and their actions: sampled sweeps, exact for linear networks"
SOURCE = "linkern; not in the papers"

# Name: depth, temperature, inverse temperature of the detour, range of gamma0.
CASES = {
    "linear": (3, 300.0, 0.1, (66.0, 128.0)),
    "relu": (3, 50.0, 0.5, (12.5, 27.0)),
    "tanh": (3, 50.0, 0.5, (8.0, 60.0)),
}
BLUE, RED = "#1b6ca8", "#d1495b"


def _exact(gammas0: NDArray[np.float64], depth: int, temperature: float) -> NDArray[np.float64]:
    """Every solution of the whitened linear network: rows (gamma0, misfit, action, stable, global, rescaling)."""
    spectrum = Spectrum.from_modes([1.0], [1.0])
    rows = []
    for gamma0 in gammas0:
        solution = solve_linear(spectrum=spectrum, depth=depth, gamma0=gamma0, beta=1 / temperature)
        for index, branch in enumerate(solution.branches):
            rescaling = np.exp(branch.log_rescaling)
            misfit = temperature / (rescaling + temperature)
            rows.append((gamma0, misfit, branch.action, branch.stable, index == solution.global_index, rescaling))
    return np.array(rows, dtype=np.float64)


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return sweeps of three networks, and the exact branches of the linear one."""
    count, replicas, points = (7, 3, 6) if quick else (15, 8, 12)
    # Rich ReLU networks of more inputs need more particles than are affordable here.
    few, many = (digits(classes=(3, 8), samples=size, center=True, rng=0) for size in (6, points))
    data = {
        "linear": {"kernel": np.eye(2), "y": np.array([1.0, -1.0]) / np.sqrt(2)},
        "relu": {"X": few.X, "y": few.y},
        "tanh": {"X": many.X, "y": many.y},
    }
    arrays = {"points": np.array(points)}
    for (name, (depth, temperature, detour, ends)), child in zip(CASES.items(), rng.spawn(len(CASES)), strict=True):
        sweep = sweep_montecarlo(
            **data[name],
            activation=name,
            depth=depth,
            gammas0=np.geomspace(*ends, count),
            beta=1 / temperature,
            detour_beta=detour,
            particles=512 if quick else None,
            replicas=replicas,
            rng=child,
        )
        size = float((data[name]["y"] ** 2).sum())
        values = {
            "gamma0": sweep.gammas0,
            "coexist": sweep.coexist,
            "transition": np.array(sweep.transition),
            "status": np.array(sweep.status.name),
        }
        for direction, branch in (("up", sweep.lazy), ("down", sweep.rich)):
            # The part of the labels' square that is not fitted, y . (y - f)/|y|^2.
            values |= {
                f"misfit_{direction}": temperature * branch.signal / size,
                f"misfit_error_{direction}": temperature * branch.signal_error / size,
                f"action_{direction}": branch.action,
                f"action_error_{direction}": branch.action_error,
            }
        arrays |= {f"{name}_{key}": value for key, value in values.items()}
    depth, temperature, _, (first, last) = CASES["linear"]
    arrays["exact"] = _exact(np.geomspace(0.97 * first, 1.02 * last, 801), depth, temperature)
    return arrays


def _draw_exact(ax: Axes, rows: NDArray[np.float64], column: int) -> None:
    stable, best = rows[:, 3] > 0, rows[:, 4] > 0
    # The unstable solutions separate the small branch from the large one.
    small = rows[:, 5] < np.median(rows[~stable, 5])
    for part, style in (
        (best & small, {"color": "0.25", "label": "exact, least action"}),
        (best & ~small, {"color": "0.25"}),
        (stable & ~best & small, {"color": "0.65", "label": "exact, metastable"}),
        (stable & ~best & ~small, {"color": "0.65"}),
        (~stable, {"color": "0.65", "linestyle": ":", "label": "exact, unstable"}),
    ):
        ax.plot(rows[part, 0], rows[part, column], zorder=1, **style)


def _draw_sweep(ax: Axes, arrays: dict[str, NDArray[np.float64]], name: str, quantity: str) -> None:
    x = arrays[f"{name}_gamma0"]
    for direction, marker, color, label in (("up", "^", BLUE, "sampled, upwards"), ("down", "v", RED, "sampled, downwards")):
        y, error = arrays[f"{name}_{quantity}_{direction}"], arrays[f"{name}_{quantity}_error_{direction}"]
        lines = "none" if name == "linear" else "-"
        points_with_errors(
            ax, x, y, error, fmt=marker, linestyle=lines, markersize=4.5, color=color, fillstyle="none", label=label
        )


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Top: what is not fitted. Bottom: actions; the vertical line is where the least action changes branch."""
    figure, axes = plt.subplots(2, len(CASES), figsize=(8.2, 4.4), sharex="col")
    titles = {"linear": "linear, whitened", "relu": "ReLU, digits", "tanh": "tanh, digits"}
    for column, (name, (depth, temperature, *_)) in zip(axes.T, CASES.items(), strict=True):
        for ax, quantity, index in zip(column, ("misfit", "action"), (1, 2), strict=True):
            if name == "linear":
                _draw_exact(ax, arrays["exact"], index)
            _draw_sweep(ax, arrays, name, quantity)
            if np.isfinite(arrays[f"{name}_transition"]):
                ax.axvline(arrays[f"{name}_transition"], color="0.8", linewidth=0.9, zorder=0)
        column[0].set(title=rf"{titles[name]}, $L = {depth}$, $1/\beta = {temperature:g}$", ylim=(0, 1.08))
        column[1].set(xlabel=r"$\gamma_0$")
    axes[0, 0].set_ylabel(r"not fitted, $y\cdot(y - f)/|y|^2$")
    axes[1, 0].set_ylabel(r"action $S$")
    # Where there is room.
    axes[0, 2].legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center")
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        ax.text(-0.02, 1.02, f"({letter})", transform=ax.transAxes, ha="right", va="bottom", fontsize=8)
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Windows seen, transitions, actions of both branches, and the largest distance from exact branches."""
    record: dict[str, object] = {"points": int(arrays["points"])}
    for name, (depth, temperature, *_) in CASES.items():
        get = {key.removeprefix(f"{name}_"): value for key, value in arrays.items() if key.startswith(f"{name}_")}
        both = get["gamma0"][get["coexist"].astype(bool)]
        record[name] = {
            "depth": depth,
            "temperature": temperature,
            "status": str(get["status"]),
            "gamma0": get["gamma0"].tolist(),
            "coexistence_seen_at": both.tolist(),
            "transition": float(get["transition"]) if np.isfinite(get["transition"]) else None,
        } | {key: [None if np.isnan(v) else float(v) for v in get[key]] for key in get if key.startswith(("misfit", "action"))}
    rows = arrays["exact"][arrays["exact"][:, 3] > 0]
    deviations = {}
    for direction in ("up", "down"):
        found = np.stack([arrays[f"linear_{key}_{direction}"] for key in ("misfit", "action")], axis=1)
        x = arrays["linear_gamma0"]
        lazy = rows[:, 5] < np.sqrt(rows[:, 5].min() * rows[:, 5].max())
        part = rows[lazy if direction == "up" else ~lazy]
        exact = np.stack([np.interp(x, part[:, 0], part[:, i]) for i in (1, 2)], axis=1)
        inside = (x >= part[0, 0]) & (x <= part[-1, 0]) & np.isfinite(found[:, 0])
        deviations[direction] = np.abs(found / exact - 1)[inside].max(axis=0).tolist()
    return record | {"linear_relative_deviation_of_misfit_and_action": deviations}
