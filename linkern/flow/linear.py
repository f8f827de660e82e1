"""Deep linear networks trained with weight decay to the end: all fixed points in closed form from one scalar equation.

Weight decay makes the layers balance, so the trained network has rank one and its predictor minimises

    J(f) = 1/2 |y - f|^2 + weight_decay (L + 1)/(2 gamma0^2) a,    a^{L+1} = gamma0^2 f^T C^{-1} f.

Hence f = C (C + rho)^{-1} y with rho = weight_decay a^{-L}, Phi^l = a^l f f^T/q (l >= 1), G^l = a^{L+1-l} and the tangent
kernel K = a^L (C + L f f^T/q), q = f^T C^{-1} f. f = 0 is a fixed point too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from linkern.bayes.spectrum import Spectrum
from linkern.checks import integer_at_least, nonnegative, positive
from linkern.flow.fixed_point import FixedPoint, FlowBranch, certified_point
from linkern.flow.ridge import RidgeEquation, RidgeRoot
from linkern.flow.trajectory import as_spectrum
from linkern.solution import Status

__all__ = ["FixedPoint", "FlowBranch", "solve_fixed_point"]


def solve_fixed_point(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    gamma0: float,
    weight_decay: float,
    branch: str | int = "rich",
) -> FixedPoint:
    """Return the fixed points of gradient flow with weight decay for an infinitely wide deep linear network.

    Parameters
    ----------
    X : (P, D) array
        Inputs. Give X and y, or kernel and y, or a Spectrum (worth it for many parameter values).
    y : (P,) or (P, 1) array
        Labels.
    kernel : (P, P) array
        The data kernel C = X X^T / D itself.
    spectrum : Spectrum
        The decomposed data.
    depth : int
        L >= 1 hidden layers.
    gamma0 : float
        Richness >= 0. At 0 every network with weight decay collapses.
    weight_decay : float
        lambda > 0 in d theta/dt = -gamma^2 grad loss - lambda theta. Without it the end of training is no function of the
        data alone: use `linkern.flow.march`.
    branch : {"rich", "global", "zero"} or int
        The largest stable amplitude (what training reaches unless it collapses), least energy, the collapsed network, or
        an index into `branches`.

    Returns
    -------
    FixedPoint

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Cost: the eigendecomposition, then O(r) per evaluation of the scalar equation, a few hundred evaluations.
    """
    depth = integer_at_least("depth", depth)
    gamma0 = nonnegative("gamma0", gamma0)
    weight_decay = positive("weight_decay", weight_decay)
    spectrum = as_spectrum(X, y, kernel, spectrum)
    if spectrum.coefficients.shape[1] != 1:
        raise ValueError(
            f"y: expected one output, got {spectrum.coefficients.shape[1]}; see linkern.flow.solve_fixed_point_outputs"
        )
    equation = RidgeEquation.build(spectrum.eigenvalues, spectrum.coefficients[:, 0], depth)
    roots, certified = equation.roots(gamma0, weight_decay)
    at_zero = float((spectrum.labels**2).sum() / 2)
    # For one hidden layer the cusp of J at zero is as steep as the data's pull at the transition.
    zero_stable = depth > 1 or gamma0 == 0 or math.log(weight_decay) >= math.log(gamma0) + equation.log_readout / 2
    branches = (
        FlowBranch(0.0, math.inf, at_zero, 0.0, zero_stable, 0.0),
        *(_branch(equation, root, weight_decay, at_zero) for root in roots),
    )
    draft = FixedPoint(
        parameters={"depth": depth, "gamma0": gamma0, "weight_decay": weight_decay},
        residual=math.nan,
        status=Status.CONVERGED,
        spectrum=spectrum,
        depth=depth,
        gamma0=gamma0,
        weight_decay=weight_decay,
        branches=branches,
        branch_index=_choose(branch, branches),
        global_index=min(range(len(branches)), key=lambda index: branches[index].excess_energy),
        certified=certified,
    )
    return certified_point(draft)


def _branch(equation: RidgeEquation, root: RidgeRoot, weight_decay: float, at_zero: float) -> FlowBranch:
    excess = equation.energy(root.log_ridge)
    return FlowBranch(
        amplitude=math.exp((math.log(weight_decay) - root.log_ridge) / equation.depth),
        log_ridge=root.log_ridge,
        energy=at_zero + excess,
        excess_energy=excess,
        stable=root.rising,
        condition_number=root.condition_number,
        degenerate=root.degenerate,
    )


def _choose(branch: str | int, branches: tuple[FlowBranch, ...]) -> int:
    if branch == "zero":
        return 0
    if branch == "global":
        return min(range(len(branches)), key=lambda index: branches[index].excess_energy)
    if branch == "rich":
        return max((index for index, candidate in enumerate(branches) if candidate.stable), default=len(branches) - 1)
    if isinstance(branch, (int, np.integer)) and not isinstance(branch, bool):
        if not -len(branches) <= branch < len(branches):
            raise ValueError(f"branch: expected an index into {len(branches)} branches, got {branch}")
        return int(branch) % len(branches)
    raise ValueError(f"branch: expected 'rich', 'global', 'zero' or an index, got {branch!r}")
