"""Every figure computes, draws labelled axes, and its numbers say what the theory says."""

import json
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pytest

from linkern.figures import FIGURES


@pytest.fixture
def drawn(monkeypatch):
    """Compute, draw and close a figure by name; sampled networks and lists of depths are made small."""

    def draw(name):
        module = import_module(f"linkern.figures.{name}")
        small = {
            "overlaps_by_layer": {"_sizes": lambda quick: (16, 20, 40), "DEPTH": 8},
            "kernels_by_layer": {"_sizes": lambda quick: ((24, 48), 20, 40)},
            "branches": {"PHASE_DEPTHS": (2,)},
        }
        for attribute, value in small.get(name, {}).items():
            monkeypatch.setattr(module, attribute, value)
        arrays = module.compute(True, np.random.default_rng(0))
        figure = module.draw(arrays)
        numbers = module.numbers(arrays)
        json.dumps(numbers, allow_nan=False)
        axes = figure.get_axes()
        plt.close(figure)
        return arrays, numbers, axes

    return draw


def test_registry_is_complete():
    for name in FIGURES:
        module = import_module(f"linkern.figures.{name}")
        assert module.TITLE
        assert module.SOURCE


def test_overlap_scaling(drawn):
    _, numbers, axes = drawn("overlap_scaling")
    assert all(ax.get_xlabel() for ax in axes)
    assert max(numbers["lazy_deviation_at_smallest_gamma0"]) < 2e-2
    leading = np.array(numbers["rich_deviation_at_largest_gamma0"])
    assert (np.array(numbers["rich_corrected_deviation_at_largest_gamma0"]) < leading).all()


def test_branches(drawn):
    arrays, numbers, axes = drawn("branches")
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)
    # At L = 2 the critical saturation is (4 - sqrt(13))/3; beta_c = s/(1+a)^2 with a = (1+s)/(1-3s).
    s = (4 - np.sqrt(13)) / 3
    a = (1 + s) / (1 - 3 * s)
    assert numbers["critical_beta_and_gamma0"]["2"][0] == pytest.approx(s / (1 + a) ** 2, rel=1e-9)
    below, above = numbers["overlap_jumps_from_to"]
    assert above / below > 10
    assert arrays["branch_rows"].shape[1] == 5


def test_rescaling_digits(drawn):
    pytest.importorskip("sklearn")
    _, numbers, axes = drawn("rescaling_digits")
    assert numbers["adaptive_minus_rescaled"] < 1e-9
    assert numbers["closed_form_minus_rescaled"] < 1e-10
    assert numbers["lazy_minus_rescaled"] > 0.1
    assert numbers["alignment_at_largest_gamma0"][-1] > numbers["alignment_at_largest_gamma0"][0] + 0.2
    assert sum(bool(ax.get_xlabel()) for ax in axes) == 2


def test_overlaps_by_layer(drawn):
    arrays, numbers, (ax,) = drawn("overlaps_by_layer")
    assert ax.get_yscale() == "log"
    growth = arrays["theory"][:, 1:] / arrays["theory"][:, :-1]
    np.testing.assert_allclose(growth, np.repeat(growth[:, :1], growth.shape[1], axis=1), rtol=1e-12)
    assert numbers["last_overlap_network"][-1] == pytest.approx(numbers["last_overlap_theory"][-1], rel=0.5)


def test_kernels_by_layer(drawn):
    arrays, numbers, axes = drawn("kernels_by_layer")
    assert arrays["theory"].shape == (8, 8, 8)
    assert arrays["network"].shape == (2, 8, 8, 8)
    assert len(axes) == 3 * 5 + 5
    assert np.max(numbers["relative_distance_by_layer"]) < 0.6
