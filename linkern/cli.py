"""The command `linkern`: verify the claims, draw the figures, solve a problem."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import linkern
from linkern.numerics.processes import available_cores
from linkern.solution import ConvergenceError

if TYPE_CHECKING:
    from linkern.bayes import LinearSolution, MonteCarloSolution
    from linkern.solution import Solution


def _verify(options: argparse.Namespace) -> int:
    # SymPy is needed for this command only.
    from linkern.derivations import all_claims
    from linkern.symbolic import Verdict
    from linkern.symbolic.report import table_header, table_row, table_summary, tex_document

    chosen = [(c, k) for c, k in all_claims() if not options.names or c in options.names or k.name in options.names]
    known = {name for chapter, claim in all_claims() for name in (chapter, claim.name)}
    if unknown := set(options.names) - known:
        raise ValueError(f"names: expected chapters or claims, got {sorted(unknown)}; known are {sorted(known)}")
    print(table_header())
    verified = []
    for chapter, claim in chosen:
        outcome = claim.verify(options.seed)
        verified.append((chapter, outcome))
        print(table_row(chapter, outcome), flush=True)
    print(table_summary([outcome for _, outcome in verified]))
    if options.tex:
        options.tex.parent.mkdir(parents=True, exist_ok=True)
        options.tex.write_text(tex_document(verified), encoding="utf-8")
        print(f"written {options.tex}")
    return 1 if any(outcome.verdict is Verdict.FAILED for _, outcome in verified) else 0


def _figures(options: argparse.Namespace) -> int:
    # Matplotlib is needed for this command only.
    from linkern.figures import make_figures

    settings = {"quick": not options.full, "seed": options.seed, "jobs": options.jobs or available_cores()}
    written = make_figures(options.names, options.out, **settings, report=partial(print, flush=True))
    print(f"{len(written)} files in {options.out}:")
    for path in written:
        print(f"  {path}")
    return 0


def _solve(options: argparse.Namespace) -> int:
    from linkern.bayes import solve_linear, solve_montecarlo

    X, y, X_test, y_test = _problem(options)
    given = {name: getattr(options, name) for name in ("depth", "gamma0", "beta", "prior_variances")}
    tested = X_test is not None and y_test is not None and len(X_test) > 0
    if options.activation == "linear":
        exact = solve_linear(X, y, **given)
        lines = _exact_summary(exact)
        error = f"{_mean_square(exact.predict(X_test), y_test):.6g}" if tested else ""
        solution: Solution = exact
    else:
        given |= {"activation": options.activation, "tol": options.tol, "rng": options.seed, "raise_on_failure": False}
        solution = sampled = solve_montecarlo(X, y, **given)
        lines = _sampled_summary(sampled)
        error = str(sampled.test_error(X_test, y_test)) if tested else ""
    print("\n".join(_heading(solution) + lines))
    if tested:
        print(f"test error (mean square over {len(y_test)} points): {error}")
    if options.save:
        print(f"written {solution.save(options.save)}")
    return 0


def _mean_square(f: np.ndarray, y_test: np.ndarray) -> float:
    """Mean over inputs of |f - y|^2, summed over outputs as the sampled solutions do."""
    if f.size != np.size(y_test) or len(f) != len(y_test):
        raise ValueError(f"y_test: expected shape {f.shape} as predictions have, got {np.shape(y_test)}")
    return float(np.square(f - np.reshape(y_test, f.shape)).sum() / len(f))


def _heading(solution: Solution) -> list[str]:
    given = solution.parameters
    return [
        f"depth {given['depth']}, gamma0 {given['gamma0']:g}, beta {given['beta']}",
        f"status: {solution.status.name} ({solution.status.value})",
        f"residual of the saddle-point equations: {solution.residual:.1e}",
    ]


def _exact_summary(solution: LinearSolution) -> list[str]:
    """What a reader wants to know first, one fact per line."""
    lines = [f"condition number of the solution: {solution.condition_number:.3g}"]
    lines.append("layer  overlap/lazy  alignment with the labels")
    for index, (overlap, alignment) in enumerate(zip(solution.overlaps, solution.alignment(), strict=True)):
        lines.append(f"{index:5d}  {_numbers(overlap):>12}  {alignment:.6f}")
    lines.append(f"solutions: {len(solution.branches)}" + (", proved complete" if solution.certified else ""))
    for index, branch in enumerate(solution.branches):
        kind = "stable" if branch.stable else "unstable"
        chosen = " <- this one" if index == solution.branch_index else ""
        lines.append(f"  k = {_numbers(np.exp(branch.log_rescaling))}, action {branch.action:.6g}, {kind}{chosen}")
    lines.append(f"training error 1/2 sum (f - y)^2: {solution.training_error:.6g}")
    return lines


def _numbers(values: np.ndarray | float) -> str:
    """One number, or one per direction of several outputs."""
    return ", ".join(f"{value:.6g}" for value in np.ravel(values))


def _sampled_summary(solution: MonteCarloSolution) -> list[str]:
    """The same with standard errors."""
    lines = [f"  {reason}" for reason in solution.reasons]
    lines.append("standard errors of Phi^1, .., Phi^L: " + ", ".join(f"{error:.2%}" for error in solution.kernel_errors))
    lines.append(f"layer  {'y^T Phi y/P':>20}  alignment with the labels")
    for index, columns in enumerate(zip(solution.overlaps(), solution.alignment(), strict=True)):
        lines.append("{:5d}  {!s:>20}  {!s:>25}".format(index, *columns))
    error = 0.5 * float(np.sum((solution.labels.reshape(solution.label_shape) - solution.fitted) ** 2))
    lines.append(f"training error 1/2 sum (f - y)^2: {error:.4g}")
    return lines


def _problem(options: argparse.Namespace) -> tuple:
    """Return X, y and, where known, X_test, y_test from a file or from the digits."""
    if options.data is None:
        from linkern.data import digits

        task = digits(classes=tuple(options.classes), samples=options.samples, test=options.test, rng=options.seed)
        return task.X, task.y, task.X_test, task.y_test
    with np.load(options.data, allow_pickle=False) as archive:
        missing = {"X", "y"} - set(archive.files)
        if missing:
            raise ValueError(f"data: expected arrays X (P x D) and y (P) in {options.data}, missing {sorted(missing)}")
        test = [archive[name] if name in archive.files else None for name in ("X_test", "y_test")]
        return archive["X"], archive["y"], *test


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="linkern", description=linkern.__doc__)
    parser.add_argument("--version", action="version", version=f"linkern {linkern.__version__}")
    commands = parser.add_subparsers(required=True, metavar="{verify,figures,solve}")

    verify = commands.add_parser("verify", help="prove every claim and print the table; exit 1 if one fails")
    verify.add_argument("names", nargs="*", help="chapters or claims (default: all)")
    verify.add_argument("--tex", type=Path, help="also write the claims and proofs as a LaTeX document")
    verify.add_argument("--seed", type=int, default=0, help="seed of the random parameters of the numerical checks")
    verify.set_defaults(run=_verify)

    figures = commands.add_parser("figures", help="compute and draw the figures, with their numbers as JSON")
    figures.add_argument("names", nargs="*", help="figures (default: all)")
    figures.add_argument("--out", type=Path, default=Path("results"), help="output folder (default: results)")
    figures.add_argument("--full", action="store_true", help="the papers' sizes instead of the quick ones")
    figures.add_argument("--seed", type=int, default=0, help="seed of every random number")
    figures.add_argument("--jobs", type=int, default=0, help="figures to compute at a time (default: one per core)")
    figures.set_defaults(run=_figures)

    solve = commands.add_parser("solve", help="solve for the adaptive Bayesian kernels of a network")
    solve.add_argument("--data", type=Path, help="an .npz file with X (P x D) and y (P), optionally X_test and y_test")
    solve.add_argument("--classes", type=int, nargs=2, default=(0, 1), help="two digit classes, if no --data (default: 0 1)")
    solve.add_argument("--samples", type=int, default=100, help="number of training digits (default: 100)")
    solve.add_argument("--test", type=int, default=100, help="number of test digits (default: 100)")
    solve.add_argument("--activation", default="linear", help="linear (closed form) or another, sampled (default: linear)")
    solve.add_argument("--depth", type=int, default=3, help="number of hidden layers L (default: 3)")
    solve.add_argument("--gamma0", type=float, default=1.0, help="feature-learning strength (default: 1)")
    solve.add_argument("--beta", type=float, default=50.0, help="inverse temperature; inf allowed if linear (default: 50)")
    solve.add_argument("--prior-variances", type=float, nargs="+", default=1.0, help="one number, or one per weight layer")
    solve.add_argument("--tol", type=float, default=0.007, help="relative standard error of sampled kernels (default: 0.007)")
    solve.add_argument("--seed", type=int, default=0, help="seed of the choice of training digits and of sampling")
    solve.add_argument("--save", type=Path, help="write the solution to this .npz file")
    solve.set_defaults(run=_solve)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input ends with one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, ImportError, OSError, ConvergenceError) as error:
        print(f"linkern: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
