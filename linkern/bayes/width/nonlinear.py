r"""One hidden layer of any activation at finite width: tree level is a convex problem, one loop its first correction.

The outputs' generating function is a sum over N independent neurons,

    W(v) = N ln E_h exp( (eps/2) (v . phi(h))^2 ),   eps = g_w/(chi N),   h ~ N(0, g_1 K),

and the posterior mean is f = y - kappa <v>. Tree level minimises kappa v^2/2 - y . v + W(v), strictly convex, so that its
solution is unique at every chi: no annealing, no branches. All that is needed of the neuron are averages over h, tilted by
exp((eps/2) (v . phi)^2); `NeuronEnsemble` holds points and weights to take them with, from quadrature or from sampling.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import activations
from linkern.activations import Activation, ActivationLike
from linkern.bayes.montecarlo.tilt import require_finite_tilt
from linkern.checks import integer_at_least, kernel_matrix, positive, real_array
from linkern.solution import ConvergenceError, Solution, Status

__all__ = ["NeuronEnsemble", "NonlinearWidthSolution", "solve_width_nonlinear"]

Floats = NDArray[np.float64]
MAX_POINTS, MAX_STEPS, TEST_NODES = 2_000_000, 100, 48


@dataclass(frozen=True)
class NeuronEnsemble:
    """Points of the prior of one neuron's activations.

    Attributes
    ----------
    features : (S, P) array
        phi(h) at the training inputs.
    test_features : (S, m) array
        E[phi(h_*) | h] at the test inputs; m may be 0.
    log_weights : (S,) array
        Logarithms of weights that sum to 1.
    """

    features: Floats
    test_features: Floats
    log_weights: Floats

    @classmethod
    def by_quadrature(
        cls, K: Floats, activation: Activation, nodes: int, cross: Floats | None = None, own: Floats | None = None
    ) -> NeuronEnsemble:
        """Tensor Gauss-Hermite rule with `nodes` points per eigenvector of K (those above rounding): nodes^rank points.

        `cross` (m, P) and `own` (m,) are K(x_*, X) and K(x_*, x_*).
        """
        values, vectors = np.linalg.eigh(K)
        keep = values > 1e-12 * max(values[-1], 0.0)
        if not keep.any():
            raise ValueError("X, kernel: expected at least one input that is not zero, got a vanishing data kernel")
        values, vectors = values[keep], vectors[:, keep]
        if float(nodes) ** values.size > MAX_POINTS:
            raise ValueError(
                f"nodes: expected at most {MAX_POINTS} points, got {nodes} nodes in each of {values.size} directions; "
                "quadrature is for a few training points, solve_width_nonlinear_sampled for more"
            )
        z, w = np.polynomial.hermite_e.hermegauss(nodes)
        grid = np.array(list(itertools.product(z, repeat=values.size))).reshape(-1, values.size)
        log_weights = np.array([sum(p) for p in itertools.product(np.log(w / w.sum()), repeat=values.size)])
        h = grid @ (vectors * np.sqrt(values)).T
        test = np.empty((h.shape[0], 0))
        if cross is not None and own is not None:
            solved = cross @ vectors / values @ vectors.T
            spread = np.sqrt(np.maximum(own - (solved * cross).sum(axis=1), 0.0))
            mean = h @ solved.T
            inner, share = np.polynomial.hermite_e.hermegauss(TEST_NODES)
            test = sum(s / share.sum() * activation.value(mean + spread * point) for point, s in zip(inner, share, strict=True))
        return cls(np.asarray(activation.value(h)), np.asarray(test), log_weights)


@dataclass(frozen=True, kw_only=True)
class NonlinearWidthSolution(Solution):
    """Posterior of one hidden layer, to tree level or one loop.

    `residual` is the larger of the imbalance of kappa v + W'(v) = y and, with quadrature, the change of W'(v) relative to a
    rule with fewer nodes; above 1e-6 the status is UNRELIABLE.

    Attributes
    ----------
    method : str
        "tree" or "one-loop".
    fitted : (P,) array
    test : (m,) array
        Posterior mean at the test inputs.
    kernel : (P, P) array
        Phi^1 = <phi phi^T>.
    covariance : (P, P) array
        Of f at the training inputs, to leading order.
    dual_coefficients : (P,) array
        (y - f)/kappa.
    log_evidence : float
        Tree level: the exponent alone.
    """

    method: str
    fitted: Floats
    test: Floats
    kernel: Floats
    covariance: Floats
    dual_coefficients: Floats
    log_evidence: float
    ensemble: NeuronEnsemble = field(repr=False)


class _Tilted:
    """Averages over neurons tilted by exp(eps s^2/2), s = v . phi; derivatives of W are their cumulants."""

    def __init__(self, ensemble: NeuronEnsemble, v: Floats, eps: float) -> None:
        self.phi, self.eps = ensemble.features, eps
        self.s = self.phi @ v
        exponent = ensemble.log_weights + 0.5 * eps * self.s**2
        top = exponent.max()
        weights = np.exp(exponent - top)
        total = weights.sum()
        self.log_norm = float(top + np.log(total))
        self.w = weights / total
        # d/dv_i of the exponent, centred: every cumulant below is an average of centred products.
        self.force: Floats = np.asarray(eps * self.s[:, None] * self.phi, dtype=np.float64)
        self.mean_force = self.w @ self.force
        self.centred = self.force - self.mean_force

    def average(self, O: Floats) -> Floats:
        """<O> for O of shape (S, ...)."""
        return np.asarray(np.tensordot(self.w, O, axes=1), dtype=np.float64)

    def curvature(self) -> Floats:
        """Second derivatives of ln E exp: (P, P)."""
        weighted = self.w[:, None] * self.phi
        return np.asarray(self.eps * weighted.T @ self.phi + (self.w[:, None] * self.centred).T @ self.centred)

    def first(self, O: Floats) -> Floats:
        """d<O>/dv: (m, P) for O (S, m)."""
        centred = O - self.average(O)
        return np.asarray((self.w[:, None] * centred).T @ self.centred)

    def contracted_second(self, O: Floats, S: Floats) -> Floats:
        """sum_ij S_ij d^2<O>/dv_i dv_j: (m,) for O (S, m)."""
        centred = O - self.average(O)
        square = np.einsum("si,ij,sj->s", self.centred, S, self.centred)
        linear = self.eps * np.einsum("si,ij,sj->s", self.phi, S, self.phi)
        return np.asarray((self.w * (linear + square)) @ centred)


def solve_width_nonlinear(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    activation: ActivationLike,
    width: int,
    ridge: float,
    readout_variance: float = 1.0,
    chi: float = 1.0,
    prior_variance: float = 1.0,
    method: str = "one-loop",
    nodes: int = 32,
    X_new: ArrayLike | None = None,
    ensemble: NeuronEnsemble | None = None,
) -> NonlinearWidthSolution:
    """Solve h = V x, V ~ N(0, g_1/D), f = a . phi(h), a ~ N(0, g_w/(chi N)), y | f ~ N(f, ridge).

    Parameters
    ----------
    X : (P, D) array
        Inputs; or give kernel K = X X^T / D, or an ensemble.
    y : (P,) array
    activation : str, Activation or callable
        Of |phi| that grows at most linearly, otherwise W is infinite.
    width, ridge, readout_variance, chi
        As in `linkern.bayes.width.solve_width`.
    prior_variance : float
        g_1.
    method : {"tree", "one-loop"}
    nodes : int
        Gauss-Hermite nodes per direction of K, at least 8. Cost and memory nodes^rank * P: three or four training points.
    X_new : (m, D) array, optional
        Test inputs.
    ensemble : NeuronEnsemble, optional
        Features and weights of the neuron's prior, in place of X, kernel, prior_variance and nodes.

    Returns
    -------
    NonlinearWidthSolution

    Raises
    ------
    ConvergenceError
        Newton's method stalls: W is infinite near the solution (unbounded phi) beyond what the points resolve.
    ValueError, TypeError
        Naming the argument, what was given and what was expected.
    """
    if method not in ("tree", "one-loop"):
        raise ValueError(f"method: expected 'tree' or 'one-loop', got {method!r}")
    if y is None:
        raise ValueError("y: expected labels, got None")
    labels = real_array("y", y, ndim=1)
    width, kappa = integer_at_least("width", width), positive("ridge", ridge)
    eps = positive("readout_variance", readout_variance) / positive("chi", chi) / width
    coarse = None
    if ensemble is None:
        nodes = integer_at_least("nodes", nodes, 8)
        geometry = _geometry(X, kernel, X_new, labels.size, positive("prior_variance", prior_variance))
        phi = activations.get(activation)
        require_finite_tilt(phi)
        ensemble = NeuronEnsemble.by_quadrature(geometry[0], phi, nodes, *geometry[1:])
        coarse = NeuronEnsemble.by_quadrature(geometry[0], phi, nodes - 2)
    if not isinstance(ensemble, NeuronEnsemble):
        raise TypeError(f"ensemble: expected a NeuronEnsemble, got {ensemble!r}")
    if ensemble.features.shape[1] != labels.size:
        raise ValueError(f"ensemble: expected features at {labels.size} points, got shape {ensemble.features.shape}")
    v = _minimise(ensemble, labels, kappa, eps, width)
    tilted = _Tilted(ensemble, v, eps)
    residual = _relative(kappa * v + width * tilted.mean_force - labels, labels)
    if coarse is not None:
        change = width * (tilted.mean_force - _Tilted(coarse, v, eps).mean_force)
        residual = max(residual, _relative(change, labels))
    B = width * tilted.curvature()
    S = np.asarray(np.linalg.inv(kappa * np.eye(labels.size) + B), dtype=np.float64)
    signal, test, Phi = _averages(ensemble, tilted, v, S, width, method == "one-loop")
    exponent = float(kappa / 2 * v @ v - labels @ v + width * tilted.log_norm - labels.size / 2 * math.log(2 * math.pi))
    if method == "one-loop":
        exponent += 0.5 * float(np.linalg.slogdet(S)[1])
    parameters = {
        "width": width,
        "ridge": kappa,
        "readout_variance": float(readout_variance),
        "chi": float(chi),
        "prior_variance": float(prior_variance),
        "method": method,
    }
    return NonlinearWidthSolution(
        parameters=parameters,
        residual=residual,
        status=Status.CONVERGED if residual < 1e-6 else Status.UNRELIABLE,
        method=method,
        fitted=labels - kappa * signal,
        test=test,
        kernel=Phi,
        covariance=kappa * B @ S,
        dual_coefficients=signal,
        log_evidence=exponent,
        ensemble=ensemble,
    )


def _averages(
    ensemble: NeuronEnsemble, tilted: _Tilted, v: Floats, S: Floats, width: int, corrected: bool
) -> tuple[Floats, Floats, Floats]:
    """<v>, the test outputs and Phi^1, with fluctuations of covariance -S along the imaginary axis if `corrected`."""
    count = v.size
    pairs = (ensemble.features[:, :, None] * ensemble.features[:, None, :]).reshape(-1, count * count)
    test_force = np.asarray(tilted.eps * tilted.s[:, None] * ensemble.test_features, dtype=np.float64)
    Phi, test = tilted.average(pairs), width * tilted.average(test_force)
    if corrected:
        shift = S @ (0.5 * width * _loop_force(tilted, S, tilted.force, ensemble.features))
        v = v + shift
        Phi = Phi + tilted.first(pairs) @ shift - 0.5 * tilted.contracted_second(pairs, S)
        # f_* is the slope of W along a label at the test point.
        mixed = tilted.eps * (tilted.w[:, None] * ensemble.test_features).T @ ensemble.features + tilted.first(test_force)
        test = test + width * (mixed @ shift - 0.5 * _loop_force(tilted, S, test_force, ensemble.test_features))
    Phi = Phi.reshape(count, count)
    return v, test, (Phi + Phi.T) / 2


def _loop_force(tilted: _Tilted, S: Floats, force: Floats, features: Floats) -> Floats:
    """sum_ij S_ij of the third derivative of ln E exp along i, j and the direction of `force` = eps s features.

    Cumulants of the exponent's derivatives: <phi_i phi_j; force> + 2 <force_i; phi_j feature> + <force_i; force_j; force>.
    """
    cross = tilted.eps * np.einsum("si,ij,sj->s", tilted.centred, S, tilted.phi)
    return np.asarray(tilted.contracted_second(force, S) + 2 * (tilted.w * cross) @ features)


def _relative(error: Floats, scale: Floats) -> float:
    return float(np.abs(error).max() / max(np.abs(scale).max(), np.finfo(float).tiny))


def _geometry(
    X: ArrayLike | None, kernel: ArrayLike | None, X_new: ArrayLike | None, count: int, variance: float
) -> tuple[Floats, Floats | None, Floats | None]:
    """K, K(x_*, X) and K(x_*, x_*), times g_1."""
    if (X is None) == (kernel is None):
        raise ValueError("X, kernel: expected exactly one of them")
    if kernel is not None:
        if X_new is not None:
            raise ValueError("X_new: expected None when the kernel is given instead of inputs")
        return variance * kernel_matrix("kernel", kernel, size=count), None, None
    rows = real_array("X", X, ndim=2) if X is not None else np.empty((0, 0))
    if rows.shape[0] != count:
        raise ValueError(f"y: expected {rows.shape[0]} labels (one per row of X), got {count}")
    K = variance * rows @ rows.T / rows.shape[1]
    if X_new is None:
        return K, None, None
    new = real_array("X_new", X_new, ndim=2)
    if new.shape[1] != rows.shape[1]:
        raise ValueError(f"X_new: expected {rows.shape[1]} columns, got shape {new.shape}")
    return K, variance * new @ rows.T / rows.shape[1], variance * (new**2).sum(axis=1) / rows.shape[1]


def _minimise(ensemble: NeuronEnsemble, y: Floats, kappa: float, eps: float, width: int) -> Floats:
    """Damped Newton on the convex objective; the line search keeps v where W is finite."""
    v = np.zeros(y.size)

    def objective(at: Floats) -> float:
        exponent = ensemble.log_weights + 0.5 * eps * (ensemble.features @ at) ** 2
        top = exponent.max()
        return float(kappa / 2 * at @ at - y @ at + width * (top + np.log(np.exp(exponent - top).sum())))

    value = objective(v)
    for _ in range(MAX_STEPS):
        tilted = _Tilted(ensemble, v, eps)
        gradient = kappa * v + width * tilted.mean_force - y
        if _relative(gradient, y) < 1e-13 or not y.any():
            return v
        step = -np.linalg.solve(kappa * np.eye(y.size) + width * tilted.curvature(), gradient)
        length = 1.0
        # Near the minimum the decrease drowns in the rounding of the objective.
        slack = 16 * np.finfo(float).eps * (abs(value) + width)
        while (new := objective(v + length * step)) > value + 1e-4 * length * (gradient @ step) + slack and length > 1e-10:
            length /= 2
        if length <= 1e-10:
            break
        v, value = v + length * step, new
    if _relative(gradient, y) < 1e-9:
        return v
    raise ConvergenceError(
        f"width_nonlinear: Newton's method stopped at a relative imbalance of {_relative(gradient, y):.3g}; "
        "use more nodes, or a larger width or ridge"
    )
