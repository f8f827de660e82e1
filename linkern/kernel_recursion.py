r"""The recursion over layers behind the lazy kernels, evaluated block by block.

`linkern.lazy` states the equations; here are the parts that know about rounding and memory: variances travel apart from
covariances, blocks stay in cache, and the symmetric case computes one triangle and copies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import activations, checks
from linkern.activations import Activation, ActivationLike, Dual

__all__ = ["Kind", "WideNetwork"]

Array = NDArray[np.float64]
Kind = Literal["layers", "nngp", "ntk"]

# Entries per block: a dual function needs some twenty temporaries of the block's size, here 2 MB each.
_BLOCK = 2**18
_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
# Rounding in the D-term inner products leaves parallel rows a few units in the last place from correlation +-1.
_PARALLEL = 16 * _EPS


@dataclass(frozen=True)
class WideNetwork:
    """Validated parameters and the recursion over layers."""

    depth: int
    activation: Activation
    variances: Array
    dual: Dual
    dual_derivative: Dual

    @classmethod
    def checked(cls, depth: int, activation: ActivationLike, prior_variances: ArrayLike) -> WideNetwork:
        """Validate what the user gave."""
        depth = checks.integer_at_least("depth", depth)
        phi = activations.get(activation)
        if phi.dual is None or phi.dual_derivative is None:
            raise ValueError(f"activation: expected one with dual and dual_derivative, {phi.name!r} lacks them")
        meaning = "g_1 ... g_L of the hidden layers, then g_w of the readout"
        variances = checks.per_layer("prior_variances", prior_variances, depth + 1, meaning)
        return cls(depth, phi, variances, phi.dual, phi.dual_derivative)

    def step(self, l: int, a: Array, b: Array, c: Array, Theta: Array | None) -> tuple[Array, Array | None]:
        """Return (K^{l+1}, Theta^{l+1}) from the variances a, b and covariance c of layer l."""
        g = self.variances[l]
        K = self.dual(g * a, g * b, g * c)
        if Theta is not None:
            Theta = K + self.variances[l + 1] * self.dual_derivative(g * a, g * b, g * c) * Theta
        return K, Theta

    def diagonal(self, name: str, X: Array, *, tangent: bool) -> tuple[list[Array], Array | None]:
        """Return K^l(x, x) for l = 0..L, and Theta^L(x, x) if `tangent`, at each row x of X."""
        # Ranges are checked here, once per row: by Cauchy-Schwarz the diagonal bounds every entry of the kernels.
        with np.errstate(over="ignore", invalid="ignore"):
            K = np.einsum("ij,ij->i", X, X) / X.shape[1]
            if not np.isfinite(K).all() or (X[K < _TINY] != 0).any():
                raise ValueError(f"{name}: expected rows whose squared length float64 can hold, got over- or underflow; rescale")
            variances, Theta = [K], K if tangent else None
            for l in range(self.depth):
                K, Theta = self.step(l, K, K, K, Theta)
                variances.append(K)
            last = self.variances[-1] * K if Theta is None else Theta
        if not np.isfinite(last).all() or ((K < _TINY) & (variances[0] > 0)).any():
            raise ValueError(
                f"prior_variances: expected kernels that float64 can hold after {self.depth} layers, got over- or underflow "
                "(hidden variances of 1 for linear and 2 for ReLU keep the scale at every depth)"
            )
        return variances, Theta

    def block(self, C: Array, rows: list[Array], columns: list[Array], kind: Kind) -> Iterator[Array]:
        """Yield the kernels of `kind` for a block whose rows and columns have the given variances K^l(x, x)."""
        K, Theta = C, C if kind == "ntk" else None
        for l in range(self.depth):
            if kind == "layers":
                yield K
            a, b = rows[l][:, None], columns[l]
            K, Theta = self.step(l, a, b, _parallel_made_exact(a, b, K), Theta)
        yield self.variances[-1] * K if kind == "nngp" else K if Theta is None else Theta

    def kernels(self, X: Array, X2: Array | None, kind: Kind) -> Array:
        """Return the kernels of `kind`: (L + 1, P, P2) for "layers", else (1, P, P2); `X2` None means symmetric."""
        symmetric = X2 is None
        rows, tangent_diagonal = self.diagonal("X", X, tangent=kind == "ntk")
        if X2 is None:
            X2, columns = X, rows
        else:
            columns, _ = self.diagonal("X2", X2, tangent=False)
        P, P2 = len(X), len(X2)
        out = np.empty((self.depth + 1 if kind == "layers" else 1, P, P2))
        height = max(1, _BLOCK // P2)
        for start in range(0, P, height):
            stop = min(start + height, P)
            width = stop if symmetric else P2
            C = X[start:stop] @ X2[:width].T / X.shape[1]
            block = self.block(C, [a[start:stop] for a in rows], [b[:width] for b in columns], kind)
            for whole, part in zip(out, block, strict=True):
                whole[start:stop, :width] = part
                if symmetric:
                    _mirror_lower(whole, start, stop)
        if symmetric:
            exact = {"layers": rows, "nngp": [self.variances[-1] * rows[-1]], "ntk": [tangent_diagonal]}[kind]
            for whole, diagonal in zip(out, exact, strict=True):
                np.fill_diagonal(whole, diagonal)
        return out


def _mirror_lower(matrix: Array, start: int, stop: int) -> None:
    """Complete a symmetric matrix whose rows start..stop are filled up to column stop."""
    block = matrix[start:stop, start:stop]
    block[...] = np.tril(block) + np.tril(block, -1).T
    matrix[:start, start:stop] = matrix[start:stop, :start].T


def _parallel_made_exact(a: Array, b: Array, c: Array) -> Array:
    """Move correlations within rounding of +-1 onto it.

    Theta feels the angle itself, about sqrt(2 (1 - |correlation|)): a rounding error of 1e-16 in c would show as 1e-8.
    The bound is overshot by a few units so that a dual function sees a b - c^2 <= 0 and takes it as zero.
    """
    bound = np.sqrt(a) * np.sqrt(b)
    return np.where(np.abs(c) >= bound * (1 - _PARALLEL), np.copysign(bound * (1 + 4 * _EPS), c), c)
