"""The figures of Bayesian test losses compute, draw labelled axes, and theory and networks say the same."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from linkern.figures import bayes_test_loss, bayes_width


def test_losses_densities_and_kernels(monkeypatch):
    pytest.importorskip("sklearn")
    # Networks so wide that what is left of order 1/N does not show: with N = 64 it is 4.9 to 5.1 errors.
    monkeypatch.setattr(bayes_test_loss, "_sizes", lambda quick: ((10,), 10, 2, 0.03, 400, 128, 16))
    arrays = bayes_test_loss.compute(True, np.random.default_rng(0))
    figure = bayes_test_loss.draw(arrays)
    assert sum(bool(ax.get_ylabel()) for ax in figure.get_axes()) == 4
    plt.close(figure)
    numbers = bayes_test_loss.numbers(arrays)
    json.dumps(numbers, allow_nan=False)
    assert numbers["share_of_draws_converged"] == [1.0]
    # The NNGP has the mean of the NNGPK and a variance on top.
    assert numbers["loss"]["NNGP"][0] > numbers["loss"]["NNGPK"][0]
    assert all(0 < loss[0] < 1 for loss in numbers["loss"].values())
    lazy, adapted = arrays["kernels"]
    # <max(h, 0)^2> = 1/2 for h ~ N(0, 1), the images having unit length.
    np.testing.assert_allclose(np.diag(lazy), 0.5, rtol=1e-12)
    sign = np.repeat([1.0, -1.0], 5)
    assert numbers["overlap_lazy_and_adapted"] == pytest.approx([sign @ K @ sign / 10 for K in (lazy, adapted)])
    assert numbers["overlap_lazy_and_adapted"][1] > 2 * numbers["overlap_lazy_and_adapted"][0]
    assert numbers["largest_deviation_from_aNBK_in_errors"] < 5
    assert numbers["total_variation_of_networks_from_aNBK"][0] < numbers["total_variation_of_networks_from_lazy"][0] * 0.6
    np.testing.assert_allclose(np.trapezoid(arrays["density"], arrays["points"]), 1, atol=1e-9)


def test_losses_over_width(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(bayes_width, "_sizes", lambda quick: ((8, 128), 3, 40, 0.02))
    monkeypatch.setattr(bayes_width, "POINTS", 10)
    arrays = bayes_width.compute(True, np.random.default_rng(0))
    figure = bayes_width.draw(arrays)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.get_axes())
    plt.close(figure)
    numbers = bayes_width.numbers(arrays)
    json.dumps(numbers, allow_nan=False)
    assert numbers["theory_converged"]
    for name, allowed in (("loss of the mean", 0.02), ("loss", 0.1), ("overlap", 0.08)):
        found = numbers["fixed"][name]
        # Four standard errors and what is left of order 1/N.
        error = 4 * np.hypot(found["errors"][1], found["limit_and_error"][1])
        assert error < 0.1 * found["limit_and_error"][0]
        assert abs(found["networks"][1] / found["limit_and_error"][0] - 1) < allowed + error / found["limit_and_error"][0]
    # Losses with variance fall towards their limits, overlaps of the standard scaling towards the lazy kernel's.
    for scaling, name in (("fixed", "loss"), ("standard", "loss"), ("standard", "overlap")):
        found = numbers[scaling][name]
        assert found["networks"][0] > found["networks"][1] > found["limit_and_error"][0]
