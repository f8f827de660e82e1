"""Two-layer networks on whitened data (C = I), trained with weight decay to the end: what is fixed, and what remembers the start.

A neuron (h, z) at rest has weight_decay h = gamma0 phi'(h) Delta z and weight_decay z = gamma0 Delta . phi(h): it is alive only
if gamma0 |Delta| = weight_decay on the points where it fires. Trained neurons therefore form groups: one for the linear
activation, one per sign of the labels for ReLU. Labels y_j of a group shrink as one block,

    f_j = y_j m_j/(gamma0 |y_j|),    m_j = max(gamma0 |y_j| - weight_decay, 0) = <z^2> = <|h|^2>,    h = z y_j/|y_j|,

and all below its transition gamma0 |y_j| = weight_decay the group collapses to zero. The equations at rest fix these second
moments and nothing else: the shape of the density is inherited from the initial weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.stats import norm

from linkern.checks import nonnegative, positive, real_array
from linkern.solution import Solution, Status

__all__ = ["TwoLayerFixedPoint", "solve_two_layer_whitened"]

Floats = NDArray[np.float64]

# <s^2> and probability of s > 0, h > 0 for s = (h + z)/sqrt(2) and Gaussian h, z: the ReLU neurons that one point keeps alive.
SURVIVING_MOMENT, SURVIVING_FRACTION = 3 / 8 + 1 / (4 * math.pi), 3 / 8


@dataclass(frozen=True, kw_only=True)
class TwoLayerFixedPoint(Solution):
    """The end of training; groups j = 0 (linear) or j = 0, 1 (ReLU: positive, then negative labels).

    `residual` re-evaluates K Delta = 2 weight_decay f, weight_decay^2 Phi = gamma0^2 Delta Delta^T o G, gamma0 |Delta_j| =
    weight_decay for the groups that are alive.

    Attributes
    ----------
    labels : (P,) array
        y.
    gamma0, weight_decay : float
    activation : str
        "linear" or "relu".
    norms : (J,) array
        |y_j|, the norm of the labels of every group.
    directions : (J, P) array
        y_j/|y_j|, zero outside the group.
    moments : (J,) array
        m_j: second moment of z, and of |h|, carried by the group; zero below its transition.
    """

    labels: Floats = field(repr=False)
    gamma0: float
    weight_decay: float
    activation: str
    norms: Floats
    directions: Floats = field(repr=False)
    moments: Floats

    @property
    def collapsed(self) -> bool:
        """Whether nothing is left of the network."""
        return not self.moments.any()

    @property
    def critical_weight_decay(self) -> Floats:
        """(J,): gamma0 |y_j|, the weight decay from which on the group collapses; the transition is continuous."""
        return self.gamma0 * self.norms

    @property
    def fitted(self) -> Floats:
        """(P,): f, the labels after soft thresholding group by group: the global minimum of the regularised loss."""
        return (self.moments / self.gamma0) @ self.directions

    @property
    def error(self) -> Floats:
        """(P,): Delta = y - f."""
        return np.minimum(self.norms, self.weight_decay / self.gamma0) @ self.directions

    @property
    def energy(self) -> float:
        """1/2 |y - f|^2 + weight_decay/gamma0 sum_j |f_j|: the regularised loss divided by gamma^2."""
        return float((self.error**2).sum() / 2 + self.weight_decay * self.moments.sum() / self.gamma0**2)

    @property
    def feature_kernel(self) -> Floats:
        """(P, P): Phi^1, of rank one per group."""
        return (self.directions.T * self.moments) @ self.directions

    @property
    def gradient_kernel(self) -> Floats:
        """(P, P): G^1 = <phi'(h) phi'(h) z^2>."""
        fires = np.ones_like(self.directions) if self.activation == "linear" else (self.directions != 0).astype(float)
        return (fires.T * self.moments) @ fires

    @property
    def tangent_kernel(self) -> Floats:
        """(P, P): K = Phi^1 + C o G^1 with C = I; f = K (K + 2 weight_decay)^{-1} y."""
        return self.feature_kernel + np.diag(np.diag(self.gradient_kernel))

    def alignment(self) -> float:
        """Return y^T Phi y/(|Phi|_F |y|^2); 0 for a collapsed network, which has no kernel."""
        if self.collapsed:
            return 0.0
        m, share = self.moments, (self.norms / np.linalg.norm(self.labels)) ** 2
        return float(m @ share / np.linalg.norm(m))

    def predict(self, kernel_new: ArrayLike) -> Floats:
        """Return f at new inputs, (m,), from rows (m, P) of the data kernel C(x, X): one effective neuron per group."""
        rows = real_array("kernel_new", kernel_new, ndim=2)
        if rows.shape[1] != self.labels.size:
            raise ValueError(f"kernel_new: expected {self.labels.size} columns (one per label), got shape {rows.shape}")
        drive = rows @ self.directions.T
        if self.activation == "relu":
            signs = np.array([1.0, -1.0])
            drive = signs * np.maximum(signs * drive, 0.0)
        return np.asarray(drive @ (self.moments / self.gamma0))

    def density(self, values: ArrayLike, *, point: int = 0) -> Floats:
        """Return the density of h_mu at rest after training from Gaussian weights, where it has a closed form.

        Parameters
        ----------
        values : array
            Where to evaluate it.
        point : int
            mu.

        Returns
        -------
        array shaped like `values`
            Linear activation: a Gaussian. ReLU and a single point: integrates to 3/8, the other neurons rest at h = 0.
            Zero for a collapsed network, all neurons of which rest at h = 0.

        Raises
        ------
        ValueError
            ReLU and several points: the density depends on the whole history; sample it with `march_montecarlo`.
        """
        x = real_array("values", values, ndim=(0, 1, 2))
        if not -self.labels.size <= point < self.labels.size:
            raise ValueError(f"point: expected an index into {self.labels.size} labels, got {point}")
        relu = self._relu_on_one_point("density")
        size = math.sqrt(self.moments.sum()) * abs(float(self.directions[:, point].sum()))
        if size == 0:
            return np.zeros_like(x)
        if not relu:
            return np.asarray(norm.pdf(x, scale=size))
        s = x * math.sqrt(SURVIVING_MOMENT) / size
        return np.asarray(np.where(x > 0, norm.pdf(s) * norm.cdf(s) * math.sqrt(SURVIVING_MOMENT) / size, 0.0))

    def push_forward(self, h: ArrayLike, z: ArrayLike, *, time: float = math.inf) -> tuple[Floats, Floats]:
        """Carry neurons of any initial distribution through training: the linear activation, or ReLU with a single point.

        Parameters
        ----------
        h : (S, P) array
            Initial preactivations; E[z h] is taken to vanish across the labels, as it does for independent h and z.
        z : (S,) array
            Initial readout weights.
        time : float
            When to look, in gradient flow; at inf the fields at rest.

        Returns
        -------
        h, z : (S, P) and (S,) arrays

        Raises
        ------
        TypeError, ValueError
            Naming the argument; for ReLU with several points, and where no neuron of the sample survives.

        Notes
        -----
        With p the component of h along the labels, p +- z = (p_0 +- z_0) exp(-weight_decay t +- theta(t)): one number theta
        holds all that the neurons do to each other. Its equation uses the second moments of the sample. At rest h and z are
        multiples of p_0 + z_0. A ReLU neuron that reaches h = 0 stays there. Cost: O(S) per step of an adaptive solver.
        """
        fields, readout = real_array("h", h, ndim=2), real_array("z", z, ndim=1)
        if fields.shape[1] != self.labels.size or fields.shape[0] != readout.size:
            raise ValueError(f"h, z: expected shapes (S, {self.labels.size}) and (S,), got {fields.shape} and {readout.shape}")
        end = math.inf if time == math.inf else nonnegative("time", time)
        relu = self._relu_on_one_point("push_forward")
        # With ReLU and one label, turning the sign of z turns that of the label.
        sign = float(np.sign(self.labels[0])) if relu else 1.0
        direction = np.ones(1) if relu else self.directions[0]
        p, z0 = fields @ direction, sign * readout
        up, down = self._gains(p, z0, end, relu)
        forward, backward = up * (p + z0), down * (p - z0)
        p_end, z_end = (forward + backward) / 2, (forward - backward) / 2
        free = math.exp(-self.weight_decay * end)
        if relu:
            idle, dead = p <= 0, (p > 0) & (p_end <= 0)
            # |h|^2 - z^2 decays freely, so a neuron that dies keeps what it has of it in z.
            z_end = np.where(idle, free * z0, np.where(dead, -free * np.sqrt(np.maximum(z0**2 - p**2, 0.0)), z_end))
            p_end = np.where(idle, free * p, np.where(dead, 0.0, p_end))
            return p_end[:, None], sign * z_end
        return p_end[:, None] * direction + free * (fields - p[:, None] * direction), z_end

    def _relu_on_one_point(self, name: str) -> bool:
        """Whether the activation is ReLU; raise unless one direction carries the whole history."""
        relu = self.activation == "relu"
        if relu and self.labels.size > 1:
            raise ValueError(
                f"{name}: expected the linear activation or a single label, got ReLU with {self.labels.size} labels: neurons "
                "that fire on different points couple; sample the dynamics with linkern.flow.march_montecarlo"
            )
        return relu

    def _gains(self, p: Floats, z: Floats, end: float, relu: bool) -> tuple[float, float]:
        """exp(-weight_decay t +- theta) at time `end`."""
        sums, differences, decay = p + z, p - z, self.weight_decay
        pull = self.gamma0 * float(self.norms.sum())
        if end == math.inf:
            moment = float(self.moments.sum())
            if moment == 0:
                return 0.0, 0.0
            alive = (p > 0) & (sums > 0) if relu else np.ones_like(p, dtype=bool)
            power = float((sums[alive] ** 2).sum()) / p.size
            if power == 0:
                raise ValueError("h, z: expected at least one neuron that survives, got none in the sample")
            return 2 * math.sqrt(moment / power), 0.0
        firing = p > 0 if relu else np.ones_like(p, dtype=bool)
        s, d = sums[firing], differences[firing]

        def slope(t: float, state: Floats) -> list[float]:
            # state = theta - weight_decay t stays of order one.
            forward, backward = math.exp(state[0]) * s, math.exp(-state[0] - 2 * decay * t) * d
            product = (forward**2 - backward**2) / 4
            if relu:
                product = product[forward + backward > 0]
            return [pull - decay - float(product.sum()) / p.size]

        gain = float(solve_ivp(slope, (0.0, end), [0.0], method="LSODA", rtol=1e-10, atol=1e-12).y[0, -1])
        return math.exp(gain), math.exp(-gain - 2 * decay * end)


def solve_two_layer_whitened(y: ArrayLike, *, gamma0: float, weight_decay: float, activation: str = "relu") -> TwoLayerFixedPoint:
    """Return the end of gradient flow with weight decay for an infinitely wide two-layer network on whitened data.

    Parameters
    ----------
    y : (P,) array
        Labels; nonzero for ReLU, where the kernel at a label of 0 would depend on the initial weights.
    gamma0 : float
        Richness > 0.
    weight_decay : float
        lambda > 0.
    activation : {"relu", "linear"}

    Returns
    -------
    TwoLayerFixedPoint

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    For P = 1 and y = 1 these are equations (69)-(74) of Lauditi, Bordelon, Pehlevan (2025). With ReLU a neuron that does not
    fire on a whitened point never will: the result needs initial neurons that fire on all labels of one sign and on no others,
    a share 2^{-P} of random ones, and narrower networks end elsewhere. Neurons that fire on a part A of a group only die at the
    rate weight_decay (1 - |y_A|/|y_j|), which is slow where A misses only small labels.
    """
    labels = real_array("y", y, ndim=1)
    gamma0, decay = positive("gamma0", gamma0), positive("weight_decay", weight_decay)
    if activation not in ("relu", "linear"):
        raise ValueError(f"activation: expected 'relu' or 'linear', got {activation!r}")
    if activation == "relu" and not labels.all():
        raise ValueError(f"y: expected nonzero labels for ReLU, got {labels[labels == 0].size} zeros")
    parts = labels[None] if activation == "linear" else np.stack([np.maximum(labels, 0), np.minimum(labels, 0)])
    norms = np.linalg.norm(parts, axis=1)
    draft = TwoLayerFixedPoint(
        parameters={"gamma0": gamma0, "weight_decay": decay, "activation": activation},
        residual=math.nan,
        status=Status.CONVERGED,
        labels=labels,
        gamma0=gamma0,
        weight_decay=decay,
        activation=activation,
        norms=norms,
        directions=parts / np.where(norms > 0, norms, 1.0)[:, None],
        moments=np.maximum(gamma0 * norms - decay, 0.0),
    )
    value = _residual(draft)
    return replace(draft, residual=value, status=Status.CONVERGED if value < 1e-9 else Status.NOT_CONVERGED)


def _residual(point: TwoLayerFixedPoint) -> float:
    """Largest violation of the equations at rest, relative to the terms that balance in them."""
    f, Delta, decay = point.fitted, point.labels - point.fitted, point.weight_decay
    Phi, G = point.feature_kernel, point.gradient_kernel
    pairs = [
        (point.tangent_kernel @ Delta, 2 * decay * f),
        (decay**2 * Phi, point.gamma0**2 * np.outer(Delta, Delta) * G),
        (point.error, Delta),
    ]
    alive = point.moments > 0
    errors = np.linalg.norm(Delta * (point.directions != 0), axis=1)
    pairs.append((point.gamma0 * errors[alive], np.full(int(alive.sum()), decay)))
    tiny = float(np.finfo(float).tiny)
    return max(float(np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), tiny)) for a, b in pairs)
