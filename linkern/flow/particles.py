"""One sample system of the nonlinear mean-field equations, marched forward in time.

A particle of layer l carries h = R [u + A g] + memory and z = R [r + B phi] + memory (`linkern.flow.causal` has the linear
case). With u = eps_u Bf^T, r = eps_r Bg^T in the innovations of the neighbouring layers, response terms are Stein averages,
<d phi/d eps_r> = <phi eps_r>: no derivative of phi beyond phi' is needed, and the equal-time response is included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linkern.activations import Activation
from linkern.flow.innovations import Expansion, SampleBasis

__all__ = ["Particles"]

Floats = NDArray[np.float64]


class _Layer:
    """Samples of one layer: noise, expansions of phi and g, and the memory of past drives in the neighbours' innovations."""

    def __init__(self, samples: int, points: int, tolerance: float, gradient_tolerance: float, rng: np.random.Generator) -> None:
        self.rng = rng
        self.basis = SampleBasis(samples)
        self.phi_expansion = Expansion(samples, tolerance, samples // 2)
        self.g_expansion = Expansion(samples, gradient_tolerance, samples // 2)
        self.eps_u, self.eps_r = np.empty((samples, 0)), np.empty((samples, 0))
        self.memory_h, self.memory_z = np.empty((samples, 0)), np.empty((samples, 0))
        self.h, self.phi, self.z, self.g = (np.empty((samples, points)) for _ in range(4))
        self.slope_sum: Floats = np.zeros((samples, points))
        self.drive_h, self.drive_z = np.empty((points, 0)), np.empty((points, 0))

    def widen_u(self, rank: int) -> None:
        """Add noise for the innovations that the layer below gained."""
        self.eps_u, self.memory_h = self._widened(self.eps_u, self.memory_h, rank)

    def widen_r(self, rank: int) -> None:
        """Add noise for the innovations that the layer above gained."""
        self.eps_r, self.memory_z = self._widened(self.eps_r, self.memory_z, rank)

    def _widened(self, noise: Floats, memory: Floats, rank: int) -> tuple[Floats, Floats]:
        count = rank - noise.shape[1]
        if count <= 0:
            return noise, memory
        fresh = self.basis.fresh(self.rng, count)
        return np.hstack([noise, fresh]), np.hstack([memory, np.zeros_like(fresh)])


class Particles:
    """S samples of every layer at P points, the first ones of which are trained.

    Attributes
    ----------
    f : (P,) array
        The readout <z^L phi(h^L)>/gamma0 at the current time.
    layers : list
        Samples h, phi, z, g of every layer, each (S, P).
    """

    def __init__(
        self,
        root: Floats,
        labels: Floats,
        depth: int,
        gamma0: float,
        activation: Activation,
        samples: int,
        tolerances: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        self.root, self.labels, self.gamma0, self.activation, self.samples = root, labels, gamma0, activation, samples
        self.layers = [_Layer(samples, root.shape[0], *tolerances, child) for child in rng.spawn(depth)]
        self.R = 1.0
        self.averaged = 0
        self.f: Floats = np.zeros(root.shape[0])
        self.Delta: Floats = np.zeros(root.shape[0])

    def evaluate(self) -> None:
        """Compute all fields, f and Delta at the current time."""
        self._forward()
        self._backward()

    def step(self, eta: float, decay: float) -> None:
        """Add the current drives to the memories; the next `evaluate` is one step of gradient descent later."""
        keep, rate = 1 - eta * decay, eta * self.gamma0
        self.R *= keep
        for layer in self.layers:
            layer.memory_h = keep * layer.memory_h + rate * (layer.g * self.Delta) @ layer.drive_h
            layer.memory_z = keep * layer.memory_z + rate * (layer.phi * self.Delta) @ layer.drive_z

    def feature_kernels(self) -> Floats:
        """(L, P, P): Phi^l at equal times."""
        return np.stack([layer.phi.T @ layer.phi / self.samples for layer in self.layers])

    def gradient_kernels(self) -> Floats:
        """(L, P, P): G^l at equal times."""
        return np.stack([layer.g.T @ layer.g / self.samples for layer in self.layers])

    def tangent_kernel(self) -> Floats:
        """(P, P): K = sum_l G^{l+1} Phi^l, entry by entry, at equal times."""
        features = np.concatenate([(self.root @ self.root.T)[None], self.feature_kernels()])
        gradients = np.concatenate([self.gradient_kernels(), np.ones_like(features[:1])])
        return np.einsum("lpq,lpq->pq", gradients, features)

    def average_slopes(self) -> None:
        """Add the current phi' of every neuron to its average."""
        self.averaged += 1
        for layer in self.layers:
            layer.slope_sum += self.activation.derivative(layer.h)

    def settled_tangent_kernel(self) -> Floats:
        """(P, P): K with g = alpha z, alpha the average of phi' over the times given to `average_slopes`, per neuron and point.

        Weight decay drives neurons onto the kink of ReLU, where phi' chatters between its two values and only its average
        means something: at rest weight_decay h = gamma0 C (Delta alpha) z and phi(h) = alpha h.
        """
        features = np.concatenate([(self.root @ self.root.T)[None], self.feature_kernels()])
        fields = [layer.slope_sum / self.averaged * layer.z for layer in self.layers]
        gradients = np.stack([*(g.T @ g / self.samples for g in fields), np.ones_like(features[0])])
        return np.einsum("lpq,lpq->pq", gradients, features)

    def samples_needed(self) -> int | None:
        """None, or how many samples the ranks of the processes ask for where they have run out."""
        needed = 0
        for layer in self.layers:
            if layer.basis.exhausted or layer.phi_expansion.saturated or layer.g_expansion.saturated:
                ranks = layer.phi_expansion.rank + layer.g_expansion.rank + layer.eps_u.shape[1] + layer.eps_r.shape[1]
                needed = max(needed, int(1.2 * ranks), 2 * self.samples)
        return needed or None

    def _forward(self) -> None:
        Bf: Floats = self.root
        response: Floats | None = None
        for index, layer in enumerate(self.layers):
            layer.widen_u(Bf.shape[1])
            layer.drive_h = Bf
            layer.h = (self.R * layer.eps_u + layer.memory_h) @ Bf.T
            if response is not None:
                layer.h += self.R * layer.g_expansion.innovations @ response.T
            layer.phi = np.asarray(self.activation.value(layer.h), dtype=np.float64)
            if len(self.layers) > 1:
                # One layer alone needs no expansions: no neighbour draws noise from them.
                layer.basis.add(layer.phi_expansion.push(layer.phi))
                Bf = layer.phi_expansion.coefficients
            # The noise r of this layer and the field g of the next one share their innovations.
            last = index == len(self.layers) - 1
            response = None if last else layer.phi.T @ layer.eps_r / self.samples

    def _backward(self) -> None:
        Bg: Floats = np.ones((self.root.shape[0], 1))
        response: Floats | None = None
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            layer.widen_r(Bg.shape[1])
            layer.drive_z = Bg
            layer.z = (self.R * layer.eps_r + layer.memory_z) @ Bg.T
            if response is not None:
                layer.z += self.R * layer.phi_expansion.innovations @ response.T
            if index == len(self.layers) - 1:
                self.f = np.einsum("sp,sp->p", layer.z, layer.phi) / (self.samples * self.gamma0)
                self.Delta[: self.labels.size] = self.labels - self.f[: self.labels.size]
            layer.g = np.asarray(self.activation.derivative(layer.h), dtype=np.float64) * layer.z
            if index > 0:
                layer.basis.add(layer.g_expansion.push(layer.g))
                Bg = layer.g_expansion.coefficients
                response = layer.g.T @ layer.eps_u / self.samples
