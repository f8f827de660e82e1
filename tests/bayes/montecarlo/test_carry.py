"""Weights that make samples carry a kernel: the constraint, what no other weights do better, and edges."""

import numpy as np
import pytest

from linkern.bayes.montecarlo.carry import carry


def samples(S=4000, P=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((S, P)) @ rng.standard_normal((P, P))


def average(phi, w):
    return (phi * w[:, None]).T @ phi


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_carry_the_kernel_and_change_least(dtype):
    phi = samples()
    target = average(phi, np.full(len(phi), 1 / len(phi)))
    target = target + 0.05 * np.outer(target[0], target[0]) / target[0, 0]
    w, error = carry(phi.astype(dtype), target)
    assert w.sum() == pytest.approx(1)
    assert (w > 0).all()
    assert error < 2e-3
    np.testing.assert_allclose(average(phi, w), target, atol=3e-3 * target.max())
    # Least change: log w is a constant and a quadratic form of phi, nothing else.
    forms = np.stack([np.ones(len(phi)), *(phi[:, i] * phi[:, j] for i in range(3) for j in range(i + 1))], axis=1)
    residual = np.log(w) - forms @ np.linalg.lstsq(forms, np.log(w), rcond=None)[0]
    assert np.abs(residual).max() < 1e-4
    assert np.log(w).std() > 0.01


def test_what_is_carried_already_needs_no_weights():
    phi = samples(seed=1)
    w, error = carry(phi, average(phi, np.full(len(phi), 1 / len(phi))))
    np.testing.assert_allclose(w * len(phi), 1, atol=1e-6)
    assert error < 1e-9


def test_directions_that_the_kernel_does_not_have_are_left_alone():
    phi = np.hstack([samples(P=2, seed=2), np.zeros((4000, 1))])
    target = 1.03 * average(phi, np.full(len(phi), 1 / len(phi)))
    w, error = carry(phi, target)
    assert error < 2e-3
    np.testing.assert_allclose(average(phi, w), target, atol=3e-3 * target.max())


def test_error_tells_what_weights_cannot_carry():
    phi = np.array([[1.0], [1.1], [0.9]])
    assert carry(phi, np.array([[4.0]])).error > 0.5


@pytest.mark.parametrize("columns", [1, 2])
def test_columns_are_carried_by_samples_too_few_for_the_kernel(columns):
    S, P = 400, 40
    phi = samples(S, P, seed=3)
    rng = np.random.default_rng(4)
    F = rng.standard_normal((P, columns))
    target = average(phi, np.full(S, 1 / S))
    target = target + 0.02 * np.outer(target @ F[:, 0], target @ F[:, 0]) / (F[:, 0] @ target @ F[:, 0])
    # 820 entries of a symmetric matrix are more than 400 weights can carry.
    assert carry(phi, target).error > 5e-3
    w, error = carry(phi, target, F)
    assert error < 2e-3
    assert (w > 0).all()
    np.testing.assert_allclose(average(phi, w) @ F, target @ F, atol=5e-3 * np.abs(target @ F).max())
    # Least change: log w is a constant and (phi . b)(phi . F), summed over columns.
    forms = np.hstack([np.ones((S, 1)), *(phi * (phi @ F[:, [k]]) for k in range(columns))])
    residual = np.log(w) - forms @ np.linalg.lstsq(forms, np.log(w), rcond=None)[0]
    assert np.abs(residual).max() < 1e-6
    assert np.log(w).std() > 0.01


def test_rounding_of_single_precision_is_no_direction():
    phi = samples(P=2, seed=5).astype(np.float32)
    phi = np.hstack([phi, -phi])
    noise = np.random.default_rng(6).standard_normal((4, 4)) * 1e-9
    w, error = carry(phi, 1.02 * average(phi.astype(float), np.full(len(phi), 1 / len(phi))) + noise + noise.T)
    assert error < 2e-3
    assert w.max() < 3 / len(w)


def test_columns_that_the_kernel_does_not_reach_need_no_weights():
    phi = np.hstack([samples(P=2, seed=7), np.zeros((4000, 1))])
    w, error = carry(phi, 1.1 * average(phi, np.full(len(phi), 1 / len(phi))), np.array([[0.0], [0.0], [1.0]]))
    np.testing.assert_array_equal(w, 1 / len(phi))
    assert error == 0
