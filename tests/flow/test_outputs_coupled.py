"""Coupled outputs trained with weight decay: against training, proximal gradients, dual certificates, and descent on J."""

import numpy as np
import pytest
from scipy.optimize import minimize

from linkern.bayes import Spectrum
from linkern.flow import march, solve_fixed_point_outputs
from linkern.solution import Status


def task(seed=0, points=5, inputs=8, outputs=2):
    r = np.random.default_rng(seed)
    return r.standard_normal((points, inputs)), r.standard_normal((points, outputs))


def proximal(C, Y, strength):
    """min 1/2 |Y - C^{1/2} Z|^2 + strength |Z|_* by accelerated proximal gradients; returns F = C^{1/2} Z."""
    lam, U = np.linalg.eigh(C)
    root = (U * np.sqrt(lam)) @ U.T
    Z = W = np.zeros_like(Y)
    momentum = 1.0
    for _ in range(20000):
        u, s, v = np.linalg.svd(W - root @ (root @ W - Y) / lam[-1], full_matrices=False)
        new = (u * np.maximum(s - strength / lam[-1], 0)) @ v
        following = 1.0 if ((W - new) * (new - Z)).sum() > 0 else (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        W = new + (momentum - 1) / following * (new - Z)
        Z, momentum, change = new, following, np.abs(new - Z).max()
        if change < 1e-15:
            break
    return root @ Z


@pytest.mark.parametrize(("outputs", "decay", "rank"), [(2, 0.1, 2), (3, 0.4, 3), (3, 1.2, 2), (3, 2.5, 1), (3, 9.0, 0)])
def test_two_layers_are_a_nuclear_norm_problem(outputs, decay, rank):
    X, Y = task(1, outputs=outputs)
    C, gamma0 = X @ X.T / 8, 1.3
    end = solve_fixed_point_outputs(X, Y, depth=1, gamma0=gamma0, weight_decay=decay)
    assert end.coupled
    assert end.certified
    assert end.stable
    assert end.status is Status.CONVERGED
    assert end.residual < 1e-10
    assert np.count_nonzero(end.amplitudes) == rank
    np.testing.assert_allclose(end.fitted, proximal(C, Y, decay / gamma0), atol=1e-11)
    # The dual certificate, typed in: C^{1/2} (Y - F) is feasible, and aligned with C^{-1/2} F.
    lam, U = np.linalg.eigh(C)
    root, inverse = (U * np.sqrt(lam)) @ U.T, (U / np.sqrt(lam)) @ U.T
    dual, Z = root @ (Y - end.fitted), inverse @ end.fitted
    assert np.linalg.norm(dual, 2) <= decay / gamma0 * (1 + 1e-10)
    nuclear = np.linalg.svd(Z, compute_uv=False).sum()
    assert (dual * Z).sum() == pytest.approx(decay / gamma0 * nuclear, rel=1e-10, abs=1e-12)
    assert end.energy == pytest.approx(((Y - end.fitted) ** 2).sum() / 2 + decay / gamma0 * nuclear, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_training_ends_there(depth):
    X, Y = task(2, points=4, inputs=6)
    Y, gamma0, decay = 0.7 * Y, 1.5, 0.3
    end = solve_fixed_point_outputs(X, Y, depth=depth, gamma0=gamma0, weight_decay=decay)
    assert end.coupled
    assert end.certified is (depth == 1)
    run = march(X, Y, depth=depth, gamma0=gamma0, steps=np.full(200, 0.05), weight_decay=decay)
    np.testing.assert_allclose(run.outputs[-1], end.fitted, atol=2e-3 if depth == 1 else 2e-6)
    np.testing.assert_allclose(run.feature_kernels(), end.feature_kernels(), atol=1e-2)
    np.testing.assert_allclose(run.gradient_kernels()[:, -1, :, -1], end.gradient_kernels(), atol=1e-2)
    new = np.random.default_rng(3).standard_normal((2, 6))
    np.testing.assert_allclose(run.predict(new)[-1], end.predict(new), atol=2e-3)


@pytest.mark.parametrize("depth", [2, 3])
def test_deep_fixed_points_are_minima_of_the_regularised_loss(depth):
    """Stationary for weights of real layers; no descent from nearby, and none from elsewhere, ends lower."""
    X, Y = task(3, points=4, inputs=6, outputs=2)
    gamma0, decay, width = 1.4, 0.3, 4
    lam, U = np.linalg.eigh(X @ X.T / 6)
    shapes = [(4, width), *[(width, width)] * (depth - 1), (width, 2)]
    ends = np.cumsum([np.prod(shape) for shape in shapes])

    def loss(flat):
        """1/2 |Y - F|^2 + decay/(2 gamma0^2) sum |W|^2 with gamma0 F = C^{1/2} W_0 .. W_L, and its gradient."""
        W = [piece.reshape(shape) for piece, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
        left = [U * np.sqrt(lam) / gamma0]
        for matrix in W:
            left.append(left[-1] @ matrix)
        error = left[-1] - Y
        right, gradients = error, []
        for below, matrix in zip(left[-2::-1], W[::-1], strict=True):
            gradients.append((below.T @ right + decay / gamma0**2 * matrix).ravel())
            right = right @ matrix.T
        return (error**2).sum() / 2 + decay / (2 * gamma0**2) * (flat**2).sum(), np.concatenate(gradients[::-1])

    end = solve_fixed_point_outputs(X, Y, depth=depth, gamma0=gamma0, weight_decay=decay)
    everything = [end, *end.alternatives]
    assert {np.count_nonzero(point.amplitudes) for point in everything} >= {0, 1, 2}
    assert all(point.stable and point.status is Status.CONVERGED and not point.certified for point in everything)
    r = np.random.default_rng(0)
    for point in everything:
        # Balanced weights: W_l = V_l a^{1/2} V_{l+1}^T with the singular vectors of C^{-1/2} F at both ends.
        u, s, v = np.linalg.svd((U / np.sqrt(lam)).T @ point.fitted, full_matrices=False)
        s, u, v = s[s > 1e-12], u[:, s > 1e-12], v[s > 1e-12]
        root = (gamma0 * s) ** (1 / (depth + 1))
        inner = np.eye(width)[:, : len(s)]
        W = [(u * root) @ inner.T, *[(inner * root) @ inner.T] * (depth - 1), (inner * root) @ v]
        flat = np.concatenate([matrix.ravel() for matrix in W])
        value, gradient = loss(flat)
        assert value == pytest.approx(point.energy, rel=1e-10)
        assert np.abs(gradient).max() < 1e-9
        again = minimize(loss, flat + 0.02 * r.standard_normal(flat.size), jac=True, method="BFGS", options={"gtol": 1e-9})
        assert again.fun == pytest.approx(point.energy, rel=1e-8)
    best = solve_fixed_point_outputs(X, Y, depth=depth, gamma0=gamma0, weight_decay=decay, branch="global")
    assert best.energy == min(point.energy for point in everything)
    for _ in range(12):
        elsewhere = minimize(loss, r.standard_normal(ends[-1]), jac=True, method="BFGS", options={"gtol": 1e-8})
        assert elsewhere.fun > best.energy * (1 - 1e-10)


def test_weak_coupling_joins_the_decoupled_solution():
    """Nearly equal eigenvalues of C: the coupled solver meets the closed form of whitened data."""
    B = np.random.default_rng(4).standard_normal((4, 3))
    for depth in (1, 2):
        settings = {"depth": depth, "gamma0": 1.5, "weight_decay": 0.3}
        plain = solve_fixed_point_outputs(spectrum=Spectrum.from_modes(np.ones(4), B), **settings)
        bent = solve_fixed_point_outputs(spectrum=Spectrum.from_modes(1 + 1e-8 * np.arange(4.0), B), **settings)
        assert bent.coupled
        assert not plain.coupled
        np.testing.assert_allclose(bent.fitted, plain.fitted, atol=1e-6)
        assert bent.energy == pytest.approx(plain.energy, rel=1e-7)


def test_collapse_and_the_zero_branch():
    X, Y = task(5, points=5, inputs=3, outputs=3)  # labels partly out of reach
    collapsed = solve_fixed_point_outputs(X, Y, depth=2, gamma0=1.0, weight_decay=50.0)
    assert not collapsed.fitted.any()
    assert collapsed.alternatives == ()
    zero = solve_fixed_point_outputs(X, Y, depth=1, gamma0=1.0, weight_decay=0.05, branch="zero")
    assert not zero.fitted.any()
    assert not zero.stable
    assert zero.certified
    assert zero.alternatives[0].stable
    end = solve_fixed_point_outputs(X, Y, depth=1, gamma0=1.0, weight_decay=0.05)
    assert end.alternatives[0].energy == zero.energy
    assert end.energy < zero.energy == pytest.approx((Y**2).sum() / 2)
    lazy = solve_fixed_point_outputs(X, Y, depth=1, gamma0=0.0, weight_decay=0.05)
    assert not lazy.fitted.any()
