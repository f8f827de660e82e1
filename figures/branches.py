"""Several solutions at once: branches, their actions, and the phase diagram of a first-order transition."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import Spectrum, phase_diagram, solve_linear
from linkern.bayes.phase import PhaseDiagram
from linkern.data import digits
from linkern.plotting import shades

TITLE = "branches of the overlap, their actions, and the coexistence region"
SOURCE = "linkern; not in the papers"

DEPTH, TEMPERATURE = 4, 100.0
PHASE_DEPTHS = (2, 3, 4, 8)
LINES = ("gamma0_lower", "gamma0_transition", "gamma0_upper")


def _branch_curves(count: int) -> dict[str, NDArray[np.float64]]:
    """Every solution on a grid of gamma0: one row (gamma0, k, action, stable, global) per solution."""
    spectrum = Spectrum.from_modes([1.0], [1.0])
    rows = []
    for gamma0 in np.geomspace(24, 40, count):
        solution = solve_linear(spectrum=spectrum, depth=DEPTH, gamma0=gamma0, beta=1 / TEMPERATURE)
        for index, branch in enumerate(solution.branches):
            rescaling = np.exp(branch.log_rescaling)
            rows.append((gamma0, rescaling, branch.action, branch.stable, index == solution.global_index))
    return {"branch_rows": np.array(rows, dtype=np.float64)}


def _phase_lines(diagram: PhaseDiagram, name: str) -> dict[str, NDArray[np.float64]]:
    point = max(diagram.critical_points, key=lambda p: p.beta)
    lines = np.array([diagram.column("beta"), *(diagram.column(line) for line in LINES)])
    return {f"lines_{name}": lines, f"critical_{name}": np.array([point.beta, point.gamma0])}


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return the branches of one whitened network, and phase diagrams for whitened data and for digits."""
    arrays = _branch_curves(401 if quick else 2001)
    for depth in PHASE_DEPTHS:
        arrays |= _phase_lines(phase_diagram(depth), str(depth))
    task = digits(classes=(3, 8), samples=60, center=True, rng=rng)
    spectrum = Spectrum.from_data(task.X, task.y)
    for depth in PHASE_DEPTHS:
        arrays |= _phase_lines(phase_diagram(depth, spectrum=spectrum), f"digits_{depth}")
    return arrays


def _draw_branches(ax: Axes, rows: NDArray[np.float64], column: int) -> None:
    stable, best = rows[:, 3] > 0, rows[:, 4] > 0
    # The unstable solutions separate the small branch from the large one.
    small = rows[:, 1] < np.median(rows[~stable, 1])
    blue, red = "#1b6ca8", "#d1495b"
    for part, style in (
        (best & small, {"color": blue, "label": "global minimum"}),
        (best & ~small, {"color": blue}),
        (stable & ~best & small, {"color": blue, "alpha": 0.35, "label": "metastable"}),
        (stable & ~best & ~small, {"color": blue, "alpha": 0.35}),
        (~stable, {"color": red, "linestyle": ":", "label": "unstable"}),
    ):
        ax.plot(rows[part, 0], rows[part, column], **style)


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Top: overlap and action of all branches. Bottom: phase diagrams (band: coexistence; line: equal action)."""
    figure, axes = plt.subplots(2, 2, figsize=(6.6, 5.0))
    rows = arrays["branch_rows"]
    overlap, action = axes[0]
    _draw_branches(overlap, rows, 1)
    overlap.set(xlabel=r"$\gamma_0$", ylabel=r"overlap $c_L$", yscale="log")
    overlap.set_title(rf"whitened, $L = {DEPTH}$, $1/\beta = {TEMPERATURE:g}$")
    _draw_branches(action, rows, 2)
    action.set(xlabel=r"$\gamma_0$", ylabel=r"action $S$")
    action.legend(loc="lower right")
    for ax, prefix, title in zip(axes[1], ("", "digits_"), ("whitened data", "digits 3 and 8, $P = 60$"), strict=True):
        for depth, color in zip(PHASE_DEPTHS, shades(len(PHASE_DEPTHS), plt.get_cmap("viridis")), strict=True):
            beta, lower, equal, upper = arrays[f"lines_{prefix}{depth}"]
            ax.fill_between(1 / beta, lower, upper, color=color, alpha=0.25, linewidth=0)
            ax.plot(1 / beta, equal, color=color, label=rf"$L = {depth}$")
            critical = arrays[f"critical_{prefix}{depth}"]
            ax.plot(1 / critical[0], critical[1], "o", color=color, markeredgecolor="k", markeredgewidth=0.5)
        ax.set(xscale="log", yscale="log", xlabel=r"temperature $1/\beta$", ylabel=r"$\gamma_0$", title=title)
    axes[1, 0].legend(loc="upper left")
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        ax.set_title(f"({letter})", loc="left")
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Critical points, and the jump of the overlap at the transition of panel (a)."""
    rows = arrays["branch_rows"]
    best = rows[rows[:, 4] > 0]
    jump = int(np.argmax(np.diff(np.log(best[:, 1]))))
    return {
        "critical_beta_and_gamma0": {
            name.removeprefix("critical_"): value.tolist() for name, value in arrays.items() if name.startswith("critical_")
        },
        "transition_between_gamma0": best[jump : jump + 2, 0].tolist(),
        "overlap_jumps_from_to": best[jump : jump + 2, 1].tolist(),
    }
