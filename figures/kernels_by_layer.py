"""Feature kernels layer by layer: the closed form beside networks of finite width."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import solve_linear
from linkern.figures.whitened_networks import SAMPLES, sampled_network, two_class_task
from linkern.plotting import kernel_image

TITLE = "feature kernels of a deep linear network, theory and sampled networks"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), figure 2(c)"

DEPTH, GAMMA0, BETA = 8, 4.0, 5.0
SHOWN = (1, 3, 5, 7, 8)


def _sizes(quick: bool) -> tuple[tuple[int, ...], int, int]:
    """Widths, kept samples, updates of burn-in."""
    return ((64, 256), 60, 80) if quick else ((512, 1024), 120, 100)


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return the theory's kernels and the networks' mean kernels (layers 1..L)."""
    X, y = two_class_task()
    theory = solve_linear(X, y, depth=DEPTH, gamma0=GAMMA0, beta=BETA)
    widths, kept, burn_in = _sizes(quick)
    networks = [
        sampled_network(depth=DEPTH, width=width, gamma0=GAMMA0, beta=BETA, samples=kept, burn_in=burn_in, rng=child).kernels
        for width, child in zip(widths, rng.spawn(len(widths)), strict=True)
    ]
    return {
        "theory": np.array([kernel.dense() for kernel in theory.kernels[1:]]),
        "network": np.array([estimate.mean for estimate in networks]),
        "error": np.array([estimate.standard_error for estimate in networks]),
        "widths": np.array(widths),
    }


def _deviation(arrays: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Relative Frobenius distance of the networks' kernels from the theory, widths x layers."""
    distance = np.linalg.norm(arrays["network"] - arrays["theory"], axis=(-2, -1))
    return distance / np.linalg.norm(arrays["theory"], axis=(-2, -1))


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Rows: theory and widths; columns: layers. Each layer has its own colour scale, shared by the column."""
    rows = [(arrays["theory"], r"theory, $N = \infty$")]
    rows += [(kernel, rf"network, $N = {width}$") for kernel, width in zip(arrays["network"], arrays["widths"], strict=True)]
    figure, axes = plt.subplots(len(rows), len(SHOWN), figsize=(1.25 * len(SHOWN) + 0.6, 1.35 * len(rows) + 0.3))
    for j, index in enumerate(SHOWN):
        limit = np.abs(arrays["theory"][index - 1]).max()
        for i, (kernels, label) in enumerate(rows):
            mesh = kernel_image(axes[i, j], kernels[index - 1], limit=limit, classes=(SAMPLES // 2, SAMPLES // 2))
            if j == 0:
                axes[i, j].set_ylabel(label)
        axes[0, j].set_title(rf"$\Phi^{index}$")
        bar = figure.colorbar(mesh, ax=axes[:, j], location="bottom", shrink=0.85, aspect=14, pad=0.02)
        bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:.1f}", "0", f"{limit:.1f}"])
        bar.ax.tick_params(labelsize=6.5)
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Relative distance of every network kernel from the theory."""
    return {
        "depth": DEPTH,
        "gamma0": GAMMA0,
        "beta": BETA,
        "widths": arrays["widths"].tolist(),
        "relative_distance_by_layer": _deviation(arrays).tolist(),
    }
