r"""Several outputs at finite width: the scalar Q becomes an O x O matrix R, vec f | R ~ N(0, g R (x) K).

One hidden layer: R ~ Wishart_O(N)/N, and the exact posterior is sampled by importance from a Wishart that is centred on
the saddle point, with diagnostics. Any depth: the saddle point R = rho^L of equal layers,

    N (rho - I) = g rho^{L/2} sum_i lam_i [v_i v_i^T - A_i^{-1}] rho^{L/2},   A_i = g lam_i rho^L + kappa,  v_i = A_i^{-1} b_i,

for P and N large together; without the trace it is tree level, the O x O equations of `bayes.linear`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width.average import LayerWeights
from linkern.bayes.width.kernels import FiniteWidthKernel, NewPoints
from linkern.checks import integer_at_least, per_layer, positive, random_generator
from linkern.solution import ConvergenceError, Solution, Status

__all__ = ["OutputsSolution", "solve_width_outputs"]

Floats = NDArray[np.float64]
DAMPING, MAX_ITERATIONS, TOLERANCE = 0.5, 20_000, 1e-13
# A Wishart proposal narrower than half the prior would have weights of infinite variance.
NARROWEST = 0.6
TRUSTED_SAMPLES, TRUSTED_PARETO, LEVEL = 400.0, 0.7, 10.0
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class OutputsSolution(Solution):
    """Posterior of a network with O outputs.

    `residual`: for saddle points the relative imbalance of the matrix equation; for importance sampling the relative
    standard error of the evidence.

    Attributes
    ----------
    spectrum : Spectrum
    method : str
    rescaling : (O, O) array
        <R> (importance) or rho^L.
    log_evidence : float
        ln Z; nan for saddle points.
    kernels : tuple of FiniteWidthKernel
        Phi^0 = K, Phi^1, .., Phi^L.
    fitted_error : (P, O) array
        Standard error of `fitted` (zero for saddle points).
    effective_sample_size, pareto_k : float
        Diagnostics of the weights (nan for saddle points): `status` is UNRELIABLE below 400, or above 0.7 unless all
        weights are below ten times their mean.
    """

    spectrum: Spectrum
    method: str
    rescaling: Floats
    log_evidence: float
    kernels: tuple[FiniteWidthKernel, ...] = field(repr=False)
    fitted_error: Floats = field(repr=False)
    effective_sample_size: float
    pareto_k: float
    _modes: Floats = field(repr=False)

    @property
    def fitted(self) -> Floats:
        """(P, O) array: posterior mean at the training inputs."""
        return self.spectrum.to_samples(self._modes)

    def predict(self, X_new: ArrayLike | None = None, *, kernel_new: ArrayLike | None = None) -> Floats:
        """(m, O) array: posterior mean at new inputs (m, D), or given rows K(x, X) (m, P)."""
        if (X_new is None) == (kernel_new is None):
            raise ValueError("X_new, kernel_new: expected exactly one of them")
        if X_new is not None:
            points = NewPoints.from_inputs(self.spectrum, X_new)
        elif kernel_new is not None:
            points = NewPoints.from_kernel(self.spectrum, kernel_new, None)
        return np.asarray(points.modes.T @ (self._modes / self.spectrum.eigenvalues[:, None]))


@dataclass(frozen=True)
class _Problem:
    spectrum: Spectrum
    width: float
    depth: int
    scale: float
    ridge: float
    lazy_scales: Floats

    @property
    def lam(self) -> Floats:
        return self.spectrum.eigenvalues

    @property
    def B(self) -> Floats:
        return self.spectrum.coefficients


def solve_width_outputs(
    X: ArrayLike | None = None,
    Y: ArrayLike | None = None,
    *,
    spectrum: Spectrum | None = None,
    depth: int = 1,
    width: int,
    ridge: float,
    readout_variance: float = 1.0,
    chi: float = 1.0,
    prior_variances: ArrayLike = 1.0,
    method: Literal["importance", "saddle", "tree"] = "saddle",
    samples: int = 20_000,
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
) -> OutputsSolution:
    """Solve for O outputs with hidden layers of equal width N >= O.

    Parameters
    ----------
    X : (P, D) array
    Y : (P, O) array
    spectrum : Spectrum
        Instead of X and Y.
    depth, width, ridge, readout_variance, chi, prior_variances
        As in `linkern.bayes.width.solve_width`.
    method : {"importance", "saddle", "tree"}
        Exact up to Monte Carlo error (one hidden layer), the saddle point for P of order N, or tree level.
    samples : int
        Draws of R.
    rng : seed or Generator

    Returns
    -------
    OutputsSolution

    Raises
    ------
    ConvergenceError
        The damped iteration for the saddle point does not converge.
    """
    if (spectrum is None) == (X is None):
        raise ValueError("X, spectrum: expected exactly one of them")
    if X is not None:
        if Y is None:
            raise ValueError("Y: expected labels, got None")
        spectrum = Spectrum.from_data(X, Y)
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum: expected a Spectrum, got {type(spectrum).__name__}")
    depth = integer_at_least("depth", depth)
    outputs = spectrum.coefficients.shape[1]
    width = integer_at_least("width", width, outputs)
    variances = per_layer("prior_variances", prior_variances, depth, "hidden layers from first to last")
    readout = positive("readout_variance", readout_variance) / positive("chi", chi)
    scales = np.concatenate([[1.0], np.cumprod(variances)])
    ridge = positive("ridge", ridge)
    problem = _Problem(spectrum, float(width), depth, readout * float(scales[-1]), ridge, scales)
    parameters = {
        "depth": depth,
        "width": width,
        "ridge": ridge,
        "readout_variance": float(readout_variance),
        "chi": float(chi),
        "prior_variances": variances.tolist(),
        "method": method,
    }
    if method in ("saddle", "tree"):
        return _saddle(problem, method == "saddle", parameters)
    if method != "importance":
        raise ValueError(f"method: expected 'importance', 'saddle' or 'tree', got {method!r}")
    if depth != 1:
        raise ValueError(f"depth: expected 1 for importance sampling, got {depth}")
    count = integer_at_least("samples", samples, 100)
    return _importance(problem, count, random_generator(rng), {**parameters, "samples": count})


def _iterate(problem: _Problem, resummed: bool) -> tuple[Floats, Floats, float]:
    """Return the eigenvalues of rho, their basis of outputs, and the imbalance."""
    outputs = problem.B.shape[1]
    rho = np.eye(outputs)
    imbalance = math.inf
    for _ in range(MAX_ITERATIONS):
        values, basis = np.linalg.eigh(rho)
        grown = values**problem.depth
        A = problem.scale * np.outer(problem.lam, grown) + problem.ridge
        v = (problem.B @ basis) / A
        force = problem.scale * (v.T @ (problem.lam[:, None] * v))
        if resummed:
            force = force - problem.scale * np.diag((problem.lam[:, None] / A).sum(axis=0))
        root = np.sqrt(grown)
        target = np.eye(outputs) + root[:, None] * force * root / problem.width
        change = basis @ (target - np.diag(values)) @ basis.T
        imbalance = float(np.abs(change).max() / max(1.0, np.abs(values).max()))
        if imbalance < TOLERANCE:
            return values, basis, imbalance
        damping = DAMPING
        # rho stays positive definite.
        while np.linalg.eigvalsh(rho + damping * change)[0] <= 0:
            damping /= 2
        # Plain iteration overshoots where the layers multiply each other's changes.
        rho = rho + damping / problem.depth * change
        rho = (rho + rho.T) / 2
    if imbalance < 1e-9:
        return values, basis, imbalance
    raise ConvergenceError(
        f"width_outputs: the matrix saddle point did not converge in {MAX_ITERATIONS} iterations (imbalance {imbalance:.3g}); "
        "use a larger ridge, or fewer layers"
    )


def _saddle(problem: _Problem, resummed: bool, parameters: Mapping[str, Any]) -> OutputsSolution:
    values, basis, imbalance = _iterate(problem, resummed)
    grown = values**problem.depth
    A = problem.scale * np.outer(problem.lam, grown) + problem.ridge
    v = (problem.B @ basis) / A
    outputs, layers = values.size, []
    lost = outputs / problem.width if resummed else 0.0
    alpha, core, shrinkage = 1.0, np.zeros(outputs), np.zeros(problem.lam.size)
    for l in range(problem.depth):
        share = problem.scale * grown * values**l / problem.width
        core = (1 - lost) * core + share
        if resummed:
            alpha = (1 - lost) * alpha + (values**l).sum() / problem.width
            shrinkage = (1 - lost) * shrinkage + (share / A).sum(axis=1)
        layers.append(LayerWeights(float(alpha), core, shrinkage))
    return OutputsSolution(
        parameters=parameters,
        residual=imbalance,
        status=Status.CONVERGED,
        spectrum=problem.spectrum,
        method=str(parameters["method"]),
        rescaling=(basis * grown) @ basis.T,
        log_evidence=math.nan,
        kernels=_kernels(problem, layers, v.T),
        fitted_error=np.zeros((problem.spectrum.samples, outputs)),
        effective_sample_size=math.nan,
        pareto_k=math.nan,
        _modes=(problem.scale * problem.lam[:, None] * grown * v) @ basis.T,
    )


def _kernels(problem: _Problem, layers: list[LayerWeights], rows: Floats) -> tuple[FiniteWidthKernel, ...]:
    first = LayerWeights(1.0, np.zeros(rows.shape[0]), np.zeros(problem.lam.size))
    return tuple(
        FiniteWidthKernel(problem.spectrum, float(scale), weights, rows)
        for scale, weights in zip(problem.lazy_scales, [first, *layers], strict=True)
    )


def _importance(problem: _Problem, samples: int, rng: np.random.Generator, parameters: Mapping[str, Any]) -> OutputsSolution:
    values, basis, _ = _iterate(problem, True)
    centre = (basis * np.maximum(values, NARROWEST)) @ basis.T
    N, outputs = problem.width, values.size
    draws = stats.wishart(df=N, scale=centre / N).rvs(size=samples, random_state=rng).reshape(samples, outputs, outputs)
    inverse = np.linalg.inv(centre)
    # Wishart densities of equal degrees of freedom: only the exponents and one determinant differ.
    log_weight = 0.5 * N * (np.einsum("sop,po->s", draws, inverse) - np.einsum("soo->s", draws) + np.linalg.slogdet(centre)[1])
    r, V = np.linalg.eigh(draws)
    parts = [_likelihood(problem, r[part], V[part]) for part in _chunks(samples, problem.lam.size * outputs)]
    log_weight = log_weight + np.concatenate(parts)
    weights, total, ess, pareto = _normalise(log_weight)
    modes = np.zeros_like(problem.B)
    growth, shrinkage = np.zeros((problem.lam.size,) * 2), np.zeros(problem.lam.size)
    for part in _chunks(samples, problem.lam.size * outputs):
        w, A = weights[part], problem.scale * problem.lam[:, None] * r[part][:, None, :] + problem.ridge
        v = (problem.B @ V[part]) / A
        mean = (problem.scale * problem.lam[:, None] * r[part][:, None, :] * v) @ V[part].swapaxes(1, 2)
        modes += np.einsum("s,sio->io", w, mean)
        strength = (w[:, None] * r[part] * problem.scale / N)[:, None, :]
        flat = (np.sqrt(strength) * v).transpose(0, 2, 1).reshape(-1, problem.lam.size)
        growth += flat.T @ flat
        shrinkage += (strength / A).sum(axis=(0, 2))
    spread, rows = np.linalg.eigh(growth)
    layer = LayerWeights(1.0, spread, shrinkage)
    error = _fitted_error(problem, weights, r, V, modes)
    relative = math.sqrt(max(1 / ess - 1 / samples, 0.0))
    # The shape of the tail says nothing as long as no weight stands out from the mean.
    reliable = ess >= TRUSTED_SAMPLES and (pareto < TRUSTED_PARETO or weights.max() < LEVEL / samples)
    constant = -0.5 * problem.spectrum.samples * outputs * math.log(2 * math.pi)
    constant -= 0.5 * (problem.spectrum.samples - problem.lam.size) * outputs * math.log(problem.ridge)
    constant -= 0.5 * float((problem.spectrum.residual**2).sum()) / problem.ridge
    return OutputsSolution(
        parameters=parameters,
        residual=relative,
        status=Status.CONVERGED if reliable else Status.UNRELIABLE,
        spectrum=problem.spectrum,
        method="importance",
        rescaling=np.einsum("s,sop->op", weights, draws),
        log_evidence=total - math.log(samples) + constant,
        kernels=_kernels(problem, [layer], rows.T),
        fitted_error=error,
        effective_sample_size=ess,
        pareto_k=pareto,
        _modes=modes,
    )


def _chunks(samples: int, size: int) -> list[slice]:
    step = max(1, CHUNK // max(1, size))
    return [slice(start, start + step) for start in range(0, samples, step)]


def _likelihood(problem: _Problem, r: Floats, V: Floats) -> Floats:
    """ln N(Y; 0, g R (x) K + kappa) up to a constant, for draws in their eigenbases."""
    A = problem.scale * problem.lam[:, None] * r[:, None, :] + problem.ridge
    b = problem.B @ V
    return np.asarray(-0.5 * (np.log(A) + b**2 / A).sum(axis=(1, 2)))


def _normalise(log_weight: Floats) -> tuple[Floats, float, float, float]:
    """Weights, the logarithm of their sum, effective sample size and the tail's Pareto exponent."""
    total = float(special.logsumexp(log_weight))
    weights = np.exp(log_weight - total)
    ess = float(1 / (weights @ weights))
    tail = np.sort(weights)[-min(weights.size // 5, int(3 * math.sqrt(weights.size))) :]
    excess = tail[1:] - tail[0]
    if not excess[-1] > 1e-12 * tail[-1]:
        return weights, total, ess, -math.inf
    if not excess[excess.size // 4] > 0:
        return weights, total, ess, math.inf
    return weights, total, ess, float(stats.genpareto.fit(excess / excess.mean(), floc=0)[0])


def _fitted_error(problem: _Problem, weights: Floats, r: Floats, V: Floats, modes: Floats) -> Floats:
    """Standard error of the self-normalised mean at the training inputs."""
    square = np.zeros((problem.spectrum.samples, modes.shape[1]))
    centre = problem.spectrum.to_samples(modes)
    for part in _chunks(weights.size, problem.spectrum.samples * modes.shape[1]):
        A = problem.scale * problem.lam[:, None] * r[part][:, None, :] + problem.ridge
        gain = problem.scale * problem.lam[:, None] * r[part][:, None, :] / A
        mean = (gain * (problem.B @ V[part])) @ V[part].swapaxes(1, 2)
        flat = mean.transpose(1, 0, 2).reshape(modes.shape[0], -1)
        outputs = problem.spectrum.to_samples(flat).reshape(-1, *mean.shape[::2])
        square += np.einsum("s,pso->po", weights[part] ** 2, (outputs - centre[:, None, :]) ** 2)
    return np.sqrt(square)
