"""One sample system of the nonlinear mean-field equations, marched forward in time.

A particle of layer l carries h = R [u + A g] + memory and z = R [r + B phi] + memory (`linkern.flow.causal` has the linear
case). With u = eps_u Bf^T, r = eps_r Bg^T in the innovations of the neighbouring layers, response terms are Stein averages,
<d phi/d eps_r> = <phi eps_r>: no derivative of phi beyond phi' is needed, and the equal-time response is included.

With O outputs every unit has one backward field per output, z_{mu c} and g_{mu c} = phi'(h_mu) z_{mu c}. The columns of z and g,
and everything that belongs to them (f, Delta, G, K), run over (point, output) with the output fastest; those of h and phi over
points. The readout's G^{L+1} is delta_{c c'}, the weights below see sum_c Delta_{mu c} g_{mu c}.
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

    def __init__(
        self, samples: int, points: int, outputs: int, tolerances: tuple[float, float], rng: np.random.Generator
    ) -> None:
        tol, gradient_tol = tolerances
        self.rng = rng
        self.basis = SampleBasis(samples)
        self.phi_expansion = Expansion(samples, tol, samples // 2)
        self.g_expansion = Expansion(samples, gradient_tol, samples // 2)
        self.eps_u, self.eps_r = np.empty((samples, 0)), np.empty((samples, 0))
        self.memory_h, self.memory_z = np.empty((samples, 0)), np.empty((samples, 0))
        self.h, self.phi = (np.empty((samples, points)) for _ in range(2))
        self.z, self.g = (np.empty((samples, points * outputs)) for _ in range(2))
        self.g_sum: Floats = np.zeros((samples, points * outputs))
        self.drive_h, self.drive_z = np.empty((points, 0)), np.empty((points * outputs, 0))

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
    f, Delta : (P O,) arrays
        The readout <z^L phi(h^L)>/gamma0 at the current time, and labels - f, zero at points without labels.
    layers : list
        Samples of every layer: h, phi (S, P) and z, g (S, P O).
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
        outputs: int = 1,
    ) -> None:
        self.root, self.labels, self.gamma0, self.activation, self.samples = root, labels, gamma0, activation, samples
        self.layers = [_Layer(samples, root.shape[0], outputs, tolerances, child) for child in rng.spawn(depth)]
        self.readout: Floats = np.tile(np.eye(outputs), (root.shape[0], 1))
        self.R = 1.0
        self.averaged = 0
        self.f: Floats = np.zeros(root.shape[0] * outputs)
        self.Delta: Floats = np.zeros(root.shape[0] * outputs)

    def evaluate(self) -> None:
        """Compute all fields, f and Delta at the current time."""
        self._forward()
        self._backward()

    def step(self, eta: float, decay: float) -> None:
        """Add the current drives to the memories; the next `evaluate` is one step of gradient descent later."""
        keep, rate = 1 - eta * decay, eta * self.gamma0
        self.R *= keep
        Delta = self.Delta.reshape(len(self.root), -1)
        for layer in self.layers:
            pull = np.einsum("spo,po->sp", self._by_output(layer.g), Delta)
            push = np.einsum("sp,po->spo", layer.phi, Delta).reshape(layer.g.shape)
            layer.memory_h = keep * layer.memory_h + rate * pull @ layer.drive_h
            layer.memory_z = keep * layer.memory_z + rate * push @ layer.drive_z

    def feature_kernels(self) -> Floats:
        """(L, P, P): Phi^l at equal times."""
        return np.stack([layer.phi.T @ layer.phi / self.samples for layer in self.layers])

    def gradient_kernels(self) -> Floats:
        """(L, P O, P O): G^l at equal times."""
        return np.stack([layer.g.T @ layer.g / self.samples for layer in self.layers])

    def tangent_kernel(self) -> Floats:
        """(P O, P O): K = sum_l G^{l+1} Phi^l, entry by entry, at equal times."""
        return self._tangent_kernel(self.gradient_kernels())

    def average_gradients(self) -> None:
        """Add the current g of every neuron to its average."""
        self.averaged += 1
        for layer in self.layers:
            layer.g_sum += layer.g

    def settled_tangent_kernel(self) -> Floats:
        """(P O, P O): K with g averaged, per neuron, over the times given to `average_gradients`.

        Weight decay drives neurons onto the kink of ReLU, where phi' chatters between its two values, and with it the z of
        all layers below. At rest only averages mean something: weight_decay W^l is gamma0/sqrt(N) times the sum of
        Delta g^{l+1} phi^l with g averaged, and f = <g^{l+1} h^{l+1}>/gamma0 with the same g because h stands still.
        """
        return self._tangent_kernel(
            np.stack([layer.g_sum.T @ layer.g_sum for layer in self.layers]) / (self.averaged**2 * self.samples)
        )

    def samples_needed(self) -> int | None:
        """None, or how many samples the ranks of the processes ask for where they have run out."""
        needed = 0
        for layer in self.layers:
            if layer.basis.exhausted or layer.phi_expansion.saturated or layer.g_expansion.saturated:
                ranks = layer.phi_expansion.rank + layer.g_expansion.rank + layer.eps_u.shape[1] + layer.eps_r.shape[1]
                needed = max(needed, int(1.2 * ranks), 2 * self.samples)
        return needed or None

    def _by_output(self, columns: Floats) -> Floats:
        """(S, P O) as (S, P, O)."""
        return columns.reshape(self.samples, len(self.root), -1)

    def _tangent_kernel(self, gradients: Floats) -> Floats:
        outputs = self.readout.shape[1]
        features = np.concatenate([(self.root @ self.root.T)[None], self.feature_kernels()])
        features = features.repeat(outputs, axis=1).repeat(outputs, axis=2)
        return np.einsum("lpq,lpq->pq", np.concatenate([gradients, (self.readout @ self.readout.T)[None]]), features)

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
        Bg = self.readout
        response: Floats | None = None
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            layer.widen_r(Bg.shape[1])
            layer.drive_z = Bg
            layer.z = (self.R * layer.eps_r + layer.memory_z) @ Bg.T
            if response is not None:
                layer.z += self.R * layer.phi_expansion.innovations @ response.T
            if index == len(self.layers) - 1:
                products = np.einsum("spo,sp->po", self._by_output(layer.z), layer.phi)
                self.f = products.ravel() / (self.samples * self.gamma0)
                self.Delta[: self.labels.size] = self.labels - self.f[: self.labels.size]
            slopes = np.asarray(self.activation.derivative(layer.h), dtype=np.float64)
            layer.g = np.einsum("sp,spo->spo", slopes, self._by_output(layer.z)).reshape(layer.z.shape)
            if index > 0:
                layer.basis.add(layer.g_expansion.push(layer.g))
                Bg = layer.g_expansion.coefficients
                response = layer.g.T @ layer.eps_u / self.samples
