"""Networks of finite width have two limits: fixed richness leads to the adaptive kernel, the standard scaling to the lazy one."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes.montecarlo import compare_predictors, solve_montecarlo
from linkern.data import Task, digits
from linkern.lazy import nngp_kernel
from linkern.networks import sample_collapsed
from linkern.plotting import points_with_errors
from linkern.solution import Status

TITLE = "finite width: test loss and kernels of networks at fixed richness and in the standard scaling"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), effects of finite width"

GAMMA0, BETA, CLASSES, POINTS, TEST = 0.3, 50.0, (3, 8), 20, 100
NETWORK: dict[str, Any] = {"depth": 1, "activation": "relu", "beta": BETA}
QUANTITIES = ("loss of the mean", "loss", "overlap")
#: Colour, marker and label of each scaling, and its limits: of the loss of the mean and of the loss.
SCALINGS = {
    "fixed": ("#d1495b", "o", rf"$\gamma_0 = {GAMMA0}$", ("aNBK", "aNBK")),
    "standard": ("#1b6ca8", "s", r"$\gamma_0 = N^{-1/2}$", ("NNGPK", "NNGP")),
}
Arrays = dict[str, NDArray[np.float64]]


def _sizes(quick: bool) -> tuple[tuple[int, ...], int, int, float]:
    """Widths, independent runs per width, samples per chain, tolerance of the theory."""
    return ((8, 32, 128, 512), 4, 80, 0.007) if quick else ((8, 16, 32, 64, 128, 256, 512, 1024), 16, 400, 0.003)


def _network(data: Task, width: int, gamma0: float, samples: int, rng: np.random.Generator) -> list[float]:
    """The QUANTITIES from one run."""
    options: dict[str, Any] = {"width": width, "gamma0": gamma0, "samples": samples, "chains": 4, "burn_in": 50}
    found = sample_collapsed(data.X, data.y, X_test=data.X_test, rng=rng, **options, **NETWORK)
    assert found.test is not None
    assert found.test_variance is not None
    # The square of a mean that has an error is too large by the square of that error.
    loss = np.mean((found.test.mean - data.y_test) ** 2 - found.test.standard_error**2)
    return [float(loss), float(loss + np.mean(found.test_variance)), float(found.overlaps.mean[0])]


def compute(quick: bool, rng: np.random.Generator) -> Arrays:
    """Return the QUANTITIES over the width of the networks, with errors, and at infinite width."""
    widths, runs, samples, tol = _sizes(quick)
    data_rng, theory_rng, *children = rng.spawn(2 + len(SCALINGS))
    data = digits(classes=CLASSES, samples=POINTS, test=TEST, rng=data_rng)
    solution = solve_montecarlo(data.X, data.y, gamma0=GAMMA0, tol=tol, rng=theory_rng, raise_on_failure=False, **NETWORK)
    theories = compare_predictors(solution, data.X_test, data.y_test)
    adapted, lazy = solution.overlaps(), nngp_kernel(data.X, depth=1, activation="relu")
    overlaps = {
        "fixed": [adapted.value[1], adapted.standard_error[1]],
        "standard": [data.y @ lazy @ data.y / POINTS, 0.0],
    }
    arrays: Arrays = {"widths": np.array(widths, dtype=float), "converged": np.array(solution.status is Status.CONVERGED)}
    for (scaling, (*_, names)), child in zip(SCALINGS.items(), children, strict=True):
        means, errors = [], []
        for N, one in zip(widths, child.spawn(len(widths)), strict=True):
            gamma0 = GAMMA0 if scaling == "fixed" else N**-0.5
            found = np.array([_network(data, N, gamma0, samples, each) for each in one.spawn(runs)])
            means.append(found.mean(axis=0))
            errors.append(found.std(axis=0, ddof=1) / np.sqrt(runs))
        arrays[f"networks_{scaling}"], arrays[f"errors_{scaling}"] = np.array(means), np.array(errors)
        losses = [[theories[name].loss, theories[name].loss_error] for name in names]
        arrays[f"limits_{scaling}"] = np.array([*losses, overlaps[scaling]])
    return arrays


def draw(arrays: Arrays) -> Figure:
    """Test loss of the posterior mean, expected test loss and overlap against N; both limits as lines."""
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.6))
    labels = ("test loss of the mean", "test loss, with variance", r"overlap $y^T \Phi^1 y / P$")
    lines = (("aNBK", "NNGPK"), ("aNBK", "NNGP"), ("aNBK", "lazy kernel"))
    N = arrays["widths"]
    for column, (ax, label, names) in enumerate(zip(axes, labels, lines, strict=True)):
        for (scaling, (color, marker, text, _)), name in zip(SCALINGS.items(), names, strict=True):
            limit, spread = arrays[f"limits_{scaling}"][column]
            ax.axhline(limit, color=color, linestyle="--", linewidth=1, label=name)
            ax.axhspan(limit - 2 * spread, limit + 2 * spread, color=color, alpha=0.2, linewidth=0)
            found, errors = arrays[f"networks_{scaling}"][:, column], arrays[f"errors_{scaling}"][:, column]
            points_with_errors(ax, N, found, 2 * errors, fmt=f"{marker}-", color=color, label=f"networks, {text}")
        ax.set_xscale("log", base=2)
        ax.set(xlabel="width $N$", ylabel=label)
        ax.set_xticks(N, [f"{width:g}" for width in N])
        ax.minorticks_off()
    handles, texts = axes[0].get_legend_handles_labels()
    lazy = [text.replace("NNGPK", "NNGPK, NNGP, lazy kernel") for text in texts]
    figure.legend(handles, lazy, loc="outside upper center", ncols=4)
    return figure


def numbers(arrays: Arrays) -> dict[str, object]:
    """Limits and networks with errors, and how far the widest are from their limit in standard errors."""
    record: dict[str, object] = {"gamma0": GAMMA0, "points": POINTS, "theory_converged": bool(arrays["converged"])}
    record["widths"] = arrays["widths"].tolist()
    for scaling in SCALINGS:
        limits, found, errors = (arrays[f"{part}_{scaling}"] for part in ("limits", "networks", "errors"))
        record[scaling] = {
            name: {
                "limit_and_error": limits[k].tolist(),
                "networks": found[:, k].tolist(),
                "errors": errors[:, k].tolist(),
                "width_times_distance": (arrays["widths"] * (found[:, k] - limits[k, 0])).tolist(),
                "widest_from_limit_in_errors": float((found[-1, k] - limits[k, 0]) / np.hypot(errors[-1, k], limits[k, 1])),
            }
            for k, name in enumerate(QUANTITIES)
        }
    return record
