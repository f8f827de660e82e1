"""Weak feature learning in nonlinear networks: first order in gamma0^2 against the full equations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import solve_perturbation
from linkern.bayes.montecarlo import solve_montecarlo
from linkern.bayes.montecarlo.observables.sites import SaddleSample
from linkern.bayes.perturbation_truncation import missing_terms
from linkern.data import Task, digits
from linkern.plotting import points_with_errors, shades

TITLE = "kernels and predictions of weakly rich networks: perturbation theory and the full equations"
SOURCE = "linkern; perturbation theory as in Lauditi, Bordelon, Pehlevan (2025)"

ACTIVATIONS = ("relu", "tanh")
NAMES = {"relu": "ReLU", "tanh": "tanh"}
DEPTH, BETA = 2, 10.0
POINTS, TESTS = 8, 12
STRENGTHS = np.array([0.07, 0.12, 0.2, 0.35])
# Strengths at which predictions are compared, from `STRENGTHS`.
SHOWN = (1, 2)


def _compare(task: Task, activation: str, quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """One activation: growth of the kernels along its first order, in units of it, and change of the predictions."""
    setting = {"activation": activation, "depth": DEPTH, "beta": BETA}
    sampling = {"tol": 0.02, "particles": 1024} if quick else {"tol": 0.002}
    averages = {"tol": 0.02, "samples": 2**16} if quick else {"tol": 0.005}
    series_rng, *children = rng.spawn(1 + len(STRENGTHS))
    series = solve_perturbation(task.X, task.y, gamma0=1.0, rng=series_rng, **averages, **setting)
    lazy, first = series.lazy_kernels, series.kernel_slopes
    squared = np.einsum("lij,lij->l", first, first)[1:]

    def along(sample: SaddleSample) -> NDArray[np.float64]:
        return np.einsum("lij,lij->l", sample.kernels - lazy, first)[1:] / squared

    prediction = series.predict(task.X_test)
    full = [
        solve_montecarlo(task.X, task.y, gamma0=gamma0, rng=own, raise_on_failure=False, **sampling, **setting)
        for gamma0, own in zip(STRENGTHS, children, strict=True)
    ]
    growth = [solution.estimate(along) for solution in full]
    outputs = [solution.prediction(task.X_test) for solution in full]
    return {
        "ratios": np.array([series.growth, series.feedback]),
        "size": np.linalg.norm(first[1:], axis=(1, 2)) / np.linalg.norm(lazy[1:], axis=(1, 2)),
        "slope": np.array([g.value for g in growth]) / STRENGTHS[:, None] ** 2,
        "slope_error": np.array([g.standard_error for g in growth]) / STRENGTHS[:, None] ** 2,
        "first": prediction.correction,
        "first_error": prediction.standard_error,
        "change": np.array([f.value for f in outputs]) - prediction.lazy,
        "change_error": np.array([f.standard_error for f in outputs]),
        "status": np.array([solution.status.name for solution in full]),
    }


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return growth of the kernels and change of the predictions, by both theories, for every activation and gamma0."""
    task = digits(classes=(3, 8), samples=POINTS, test=TESTS, center=True, rng=0)
    arrays = {"gamma0": STRENGTHS}
    for activation, child in zip(ACTIVATIONS, rng.spawn(len(ACTIVATIONS)), strict=True):
        arrays |= {f"{name}_{activation}": value for name, value in _compare(task, activation, quick, child).items()}
    return arrays


def _draw_growth(ax: Axes, arrays: dict[str, NDArray[np.float64]], activation: str) -> None:
    x = arrays["gamma0"]
    fine = np.geomspace(x[0] / 1.15, 1.15 * x[-1], 100)
    # In units of first order it is the same for all layers.
    ratios = fine[:, None] ** 2 * arrays[f"ratios_{activation}"]
    band = np.concatenate([missing_terms(np.ones(1), None, 1, growth, feedback) for growth, feedback in ratios])
    ax.fill_between(fine, 1 - band, 1 + band, color="k", alpha=0.12, linewidth=0, label="estimated error")
    for layer, color in enumerate(shades(DEPTH, plt.get_cmap("viridis"))):
        slope, error = arrays[f"slope_{activation}"][:, layer], arrays[f"slope_error_{activation}"][:, layer]
        # Side by side: layers share their gamma0.
        points_with_errors(ax, x * (1 + 0.03 * (layer - 0.5)), slope, error, color=color, label=rf"$\ell = {layer + 1}$")
    ax.axhline(1.0, color="k", linewidth=0.9, label="first order")
    ax.set(xscale="log", xlim=(fine[0], fine[-1]), ylim=(0.0, 1.6), xlabel=r"$\gamma_0$")
    ax.set_xticks(x, [f"{g:g}" for g in x])
    ax.minorticks_off()


def _draw_predictions(ax: Axes, arrays: dict[str, NDArray[np.float64]], activation: str) -> None:
    reach = 0.0
    for index, color, marker in zip(SHOWN, ("#1b6ca8", "#d1495b"), "os", strict=True):
        gamma0 = arrays["gamma0"][index]
        first, error = (gamma0**2 * arrays[f"{name}_{activation}"] for name in ("first", "first_error"))
        change, noise = (arrays[f"{name}_{activation}"][index] for name in ("change", "change_error"))
        points_with_errors(ax, first, change, noise, xerr=error, fmt=marker, color=color, label=rf"$\gamma_0 = {gamma0:g}$")
        reach = max(reach, 1.15 * float(np.abs(first).max()))
    ax.plot([-reach, reach], [-reach, reach], color="k", linewidth=0.9, zorder=0, label="first order")
    ax.set(xlim=(-reach, reach), ylim=(-0.75 * reach, 0.75 * reach), xlabel=r"first order, $\gamma_0^2 f_1$")


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Left: growth of the kernels over its first order (bands: what the series estimates to leave out). Right: predictions."""
    figure, axes = plt.subplots(1, 4, figsize=(9.0, 2.4))
    for activation, growth, predictions in zip(ACTIVATIONS, axes[:2], axes[2:], strict=True):
        _draw_growth(growth, arrays, activation)
        _draw_predictions(predictions, arrays, activation)
        growth.set_title(f"{NAMES[activation]}, kernels")
        predictions.set_title(f"{NAMES[activation]}, test inputs")
    axes[0].set_ylabel(r"growth over $\gamma_0^2\,\Phi^\ell_1$")
    axes[0].legend(loc="lower left", fontsize=6.5)
    axes[2].set_ylabel(r"change of $f$")
    axes[2].legend(loc="upper left", fontsize=6.5, handletextpad=0.2)
    for ax, letter in zip(axes, "abcd", strict=True):
        ax.text(-0.02, 1.02, f"({letter})", transform=ax.transAxes, ha="right", va="bottom", fontsize=8)
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Growth of kernels and change of predictions in units of first order, by gamma0 and layer."""
    x = arrays["gamma0"]
    record: dict[str, object] = {"gamma0": x.tolist(), "depth": DEPTH, "beta": BETA}
    for activation in ACTIVATIONS:
        get = {key.removesuffix(f"_{activation}"): value for key, value in arrays.items() if key.endswith(f"_{activation}")}
        change, first = get["change"], x[:, None] ** 2 * get["first"]
        record[activation] = {
            "relative_first_order_change_by_layer_at_gamma0_1": get["size"].tolist(),
            "growth_over_first_order": get["slope"].tolist(),
            "growth_error": get["slope_error"].tolist(),
            "change_of_predictions_over_first_order": ((change * first).sum(axis=1) / (first**2).sum(axis=1)).tolist(),
            "status": get["status"].tolist(),
        }
    return record
