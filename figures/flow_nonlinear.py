"""Training of a deep tanh network: sampled mean-field theory against wide networks, and how both converge."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from linkern.activations import Activation
from linkern.flow import march_montecarlo
from linkern.networks.gradient_flow import train_networks
from linkern.plotting import kernel_image, points_with_errors

TITLE = "nonlinear training: loss, kernels and densities, sampled theory and networks"
SOURCE = "Bordelon, Pehlevan (2022), nonlinear demonstration; convergence in width"

DEPTH, GAMMA0, STEP, TIMES, SAMPLES, INPUTS = 3, 1.0, 0.1, 100, 10, 20


def _value(h: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.tanh(0.8 * h) / 0.8


def _derivative(h: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 - np.tanh(0.8 * h) ** 2


PHI = Activation("tanh(0.8 h)/0.8", _value, _derivative, parity="odd")


def _task(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian inputs, labels +-1."""
    return rng.standard_normal((SAMPLES, INPUTS)), np.where(np.arange(SAMPLES) < SAMPLES // 2, 1.0, -1.0)


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return losses, kernels and samples of the reference run, and the scatter of runs over their size."""
    samples, replicas, width, count = (2000, 4, 600, 6) if quick else (5000, 8, 2000, 8)
    sizes = np.array([100, 200, 400, 800] if quick else [100, 200, 400, 800, 1600, 3200])
    task_rng, theory_rng, net_rng, *children = rng.spawn(3 + 2 * sizes.size)
    X, y = _task(task_rng)
    settings = {"depth": DEPTH, "gamma0": GAMMA0, "steps": np.full(TIMES - 1, STEP), "activation": PHI}
    theory = march_montecarlo(X, y, **settings, samples=samples, replicas=replicas, kernels_at=(0, -1), rng=theory_rng)
    nets = train_networks(X, y, **settings, width=width, networks=count, centred=True, dtype=np.float32, rng=net_rng)
    scatter = []
    for size, first, second in zip(sizes, children[: sizes.size], children[sizes.size :], strict=True):
        run = march_montecarlo(X, y, **settings, samples=int(size), replicas=4, tol=1e-2, rng=first)
        narrow = train_networks(X, y, **settings, width=int(size), networks=4, centred=True, dtype=np.float32, rng=second)
        scatter.append([2 * np.sqrt(np.mean(run.outputs_error**2)), np.sqrt(np.mean(narrow.outputs.var(axis=0, ddof=1)))])
    return {
        "times": theory.times,
        "theory_loss": theory.losses,
        "theory_loss_error": theory.losses_error,
        "network_loss": nets.losses,
        "theory_kernels": theory.feature_kernels,
        "network_kernel": nets.kernels[:, 0].mean(axis=0),
        "theory_outputs": theory.outputs,
        "network_outputs": nets.outputs,
        "preactivations": theory.preactivations[-1, :, 0],
        "sizes": sizes,
        "scatter": np.array(scatter) / np.sqrt(np.mean(theory.outputs**2)),
        "width": np.array(width),
        "samples": np.array(samples),
    }


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Loss, last kernels, density of preactivations, convergence."""
    figure = plt.figure(figsize=(8.6, 2.3))
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1, 1.25, 2))
    loss = left.subplots()
    t = arrays["times"]
    loss.semilogy(t, arrays["theory_loss"], label=rf"theory, $S = {int(arrays['samples'])}$")
    shown = np.arange(0, t.size, 9)
    nets = arrays["network_loss"][:, shown]
    points_with_errors(
        loss,
        t[shown],
        nets.mean(0),
        nets.std(0, ddof=1) / len(nets) ** 0.5,
        color="k",
        label=rf"networks, $N = {int(arrays['width'])}$",
    )
    loss.set(xlabel=r"time $t$", ylabel="training loss")
    loss.legend(fontsize=6.5)
    limit = float(np.abs(arrays["theory_kernels"]).max())
    axes = middle.subplots(1, 2)
    for ax, kernel, title in zip(
        axes, (arrays["theory_kernels"][-1, -1], arrays["network_kernel"][-1]), ("theory", "networks"), strict=True
    ):
        mesh = kernel_image(ax, kernel, limit=limit, classes=[SAMPLES // 2] * 2)
        ax.set_title(title)
    middle.colorbar(mesh, ax=axes, location="bottom", shrink=0.7, label=rf"last kernel $\Phi^{DEPTH}$")
    density, convergence = right.subplots(1, 2)
    h = arrays["preactivations"]
    grid = np.linspace(-4, 4, 201) * h.std()
    density.plot(grid, gaussian_kde(h)(grid), label="trained")
    density.plot(grid, np.exp(-((grid / h.std()) ** 2) / 2) / (h.std() * np.sqrt(2 * np.pi)), "k:", label="same variance")
    density.set(xlabel=rf"preactivation $h^{DEPTH}_1$", ylabel="density", ylim=(0, 1.35 * density.get_ylim()[1]))
    density.legend(fontsize=6.5, loc="upper center")
    for column, label, style in ((0, r"theory ($S$ samples)", "o-"), (1, r"networks ($N$ wide)", "s--")):
        convergence.loglog(arrays["sizes"], arrays["scatter"][:, column], style, markersize=3, label=label)
    top = 2.5 * arrays["scatter"].max()
    convergence.set(xlabel=r"$S$ or $N$", ylabel="relative scatter of $f$", ylim=(None, top))
    convergence.set_xticks(arrays["sizes"], [str(size) for size in arrays["sizes"]])
    convergence.minorticks_off()
    convergence.legend(fontsize=6.5, loc="upper center")
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Losses at the start, middle and end, distances between theory and networks, scatter by size."""
    nets = arrays["network_loss"]
    apart = arrays["network_outputs"].mean(axis=0) - arrays["theory_outputs"]
    picks = [0, 20, 50, 99]
    return {
        "samples": int(arrays["samples"]),
        "width": int(arrays["width"]),
        "time_indices": picks,
        "theory_loss": arrays["theory_loss"][picks].tolist(),
        "theory_loss_error": arrays["theory_loss_error"][picks].tolist(),
        "network_loss": nets.mean(axis=0)[picks].tolist(),
        "network_loss_error": (nets.std(axis=0, ddof=1) / len(nets) ** 0.5)[picks].tolist(),
        "relative_distance_of_outputs": float(np.sqrt(np.mean(apart**2) / np.mean(arrays["theory_outputs"] ** 2))),
        "sizes": arrays["sizes"].tolist(),
        "scatter_theory_and_networks": arrays["scatter"].tolist(),
    }
