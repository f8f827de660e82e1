r"""Exact sampling of deep linear networks with real weights: every layer is drawn from its conditional, which is Gaussian.

    h^1 = V^0 x, V^0 ~ N(0, g_1/D);   h^{l+1} = V^l h^l, V^l ~ N(0, g_{l+1}/N_l);   f = a h^L, a ~ N(0, g_w/(chi N_L));
    y | f ~ N(f, ridge),   one row of a per output.

With all other layers fixed, f = B V H is linear in V. Matheron's rule turns a prior draw V' into a posterior draw,

    V = V' + s^2 B^T R H^T,   s^2 (B B^T) R (H^T H) + ridge R = Y - B V' H - noise,

and B B^T and H^T H are diagonalised separately, so that no matrix exceeds O x O or P x P.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern import checks
from linkern.networks.diagnostics import ChainSummary, summarize
from linkern.networks.observables import BatchMeans
from linkern.networks.results import Estimate
from linkern.solution import Solution, Status

__all__ = ["GibbsSamples", "LinearGibbs", "sample_linear_posterior"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GibbsSamples(Solution):
    """Posterior averages of finite deep linear networks.

    `residual` is the largest violation of the identity <|V|^2/s^2> = entries + <V . dln(likelihood)/dV> per entry and
    layer, which the exact posterior obeys; its standard error is its scale. `status` is UNRELIABLE when the chains are
    too short to know their own error bars.

    Attributes
    ----------
    fitted, fitted_squared : Estimate, (P,) or (P, O)
        f and f^2 at the training inputs.
    test, test_squared : Estimate or None
        The same at the test inputs.
    kernels : Estimate, (L, n, n)
        Phi^l = h^l h^l^T / N_l over training, then test inputs.
    input_covariance : Estimate, (D, D)
        V^0^T V^0 / N_1.
    log_q : ChainSummary
        t = ln |a V^{L-1} .. V^1|^2 in units of its prior mean, averaged over outputs: ln Q for one output.
    log_q_traces : (chains, samples) array
    """

    fitted: Estimate
    fitted_squared: Estimate
    test: Estimate | None
    test_squared: Estimate | None
    kernels: Estimate
    input_covariance: Estimate
    log_q: ChainSummary
    log_q_traces: Array


class LinearGibbs:
    """A batch of chains; `sweep` draws every layer once, from the readout down.

    Parameters
    ----------
    X : (P, D) array
    Y : (P, O) array
    widths : L ints
    standard_deviations : L + 1 floats
        Prior standard deviations of V^0, .., V^{L-1}, a.
    ridge : float
    chains : int
    rng : Generator

    Notes
    -----
    Cost of a sweep and chain: sum_l N_l N_{l-1} (P + O) multiplications and one eigenproblem of size P per layer.
    """

    def __init__(
        self,
        X: Array,
        Y: Array,
        *,
        widths: tuple[int, ...],
        standard_deviations: Array,
        ridge: float,
        chains: int,
        rng: np.random.Generator,
    ) -> None:
        self.X, self.Y, self.ridge, self.rng = X, Y, ridge, rng
        self.standard_deviations = standard_deviations
        rows, columns = (*widths, Y.shape[1]), (X.shape[1], *widths)
        self.weights = [
            s * rng.standard_normal((chains, n, m)) for s, n, m in zip(standard_deviations, rows, columns, strict=True)
        ]

    def activations(self, X: Array) -> list[Array]:
        """h^0 = X^T, h^1, .., h^L, f: (chains, width, points)."""
        states = [np.broadcast_to(X.T, (self.weights[0].shape[0], *X.T.shape))]
        for V in self.weights:
            states.append(V @ states[-1])
        return states

    def sweep(self) -> None:
        """Draw every layer from its conditional, readout first."""
        states = self.activations(self.X)
        outputs = self.Y.shape[1]
        above = np.broadcast_to(np.eye(outputs), (self.weights[0].shape[0], outputs, outputs))
        for layer in range(len(self.weights) - 1, -1, -1):
            self.weights[layer] = self._conditional(layer, above, states[layer])
            above = above @ self.weights[layer]

    def _conditional(self, layer: int, B: Array, H: Array) -> Array:
        s = float(self.standard_deviations[layer])
        V = s * self.rng.standard_normal(self.weights[layer].shape)
        noise = np.sqrt(self.ridge) * self.rng.standard_normal((V.shape[0], *self.Y.T.shape))
        misfit = self.Y.T - B @ (V @ H) - noise
        gram = np.swapaxes(H, -1, -2) @ H
        if B.shape[1] == 1:
            strength = s**2 * (B * B).sum(axis=-1, keepdims=True)
            matrix = strength * gram + self.ridge * np.eye(gram.shape[-1])
            R = np.swapaxes(np.linalg.solve(matrix, np.swapaxes(misfit, -1, -2)), -1, -2)
        else:
            left, U = np.linalg.eigh(B @ np.swapaxes(B, -1, -2))
            right, W = np.linalg.eigh(gram)
            rotated = np.swapaxes(U, -1, -2) @ misfit @ W
            R = U @ (rotated / (s**2 * left[..., None] * right[:, None, :] + self.ridge)) @ np.swapaxes(W, -1, -2)
        return np.asarray(V + s**2 * (np.swapaxes(B, -1, -2) @ (R @ np.swapaxes(H, -1, -2))))

    def log_q(self) -> Array:
        """(chains,) array: ln Q, Q = |a V^{L-1} .. V^1|^2 / its prior mean (mean over outputs inside the logarithm)."""
        above = self.weights[-1]
        for V in self.weights[-2:0:-1]:
            above = above @ V
        size = np.square(above).sum(axis=(1, 2)) / above.shape[1]
        deviations, shapes = self.standard_deviations[1:], [V.shape[2] for V in self.weights[1:]]
        return np.asarray(np.log(size) - 2 * np.log(deviations).sum() - np.log(shapes).sum())

    def virial(self) -> Array:
        """(chains, L + 1): (|V|^2/s^2 + V . d/dV |f - y|^2/(2 ridge)) / entries - 1, zero on average."""
        f = self.activations(self.X)[-1]
        # f is linear in every layer, so that V . df/dV = f.
        force = (f * (f - self.Y.T)).sum(axis=(1, 2)) / self.ridge
        return np.stack(
            [
                (np.square(V).sum(axis=(1, 2)) / s**2 + force) / (V.shape[1] * V.shape[2]) - 1
                for V, s in zip(self.weights, self.standard_deviations, strict=True)
            ],
            axis=1,
        )


def sample_linear_posterior(
    X: ArrayLike,
    y: ArrayLike,
    *,
    depth: int,
    width: ArrayLike,
    ridge: float,
    readout_variance: float = 1.0,
    chi: float = 1.0,
    prior_variances: ArrayLike = 1.0,
    samples: int = 500,
    burn_in: int = 100,
    thin: int = 1,
    chains: int = 32,
    X_test: ArrayLike | None = None,
    rng: int | np.random.Generator | np.random.SeedSequence | None = None,
) -> GibbsSamples:
    """Sample the exact posterior of a deep linear network of finite width, with error bars.

    Parameters
    ----------
    X : (P, D) array
    y : (P,) or (P, O) array
    depth, width, ridge, readout_variance, chi, prior_variances
        The network, as in `linkern.bayes.width.solve_width`; the ridge is > 0.
    samples : int
        Kept sweeps per chain, at least 32.
    burn_in, thin : int
        Sweeps thrown away, and sweeps per kept sample.
    chains : int
    X_test : (m, D) array, optional
    rng : seed or Generator

    Returns
    -------
    GibbsSamples

    Notes
    -----
    There is no step size and no rejection; successive sweeps are correlated through the layers' norms, over about N
    sweeps for the relative norms of two layers. Memory: all chains' weights and 32 batches of the (L, n, n) kernels.
    """
    X_train = checks.real_array("X", X, ndim=2)
    labels = checks.real_array("y", y, ndim=(1, 2))
    if labels.shape[0] != X_train.shape[0]:
        raise ValueError(f"y: expected {X_train.shape[0]} labels (one per row of X), got shape {labels.shape}")
    X_all = X_train
    if X_test is not None:
        new = checks.real_array("X_test", X_test, ndim=2)
        if new.shape[1] != X_train.shape[1]:
            raise ValueError(f"X_test: expected {X_train.shape[1]} columns as in X, got shape {new.shape}")
        X_all = np.concatenate([X_train, new])
    depth = checks.integer_at_least("depth", depth)
    widths = _widths(width, depth)
    variances = checks.per_layer("prior_variances", prior_variances, depth, "hidden layers from first to last")
    readout = checks.positive("readout_variance", readout_variance) / checks.positive("chi", chi)
    fan_in = np.array([X_train.shape[1], *widths], dtype=float)
    samples = checks.integer_at_least("samples", samples, 32)
    chains = checks.integer_at_least("chains", chains)
    thin = checks.integer_at_least("thin", thin)
    sampler = LinearGibbs(
        X_train,
        labels.reshape(labels.shape[0], -1),
        widths=widths,
        standard_deviations=np.sqrt(np.array([*variances, readout]) / fan_in),
        ridge=checks.positive("ridge", ridge),
        chains=chains,
        rng=checks.random_generator(rng),
    )
    for _ in range(checks.integer_at_least("burn_in", burn_in, 0)):
        sampler.sweep()
    record = _Record(sampler, X_all, samples, chains)
    for index in range(samples):
        for _ in range(thin):
            sampler.sweep()
        record.add(index)
    parameters = {
        "depth": depth,
        "width": list(widths),
        "ridge": sampler.ridge,
        "readout_variance": float(readout_variance),
        "chi": float(chi),
        "prior_variances": variances.tolist(),
        "samples": samples,
        "burn_in": burn_in,
        "thin": thin,
        "chains": chains,
        "seed": int(rng) if isinstance(rng, Integral) else None,
    }
    return record.result(parameters, labels.shape)


class _Record:
    """Batch means of large observables, full traces of small ones."""

    def __init__(self, sampler: LinearGibbs, X_all: Array, samples: int, chains: int) -> None:
        self._sampler, self._X = sampler, X_all
        self._outputs, self._squares = BatchMeans(samples), BatchMeans(samples)
        self._kernels, self._inputs = BatchMeans(samples), BatchMeans(samples)
        self._virial = np.empty((chains, samples, len(sampler.weights)))
        self._log_q = np.empty((chains, samples))

    def add(self, index: int) -> None:
        states = self._sampler.activations(self._X)
        self._outputs.add(index, states[-1])
        self._squares.add(index, states[-1] ** 2)
        hidden = [np.swapaxes(h, -1, -2) @ h / h.shape[1] for h in states[1:-1]]
        self._kernels.add(index, np.stack(hidden, axis=1))
        V = self._sampler.weights[0]
        self._inputs.add(index, np.swapaxes(V, -1, -2) @ V / V.shape[1])
        self._virial[:, index] = self._sampler.virial()
        self._log_q[:, index] = self._sampler.log_q()

    def result(self, parameters: dict[str, object], shape: tuple[int, ...]) -> GibbsSamples:
        train = shape[0]
        virial, log_q = summarize(self._virial), summarize(self._log_q)
        reliable = bool(virial.reliable.all() and log_q.reliable.all())
        outputs, squares = _estimate(self._outputs), _estimate(self._squares)

        def part(estimate: Estimate, rows: slice) -> Estimate:
            arrays = [np.moveaxis(values, 0, -1)[rows] for values in (estimate.mean, estimate.standard_error)]
            return Estimate(*(values.reshape(values.shape[0], *shape[1:]) for values in arrays))

        tested = self._X.shape[0] > train
        return GibbsSamples(
            parameters=parameters,
            residual=float(np.abs(virial.mean).max()),
            status=Status.CONVERGED if reliable else Status.UNRELIABLE,
            fitted=part(outputs, slice(None, train)),
            fitted_squared=part(squares, slice(None, train)),
            test=part(outputs, slice(train, None)) if tested else None,
            test_squared=part(squares, slice(train, None)) if tested else None,
            kernels=_estimate(self._kernels),
            input_covariance=_estimate(self._inputs),
            log_q=log_q,
            log_q_traces=self._log_q,
        )


def _estimate(means: BatchMeans) -> Estimate:
    summary = summarize(means.series)
    return Estimate(summary.mean, summary.standard_error)


def _widths(width: ArrayLike, depth: int) -> tuple[int, ...]:
    sizes = np.atleast_1d(np.asarray(width))
    if sizes.ndim != 1 or sizes.size not in (1, depth):
        raise ValueError(f"width: expected one integer or {depth} integers (one per hidden layer), got {width!r}")
    checked = [checks.integer_at_least("width", size.item()) for size in sizes]
    return tuple(checked * depth if len(checked) == 1 else checked)
