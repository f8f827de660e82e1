"""Training two-layer ReLU networks on digits with weight decay, to the end: losses in time, and the neurons that remain."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.data import digits
from linkern.flow import relax
from linkern.networks.gradient_flow import train_networks
from linkern.plotting import points_with_errors, shades

TITLE = "training with weight decay: losses in time for several gamma0 and densities of neurons at the end"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), mean-field theory with weight decay"

STRENGTHS, DECAY, CLASSES, TEST = (1.0, 2.0, 4.0), 1.0, (3, 8), 60
BINS = {"h": 61, "z": 31}


def _steps(kernel: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """Steps that grow from short ones, for the fast beginning, to half of what is stable with the final tangent kernel."""
    longest = 1 / np.linalg.eigvalsh(kernel)[-1]
    steps = longest * np.minimum(1.0, 0.03 * 1.02 ** np.arange(int(end / longest) + 250))
    return steps[: np.searchsorted(np.cumsum(steps), end) + 1]


def _density(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.histogram(values, bins=edges)[0] / (values.size * np.diff(edges))


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return mean square errors in time, and densities of h and z at the last time for the largest gamma0."""
    points, samples, width, count, end = (40, 1000, 800, 3, 6.0) if quick else (200, 5000, 2000, 4, 10.0)
    data_rng, *children = rng.spawn(1 + len(STRENGTHS))
    data = digits(classes=CLASSES, samples=points, test=TEST, rng=data_rng)
    times = np.concatenate([[0.0], np.geomspace(0.02 / points, end, 50)])
    arrays = {"times": times, "width": np.array(width), "samples": np.array(samples)}
    for gamma0, child in zip(STRENGTHS, children, strict=True):
        theory_rng, net_rng = child.spawn(2)
        settings = {"gamma0": gamma0, "weight_decay": DECAY, "activation": "relu", "X_test": data.X_test}
        theory = relax(data.X, data.y, times=times, samples=samples, replicas=2, rng=theory_rng, **settings)
        steps = _steps(theory.tangent_kernels[1][:points], end)
        nets = train_networks(
            data.X, data.y, depth=1, width=width, steps=steps, networks=count, centred=True, dtype=np.float32, rng=net_rng,
            record_every=5, **settings,
        )  # fmt: skip
        values = {
            "train": 2 * theory.losses / points,
            "test": np.mean((theory.test_outputs - data.y_test) ** 2, axis=1),
            "net_times": nets.times,
            "net_train": 2 * nets.losses / points,
            "net_test": np.mean((nets.test_outputs - data.y_test) ** 2, axis=2),
            "rest": np.array(theory.rest),
            "error": theory.error,
            "kernel_products": np.array(theory.kernel_products),
        }
        if gamma0 == STRENGTHS[-1]:
            W, w = nets.final_weights
            h = (W @ data.X.T.astype(W.dtype)) / np.sqrt(data.X.shape[1])
            for name, theory_values, net_values in (
                ("h", theory.preactivations.ravel(), h.ravel()),
                ("z", theory.backward_fields[0, :, 0], w.ravel()),
            ):
                # An odd number of bins has the peak at zero in the middle of one.
                edges = np.linspace(-1, 1, BINS[name] + 1) * np.quantile(np.abs(theory_values), 0.999)
                values |= {
                    f"{name}_edges": edges,
                    f"{name}_density": _density(theory_values, edges),
                    f"{name}_net_density": _density(net_values, edges),
                }
        arrays |= {f"{name}_{gamma0:g}": value for name, value in values.items()}
    return arrays


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Training and test errors in time, and densities of h and z."""
    figure, axes = plt.subplots(1, 4, figsize=(9.0, 2.3))
    colors = shades(len(STRENGTHS), plt.get_cmap("viridis"))
    t = arrays["times"][1:]
    for ax, part, label in ((axes[0], "train", "training error"), (axes[1], "test", "test error")):
        for gamma0, color in zip(STRENGTHS, colors, strict=True):
            ax.loglog(t, arrays[f"{part}_{gamma0:g}"][1:], color=color, label=rf"$\gamma_0 = {gamma0:g}$")
            net_times, errors = arrays[f"net_times_{gamma0:g}"], arrays[f"net_{part}_{gamma0:g}"]
            shown = np.unique(np.searchsorted(net_times, np.geomspace(net_times[1], net_times[-1], 14)))
            mean, spread = errors[:, shown].mean(0), errors[:, shown].std(0, ddof=1) / len(errors) ** 0.5
            points_with_errors(ax, net_times[shown], mean, spread, color=color, markersize=2.5)
        ax.set(xlabel=r"time $t$", ylabel=rf"{label} $\langle (f - y)^2 \rangle$")
    axes[0].legend(fontsize=7)
    last = STRENGTHS[-1]
    for ax, name, label in ((axes[2], "h", r"preactivation $h$"), (axes[3], "z", r"readout weight $z$")):
        edges = arrays[f"{name}_edges_{last:g}"]
        middle = (edges[1:] + edges[:-1]) / 2
        ax.stairs(arrays[f"{name}_density_{last:g}"], edges, color=colors[-1], linewidth=1.2, label="theory")
        ax.semilogy(middle, arrays[f"{name}_net_density_{last:g}"], "k.", markersize=2.5, label="networks")
        gauss = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
        ax.plot(middle, gauss, "--", color="0.6", linewidth=0.9, zorder=0, label="at the start")
        top, low = arrays[f"{name}_density_{last:g}"].max(), 2e-4
        ax.set(
            xlabel=label,
            ylabel="density",
            ylim=(low, (300 if name == "h" else 5) * top),
            title=rf"$t = {arrays['times'][-1]:g}$, $\gamma_0 = {last:g}$",
        )
    axes[2].legend(fontsize=6.5, loc="upper left")
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Errors at the end for theory and networks, and the certificates of the theory."""
    record: dict[str, object] = {"weight_decay": DECAY, "width": int(arrays["width"]), "samples": int(arrays["samples"])}
    for gamma0 in STRENGTHS:
        nets = {part: arrays[f"net_{part}_{gamma0:g}"][:, -1] for part in ("train", "test")}
        record[f"gamma0 = {gamma0:g}"] = {
            "train": float(arrays[f"train_{gamma0:g}"][-1]),
            "network_train": [float(nets["train"].mean()), float(nets["train"].std(ddof=1) / nets["train"].size ** 0.5)],
            "test": float(arrays[f"test_{gamma0:g}"][-1]),
            "network_test": [float(nets["test"].mean()), float(nets["test"].std(ddof=1) / nets["test"].size ** 0.5)],
            "rest": float(arrays[f"rest_{gamma0:g}"]),
            "largest_error_of_steps": float(arrays[f"error_{gamma0:g}"].max()),
            "kernel_products": float(arrays[f"kernel_products_{gamma0:g}"]),
        }
    return record
