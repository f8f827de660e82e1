"""Linear two-layer networks that start from Laplace weights: trained moments follow theory, the density remembers the start."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kurtosis, norm

from linkern.flow import solve_two_layer_whitened
from linkern.plotting import points_with_errors

TITLE = "linear two-layer networks with Laplace weights: moments as predicted, densities inherited from the start"
SOURCE = "Lauditi, Bordelon, Pehlevan (2025), figure 11"

GAMMA0, DECAY, STEP = 1.5, 0.5, 0.05
INPUTS = np.array([1, 2, 4, 8, 16])


def _laplace(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Laplace variables of variance one."""
    return rng.laplace(scale=np.sqrt(0.5), size=shape)


def _train(W: NDArray[np.float64], w: NDArray[np.float64], decay: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """h and z after gradient descent of W (networks, N, D), w (networks, N) on the point x = (1, .., 1) with label 1."""
    W, w = W.copy(), w.copy()
    v = np.full(W.shape[-1], W.shape[-1] ** -0.5)
    # Two modes are left in the end: the one that dies and the approach to rest; the slower one falls by e^-20.
    slowest = min(2 * decay, 2 * abs(GAMMA0 - decay))
    for _ in range(int(20 / slowest / STEP)):
        h = W @ v
        push = STEP * GAMMA0 * (1 - np.mean(w * h, axis=1, keepdims=True) / GAMMA0)
        W *= 1 - STEP * decay
        W += (push * w)[:, :, None] * v
        w = (1 - STEP * decay) * w + push * h
    return W @ v, w


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return trained fields from Laplace and Gaussian weights, second moments over weight decay, excess kurtosis over D."""
    networks, width = (16, 6000) if quick else (50, 10_000)
    laplace_rng, gauss_rng, push_rng, moment_rng, inputs_rng = rng.spawn(5)
    laplace, _ = _train(_laplace(laplace_rng, (networks, width, 1)), _laplace(laplace_rng, (networks, width)), DECAY)
    gauss, _ = _train(gauss_rng.standard_normal((networks, width, 1)), gauss_rng.standard_normal((networks, width)), DECAY)
    point = solve_two_layer_whitened([1.0], gamma0=GAMMA0, weight_decay=DECAY, activation="linear")
    pushed, _ = point.push_forward(_laplace(push_rng, (400_000, 1)), _laplace(push_rng, (400_000,)))
    decays = np.linspace(0.2, 1.9, 8)
    moments = []
    for decay in decays:
        h, _ = _train(_laplace(moment_rng, (2, 500, 1)), _laplace(moment_rng, (2, 500)), decay)
        moments.append(np.mean(h**2, axis=1))
    excess = []
    for inputs in INPUTS:
        h, _ = _train(_laplace(inputs_rng, (networks, width, int(inputs))), _laplace(inputs_rng, (networks, width)), DECAY)
        excess.append(kurtosis(h, axis=1))
    return {
        "laplace": laplace,
        "gauss": gauss,
        "pushed": pushed[:, 0],
        "decays": decays,
        "moments": np.array(moments),
        "inputs": INPUTS,
        "excess": np.array(excess),
    }


def _sum_of_laplace(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density of sqrt(m/2) (p_0 + z_0) for two Laplace variables of variance one, m = gamma0 - decay."""
    scale = np.sqrt((GAMMA0 - DECAY) / 4)
    s = np.abs(h) / scale
    return (1 + s) * np.exp(-s) / (4 * scale)


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Densities from Laplace and from Gaussian weights, second moment over weight decay, excess kurtosis over D."""
    figure, axes = plt.subplots(1, 4, figsize=(9.0, 2.5), sharex=False)
    grid = np.linspace(-6, 6, 601)
    same = norm.pdf(grid, scale=np.sqrt(GAMMA0 - DECAY))
    _draw_density(axes[0], arrays["laplace"].ravel(), "Laplace weights")
    axes[0].plot(grid, _sum_of_laplace(grid), color="#d1495b", label="theory")
    axes[0].plot(grid, same, "k:", linewidth=1, label="Gaussian")
    _draw_density(axes[1], arrays["gauss"].ravel(), "Gaussian weights")
    axes[1].plot(grid, same, color="#d1495b", label="theory")
    axes[0].legend(fontsize=6.5, loc="upper right", handlelength=1.2)
    line = np.linspace(0, 2, 200)
    axes[2].plot(line, np.maximum(GAMMA0 - line, 0), color="#d1495b", label=r"$\max(\gamma_0 - \lambda, 0)$")
    axes[2].plot(arrays["decays"], arrays["moments"].mean(axis=1), "o", color="k", markersize=3.5, label="networks")
    axes[2].set(xlabel=r"weight decay $\lambda$", ylabel=r"$\langle h^2 \rangle$ at rest", xlim=(0, 2), ylim=(-0.04, 1.55))
    axes[2].set_title(rf"Laplace weights, $\gamma_0 = {GAMMA0:g}$")
    axes[2].legend()
    D = np.geomspace(0.9, 18, 100)
    axes[3].semilogx(D, 0.75 * (1 + 1 / D), color="#d1495b", label=r"$\frac{3}{4}(1 + D^{-1})$")
    excess = arrays["excess"]
    error = excess.std(axis=1, ddof=1) / excess.shape[1] ** 0.5
    points_with_errors(axes[3], arrays["inputs"], excess.mean(axis=1), error, color="k", label="networks")
    axes[3].axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes[3].set(xlabel=r"input dimension $D$", ylabel=r"excess kurtosis of $h$", ylim=(-0.1, 1.9))
    axes[3].set_xticks(arrays["inputs"], [str(value) for value in arrays["inputs"]])
    axes[3].minorticks_off()
    axes[3].set_title("dotted: Gaussian")
    axes[3].legend()
    return figure


def _draw_density(ax: Axes, h: NDArray[np.float64], title: str) -> None:
    edges = np.linspace(-6, 6, 61)
    ax.stairs(np.histogram(h, edges, density=True)[0], edges, fill=True, color="0.8", label="networks")
    ax.set(xlabel="preactivation $h$", ylabel="density", yscale="log", ylim=(2e-4, 8), xlim=(-6, 6), title=title)


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Moments and excess kurtosis, measured and predicted."""
    excess = arrays["excess"]
    return {
        "second_moment_network": float(np.mean(arrays["laplace"] ** 2)),
        "second_moment_theory": GAMMA0 - DECAY,
        "excess_kurtosis_of_the_pushed_forward_sample": float(kurtosis(arrays["pushed"])),
        "excess_kurtosis_from_gaussian_weights": float(kurtosis(arrays["gauss"], axis=1).mean()),
        "inputs": arrays["inputs"].tolist(),
        "excess_kurtosis_network": excess.mean(axis=1).tolist(),
        "excess_kurtosis_error": (excess.std(axis=1, ddof=1) / excess.shape[1] ** 0.5).tolist(),
        "excess_kurtosis_theory": (0.75 * (1 + 1 / arrays["inputs"])).tolist(),
        "largest_distance_of_second_moments": float(
            np.abs(arrays["moments"] - np.maximum(GAMMA0 - arrays["decays"], 0)[:, None]).max()
        ),
    }
