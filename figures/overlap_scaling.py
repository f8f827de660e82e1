"""Scaling of the last overlap with the feature-learning strength: exact curves and their three asymptotes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import solve_whitened
from linkern.generated import deep_linear
from linkern.plotting import shades

TITLE = "c_L - 1 against gamma0 for several depths, with lazy, rich and deep asymptotes"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), figure 2(b)"

DEPTHS = np.array([1, 2, 4, 8, 16])
BETA = 100.0


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return the exact excess for every depth, and the asymptotes, on a grid of gamma0."""
    gamma0 = np.logspace(-2, 3, 120 if quick else 600)
    solution = solve_whitened(gamma0[None, :], BETA, DEPTHS[:, None])
    column, temperature = DEPTHS[:, None].astype(float), 1 / BETA
    return {
        "gamma0": gamma0,
        "excess": solution.excess,
        "lazy": deep_linear.lazy_excess(gamma0, temperature, column),
        "rich": deep_linear.rich_overlap(gamma0, column),
        "rich_corrected": deep_linear.rich_overlap_corrected(gamma0, temperature, column) - 1,
        "deep": np.broadcast_to(deep_linear.deep_excess(gamma0, column), (DEPTHS.size, gamma0.size)),
    }


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Left: exact curves with the lazy and rich power laws. Right: the deep limit's scaling collapse."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.8))
    gamma0 = arrays["gamma0"]
    for i, color in enumerate(shades(DEPTHS.size, plt.get_cmap("viridis"))):
        left.loglog(gamma0, arrays["excess"][i], color=color, label=f"$L = {DEPTHS[i]}$")
        lazy, rich = gamma0 < 0.3, gamma0 > 10
        left.loglog(gamma0[lazy], arrays["lazy"][i][lazy], "--", color="0.25", linewidth=0.8)
        left.loglog(gamma0[rich], arrays["rich"][i][rich], ":", color="0.25", linewidth=1.0)
        right.loglog(DEPTHS[i] * gamma0**2, arrays["excess"][i], color=color)
    left.plot([], [], "--", color="0.25", linewidth=0.8, label=r"lazy $\propto L\gamma_0^2$")
    left.plot([], [], ":", color="0.25", linewidth=1.0, label=r"rich $\gamma_0^{2L/(L+1)}$")
    left.set(xlabel=r"feature-learning strength $\gamma_0$", ylabel=r"overlap growth $c_L - 1$", ylim=(1e-5, 1e7))
    left.legend(ncols=2, loc="upper left")
    scaled = DEPTHS[-1] * gamma0**2
    right.loglog(scaled, arrays["deep"][-1], "k--", linewidth=1.0, label=r"$L \to \infty$: $e^{W(\Lambda)} - 1$")
    right.set(xlabel=r"$\Lambda = L\gamma_0^2$", xlim=(1e-3, 1e5), ylim=(1e-4, 1e6))
    right.legend(loc="upper left")
    for ax, letter in ((left, "(a)"), (right, "(b)")):
        ax.set_title(letter, loc="left")
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Largest relative deviations of the asymptotes at the ends of the grid, and the measured rich exponents."""
    excess, gamma0 = arrays["excess"], arrays["gamma0"]
    tail = gamma0 > 300
    slopes = [float(np.polyfit(np.log(gamma0[tail]), np.log1p(row[tail]), 1)[0]) for row in excess]
    return {
        "beta": BETA,
        "depths": DEPTHS.tolist(),
        "lazy_deviation_at_smallest_gamma0": np.abs(arrays["lazy"][:, 0] / excess[:, 0] - 1).tolist(),
        "rich_deviation_at_largest_gamma0": np.abs(arrays["rich"][:, -1] / (1 + excess[:, -1]) - 1).tolist(),
        "rich_corrected_deviation_at_largest_gamma0": np.abs(
            (1 + arrays["rich_corrected"][:, -1]) / (1 + excess[:, -1]) - 1
        ).tolist(),
        "rich_exponent_fitted": slopes,
        "rich_exponent_exact": (2 * DEPTHS / (DEPTHS + 1)).tolist(),
    }
