"""How much weight decay a deep linear network survives: fixed points, and where training from random weights really ends."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from linkern.bayes import Spectrum
from linkern.flow import collapse_lines, march, solve_fixed_point
from linkern.networks.gradient_flow import train_networks
from linkern.plotting import shades

TITLE = "fixed points of training with weight decay: branches, collapse lines, and what the dynamics choose"
SOURCE = "linkern; fixed points as in Lauditi, Bordelon, Pehlevan (2025), gradient flow with weight decay"

DEPTHS, GAMMA0 = (1, 2, 3), 12.0
POINTS, INPUTS = 5, 8
STRENGTHS = 2.0 ** np.arange(0, 4.6, 0.5)


def _task(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlated inputs and random labels of norm one."""
    X = rng.standard_normal((POINTS, INPUTS)) * np.arange(1, INPUTS + 1) ** -0.5
    y = rng.standard_normal(POINTS)
    return X * np.sqrt(POINTS * INPUTS) / np.linalg.norm(X), y / np.linalg.norm(y)


def _branches(spectrum: Spectrum, depth: int, ridges: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Weight decay, |f| and stability along the curve of fixed points, parametrised by the ridge."""
    lam, b = spectrum.eigenvalues, spectrum.coefficients[:, 0]
    s = lam / (lam + ridges[:, None])
    decay = ridges * (GAMMA0**2 * (b**2 * s**2 / lam).sum(axis=1)) ** (depth / (depth + 1))
    stable = np.gradient(np.log(decay), np.log(ridges)) > 0
    return decay, np.linalg.norm(b * s, axis=1), stable


def _steps(spectrum: Spectrum, depth: int, decay: float, count: int) -> NDArray[np.float64]:
    """Steps that stay stable while the kernel grows, whose largest eigenvalue at a fixed point is of the order of the decay."""
    return np.full(count, 0.22 / ((depth + 1) * (decay + spectrum.eigenvalues[-1])))


def _size_at_the_end(spectrum: Spectrum, depth: int, gamma0: float, decay: float, count: int) -> float:
    """|f| after training an infinitely wide network from random weights."""
    steps = _steps(spectrum, depth, decay, count)
    run = march(spectrum=spectrum, depth=depth, gamma0=gamma0, steps=steps, weight_decay=decay)
    return float(np.linalg.norm(run.outputs[-1]))


def _network_at_the_end(
    X: NDArray[np.float64], y: NDArray[np.float64], depth: int, steps, decay: float, width: int, rng
) -> float:
    """|f| after training one network."""
    trained = train_networks(
        X, y, depth=depth, width=width, gamma0=GAMMA0, steps=steps, weight_decay=decay, record_every=steps.size, rng=rng
    )
    return float(np.linalg.norm(trained.outputs[0, -1]))


def _survival(spectrum: Spectrum, depth: int, gamma0: float, count: int) -> float:
    """Largest fraction of the collapse line at which training reaches the nonzero fixed point, by bisection; 1 from 0.99 on."""
    collapse = collapse_lines(spectrum, depth=depth, gamma0=gamma0).collapse

    def alive(fraction: float) -> bool:
        decay = fraction * collapse
        closed = solve_fixed_point(spectrum=spectrum, depth=depth, gamma0=gamma0, weight_decay=decay)
        return _size_at_the_end(spectrum, depth, gamma0, decay, count) > 0.5 * float(np.linalg.norm(closed.fitted))

    low, high = 0.3, 0.99
    if alive(high):
        return 1.0
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (middle, high) if alive(middle) else (low, middle)
    return (low + high) / 2


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return branches, ends of training and the collapse lines of every depth."""
    data_rng, *children = rng.spawn(1 + len(DEPTHS))
    X, y = _task(data_rng)
    spectrum = Spectrum.from_data(X, y)
    ridges = np.logspace(-4, 4, 2001)
    arrays = {"gamma0": STRENGTHS}
    fractions = np.linspace(0.4, 1.05, 14 if quick else 27)
    count, width = (350, 200) if quick else (800, 1000)
    for depth, child in zip(DEPTHS, children, strict=True):
        lines = collapse_lines(spectrum, depth=depth, gamma0=GAMMA0)
        decay, size, stable = _branches(spectrum, depth, ridges)
        decays = fractions * lines.collapse
        theory = [_size_at_the_end(spectrum, depth, GAMMA0, d, count) for d in decays]
        network = [
            _network_at_the_end(X, y, depth, _steps(spectrum, depth, d, 2 * count), d, width, own)
            for d, own in zip(decays, child.spawn(decays.size), strict=True)
        ]
        closed = [solve_fixed_point(spectrum=spectrum, depth=depth, gamma0=GAMMA0, weight_decay=d) for d in decays]
        survival = [_survival(spectrum, depth, g, count) for g in STRENGTHS] if depth > 1 else np.ones(STRENGTHS.size)
        values = {
            "decay": decay,
            "size": size,
            "stable": stable,
            "ends_decay": decays,
            "ends_theory": np.array(theory),
            "ends_network": np.array(network),
            "ends_closed": np.array([np.linalg.norm(point.fitted) for point in closed]),
            "collapse": np.array(lines.collapse),
            "equal_energy": np.array(lines.equal_energy),
            "survival": np.array(survival),
        }
        arrays |= {f"{name}_{depth}": value for name, value in values.items()}
    return arrays


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """One panel of branches per depth, and how far training survives as a function of gamma0."""
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.5))
    colors = shades(len(DEPTHS), plt.get_cmap("viridis"))
    for ax, depth, color in zip(axes, DEPTHS, colors, strict=False):
        decay, size, stable = (arrays[f"{name}_{depth}"] for name in ("decay", "size", "stable"))
        top = arrays[f"collapse_{depth}"]
        ax.plot(np.where(stable, decay, np.nan) / top, size, color=color, label="stable")
        ax.plot(np.where(stable, np.nan, decay) / top, size, ":", color=color, label="unstable" if depth > 1 else None)
        ax.plot([0 if depth > 1 else 1, 1.1], [0, 0], color=color)
        ax.axvline(arrays[f"equal_energy_{depth}"] / top, color="0.75", linewidth=0.8, zorder=0)
        x = arrays[f"ends_decay_{depth}"] / top
        ax.plot(x, arrays[f"ends_theory_{depth}"], "o", markersize=5, markerfacecolor="none", color="k", label="dynamics")
        ax.plot(x, arrays[f"ends_network_{depth}"], "x", markersize=4, color="#d1495b", label="network")
        ax.set(xlim=(0, 1.1), ylim=(-0.04, 1.0), xlabel=r"weight decay $\lambda / \lambda_{\rm collapse}$")
        ax.set_title(rf"$L = {depth}$, $\gamma_0 = {GAMMA0:g}$")
    axes[0].set_ylabel(r"trained output $|f| / |y|$")
    axes[1].legend(loc="lower left", fontsize=6.5)
    plane = axes[-1]
    for depth, color in zip(DEPTHS[1:], colors[1:], strict=True):
        plane.semilogx(arrays["gamma0"], arrays[f"survival_{depth}"], "o-", color=color, markersize=3, label=rf"$L = {depth}$")
        ratio = float(arrays[f"equal_energy_{depth}"] / arrays[f"collapse_{depth}"])
        plane.axhline(ratio, color=color, linestyle="--", linewidth=0.9)
    plane.set(xlabel=r"$\gamma_0$", ylabel=r"largest $\lambda / \lambda_{\rm collapse}$ survived", ylim=(0.4, 1.03))
    plane.set_title("dashed: equal energy")
    plane.legend()
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Lines, where training collapses, and how well survivors sit on the closed form."""
    record: dict[str, object] = {"gamma0": GAMMA0, "gamma0_of_survival": arrays["gamma0"].tolist()}
    for depth in DEPTHS:
        theory, network, closed = (arrays[f"ends_{name}_{depth}"] for name in ("theory", "network", "closed"))
        fraction = arrays[f"ends_decay_{depth}"] / arrays[f"collapse_{depth}"]
        alive = theory > 0.5 * np.maximum(closed, 1e-12)
        alive &= closed > 0
        record[f"L = {depth}"] = {
            "collapse": float(arrays[f"collapse_{depth}"]),
            "equal_energy": float(arrays[f"equal_energy_{depth}"]),
            "survival_by_gamma0": arrays[f"survival_{depth}"].tolist(),
            "largest_surviving_fraction": float(fraction[alive].max(initial=0.0)),
            "closed_form_minus_dynamics": float(np.abs(theory - closed)[alive].max(initial=0.0)),
            "closed_form_minus_network": float(np.abs(network - closed)[alive & (network > 0.5 * closed)].max(initial=0.0)),
            "dynamics": theory.tolist(),
            "network": network.tolist(),
            "closed_form": closed.tolist(),
        }
    return record
