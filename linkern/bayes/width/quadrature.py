r"""Z = int dt p(t) N(y; 0, g e^t K + kappa) to rounding: find where the mass is, with a proof, then a trapezoidal rule.

ln p and -1/2 ln det are concave in t, and the curvature of -1/2 y^T A^{-1} y is at most its slope s, which changes by at
most a factor e^h over a distance h. On [m - h, m + h] the log posterior l(t) is therefore below

    l(m) + |l'(m)| h + e^h s(m) h^2 / 2,

and branch and bound with this finds every region that matters, however many modes there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linkern.bayes.width.density import ProductDensity
from linkern.bayes.width.likelihood import ModeLikelihood

__all__ = ["Nodes", "quadrature"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
EPS = float(np.finfo(np.float64).eps)
# Regions this many nats below the maximum are left out; intervals over which l may vary by less are not split.
CUT, RESOLVED = 50.0, 4.0
# Step in units of the narrowest width, and at most: singularities lie pi away from the real axis.
STEP, LARGEST_STEP = 0.25, 0.25
AGREEMENT = 1e-12
MAX_HALVINGS = 6


@dataclass(frozen=True)
class Nodes:
    """The posterior of t = ln Q of one problem as a weighted sum over nodes.

    Attributes
    ----------
    t, weights : (n,) arrays
        Nodes in ascending order and their posterior weights (sum 1).
    log_density : (n,) array
        ln of the posterior density at the nodes.
    growth : (L, n) array
        E[q_1 ... q_{l-1} | t] under the prior.
    log_evidence : float
        ln Z.
    error : float
        Difference of the two rules made of every second node, in ln Z (relative where |ln Z| > 1) and in the mean of t;
        the whole rule is better still.
    balance : float
        |E l'(t)| / E|l'(t)|, which vanishes for the exact posterior; the slope of ln p has its own integral.
    odd_misfit : float
        E[y^T A^{-1} y] by every second node.
    """

    t: Floats
    weights: Floats
    log_density: Floats
    growth: Floats
    log_evidence: float
    error: float
    balance: float
    odd_misfit: float


@dataclass
class _Region:
    """An interval that holds posterior mass, with the step to integrate it by."""

    problem: int
    left: float
    right: float
    step: float


def quadrature(prior: ProductDensity, likelihood: ModeLikelihood) -> list[Nodes]:
    """Return the quadrature of every problem; the rule is refined until its two halves agree."""
    regions = _locate(prior, likelihood)
    done: dict[int, tuple[Nodes, bool]] = {}
    for _ in range(MAX_HALVINGS + 1):
        found = _integrate(prior, likelihood, regions)
        done.update(found)
        open_problems = {index for index, (_, agrees) in found.items() if not agrees}
        if not open_problems:
            break
        regions = [region for region in regions if region.problem in open_problems]
        for region in regions:
            region.step /= 2
    return [done[index][0] for index in range(likelihood.scale.size)]


def _locate(prior: ProductDensity, likelihood: ModeLikelihood) -> list[_Region]:
    """Branch and bound on l(t) for all problems at once."""
    count = likelihood.scale.size
    best = np.full(count, -np.inf)
    left, right, problem = _search_range(prior, likelihood, best)
    kept: list[Floats] = []
    while left.size:
        middle, half = (left + right) / 2, (right - left) / 2
        log_prior, slope, stiffness = prior.approximate(middle)
        terms = likelihood.terms(middle, problem)
        value = log_prior + terms.fit + terms.volume
        np.maximum.at(best, problem, value)
        slope = np.abs(slope + terms.fit_slope + terms.volume_slope) * half
        with np.errstate(over="ignore"):
            room = 0.5 * np.exp(half) * half**2
            bound = value + slope + room * terms.fit_slope
            variation = slope + room * (terms.fit_slope + stiffness - terms.volume_curvature)
        alive = bound > best[problem] - CUT
        resolved = (variation < RESOLVED) | (half < 4 * EPS * (1 + np.abs(middle)))
        curvature = stiffness - terms.volume_curvature + np.abs(terms.fit_curvature)
        rows = np.column_stack([problem, left, right, bound, curvature])
        kept.append(rows[alive & resolved])
        split = alive & ~resolved
        left, right, middle, problem = left[split], right[split], middle[split], problem[split]
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
        problem = np.concatenate([problem, problem])
    rows = np.concatenate(kept)
    rows = rows[rows[:, 3] > best[rows[:, 0].astype(int)] - CUT]
    return _merge(rows[np.lexsort((rows[:, 1], rows[:, 0]))])


def _search_range(prior: ProductDensity, likelihood: ModeLikelihood, best: Floats) -> tuple[Floats, Floats, Indices]:
    """Intervals that cover everything within CUT of the best value, which is raised on the way.

    Right of t the fit is below its limit and ln p + volume fall; left of t the volume is below its limit and ln p + fit
    rise. Both hold beyond the mode of ln p.
    """
    count = likelihood.scale.size
    every = np.arange(count)
    fit_limit, volume_limit = likelihood.limits()
    start = np.linspace(-8.0, 8.0, 65)
    points, owner = np.tile(start, count), np.repeat(every, start.size)
    terms = likelihood.terms(points, owner)
    log_prior = np.tile(prior.approximate(start)[0], count)
    np.maximum.at(best, owner, log_prior + terms.fit + terms.volume)
    pieces: list[tuple[Floats, Floats, Indices]] = []
    for sign in (-1.0, 1.0):
        open_problems, near, reach = every, np.zeros(count), 1.0
        while open_problems.size:
            far = np.full(open_problems.size, sign * reach)
            pieces.append((np.minimum(near, far), np.maximum(near, far), open_problems))
            log_prior, slope, _ = prior.approximate(far)
            terms = likelihood.terms(far, open_problems)
            np.maximum.at(best, open_problems, log_prior + terms.fit + terms.volume)
            beyond = terms.volume + fit_limit[open_problems] if sign > 0 else volume_limit[open_problems] + terms.fit
            # sign * slope < 0: the point is past the mode of the prior.
            going = (log_prior + beyond > best[open_problems] - CUT) | (sign * slope >= 0)
            open_problems, near = open_problems[going], far[going]
            reach *= 2
    left, right, problem = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return left, right, problem


def _merge(rows: Floats) -> list[_Region]:
    """Join touching intervals of one problem; the step follows the largest curvature inside."""
    regions: list[_Region] = []
    for problem, left, right, _, curvature in rows:
        step = min(LARGEST_STEP, STEP / max(curvature, 1e-300) ** 0.5)
        last = regions[-1] if regions else None
        if last is not None and last.problem == int(problem) and last.right == left:
            last.right, last.step = right, min(last.step, step)
        else:
            regions.append(_Region(int(problem), left, right, step))
    return regions


def _integrate(prior: ProductDensity, likelihood: ModeLikelihood, regions: list[_Region]) -> dict[int, tuple[Nodes, bool]]:
    """Apply the trapezoidal rule in every region; return nodes, and whether its halves agree to rounding, by problem."""
    grids = []
    for region in regions:
        # Even, so that dropping every second node is a rule with twice the step.
        count = 2 * max(8, int(np.ceil((region.right - region.left) / region.step / 2)))
        step = (region.right - region.left) / count
        grids.append((region.left + step * np.arange(count + 1), np.full(count + 1, np.log(step)), region.problem))
    t = np.concatenate([grid[0] for grid in grids])
    log_step = np.concatenate([grid[1] for grid in grids])
    odd = np.concatenate([np.arange(grid[0].size) % 2 == 1 for grid in grids])
    problem = np.repeat([grid[2] for grid in grids], [grid[0].size for grid in grids])
    density = prior.exact(t)
    terms = likelihood.terms(t, problem)
    value = density.log + terms.fit + terms.volume
    slope = density.slope + terms.fit_slope + terms.volume_slope
    rounding = EPS * (np.abs(density.log) + np.abs(density.slope * t) + np.abs(terms.fit) + np.abs(terms.volume))
    constant = likelihood.constant()
    result = {}
    for index in np.unique(problem):
        own = problem == index
        top = value[own].max()
        mass = np.exp(value[own] + log_step[own] - top)
        total = mass.sum()
        weights = mass / total
        parity, own_t = odd[own], t[own]
        mean = weights @ own_t
        width = float(np.sqrt(weights @ (own_t - mean) ** 2))
        halves = [_moments((own_t[side] - mean) / width, weights[side]) for side in (parity, ~parity)]
        difference = np.abs(halves[0] - halves[1])
        log_evidence = float(top + np.log(total) + constant[index])
        force = slope[own]
        misfit = -2 * terms.fit[own]
        nodes = Nodes(
            t=own_t,
            weights=weights,
            log_density=value[own] - top - np.log(total),
            growth=density.growth[:, own],
            log_evidence=log_evidence,
            error=max(float(difference[0]) / max(1.0, abs(log_evidence)), float(difference[1]) * width),
            balance=float(abs(weights @ force) / (weights @ np.abs(force))),
            odd_misfit=float(weights[parity] @ misfit[parity] / weights[parity].sum()),
        )
        result[int(index)] = nodes, bool(difference.max() <= AGREEMENT + 8 * float(rounding[own].max()))
    return result


def _moments(t: Floats, weights: Floats) -> Floats:
    """Mass, mean and second moment of a half rule, t in units of the posterior's width."""
    return np.array([2 * weights.sum(), 2 * weights @ t, 2 * weights @ (t * t)])
