"""The table of claims on the terminal, and the same as a LaTeX document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import sympy as sp

from linkern.symbolic.claims import Outcome, Verdict

__all__ = ["table_header", "table_row", "table_summary", "tex_document"]

#: How the conjugates of the shipped derivations print.
_HATS = {sp.Symbol("c_hat", real=True): r"\hat c"}
_WIDTHS = (13, 27, 10, 23, 7, 6)


def table_header() -> str:
    """Return the head of the table."""
    names = ("chapter", "claim", "kind", "verdict", "digits", "s")
    head = "  ".join(n.ljust(w) for n, w in zip(names, _WIDTHS, strict=True)) + "  source"
    return head + "\n" + "-" * (len(head) + 34)


def table_row(chapter: str, outcome: Outcome) -> str:
    """Return one line: what was claimed, whether it is proved, to how many digits the check agrees, how long it took."""
    claim = outcome.claim
    digits = "-" if outcome.digits is None else str(outcome.digits)
    cells = (chapter, claim.name, claim.kind.value, outcome.verdict.value, digits, f"{outcome.seconds:.2f}")
    row = "  ".join(c.ljust(w) for c, w in zip(cells, _WIDTHS, strict=True)) + "  " + claim.source
    return row + (f"\n    {outcome.message}" if outcome.message else "")


def table_summary(outcomes: Sequence[Outcome]) -> str:
    """Return the counts by verdict."""
    counts = {v: sum(o.verdict is v for o in outcomes) for v in Verdict}
    seconds = sum(o.seconds for o in outcomes)
    return f"{len(outcomes)} claims in {seconds:.1f} s: " + ", ".join(f"{n} {v.value}" for v, n in counts.items())


def _escape(text: str) -> str:
    for plain, escaped in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("^", r"\^{}"), ("&", r"\&"), ("%", r"\%"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text


def tex_document(verified: Iterable[tuple[str, Outcome]]) -> str:
    """Return a LaTeX document: every claim with its statement, source, proof steps and verdict."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage{amsmath,amssymb,breqn}",
        r"\usepackage[margin=2.5cm]{geometry}",
        r"\title{linkern: claims and their proofs}\date{}",
        r"\begin{document}\maketitle",
    ]
    current = None
    for chapter, outcome in verified:
        claim = outcome.claim
        if chapter != current:
            lines.append(rf"\section{{{_escape(chapter)}}}")
            current = chapter
        lines.append(rf"\subsection*{{{_escape(claim.name.replace('_', ' '))} ({claim.kind.value}): {outcome.verdict.value}}}")
        # One part of the statement per row.
        rows = r" \\ ".join(part.strip() for part in re.split(r"\\q?quad", claim.statement))
        lines.append(rf"\begin{{gather*}} {rows} \end{{gather*}}")
        lines.append(rf"\noindent Source: {_escape(claim.source)}.")
        if outcome.digits is not None:
            lines.append(rf"An independent numerical route agrees to {outcome.digits} digits.")
        if outcome.message:
            lines.append(rf"\textbf{{{_escape(outcome.message)}}}")
        if outcome.steps:
            lines.append(r"\begin{enumerate}")
            for step in outcome.steps:
                tested = step.tested if isinstance(step.tested, str) else sp.latex(step.tested, symbol_names=_HATS)
                lines.append(rf"\item {_escape(step.says)}: {'holds' if step.valid else 'FAILS'}.")
                lines.append(rf"\begin{{dmath*}} {tested} \end{{dmath*}}")
            lines.append(r"\end{enumerate}")
    return "\n".join([*lines, r"\end{document}", ""])
