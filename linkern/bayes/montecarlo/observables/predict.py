r"""From training inputs to any others: kernels, predictions and errors of a sampled solution.

Only training inputs are tilted (the dual kernels of the others vanish), so that in every layer the preactivation of a new input
is Gaussian once those of the training inputs are given. With b^l the coefficients of the regression of its features on theirs
and rho^l what that regression leaves unexplained,

    h_* | h ~ N(h . b^{l-1}, g_l rho^{l-1}),
    b^l = <phi phi^T>^{-1} <phi E[phi(h_*) | h]>,      rho^l = <E[phi(h_*)^2 | h]> - b^l . <phi E[phi(h_*) | h]>,
    Phi^l(X, x_*) = Phi^l b^l,      f(x_*) = g_w Phi^L(x_*, X) V = f(X) . b^L,

from b^0 = C^{-1} C(X, x_*), rho^0 = C(x_*, x_*) - b^0 . C(X, x_*). Averages enter through regressions alone: noise that Phi^l
and <phi phi^T> do not share cancels, and at a training input f is g_w Phi^L V exactly, which is y - V/beta up to the residual of
the saddle point. In the limit of infinite width f does not fluctuate: the posterior variance of an adaptive kernel's predictor
is zero.

Averages are as good as the population. The nodes of a quadrature rule are placed for the training inputs: kinks of new inputs lie
between them and cost up to some 1e-5 (rank 3) of the kernel, unless much of C(x_*, x_*) is unexplained, which smooths them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from linkern import checks
from linkern.bayes.montecarlo.observables.estimate import Estimate, over_sections
from linkern.bayes.montecarlo.observables.sites import SaddleSample, SiteEnsemble
from linkern.bayes.montecarlo.observables.smoothing import smoothed_moments

__all__ = ["Extension", "NewInputs", "new_kernels", "new_variances", "predict", "prediction_error", "regress"]

Floats = NDArray[np.float64]

# Entries (samples x inputs) worked on at a time: they stay in cache.
_BLOCK = 2**17
# Relative to the largest: kernels hold no digits of eigenvalues below.
_RANK = 1e-13


@dataclass(frozen=True, eq=False)
class NewInputs:
    """New inputs, as the data kernel C(x, x') = x . x'/D sees them.

    Attributes
    ----------
    cross : (P, M) array
        Between training and new inputs.
    variances : (M,) array
        C(x, x) of the new inputs.
    """

    cross: Floats
    variances: Floats

    @classmethod
    def of(cls, X: ArrayLike, X_new: ArrayLike) -> NewInputs:
        """Return the kernel entries of rows (P, D) of training and (M, D) of new inputs."""
        X = checks.real_array("X", X, ndim=2)
        X_new = checks.real_array("X_new", X_new, ndim=2)
        if X_new.shape[1] != X.shape[1]:
            raise ValueError(f"X_new: expected {X.shape[1]} columns as in X, got shape {X_new.shape}")
        D = X.shape[1]
        return cls(X @ X_new.T / D, np.einsum("md,md->m", X_new, X_new) / D)


@dataclass(frozen=True, eq=False)
class Extension:
    """How features of new inputs extend those of the training inputs in one solution.

    Attributes
    ----------
    kernels : (L + 1, P, P) array
        Phi^l of the training inputs.
    fitted : (P, O) array
        f(X) = g_w Phi^L V.
    coefficients : (L + 1, P, M) array
        b^l.
    unexplained : (L + 1, M) array
        rho^l.
    """

    kernels: Floats
    fitted: Floats
    coefficients: Floats
    unexplained: Floats

    @classmethod
    def of(cls, sample: SaddleSample, new: NewInputs, prior_variances: ArrayLike) -> Extension:
        """Carry the new inputs forward through the layers.

        Parameters
        ----------
        sample : SaddleSample
        new : NewInputs
        prior_variances : float or (L + 1,) array
            g_1, .., g_L, g_w.

        Notes
        -----
        Cost per layer: S P M products twice, S M averages over a Gaussian, P^3. Memory: the result.
        """
        g = checks.per_layer("prior_variances", prior_variances, len(sample.sites) + 1, "g_1 ... g_L and g_w")
        b, rho = regress(sample.kernels[0], new.cross, new.variances)
        coefficients, unexplained = [b], [rho]
        for variance, site in zip(g[:-1], sample.sites, strict=True):
            b, rho = regress(*_moments(site, b, np.sqrt(variance * rho)))
            coefficients.append(b)
            unexplained.append(rho)
        fitted = g[-1] * sample.kernels[-1] @ sample.coefficients
        return cls(sample.kernels, fitted, np.stack(coefficients), np.stack(unexplained))

    @property
    def cross_kernels(self) -> Floats:
        """(L + 1, M, P) array Phi^l(x_*, X)."""
        return np.asarray(self.coefficients.transpose(0, 2, 1) @ self.kernels)

    @property
    def variances(self) -> Floats:
        """(L + 1, M) array Phi^l(x_*, x_*)."""
        explained = np.einsum("lmp,lpm->lm", self.cross_kernels, self.coefficients)
        return np.asarray(explained + self.unexplained)

    @property
    def predictions(self) -> Floats:
        """(M, O) array f(x_*)."""
        return np.asarray(self.coefficients[-1].T @ self.fitted)


def _moments(site: SiteEnsemble, b: Floats, deviation: Floats) -> tuple[Floats, Floats, Floats]:
    """<phi phi^T>, <phi E[phi(h_*)|h]> and <E[phi(h_*)^2|h]> for new preactivations of mean h b and the given deviations."""
    P, M = b.shape
    gram, cross, squares = np.zeros((P, P)), np.zeros((P, M)), np.zeros(M)
    height = max(1, _BLOCK // max(P, M))
    for start in range(0, len(site.weights), height):
        rows = slice(start, start + height)
        h = site.standard(rows) @ site.root.T
        phi = site.activation.value(h)
        weighted = phi * site.weights[rows, None]
        first, second = smoothed_moments(site.activation, h @ b, deviation)
        gram += weighted.T @ phi
        cross += weighted.T @ first
        squares += site.weights[rows] @ second
    return gram, cross, squares


def regress(gram: Floats, cross: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """Return coefficients b = gram^+ cross (P, M) and the unexplained squares - b . cross (M,), never negative."""
    b = linalg.pinvh(gram, rtol=_RANK) @ cross
    return b, np.maximum(squares - np.einsum("pm,pm->m", cross, b), 0.0)


def predict(sample: SaddleSample, sections: Sequence[SaddleSample], new: NewInputs, prior_variances: ArrayLike) -> Estimate:
    """Return the predictor f (M, O) at new inputs; the error is that of sampling, f itself having no posterior variance."""
    return over_sections(lambda s: Extension.of(s, new, prior_variances).predictions, sample, sections)


def new_kernels(sample: SaddleSample, sections: Sequence[SaddleSample], new: NewInputs, prior_variances: ArrayLike) -> Estimate:
    """Return Phi^0, .., Phi^L between new and training inputs: (L + 1, M, P)."""
    return over_sections(lambda s: Extension.of(s, new, prior_variances).cross_kernels, sample, sections)


def new_variances(sample: SaddleSample, sections: Sequence[SaddleSample], new: NewInputs, prior_variances: ArrayLike) -> Estimate:
    """Return Phi^l(x, x), l = 0..L, of every new input: (L + 1, M)."""
    return over_sections(lambda s: Extension.of(s, new, prior_variances).variances, sample, sections)


def new_labels(y_new: ArrayLike, count: int, outputs: int) -> Floats:
    """Return checked labels of new inputs, (count, outputs)."""
    labels = checks.real_array("y_new", y_new, ndim=(1, 2))
    if labels.reshape(len(labels), -1).shape != (count, outputs):
        expected = f"({count},) or ({count}, 1)" if outputs == 1 else f"({count}, {outputs})"
        raise ValueError(f"y_new: expected shape {expected}, one row per new input, got {labels.shape}")
    return labels.reshape(count, outputs)


def prediction_error(
    sample: SaddleSample, sections: Sequence[SaddleSample], new: NewInputs, y_new: ArrayLike, prior_variances: ArrayLike
) -> Estimate:
    """Return the mean over new inputs of |f - y_new|^2, labels (M,) or (M, O)."""
    targets = new_labels(y_new, len(new.variances), sample.coefficients.shape[1])

    def squared(s: SaddleSample) -> float:
        f = Extension.of(s, new, prior_variances).predictions
        return float(np.square(f - targets).sum() / len(targets))

    return over_sections(squared, sample, sections)
