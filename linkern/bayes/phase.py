"""Where a deep linear network has several solutions: spinodals, equal-action line and critical points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.ensemble import Ensemble
from linkern.bayes.growth import Growth
from linkern.bayes.landscape import Landscape
from linkern.bayes.spectrum import Spectrum
from linkern.checks import real_array

__all__ = ["CoexistenceWindow", "CriticalPoint", "PhaseDiagram", "phase_diagram"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CriticalPoint:
    """A point where two spinodals meet.

    Attributes
    ----------
    gamma0, beta : float
        Where.
    rescaling, charge : float
        k and A there.
    stable : bool
        True where two stable branches become one (the end of a first-order line); False where a stable branch
        between two unstable ones vanishes.
    """

    gamma0: float
    beta: float
    rescaling: float
    charge: float
    stable: bool


@dataclass(frozen=True)
class CoexistenceWindow:
    """Two stable branches that coexist at one beta.

    Attributes
    ----------
    beta : float
        Inverse temperature.
    gamma0_lower, gamma0_upper : float
        The branches coexist strictly between these: the rich one appears at the lower spinodal, the lazy one ends at
        the upper.
    gamma0_transition : float
        Where both have the same action (nan if nowhere in the window).
    rescaling_lower, rescaling_upper : float
        k of the branch that ends, at each spinodal.
    rescaling_lazy, rescaling_rich : float
        k of both branches at the transition.
    is_global : bool
        Whether the two have the least action of all branches at the transition.
    """

    beta: float
    gamma0_lower: float
    gamma0_transition: float
    gamma0_upper: float
    rescaling_lower: float
    rescaling_upper: float
    rescaling_lazy: float
    rescaling_rich: float
    is_global: bool


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """Coexistence in the (gamma0, beta) plane.

    Attributes
    ----------
    parameters : Mapping
        Depth, prior variances and widths.
    betas : (m,) array
        Inverse temperatures that were examined.
    windows : tuple of CoexistenceWindow
        By beta in the order given, then by gamma0; a beta without coexistence has none.
    critical_points : tuple of CriticalPoint
        By ascending beta; empty for depth 1.
    certified : bool
        Whether the spinodals at every beta are proved complete.
    """

    parameters: Mapping[str, Any]
    betas: Floats
    windows: tuple[CoexistenceWindow, ...]
    critical_points: tuple[CriticalPoint, ...]
    certified: bool

    def column(self, name: str) -> Floats:
        """Return one attribute of all windows as an array, for plotting."""
        return np.array([getattr(window, name) for window in self.windows])


def phase_diagram(
    depth: int,
    *,
    spectrum: Spectrum | None = None,
    betas: ArrayLike | None = None,
    prior_variances: ArrayLike = 1.0,
    widths: ArrayLike = 1.0,
) -> PhaseDiagram:
    """Find all coexistence windows and critical points of a network of `depth` hidden layers.

    Parameters
    ----------
    depth : int
        L >= 1; for L = 1 the solution is unique and the diagram empty.
    spectrum : Spectrum, optional
        Data with one output; whitened data with |y| = 1 by default.
    betas : (m,) array, optional
        Inverse temperatures; by default 60 from 1e-3 times the largest critical beta up to it.
    prior_variances, widths : as in `solve_linear`.

    Returns
    -------
    PhaseDiagram

    Notes
    -----
    At fixed T the coupling is an explicit function of x = ln k, so spinodals are the zeros of its derivative, all of
    them isolated with a proof; between spinodals branches are monotone, and the difference of two branches' actions
    decreases with gamma0, so each pair has at most one transition.
    """
    ensemble = Ensemble.checked(depth=depth, gamma0=1.0, beta=math.inf, prior_variances=prior_variances, widths=widths)
    landscape, unit, size = _landscape(spectrum, ensemble)

    def gamma0_of(log_coupling: float) -> float:
        return math.exp(log_coupling / 2) * math.sqrt(unit) / size

    critical = sorted(
        (
            CriticalPoint(
                gamma0_of(float(landscape.log_coupling(np.array([x]), T)[0])),
                1 / (T * unit),
                math.exp(x),
                float(landscape.growth.charge(np.array([x]))[0]),
                stable,
            )
            for x, T, stable in (landscape.critical_points() if depth > 1 else [])
        ),
        key=lambda point: point.beta,
    )
    grid = _betas(betas, critical)
    windows: list[CoexistenceWindow] = []
    certified = True
    for beta in grid:
        isotherm, sure = _Isotherm.cut(landscape, 1 / (float(beta) * unit))
        windows += isotherm.windows(float(beta), gamma0_of)
        certified &= sure
    parameters = {key: value for key, value in ensemble.record().items() if key not in ("gamma0", "beta")}
    return PhaseDiagram(parameters, grid, tuple(windows), tuple(critical), certified)


def _landscape(spectrum: Spectrum | None, ensemble: Ensemble) -> tuple[Landscape, float, float]:
    """Return the landscape in units of the largest eigenvalue and label coefficient, and those units."""
    if spectrum is None:
        spectrum = Spectrum.from_modes([1.0], [1.0])
    if spectrum.coefficients.shape[1] != 1:
        raise ValueError(f"spectrum: expected one output, got {spectrum.coefficients.shape[1]}")
    b = spectrum.coefficients[:, 0]
    seen = b != 0
    if not seen.any():
        raise ValueError("spectrum: expected labels that the kernel can fit, got none (all coefficients are 0)")
    lam, b = ensemble.lazy_eigenvalues(spectrum.eigenvalues)[seen], np.abs(b[seen])
    landscape = Landscape(lam / lam.max(), (b / b.max()) ** 2, Growth.of(ensemble.widths))
    return landscape, float(lam.max()), float(b.max())


def _betas(betas: ArrayLike | None, critical: list[CriticalPoint]) -> Floats:
    if betas is None:
        largest = max((point.beta for point in critical if point.stable), default=None)
        return np.empty(0) if largest is None else np.geomspace(1e-3 * largest, largest, 61)[:-1]
    grid = np.atleast_1d(real_array("betas", betas, ndim=(0, 1)))
    if not (grid > 0).all():
        raise ValueError(f"betas: expected numbers > 0, got {float(grid.min())!r}")
    return grid


@dataclass(frozen=True)
class _Stable:
    """A stable stretch of the solution curve at fixed T: x from `left` to `right`, t = ln gamma0^2 from `low` to `high`."""

    left: float
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class _Isotherm:
    """The solution curve at one temperature, cut at its spinodals into stable branches (the unstable ones left out)."""

    landscape: Landscape
    T: float
    branches: tuple[_Stable, ...]

    @classmethod
    def cut(cls, landscape: Landscape, T: float) -> tuple[_Isotherm, bool]:
        """Return the isotherm and whether its spinodals are certainly all."""
        x, certified = landscape.spinodals(T)
        # Psi > 0 at both ends, so spinodals come in pairs; an odd one out is half of an undecided pair.
        x = x[: x.size // 2 * 2]
        t = landscape.log_coupling(x, T) if x.size else x
        left, right = [0.0, *x[1::2]], [*x[::2], math.inf]
        low, high = [-math.inf, *t[1::2]], [*t[::2], math.inf]
        branches = tuple(_Stable(*map(float, ends)) for ends in zip(left, right, low, high, strict=True))
        return cls(landscape, T, branches), certified

    def solve(self, branch: _Stable, t: float) -> float:
        """The x on a stable branch at ln gamma0^2 = t."""
        if t <= branch.low:
            return branch.left
        if t >= branch.high:
            return branch.right

        def excess(x: float) -> float:
            return float(self.landscape.log_coupling(np.array([x]), self.T)[0]) - t

        left, right = branch.left, branch.right
        if left == 0:
            left = min(right, 1.0)
            while excess(left) > 0:
                left /= 8
        if math.isinf(right):
            right = left + 1
            while excess(right) < 0:
                right = left + 2 * (right - left)
        return float(scipy.optimize.brentq(excess, left, right, xtol=1e-300, rtol=1e-14))

    def actions(self, branches: Iterable[_Stable], t: float) -> Floats:
        """Actions of branches at ln gamma0^2 = t."""
        return self.landscape.action(np.array([self.solve(branch, t) for branch in branches]), self.T)

    def transition(self, lazy: _Stable, rich: _Stable, lower: float, upper: float) -> float:
        """ln gamma0^2 of equal action between two branches, nan if they do not cross.

        The difference rich - lazy falls with gamma0. Neighbours always cross: each ends with the higher action.
        """

        def gap(t: float) -> float:
            return float(np.subtract(*self.actions((rich, lazy), t)))

        margin = 1e-9 * (upper - lower)
        if gap(lower + margin) > 0 > gap(upper - margin):
            return float(scipy.optimize.brentq(gap, lower + margin, upper - margin, xtol=1e-15, rtol=1e-14))
        neighbours = rich.low == lower and lazy.high == upper and self.branches.index(rich) == self.branches.index(lazy) + 1
        # So close to a critical point that the actions agree to rounding everywhere.
        return (lower + upper) / 2 if neighbours else math.nan

    def windows(self, beta: float, gamma0_of: Callable[[float], float]) -> list[CoexistenceWindow]:
        """All pairs of stable branches that coexist somewhere."""
        found = []
        for lazy, rich in itertools.combinations(self.branches, 2):
            lower, upper = max(lazy.low, rich.low), min(lazy.high, rich.high)
            if lower < upper:
                found.append(self._window(beta, gamma0_of, lazy, rich, lower, upper))
        return sorted(found, key=lambda window: window.gamma0_lower)

    def _window(
        self, beta: float, gamma0_of: Callable[[float], float], lazy: _Stable, rich: _Stable, lower: float, upper: float
    ) -> CoexistenceWindow:
        t = self.transition(lazy, rich, lower, upper)
        crossing = not math.isnan(t)
        rivals = [branch for branch in self.branches if branch.low < t < branch.high]
        return CoexistenceWindow(
            beta=beta,
            gamma0_lower=gamma0_of(lower),
            gamma0_transition=gamma0_of(t),
            gamma0_upper=gamma0_of(upper),
            rescaling_lower=math.exp(self.solve(rich if rich.low == lower else lazy, lower)),
            rescaling_upper=math.exp(self.solve(lazy if lazy.high == upper else rich, upper)),
            rescaling_lazy=math.exp(self.solve(lazy, t)) if crossing else math.nan,
            rescaling_rich=math.exp(self.solve(rich, t)) if crossing else math.nan,
            is_global=crossing and bool(self.actions((lazy,), t)[0] <= self.actions(rivals, t).min() * (1 + 1e-12)),
        )
