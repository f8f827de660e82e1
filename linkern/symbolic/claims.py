"""Claims: named statements with a proof that runs and an independent high-precision check.

A proof is a generator of steps; every step reduces to something that is exactly zero or exactly true, or it fails. A check
evaluates the two sides of the claim by separate numerical routes with mpmath. A claim counts as proved only if all its
steps hold AND its check agrees; one without steps is at best numerically supported, and is shown as such.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import mpmath
import sympy as sp

__all__ = ["Claim", "Kind", "Outcome", "Step", "Verdict", "claim", "equal", "holds", "tends_to", "vanishes"]

#: Working digits of the numerical checks, digits to which both sides must agree, and random draws per claim.
CHECK_DIGITS, AGREEMENT_DIGITS, CHECK_DRAWS = 60, 45, 3


class Kind(enum.Enum):
    """What sort of statement a claim is."""

    IDENTITY = "identity"
    SOLUTION = "solution"
    SERIES = "series"
    LIMIT = "limit"
    INEQUALITY = "inequality"


class Verdict(enum.Enum):
    """What became of a claim."""

    PROVED = "proved"
    SUPPORTED = "numerically supported"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Step:
    """One step of a proof: what it says, and the object that was tested."""

    says: str
    tested: sp.Basic | str
    valid: bool


def _is_zero(expression: sp.Expr) -> bool:
    for attempt in (
        sp.expand,
        sp.cancel,
        lambda e: sp.expand(sp.powsimp(sp.expand(e), force=False)),
        sp.simplify,
        lambda e: sp.simplify(sp.expand_log(sp.expand_log(e).replace(sp.log, lambda x: sp.log(sp.factor(x))))),
        lambda e: sp.gammasimp(e.rewrite(sp.gamma)),
    ):
        expression = attempt(expression)
        if expression == 0:
            return True
    return False


def equal(says: str, left: sp.Expr, right: sp.Expr) -> Step:
    """State that two expressions are identical: their difference simplifies to exactly 0 (it is never compared numerically)."""
    left, right = sp.sympify(left), sp.sympify(right)
    return Step(says, sp.Eq(left, right, evaluate=False), _is_zero(left - right))


def vanishes(says: str, expression: sp.Expr) -> Step:
    """State that `expression` is identically zero."""
    return equal(says, expression, sp.S.Zero)


def holds(says: str, statement: sp.Basic | bool) -> Step:
    """State that `statement` (a relation, an assumption query such as `x.is_positive`, a comparison) is exactly true."""
    return Step(says, sp.sympify(statement), statement is True or statement == sp.true)


def tends_to(says: str, expression: sp.Expr, variable: sp.Symbol, point: sp.Expr, value: sp.Expr, side: str = "+") -> Step:
    """State the limit of `expression`, computed exactly."""
    found = sp.limit(expression, variable, point, dir=side)
    return Step(says, sp.Eq(sp.Limit(expression, variable, point, dir=side), value, evaluate=False), _is_zero(found - value))


@dataclass(frozen=True)
class Outcome:
    """Result of verifying one claim."""

    claim: Claim
    verdict: Verdict
    steps: tuple[Step, ...]
    digits: int | None
    seconds: float
    message: str = ""


@dataclass
class Claim:
    """A named statement; see `claim` for how to write one."""

    name: str
    statement: str
    kind: Kind
    source: str
    prove: Callable[[], Iterable[Step]]
    numbers: Callable[[random.Random], Iterator[tuple[mpmath.mpf, mpmath.mpf]]] | None = field(default=None)

    def check(self, function: Callable[[random.Random], Iterator[tuple[mpmath.mpf, mpmath.mpf]]]) -> Callable:
        """Attach the numerical check: a generator of (left side, right side) at random parameters drawn from its argument."""
        self.numbers = function
        return function

    def agreement(self, seed: int = 0) -> int:
        """Return the number of digits to which the check's two sides agree at worst (capped at the working precision)."""
        if self.numbers is None:
            raise ValueError(f"{self.name}: has no numerical check")
        worst, compared = float(CHECK_DIGITS), 0
        with mpmath.workdps(CHECK_DIGITS):
            for draw in range(CHECK_DRAWS):
                for left, right in self.numbers(random.Random(f"{self.name}-{seed}-{draw}")):
                    scale = max(abs(left), abs(right), mpmath.mpf(10) ** -CHECK_DIGITS)
                    error = abs(left - right) / scale
                    compared += 1
                    worst = min(worst, float(-mpmath.log10(error)) if error else CHECK_DIGITS)
        if not compared:
            raise ValueError(f"{self.name}: the numerical check compared nothing")
        return int(worst)

    def verify(self, seed: int = 0) -> Outcome:
        """Run the proof and the check; exceptions count as failure and are reported, not raised."""
        start = time.perf_counter()
        steps: list[Step] = []
        digits, message = None, ""
        try:
            for step in self.prove():
                steps.append(step)
                if not step.valid:
                    message = f"step does not hold: {step.says}"
            digits = self.agreement(seed) if self.numbers is not None else None
        except Exception as error:  # a broken proof is a result to report in the table
            message = f"{type(error).__name__}: {error}"
        if not message and digits is not None and digits < AGREEMENT_DIGITS:
            message = f"numerical check agrees to {digits} digits only, expected {AGREEMENT_DIGITS}"
        if message:
            verdict = Verdict.FAILED
        elif steps and digits is not None:
            verdict = Verdict.PROVED
        elif digits is not None:
            verdict = Verdict.SUPPORTED
        else:
            verdict, message = Verdict.FAILED, "neither proof steps nor a complete numerical check"
        return Outcome(self, verdict, tuple(steps), digits, time.perf_counter() - start, message)


def claim(statement: str, kind: Kind, source: str) -> Callable[[Callable[[], Iterable[Step]]], Claim]:
    """Turn a generator of proof steps into a `Claim` named after the function.

    Examples
    --------
    >>> import sympy as sp
    >>> x = sp.Symbol("x")
    >>> @claim(r"(1+x)^2 = 1 + 2x + x^2", Kind.IDENTITY, "school")
    ... def square():
    ...     yield vanishes("expand", (1 + x) ** 2 - 1 - 2 * x - x**2)
    >>> @square.check
    ... def _(rng):
    ...     value = mpmath.mpf(rng.random())
    ...     yield (1 + value) ** 2, 1 + 2 * value + value**2
    >>> square.verify().verdict.value
    'proved'
    """

    def wrap(function: Callable[[], Iterable[Step]]) -> Claim:
        return Claim(function.__name__, statement, kind, source, function)

    return wrap
