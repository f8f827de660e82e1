"""First order in gamma0^2 with several outputs: against differences of the exact march, one output, and rotations of outputs."""

import numpy as np
import pytest

from linkern.flow import gradient_flow, leading_perturbation


def task(seed=0, points=4, inputs=6, outputs=3):
    r = np.random.default_rng(seed)
    Y = r.standard_normal((points, outputs))
    return r.standard_normal((points, inputs)), Y / np.linalg.norm(Y)


@pytest.mark.parametrize("depth", [1, 3])
def test_differences_of_the_exact_march(depth):
    X, Y = task(outputs=2)
    new = np.random.default_rng(5).standard_normal((2, 6))
    times, small = np.linspace(0, 0.6, 17), 0.02
    runs = [
        [solver(X, Y, depth=depth, times=times, gamma0=strength**0.5) for strength in (1e-12, small, 2 * small)]
        for solver in (gradient_flow, leading_perturbation)
    ]
    for read in (
        lambda run: run.outputs[::4],
        lambda run: run.predict(new)[::4],
        lambda run: run.gradient_kernels()[:, 8, :, ::4],
        lambda run: run.feature_kernels(-1, 8),
        lambda run: run.feature_kernels(8, X_new=new),
        lambda run: run.tangent_kernel(-1),
        lambda run: run.tangent_kernel(-1, X_new=new),
        lambda run: run.losses,
    ):
        # d/d(gamma0^2) at 0, from two strengths beside it.
        values = [[read(run) for run in kind] for kind in runs]
        exact, found = ((4 * (one - none) - (two - none)) / (2 * small) for none, one, two in values)
        assert found.shape == exact.shape
        assert np.abs(exact).max() > 1e-3
        np.testing.assert_allclose(found, exact, atol=2e-2 * np.abs(exact).max())


def test_loss_and_residual():
    X, Y = task(1)
    run = leading_perturbation(X, Y, depth=2, gamma0=0.5, times=[0.0, 0.3, 2.0])
    assert run.residual < 1e-11
    assert run.leading_errors.shape == run.error_slope.shape == (3, 4, 3)
    np.testing.assert_allclose(run.outputs, Y - run.leading_errors - 0.25 * run.error_slope, atol=1e-13)
    loss, slope = run.loss_expansion()
    np.testing.assert_allclose(loss, (run.leading_errors**2).sum(axis=(1, 2)) / 2)
    np.testing.assert_allclose(slope, (run.leading_errors * run.error_slope).sum(axis=(1, 2)))


def test_labels_of_rank_one_and_rotations():
    X, Y = task(2)
    settings = {"depth": 2, "gamma0": 0.7, "times": np.linspace(0, 2, 9)}
    v = np.array([0.6, 0.0, 0.8])
    one = leading_perturbation(X, Y[:, 0], **settings)
    wide = leading_perturbation(X, np.outer(Y[:, 0], v), **settings)
    np.testing.assert_allclose(wide.outputs, one.outputs[:, :, None] * v, atol=1e-13)
    np.testing.assert_allclose(wide.feature_kernels(), one.feature_kernels(), atol=1e-13)
    np.testing.assert_allclose(np.einsum("ltcsd,c,d->lts", wide.gradient_kernels(), v, v), one.gradient_kernels(), atol=1e-12)
    assert wide.correction == pytest.approx(one.correction)
    column = leading_perturbation(X, Y[:, :1], **settings)
    np.testing.assert_allclose(column.outputs[:, :, 0], one.outputs, atol=1e-14)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    plain, turned = (leading_perturbation(X, labels, **settings) for labels in (Y, Y @ turn))
    np.testing.assert_allclose(turned.outputs, plain.outputs @ turn, atol=1e-13)
    K = np.einsum("mipj,ia,jb->mapb", plain.tangent_kernel(), turn, turn)
    np.testing.assert_allclose(turned.tangent_kernel(), K, atol=1e-12)
    silent = leading_perturbation(X, 0 * Y, **settings)
    assert not silent.outputs.any()
