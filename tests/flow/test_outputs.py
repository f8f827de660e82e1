"""Several outputs trained with weight decay: against the exact march to the end, and against gradient descent on J."""

import numpy as np
import pytest

from linkern.bayes import Spectrum
from linkern.flow import march, solve_fixed_point, solve_fixed_point_outputs


def whitened(seed=0):
    r = np.random.default_rng(seed)
    return np.linalg.qr(r.standard_normal((4, 4)))[0] * 2, r.standard_normal((4, 3))  # C = I


@pytest.mark.parametrize("depth", [1, 2])
def test_whitened_data_against_training(depth):
    X, Y = whitened()
    np.testing.assert_allclose(X @ X.T / 4, np.eye(4), atol=1e-14)
    end = solve_fixed_point_outputs(X, Y, depth=depth, gamma0=1.5, weight_decay=0.4)
    run = march(X, Y, depth=depth, gamma0=1.5, steps=np.full(160, 0.08), weight_decay=0.4)
    np.testing.assert_allclose(run.outputs[-1], end.fitted, atol=2e-4)
    np.testing.assert_allclose(run.feature_kernels(), end.feature_kernels(), atol=2e-3)
    np.testing.assert_allclose(run.gradient_kernels()[:, -1, :, -1], end.gradient_kernels(), atol=2e-3)
    left, values, right = np.linalg.svd(Y, full_matrices=False)
    for u, s, v in zip(left.T, values, right, strict=True):
        one = solve_fixed_point(X, s * u, depth=depth, gamma0=1.5, weight_decay=0.4)
        np.testing.assert_allclose(end.fitted @ v, one.fitted, atol=1e-12)
    np.testing.assert_allclose(end.predict(X), end.fitted, atol=1e-12)
    assert end.residual < 1e-12


def test_labels_of_rank_one_and_separate_eigenspaces():
    r = np.random.default_rng(1)
    X, y, v = r.standard_normal((5, 3)), r.standard_normal(5), np.array([0.6, 0.8])
    end = solve_fixed_point_outputs(X, np.outer(y, v), depth=2, gamma0=2.0, weight_decay=0.2)
    one = solve_fixed_point(X, y, depth=2, gamma0=2.0, weight_decay=0.2)
    np.testing.assert_allclose(end.fitted, np.outer(one.fitted, v), atol=1e-12)
    np.testing.assert_allclose(end.feature_kernels()[2], one.kernels[2].dense(), atol=1e-12)
    assert end.energy == pytest.approx(one.energy, rel=1e-12)
    B = np.array([[0.5, 0.0], [0.0, 1.0], [0.0, 0.7]])
    apart = solve_fixed_point_outputs(spectrum=Spectrum.from_modes([0.3, 1.0, 2.0], B), depth=1, gamma0=2.0, weight_decay=0.1)
    for o in (0, 1):
        alone = solve_fixed_point(spectrum=Spectrum.from_modes([0.3, 1.0, 2.0], B[:, o]), depth=1, gamma0=2.0, weight_decay=0.1)
        np.testing.assert_allclose(apart.fitted[:, o], alone.fitted, atol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="branch: expected"):
        solve_fixed_point_outputs(np.eye(3), np.eye(3), depth=2, gamma0=1.0, weight_decay=0.1, branch="best")


def test_no_labels():
    end = solve_fixed_point_outputs(np.eye(3), np.zeros((3, 2)), depth=2, gamma0=1.0, weight_decay=0.1)
    assert not end.fitted.any()
