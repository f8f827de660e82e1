"""Finite width from lazy to mean field: accuracy of each theory, what tells kernels apart, and a bimodal posterior."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import Spectrum, solve_width
from linkern.data import digits, linear_teacher
from linkern.networks import sample_linear_posterior

TITLE = "exact finite width, its expansions, and networks"
SOURCE = "linkern; the setting of the multi-scale adaptive theory"

KAPPA0, DEPTH, WIDTH = 0.3, 1, 60
METHODS = ("NNGP", "tree", "one-loop", "saddle", "saddle-nlo")
COLORS = dict(zip(METHODS, ("#888888", "#1b6ca8", "#d1495b", "#66a182", "#edae49"), strict=True))
TASKS = ("teacher", "digits")
Arrays = dict[str, NDArray[np.float64]]


def _sizes(quick: bool) -> tuple[int, int, int]:
    """Points in chi, and sweeps and chains of the networks."""
    return (7, 150, 16) if quick else (13, 1500, 32)


def _nngp(spectrum: Spectrum, X_new: NDArray[np.float64]) -> NDArray[np.float64]:
    """The wide limit; chi drops out because kernel and ridge shrink together."""
    X = spectrum.data_matrix
    weights = np.linalg.solve(spectrum.dense() + KAPPA0 * np.eye(spectrum.samples), spectrum.labels[:, 0])
    return np.asarray(X_new @ (X.T @ weights) / X.shape[1])


def _along_chi(name: str, quick: bool, rng: np.random.Generator) -> Arrays:
    """Errors of the test mean, overlaps and bulk traces, and what networks show at three values of chi."""
    points, sweeps, chains = _sizes(quick)
    if name == "teacher":
        task = linear_teacher(samples=30, dimension=30, test=40, noise=0.5, rng=rng)
    else:
        task = digits(classes=(3, 8), samples=30, test=40, center=True, rng=rng)
    spectrum = Spectrum.from_data(task.X, task.y)
    chis = np.geomspace(1, WIDTH, points)
    errors, seen, networks = [], [], []
    for index, chi in enumerate(chis):
        options = {"depth": DEPTH, "width": WIDTH, "chi": float(chi), "ridge": KAPPA0 / chi}
        exact = solve_width(spectrum=spectrum, **options)
        truth = exact.predict(task.X_test)
        means = [_nngp(spectrum, task.X_test)]
        means += [solve_width(spectrum=spectrum, method=m, **options).predict(task.X_test) for m in METHODS[1:]]
        errors.append([np.linalg.norm(mean - truth) / np.linalg.norm(truth) for mean in means])
        adaptation = exact.adaptation()
        seen.append([adaptation.overlaps[1], adaptation.bulk_traces[1], adaptation.rescalings[1]])
        if index % (points // 2) == 0:
            sampled = sample_linear_posterior(
                task.X, task.y, X_test=task.X_test, samples=max(sweeps, 32), chains=chains, burn_in=50, rng=rng, **options
            )
            Phi, y = sampled.kernels.mean[0][:30, :30], task.y
            overlap = y @ Phi @ y / (y @ spectrum.dense() @ y)
            lazy = spectrum.dense()
            bulk = (np.trace(Phi) - y @ Phi @ y / (y @ y)) / (np.trace(lazy) - y @ lazy @ y / (y @ y))
            # The distance that sampling noise alone would give.
            floor = np.linalg.norm(sampled.test.standard_error) / np.linalg.norm(truth)
            networks.append([chi, np.linalg.norm(sampled.test.mean - truth) / np.linalg.norm(truth), floor, overlap, bulk])
    return {
        f"chi_{name}": chis,
        f"errors_{name}": np.array(errors),
        f"seen_{name}": np.array(seen),
        f"networks_{name}": np.array(networks),
    }


def _along_width(rng: np.random.Generator) -> Arrays:
    """Errors at fixed P = 20 in mean-field scaling."""
    task = linear_teacher(samples=20, dimension=20, test=40, noise=0.5, rng=rng)
    spectrum = Spectrum.from_data(task.X, task.y)
    sizes, errors = np.array([20, 80, 320, 1280, 5120]), []
    for N in sizes:
        options = {"spectrum": spectrum, "depth": 2, "width": int(N), "chi": float(N), "ridge": KAPPA0 / N}
        truth = solve_width(**options).predict(task.X_test)
        means = [solve_width(method=m, **options).predict(task.X_test) for m in METHODS[1:]]
        errors.append([np.linalg.norm(mean - truth) / np.linalg.norm(truth) for mean in means])
    return {"widths": sizes.astype(float), "errors_width": np.array(errors)}


def _transition() -> Arrays:
    """The posterior of ln Q across a first-order transition: one data point, L = 3, N = 10."""
    spectrum, beta = Spectrum.from_modes([1.0], [1.0]), 1e-3
    arrays = {}
    for strength in (0.036, 0.04, 0.044):
        chi = strength / beta**2 * 10
        nodes = solve_width(spectrum=spectrum, depth=3, width=10, chi=chi, ridge=1 / (beta * chi)).nodes
        if nodes is not None:
            arrays[f"density_{strength}"] = np.array([nodes.t, nodes.log_density])
    return arrays


def compute(quick: bool, rng: np.random.Generator) -> Arrays:
    """Return errors along chi for two tasks, errors along N, kernel observables and the posterior of ln Q."""
    arrays: Arrays = {}
    for name in TASKS:
        arrays |= _along_chi(name, quick, rng)
    return arrays | _along_width(rng) | _transition()


def _draw_errors(ax: Axes, arrays: Arrays, name: str) -> None:
    for index, method in enumerate(METHODS):
        ax.plot(arrays[f"chi_{name}"], arrays[f"errors_{name}"][:, index], color=COLORS[method], label=method)
    ax.set(xscale="log", yscale="log", xlabel=r"$\chi$", ylabel="error of the test mean")
    ax.set_title(rf"{name}, $N = {WIDTH}$, $L = {DEPTH}$")


def draw(arrays: Arrays) -> Figure:
    """Top: errors against chi (two tasks) and against N. Bottom: overlap, bulk trace, posterior of ln Q."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.4))
    for ax, name in zip(axes[0], TASKS, strict=False):
        _draw_errors(ax, arrays, name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    for index, method in enumerate(METHODS[1:]):
        axes[0, 2].plot(arrays["widths"], arrays["errors_width"][:, index], "o-", color=COLORS[method], label=method)
    axes[0, 2].set(xscale="log", yscale="log", xlabel="$N$", ylabel="error of the test mean", title=r"$\chi = N$, $L = 2$")
    chi, seen, networks = arrays["chi_teacher"], arrays["seen_teacher"], arrays["networks_teacher"]
    for column, (ax, label) in enumerate(zip(axes[1], ("overlap along $y$", "bulk trace"), strict=False)):
        ax.plot(chi, seen[:, column], color=COLORS["tree"], label="exact")
        ax.plot(chi, seen[:, 2], color=COLORS["NNGP"], linestyle="--", label="rescaled kernel")
        ax.plot(networks[:, 0], networks[:, 3 + column], "ko", markersize=3, label="networks")
        ax.set(xscale="log", xlabel=r"$\chi$", ylabel=label)
    axes[1, 1].legend()
    for name, (t, log_density) in ((n, v) for n, v in arrays.items() if n.startswith("density_")):
        axes[1, 2].plot(t, np.exp(log_density), label=rf"$\gamma_0^2\beta^2 = {name.removeprefix('density_')}$")
    axes[1, 2].set_title("one point, $L = 3$, $N = 10$")
    axes[1, 2].set(xlabel=r"$\ln Q$", ylabel="posterior density", yscale="log", ylim=(1e-4, 3), xlim=(-5, 18))
    axes[1, 2].legend(loc="upper right")
    return figure


def numbers(arrays: Arrays) -> dict[str, object]:
    """Slopes in 1/N, how far networks are from the exact mean in standard errors, and the largest rescaling."""
    slopes = np.log(arrays["errors_width"][-2] / arrays["errors_width"][-1]) / np.log(4)
    return {
        "slopes_in_width": dict(zip(METHODS[1:], np.round(slopes, 3).tolist(), strict=True)),
        "network_error_over_floor": {n: (arrays[f"networks_{n}"][:, 1] / arrays[f"networks_{n}"][:, 2]).tolist() for n in TASKS},
        "bulk_and_rescaling_at_largest_chi": arrays["seen_teacher"][-1, 1:].tolist(),
    }
