"""Single neurons of Bayesian networks leave the Gaussian law as features are learned; predictions follow the adapted kernel."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes.montecarlo import compare_predictors, solve_montecarlo
from linkern.data import Task, digits
from linkern.lazy import layer_kernels
from linkern.networks import MLP, sample_collapsed, sample_posterior
from linkern.plotting import points_with_errors

TITLE = "densities of preactivations, lazy and rich, and network predictions against two kernel predictors"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), preactivations and predictions of Bayesian networks"

CLASSES, BETA, STRENGTHS = (0, 1), 5.0, (0.1, 2.0)
ACTIVATIONS = ("relu", "tanh")
# The panel of predictions.
DEPTH, SCATTER_BETA, SCATTER_GAMMA0 = 1, 100.0, 1.0
KERNELS = {"NNGPK": ("#d1495b", "x", "initial kernel (NNGPK)"), "aNBK": ("#1b6ca8", "o", "adaptive kernel (aNBK)")}
COLOR, BINS, SHOWN = "#1b6ca8", 25, 0.9995
Arrays = dict[str, NDArray[np.float64]]


def _sizes(quick: bool) -> tuple[int, float, int, int]:
    """Images, tolerance of the theory, width and number of networks."""
    return (16, 0.02, 512, 16) if quick else (50, 0.01, 1024, 32)


def _scatter_sizes(quick: bool) -> tuple[int, float, int]:
    """Images, tolerance of the theory and width of the networks of the panel of predictions."""
    return (20, 0.02, 512) if quick else (100, 0.01, 2048)


def _density(task: Task, activation: str, gamma0: float, quick: bool, rng: np.random.Generator) -> Arrays:
    """Density of h^1 at the first image: theory, Gaussian of the prior, and neurons of independent networks."""
    _, tol, width, networks = _sizes(quick)
    settings: dict[str, Any] = {"depth": DEPTH, "gamma0": gamma0, "activation": activation}
    theory_rng, density_rng, net_rng = rng.spawn(3)
    theory = solve_montecarlo(task.X, task.y, **settings, beta=BETA, tol=tol, rng=theory_rng, raise_on_failure=False)
    image = task.X[:1]
    law = theory.density(image, layer=DEPTH, particles=2**15, rng=density_rng)
    sampled = sample_posterior(
        task.X, task.y, **settings, width=width, beta=BETA, chains=networks, samples=4, dtype=np.float32, rng=net_rng
    )
    mlp = MLP(image.shape[1], **settings, width=width)
    neurons = mlp.forward(sampled.final_weights, image).preactivations[-1][:, :, 0]
    sd = float(np.sqrt(layer_kernels(image, depth=DEPTH, activation=activation)[DEPTH - 1, 0, 0]))
    reach = np.quantile(np.abs(neurons), SHOWN)
    edges = np.linspace(-reach, reach, BINS + 1)
    share = np.histogram(neurons, edges)[0] / neurons.size
    # Given the kernels, which hardly fluctuate, neurons are independent.
    error = np.sqrt(share * (1 - share) / neurons.size)
    return {
        "points": law.points[0],
        "theory": np.stack([law.density.value[0], law.density.standard_error[0]]),
        "prior_sd": np.array(sd),
        "edges": edges,
        "networks": np.stack([share, error]) / np.diff(edges),
        "neurons": neurons.astype(np.float64),
        "converged": np.array(float(theory.status.name == "CONVERGED")),
    }


def _predictions(quick: bool, rng: np.random.Generator) -> Arrays:
    """Outputs of networks at test images, and what both kernels predict."""
    points, tol, width = _scatter_sizes(quick)
    data_rng, theory_rng, net_rng = rng.spawn(3)
    task = digits(classes=CLASSES, samples=points, test=60, rng=data_rng)
    settings: dict[str, Any] = {"depth": DEPTH, "beta": SCATTER_BETA, "activation": "relu"}
    options = {**settings, "gamma0": SCATTER_GAMMA0}
    theory = solve_montecarlo(task.X, task.y, **options, tol=tol, rng=theory_rng, raise_on_failure=False)
    found = compare_predictors(theory, task.X_test, task.y_test)
    nets = sample_collapsed(
        task.X, task.y, **options, width=width, X_test=task.X_test, samples=40, chains=4, burn_in=60, rng=net_rng
    )
    assert nets.test is not None
    assert nets.test_variance is not None
    arrays = {name: np.stack([found[name].mean[:, 0], found[name].mean_error[:, 0]]) for name in KERNELS}
    arrays |= {
        "outputs": np.stack([nets.test.mean, nets.test.standard_error]),
        "fluctuation": np.sqrt(nets.test_variance),
        "test_labels": task.y_test,
        "losses": np.array([found[name].loss for name in KERNELS]),
        "scatter_width": np.array(float(width)),
        "scatter_converged": np.array(float(theory.status.name == "CONVERGED")),
    }
    return arrays


def compute(quick: bool, rng: np.random.Generator) -> Arrays:
    """Return densities for both activations, lazy and rich, and predictions at test images."""
    data_rng, scatter_rng, *children = rng.spawn(2 + len(ACTIVATIONS) * len(STRENGTHS))
    points, _, width, networks = _sizes(quick)
    task = digits(classes=CLASSES, samples=points, rng=data_rng)
    arrays: Arrays = {"width": np.array(float(width)), "count": np.array(float(networks))}
    cases = [(activation, gamma0) for activation in ACTIVATIONS for gamma0 in STRENGTHS]
    for (activation, gamma0), child in zip(cases, children, strict=True):
        found = _density(task, activation, gamma0, quick, child)
        arrays |= {f"{name}_{activation}_{gamma0:g}": values for name, values in found.items()}
    return arrays | _predictions(quick, scatter_rng)


def _draw_density(ax: Axes, arrays: Arrays, activation: str, gamma0: float) -> None:
    case = f"{activation}_{gamma0:g}"
    grid, (density, error), sd = arrays[f"points_{case}"], arrays[f"theory_{case}"], arrays[f"prior_sd_{case}"]
    edges, (mean, spread) = arrays[f"edges_{case}"], arrays[f"networks_{case}"]
    ax.fill_between(grid, density - 2 * error, density + 2 * error, color=COLOR, alpha=0.3, linewidth=0)
    ax.plot(grid, density, color=COLOR, label="theory")
    ax.plot(grid, np.exp(-((grid / sd) ** 2) / 2) / (sd * np.sqrt(2 * np.pi)), "k:", linewidth=1, label="prior, Gaussian")
    label, filled = rf"networks, $N = {int(arrays['width'])}$", mean > 0
    centres = (edges[1:] + edges[:-1]) / 2
    points_with_errors(ax, centres[filled], mean[filled], 2 * spread[filled], color="k", markersize=2.5, zorder=4, label=label)
    # The tail of ReLU networks shows on a logarithmic scale only.
    scale: dict[str, Any] = {"yscale": "log", "ylim": (3e-4, 1)} if activation == "relu" else {"ylim": (0, 0.5)}
    ax.set(xlim=edges[[0, -1]], xlabel=r"preactivation $h^1$", **scale)
    ax.set_title(rf"{ {'relu': 'ReLU'}.get(activation, activation) }, $\gamma_0 = {gamma0:g}$")


def _draw_predictions(scatter: Axes, difference: Axes, arrays: Arrays) -> None:
    outputs, error = arrays["outputs"]
    reach = 1.08 * max(np.abs(arrays[name][0]).max() for name in ("outputs", *KERNELS))
    scatter.plot([-reach, reach], [-reach, reach], color="0.8", linewidth=0.8, zorder=0)
    difference.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    for name, (color, marker, label) in KERNELS.items():
        style: dict[str, Any] = {"color": color, "markersize": 4, "markeredgewidth": 0.8, "markerfacecolor": "none"}
        values, uncertainty = arrays[name]
        scatter.plot(outputs, values, marker, **style, label=label)
        bars = 2 * np.hypot(error, uncertainty)
        points_with_errors(difference, outputs, values - outputs, bars, fmt=marker, elinewidth=0.5, capsize=0, **style)
    limits: dict[str, Any] = {"xlim": (-reach, reach), "xticks": (-1, 0, 1)}
    scatter.set(ylabel="kernel predictor", ylim=(-reach, reach), yticks=(-1, 0, 1), **limits)
    scatter.set_title(rf"ReLU, $\beta = {SCATTER_BETA:g}$, $\gamma_0 = {SCATTER_GAMMA0:g}$, test images")
    scatter.legend(loc="upper left", handletextpad=0.2)
    difference.set(xlabel=rf"output of networks, $N = {int(arrays['scatter_width'])}$", ylabel="predictor $-$ networks", **limits)


def draw(arrays: Arrays) -> Figure:
    """Left: densities, lazy and rich columns, one activation per row. Right: predictions at test images."""
    figure = plt.figure(figsize=(8.4, 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.6, 1))
    axes = left.subplots(len(ACTIVATIONS), len(STRENGTHS), squeeze=False)
    for row, activation in zip(axes, ACTIVATIONS, strict=True):
        for ax, gamma0 in zip(row, STRENGTHS, strict=True):
            _draw_density(ax, arrays, activation, gamma0)
        row[0].set_ylabel("density")
    left.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    _draw_predictions(*right.subplots(2, 1, height_ratios=(2, 1)), arrays)
    return figure


def _apart(arrays: Arrays, case: str) -> float:
    """Mean squared distance of histograms from the theory in standard errors; 1 if they agree."""
    edges, (mean, spread) = arrays[f"edges_{case}"], arrays[f"networks_{case}"]
    grid, (density, error) = arrays[f"points_{case}"], arrays[f"theory_{case}"]
    fine = np.linspace(edges[:-1], edges[1:], 41)
    expected, sampling = (np.trapezoid(np.interp(fine, grid, f), fine, axis=0) / np.diff(edges) for f in (density, error))
    filled = mean * np.diff(edges) * arrays[f"neurons_{case}"].size > 25
    return float(np.mean(((mean - expected)[filled] / np.hypot(spread, sampling)[filled]) ** 2))


def _moments(x: NDArray[np.float64], weights: NDArray[np.float64]) -> list[float]:
    """Second moment and normalised fourth one, 3 for a Gaussian of mean 0."""
    second, fourth = weights @ x**2 / weights.sum(), weights @ x**4 / weights.sum()
    return [float(second), float(fourth / second**2)]


def numbers(arrays: Arrays) -> dict[str, object]:
    """Moments of the densities, distances of the networks' histograms, errors of the predictors."""
    record: dict[str, object] = {"width": int(arrays["width"]), "networks": int(arrays["count"])}
    for case in (f"{activation}_{gamma0:g}" for activation in ACTIVATIONS for gamma0 in STRENGTHS):
        h, grid, density = arrays[f"neurons_{case}"].ravel(), arrays[f"points_{case}"], arrays[f"theory_{case}"][0]
        record[case] = {
            "prior_variance": float(arrays[f"prior_sd_{case}"] ** 2),
            "moments_theory": _moments(grid, density),
            "moments_networks": _moments(h, np.ones(h.size)),
            "mean_square_z_of_histogram": _apart(arrays, case),
            "converged": bool(arrays[f"converged_{case}"]),
        }
    outputs = arrays["outputs"][0]
    record["predictions"] = {
        "width": int(arrays["scatter_width"]),
        "converged": bool(arrays["scatter_converged"]),
        "rms_from_networks": {name: float(np.sqrt(np.mean((arrays[name][0] - outputs) ** 2))) for name in KERNELS},
        "rms_standard_errors": {name: float(np.sqrt(np.mean(arrays[name][1] ** 2))) for name in ("outputs", "aNBK")},
        "rms_posterior_fluctuation": float(np.sqrt(np.mean(arrays["fluctuation"] ** 2))),
        "test_loss": dict(zip(KERNELS, arrays["losses"].tolist(), strict=True)),
    }
    return record
