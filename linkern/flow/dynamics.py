"""Training of infinitely wide deep linear networks, exactly: gradient descent step by step, and gradient flow as its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, nonnegative, positive, real_array
from linkern.flow.causal import CausalMarch, memory_rows
from linkern.flow.trajectory import Trajectory, as_spectrum, kernel_rows
from linkern.solution import ConvergenceError, Status

__all__ = ["DescentTrajectory", "march"]

Floats = NDArray[np.float64]
# A loss this many times the initial one is divergence, not a transient.
BLOW_UP = 1e8
# Residuals that rounding explains; larger ones mean lost digits.
TOLERANCE = 1e-8


@dataclass(frozen=True, kw_only=True)
class DescentTrajectory(Trajectory):
    """Gradient descent at infinite width; `residual` compares the readouts of all layers, <g^l h^l>/gamma0 = f.

    Attributes
    ----------
    steps : (T - 1,) array
        Step sizes.
    """

    steps: Floats = field(repr=False)
    _march: CausalMarch = field(repr=False)

    def gradient_kernels(self) -> Floats:
        """G^1, .., G^{L+1} at two times: (L + 1, T, T), or (L + 1, T, O, T, O) where y has an axis of outputs."""
        T, O = self.times.size, self._march.outputs
        kernels = np.stack(self._march.G[1:])
        return kernels if len(self.spectrum.label_shape) == 1 else kernels.reshape(-1, T, O, T, O)

    def error_kernels(self) -> Floats:
        """Delta(t)^T Phi^l(t, s) Delta(s), l = 0..L: (L + 1, T, T) or (L + 1, T, O, T, O)."""
        T, O = self.times.size, self._march.outputs
        kernels = np.stack(self._march.Psi)
        return kernels if len(self.spectrum.label_shape) == 1 else kernels.reshape(-1, T, O, T, O)

    def feature_kernels(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """Return Phi^0, .., Phi^L between times t and s.

        Parameters
        ----------
        t, s : int
            Indices into `times`; s is t when absent.
        X_new, kernel_new : arrays
            New inputs (m, D), or rows C(x, X) (m, P): kernels between them and the training inputs instead.

        Returns
        -------
        (L + 1, P, P) or (L + 1, m, P) array
            Rows at time t, columns (training inputs) at time s.

        Notes
        -----
        O(L (P + m) (T O)^2) time.
        """
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        train = self._training_rows
        if X_new is None and kernel_new is None:
            C = self.spectrum.dense()
            new, base = train, (C + C.T) / 2
        else:
            base = kernel_rows(self.spectrum, X_new, kernel_new)
            new = np.asarray(self.spectrum.to_modes(base.T).T)
        m = self._march
        upto = slice(0, (max(t, s) + 1) * m.outputs)
        left = m.fields(new, t, upto)
        right = left if new is train and s == t else m.fields(train, s, upto)
        kernels = [base]
        Rt, Rs = (m.R[index * m.outputs] for index in (t, s))
        for l in range(1, self.depth + 1):
            (Y, E, A), (Z, F, B) = left[l - 1], right[l - 1]
            below = Rt * Rs * kernels[-1] + Rt * Y @ F.T + Rs * E @ Z.T + (E @ m.Psi[l - 1][upto, upto]) @ F.T
            kernel = below + (A @ m.G[l + 1][upto, upto]) @ B.T
            kernels.append((kernel + kernel.T) / 2 if right is left else kernel)
        return np.stack(kernels)

    def tangent_kernel(
        self, t: int = -1, s: int | None = None, *, X_new: ArrayLike | None = None, kernel_new: ArrayLike | None = None
    ) -> Floats:
        """Return K = sum_l G^{l+1} Phi^l: (P, P) or (m, P); with an axis of outputs (m, O, P, O). Arguments as above."""
        t = self._index("t", t)
        s = t if s is None else self._index("s", s)
        Phi = self.feature_kernels(t, s, X_new=X_new, kernel_new=kernel_new)
        O = self._march.outputs
        blocks = np.stack([G[t * O : (t + 1) * O, s * O : (s + 1) * O] for G in self._march.G[1:]])
        if len(self.spectrum.label_shape) == 1:
            return np.asarray(np.einsum("l,lmp->mp", blocks[:, 0, 0], Phi))
        return np.einsum("lij,lmp->mipj", blocks, Phi)

    def responses(self) -> tuple[Floats, Floats]:
        """Response functions contracted with the error, each (L, T O, T O), strictly causal.

        Entry l - 1 of the first is gamma0 Delta^T A^l, l = 1..L (of the fields to the backward noise of their layer); of
        the second it is gamma0 b^{l-1} with gamma0 B^{l-1} = b^{l-1} Delta^T. A^0 = B^L = 0.
        """
        return np.stack(self._march.a[1:]), np.stack(self._march.b[:-1])

    def sharpness(self, t: int = 0) -> float:
        """Largest eigenvalue of the tangent kernel at time t: descent is stable while step (sharpness + (L+1) decay) < 2."""
        K = self.tangent_kernel(t)
        size = int(math.sqrt(K.size))
        return float(np.linalg.eigvalsh(K.reshape(size, size))[-1])

    @property
    def _training_rows(self) -> Floats:
        return self.spectrum.to_samples(np.diag(self.spectrum.eigenvalues))


def march(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    steps: ArrayLike,
    weight_decay: float = 0.0,
    raise_on_failure: bool = True,
) -> DescentTrajectory:
    """Train an infinitely wide deep linear network from random weights by gradient descent, exactly.

    theta <- (1 - step weight_decay) theta - step gamma0^2 N grad 1/2 sum (f - y)^2, width N -> infinity.

    Parameters
    ----------
    X : (P, D) array
        Inputs. Give X and y, or kernel and y, or a Spectrum.
    y : (P,) or (P, O) array
        Labels.
    kernel : (P, P) array
        The data kernel C = X X^T / D itself.
    spectrum : Spectrum
        The decomposed data.
    depth : int
        L >= 1 hidden layers.
    gamma0 : float
        Richness > 0.
    steps : (T - 1,) array
        Step sizes > 0, any schedule (`numpy.full(99, 0.025)` for T = 100 times).
    weight_decay : float
        lambda >= 0; every step must be below 1/lambda.
    raise_on_failure : bool
        Whether a diverging run raises; otherwise it is returned up to where it left the range of sense.

    Returns
    -------
    DescentTrajectory
        All T times.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.
    ConvergenceError
        The loss blew up: the message tells the stable step at initialisation, `solution` holds the run so far.

    Notes
    -----
    Cost (26/3) L (T O)^3 flops plus O(T O r) per step for the data; memory 8 L (T O)^2 doubles (before that the
    eigendecomposition of the data). Seconds for T = 500, L = 5.
    """
    spectrum = as_spectrum(X, y, kernel, spectrum)
    return run_march(CausalMarch, spectrum, depth, gamma0, steps, weight_decay, raise_on_failure)


def run_march(
    kind: type[CausalMarch],
    spectrum: Spectrum,
    depth: int,
    gamma0: float,
    steps: ArrayLike,
    weight_decay: float,
    raise_on_failure: bool,
) -> DescentTrajectory:
    """Run a march of the given kind to its end or to its divergence, and let it compute its residual."""
    depth = integer_at_least("depth", depth)
    gamma0 = positive("gamma0", gamma0)
    weight_decay = nonnegative("weight_decay", weight_decay)
    sizes = _steps(steps, weight_decay)
    R, mem = memory_rows(sizes, gamma0, weight_decay)
    machine = kind(spectrum.eigenvalues, spectrum.coefficients, depth, gamma0, R, mem)
    limit = BLOW_UP * max(float((spectrum.coefficients**2).sum()), float(np.finfo(float).tiny))
    diverged = False
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(R.size):
            Delta = machine.advance()
            if not (Delta**2).sum() <= limit:
                diverged = True
                break
    T = machine.done - diverged
    if diverged:
        # The rows of the time that blew up are dropped, so that everything kept is finite.
        _truncate(machine, T)
    machine.finish()
    residual = max((machine.violation(int(t)) for t in np.unique(np.linspace(0, T - 1, 9).astype(int))), default=0.0)
    solution = DescentTrajectory(
        parameters={"depth": depth, "gamma0": gamma0, "weight_decay": weight_decay, "steps": int(sizes.size)},
        residual=residual,
        status=Status.CONVERGED if residual < TOLERANCE and not diverged else Status.NOT_CONVERGED,
        spectrum=spectrum,
        depth=depth,
        gamma0=gamma0,
        weight_decay=weight_decay,
        times=np.concatenate([[0.0], np.cumsum(sizes)])[:T],
        signal=machine.signal.reshape(T, machine.outputs, -1),
        steps=sizes[: T - 1],
        _march=machine,
    )
    if diverged and raise_on_failure:
        raise ConvergenceError(_explain(solution, float(sizes[T - 1])), solution)
    return solution


def stable_step(spectrum: Spectrum, depth: int, weight_decay: float = 0.0) -> float:
    """Return the largest stable step at initialisation, 2 / ((L + 1) (lam_max + weight_decay)).

    The tangent kernel starts as (L + 1) C; training with large gamma0 makes it grow, and the stable step shrink.
    """
    top = float(spectrum.eigenvalues.max(initial=0.0))
    rate = (depth + 1) * (top + weight_decay)
    return 2 / rate if rate else math.inf


def _explain(solution: DescentTrajectory, step: float) -> str:
    start = stable_step(solution.spectrum, solution.depth, solution.weight_decay)
    last = solution.sharpness(-1) + (solution.depth + 1) * solution.weight_decay
    return (
        f"steps: the loss grew more than {BLOW_UP:g}-fold by t = {solution.times[-1]:.6g} (step {step:.6g}), as that of any "
        f"network would: descent is stable for steps below {start:.6g} at initialisation and below {2 / last:.3g} at the last "
        f"tangent kernel before this point; expected smaller steps"
    )


def _truncate(machine: CausalMarch, T: int) -> None:
    """Forget all rows from time T on."""
    n = T * machine.outputs
    for stack in (machine.Q, machine.d, machine.c, machine.b, machine.N, machine.a, machine.G, machine.Psi):
        stack[:] = [matrix[:n, :n] for matrix in stack]
    machine.Delta, machine.signal, machine.done = machine.Delta[:n], machine.signal[:n], T


def _steps(steps: ArrayLike, weight_decay: float) -> Floats:
    sizes = real_array("steps", steps, ndim=1)
    if not (sizes > 0).all():
        raise ValueError(f"steps: expected numbers > 0, got {sizes.min()!r}")
    if weight_decay * sizes.max() >= 1:
        raise ValueError(f"steps: expected steps below 1/weight_decay = {1 / weight_decay:.6g}, got {sizes.max():.6g}")
    return sizes
