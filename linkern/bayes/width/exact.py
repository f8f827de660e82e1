r"""Deep linear Bayesian networks of any width, exactly: a one-dimensional integral over Q, the product of the layers' norms.

    h^1 = V^0 x, V^0 ~ N(0, g_1/D);   h^{l+1} = V^l h^l, V^l ~ N(0, g_{l+1}/N_l);   f = a . h^L, a ~ N(0, g_w/(chi N_L));
    y | f ~ N(f, ridge).

Given Q = q_1 ... q_L, q_l ~ chi^2_{N_l}/N_l independent under the prior, f ~ N(0, g Q K) with g = g_w g_1 ... g_L/chi and
K = X X^T/D. Means, covariances, the evidence and all hidden kernels are averages of elementary functions over the posterior
of Q. Beside the exact answer stand its expansions around saddle points, through the same interface.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linkern.bayes.spectrum import Spectrum
from linkern.bayes.width.average import Average, Method, average_of_expansion, average_of_nodes
from linkern.bayes.width.density import ProductDensity
from linkern.bayes.width.likelihood import ModeLikelihood
from linkern.bayes.width.quadrature import Nodes, quadrature
from linkern.bayes.width.saddles import SaddleProblem, WidthBranch
from linkern.bayes.width.solution import WidthPrior, WidthSolution
from linkern.checks import integer_at_least, per_layer, positive, real_array
from linkern.conventions import MeanField
from linkern.solution import Status

__all__ = ["WidthBranch", "WidthSolution", "solve_width", "solve_width_grid", "solve_width_mean_field"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
METHODS = ("exact", "tree", "one-loop", "saddle", "saddle-nlo")


def solve_width(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    width: ArrayLike,
    readout_variance: float = 1.0,
    chi: float = 1.0,
    ridge: float,
    prior_variances: ArrayLike = 1.0,
    method: Method = "exact",
    branch: str | int = "global",
) -> WidthSolution:
    """Solve the posterior of a deep linear network of finite width.

    Parameters
    ----------
    X : (P, D) array
        Inputs. Give X and y, or kernel and y, or a Spectrum (worth it for many parameter values).
    y : (P,) or (P, 1) array
        Labels; for several outputs see `linkern.bayes.width.outputs`.
    kernel : (P, P) array
        The data kernel K = X X^T / D itself.
    spectrum : Spectrum
        The decomposed data.
    depth : int
        L >= 1 hidden layers.
    width : int or L ints
        N_1..N_L, each >= 1.
    readout_variance, chi : float
        g_w and chi: the readout weights have variance g_w/(chi N_L). chi = 1 is standard scaling, chi ~ N mean-field
        scaling. Keeping the fit while chi grows needs ridge ~ 1/chi: chi multiplies the labels' amplitude.
    ridge : float
        Variance kappa > 0 of the label noise.
    prior_variances : float or (L,) array
        g_1..g_L.
    method : {"exact", "tree", "one-loop", "saddle", "saddle-nlo"}
        The exact integral; the saddle point of the outputs' generating function and its first correction in 1/N; the
        saddle point with the determinant resummed, and its first correction. Errors of the mean at fixed P: 0, 1/N,
        1/N^2, 1/N, 1/N^2.
    branch : {"global", "lazy", "rich"} or int
        For the expansions: the saddle point of largest weight, the one of smallest or of largest Q among the stable, or
        an index into `branches`. A solution that is not the global one says so in `metastable`.

    Returns
    -------
    WidthSolution

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what was expected.

    Notes
    -----
    Cost: the eigendecomposition, then O(r) per node of the integral (r the rank) for about a hundred nodes.
    """
    ridge = positive("ridge", ridge)
    chi = positive("chi", chi)
    grid = solve_width_grid(
        X,
        y,
        kernel=kernel,
        spectrum=spectrum,
        depth=depth,
        width=width,
        readout_variance=readout_variance,
        chi=chi,
        ridge=ridge,
        prior_variances=prior_variances,
        method=method,
        branch=branch,
    )
    solution: WidthSolution = grid.item()
    return solution


def solve_width_mean_field(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    depth: int,
    width: ArrayLike,
    gamma0: float,
    beta: float,
    prior_variances: ArrayLike = 1.0,
    **options: Any,
) -> WidthSolution:
    """`solve_width` in the mean-field convention f = w . h^L/(gamma0 N), N = N_L.

    `prior_variances` are g_1..g_L and g_w here, as in `bayes.linear.solve_linear`. chi = gamma0^2 N and
    ridge = 1/(beta gamma0^2 N), by `linkern.conventions`; `options` go to `solve_width`.
    """
    depth = integer_at_least("depth", depth)
    variances = per_layer("prior_variances", prior_variances, depth + 1, "hidden layers from first to last, then readout")
    widths = _widths(width, depth)
    here = MeanField(gamma0, beta, tuple(variances.tolist())).finite_width(int(widths[-1]))
    return solve_width(
        X,
        y,
        depth=depth,
        width=widths.astype(int),
        readout_variance=float(variances[-1]),
        chi=here.chi,
        ridge=here.ridge,
        prior_variances=variances[:-1],
        **options,
    )


def solve_width_grid(
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernel: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    depth: int,
    width: ArrayLike,
    readout_variance: float = 1.0,
    chi: ArrayLike = 1.0,
    ridge: ArrayLike,
    prior_variances: ArrayLike = 1.0,
    method: Method = "exact",
    branch: str | int = "global",
) -> NDArray[np.object_]:
    """Solve for arrays of chi and ridge that broadcast; one eigendecomposition and one vectorised integral for all.

    Other parameters as in `solve_width`. Returns an object array of `WidthSolution` with the broadcast shape.
    """
    chis, ridges = np.broadcast_arrays(_positive_array("chi", chi), _positive_array("ridge", ridge))
    spectrum = _spectrum(X, y, kernel, spectrum)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    depth = integer_at_least("depth", depth)
    widths = _widths(width, depth)
    variances = per_layer("prior_variances", prior_variances, depth, "hidden layers from first to last")
    readout = positive("readout_variance", readout_variance)
    scale = readout / chis.ravel() * variances.prod()
    likelihood = ModeLikelihood.build(spectrum, scale, ridges.ravel().astype(float))
    priors = [
        WidthPrior(widths, variances, readout, float(c), float(k)) for c, k in zip(chis.ravel(), ridges.ravel(), strict=True)
    ]
    if method == "exact":
        nodes = quadrature(ProductDensity(widths), likelihood)
        found = [_exact(spectrum, prior, likelihood, i, nodes[i]) for i, prior in enumerate(priors)]
    else:
        found = [_expansion(spectrum, prior, likelihood, i, method, branch) for i, prior in enumerate(priors)]
    grid = np.empty(len(found), dtype=object)
    grid[:] = found
    return grid.reshape(chis.shape)


def _exact(spectrum: Spectrum, prior: WidthPrior, likelihood: ModeLikelihood, index: int, nodes: Nodes) -> WidthSolution:
    average = average_of_nodes(likelihood, index, nodes, prior.widths)
    # y^T (y - f) = kappa E[y^T A^{-1} y], the mean from all nodes and the expectation from every second one.
    misfit = float((likelihood.b**2) @ average.misfits)
    identity = abs(misfit - nodes.odd_misfit) / misfit if misfit > 0 else 0.0
    residual = max(nodes.error, nodes.balance, identity)
    rounding = EPS * float(np.abs(nodes.log_density).max() + abs(nodes.log_evidence) + prior.widths.sum())
    status = Status.CONVERGED if residual < 1e-9 + 16 * rounding else Status.NOT_CONVERGED
    if status is Status.CONVERGED and _unresolved(spectrum, prior, average) > 1e-6:
        status = Status.ILL_CONDITIONED
    return WidthSolution(
        parameters=prior.record(depth=prior.widths.size, method="exact"),
        residual=residual,
        status=status,
        spectrum=spectrum,
        prior=prior,
        method="exact",
        log_evidence=nodes.log_evidence,
        average=average,
        nodes=nodes,
        _saddles=SaddleProblem(likelihood, index, prior.widths, True),
        branch_index=None,
    )


def _expansion(
    spectrum: Spectrum,
    prior: WidthPrior,
    likelihood: ModeLikelihood,
    index: int,
    method: Method,
    branch: str | int,
) -> WidthSolution:
    saddles = SaddleProblem(likelihood, index, prior.widths, method.startswith("saddle"))
    branches, _ = saddles.roots()
    chosen = _choose(branch, branches)
    point = branches[chosen]
    if not point.curvature > 0:
        raise ValueError(f"branch: expected a maximum of the posterior (they are {_stable(branches)}), got number {chosen}")
    average = average_of_expansion(likelihood, index, saddles.expansion(point, method), prior.widths)
    at = saddles.evaluate(np.array([point.log_q]), np.zeros(1))
    c = abs(float(saddles.multiplier(np.array([point.log_q]))[0]))
    residual = abs(float(at.value[0])) / max(c, point.curvature * abs(point.log_q), 1e-300)
    residual = min(residual, abs(float(at.value[0])) / point.curvature)
    status = Status.CONVERGED if residual < 1e-9 else Status.NOT_CONVERGED
    if point.degenerate or point.curvature < math.sqrt(EPS) * at.curvature[0]:
        status = Status.DEGENERATE
    corrected = method in ("one-loop", "saddle-nlo")
    return WidthSolution(
        parameters=prior.record(depth=prior.widths.size, method=method),
        residual=residual,
        status=status,
        spectrum=spectrum,
        prior=prior,
        method=method,
        log_evidence=point.log_evidence if corrected else point.exponent,
        average=average,
        nodes=None,
        _saddles=saddles,
        branch_index=chosen,
    )


def _unresolved(spectrum: Spectrum, prior: WidthPrior, average: Average) -> float:
    """First-order change of the fit when the kernel, as a matrix of float64, changes by its rounding.

    From inputs the range of the kernel is known; from a matrix its null space is known to rounding only.
    """
    if spectrum.source == "modes" or not spectrum.eigenvalues.size:
        return 0.0
    rounding = EPS * float(spectrum.eigenvalues[-1]) * prior.scale * float(average.growth[-1])
    outside = 1 / prior.ridge if spectrum.source == "kernel" and spectrum.residual[0] else 0.0
    return rounding * float(average.misfits.max(initial=outside))


def _stable(branches: tuple[WidthBranch, ...]) -> list[int]:
    return [index for index, candidate in enumerate(branches) if candidate.stable]


def _choose(branch: str | int, branches: tuple[WidthBranch, ...]) -> int:
    stable = _stable(branches) or list(range(len(branches)))
    if branch == "global":
        return max(stable, key=lambda index: branches[index].exponent)
    if branch == "lazy":
        return stable[0]
    if branch == "rich":
        return stable[-1]
    if isinstance(branch, (int, np.integer)) and not isinstance(branch, bool):
        if not -len(branches) <= branch < len(branches):
            raise ValueError(f"branch: expected an index into {len(branches)} branches, got {branch}")
        return int(branch) % len(branches)
    raise ValueError(f"branch: expected 'global', 'lazy', 'rich' or an index, got {branch!r}")


def _widths(width: ArrayLike, depth: int) -> Floats:
    sizes = np.atleast_1d(np.asarray(width))
    if sizes.ndim != 1 or sizes.size not in (1, depth):
        raise ValueError(f"width: expected one integer or {depth} integers (one per hidden layer), got {width!r}")
    checked = [integer_at_least("width", size.item()) for size in sizes]
    return np.broadcast_to(np.array(checked, dtype=float), depth).copy()


def _positive_array(name: str, value: ArrayLike) -> Floats:
    array = real_array(name, value, ndim=tuple(range(9)))
    if not (array > 0).all():
        raise ValueError(f"{name}: expected numbers > 0, got {array.min()!r}")
    return array


def _spectrum(X: ArrayLike | None, y: ArrayLike | None, kernel: ArrayLike | None, spectrum: Spectrum | None) -> Spectrum:
    if sum(given is not None for given in (X, kernel, spectrum)) != 1:
        raise ValueError("X, kernel, spectrum: expected exactly one of them")
    if spectrum is not None:
        if not isinstance(spectrum, Spectrum):
            raise TypeError(f"spectrum: expected a Spectrum, got {type(spectrum).__name__}")
        if y is not None:
            raise ValueError("y: the labels are part of the spectrum, do not give them twice")
    elif y is None:
        raise ValueError("y: expected labels, got None")
    elif X is not None:
        spectrum = Spectrum.from_data(X, y)
    else:
        spectrum = Spectrum.from_kernel(np.asarray(kernel), y)
    if spectrum.coefficients.shape[1] != 1:
        raise ValueError(f"y: expected one output, got {spectrum.coefficients.shape[1]}; use solve_width_outputs for several")
    return spectrum
