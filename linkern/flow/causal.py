"""The deep linear mean-field equations as one march forward in time: every row needs earlier rows only.

A single neuron of layer l sees h = R u + C g and g = R r + D h, with u ~ N(0, Phi^{l-1}) and r ~ N(0, G^{l+1}), and

    C^l = R A^{l-1} + mem Phi^{l-1} Delta,    D^l = R B^l + mem G^{l+1} Delta^T,    A^l = dh/dr,    B^{l-1} = dg/du.

D and B end in the error signal, D^l = d^l Delta^T, so that everything contracted with Delta closes on matrices over time
(and outputs): c = Delta^T C, a = Delta^T A, Psi = Delta^T Phi Delta. For O outputs a "row" is a block of O rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CausalMarch", "IndependentMarch", "memory_rows"]

Floats = NDArray[np.float64]


def memory_rows(steps: Floats, gamma0: float, weight_decay: float) -> tuple[Floats, Floats]:
    """Return R_t, (T,), and mem(t, s) = steps_s gamma0 prod_{s < u < t} (1 - steps_u weight_decay), (T, T), T = len(steps) + 1.

    Built row by row from the previous one: quotients R_t / R_s would fail where R underflows.
    """
    T = steps.size + 1
    R, mem = np.ones(T), np.zeros((T, T))
    for t in range(1, T):
        keep = 1 - steps[t - 1] * weight_decay
        R[t] = keep * R[t - 1]
        mem[t, : t - 1] = keep * mem[t - 1, : t - 1]
        mem[t, t - 1] = steps[t - 1] * gamma0
    return R, mem


class CausalMarch:
    """State of a march; `advance` adds one time, `finish` completes the last layer after all of them.

    Attributes
    ----------
    Delta : (n, r) array
        y - f in the eigenbasis of the data kernel, n = T O rows in the order (time, output).
    signal : (n, r) array
        gamma0 C^{-1} f: the predictor at any x is C(x, X) signal / gamma0.
    Q, d, c, b : (L + 1, n, n) arrays by layer
        (1 - d c)^{-1}, and the response functions; entry 0 of Q, d, c and entry L of b are not used.
    N, a : (L + 1, n, n) arrays
        Response of Delta^T h to u and to r.
    G : (L + 2, n, n) array
        Gradient kernels; entry 0 is not used, entry L + 1 is one for equal outputs.
    Psi : (L + 1, n, n) array
        Delta^T Phi^l Delta.
    """

    #: Whether the response functions A and B of the neighbouring layers act on the fields.
    responses = True
    #: Whether a^L, N^L and Psi^L, which the march itself does not need, wait for `finish`.
    postpones_last_layer = True

    def __init__(self, lam: Floats, B: Floats, depth: int, gamma0: float, R: Floats, mem: Floats) -> None:
        outputs = B.shape[1]
        n = R.size * outputs
        self.lam, self.labels = lam, np.ascontiguousarray(B.T)
        self.depth, self.gamma0, self.outputs = depth, gamma0, outputs
        self.R, self.mem = np.repeat(R, outputs), np.repeat(mem, outputs, axis=1)
        self.Delta, self.signal = np.zeros((n, lam.size)), np.zeros((n, lam.size))
        self.Q, self.d, self.c, self.b, self.N, self.a = (self._layers(n, depth + 1) for _ in range(6))
        self.G, self.Psi = self._layers(n, depth + 2), self._layers(n, depth + 1)
        self.G[depth + 1] = np.tile(np.eye(outputs), (R.size, R.size))
        self.unit = np.eye(outputs)
        self.done = 0

    @staticmethod
    def _layers(n: int, count: int) -> list[Floats]:
        # Fresh zeros cost no memory until they are written: the upper triangles and unused layers stay virtual.
        return [np.zeros((n, n)) for _ in range(count)]

    def advance(self) -> Floats:
        """Add the next time and return Delta there, (O, r); cost about 26 L (T O)^2 O flops."""
        t, o = self.done, self.done * self.outputs
        old, row, upto = slice(0, o), slice(o, o + self.outputs), slice(0, o + self.outputs)
        for l in range(self.depth, 0, -1):
            self._backward(l, t, old, row, upto)
        self._readout(t, old, row)
        self.Delta[row] = self.labels - self.lam * self.signal[row] / self.gamma0
        self.Psi[0][row, upto] = (self.lam * self.Delta[row]) @ self.Delta[upto].T
        self.Psi[0][old, row] = self.Psi[0][row, old].T
        for l in range(1, self.depth + 1):
            self._forward(l, t, old, row, upto)
        self.done += 1
        return self.Delta[row]

    def _readout(self, t: int, old: slice, row: slice) -> None:
        """The first layer's weights applied to an input: exact for gradient descent."""
        drive = self.R[row.start] * self.b[0][row, old] + self.mem[t, old] * self.G[1][row, old]
        self.signal[row] = drive @ self.Delta[old]

    def _backward(self, l: int, t: int, old: slice, row: slice, upto: slice) -> None:
        """Rows t of d^l, Q^l, b^{l-1}, G^l."""
        Q, d, b, R = self.Q[l], self.d[l], self.b[l - 1], self.R
        d[row, old] = self.mem[t, old] * self.G[l + 1][row, old]
        if self.responses and l < self.depth:
            d[row, old] += R[row.start] * self.b[l][row, old]
        Q[row, old] = (d[row, old] @ self.c[l][old, old]) @ Q[old, old]
        Q[row, row] = self.unit
        b[row, old] = (d[row, old] + Q[row, old] @ d[old, old]) * R[old]
        own = (((Q[row, upto] * R[upto]) @ self.G[l + 1][upto, upto]) * R[upto]) @ Q[upto, upto].T
        own += (b[row, old] @ self.Psi[l - 1][old, old]) @ b[upto, old].T
        self.G[l][row, upto] = own
        self.G[l][old, row] = own[:, old].T

    def _forward(self, l: int, t: int, old: slice, row: slice, upto: slice) -> None:
        """Rows t of c^l, a^l, N^l, Psi^l."""
        c, a, N, R = self.c[l], self.a[l], self.N[l], self.R
        c[row, old] = self.mem[t, old] * self.Psi[l - 1][row, old]
        if self.responses and l > 1:
            c[row, old] += R[row.start] * self.a[l - 1][row, old]
        if l == self.depth and self.postpones_last_layer:
            return
        a[row, old] = (c[row, old] @ self.Q[l][old, old]) * R[old]
        N[row, old] = c[row, old] @ self.b[l - 1][old, old]
        N[row, row] = R[row.start] * self.unit
        own = (N[row, upto] @ self.Psi[l - 1][upto, upto]) @ N[upto, upto].T
        own += (a[row, old] @ self.G[l + 1][old, old]) @ a[upto, old].T
        self.Psi[l][row, upto] = own
        self.Psi[l][old, row] = own[:, old].T

    def finish(self) -> None:
        """Compute what was postponed, as products of whole matrices, many times faster than row by row."""
        if not self.postpones_last_layer:
            return
        l = self.depth
        self.a[l][:] = (self.c[l] @ self.Q[l]) * self.R[: len(self.Delta)]
        self.N[l][:] = self.c[l] @ self.b[l - 1]
        np.fill_diagonal(self.N[l], self.R[: len(self.Delta)])
        own = (self.N[l] @ self.Psi[l - 1]) @ self.N[l].T + (self.a[l] @ self.G[l + 1]) @ self.a[l].T
        self.Psi[l][:] = (own + own.T) / 2

    def fields(self, cross: Floats, t: int, upto: slice) -> list[tuple[Floats, Floats, Floats]]:
        """For rows x with cross = C(x, X) U, (m, r): Phi^{l-1}(t, .) Delta, C^l b^{l-1} and A^l at time t, each (m, n).

        l = 1..L + 1; of the last entry only the first array has a meaning.
        """
        old, Rt = slice(0, t * self.outputs), self.R[t * self.outputs]
        Y = cross @ self.Delta[upto].T
        A = np.zeros_like(Y)
        fields = []
        for l in range(1, self.depth + 1):
            C = self.mem[t, old] * Y[:, old]
            if self.responses:
                C += Rt * A[:, old]
            E, A = np.zeros_like(Y), np.zeros_like(Y)
            E[:, old] = C @ self.b[l - 1][old, old]
            A[:, old] = (C @ self.Q[l][old, old]) * self.R[old]
            fields.append((Y, E, A))
            Y = (Rt * Y + E @ self.Psi[l - 1][upto, upto]) @ self.N[l][upto, upto].T
            Y += (A @ self.G[l + 1][upto, upto]) @ self.a[l][upto, upto].T
        return [*fields, (Y, np.zeros_like(Y), np.zeros_like(Y))]

    def violation(self, t: int) -> float:
        """Compare Delta(t) . f(t) as read off every layer, <g^l h^l>/gamma0, with the readout that the march used."""
        O = self.outputs
        row, upto = slice(t * O, (t + 1) * O), slice(0, (t + 1) * O)
        f = self.lam * self.signal[row] / self.gamma0
        expected = f @ self.Delta[row].T
        size = float(np.linalg.norm(f) * np.linalg.norm(self.Delta[row]))
        worst = 0.0
        for l in range(1, self.depth + 1):
            through_r = ((self.Q[l][row, upto] * self.R[upto]) @ self.G[l + 1][upto, upto]) @ self.a[l][row, upto].T
            through_u = (self.b[l - 1][row, upto] @ self.Psi[l - 1][upto, upto]) @ self.N[l][row, upto].T
            found = (through_r + through_u) / self.gamma0
            worst = max(worst, float(np.abs(found - expected).max()))
        return worst / size if size > 0 else worst


class IndependentMarch(CausalMarch):
    """The same without responses, A = B = 0: forward and backward fields drawn independently of each other.

    The layers then disagree about the readout, and df/dt = K Delta - (L + 1) decay f with K = sum_l G^{l+1} Phi^l, stepped
    by Euler's rule, defines the predictor. Costs O(L r (T O)^2) per time instead of O(L (T O)^2).
    """

    responses = False
    postpones_last_layer = False

    def __init__(self, lam: Floats, B: Floats, depth: int, gamma0: float, R: Floats, mem: Floats) -> None:
        super().__init__(lam, B, depth, gamma0, R, mem)
        self._next = np.zeros((self.outputs, lam.size))

    def _readout(self, t: int, old: slice, row: slice) -> None:
        self.signal[row] = self._next

    def _forward(self, l: int, t: int, old: slice, row: slice, upto: slice) -> None:
        super()._forward(l, t, old, row, upto)
        if l == self.depth and row.stop < self.R.size:
            self._step(t, row, upto)

    def _step(self, t: int, row: slice, upto: slice) -> None:
        # Rows C^{-1} C(x, X) U = 1: the factor C of every kernel is divided out.
        change = np.zeros_like(self._next)
        for l, (Y, _, _) in enumerate(self.fields(np.eye(self.lam.size), t, upto)):
            change += self.G[l + 1][row, row] @ Y[:, row].T
        rate = self.mem[t + 1, row.start]  # step * gamma0
        decay = 1 - self.R[row.stop] / self.R[row.start]
        self._next = (1 - (self.depth + 1) * decay) * self.signal[row] + rate * change

    def violation(self, t: int) -> float:
        """Compare Delta^T Phi^l Delta of the march with Phi^l as built for every data mode."""
        row, upto = slice(t * self.outputs, (t + 1) * self.outputs), slice(0, (t + 1) * self.outputs)
        worst = 0.0
        for l, (Y, _, _) in enumerate(self.fields(np.diag(self.lam), t, upto)):
            expected = self.Psi[l][row, upto]
            size = float(np.abs(expected).max(initial=0.0))
            worst = max(worst, float(np.abs(self.Delta[row] @ Y - expected).max()) / size if size > 0 else 0.0)
        return worst
