"""Lazy and adaptive kernel predictors on real images: test loss, the neurons behind the adaptive kernel, and its clusters."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FormatStrFormatter, LogLocator
from numpy.typing import NDArray
from scipy import stats

from linkern.bayes.montecarlo import MonteCarloSolution, compare_predictors, solve_montecarlo
from linkern.data import Task, digits
from linkern.flow import relax
from linkern.lazy import nngp_kernel
from linkern.networks import sample_posterior
from linkern.plotting import kernel_image, points_with_errors
from linkern.solution import Status

TITLE = "lazy and adaptive kernels on digits: test loss, densities of preactivations, clusters"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), two-layer networks"

GAMMA0, BETA, CLASSES, TEST = 0.3, 50.0, (3, 8), 100
NETWORK: dict[str, Any] = {"depth": 1, "activation": "relu", "beta": BETA}
# The energy of the Bayesian ensemble: its gradient flow is what remains of Langevin training without noise.
DECAY = 1 / BETA
PREDICTORS = {"NNGP": "#1b6ca8", "NNGPK": "#2e8b57", "NTK": "#6a4c93", "aNTK": "#edae49", "aNBK": "#d1495b"}
IMAGES = ("training", "test")
BINS = np.linspace(-4, 4, 27)
CENTRES = (BINS[1:] + BINS[:-1]) / 2
Arrays = dict[str, NDArray[np.float64]]


def _sizes(quick: bool) -> tuple[tuple[int, ...], int, int, float, int, int, int]:
    """P, P shown in detail, draws of the data; tolerance of aNBK and neurons for aNTK; width and number of networks."""
    return ((10, 20, 40), 20, 3, 0.02, 800, 200, 24) if quick else ((10, 20, 40, 80), 40, 12, 0.01, 2000, 1000, 48)


def _adaptive(data: Task, tol: float, rng: np.random.Generator) -> MonteCarloSolution:
    return solve_montecarlo(data.X, data.y, gamma0=GAMMA0, tol=tol, rng=rng, raise_on_failure=False, **NETWORK)


def _losses(data: Task, solution: MonteCarloSolution, neurons: int, rng: np.random.Generator) -> list[float]:
    """Test losses in the order of PREDICTORS, then 1 if both adaptive kernels converged."""
    options: dict[str, Any] = {"gamma0": GAMMA0, "activation": "relu", "weight_decay": DECAY}
    times = [0, 8 / DECAY]
    flow = relax(data.X, data.y, X_test=data.X_test, times=times, samples=neurons, replicas=2, rng=rng, **options)
    assert flow.kernel_outputs is not None
    found = compare_predictors(solution, data.X_test, data.y_test)
    losses = {name: one.loss for name, one in found.items()}
    losses["aNTK"] = float(np.mean((flow.kernel_outputs[len(data.y) :] - data.y_test) ** 2))
    converged = solution.status is Status.CONVERGED and flow.status is Status.CONVERGED
    return [*(losses[name] for name in PREDICTORS), float(converged)]


def _details(data: Task, solution: MonteCarloSolution, width: int, networks: int, rng: np.random.Generator) -> Arrays:
    """Both kernels, and densities at the first training and the last test image from theory and networks."""
    theory_rng, net_rng = rng.spawn(2)
    x = np.stack([data.X[0], data.X_test[-1]])
    found = solution.density(x, layer=1, rng=theory_rng)
    nets = sample_posterior(
        data.X, data.y, gamma0=GAMMA0, width=width, samples=4, burn_in=100, chains=networks, rng=net_rng, **NETWORK
    )
    h = nets.final_weights[0] @ x.T / np.sqrt(x.shape[1])
    counts = np.array([[np.histogram(one, BINS)[0] for one in h[..., m]] for m in range(len(x))])
    bars = counts / (width * np.diff(BINS))
    return {
        "points": found.points,
        "density": found.density.value,
        "density_error": found.density.standard_error,
        "bars": bars.mean(axis=1),
        "bars_error": bars.std(axis=1, ddof=1) / np.sqrt(networks),
        "variances": np.square(x).mean(axis=1),
        "kernels": np.stack([nngp_kernel(data.X, depth=1, activation="relu"), solution.kernels[1]]),
        "kernel_error": solution.kernel_errors,
        "width": np.array(width),
    }


def compute(quick: bool, rng: np.random.Generator) -> Arrays:
    """Return losses (draws, P, predictors), and densities and kernels at one P."""
    points, shown, draws, tol, neurons, width, networks = _sizes(quick)
    detail_rng, *children = rng.spawn(1 + draws)
    losses, details = [], None
    for child in children:
        seed, *solvers = child.spawn(1 + len(points))
        data_seed = int(seed.integers(2**32))
        for P, solver_rng in zip(points, solvers, strict=True):
            theory_rng, flow_rng = solver_rng.spawn(2)
            # With one seed for all P, larger training sets contain the smaller ones and test images stay the same.
            data = digits(classes=CLASSES, samples=P, test=TEST, rng=data_seed)
            solution = _adaptive(data, tol, theory_rng)
            losses.append(_losses(data, solution, neurons, flow_rng))
            if details is None and shown == P:
                details = _details(data, solution, width, networks, detail_rng)
    assert details is not None
    found = np.array(losses).reshape(draws, len(points), -1)
    return {"P": np.array(points), "losses": found[..., :-1], "converged": found[..., -1], **details}


def _draw_losses(axes: NDArray[np.object_], arrays: Arrays) -> None:
    """Losses averaged over draws of the data, which move all predictors alike; below, what is left on the same data."""
    losses, P = arrays["losses"], arrays["P"]
    apart = losses - losses[..., [list(PREDICTORS).index("NNGPK")]]
    error = apart.std(axis=0, ddof=1) / np.sqrt(len(losses))
    for k, (name, color) in enumerate(PREDICTORS.items()):
        style = "o-" if name.startswith("a") else "s--"
        axes[0].plot(P, losses.mean(axis=0)[:, k], style, color=color, markersize=3, label=name)
        # Next to each other, for their error bars to be seen.
        points_with_errors(axes[1], P * 1.03 ** (k - 2), apart.mean(axis=0)[:, k], error[:, k], fmt=style, color=color)
    axes[0].set(xscale="log", yscale="log", ylabel="test loss")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[1].set(xlabel="training images $P$", ylabel="loss $-$ loss of NNGPK")
    axes[1].set_xticks(P, [str(count) for count in P])
    for ax in axes:
        ax.minorticks_off()
    axes[0].legend(ncols=2, columnspacing=1, fontsize=6.5)


def _draw_densities(axes: NDArray[np.object_], arrays: Arrays) -> None:
    for m, (ax, name) in enumerate(zip(axes, IMAGES, strict=True)):
        h, density, error = (arrays[key][m] for key in ("points", "density", "density_error"))
        lazy = stats.norm(scale=np.sqrt(arrays["variances"][m])).pdf(h)
        ax.plot(h, lazy, color=PREDICTORS["NNGPK"], linestyle="--", label="lazy")
        ax.fill_between(h, density - 2 * error, density + 2 * error, color=PREDICTORS["aNBK"], alpha=0.3, linewidth=0)
        ax.plot(h, density, color=PREDICTORS["aNBK"], label="aNBK")
        seen = arrays["bars"][m] > 0
        points_with_errors(
            ax,
            CENTRES[seen],
            arrays["bars"][m][seen],
            arrays["bars_error"][m][seen],
            color="k",
            markersize=2,
            label=f"networks, $N = {arrays['width']}$",
        )
        ax.set(xlim=BINS[[0, -1]], yscale="log", ylim=(2e-4, 2), ylabel="density", title=f"{name} image")
    axes[-1].set_xlabel("preactivation $h^1$")
    axes[0].legend(fontsize=6.5, loc="lower center")


def _draw_kernels(part: SubFigure, arrays: Arrays) -> None:
    axes = part.subplots(2, 1)
    kernels = arrays["kernels"]
    half = (kernels.shape[1] + 1) // 2
    for ax, kernel, name in zip(axes, kernels, ("lazy", "aNBK"), strict=True):
        mesh = kernel_image(ax, kernel, limit=float(kernels.max()), classes=[half, kernels.shape[1] - half])
        # Features of a ReLU are never negative.
        mesh.set(cmap="magma_r", clim=(0, kernels.max()))
        ax.set_title(rf"$\Phi^1$, {name}")
    part.colorbar(mesh, ax=axes, shrink=0.7)


def draw(arrays: Arrays) -> Figure:
    """Test loss against P, densities at a training and a test image, kernels sorted by class."""
    figure = plt.figure(figsize=(8.6, 3.6))
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1.1, 0.85))
    _draw_losses(left.subplots(2, 1, sharex=True, height_ratios=(1.4, 1)), arrays)
    _draw_densities(middle.subplots(2, 1, sharex=True), arrays)
    _draw_kernels(right, arrays)
    return figure


def numbers(arrays: Arrays) -> dict[str, object]:
    """Losses, what adaptation gains on the same data, and distances between theory and networks."""
    losses, names = arrays["losses"], list(PREDICTORS)
    root = np.sqrt(len(losses))
    gains = {
        f"{rich} - {lazy}": losses[..., names.index(rich)] - losses[..., names.index(lazy)]
        for rich, lazy in (("aNBK", "NNGPK"), ("aNBK", "NNGP"), ("aNTK", "NTK"))
    }
    bars, h = arrays["bars"], arrays["points"]
    theory, spread = (
        np.array([np.interp(CENTRES, *pair) for pair in zip(h, arrays[key], strict=True)]) for key in ("density", "density_error")
    )
    lazy = stats.norm(scale=np.sqrt(arrays["variances"][:, None])).pdf(CENTRES)
    # Bins that hold enough neurons for their errors to be known.
    seen = bars > 0.02
    deviation = np.abs(bars - theory)[seen] / np.hypot(arrays["bars_error"], spread)[seen]
    kernels, y = arrays["kernels"], np.ones(arrays["kernels"].shape[1])
    y[(len(y) + 1) // 2 :] = -1
    return {
        "gamma0": GAMMA0,
        "beta": BETA,
        "P": arrays["P"].tolist(),
        "loss": {name: losses.mean(axis=0)[:, k].tolist() for k, name in enumerate(names)},
        "difference_on_the_same_data": {name: gain.mean(axis=0).tolist() for name, gain in gains.items()},
        "its_error": {name: (gain.std(axis=0, ddof=1) / root).tolist() for name, gain in gains.items()},
        "share_of_draws_converged": arrays["converged"].mean(axis=0).tolist(),
        "images": list(IMAGES),
        "total_variation_of_networks_from_aNBK": (np.abs(bars - theory) @ np.diff(BINS) / 2).tolist(),
        "total_variation_of_networks_from_lazy": (np.abs(bars - lazy) @ np.diff(BINS) / 2).tolist(),
        "largest_deviation_from_aNBK_in_errors": float(deviation.max()),
        "overlap_lazy_and_adapted": [float(y @ kernel @ y / len(y)) for kernel in kernels],
        "kernel_error": float(arrays["kernel_error"][0]),
    }
