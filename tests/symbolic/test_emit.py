"""Generated code keeps digits where the formula as written loses them."""

import numpy as np
import pytest
import sympy as sp

from linkern.symbolic import NumPyFunction, render_module, stable

a, L, n = sp.symbols("a L n", positive=True)


def _run(function, *arguments):
    space = {}
    exec(render_module("A test.", [function]), space)
    return space[function.name](*arguments)


def _function(expression, arguments, **more):
    return NumPyFunction("f", arguments, expression, "Summary.", "equation", "a test", **more)


def test_powers_minus_one_become_expm1_of_log1p():
    # Canary: if SymPy's rewriting changes, this is where it shows.
    function = _function(sp.exp(L * sp.log(1 + a)) - 1, (a, L))
    assert "np.expm1(L*np.log1p(a))" in function.render()
    # (1 + a)^5 - 1 = 5a + 10a^2 + ... to the last digit at a = 1e-10.
    assert _run(function, 1e-10, 5.0) == pytest.approx(5e-10 + 10e-20, rel=1e-15)


def test_expm1_is_found_inside_a_longer_sum():
    x = sp.Symbol("x", positive=True)
    assert stable(sp.exp(x) - 1 + x).has(sp.codegen.cfunctions.expm1)


def test_series_branch_takes_over_where_a_cancellation_remains():
    function = _function(n * (a - sp.log(1 + a)), (a, n), small=(a, 12, 0.03))
    small, large = np.array([1e-12, 1e-3]), np.array([0.5, 1e30])
    expected = 3 * sum((-1) ** k * small**k / k for k in range(2, 9))
    np.testing.assert_allclose(_run(function, small, 3.0), expected, rtol=1e-14)
    np.testing.assert_allclose(_run(function, large, 3.0), 3 * (large - np.log1p(large)), rtol=1e-15)
    below, above = np.nextafter(0.03, 0), 0.03
    assert _run(function, below, 1.0) == pytest.approx(_run(function, above, 1.0), rel=1e-13)


def test_abbreviations_and_long_lines_are_written_out():
    ratio = sp.Symbol("ratio", positive=True)
    function = _function(sp.log(1 + ratio), (a, n), let=((ratio, a / n),))
    assert "ratio = a/n" in function.render()
    assert function.value == sp.log(1 + a / n)
    assert _run(function, 1e-20, 2.0) == 0.5e-20
    long = _function(sp.expand((a + L + n) ** 9), (a, L, n))
    assert max(map(len, long.render().splitlines())) <= 120
    assert _run(long, 1.0, 2.0, 3.0) == pytest.approx(6.0**9, rel=1e-14)


def test_lambert_function_is_real():
    value = _run(_function(sp.exp(sp.LambertW(a)), (a,)), np.array([0.5, 2.0]))
    assert value.dtype == np.float64
    np.testing.assert_allclose(value * np.log(value), [0.5, 2.0], rtol=1e-14)


def test_unknown_symbols_and_repeated_names_are_refused():
    with pytest.raises(ValueError, match="got also"):
        _function(a * L, (a,))
    with pytest.raises(ValueError, match="distinct names"):
        render_module("A test.", [_function(a, (a,)), _function(a + 1, (a,))])
