"""Claims that are wrong must fail, whichever half of them is wrong."""

import mpmath
import pytest
import sympy as sp

from linkern.symbolic import Kind, Verdict, claim, holds, tends_to, vanishes
from linkern.symbolic.report import table_row, tex_document

x = sp.Symbol("x", positive=True)


def _claim(steps, pairs):
    @claim(r"x = x", Kind.IDENTITY, "a test")
    def example():
        yield from steps

    if pairs is not None:
        example.check(lambda rng: iter(pairs))
    return example


TRUE_STEP = vanishes("true", (x + 1) ** 2 - x**2 - 2 * x - 1)
FALSE_STEP = vanishes("false", sp.sin(x) - x)
AGREE = [(mpmath.mpf(2), mpmath.mpf(2))]
with mpmath.workdps(40):
    DISAGREE = [(mpmath.mpf(2), 2 + mpmath.mpf(10) ** -30)]


@pytest.mark.parametrize(
    ("steps", "pairs", "verdict"),
    [
        ([TRUE_STEP], AGREE, Verdict.PROVED),
        ([TRUE_STEP, FALSE_STEP], AGREE, Verdict.FAILED),
        ([TRUE_STEP], DISAGREE, Verdict.FAILED),
        ([], AGREE, Verdict.SUPPORTED),
        ([TRUE_STEP], None, Verdict.FAILED),
        ([TRUE_STEP], [], Verdict.FAILED),
    ],
)
def test_verdict(steps, pairs, verdict):
    assert _claim(steps, pairs).verify().verdict is verdict


def test_an_exception_in_a_proof_is_a_failure_with_its_message():
    def broken():
        yield TRUE_STEP
        raise ZeroDivisionError("lost")

    outcome = _claim(broken(), AGREE).verify()
    assert outcome.verdict is Verdict.FAILED
    assert "ZeroDivisionError: lost" in outcome.message
    assert "FAILED" in table_row("chapter", outcome)


def test_steps_are_exact_not_numerical():
    assert not vanishes("tiny is not zero", sp.Float("1e-40")).valid
    assert not holds("unknown is not true", sp.Symbol("y") > 0).valid
    assert not holds("None is not true", sp.Symbol("y").is_positive).valid
    assert holds("assumption", x.is_positive).valid
    assert tends_to("limit", sp.sin(x) / x, x, 0, 1).valid
    assert not tends_to("wrong limit", sp.sin(x) / x, x, 0, 2).valid


def test_tex_document_contains_statement_steps_and_verdict():
    text = tex_document([("chapter_one", _claim([TRUE_STEP], AGREE).verify())])
    assert r"\section{chapter\_one}" in text
    assert "proved" in text
    assert "true: holds" in text
    assert text.count(r"\begin{dmath*}") == text.count(r"\end{dmath*}") == 1
    assert text.count(r"\begin{gather*}") == text.count(r"\end{gather*}") == 1
