"""Derivations, one result per file, each read top to bottom like the appendix of a paper.

Every file states its assumptions, derives through `linkern.symbolic`, lists its `CLAIMS` and, where solvers need formulas,
the `FUNCTIONS` that are written to `linkern/generated/`.
"""

from __future__ import annotations

from linkern.derivations import (
    asymptotics,
    branches,
    covariance,
    duals,
    duals_smooth,
    expansions,
    flow_conservation,
    flow_fixed_point,
    flow_outputs,
    flow_perturbation,
    flow_second_order,
    flow_two_layer,
    flow_two_layer_history,
    layered,
    loops,
    outputs,
    perturbation,
    perturbation_second,
    series,
    whitened,
    width,
    width_limits,
)
from linkern.symbolic import Claim, NumPyFunction, render_module

__all__ = ["CHAPTERS", "all_claims", "generated_functions", "generated_modules"]

_DEEP_LINEAR = (whitened, layered, series, asymptotics, covariance, outputs, branches)
_FINITE_WIDTH = (width, width_limits, expansions, loops)
_FLOW = (
    flow_perturbation,
    flow_fixed_point,
    flow_conservation,
    flow_second_order,
    flow_outputs,
    flow_two_layer,
    flow_two_layer_history,
)
_NONLINEAR = (duals, duals_smooth, perturbation, perturbation_second)

#: The reading order.
CHAPTERS = (*_DEEP_LINEAR, *_FINITE_WIDTH, *_FLOW, *_NONLINEAR)

#: Generated module -> (its title, the chapters whose FUNCTIONS it holds).
_MODULES = {
    "deep_linear.py": ("Elementwise formulas of deep linear Bayesian networks.", _DEEP_LINEAR),
    "width.py": ("Elementwise formulas of the expansions of finite width.", _FINITE_WIDTH),
    "flow.py": ("Elementwise formulas of the training of deep linear networks.", _FLOW),
    "duals.py": ("Gaussian averages of activations.", _NONLINEAR),
}


def all_claims() -> tuple[tuple[str, Claim], ...]:
    """Return (chapter, claim) for every claim, in reading order."""
    return tuple((chapter.__name__.rsplit(".", 1)[-1], claim) for chapter in CHAPTERS for claim in chapter.CLAIMS)


def generated_functions() -> dict[str, tuple[NumPyFunction, ...]]:
    """Return the functions of every generated module by file name; the set of names is complete."""
    return {
        name: tuple(f for chapter in chapters for f in getattr(chapter, "FUNCTIONS", ()))
        for name, (_, chapters) in _MODULES.items()
    }


def generated_modules() -> dict[str, str]:
    """Return the text of every generated module by file name."""
    return {name: render_module(_MODULES[name][0], functions) for name, functions in generated_functions().items()}
