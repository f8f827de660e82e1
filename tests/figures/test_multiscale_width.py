"""The figures of finite width compute, draw labelled axes, and their numbers say what the theory says."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from linkern.figures import multiscale_discrepancy, multiscale_width


def test_figure_of_finite_width(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(multiscale_width, "_sizes", lambda quick: (3, 60, 8))
    arrays = multiscale_width.compute(True, np.random.default_rng(0))
    figure = multiscale_width.draw(arrays)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.get_axes())
    plt.close(figure)
    numbers = multiscale_width.numbers(arrays)
    json.dumps(numbers, allow_nan=False)
    for method, order in zip(multiscale_width.METHODS[1:], (1, 2, 1, 2), strict=True):
        assert numbers["slopes_in_width"][method] == pytest.approx(order, abs=0.1)
    for ratios in numbers["network_error_over_floor"].values():
        assert max(ratios) < 2.5
    bulk, rescaling = numbers["bulk_and_rescaling_at_largest_chi"]
    assert bulk == pytest.approx(1, abs=0.05)
    assert rescaling > 3


def test_discrepancies_of_theories_and_networks(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(multiscale_discrepancy, "_sizes", lambda quick: (4, 2, 100, 8))
    arrays = multiscale_discrepancy.compute(True, np.random.default_rng(0))
    figure = multiscale_discrepancy.draw(arrays)
    assert all(ax.get_ylabel() for ax in figure.get_axes())
    plt.close(figure)
    numbers = multiscale_discrepancy.numbers(arrays)
    json.dumps(numbers, allow_nan=False)
    for name in multiscale_discrepancy.TASKS:
        apart = numbers[f"largest_relative_distance_{name}"]
        assert apart["exact"] == 0
        assert apart["one-loop"] < apart["tree"] < apart["NNGP"]
        assert np.abs(numbers[f"networks_z_{name}"]).max() < 4
