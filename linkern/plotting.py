"""Small drawing helpers: every one takes the axes to draw on, returns what it drew, and never shows anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap
from matplotlib.container import ErrorbarContainer
from numpy.typing import ArrayLike, NDArray

from linkern.checks import real_array

__all__ = ["kernel_image", "points_with_errors", "shades"]


def kernel_image(ax: Axes, kernel: ArrayLike, *, limit: float, classes: Sequence[int] | None = None) -> QuadMesh:
    """Draw a kernel matrix (P x P) on a symmetric colour scale [-limit, limit].

    `classes` gives the sizes of consecutive groups of data points; thin lines separate them.
    """
    K = real_array("kernel", kernel, ndim=2)
    edges = np.arange(K.shape[0] + 1)
    # A mesh, not an image: vector output stays sharp at any P.
    mesh = ax.pcolormesh(edges, edges, K, vmin=-limit, vmax=limit, rasterized=K.shape[0] > 60)
    ax.set(xlim=(0, K.shape[0]), ylim=(K.shape[0], 0), aspect="equal", xticks=[], yticks=[])
    for boundary in np.cumsum(classes)[:-1] if classes is not None else ():
        ax.axhline(boundary, color="0.2", linewidth=0.5)
        ax.axvline(boundary, color="0.2", linewidth=0.5)
    return mesh


def points_with_errors(ax: Axes, x: ArrayLike, mean: ArrayLike, error: ArrayLike, **style: Any) -> ErrorbarContainer:
    """Draw measurements as points with error bars (one standard error unless the caller says otherwise)."""
    defaults: dict[str, Any] = {"fmt": "o", "linewidth": 0.9, "markersize": 3}
    return ax.errorbar(x, mean, yerr=error, **(defaults | style))


def shades(count: int, colormap: Colormap) -> NDArray[np.float64]:
    """Return `count` colours that rise along `colormap` without its palest and darkest ends."""
    return colormap(np.linspace(0.15, 0.85, count))
