"""Phase diagrams: closed forms for whitened data, exact counts on both sides of every line, equal actions on it."""

import math

import numpy as np
import pytest
import sympy as sp

from linkern.bayes import Spectrum, phase_diagram, solve_linear, solve_whitened

THREE_MODES = Spectrum.from_modes(
    [1.0, 1.6888746e-05, 1.5789732e-10], [0.000146337, 3.3195457, 0.169379122]
)  # up to seven solutions


@pytest.mark.parametrize("depth", [2, 3, 4, 7, 30, 200])
def test_critical_point_of_whitened_data(depth):
    (point,) = phase_diagram(depth, betas=[1.0]).critical_points
    s = (depth - 1) / (2 * depth + math.sqrt(3 * depth**2 + 1))
    A = (1 + s) / ((depth - 1) - (depth + 1) * s)
    k = (1 + A) ** depth
    np.testing.assert_allclose([point.charge, point.rescaling, point.beta], [A, k, s / k], rtol=1e-11)
    np.testing.assert_allclose(point.gamma0, np.sqrt(A * k) * (1 + s) / s, rtol=1e-11)
    assert point.stable


@pytest.mark.parametrize(("depth", "T"), [(2, 100.0), (2, 1000.0), (3, 100.0), (3, 1000.0), (9, 40.0)])
def test_windows_of_whitened_data_by_exact_root_counting(depth, T):
    """Three solutions strictly inside the window, one outside, by Sturm's theorem; equal actions on the line."""
    (window,) = phase_diagram(depth, betas=[1 / T]).windows
    A = sp.Symbol("A")
    k = (1 + A) ** depth

    def count(gamma0: float) -> int:
        exact = sp.Rational(float(gamma0)) ** 2
        return sp.Poly(sp.expand(A * (k + sp.Rational(T)) ** 2 - exact * k), A).count_roots(0, None)

    low, high = window.gamma0_lower, window.gamma0_upper
    assert [count(low * (1 - 1e-9)), count(low * (1 + 1e-9)), count(high * (1 - 1e-9)), count(high * (1 + 1e-9))] == [1, 3, 3, 1]
    at = solve_whitened(window.gamma0_transition, 1 / T, depth)
    np.testing.assert_allclose(at.lazy.action, at.rich.action, rtol=1e-13)
    np.testing.assert_allclose([at.lazy.overlap, at.rich.overlap], [window.rescaling_lazy, window.rescaling_rich], rtol=1e-9)
    below, above = (solve_whitened(window.gamma0_transition * f, 1 / T, depth) for f in (1 - 1e-6, 1 + 1e-6))
    assert below.overlap == below.lazy.overlap
    assert above.overlap == above.rich.overlap
    assert window.is_global


def test_coexistence_starts_at_the_critical_temperature():
    """L = 2 is bistable at 1/beta = 100 because its critical temperature is 62.58."""
    critical = phase_diagram(2).critical_points[0].beta
    np.testing.assert_allclose(1 / critical, 62.5814443873, rtol=1e-10)
    assert phase_diagram(2, betas=[critical * 1.001]).windows == ()
    (window,) = phase_diagram(2, betas=[critical * 0.999]).windows
    assert window.gamma0_lower < window.gamma0_transition < window.gamma0_upper < window.gamma0_lower * 1.001


@pytest.mark.parametrize("depth", [2, 3, 5, 20])
def test_small_beta_limit_of_the_lazy_spinodal(depth):
    (window,) = phase_diagram(depth, betas=[1e-9]).windows
    limit = (depth - 1) ** (depth - 1) / depth**depth
    np.testing.assert_allclose((window.gamma0_upper * 1e-9) ** 2, limit, rtol=1e-6)
    np.testing.assert_allclose(window.rescaling_upper, (depth / (depth - 1)) ** depth, rtol=1e-6)


def test_one_hidden_layer_is_unique():
    diagram = phase_diagram(1)
    assert diagram.windows == diagram.critical_points == ()
    assert phase_diagram(1, betas=[1e-3]).windows == ()


def test_default_grid_and_columns():
    diagram = phase_diagram(4)
    assert diagram.certified
    assert len(diagram.windows) == diagram.betas.size == 60
    lower, transition, upper = (diagram.column(f"gamma0_{name}") for name in ("lower", "transition", "upper"))
    assert (lower < transition).all()
    assert (transition < upper).all()
    np.testing.assert_array_equal(diagram.column("beta"), diagram.betas)


def solutions(spectrum, gamma0, beta, depth, **parameters):
    solution = solve_linear(spectrum=spectrum, depth=depth, gamma0=gamma0, beta=beta, **parameters)
    assert solution.certified
    return solution


@pytest.mark.parametrize("seed", range(6))
def test_general_spectra_unequal_widths_and_scales(seed):
    """On both sides of both spinodals the number of solutions differs by two; on the line actions agree."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(2, 8))
    lam, b = 7.0 * 10 ** rng.uniform(-3, 0, 5), 3.0 * rng.standard_normal(5)
    parameters = {"widths": rng.uniform(0.5, 2, depth), "prior_variances": rng.uniform(0.5, 2, depth + 1)}
    spectrum = Spectrum.from_modes(lam, b)
    critical = phase_diagram(depth, spectrum=spectrum, betas=[1.0], **parameters).critical_points
    beta = 0.1 * max(point.beta for point in critical if point.stable)
    diagram = phase_diagram(depth, spectrum=spectrum, betas=[beta], **parameters)
    assert diagram.certified
    assert diagram.windows
    for window in diagram.windows:
        for edge, inside in ((window.gamma0_lower, 1), (window.gamma0_upper, -1)):
            counts = [
                len(solutions(spectrum, edge * (1 + side * 1e-7), beta, depth, **parameters).branches)
                for side in (-inside, inside)
            ]
            assert counts[1] == counts[0] + 2
        at = solutions(spectrum, window.gamma0_transition, beta, depth, **parameters)
        least = sorted(branch.action for branch in at.branches)[:2]
        assert window.is_global
        np.testing.assert_allclose(*least, rtol=1e-12)


def test_two_transitions_and_four_stable_branches():
    depth, beta = 8, 1 / 2318.9218369806536
    diagram = phase_diagram(depth, spectrum=THREE_MODES, betas=[beta])
    assert len(diagram.windows) == 3
    assert [window.is_global for window in diagram.windows] == [True, False, True]
    assert sum(point.stable for point in diagram.critical_points) == 2
    for window in diagram.windows:
        middle = math.sqrt(window.gamma0_lower * window.gamma0_upper)
        assert len(solutions(THREE_MODES, middle, beta, depth).branches) >= 3
    both = solutions(THREE_MODES, 4000.0, beta, depth)
    assert len(both.branches) == 5
    assert [branch.stable for branch in both.branches] == [True, False, True, False, True]


def test_bad_input():
    with pytest.raises(ValueError, match="depth: expected an integer >= 1"):
        phase_diagram(0)
    with pytest.raises(ValueError, match="betas: expected numbers > 0"):
        phase_diagram(2, betas=[-1.0])
    with pytest.raises(ValueError, match="spectrum: expected one output"):
        phase_diagram(2, spectrum=Spectrum.from_modes([1.0, 2.0], np.eye(2)))
    with pytest.raises(ValueError, match="spectrum: expected labels that the kernel can fit"):
        phase_diagram(2, spectrum=Spectrum.from_modes([1.0, 2.0], [0.0, 0.0]))
    with pytest.raises(ValueError, match="widths: expected one number or 2"):
        phase_diagram(2, widths=[1.0, 2.0, 3.0])
