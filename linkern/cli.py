"""The command `linkern`: verify the claims, draw the figures, solve a problem."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import linkern

if TYPE_CHECKING:
    from linkern.bayes.linear import LinearSolution


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

    written = make_figures(options.names, options.out, quick=not options.full, seed=options.seed, report=print)
    print(f"{len(written)} files in {options.out}:")
    for path in written:
        print(f"  {path}")
    return 0


def _solve(options: argparse.Namespace) -> int:
    from linkern.bayes import solve_linear

    X, y, X_test, y_test = _problem(options)
    solution = solve_linear(
        X, y, depth=options.depth, gamma0=options.gamma0, beta=options.beta, prior_variances=options.prior_variances
    )
    print(_summary(solution))
    if X_test is not None and len(X_test):
        errors = (solution.predict(X_test) - y_test) ** 2
        print(f"test error (mean square over {len(y_test)} points): {float(np.mean(errors)):.6g}")
    if options.save:
        print(f"written {solution.save(options.save)}")
    return 0


def _summary(solution: LinearSolution) -> str:
    """Return what a reader wants to know first, one fact per line."""
    given = solution.parameters
    lines = [f"depth {given['depth']}, gamma0 {given['gamma0']:g}, beta {given['beta']}"]
    lines.append(f"status: {solution.status.name} ({solution.status.value})")
    lines.append(f"residual of the saddle-point equations: {solution.residual:.1e}")
    lines.append(f"condition number of the solution: {solution.condition_number:.3g}")
    lines.append("layer  overlap/lazy  alignment with the labels")
    for index, (overlap, alignment) in enumerate(zip(solution.overlaps, solution.alignment(), strict=True)):
        lines.append(f"{index:5d}  {overlap:12.6g}  {alignment:.6f}")
    lines.append(f"solutions: {len(solution.branches)}" + (", proved complete" if solution.certified else ""))
    for index, branch in enumerate(solution.branches):
        kind = "stable" if branch.stable else "unstable"
        chosen = " <- this one" if index == solution.branch_index else ""
        lines.append(f"  k = {np.exp(branch.log_rescaling):.6g}, action {branch.action:.6g}, {kind}{chosen}")
    lines.append(f"training error 1/2 sum (f - y)^2: {solution.training_error:.6g}")
    return "\n".join(lines)


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
    figures.set_defaults(run=_figures)

    solve = commands.add_parser("solve", help="solve a deep linear Bayesian network in closed form")
    solve.add_argument("--data", type=Path, help="an .npz file with X (P x D) and y (P), optionally X_test and y_test")
    solve.add_argument("--classes", type=int, nargs=2, default=(0, 1), help="two digit classes, if no --data (default: 0 1)")
    solve.add_argument("--samples", type=int, default=100, help="number of training digits (default: 100)")
    solve.add_argument("--test", type=int, default=100, help="number of test digits (default: 100)")
    solve.add_argument("--depth", type=int, default=3, help="number of hidden layers L (default: 3)")
    solve.add_argument("--gamma0", type=float, default=1.0, help="feature-learning strength (default: 1)")
    solve.add_argument("--beta", type=float, default=50.0, help="inverse temperature, inf allowed (default: 50)")
    solve.add_argument("--prior-variances", type=float, nargs="+", default=1.0, help="one number, or one per weight layer")
    solve.add_argument("--seed", type=int, default=0, help="seed of the choice of training digits")
    solve.add_argument("--save", type=Path, help="write the solution to this .npz file")
    solve.set_defaults(run=_solve)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input ends with one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"linkern: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
