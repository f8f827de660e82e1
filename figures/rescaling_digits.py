"""The rescaled kernel predicts, the direction learns: adaptive kernels of digits, and what the mean predictor sees of them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import linalg

from linkern.bayes import Spectrum, solve_linear
from linkern.bayes.linear import LinearSolution
from linkern.data import digits
from linkern.plotting import kernel_image, shades

TITLE = "kernels of two classes of digits, alignment by layer, and equality of the predictors"
SOURCE = "linkern; the statement for the mean is in Rubin et al. (2025)"

CLASSES, DEPTH, BETA, GAMMA0 = (3, 8), 3, 1.0, 2.0
STRENGTHS = np.logspace(-1.5, 1.5, 31)


def _propagate(C: NDArray[np.float64], solution: LinearSolution, train: int) -> NDArray[np.float64]:
    """Carry the kernel of training and test points through the layers, equation by equation (no closed form).

    Dual kernels vanish on test points; Phi^l = (I + Phi^{l-1} hatPhi^l)^{-1} Phi^{l-1}.
    """
    kernel = C
    for dual in solution.dual_kernels:
        padded = np.zeros_like(C)
        padded[:train, :train] = dual.dense()
        kernel = linalg.solve(np.eye(len(C)) + kernel @ padded, kernel)
    return kernel


def compute(quick: bool, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return kernels ordered by class, alignments over gamma0, and the predictions of three kernel machines."""
    train = 60 if quick else 200
    task = digits(classes=CLASSES, samples=train, test=100, center=True, rng=rng)
    order = np.argsort(task.y, kind="stable")
    X, y = task.X[order], task.y[order]
    spectrum = Spectrum.from_data(X, y)
    solutions = [solve_linear(spectrum=spectrum, depth=DEPTH, gamma0=g, beta=BETA) for g in STRENGTHS]
    chosen = solve_linear(spectrum=spectrum, depth=DEPTH, gamma0=GAMMA0, beta=BETA)

    everything = np.vstack([X, task.X_test])
    C = everything @ everything.T / X.shape[1]
    adaptive = _propagate(C, chosen, train)
    ridge = np.eye(train) / BETA

    def regress(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        return kernel[train:, :train] @ linalg.solve(kernel[:train, :train] + ridge, y, assume_a="pos")

    return {
        "labels": y,
        "test_labels": task.y_test,
        "lazy_kernel": C[:train, :train],
        "first_kernel": chosen.kernels[1].dense(),
        "last_kernel": chosen.kernels[-1].dense(),
        "gamma0": STRENGTHS,
        "alignment": np.array([s.alignment() for s in solutions]),
        "adaptive_prediction": regress(adaptive),
        "rescaled_prediction": regress(chosen.rescaling * C),
        "lazy_prediction": regress(C),
        "closed_form_prediction": chosen.predict(task.X_test),
        "rescaling": np.array(chosen.rescaling),
    }


def draw(arrays: dict[str, NDArray[np.float64]]) -> Figure:
    """Top: kernels by class. Bottom: alignment of every layer, and test predictions against the rescaled kernel's."""
    figure = plt.figure(figsize=(6.6, 4.6))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    sizes = [int((arrays["labels"] < 0).sum()), int((arrays["labels"] > 0).sum())]
    panels = (("lazy_kernel", r"data kernel $\Phi^0 = C$"), ("first_kernel", r"$\Phi^1$"), ("last_kernel", rf"$\Phi^{DEPTH}$"))
    for ax, (name, title) in zip(top.subplots(1, 3), panels, strict=True):
        mesh = kernel_image(ax, arrays[name], limit=float(np.quantile(np.abs(arrays[name]), 0.995)), classes=sizes)
        ax.set_title(title)
        top.colorbar(mesh, ax=ax, shrink=0.8, aspect=14)
    left, right = bottom.subplots(1, 2)
    for index, color in enumerate(shades(DEPTH + 1, plt.get_cmap("viridis"))):
        left.semilogx(arrays["gamma0"], arrays["alignment"][:, index], color=color, label=rf"$l = {index}$")
    left.axvline(GAMMA0, color="0.7", linewidth=0.8)
    left.set(xlabel=r"feature-learning strength $\gamma_0$", ylabel=r"alignment $A(\Phi^l, yy^T)$", ylim=(0, 1))
    left.legend()
    rescaled = arrays["rescaled_prediction"]
    right.plot(rescaled, arrays["lazy_prediction"], ".", color="0.65", markersize=3, label="lazy kernel $C$")
    right.plot(
        rescaled, arrays["adaptive_prediction"], ".", color="#d1495b", markersize=4, label=rf"adaptive kernel $\Phi^{DEPTH}$"
    )
    span = np.array([rescaled.min(), rescaled.max()])
    right.plot(span, span, "k-", linewidth=0.6)
    k = float(arrays["rescaling"])
    right.set(xlabel="test prediction, rescaled kernel $kC$", ylabel="test prediction")
    right.set_title(rf"$\gamma_0 = {GAMMA0:g}$, $k = {k:.0f}$")
    right.legend()
    return figure


def numbers(arrays: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """Differences between the predictors, test errors, and alignments at the ends of the grid."""
    y = arrays["test_labels"]
    scale = float(np.abs(arrays["rescaled_prediction"]).max())

    def apart(name: str) -> float:
        return float(np.abs(arrays[name] - arrays["rescaled_prediction"]).max() / scale)

    return {
        "classes": list(CLASSES),
        "training_points": int(arrays["labels"].size),
        "test_points": int(y.size),
        "depth": DEPTH,
        "gamma0": GAMMA0,
        "beta": BETA,
        "rescaling": float(arrays["rescaling"]),
        "adaptive_minus_rescaled": apart("adaptive_prediction"),
        "closed_form_minus_rescaled": apart("closed_form_prediction"),
        "lazy_minus_rescaled": apart("lazy_prediction"),
        "test_error_adaptive": float(np.mean((arrays["adaptive_prediction"] - y) ** 2)),
        "test_error_lazy": float(np.mean((arrays["lazy_prediction"] - y) ** 2)),
        "alignment_at_smallest_gamma0": arrays["alignment"][0].tolist(),
        "alignment_at_largest_gamma0": arrays["alignment"][-1].tolist(),
    }
