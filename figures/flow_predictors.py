"""Is a trained network a kernel machine with its final kernel? With weight decay yes, without it no: digits, two-layer ReLU."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.data import digits
from linkern.flow import relax
from linkern.networks.gradient_flow import train_networks

TITLE = "kernel predictors with the initial and the final kernel against trained networks, with and without weight decay"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), predictors of gradient flow"

GAMMA0, CLASSES, TEST = 4.0, (3, 8), 48
DECAYS = (0.0, 2.0)
KERNELS = {"initial": ("#d1495b", "x", "initial kernel"), "final": ("#1b6ca8", "o", "final kernel")}


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return outputs of networks, and of the theory's two predictors, on training and then test images."""
    points, samples, width, time = (60, 1000, 1500, 5.0) if quick else (300, 5000, 5000, 6.0)
    data_rng, *children = rng.spawn(1 + len(DECAYS))
    data = digits(classes=CLASSES, samples=points, test=TEST, rng=data_rng)
    arrays = {"y": data.y, "y_test": data.y_test, "width": np.array(width)}
    for decay, child in zip(DECAYS, children, strict=True):
        theory_rng, net_rng = child.spawn(2)
        settings = {"gamma0": GAMMA0, "activation": "relu", "weight_decay": decay, "X_test": data.X_test}
        theory = relax(data.X, data.y, times=[0, time], samples=samples, replicas=2, rng=theory_rng, **settings)
        # Half of the longest stable step at the end, where the tangent kernel is largest.
        step = 1 / np.linalg.eigvalsh(theory.tangent_kernels[1][:points])[-1]
        steps = np.full(int(np.ceil(time / step)), step)
        nets = train_networks(
            data.X, data.y, depth=1, width=width, steps=steps, record_every=steps.size, dtype=np.float32, rng=net_rng, **settings
        )
        values = {
            "network": np.concatenate([nets.outputs[0, -1], nets.test_outputs[0, -1]]),
            "theory": np.concatenate([theory.outputs[-1], theory.test_outputs[-1]]),
            "initial": theory.initial_kernel_outputs,
            "final": theory.kernel_outputs,
            "rest": np.array(theory.rest),
            "kernel_products": np.array(theory.kernel_products),
        }
        arrays |= {f"{name}_{decay:g}": value for name, value in values.items()}
    return arrays


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Scatter of test outputs, one panel per weight decay; training outputs in grey."""
    figure, axes = plt.subplots(1, len(DECAYS), figsize=(5.0, 2.9), sharey=True)
    P = arrays["y"].size
    reach = 1.08 * max(np.abs(arrays[f"{name}_{decay:g}"]).max() for name in ("network", *KERNELS) for decay in DECAYS)
    for ax, decay in zip(axes, DECAYS, strict=True):
        network = arrays[f"network_{decay:g}"]
        ax.plot([-reach, reach], [-reach, reach], color="0.8", linewidth=0.8, zorder=0)
        ax.plot(
            network[:P], arrays[f"final_{decay:g}"][:P], ".", color="0.45", markersize=3, label="final kernel, training images"
        )
        for name, (color, marker, label) in KERNELS.items():
            style = {"color": color, "markersize": 4, "markeredgewidth": 0.8, "markerfacecolor": "none"}
            ax.plot(network[P:], arrays[f"{name}_{decay:g}"][P:], marker, **style, label=f"{label}, test images")
        ax.set(xlabel="output of the network", title=rf"weight decay $\lambda = {decay:g}$", aspect="equal")
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes[0].set_ylabel(r"kernel predictor $K (K + 2\lambda)^{-1} y$")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=6.5, columnspacing=1.2, handletextpad=0.2)
    return figure


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Root mean square distances of predictors and theory from the network, on training and test images."""
    P = arrays["y"].size
    record: dict[str, object] = {"gamma0": GAMMA0, "width": int(arrays["width"]), "points": P}
    for decay in DECAYS:
        network, theory = arrays[f"network_{decay:g}"], arrays[f"theory_{decay:g}"]
        distances = {
            f"{name} from {what}, {part}": _distance(arrays[f"{name}_{decay:g}"][where], reference[where])
            for name in KERNELS
            for what, reference in (("network", network), ("theory", theory))
            for part, where in (("train", slice(0, P)), ("test", slice(P, None)))
        }
        distances["theory from network, test"] = _distance(theory[P:], network[P:])
        distances["rest"] = float(arrays[f"rest_{decay:g}"])
        distances["kernel products of the theory"] = float(arrays[f"kernel_products_{decay:g}"])
        record[f"weight decay {decay:g}"] = distances
    return record
