"""Training of a deep linear network: wide networks, the exact theory, and four simpler theories of the same run."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import Spectrum
from linkern.flow import gradient_independence, leading_perturbation, march, static_ntk
from linkern.networks.gradient_flow import train_networks
from linkern.plotting import kernel_image, points_with_errors, shades

TITLE = "deep linear training: loss and kernels over time, networks and five theories"
SOURCE = "Bordelon, Pehlevan (2022), deep linear comparison; alignment error against gamma0"

DEPTH, GAMMA0, STEP, TIMES, SAMPLES, INPUTS = 5, 1.5, 0.025, 100, 20, 40
STRENGTHS = np.linspace(0.25, 1.5, 6)
THEORIES = ("exact", "independent", "perturbative", "static")
LABELS = {
    "exact": "mean-field theory",
    "independent": "gradient independence",
    "perturbative": r"order $\gamma_0^2$",
    "static": "static NTK",
}
STYLES = {"exact": "-", "independent": "--", "perturbative": "-.", "static": ":"}
COLORS = {"exact": "#1b6ca8", "independent": "#d1495b", "perturbative": "#2e8b57", "static": "0.45"}


def _task(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian inputs and a linear target of norm one."""
    X = rng.standard_normal((SAMPLES, INPUTS))
    y = X @ rng.standard_normal(INPUTS)
    return X, y / np.linalg.norm(y)


def _overlaps(run, y: NDArray[np.float64], every: NDArray[np.int64]) -> NDArray[np.float64]:
    """y^T Phi^l(t, t) y / |y|^2 for l = 1..L at the chosen times: (times, L)."""
    return np.array([np.einsum("p,lpq,q->l", y, run.feature_kernels(int(t))[1:], y) for t in every]) / (y @ y)


def _run_theories(spectrum: Spectrum, gamma0: float, steps: NDArray[np.float64]) -> dict:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    return {
        "exact": march(spectrum=spectrum, depth=DEPTH, gamma0=gamma0, steps=steps),
        "independent": gradient_independence(spectrum=spectrum, depth=DEPTH, gamma0=gamma0, steps=steps),
        "perturbative": leading_perturbation(spectrum=spectrum, depth=DEPTH, gamma0=gamma0, times=times),
        "static": static_ntk(spectrum=spectrum, depth=DEPTH, gamma0=gamma0, times=times),
    }


def _alignment_error(kernel: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """1 - cosine of the angle between two kernels."""
    return float(1 - np.sum(kernel * reference) / np.linalg.norm(kernel) / np.linalg.norm(reference))


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return losses, kernels and overlaps over time, and the theories' errors of the last kernel over gamma0."""
    width, count = (500, 6) if quick else (2200, 8)
    data_rng, *children = rng.spawn(1 + STRENGTHS.size)
    X, y = _task(data_rng)
    spectrum = Spectrum.from_data(X, y)
    steps = np.full(TIMES - 1, STEP)
    every, fine = np.arange(0, TIMES, 9), np.arange(0, TIMES, 3)
    arrays: dict[str, NDArray[np.float64]] = {"width": np.array(width), "every": every, "fine": fine, "y": y}
    errors: dict[str, list[float]] = {name: [] for name in THEORIES}
    floor = []
    for gamma0, child in zip(STRENGTHS, children, strict=True):
        last = gamma0 == STRENGTHS[-1]
        networks = train_networks(
            X,
            y,
            depth=DEPTH,
            width=width,
            gamma0=float(gamma0),
            steps=steps,
            networks=count,
            centred=True,
            kernels_at=[int(t) for t in every] if last else (-1,),
            dtype=np.float32,
            rng=child,
        )
        theories = _run_theories(spectrum, float(gamma0), steps)
        mean = networks.kernels[:, -1, -1].mean(axis=0)
        for name, run in theories.items():
            errors[name].append(_alignment_error(run.feature_kernels()[-1], mean))
        floor.append(np.mean([_alignment_error(k, mean) for k in networks.kernels[:, -1, -1]]))
        if last:
            overlap = np.einsum("p,mklpq,q->mkl", y, networks.kernels, y)
            arrays |= {
                "times": networks.times,
                "network_loss": networks.losses,
                "network_overlap": overlap,
                "network_kernel": mean,
            }
            for name, run in theories.items():
                arrays[f"{name}_loss"] = run.losses
                arrays[f"{name}_overlap"] = _overlaps(run, y, fine)
                arrays[f"{name}_kernel"] = run.feature_kernels()[-1]
                G = run.gradient_kernels()
                arrays[f"{name}_gradient"] = np.einsum("ltt->lt", G)[:-1]
    arrays |= {f"{name}_alignment_error": np.array(errors[name]) for name in THEORIES}
    return arrays | {"network_alignment_error": np.array(floor)}


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Top: loss, overlaps and gradient kernels over time. Bottom: last kernels, and errors of the theories over gamma0."""
    figure = plt.figure(figsize=(7.2, 4.7))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    loss, overlap, gradient = top.subplots(1, 3)
    t = arrays["times"]
    for name in THEORIES:
        loss.semilogy(t, arrays[f"{name}_loss"], STYLES[name], color=COLORS[name], label=LABELS[name])
    shown = arrays["every"]
    mean, error = _mean(arrays["network_loss"][:, shown])
    points_with_errors(loss, t[shown], mean, error, color="k", label=rf"networks, $N = {int(arrays['width'])}$", zorder=5)
    loss.set(xlabel=r"time $t$", ylabel="training loss", ylim=(0.3 * arrays["exact_loss"].min(), 1.6 * arrays["exact_loss"][0]))
    loss.legend(fontsize=6.5)
    for l, color in enumerate(shades(DEPTH, plt.get_cmap("viridis"))):
        for name in ("exact", "independent", "perturbative"):
            style = {"color": color, "linewidth": 1.3 if name == "exact" else 0.8}
            overlap.plot(t[arrays["fine"]], arrays[f"{name}_overlap"][:, l], STYLES[name], **style)
            gradient.plot(t, arrays[f"{name}_gradient"][l], STYLES[name], **style)
        mean, error = _mean(arrays["network_overlap"][:, :, l])
        points_with_errors(overlap, t[shown], mean, error, color=color)
        gradient.text(1.02 * t[-1], arrays["exact_gradient"][l, -1], rf"$l = {l + 1}$", color=color, fontsize=7, va="center")
    top_overlap = arrays["exact_overlap"].max()
    overlap.set(xlabel=r"time $t$", ylabel=r"overlap $\hat y^T \Phi^l(t,t)\, \hat y$", ylim=(0, 1.25 * top_overlap))
    gradient.set(xlabel=r"time $t$", ylabel=r"gradient kernel $G^l(t,t)$", ylim=(0.9, 1.25 * arrays["exact_gradient"].max()))
    kernels, curves = bottom.subfigures(1, 2, width_ratios=(1.7, 1))
    limit = float(np.abs(arrays["exact_kernel"]).max())
    panels = (("network", "networks"), ("exact", "theory"), ("independent", "grad. indep."), ("static", "static NTK"))
    axes = kernels.subplots(1, 4)
    order = np.argsort(arrays["y"])
    for ax, (name, title) in zip(axes, panels, strict=True):
        mesh = kernel_image(ax, arrays[f"{name}_kernel"][np.ix_(order, order)], limit=limit)
        ax.set_title(title)
    kernels.colorbar(mesh, ax=axes, shrink=0.55, aspect=14, location="bottom", label=rf"last kernel $\Phi^{DEPTH}$")
    ax = curves.subplots()
    for name in THEORIES:
        ax.semilogy(STRENGTHS, arrays[f"{name}_alignment_error"], STYLES[name], color=COLORS[name])
    ax.semilogy(STRENGTHS, arrays["network_alignment_error"], "k.", markersize=4, label="one network")
    ax.set(xlabel=r"feature-learning strength $\gamma_0$", ylabel=r"1 - alignment with networks")
    ax.legend()
    return figure


def _mean(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard error over the first axis."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Final losses and overlaps of everything, and the alignment errors."""
    mean, error = _mean(arrays["network_loss"])
    half = len(mean) // 2
    return {
        "depth": DEPTH,
        "gamma0": GAMMA0,
        "step": STEP,
        "width": int(arrays["width"]),
        "networks": len(arrays["network_loss"]),
        "loss_at_half_time": {name: float(arrays[f"{name}_loss"][half]) for name in THEORIES},
        "network_loss_at_half_time": [float(mean[half]), float(error[half])],
        "last_overlap": {name: float(arrays[f"{name}_overlap"][-1, -1]) for name in THEORIES},
        "network_last_overlap": [float(value[-1, -1]) for value in _mean(arrays["network_overlap"])],
        "alignment_error_by_gamma0": {name: arrays[f"{name}_alignment_error"].tolist() for name in THEORIES},
        "alignment_error_of_one_network": arrays["network_alignment_error"].tolist(),
    }
