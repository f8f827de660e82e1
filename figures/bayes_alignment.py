"""Deep networks align their kernels with the labels layer by layer, and return to the same kernels after a perturbation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes.montecarlo import MonteCarloSolution, solve_montecarlo
from linkern.data import Task, digits
from linkern.lazy import layer_kernels
from linkern.networks import MLP, extrapolate_width, sample_posterior
from linkern.plotting import points_with_errors, shades

TITLE = "alignment of every layer's kernel with the labels, sampled theory and networks; kernels as stable fixed points"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), deep Bayesian networks"

CLASSES, BETA = (0, 1), 5.0
# gamma0 of the theory, and those of them at which networks are compared with it.
STRENGTHS, COMPARED = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0), (0.3, 1.0, 4.0)
ACTIVATIONS = ("relu", "tanh")
# The networks that are perturbed.
RESTARTED, RESTART_GAMMA0 = "relu", 1.0
# Langevin step x (1 + stiffness); 2 is where it becomes unstable.
STABILITY = 0.5
Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]
Weights = tuple[NDArray[np.floating], ...]


def _none(weights: Weights, rng: np.random.Generator) -> Weights:
    return weights


def _noise(weights: Weights, rng: np.random.Generator) -> Weights:
    """Multiply every weight by a number of mean 1 and standard deviation 1/2: kernels grow."""
    return tuple(W * (1 + 0.5 * rng.standard_normal(W.shape)) for W in weights)


def _forget(weights: Weights, rng: np.random.Generator) -> Weights:
    """Mix with an equal share of a prior draw: kernels lose much of what was learned."""
    return tuple((W + rng.standard_normal(W.shape)) / np.sqrt(2) for W in weights)


PERTURBATIONS: dict[str, Callable[[Weights, np.random.Generator], Weights]] = {"none": _none, "noise": _noise, "forget": _forget}


def _sizes(quick: bool) -> tuple[int, int, float, tuple[int, int], int]:
    """Layers, images, tolerance of the theory, widths and samples of the networks."""
    return (2, 16, 0.02, (128, 384), 30) if quick else (4, 50, 0.01, (512, 1024), 100)


def _restarts(quick: bool) -> tuple[int, int, float]:
    """Width and number of perturbed networks, and how long they are followed, in relaxation times of the prior."""
    return (200, 8, 1.0) if quick else (512, 8, 1.0)


def _alignments(kernels: Floats, y: Floats) -> Floats:
    """(..., P, P) kernels to y^T Phi y / (|Phi|_F |y|^2)."""
    return (kernels @ y @ y) / (np.linalg.norm(kernels, axis=(-2, -1)) * (y @ y))


def _compared() -> list[float]:
    return [gamma0 for gamma0 in STRENGTHS if gamma0 in COMPARED]


def _along_gamma0(task: Task, activation: str, quick: bool, rng: np.random.Generator) -> tuple[Arrays, list[MonteCarloSolution]]:
    """Alignments of theory and networks, with errors."""
    depth, _, tol, widths, samples = _sizes(quick)
    settings: dict[str, Any] = {"depth": depth, "beta": BETA, "activation": activation}
    solutions, networks = [], []
    for gamma0, child in zip(STRENGTHS, rng.spawn(len(STRENGTHS)), strict=True):
        theory_rng, net_rng = child.spawn(2)
        options = {**settings, "gamma0": gamma0}
        solutions.append(solve_montecarlo(task.X, task.y, **options, tol=tol, rng=theory_rng, raise_on_failure=False))
        if gamma0 in COMPARED:
            sampling: dict[str, Any] = {"samples": samples, "burn_in": 60, "chains": 4, "rng": net_rng}
            wide = extrapolate_width(task.X, task.y, **options, widths=widths, **sampling)
            seen = (wide.runs[0].alignment, wide.alignment)
            networks.append([[estimate.mean, estimate.standard_error] for estimate in seen])
    theory = [solution.alignment() for solution in solutions]
    arrays = {
        "lazy": _alignments(layer_kernels(task.X, depth=depth, activation=activation), task.y),
        "theory": np.array([[estimate.value, estimate.standard_error] for estimate in theory]),
        "networks": np.array(networks),
        "converged": np.array([solution.status.name == "CONVERGED" for solution in solutions]),
    }
    return {f"{name}_{activation}": values for name, values in arrays.items()}, solutions


def _restart(task: Task, theory: MonteCarloSolution, quick: bool, rng: np.random.Generator) -> Arrays:
    """Distance of the mean kernel of perturbed networks from the theory's, under Langevin dynamics."""
    width, networks, duration = _restarts(quick)
    settings: dict[str, Any] = {
        "depth": len(theory.kernels) - 1,
        "width": width,
        "gamma0": RESTART_GAMMA0,
        "activation": RESTARTED,
    }
    mlp = MLP(task.X.shape[1], **settings)
    settings |= {"beta": BETA, "chains": networks, "dtype": np.float32}
    target = theory.kernels[1:]

    def distance(kernels: Floats) -> Floats:
        return np.linalg.norm(kernels - target, axis=(1, 2)) / np.linalg.norm(target, axis=(1, 2))

    def state(weights: Weights) -> Floats:
        return distance(mlp.kernels(mlp.forward(weights, task.X)).mean(axis=0))

    rest = sample_posterior(task.X, task.y, **settings, samples=40, rng=rng)
    step = STABILITY / (1 + rest.stiffness)
    # Legs of 4, 4, 8, 16, .. steps: a run keeps at least four samples.
    legs = [1] + [2**k for k in range(int(np.log2(duration / (4 * step))))]
    followed = []
    for perturb in PERTURBATIONS.values():
        weights = perturb(rest.final_weights, rng)
        seen = [state(weights)]
        for thin in legs:
            leg: dict[str, Any] = {
                "integrator": "langevin",
                "step": step,
                "burn_in": 0,
                "samples": 4,
                "thin": thin,
                "start": weights,
            }
            weights = sample_posterior(task.X, task.y, **settings, **leg, rng=rng).final_weights
            seen.append(state(weights))
        followed.append(seen)
    return {
        "times": step * 4 * np.concatenate([[0], np.cumsum(legs)]),
        "distances": np.array(followed),
        "distance_at_rest": distance(rest.kernels.mean),
        "restart_width": np.array(width),
        "restart_networks": np.array(networks),
    }


def compute(quick: bool, rng: np.random.Generator) -> Arrays:
    """Return alignments over gamma0 for both activations, and distances of perturbed networks' kernels in time."""
    data_rng, restart_rng, *children = rng.spawn(2 + len(ACTIVATIONS))
    task = digits(classes=CLASSES, samples=_sizes(quick)[1], rng=data_rng)
    arrays: Arrays = {"widths": np.array(_sizes(quick)[3])}
    for activation, child in zip(ACTIVATIONS, children, strict=True):
        found, solutions = _along_gamma0(task, activation, quick, child)
        arrays |= found
        if activation == RESTARTED:
            arrays |= _restart(task, solutions[STRENGTHS.index(RESTART_GAMMA0)], quick, restart_rng)
    return arrays


def _draw_alignment(ax: Axes, arrays: Arrays, activation: str) -> None:
    theory, networks, converged = (arrays[f"{name}_{activation}"] for name in ("theory", "networks", "converged"))
    strengths = np.array(STRENGTHS)
    labels: list[str | None] = [rf"networks, $N = {int(arrays['widths'][0])}$", r"networks, $N \to \infty$"]
    for l, color in enumerate(_colors(theory.shape[-1] - 1), start=1):
        ax.plot(STRENGTHS, theory[:, 0, l], color=color, linewidth=1, label=rf"theory, $l = {l}$")
        ax.axhline(arrays[f"lazy_{activation}"][l], xmax=0.1, color=color, linestyle=":")
        for some, marker in ((converged, "s"), (~converged, "D")):
            found = theory[some, :, l].T
            points_with_errors(ax, strengths[some], found[0], 2 * found[1], color=color, fmt=marker, mfc="w", markersize=6)
        finite, infinite = networks[:, 0, :, l - 1].T, networks[:, 1, :, l - 1].T
        ax.plot(_compared(), finite[0], "x", color="0.3", markersize=6, markeredgewidth=0.8, zorder=4, label=labels[0])
        points_with_errors(ax, _compared(), infinite[0], 2 * infinite[1], color="k", fmt=".", zorder=5, label=labels[1])
        labels = [None, None]
    ax.set(xscale="log", xlabel=r"$\gamma_0$", ylim=(0, 1.04), ylabel=r"alignment $A(\Phi^l, y y^\top)$")
    ax.set_title({"relu": "ReLU"}.get(activation, activation))


def _draw_restart(ax: Axes, arrays: Arrays, name: str) -> None:
    kinds, reach = list(PERTURBATIONS), 1.05 * arrays["distances"].max()
    for l, color in enumerate(_colors(arrays["distances"].shape[-1]), start=1):
        ax.plot(arrays["times"], arrays["distances"][kinds.index(name), :, l - 1], "o-", color=color, label=rf"$l = {l}$", ms=3)
        ax.plot(arrays["times"], arrays["distances"][kinds.index("none"), :, l - 1], color=color, linestyle=":", linewidth=1)
    ax.set_xscale("symlog", linthresh=arrays["times"][1], linscale=0.4)
    ax.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    ax.set(
        xlabel="Langevin time (the prior relaxes in 1)",
        xlim=(0, 1.1 * arrays["times"][-1]),
        ylabel=r"$|\Phi^l - \Phi^l_\infty|\,/\,|\Phi^l_\infty|$",
        ylim=(0, reach),
    )
    ax.set_title({"noise": "after noise on every weight", "forget": "after mixing with a prior draw"}[name])


def _colors(layers: int) -> Floats:
    return shades(layers, plt.get_cmap("viridis"))


def draw(arrays: Arrays) -> Figure:
    """Top: alignment over gamma0. Bottom: distance of network kernels from the theory's after two perturbations.

    Bars are two standard errors. Diamonds are theory that does not vouch for itself; lines only guide the eye.
    """
    figure, axes = plt.subplots(2, 2, figsize=(6.2, 4.8), sharey="row")
    for ax, activation in zip(axes[0], ACTIVATIONS, strict=True):
        _draw_alignment(ax, arrays, activation)
    if not all(arrays[f"converged_{activation}"].all() for activation in ACTIVATIONS):
        axes[0, 0].plot([], [], "D", color="0.5", mfc="w", markersize=6, label="theory, unreliable")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index].startswith("networks"))
    chosen = [handles[index] for index in order], [labels[index] for index in order]
    figure.legend(*chosen, loc="outside upper center", ncols=len(order) if len(order) < 5 else 3)
    for ax, name in zip(axes[1], ("noise", "forget"), strict=True):
        _draw_restart(ax, arrays, name)
    axes[1, 1].plot([], [], color="0.5", linestyle=":", linewidth=1, label="not perturbed")
    axes[1, 1].legend()
    for ax in axes[:, 1]:
        ax.set_ylabel("")
    return figure


def numbers(arrays: Arrays) -> dict[str, object]:
    """Alignments, their distance in standard errors, and how far perturbed kernels were and are from the theory's."""
    record: dict[str, object] = {
        "gamma0": list(STRENGTHS),
        "gamma0_of_networks": _compared(),
        "widths": arrays["widths"].tolist(),
    }
    both = [gamma0 in COMPARED for gamma0 in STRENGTHS]
    for activation in ACTIVATIONS:
        theory, networks = arrays[f"theory_{activation}"], arrays[f"networks_{activation}"]
        there = theory[both, :, 1:]
        apart = networks[:, 1, 0] - there[:, 0]
        record[activation] = {
            "theory": theory[:, 0].tolist(),
            "theory_error": theory[:, 1].tolist(),
            "lazy": arrays[f"lazy_{activation}"].tolist(),
            "limit_of_networks_minus_theory": apart.tolist(),
            "narrow_networks_minus_theory": (networks[:, 0, 0] - there[:, 0]).tolist(),
            "standard_errors_apart": (apart / np.hypot(networks[:, 1, 1], there[:, 1])).tolist(),
            "converged": arrays[f"converged_{activation}"].tolist(),
        }
    record["restart"] = {
        "width": int(arrays["restart_width"]),
        "networks": int(arrays["restart_networks"]),
        "mean_kernel_from_theory": arrays["distance_at_rest"].tolist(),
        "times": arrays["times"].tolist(),
        **{f"distance_{name}": values.tolist() for name, values in zip(PERTURBATIONS, arrays["distances"], strict=True)},
    }
    return record
