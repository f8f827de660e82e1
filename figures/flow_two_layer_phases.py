"""Two-layer ReLU networks on whitened data: densities above and below the transition, moments, and the phases of the plane."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.flow import solve_two_layer_whitened
from linkern.networks.gradient_flow import train_networks

TITLE = "two-layer networks on whitened data: where weight decay wins, and what the trained neurons look like"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), figure 10"

ABOVE, BELOW = (1.5, 0.5), (0.5, 1.0)  # gamma0, weight decay for one point with label 1
TIMES, STEP = (0.0, 1.0, 2.5), 0.05
LABELS = np.array([0.64, 0.48, -0.48, -0.36])  # |y_+| = 0.8, |y_-| = 0.6
GAMMA0 = 1.6
# A network at rest has a kernel or none; below this trace training has found none.
NOTHING = 1e-3


def _single_point(gamma0: float, decay: float, count: int, width: int, networks: int, rng) -> NDArray[np.float64]:
    """Preactivations of all neurons after `count` steps of half size on one point with label 1."""
    trained = train_networks(
        [[1.0]], [1.0], depth=1, width=width, gamma0=gamma0, activation="relu", weight_decay=decay,
        steps=np.full(count, STEP / 2), networks=networks, record_every=count, rng=rng,
    )  # fmt: skip
    return trained.final_weights[0].ravel().astype(float)


def _at_rest(gamma0: float, decay: float, width: int, rng) -> NDArray[np.float64]:
    """The kernel of one network on four whitened points after training for about 100 decay times."""
    steps = np.full(int(100 / decay / STEP), STEP)
    trained = train_networks(
        2 * np.eye(4), LABELS, depth=1, width=width, gamma0=gamma0, activation="relu", weight_decay=decay,
        steps=steps, record_every=steps.size, rng=rng,
    )  # fmt: skip
    return trained.kernels[0, 0, 0]


def _alignment(kernel: NDArray[np.float64]) -> float:
    """Kernel-target alignment, 0 for a collapsed network."""
    if np.trace(kernel) < NOTHING:
        return 0.0
    return float(LABELS @ kernel @ LABELS / (np.linalg.norm(kernel) * LABELS @ LABELS))


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return densities on one point, second moments along the weight decay, and alignments over the plane."""
    width, networks, samples, cells, neurons = (4000, 3, 100_000, 4, 300) if quick else (10_000, 10, 1_000_000, 6, 1000)
    above_rng, below_rng, sample_rng, moment_rng, plane_rng = rng.spawn(5)
    above = solve_two_layer_whitened([1.0], gamma0=ABOVE[0], weight_decay=ABOVE[1])
    grid = np.linspace(0, 5, 501)[1:]
    below = solve_two_layer_whitened([1.0], gamma0=BELOW[0], weight_decay=BELOW[1])
    h, z = sample_rng.standard_normal((samples, 1)), sample_rng.standard_normal(samples)
    counts = [max(int(2 * time / STEP), 1) for time in TIMES[1:]]
    shrinking = [
        _single_point(*BELOW, count, width, networks, child)
        for count, child in zip(counts, below_rng.spawn(len(counts)), strict=True)
    ]
    decays = np.linspace(0.2, 1.5, 8 if quick else 14)
    rows = [_at_rest(GAMMA0, decay, neurons, child) for decay, child in zip(decays, moment_rng.spawn(decays.size), strict=True)]
    strengths, losses = np.linspace(0.55, 2.75, cells), np.linspace(0.22, 1.97, cells)
    children = iter(plane_rng.spawn(cells**2))
    return {
        "grid": grid,
        "density": above.density(grid),
        "network": _single_point(*ABOVE, 2000, width, networks, above_rng),
        "below_theory": np.stack([below.push_forward(h, z, time=time)[0][:, 0] for time in TIMES]),
        "below_network": np.stack(shrinking),
        "decays": decays,
        "moments_network": np.array([[np.trace(kernel[:2, :2]), np.trace(kernel[2:, 2:])] for kernel in rows]),
        "moments": np.stack([solve_two_layer_whitened(LABELS, gamma0=GAMMA0, weight_decay=d).moments for d in decays]),
        "strengths": strengths,
        "losses": losses,
        "alignment_network": np.array([[_alignment(_at_rest(g, d, neurons, next(children))) for g in strengths] for d in losses]),
        "alignment": np.array(
            [[solve_two_layer_whitened(LABELS, gamma0=g, weight_decay=d).alignment() for g in strengths] for d in losses]
        ),
    }


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Densities above and below the transition, second moments, the plane."""
    figure, axes = plt.subplots(1, 4, figsize=(9.4, 2.5), width_ratios=(1, 1, 1, 1.25))
    _draw_above(axes[0], arrays)
    _draw_below(axes[1], arrays)
    moments = axes[2]
    line = np.linspace(0, 1.6, 400)
    norms = np.linalg.norm(LABELS[:2]), np.linalg.norm(LABELS[2:])
    for j, (name, color) in enumerate((("positive", "#1b6ca8"), ("negative", "#d1495b"))):
        moments.plot(line, np.maximum(GAMMA0 * norms[j] - line, 0), color=color, label=f"{name} labels")
        moments.plot(arrays["decays"], arrays["moments_network"][:, j], "o", color=color, markersize=3.5)
    moments.set(xlabel=r"weight decay $\lambda$", ylabel=r"$\langle |h|^2 \rangle$ at rest", xlim=(0, 1.6), ylim=(-0.04, 1.4))
    moments.set_title(rf"$\gamma_0 = {GAMMA0:g}$, dots: networks")
    moments.legend()
    _draw_plane(axes[3], arrays)
    return figure


def _draw_above(ax: Axes, arrays: dict[str, NDArray[np.float64]]) -> None:
    network = arrays["network"]
    alive = network[network > NOTHING]
    edges = np.linspace(0, 4, 41)
    heights = np.histogram(alive, edges)[0] / (network.size * np.diff(edges))
    ax.stairs(heights, edges, fill=True, color="0.8", label="network")
    ax.plot(arrays["grid"], arrays["density"], color="#d1495b", label="theory")
    start = np.linspace(-3, 4, 301)
    ax.plot(start, np.exp(-(start**2) / 2) / np.sqrt(2 * np.pi), ":", color="k", linewidth=1, label="initial")
    top = 0.52
    ax.annotate("", xy=(0, top), xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": "#d1495b", "linewidth": 1.2})
    ax.text(-0.15, 0.9 * top, "5/8 of the\nneurons", ha="right", va="top", fontsize=7)
    ax.set(xlabel="preactivation $h$", ylabel="density", xlim=(-3, 4), ylim=(0, 0.55))
    ax.set_title(rf"$\gamma_0 = {ABOVE[0]:g} > \lambda = {ABOVE[1]:g}$")
    ax.legend(loc="upper right", fontsize=6.5)


def _draw_below(ax: Axes, arrays: dict[str, NDArray[np.float64]]) -> None:
    edges = np.linspace(-1.6, 1.6, 65)
    colors = ("k", "#66a5ad", "#1b6ca8")
    for index, (time, color) in enumerate(zip(TIMES, colors, strict=True)):
        h = arrays["below_theory"][index]
        heights = np.histogram(h, edges)[0] / (h.size * np.diff(edges))
        ax.stairs(heights, edges, color=color, linestyle="-" if index else ":", label=rf"$t = {time:g}$")
        if index:
            h = arrays["below_network"][index - 1]
            measured = np.histogram(h, edges)[0] / (h.size * np.diff(edges))
            ax.stairs(measured, edges, fill=True, color=color, alpha=0.3, label="network" if index == 1 else None)
    ax.set(xlabel="preactivation $h$", ylabel="density", xlim=(-1.6, 1.6), yscale="log", ylim=(2e-2, 30))
    ax.set_title(rf"$\gamma_0 = {BELOW[0]:g} < \lambda = {BELOW[1]:g}$")
    ax.legend(loc="upper right", fontsize=6.5, handlelength=1.2)


def _draw_plane(ax: Axes, arrays: dict[str, NDArray[np.float64]]) -> None:
    strengths, decays = np.linspace(0.02, 3, 150), np.linspace(0.02, 2.1, 140)
    theory = np.array(
        [[solve_two_layer_whitened(LABELS, gamma0=g, weight_decay=d).alignment() for g in strengths] for d in decays]
    )
    scale = {"vmin": 0.63, "vmax": 0.74, "cmap": "viridis"}
    mesh = ax.pcolormesh(strengths, decays, np.ma.masked_equal(theory, 0), rasterized=True, **scale)
    for part in (LABELS[:2], LABELS[2:]):
        ax.plot(strengths, np.linalg.norm(part) * strengths, color="k", linewidth=1)
    X, Y = np.meshgrid(arrays["strengths"], arrays["losses"])
    left = arrays["alignment_network"] > 0
    ax.scatter(X[left], Y[left], c=arrays["alignment_network"][left], edgecolors="w", s=24, linewidths=0.8, **scale)
    ax.plot(X[~left], Y[~left], "x", color="0.35", markersize=4)
    ax.text(0.1, 1.68, "collapsed", fontsize=7.5)
    ax.text(2.38, 0.5, r"$y_+, y_-$", fontsize=7.5, ha="center")
    ax.text(2.32, 1.6, r"$y_+$ only", fontsize=7.5, ha="center", color="w", rotation=29, rotation_mode="anchor")
    ax.set(xlabel=r"$\gamma_0$", ylabel=r"weight decay $\lambda$", xlim=(0, 3), ylim=(0, 2.1))
    ax.set_title(r"lines: $\gamma_0 |y_\pm| = \lambda$")
    ax.figure.colorbar(mesh, ax=ax, label=r"alignment of $\Phi$ with $y y^T$")


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Survivors and second moment on one point, and the largest distances between theory and networks."""
    network = arrays["network"]
    below = arrays["below_network"]
    return {
        "surviving_fraction_network": float(np.mean(network > NOTHING)),
        "surviving_fraction_theory": 3 / 8,
        "second_moment_network": float(np.mean(network**2)),
        "second_moment_theory": ABOVE[0] - ABOVE[1],
        "times_below": list(TIMES[1:]),
        "second_moment_below_network": np.mean(below**2, axis=1).tolist(),
        "second_moment_below_theory": np.mean(arrays["below_theory"][1:] ** 2, axis=1).tolist(),
        "moments_apart": float(np.abs(arrays["moments_network"] - arrays["moments"]).max()),
        "alignments_apart": float(np.abs(arrays["alignment_network"] - arrays["alignment"]).max()),
        "collapsed_networks": int(np.sum(arrays["alignment_network"] == 0)),
        "collapsed_in_theory": int(np.sum(arrays["alignment"] == 0)),
    }
