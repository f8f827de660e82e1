r"""Saddle points of the posterior of t = ln Q: all of them, with a proof, and the expansion at any one.

S_0'(t) = -c(t) + 1/2 sum u x [- 1/2 sum x], where sum_l ln(1 + 2c/N_l) = t. Tree level leaves the bracket to S_1, the
Q-saddle keeps it in S_0. At tree level these are N_l (q_l - 1) = gQ v^T K v, the equations of adaptive kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.width.average import Expansion, Method
from linkern.bayes.width.density import layer_constant
from linkern.bayes.width.likelihood import ModeLikelihood
from linkern.generated import width as formulas
from linkern.numerics.roots import Evaluation, bracketed_newton, isolate_roots

__all__ = ["SaddleProblem", "WidthBranch"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class WidthBranch:
    """One stationary point of S_0.

    Attributes
    ----------
    log_q : float
        t = ln Q.
    layer_factors : (L,) array
        q_1..q_L.
    exponent : float
        S_0, up to a constant common to all branches: the posterior weight to leading order.
    log_evidence : float
        ln Z of this branch alone to next order, S_0 + S_1 + 1/2 ln(2 pi/a); nan where S_0 has no maximum.
    curvature : float
        a = -S_0''.
    stable : bool
        Whether S_0 has a maximum here.
    degenerate : bool
        Whether this stands for two or three roots that float64 cannot tell apart.
    """

    log_q: float
    layer_factors: Floats
    exponent: float
    log_evidence: float
    curvature: float
    stable: bool
    degenerate: bool = False


@dataclass(frozen=True)
class SaddleProblem:
    """S_0 and S_1 of one problem.

    Attributes
    ----------
    likelihood : ModeLikelihood
    problem : int
        Which of its problems.
    widths : (L,) array
    resummed : bool
        Whether S_0 contains the volume ("saddle") or not ("tree").
    """

    likelihood: ModeLikelihood
    problem: int
    widths: Floats
    resummed: bool

    def multiplier(self, t: Floats) -> Floats:
        """c(t)."""
        least, count = float(self.widths.min()), self.widths.size
        ratios = (least / self.widths)[:, None]

        # In z = ln q of the narrowest layer, which moves the most.
        def excess(z: Floats, index: NDArray[np.intp]) -> tuple[Floats, Floats]:
            grown = ratios * np.expm1(z)
            return np.log1p(grown).sum(axis=0) - t[index], (ratios * np.exp(z) / (1 + grown)).sum(axis=0)

        if np.ptp(self.widths) == 0:
            return np.asarray(least / 2 * np.expm1(t / count))
        ends = np.sort([t, t / count], axis=0)
        z = bracketed_newton(excess, ends[0], ends[1], np.ones(t.size, dtype=bool), t / count)
        return np.asarray(least / 2 * np.expm1(z))

    def compliances(self, c: Floats) -> Floats:
        """(L, n) array of 2 / (N_l q_l)."""
        return formulas.layer_compliance(c, self.widths[:, None])

    def evaluate(self, t: Floats, half: Floats) -> Evaluation:
        """S_0', S_0'' and a bound of |S_0'''| on intervals around t.

        Each of the three terms' third derivatives is bounded by dc/dt, the fit's slope and minus the volume's slope, and
        these grow at most like e^h over a distance h.
        """
        c = self.multiplier(t)
        terms = self.likelihood.terms(t, np.full(t.size, self.problem))
        stiffness = 1 / self.compliances(c).sum(axis=0)
        value, slope = terms.fit_slope - c, terms.fit_curvature - stiffness
        size = stiffness + terms.fit_slope
        rounding = np.abs(c) + terms.fit_slope + stiffness * np.abs(t)
        if self.resummed:
            value, slope = value + terms.volume_slope, slope + terms.volume_curvature
            size, rounding = size - terms.volume_slope, rounding - terms.volume_slope
        return Evaluation(value, slope, size * np.exp(np.minimum(half, 600.0)), 16 * EPS * rounding)

    def search_range(self) -> tuple[float, float]:
        """An interval that holds every root; S_0' > 0 left of it and S_0' < 0 right of it."""
        low, high = 0.0, 1.0
        # The fit's slope is at most sum b^2/(8 kappa), and c grows without bound.
        p = self.likelihood
        limit = float((p.b**2).sum() / (8 * p.ridge[self.problem]))
        signal = float(p.scale[self.problem])
        interpolated = float((p.b**2 / p.lam).sum() / (2 * signal))
        while self.multiplier(np.array([high]))[0] <= min(limit, interpolated * math.exp(-high)):
            high *= 2
        if self.resummed:
            # The volume's slope is at most r/2 and at most gQ Tr K / (2 kappa) in size.
            trace = signal * float(p.lam.sum()) / p.ridge[self.problem]
            low = -1.0
            while -self.multiplier(np.array([low]))[0] <= min(p.lam.size, math.exp(low) * trace) / 2:
                low *= 2
        return low - 0.01, high

    def roots(self) -> tuple[tuple[WidthBranch, ...], bool]:
        """All branches by ascending t, and whether they are proved to be all."""
        low, high = self.search_range()
        found = isolate_roots(self.evaluate, low, high)

        def equation(t: Floats, _: NDArray[np.intp]) -> tuple[Floats, Floats]:
            at = self.evaluate(t, np.zeros(t.size))
            return at.value, at.slope

        t = bracketed_newton(equation, found.brackets[:, 0], found.brackets[:, 1], found.rising, rtol=1e-15)
        branches = [self.branch(float(root), not rising) for root, rising in zip(t, found.rising, strict=True)]
        for (left, right), (before, after) in zip(found.clusters, found.cluster_signs, strict=True):
            branches.append(self.branch((left + right) / 2, bool(before > after), degenerate=True))
        return tuple(sorted(branches, key=lambda branch: branch.log_q)), not found.clusters.size

    def branch(self, t: float, stable: bool, degenerate: bool = False) -> WidthBranch:
        """Describe the stationary point t."""
        at = np.array([t])
        c = self.multiplier(at)
        q = 1 + 2 * c[0] / self.widths
        terms = self.likelihood.terms(at, np.array([self.problem]))
        compliance = self.compliances(c)[:, 0]
        rate = float(formulas.layer_rate(c[0], self.widths).sum())
        constants = sum(layer_constant(width / 2) for width in self.widths)
        prefactor = constants + 0.5 * (self.widths.size - 1) * math.log(2 * math.pi)
        prefactor -= 0.5 * float(np.log(self.widths * q / 2).sum()) + 0.5 * math.log(compliance.sum())
        exponent = rate + float(terms.fit[0]) + (float(terms.volume[0]) if self.resummed else 0.0)
        a = -float(self.evaluate(at, np.zeros(1)).slope[0])
        rest = prefactor + (0.0 if self.resummed else float(terms.volume[0]))
        constant = float(self.likelihood.constant()[self.problem])
        log_evidence = exponent + rest + 0.5 * math.log(2 * math.pi / a) + constant if a > 0 else math.nan
        return WidthBranch(t, q, exponent + constant, log_evidence, a, stable and a > 0, degenerate)

    def expansion(self, branch: WidthBranch, method: Method) -> Expansion:
        """The moments of t around a stable branch."""
        at, index = np.array([branch.log_q]), np.array([self.problem])
        terms = self.likelihood.terms(at, index)
        compliance = self.compliances(self.multiplier(at))[:, 0]
        k1, k2 = compliance.sum(), (compliance**2).sum()
        third = formulas.rate_third(k1, k2) + terms.fit_third[0]
        slope = formulas.prefactor_slope(k1, k2)
        if self.resummed:
            third += terms.volume_third[0]
        else:
            slope += terms.volume_slope[0]
        shift = float(formulas.log_shift(slope, third, branch.curvature))
        return Expansion(branch.log_q, shift, 1 / branch.curvature, branch.layer_factors, compliance, method)
