"""Generated modules: values against the raw expressions at 50 digits, bytes against a fresh emit, no orphans."""

import importlib
import random
from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp

import linkern.generated
from linkern.derivations import generated_functions, generated_modules
from linkern.derivations.__main__ import main

FOLDER = Path(linkern.generated.__file__).parent
FUNCTIONS = [(module[:-3], function) for module, functions in generated_functions().items() for function in functions]


def _argument(name, rng):
    """A random argument: over many decades, and at times extremely small or large."""
    if name in {"L", "l"}:
        return float(rng.randint(2, 60))
    if name == "s":  # the saturation on the spinodals lies below (L-1)/(L+1) >= 1/3
        return 10 ** rng.uniform(-12, -0.5)
    return 10 ** rng.choice([rng.uniform(-3, 3), rng.uniform(-14, -8), rng.uniform(3, 8)])


@pytest.mark.parametrize(("module", "function"), FUNCTIONS, ids=lambda value: getattr(value, "name", value))
def test_values_at_fifty_digits(module, function):
    rng = random.Random(function.name)
    emitted = getattr(importlib.import_module(f"linkern.generated.{module}"), function.name)
    exact = sp.lambdify(function.arguments, function.value, modules="mpmath")
    slopes = [sp.lambdify(function.arguments, sp.diff(function.value, x), modules="mpmath") for x in function.arguments]
    compared = 0
    for _ in range(300):
        point = [_argument(a.name, rng) for a in function.arguments]
        # 50 digits after the worst cancellation (twice 14 + 8 decades) that the arguments can cause.
        with mpmath.workdps(100), np.errstate(over="ignore"):
            precise = [mpmath.mpf(v) for v in point]
            expected = mpmath.mpmathify(exact(*precise)).real
            if not 1e-280 < abs(expected) < 1e280:
                continue
            # Rounding the arguments alone changes the value by this much: no float64 code can do better.
            spread = sum(abs(v * mpmath.mpmathify(d(*precise)).real) for v, d in zip(precise, slopes, strict=True))
            error = abs(mpmath.mpf(float(emitted(*point))) - expected)
            assert error <= 1e-13 * max(abs(expected), spread), (point, float(expected))
        compared += 1
    assert compared >= 100


def test_bytes_equal_a_fresh_emit():
    for name, text in generated_modules().items():
        committed = (FOLDER / name).read_text(encoding="utf-8")
        written_with = committed.split("SymPy ", 1)[1].split(". ", 1)[0]
        if written_with != sp.__version__:
            pytest.skip(f"generated with SymPy {written_with}, running {sp.__version__}")
        assert committed == text, f"{name} is stale: run python -m linkern.derivations"


def test_no_orphans():
    assert {path.name for path in FOLDER.glob("*.py")} == {"__init__.py", *generated_modules()}


def test_check_command_reports_freshness(capsys):
    if "stale" in {"stale" for n, t in generated_modules().items() if (FOLDER / n).read_text(encoding="utf-8") != t}:
        pytest.skip("another SymPy wrote the committed files")
    assert main(["--check"]) == 0
    assert "fresh" in capsys.readouterr().out


def test_generated_code_does_not_import_sympy():
    assert not any("sympy" in line for name in generated_modules() for line in (FOLDER / name).read_text().splitlines()[5:])
