"""The figures of sampled kernels compute, draw labelled axes, and networks in them agree with the theory."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from linkern.figures import bayes_alignment, bayes_densities


def drawn(module, arrays):
    figure = module.draw(arrays)
    assert all(ax.get_xlabel() for ax in figure.get_axes()[-1:])
    plt.close(figure)
    numbers = module.numbers(arrays)
    json.dumps(numbers, allow_nan=False)
    return numbers


def test_alignments_and_restarts(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(bayes_alignment, "_sizes", lambda quick: (2, 6, 0.03, (64, 192), 20))
    monkeypatch.setattr(bayes_alignment, "_restarts", lambda quick: (64, 8, 0.3))
    monkeypatch.setattr(bayes_alignment, "STRENGTHS", (1.0,))
    numbers = drawn(bayes_alignment, bayes_alignment.compute(True, np.random.default_rng(0)))
    for activation in bayes_alignment.ACTIVATIONS:
        found = numbers[activation]
        assert all(found["converged"])
        assert np.max(found["theory_error"]) < 0.02
        assert np.abs(found["standard_errors_apart"]).max() < 4
        # Features were learned: the last layer left the lazy limit.
        assert found["theory"][0][-1] > found["lazy"][-1] + 0.1
    rest = np.mean(numbers["restart"]["distance_none"])
    forgotten = numbers["restart"]["distance_forget"]
    assert np.mean(forgotten[0]) > 2.5 * rest
    assert np.mean(forgotten[-1]) < 1.8 * rest


def test_densities_and_predictions(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(bayes_densities, "_sizes", lambda quick: (6, 0.03, 128, 16))
    monkeypatch.setattr(bayes_densities, "_scatter_sizes", lambda quick: (8, 0.03, 128))
    monkeypatch.setattr(bayes_densities, "ACTIVATIONS", ("tanh",))
    numbers = drawn(bayes_densities, bayes_densities.compute(True, np.random.default_rng(0)))
    for activation in bayes_densities.ACTIVATIONS:
        lazy, rich = (numbers[f"{activation}_{gamma0:g}"] for gamma0 in bayes_densities.STRENGTHS)
        assert lazy["converged"]
        assert rich["converged"]
        assert lazy["moments_theory"][1] == pytest.approx(3, abs=0.2)
        assert abs(rich["moments_theory"][1] - 3) > 0.5
        assert max(lazy["mean_square_z_of_histogram"], rich["mean_square_z_of_histogram"]) < 3
    apart = numbers["predictions"]["rms_from_networks"]
    assert apart["aNBK"] < apart["NNGPK"] / 2
