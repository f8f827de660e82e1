"""From derived expressions to readable NumPy: stable spellings, shared subexpressions, docstrings with their source."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp
from sympy.codegen.cfunctions import expm1
from sympy.codegen.rewriting import ReplaceOptim, log1p_opt, optimize
from sympy.printing.numpy import SciPyPrinter

__all__ = ["NumPyFunction", "render_module", "stable"]

_x, _y = sp.Wild("x"), sp.Wild("y")

# expm1 of anything that is printed as exp(.) - 1, wherever the subtraction stands in a sum.
_expm1 = ReplaceOptim(
    lambda e: e.is_Add and any(isinstance(t, sp.exp) for t in e.args) and any(t.is_number for t in e.args),
    lambda e: _pull_expm1(e),
)


class _Printer(SciPyPrinter):
    def _print_LambertW(self, expr: sp.LambertW) -> str:
        # SciPy's function is complex-valued; on the principal branch at x >= 0 the imaginary part is zero.
        return f"numpy.real({super()._print_LambertW(expr)})"

    def _print_Pow(self, expr: sp.Pow, rational: bool = False) -> str:
        # A division, not NumPy's general power.
        if expr.exp == -1:
            return f"1/{self.parenthesize(expr.base, 100)}"
        return super()._print_Pow(expr, rational=rational)


def _pull_expm1(expression: sp.Expr) -> sp.Expr:
    terms = list(expression.args)
    for term in terms:
        if isinstance(term, sp.exp) and sp.S.NegativeOne in terms:
            terms.remove(term)
            terms.remove(sp.S.NegativeOne)
            return sp.Add(expm1(term.args[0]), *terms)
    return expression


def stable(expression: sp.Expr) -> sp.Expr:
    """Rewrite logarithms of 1 + x and exponentials minus 1 so that small arguments keep their digits.

    Write a power as exp(p*log(1 + x)) in the derivation to have `(1+x)**p - 1` come out as `expm1(p*log1p(x))`.
    """
    return optimize(optimize(expression, [log1p_opt]), [_expm1])


@dataclass(frozen=True)
class NumPyFunction:
    """One function to be generated.

    Attributes
    ----------
    name : str
        Its Python name.
    arguments : sequence of Symbol
        Its arguments, in order; NumPy arrays that broadcast.
    expression : Expr
        Its value.
    summary, equation, source : str
        First line of the docstring, the formula as the reader knows it, and where it is derived.
    let : sequence of (Symbol, Expr)
        Abbreviations that the expression uses, defined by the arguments (and by earlier abbreviations).
    small : (Symbol, int, float), optional
        `(x, order, threshold)`: where |x| < threshold, use the Taylor polynomial of that order in x instead; for expressions
        with a removable cancellation at x = 0 that no rewriting removes.
    """

    name: str
    arguments: Sequence[sp.Symbol]
    expression: sp.Expr
    summary: str
    equation: str
    source: str
    let: Sequence[tuple[sp.Symbol, sp.Expr]] = ()
    small: tuple[sp.Symbol, int, float] | None = None

    def __post_init__(self) -> None:
        unknown = self.value.free_symbols - set(self.arguments)
        if unknown:
            raise ValueError(f"{self.name}: expected only {self.arguments} in the expression, got also {unknown}")

    @property
    def value(self) -> sp.Expr:
        """The raw expression in the arguments alone, abbreviations resolved: what the generated code must reproduce."""
        expression = self.expression
        for symbol, definition in reversed(self.let):
            expression = expression.subs(symbol, definition)
        return expression

    def render(self) -> str:
        """Return the source text of the function."""
        names = ", ".join(a.name for a in self.arguments)
        doc = [f'    """{self.summary}', "", f"    {self.equation}", "", f"    Derived in {self.source}.", '    """']
        body = [line.replace("return ", f"{s.name} = ", 1) for s, e in self.let for line in self._assignments(e, s.name)]
        body += self._assignments(self.expression, "")
        if self.small is not None:
            variable, order, threshold = self.small
            factor, rest = self.expression.as_independent(variable, as_Add=False)
            near = sp.Symbol("near")
            taylor = sp.horner(sp.expand(sp.series(rest, variable, 0, order + 1).removeO()), wrt=variable)
            body[-1] = body[-1].replace("return ", "direct = ", 1)
            body.append(f"is_small = np.abs({variable.name}) < {threshold!r}")
            # Far from zero the polynomial is not used and must not overflow.
            body.append(f"near = np.where(is_small, {variable.name}, 0.0)")
            body += self._assignments(factor * taylor.subs(variable, near), "t")
            body[-1] = body[-1].replace("return ", "taylor = ", 1)
            body.append("return np.where(is_small, taylor, direct)")
        lines = [f"def {self.name}({names}):", *doc, *(f"    {line}" for line in body)]
        return "\n".join(_wrap(line) for line in lines)

    def _assignments(self, expression: sp.Expr, prefix: str) -> list[str]:
        printer = _Printer({"fully_qualified_modules": True, "allow_unknown_functions": False})
        symbols = (sp.Symbol(f"{prefix}x{i}") for i in range(10**6))
        shared, (value,) = sp.cse([stable(expression)], symbols=symbols, order="canonical")
        text = [f"{name} = {printer.doprint(value)}" for name, value in shared]
        text.append(f"return {printer.doprint(value)}")
        return [line.replace("numpy.", "np.") for line in text]


def _wrap(line: str) -> str:
    if len(line) <= 120 or '"""' in line:
        return line
    head = "    return " if line.startswith("    return ") else line.split(" = ", 1)[0] + " = "
    value = line[len(head) :]
    wrapped = textwrap.wrap(value, 106, break_long_words=False, break_on_hyphens=False)
    return head + "(\n" + "\n".join(f"        {part}" for part in wrapped) + "\n    )"


def render_module(title: str, functions: Sequence[NumPyFunction]) -> str:
    """Return the text of a generated module; depends on the expressions and the SymPy version alone."""
    if len({f.name for f in functions}) != len(functions):
        raise ValueError("functions: expected distinct names")
    bodies = [f.render() for f in functions]
    uses_scipy = any("scipy." in body for body in bodies)
    header = [
        f'"""{title}',
        "",
        "Generated by `python -m linkern.derivations`; do not edit.",
        f"SymPy {sp.__version__}. All functions act elementwise on arrays that broadcast.",
        '"""',
        "",
        "import numpy as np",
        *(["import scipy.special"] if uses_scipy else []),
        "",
        "__all__ = [",
        *(f'    "{f.name}",' for f in sorted(functions, key=lambda f: f.name)),
        "]",
    ]
    return "\n".join(header) + "\n\n\n" + "\n\n\n".join(bodies) + "\n"
