"""The posterior that every sampler here draws from, with energies in float64 whatever the precision of the weights.

    p(W) ~ exp( -(beta gamma0^2 N / 2) sum_mu (f_mu - y_mu)^2 - sum_l |W^l|^2 / 2 ),   W in units of the prior

With prior variances g_l the last term is sum_l |W^l|^2/(2 g_l) in the original weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from linkern.networks.mlp import MLP, ForwardPass

__all__ = ["Posterior"]

Array = NDArray[np.floating]


class Posterior:
    """Likelihood of labels y at inputs X for the networks of `mlp`, at inverse temperature beta."""

    def __init__(self, mlp: MLP, X: NDArray[np.float64], y: NDArray[np.float64], beta: float) -> None:
        self.mlp = mlp
        self.X = np.asarray(X, dtype=mlp.dtype)
        self.y = y
        self.beta = beta
        self.strength = beta * mlp.gamma0**2 * mlp.reference_width

    def tempered(self, fraction: float) -> Posterior:
        """The same posterior at inverse temperature `fraction` * beta."""
        return Posterior(self.mlp, self.X, self.y, fraction * self.beta)

    def forward(self, weights: Sequence[Array]) -> ForwardPass:
        """Forward pass on the training inputs."""
        return self.mlp.forward(weights, self.X)

    def error(self, passed: ForwardPass) -> NDArray[np.float64]:
        """f - y: (chains, P), float64."""
        return passed.output.astype(np.float64) - self.y

    def potential(self, passed: ForwardPass) -> NDArray[np.float64]:
        """(beta gamma0^2 N/2) sum_mu (f_mu - y_mu)^2 per chain."""
        return 0.5 * self.strength * np.square(self.error(passed)).sum(axis=1)

    def gradient_factors(self, weights: Sequence[Array], passed: ForwardPass) -> Iterator[tuple[int, Array, Array]]:
        """Gradient of the potential as `MLP.backward` yields it: (l, left, right), layer by layer from the top."""
        return self.mlp.backward(weights, passed, self.strength * self.error(passed))

    def stiffness(self, weights: Sequence[Array], passed: ForwardPass) -> float:
        """Largest curvature of the potential over the chains, in units of the prior precision.

        This is beta gamma0^2 N lambda_max(J J^T), J = df/dW, without the second derivatives of f. For wide networks at
        initialisation it is beta (L + 1) lambda_max(C); in the rich regime it grows with the overlap c_L.
        """
        gram = self.mlp.tangent_kernel(weights, passed)
        if not np.isfinite(gram).all():
            return np.inf
        return float(self.strength * np.linalg.eigvalsh(gram)[:, -1].max())

    def virial(self, weights: Sequence[Array], passed: ForwardPass) -> NDArray[np.float64]:
        """W^l . dV/dW^l for every layer, V the potential: (chains, L + 1), float64.

        Read off the backward pass: W^l . left right^T = sum over left * (W^l right), and W^l right is known from the
        forward pass up to the layer's scale.
        """
        products = np.empty((passed.output.shape[0], self.mlp.depth + 1))
        images = (*passed.preactivations, passed.output[:, None, :])
        for l, left, _ in self.gradient_factors(weights, passed):
            product = np.einsum("cip,cip->c", left, images[l], dtype=np.float64)
            products[:, l] = product / self.mlp.scales[l]
        return products
