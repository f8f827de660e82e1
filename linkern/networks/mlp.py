"""A batch of finite-width networks in mean-field scaling whose weight gradients are never formed, only their rank-P factors.

    h^1 = sqrt(g_0/D) W^0 x,    h^{l+1} = sqrt(g_l/N_l) W^l phi(h^l),    f = sqrt(g_L) w . phi(h^L) / (gamma0 N)

All weights are stored in units of their prior standard deviation: every entry of every W is N(0, 1) under the prior and
the prior variances g_l appear in the forward pass only. The reference width N in f (and in the posterior's temperature)
is the width N_L of the last hidden layer. A leading axis runs over independent chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from linkern import activations, checks
from linkern.activations import ActivationLike
from linkern.networks.noise import standard_normal

__all__ = ["MLP", "ForwardPass", "floating_dtype"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ForwardPass:
    """Everything that one forward pass computes.

    Attributes
    ----------
    preactivations : tuple of arrays
        h^1, ..., h^L, each (chains, N_l, P).
    features : tuple of arrays
        phi^0 = X^T (1, D, P), then phi(h^1), ..., phi(h^L), each (chains, N_l, P).
    output : array (chains, P)
        f.
    """

    preactivations: tuple[Array, ...]
    features: tuple[Array, ...]
    output: Array


class MLP:
    """L hidden layers, scalar output, no biases.

    Parameters
    ----------
    inputs : int
        Input dimension D.
    depth : int
        L, the number of hidden layers.
    width : int or sequence of L ints
        N, or N_1..N_L; with unequal widths N = N_L is the reference width.
    gamma0 : float
        Feature-learning strength.
    activation : str, Activation or callable
    prior_variances : float or sequence of L + 1 floats
        g_0..g_L for W^0, ..., W^{L-1}, w.
    dtype : float64 or float32
        Precision of the weights and of every matrix product.

    Attributes
    ----------
    shapes : tuple of (rows, columns)
        Of W^0..W^{L-1} and of w, which is a 1 x N_L matrix.
    scales : tuple of float
        The factor in front of each weight matrix in the forward pass.
    """

    def __init__(
        self,
        inputs: int,
        *,
        depth: int,
        width: int | Sequence[int],
        gamma0: float,
        activation: ActivationLike = "linear",
        prior_variances: ArrayLike = 1.0,
        dtype: DTypeLike = np.float64,
    ) -> None:
        self.inputs = checks.integer_at_least("inputs", inputs)
        self.depth = checks.integer_at_least("depth", depth)
        self.widths = _widths(width, self.depth)
        self.gamma0 = checks.positive("gamma0", gamma0)
        self.activation = activations.get(activation)
        meaning = "one per weight matrix: the hidden layers' and the readout's"
        self.prior_variances = checks.per_layer("prior_variances", prior_variances, self.depth + 1, meaning)
        self.dtype = floating_dtype(dtype)
        self.shapes = tuple(zip((*self.widths, 1), (self.inputs, *self.widths), strict=True))
        standard_deviations = np.sqrt(self.prior_variances)
        fan_in = np.sqrt(np.array([self.inputs, *self.widths[:-1]], dtype=np.float64))
        readout = standard_deviations[-1] / (self.gamma0 * self.reference_width)
        self.scales = (*(standard_deviations[:-1] / fan_in).tolist(), float(readout))

    @property
    def reference_width(self) -> int:
        """N in f = w . phi / (gamma0 N): the last hidden width."""
        return self.widths[-1]

    @property
    def parameter_count(self) -> int:
        """Number of weights of one network."""
        return sum(rows * columns for rows, columns in self.shapes)

    def draw_prior(self, rng: np.random.Generator, chains: int) -> list[Array]:
        """Return independent prior draws: L + 1 arrays (chains, rows, columns) of standard normals."""
        return [standard_normal(rng, np.empty((chains, *shape), dtype=self.dtype)) for shape in self.shapes]

    def forward(self, weights: Sequence[Array], X: Array) -> ForwardPass:
        """Propagate the rows of X (P, D); cost 2 P flops per weight."""
        features = [np.ascontiguousarray(X.T, dtype=self.dtype)[None]]
        preactivations = []
        for W, scale in zip(weights[:-1], self.scales[:-1], strict=True):
            h = np.matmul(W, features[-1])
            h *= scale
            preactivations.append(h)
            features.append(self._same_dtype(self.activation.value(h)))
        output = np.matmul(weights[-1], features[-1])[:, 0, :]
        output *= self.scales[-1]
        return ForwardPass(tuple(preactivations), tuple(features), output)

    def backward(self, weights: Sequence[Array], passed: ForwardPass, error: Array) -> Iterator[tuple[int, Array, Array]]:
        """Yield (l, left, right), from the readout l = L down to l = 0, with

            sum_mu error_mu  d f_mu / d W^l = left right^T      (left: chains x rows x P, right: chains x columns x P).

        Column mu of left and right is the contribution of data point mu. W^l is not read again after its triple is
        yielded, so the caller may update it in place before asking for the next. Cost: 2 P flops per weight.
        """
        delta = np.broadcast_to(self._same_dtype(error), passed.output.shape)[:, None, :]
        for l in range(self.depth, -1, -1):
            left = delta * self.scales[l]
            if l > 0:
                delta = np.matmul(weights[l].swapaxes(-1, -2), left)
                delta *= self._same_dtype(self.activation.derivative(passed.preactivations[l - 1]))
            right = passed.features[l]
            # Inputs are shared by the chains.
            yield l, left, right if l > 0 else np.broadcast_to(right, (left.shape[0], *right.shape[1:]))

    def gradient(self, weights: Sequence[Array], X: Array, y: Array) -> list[Array]:
        """Return the gradient of 1/2 sum_mu (f_mu - y_mu)^2 with respect to each of `weights`, as full matrices."""
        passed = self.forward(weights, X)
        gradient: list[Array] = [np.empty(0)] * len(weights)
        for l, left, right in self.backward(weights, passed, passed.output - y):
            gradient[l] = np.matmul(left, right.swapaxes(-1, -2))
        return gradient

    def kernels(self, passed: ForwardPass) -> NDArray[np.float64]:
        """Return Phi^l = phi(h^l)^T phi(h^l) / N_l for l = 1..L: (chains, L, P, P), float64."""
        # Products stay in the network's precision; only P x P results are widened.
        grams = [np.matmul(phi.swapaxes(-1, -2), phi).astype(np.float64) / phi.shape[1] for phi in passed.features[1:]]
        return np.stack(grams, axis=1)

    def tangent_kernel(self, weights: Sequence[Array], passed: ForwardPass) -> NDArray[np.float64]:
        """Return sum over all weights of df_mu/dW df_nu/dW: (chains, P, P), float64, in units of the prior variances."""
        chains, points = passed.output.shape
        total = np.zeros((chains, points, points))
        ones = np.ones((chains, points), dtype=self.dtype)
        for _, left, right in self.backward(weights, passed, ones):
            total += np.matmul(left.swapaxes(-1, -2), left).astype(np.float64) * np.matmul(right.swapaxes(-1, -2), right)
        return total

    def _same_dtype(self, array: Array) -> Array:
        return np.asarray(array, dtype=self.dtype)


def floating_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return float64 or float32 as a dtype; anything else is an error."""
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise ValueError(f"dtype: expected float64 or float32, got {dtype!r}")
    return kind


def _widths(width: int | Sequence[int], depth: int) -> tuple[int, ...]:
    given = width.tolist() if isinstance(width, np.ndarray) else width
    if not isinstance(given, Sequence):
        return (checks.integer_at_least("width", given),) * depth
    if len(given) != depth:
        raise ValueError(f"width: expected one integer or {depth} integers (one per hidden layer), got {width!r}")
    return tuple(checks.integer_at_least("width", N) for N in given)
