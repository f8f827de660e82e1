"""Exponential growth of the overlap with depth: theory, exact finite width, and networks sampled from their posterior."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import solve_linear, solve_width_mean_field
from linkern.figures.whitened_networks import sampled_network, two_class_task
from linkern.plotting import points_with_errors, shades

TITLE = "overlaps c_l against the layer, theory and sampled networks"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), figure 2(a)"

STRENGTHS = np.array([0.5, 1.0, 2.0, 5.0, 10.0])
DEPTH, BETA = 16, 5.0


def _sizes(quick: bool) -> tuple[int, int, int]:
    """Width, kept samples, updates of burn-in."""
    return (128, 30, 60) if quick else (1024, 120, 100)


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return overlaps of both theories and of networks, with the networks' standard errors and spread over time."""
    X, y = two_class_task()
    width, kept, burn_in = _sizes(quick)
    theory, exact, mean, error, spread = [], [], [], [], []
    for gamma0, child in zip(STRENGTHS, rng.spawn(STRENGTHS.size), strict=True):
        theory.append(solve_linear(X, y, depth=DEPTH, gamma0=gamma0, beta=BETA).overlaps)
        finite = solve_width_mean_field(X, y, depth=DEPTH, width=width, gamma0=gamma0, beta=BETA)
        exact.append(finite.adaptation().overlaps)
        # Lazy networks fluctuate more and cost less: four times the samples.
        samples = kept if gamma0 > 1 else 4 * kept
        network = sampled_network(depth=DEPTH, width=width, gamma0=gamma0, beta=BETA, samples=samples, burn_in=burn_in, rng=child)
        mean.append(network.overlaps.mean)
        error.append(network.overlaps.standard_error)
        spread.append(network.overlap_traces.std(axis=(0, 1)))
    return {
        "theory": np.array(theory),
        "exact": np.array(exact),
        "network": np.array(mean),
        "error": np.array(error),
        "spread": np.array(spread),
        "width": np.array(width),
    }


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Overlaps on a logarithmic axis: straight lines are the exponential depth law."""
    figure, ax = plt.subplots(figsize=(3.6, 2.9))
    layers = np.arange(DEPTH + 1)
    for i, color in enumerate(shades(STRENGTHS.size, plt.get_cmap("plasma"))):
        ax.semilogy(layers, arrays["theory"][i], color=color, label=rf"$\gamma_0 = {STRENGTHS[i]:g}$")
        ax.semilogy(layers, arrays["exact"][i], color=color, linestyle="--", linewidth=0.8)
        low, high = (arrays["network"][i] + sign * arrays["spread"][i] for sign in (-1, 1))
        ax.fill_between(layers[1:], low, high, color=color, alpha=0.2, linewidth=0)
        points_with_errors(ax, layers[1:], arrays["network"][i], arrays["error"][i], color=color)
    ax.set(xlabel=r"layer $l$", ylabel=r"overlap $c_l = \hat y^T \Phi^l \hat y$", xticks=layers[::4])
    width = int(arrays["width"])
    ax.legend(
        title=rf"lines: $N = \infty$, dashed: exact $N = {width}$" + "\n" + rf"points: networks, $N = {width}$",
        title_fontsize=7.5,
    )
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Growth per layer, and how far the networks are from the theory."""
    theory = arrays["theory"][:, 1:]
    return {
        "gamma0": STRENGTHS.tolist(),
        "beta": BETA,
        "width": int(arrays["width"]),
        "growth_per_layer": (theory[:, 1] / theory[:, 0]).tolist(),
        "last_overlap_theory": theory[:, -1].tolist(),
        "last_overlap_network": arrays["network"][:, -1].tolist(),
        "last_overlap_standard_error": arrays["error"][:, -1].tolist(),
        "largest_relative_deviation": np.abs(arrays["network"] / theory - 1).max(axis=1).tolist(),
        "largest_relative_deviation_from_exact": np.abs(arrays["network"] / arrays["exact"][:, 1:] - 1).max(axis=1).tolist(),
    }
