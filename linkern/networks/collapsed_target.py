r"""The posterior of a wide network with every weight integrated out: L matrices of N x P Gaussians, whatever the width.

Rows of W^l are independent Gaussians, so a layer's preactivations given the layer below are N independent draws of
N(0, g_l Phi^l), and f given the last layer is Gaussian too. With eps^l standard normal under the prior,

    h^1 = eps^1 R^0,   h^{l+1} = eps^{l+1} R^l,   R^l = (g_l Phi^l)^{1/2},   Phi^l = phi(h^l)^T phi(h^l) / N_l,   Phi^0 = C,
    M = g_L Phi^L + I/beta,   v = M^{-1} Y,
    -ln p = sum_l |eps^l|^2 / 2 + (gamma0^2 N / 2) Tr(Y^T v) + (O/2) ln det M,   N = N_L, O outputs.

The last two terms are minus the log of the Gaussian density of Y, whose covariance is M / (gamma0^2 N): f adds
g_L Phi^L / (gamma0^2 N), the likelihood exp(-(beta gamma0^2 N/2)|f - Y|^2) adds I / (beta gamma0^2 N).

R^l is the symmetric root. A Cholesky factor would be a little cheaper (a tenth to a third of a gradient, measured), but
it fails when Phi^l is singular (P > D in linear networks, dead ReLUs, N < P), and jumps as Phi^l comes close to that; the
symmetric root moves at most sqrt(2) as far as phi(h^l)/sqrt(N_l) does, whatever the condition number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation
from linkern.activations.kinks import averaged_slope
from linkern.networks.noise import standard_normal

__all__ = ["CollapsedPass", "CollapsedPosterior", "Root", "symmetric_root"]

Array = NDArray[Any]

_EPS = float(np.finfo(np.float64).eps)
_SMALLEST_WINDOW = 1e-150


@dataclass(frozen=True)
class Root:
    """R with R^T R = Phi, and what it takes to condition or differentiate it.

    Attributes
    ----------
    matrix : (..., r, P) array
    singular_values : (..., r) array
        Zero where Phi is singular to rounding.
    vectors : (..., P, r) array
        Eigenvectors of Phi.
    """

    matrix: Array
    singular_values: Array
    vectors: Array

    def pullback(self, gradient: Array) -> Array:
        """d/dPhi of a function whose derivative with respect to the symmetric root is `gradient`, (..., P, P)."""
        U, s = self.vectors, self.singular_values
        rotated = _transposed(U) @ gradient @ U
        sums = 2.0 * (s[..., :, None] + s[..., None, :])
        # Within the null space the root cannot move to first order: there phi has no component.
        rotated = np.divide(rotated + _transposed(rotated), sums, out=np.zeros_like(rotated), where=sums > 0)
        return np.asarray(U @ rotated @ _transposed(U))

    def whiten(self, cross: Array) -> Array:
        """R Phi^+ cross for a block (..., P, m) of the kernel: the coefficients of new points in the columns of eps."""
        s, U = self.singular_values, self.vectors
        inverse = np.divide(1.0, s, out=np.zeros_like(s), where=s > 0)[..., None, :]
        return np.asarray((self.matrix @ U * inverse) @ (_transposed(U * inverse) @ cross))


def symmetric_root(kernel: Array) -> Root:
    """Phi^{1/2} of positive semi-definite (..., P, P) matrices."""
    eigenvalues, U = np.linalg.eigh(kernel)
    resolved = eigenvalues > kernel.shape[-1] * _EPS * eigenvalues[..., -1:]
    s = np.sqrt(np.where(resolved, eigenvalues, 0.0))
    return Root((U * s[..., None, :]) @ _transposed(U), s, U)


@dataclass(frozen=True)
class CollapsedPass:
    """Everything that one forward pass computes; a leading axis runs over the chains.

    Attributes
    ----------
    preactivations, features : tuples of (chains, N_l, P) arrays
        h^l and phi(h^l), l = 1..L.
    kernels : tuple of (chains, P, P) arrays
        Phi^l, l = 1..L.
    roots : tuple of (chains or 1, r_l, P) arrays
        R^l, l = 0..L-1.
    decompositions : tuple of Root
        Symmetric roots of Phi^1..Phi^{L-1}, without g_l.
    regression : (chains, P, P) array
        M.
    dual_coefficients : (chains, P, O) array
        v = M^{-1} Y.
    valid : (chains,) bool array
        False where a kernel overflowed.
    """

    preactivations: tuple[Array, ...]
    features: tuple[Array, ...]
    kernels: tuple[Array, ...]
    roots: tuple[Array, ...]
    decompositions: tuple[Root, ...]
    regression: Array
    dual_coefficients: Array
    valid: NDArray[np.bool_]

    @cached_property
    def precision(self) -> Array:
        """M^{-1}, (chains, P, P)."""
        return np.linalg.inv(self.regression)


class CollapsedPosterior:
    """Energy and gradient in the coordinates eps^1..eps^L, for a batch of chains.

    Parameters
    ----------
    data_root : (r, P) array
        A^T with A A^T = C, r the rank of C.
    Y : (P, O) array
    widths : L ints
    gamma0, beta : float
    activation : Activation
    prior_variances : (L + 1,) array
        g_0..g_L of W^0, .., W^{L-1}, w.

    Attributes
    ----------
    shapes : tuple of (N_l, r_l)
        Of eps^1..eps^L.
    window : float
        0: `gradient_factors` gives the gradient. w > 0: it gives a force for trajectories in which phi' is averaged over
        h +- w sd(h), so that a step that crosses a kink sees the kink. Any force makes a reversible, volume-preserving
        trajectory, and acceptance uses the true energy, so the sampled posterior does not depend on w. With w = step
        ReLU networks took steps three to five times longer than with w = 0, and tanh networks the same ones (measured).

    Notes
    -----
    Cost of a forward and backward pass: 5 products of 2 N P^2 flops and one eigenproblem of size P per hidden layer.
    """

    window = 0.0

    def __init__(
        self,
        data_root: Array,
        Y: Array,
        *,
        widths: tuple[int, ...],
        gamma0: float,
        beta: float,
        activation: Activation,
        prior_variances: Array,
    ) -> None:
        self.Y, self.widths = Y, widths
        self.activation, self.prior_variances = activation, prior_variances
        points, self.outputs = Y.shape
        self.shapes = tuple(zip(widths, (data_root.shape[0], *(points,) * (len(widths) - 1)), strict=True))
        self._first = np.sqrt(prior_variances[0]) * data_root[None]
        self.move_to(gamma0, beta)

    def move_to(self, gamma0: float, beta: float) -> None:
        """Change the strength of feature learning and the inverse temperature."""
        self.gamma0, self.beta = gamma0, beta
        self.scale = gamma0**2 * self.widths[-1]

    def prior_draws(self, chains: int, rng: np.random.Generator, dtype: type[np.floating] = np.float64) -> list[Array]:
        """Standard normal eps^1..eps^L."""
        return [standard_normal(rng, np.empty((chains, *shape), dtype=dtype)) for shape in self.shapes]

    def forward(self, state: Sequence[Array]) -> CollapsedPass:
        """Preactivations, kernels and the regression onto the labels."""
        depth = len(self.widths)
        h, phi, kernels, decompositions, roots = [], [], [], [], [self._first]
        valid = np.ones(state[0].shape[0], dtype=bool)
        for l, eps in enumerate(state):
            h.append(eps @ roots[l].astype(eps.dtype, copy=False))
            phi.append(self.activation.value(h[l]))
            kernel = (_transposed(phi[l]) @ phi[l]).astype(np.float64, copy=False) / self.widths[l]
            finite = np.isfinite(kernel).all(axis=(1, 2))
            kernel[~finite] = 0.0
            valid &= finite
            kernels.append(kernel)
            if l + 1 < depth:
                decompositions.append(symmetric_root(kernel))
                roots.append(np.sqrt(self.prior_variances[l + 1]) * decompositions[l].matrix)
        M = self.prior_variances[-1] * kernels[-1] + np.eye(self.Y.shape[0]) / self.beta
        return CollapsedPass(
            preactivations=tuple(h),
            features=tuple(phi),
            kernels=tuple(kernels),
            roots=tuple(roots),
            decompositions=tuple(decompositions),
            regression=M,
            dual_coefficients=np.linalg.solve(M, np.broadcast_to(self.Y, (len(M), *self.Y.shape))),
            valid=valid,
        )

    def potential(self, passed: CollapsedPass) -> Array:
        """(gamma0^2 N/2) Tr(Y^T v) + (O/2) ln det M per chain; infinite where a kernel overflowed."""
        energy = 0.5 * self.scale * np.einsum("po,cpo->c", self.Y, passed.dual_coefficients)
        energy += 0.5 * self.outputs * np.linalg.slogdet(passed.regression)[1]
        return np.where(passed.valid, energy, np.inf)

    def gradient_factors(self, state: Sequence[Array], passed: CollapsedPass) -> Iterator[tuple[int, Array, Array]]:
        """Yield (l, left, right) from l = L - 1 down to 0: the potential's gradient in eps^{l+1} is left right^T.

        state[l] is not read again after its triple is yielded. With `window` > 0 the force takes the gradient's place.
        """
        return self._factors(state, passed, self.window)

    def virial(self, state: Sequence[Array], passed: CollapsedPass) -> Array:
        """eps^l . dV/deps^l for every layer, V the potential: (chains, L). The gradient's, whatever the window."""
        products = np.empty((state[0].shape[0], len(state)))
        for l, left, _ in self._factors(state, passed, 0.0):
            products[:, l] = np.einsum("cip,cip->c", left, passed.preactivations[l])
        return products

    def _factors(self, state: Sequence[Array], passed: CollapsedPass, window: float) -> Iterator[tuple[int, Array, Array]]:
        left = self._readout_gradient(passed)
        for l in range(len(self.widths) - 1, -1, -1):
            left *= self._slope(passed.preactivations[l], passed.roots[l], window)
            right, here = passed.roots[l].astype(left.dtype, copy=False), left
            if l > 0:
                root_gradient = np.sqrt(self.prior_variances[l]) * (_transposed(state[l]) @ left).astype(np.float64, copy=False)
                kernel_gradient = passed.decompositions[l - 1].pullback(root_gradient)
                left = passed.features[l - 1] @ (kernel_gradient * (2.0 / self.widths[l - 1])).astype(left.dtype, copy=False)
            yield l, here, np.broadcast_to(right, (here.shape[0], *right.shape[1:]))

    def _readout_gradient(self, passed: CollapsedPass) -> Array:
        """The potential's gradient in phi(h^L)."""
        features, share = passed.features[-1], self.prior_variances[-1] / self.widths[-1]
        v = passed.dual_coefficients.astype(features.dtype, copy=False)
        strengths, directions = (features @ v) * features.dtype.type(-self.scale * share), _transposed(v)
        # Matrix products of one column do without BLAS, and take five times as long.
        gradient = strengths * directions if self.outputs == 1 else strengths @ directions
        gradient += features @ (self.outputs * share * passed.precision).astype(features.dtype, copy=False)
        return np.asarray(gradient)

    def _slope(self, h: Array, root: Array, window: float) -> Array:
        if window == 0.0:
            return self.activation.derivative(h)
        deviation = np.sqrt(np.square(root).sum(axis=-2, keepdims=True))
        width = np.maximum(window * deviation, _SMALLEST_WINDOW).astype(h.dtype, copy=False)
        return averaged_slope(self.activation, h, width)


def _transposed(array: Array) -> Array:
    return array.swapaxes(-1, -2)
