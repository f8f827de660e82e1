"""Train and test discrepancy from standard to mean-field scaling: theories as lines, exactly sampled networks as points."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import Spectrum, solve_linear, solve_width
from linkern.data import Task, digits, ising_teacher
from linkern.networks import sample_linear_posterior
from linkern.plotting import points_with_errors

TITLE = "train and test discrepancy against the scaling chi: NNGP, tree level, one loop, exact, networks"
SOURCE = "Rubin et al. (2025), the setting of their linear networks"

KAPPA0, DEPTH, WIDTH, TRAIN, TEST = 0.3, 1, 60, 40, 60
STYLES = {
    "NNGP": {"color": "0.6", "linestyle": "--"},
    "tree": {"color": "#1b6ca8"},
    "one-loop": {"color": "#d1495b"},
    "exact": {"color": "k", "linestyle": ":", "linewidth": 2.2},
}
TASKS = {"teacher": "Ising teacher", "digits": "digits 3 and 8"}
Arrays = dict[str, NDArray[np.float64]]


def _sizes(quick: bool) -> tuple[int, int, int, int]:
    """Points in chi, networks among them, sweeps and chains."""
    return (13, 4, 200, 16) if quick else (25, 7, 4000, 32)


def _task(name: str, rng: np.random.Generator) -> Task:
    if name == "teacher":
        return ising_teacher(samples=TRAIN, dimension=TRAIN, test=TEST, rng=rng)
    return digits(classes=(3, 8), samples=TRAIN, test=TEST, center=True, rng=rng)


def _predictions(task: Task, spectrum: Spectrum, method: str, chi: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean output at the training and at the test inputs."""
    if method == "NNGP":
        # The limit of infinite width; chi drops out, because kernel and ridge shrink together.
        lazy = solve_linear(spectrum=spectrum, depth=DEPTH, gamma0=0.0, beta=1 / KAPPA0)
        return lazy.fitted, lazy.predict(task.X_test)
    solution = solve_width(spectrum=spectrum, depth=DEPTH, width=WIDTH, chi=chi, ridge=KAPPA0 / chi, method=method)
    return solution.fitted, solution.predict(task.X_test)


def _discrepancies(task: Task, rng: np.random.Generator, quick: bool) -> tuple[NDArray[np.float64], ...]:
    """Mean square (f - y)^2 of theories (methods, train/test, chi), and of networks (chi, mean, error, mean, error)."""
    points, networks, sweeps, chains = _sizes(quick)
    spectrum = Spectrum.from_data(task.X, task.y)
    chis = np.geomspace(1, WIDTH, points)
    labels = (task.y, task.y_test)
    theory = np.empty((len(STYLES), 2, points))
    for i, method in enumerate(STYLES):
        for j, chi in enumerate(chis):
            outputs = _predictions(task, spectrum, method, float(chi))
            theory[i, :, j] = [np.mean((f - y) ** 2) for f, y in zip(outputs, labels, strict=True)]
    rows = []
    for chi in chis[np.linspace(0, points - 1, networks).round().astype(int)]:
        sampled = sample_linear_posterior(
            task.X,
            task.y,
            X_test=task.X_test,
            depth=DEPTH,
            width=WIDTH,
            chi=float(chi),
            ridge=KAPPA0 / chi,
            samples=sweeps,
            chains=chains,
            burn_in=50,
            rng=rng,
        )
        row = [chi]
        for estimate, y in zip((sampled.fitted, sampled.test), labels, strict=True):
            miss, error = estimate.mean - y, estimate.standard_error
            # The square of a noisy mean is too large by its variance. Errors of different points come from the same networks:
            # their sum bounds the error of the average however they are correlated.
            row += [np.mean(miss**2 - error**2), 2 * np.mean(np.abs(miss) * error)]
        rows.append(row)
    return chis, theory, np.array(rows)


def compute(quick: bool, rng: np.random.Generator) -> Arrays:
    """Return the discrepancies for both tasks."""
    arrays: Arrays = {}
    for name, child in zip(TASKS, rng.spawn(len(TASKS)), strict=True):
        chis, theory, networks = _discrepancies(_task(name, child), child, quick)
        arrays |= {f"chi_{name}": chis, f"theory_{name}": theory, f"networks_{name}": networks}
    return arrays


def draw(arrays: Arrays) -> Figure:
    """Columns: tasks; rows: training and test points."""
    figure, axes = plt.subplots(2, 2, figsize=(6.6, 4.6), sharex=True)
    for column, (name, title) in enumerate(TASKS.items()):
        networks = arrays[f"networks_{name}"]
        for row, part in enumerate(("train", "test")):
            ax = axes[row, column]
            for curve, (method, style) in zip(arrays[f"theory_{name}"], STYLES.items(), strict=True):
                ax.plot(arrays[f"chi_{name}"], curve[row], label=method, **style)
            mean, error = networks[:, 1 + 2 * row], networks[:, 2 + 2 * row]
            points_with_errors(ax, networks[:, 0], mean, error, color="k", label=rf"networks, $N = {WIDTH}$")
            ax.set(xscale="log", ylabel=rf"{part} discrepancy $\langle (\bar f - y)^2 \rangle$")
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel(r"scaling $\chi$ (1: standard, $N$: mean field)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def numbers(arrays: Arrays) -> dict[str, object]:
    """Largest relative distance of each theory from the exact curve, and of the networks in standard errors."""
    summary: dict[str, object] = {"width": WIDTH, "depth": DEPTH, "training_points": TRAIN}
    exact = list(STYLES).index("exact")
    for name in TASKS:
        theory, networks = arrays[f"theory_{name}"], arrays[f"networks_{name}"]
        apart = np.abs(theory / theory[exact] - 1).max(axis=(1, 2))
        summary[f"largest_relative_distance_{name}"] = dict(zip(STYLES, apart.tolist(), strict=True))
        nearest = np.searchsorted(arrays[f"chi_{name}"], networks[:, 0] * (1 - 1e-9))
        z = [(networks[:, 1 + 2 * i] - theory[exact, i, nearest]) / networks[:, 2 + 2 * i] for i in range(2)]
        summary[f"networks_z_{name}"] = np.round(z, 2).tolist()
    return summary
