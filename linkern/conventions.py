r"""One network, many letters: exact conversions between the parameterisations that the literature uses.

linkern computes in the mean-field convention (`MeanField`). With unscaled weights W^0, ..., W^{L-1}, w,

    h^1 = W^0 x / sqrt(D),   h^{l+1} = W^l phi(h^l) / sqrt(N),   f = w . phi(h^L) / (gamma0 N),
    p(W | data) ~ exp( -(beta gamma0^2 N / 2) sum (f - y)^2 - sum_l |W^l|^2 / (2 g_{l+1}) ),    g_{L+1} = g_w.

Every other convention here is the same distribution (or the same update) of the same function in other coordinates.
Conversions invert each other up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks

__all__ = ["SYMBOLS", "FiniteWidthBayes", "Langevin", "MeanField", "homogeneity_degree", "weight_scales"]

_MEANING = "g_1 ... g_L of the hidden layers, then g_w of the readout"


def _variances(value: ArrayLike) -> tuple[float, ...]:
    g = checks.real_array("prior_variances", value, ndim=1)
    if g.size < 2 or not (g > 0).all():
        raise ValueError(f"prior_variances: expected at least two numbers > 0 ({_MEANING}), got {g.tolist()}")
    return tuple(g.tolist())


@dataclass(frozen=True)
class MeanField:
    """The posterior of the module docstring.

    Attributes
    ----------
    gamma0 : float
        Feature-learning strength > 0; 1/sqrt(N) is the NTK parameterisation f = w . phi / sqrt(N) with unit gamma.
    beta : float
        Inverse temperature > 0, `inf` allowed.
    prior_variances : tuple of L + 1 floats
        (g_1, ..., g_L, g_w), at least two numbers (one hidden layer).
    """

    gamma0: float
    beta: float
    prior_variances: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma0", checks.positive("gamma0", self.gamma0))
        object.__setattr__(self, "beta", checks.positive("beta", self.beta, infinite=True))
        object.__setattr__(self, "prior_variances", _variances(self.prior_variances))

    @classmethod
    def ntk(cls, width: int, *, depth: int, beta: float, prior_variances: ArrayLike = 1.0) -> MeanField:
        """f = w . phi(h^L) / sqrt(N) at width N (NTK parameterisation) with label noise 1/beta: gamma0 = 1/sqrt(N)."""
        depth = checks.integer_at_least("depth", depth)
        g = checks.per_layer("prior_variances", prior_variances, depth + 1, _MEANING)
        return cls(1 / math.sqrt(checks.integer_at_least("width", width)), beta, tuple(g))

    @classmethod
    def from_weight_decay(cls, gamma0: float, beta: float, weight_decay: ArrayLike, *, depth: int) -> MeanField:
        """p ~ exp(-beta [gamma^2/2 sum (f - y)^2 + sum_l lambda_l/2 |W^l|^2]): prior variances 1/(beta lambda_l).

        `weight_decay` is one number or L + 1 numbers > 0; `beta` is finite, or there is no distribution to speak of.
        """
        decay = checks.per_layer("weight_decay", weight_decay, checks.integer_at_least("depth", depth) + 1, _MEANING)
        beta = checks.positive("beta", beta)
        return cls(gamma0, beta, tuple(1 / (beta * decay)))

    @property
    def depth(self) -> int:
        """L."""
        return len(self.prior_variances) - 1

    @property
    def weight_decay(self) -> NDArray[np.float64]:
        """(L + 1,) array of lambda_l = 1/(beta g_{l+1}), the inverse of `from_weight_decay`."""
        return 1 / (self.beta * np.array(self.prior_variances))

    def unit_readout(self) -> MeanField:
        """The same posterior with g_w = 1, by w -> w / sqrt(g_w): gamma0^2 -> gamma0^2 / g_w and beta -> beta g_w."""
        *hidden, readout = self.prior_variances
        return MeanField(self.gamma0 / math.sqrt(readout), self.beta * readout, (*hidden, 1.0))

    def langevin(self, step: float, samples: int) -> Langevin:
        """The update, with the sum loss, that samples this posterior as step -> 0; needs equal prior variances."""
        decay = self.weight_decay
        if not (decay == decay[0]).all():
            raise ValueError(
                f"prior_variances: expected equal numbers (one weight decay for all layers), got {self.prior_variances}"
            )
        return Langevin(step, self.beta, float(decay[0]), samples)

    def finite_width(self, width: int) -> FiniteWidthBayes:
        """The same posterior in physical weights: chi = gamma0^2 N, ridge = 1/(beta gamma0^2 N), the same variances."""
        chi = self.gamma0**2 * checks.integer_at_least("width", width)
        return FiniteWidthBayes(width, chi, 1 / (self.beta * chi), self.prior_variances)


@dataclass(frozen=True)
class FiniteWidthBayes:
    """Bayes in physical weights: h^1 = V^0 x, h^{l+1} = V^l phi(h^l), f = a . phi(h^L), y | f ~ N(f, ridge).

    Attributes
    ----------
    width : int
        N, of every hidden layer.
    chi : float
        Readout scale > 0: 1 is standard (NNGP, NTK-like) scaling, proportional to N is mean-field scaling. Only
        chi / g_w matters, and keeping the fit while chi grows needs ridge ~ 1/chi.
    ridge : float
        Label noise variance kappa_r >= 0.
    prior_variances : tuple of L + 1 floats
        Entries V^0 ~ N(0, g_1/D), V^l ~ N(0, g_{l+1}/N), a ~ N(0, g_w/(chi N)).
    """

    width: int
    chi: float
    ridge: float
    prior_variances: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checks.integer_at_least("width", self.width))
        object.__setattr__(self, "chi", checks.positive("chi", self.chi))
        object.__setattr__(self, "ridge", checks.nonnegative("ridge", self.ridge))
        object.__setattr__(self, "prior_variances", _variances(self.prior_variances))

    def mean_field(self) -> MeanField:
        """The same posterior with gamma0^2 = chi/N and 1/beta = ridge chi.

        `.mean_field().unit_readout()` has the textbook form gamma0^2 = chi/(g_w N), 1/beta = ridge chi/g_w.
        """
        temperature = self.ridge * self.chi
        beta = 1 / temperature if temperature > 0 else math.inf
        return MeanField(math.sqrt(self.chi / self.width), beta, self.prior_variances)


def weight_scales(*, gamma0: float, width: int, dimension: int, depth: int) -> NDArray[np.float64]:
    """Return c_0, ..., c_L with physical weights V^l = c_l W^l: 1/sqrt(D), 1/sqrt(N), ..., 1/(gamma0 N).

    With V as coordinates (PyTorch's way) a gradient step eta of the mean-field update on W^l is a step
    `eta gamma0^2 N c_l^2` of plain gradient descent on 1/2 sum (f - y)^2, at temperature 1/(beta gamma0^2 N): the same
    trajectory, not only the same stationary distribution.
    """
    gamma0 = checks.positive("gamma0", gamma0)
    width, dimension = checks.integer_at_least("width", width), checks.integer_at_least("dimension", dimension)
    hidden = [1 / math.sqrt(width)] * (checks.integer_at_least("depth", depth) - 1)
    return np.array([1 / math.sqrt(dimension), *hidden, 1 / (gamma0 * width)])


@dataclass(frozen=True)
class Langevin:
    """The update W <- W - step [gamma0^2 N grad loss + weight_decay W] + sqrt(2 step / beta) xi, xi ~ N(0, 1).

    Attributes
    ----------
    step : float
        Step size eta > 0.
    beta : float
        Inverse temperature > 0; `inf` is gradient descent.
    weight_decay : float
        lambda >= 0, of every layer. Samples with prior variance g have lambda = 1/(beta g).
    samples : int
        P, the number of training points.
    loss : {"sum", "mean", "mse"}
        1/2 sum (f - y)^2 (used everywhere in linkern), 1/(2P) sum (f - y)^2, or 1/P sum (f - y)^2.
    """

    step: float
    beta: float
    weight_decay: float
    samples: int
    loss: Literal["sum", "mean", "mse"] = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", checks.positive("step", self.step))
        object.__setattr__(self, "beta", checks.positive("beta", self.beta, infinite=True))
        object.__setattr__(self, "weight_decay", checks.nonnegative("weight_decay", self.weight_decay))
        object.__setattr__(self, "samples", checks.integer_at_least("samples", self.samples))
        self._factor(self.loss)

    def _factor(self, loss: str) -> float:
        factors = {"sum": 1.0, "mean": 1 / self.samples, "mse": 2 / self.samples}
        if loss not in factors:
            raise ValueError(f"loss: expected one of {', '.join(factors)}, got {loss!r}")
        return factors[loss]

    def with_loss(self, loss: Literal["sum", "mean", "mse"]) -> Langevin:
        """The same update with another loss; from "mean" to "sum": step/P, beta/P, P weight_decay."""
        ratio = self._factor(self.loss) / self._factor(loss)
        return replace(self, step=self.step * ratio, beta=self.beta * ratio, weight_decay=self.weight_decay / ratio, loss=loss)

    def mean_field(self, gamma0: float, depth: int) -> MeanField:
        """What the update samples as step -> 0, by `MeanField.from_weight_decay` with the sum loss."""
        same = self.with_loss("sum")
        return MeanField.from_weight_decay(gamma0, same.beta, same.weight_decay, depth=depth)


def homogeneity_degree(depth: int, degree: float = 1.0) -> float:
    """Return kappa, f(s W) = s^kappa f(W): 1 + d + ... + d^L for an activation of degree d, L + 1 for linear and ReLU.

    Weight decay lambda in gradient flow adds -lambda kappa f to df/dt, hence the ridge lambda kappa where it stops.
    """
    degree = checks.nonnegative("degree", degree)
    return math.fsum(degree**j for j in range(checks.integer_at_least("depth", depth) + 1))


SYMBOLS: dict[str, str] = {
    "depth": r"L",
    "gamma0": r"\gamma_0",
    "beta": r"\beta",
    "weight_decay": r"\lambda",
    "prior_variances": r"g_1, \ldots, g_L, g_w",
    "homogeneity_degree": r"\kappa",
    "data kernel": r"C = \Phi^0 = X X^T / D",
    "feature kernel": r"\Phi^\ell = \langle \phi(h^\ell) \phi(h^\ell)^T \rangle",
    "dual kernel": r"\hat\Phi^\ell",
    "gradient kernel": r"G^\ell = \langle g^\ell (g^\ell)^T \rangle",
    "lazy feature kernel": r"K^\ell = \Phi^\ell|_{\gamma_0 \to 0}",
    "tangent kernel": r"\Theta = \sum_{\ell=0}^{L} G^{\ell+1} \odot \Phi^\ell",
    "overlap": r"c_\ell = \hat y^T \Phi^\ell \hat y",
    "dual overlap": r"\hat c_\ell = \hat y^T \hat\Phi^\ell \hat y",
    "charge": r"A = - c_\ell \hat c_\ell",
    "rescaling": r"k = v^T \Phi^L v / v^T C v",
    "dual coefficients": r"v = (\Phi^L + I/\beta)^{-1} y",
    "action": r"S[\Phi, \hat\Phi]",
    "predictor": r"f(x) = k(x)^T v",
}
"""API word (as in argument names and attributes) -> symbol of the theory, in LaTeX."""
